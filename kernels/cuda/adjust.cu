/* Step 1 of the sampling rule: what was seen, and how that moves the logits. */
#include "kernels/cuda/types.cuh"

enum { IN_PROMPT = 1 << 15, HAS_BIAS = 1 << 14, TIMES = HAS_BIAS - 1 };
enum { THREADS = 256, COLS = 8192 /* of a row that a block adjusts */ };

__device__ uint16_t counted(uint16_t count, enum phx_count_kind kind)
{
    if (kind == PHX_COUNT_PROMPT) return (uint16_t)(count | IN_PROMPT);
    if (kind == PHX_COUNT_BIAS) return (uint16_t)(count | HAS_BIAS);
    return (count & TIMES) < TIMES ? (uint16_t)(count + 1) : count;
}

/* Several rows may mark the same token. */
__global__ void count_tokens(const int32_t *ids, const int32_t *last_ids, const int32_t *slots,
                             int32_t vocab_begin, enum phx_count_kind kind, unsigned short *counts,
                             int64_t stride, int64_t cols, int64_t n_ids)
{
    const int64_t n = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    wait_for_predecessor();
    if (n >= n_ids || slots[n] < 0) return;
    const int64_t col = (int64_t)token_at(ids, last_ids, n) - vocab_begin;
    if (col < 0 || col >= cols) return;
    unsigned short *count = counts + slots[n] * stride + col, seen = *count, expected;
    do {
        expected = seen;
        seen = atomicCAS(count, expected, counted(expected, kind));
    } while (seen != expected);
}

extern "C" enum phx_status phx_cuda_count_tokens(struct phx_stream *stream,
                                                 const struct phx_count_tokens *args)
{
    PHX_TRY(phx_cuda_use(stream->device));
    return launch(stream, "count_tokens", {(unsigned)ceil_div(args->ids.rows, THREADS), THREADS},
                  count_tokens, address_of<const int32_t>(args->ids),
                  address_of<const int32_t>(args->last_ids), address_of<const int32_t>(args->slots),
                  args->vocab_begin, args->kind, address_of<unsigned short>(args->counts),
                  args->counts.stride, args->counts.cols, args->ids.rows);
}

struct adjust_args {
    const float *logits;
    int64_t logits_stride;
    const int32_t *slots;
    int32_t vocab_begin;
    const char *params;
    int64_t params_stride;
    const uint16_t *counts;
    int64_t counts_stride;
    const int32_t *bias_ids;
    int64_t bias_ids_stride;
    const float *bias_values;
    int64_t bias_values_stride;
    float *adjusted;
    int64_t adjusted_stride;
    int64_t cols;
};

/* Every operation rounded by itself, as on the CPU. */
__device__ float penalised(const struct phx_sampling *p, uint16_t count, float z)
{
    const int times = count & TIMES;
    if (times != 0 || (count & IN_PROMPT) != 0)
        z = z > 0 ? __fdiv_rn(z, p->repeat_penalty) : __fmul_rn(z, p->repeat_penalty);
    if (times != 0)
        z = __fsub_rn(
            z, __fadd_rn(p->presence_penalty, __fmul_rn(p->frequency_penalty, (float)times)));
    return z;
}

__global__ void __launch_bounds__(THREADS) adjust(struct adjust_args a)
{
    const int64_t m = blockIdx.x, begin = (int64_t)blockIdx.y * COLS;
    const int64_t end = begin + COLS < a.cols ? begin + COLS : a.cols;
    wait_for_predecessor();
    const int32_t slot = a.slots[m];
    const float *logits = a.logits + m * a.logits_stride;
    float *z = a.adjusted + m * a.adjusted_stride;
    const struct phx_sampling *p =
        slot >= 0 ? (const struct phx_sampling *)(a.params + slot * a.params_stride) : NULL;
    const bool penalties = p != NULL && (p->repeat_penalty != 1 || p->presence_penalty != 0 ||
                                         p->frequency_penalty != 0);
    const uint16_t *counts = penalties ? a.counts + slot * a.counts_stride : NULL;
    for (int64_t c = begin + threadIdx.x; c < end; c += THREADS)
        z[c] = penalties ? penalised(p, counts[c], logits[c]) : logits[c];
    if (p == NULL || p->n_bias == 0) return;

    __syncthreads();
    const int32_t *ids = a.bias_ids + slot * a.bias_ids_stride;
    const float *values = a.bias_values + slot * a.bias_values_stride;
    for (int32_t i = threadIdx.x; i < p->n_bias; i += THREADS) {
        const int64_t col = (int64_t)ids[i] - a.vocab_begin;
        if (col < begin || col >= end) continue;
        /* A token that comes again is added to by the thread of its first entry, in order. */
        bool first = true;
        for (int32_t j = 0; j < i; j++) first = first && ids[j] != ids[i];
        if (!first) continue;
        for (int32_t j = i; j < p->n_bias; j++)
            if (ids[j] == ids[i]) z[col] += values[j];
    }
}

extern "C" enum phx_status phx_cuda_adjust_logits(struct phx_stream *stream,
                                                  const struct phx_adjust_logits *args)
{
    const struct phx_sampling_table *t = &args->table;
    const struct adjust_args a = {address_of<const float>(args->logits),
                                  args->logits.stride,
                                  address_of<const int32_t>(args->slots),
                                  args->vocab_begin,
                                  address_of<const char>(t->params),
                                  t->params.stride,
                                  address_of<const uint16_t>(t->counts),
                                  t->counts.stride,
                                  address_of<const int32_t>(t->bias_ids),
                                  t->bias_ids.stride,
                                  address_of<const float>(t->bias_values),
                                  t->bias_values.stride,
                                  address_of<float>(args->adjusted),
                                  args->adjusted.stride,
                                  args->logits.cols};
    PHX_TRY(phx_cuda_use(stream->device));
    const dim3 grid((unsigned)args->logits.rows, (unsigned)ceil_div(a.cols, COLS));
    return launch(stream, "adjust", {grid, THREADS}, adjust, a);
}
