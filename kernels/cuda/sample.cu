/* Drawing tokens: from records a block a row, from all logits a cluster of blocks. */
#include "kernels/cuda/sample.cuh"

enum { THREADS = 1024, PICK_THREADS = 256, TEAM_BLOCKS = 8 };

/* The records of all ranks. */
struct record_tokens {
    const struct phx_candidate *items;
    int32_t n;

    __device__ bool value_at(int32_t i, float *value) const
    {
        *value = items[i].value;
        return items[i].id >= 0;
    }
};

/* log of the sum of exponentials over all shares. */
__device__ float log_sum(const struct phx_candidate *records, int32_t n_ranks, int32_t record_items)
{
    const struct phx_candidate *stats = records + record_items - 1;
    float max = -CUDART_INF_F, sum = 0;
    for (int32_t r = 0; r < n_ranks; r++) max = fmaxf(max, stats[(int64_t)r * record_items].value);
    for (int32_t r = 0; r < n_ranks; r++) {
        const struct phx_candidate share = stats[(int64_t)r * record_items];
        sum += share.value == max ? share.raw : share.raw * expf(share.value - max);
    }
    return max + logf(sum);
}

/* Where drawn tokens go. */
struct drawn {
    int32_t *ids;
    float *logprobs;
    int32_t *last_ids;

    __device__ void put(int64_t m, int32_t slot, int32_t id, float logprob) const
    {
        ids[m] = id;
        last_ids[slot] = id;
        logprobs[m] = logprob;
    }
};

__global__ void __launch_bounds__(PICK_THREADS)
    pick(const char *all_records, int64_t records_stride, int32_t n_ranks, int32_t record_items,
         const int32_t *slots, const char *params, int64_t params_stride, struct drawn out)
{
    __shared__ select_shared shared;
    const int64_t m = blockIdx.x;
    wait_for_predecessor();
    const int32_t slot = slots[m];
    if (slot < 0) return;
    const struct phx_candidate *records =
        (const struct phx_candidate *)(all_records + m * records_stride);
    const record_tokens tokens = {records, n_ranks * record_items};
    const int32_t best = sample_draw(
        tokens, *params_of(params, params_stride, slot),
        [=](int32_t i, float) { return records[i].noisy; }, shared);
    if (threadIdx.x != 0) return;
    out.put(m, slot, records[best].id, records[best].raw - log_sum(records, n_ranks, record_items));
}

extern "C" enum phx_status phx_cuda_sample_pick(struct phx_stream *stream,
                                                const struct phx_sample_pick *args)
{
    const struct drawn out = {address_of<int32_t>(args->ids), address_of<float>(args->logprobs),
                              address_of<int32_t>(args->last_ids)};
    PHX_TRY(phx_cuda_use(stream->device));
    return launch(stream, "pick", {(unsigned)args->records.rows, PICK_THREADS}, pick,
                  address_of<const char>(args->records), args->records.stride, args->n_ranks,
                  args->n_candidates + 1, address_of<const int32_t>(args->slots),
                  address_of<const char>(args->params), args->params.stride, out);
}

__global__ void __launch_bounds__(THREADS)
    full(const float *all_logits, int64_t logits_stride, const float *adjusted,
         int64_t adjusted_stride, int32_t cols, const int32_t *slots, const int32_t *positions,
         const char *params, int64_t params_stride, struct drawn out)
{
    __shared__ select_shared shared;
    const int64_t m = blockIdx.x / team_blocks();
    wait_for_predecessor();
    const int32_t slot = slots[m];
    if (slot < 0) return;
    const struct phx_sampling *p = params_of(params, params_stride, slot);
    const uint64_t key = phx_sample_key(p->seed, p->choice, positions[m]);
    const bool noise = p->temperature > 0;
    const row_tokens tokens = {adjusted + m * adjusted_stride, p->temperature, cols};
    const int32_t id = sample_draw(
        tokens, *p,
        [=](int32_t i, float value) { return noise ? sample_noisy(value, key, i) : value; },
        shared);
    const float *logits = all_logits + m * logits_stride;
    const struct phx_candidate stats = statistics(logits, cols, shared);
    if (team_thread() == 0) out.put(m, slot, id, logits[id] - log_sum(&stats, 1, 1));
}

extern "C" enum phx_status phx_cuda_sample_full(struct phx_stream *stream,
                                                const struct phx_sample_full *args)
{
    const struct drawn out = {address_of<int32_t>(args->ids), address_of<float>(args->logprobs),
                              address_of<int32_t>(args->last_ids)};
    const unsigned team = phx_cuda_device(stream)->starts_early ? TEAM_BLOCKS : 1;
    const struct launch_shape shape = {(unsigned)args->logits.rows * team, THREADS, 0, team};
    PHX_TRY(phx_cuda_use(stream->device));
    return launch(
        stream, "full", shape, full, address_of<const float>(args->logits), args->logits.stride,
        address_of<const float>(args->adjusted), args->adjusted.stride, (int32_t)args->logits.cols,
        address_of<const int32_t>(args->slots), address_of<const int32_t>(args->positions),
        address_of<const char>(args->params), args->params.stride, out);
}
