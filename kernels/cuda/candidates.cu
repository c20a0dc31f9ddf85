/* A share's best candidates. The best of a row are among the best of its slices: first a block for
 * each slice, then one for each row, which looks at what the slices left. */
#include "kernels/cuda/sample.cuh"

enum {
    THREADS = 256, /* of a slice; sorting wants a thread for each candidate */
    JOIN_THREADS = 512,
    MAX_SLICES = 64,
    SLICE_VALUES = 1024, /* a slice with fewer is not worth a block */
};

/* What a slice leaves; the ranks, [n_candidates], lie elsewhere. */
using slice_sum = phx_cuda_slice_sum;

/* A row ordered by value plus noise. */
struct noisy_tokens {
    row_tokens row;
    uint64_t key;
    int32_t first_id, n;

    __device__ bool value_at(int32_t i, float *value) const
    {
        row.value_at(i, value);
        if (row.temperature > 0) *value = sample_noisy(*value, key, first_id + i);
        return true;
    }
};

/* What the slices of a row left; in the order of slices, so that equals are in the order of ids. */
struct left_tokens {
    const uint64_t *ranks;
    int32_t n;

    __device__ bool value_at(int32_t i, float *value) const
    {
        *value = value_of_key((uint32_t)(ranks[i] >> 32));
        return ranks[i] != 0;
    }
};

struct candidates_args {
    const float *logits, *adjusted;
    int64_t logits_stride, adjusted_stride;
    const int32_t *slots, *positions;
    int32_t vocab_begin, cols;
    const char *params;
    int64_t params_stride;
    int32_t n_candidates;
    char *records;
    int64_t records_stride;
    int64_t first_row;
    int32_t n_slices;
    uint64_t *ranks; /* [rows][n_slices][n_candidates], largest first; 0: no more */
    slice_sum *sums; /* [rows][n_slices] */
};

struct best_shared {
    select_shared select;
    uint64_t ranks[PHX_MAX_CANDIDATES];
    int32_t n;
};

/* Largest first; PHX_MAX_CANDIDATES of them. */
__device__ void sort(uint64_t *ranks)
{
    for (int size = 2; size <= PHX_MAX_CANDIDATES; size *= 2)
        for (int step = size / 2; step > 0; step /= 2) {
            const int i = threadIdx.x, j = i ^ step;
            if (i < PHX_MAX_CANDIDATES && j > i) {
                const uint64_t x = ranks[i], y = ranks[j];
                if ((x < y) == ((i & size) == 0)) {
                    ranks[i] = y;
                    ranks[j] = x;
                }
            }
            __syncthreads();
        }
}

/* The best `limit` tokens, in order, as ranks; 0 where there are no more. */
template <typename Tokens>
__device__ void find_best(const Tokens &tokens, int32_t limit, best_shared &shared)
{
    bound kept = {0, tokens.n};
    if (limit == 1) {
        const int32_t best = best_of(
            tokens, kept, -CUDART_INF_F, [](int32_t, float own) { return own; }, shared.select);
        float value;
        if (threadIdx.x == 0)
            shared.ranks[0] =
                best >= 0 && tokens.value_at(best, &value) ? rank_key(value, best) : 0;
        __syncthreads();
        return;
    }
    if (limit < tokens.n)
        kept = prefix(tokens, kept, each_counts(), (uint64_t)limit, shared.select);
    if (threadIdx.x == 0) shared.n = 0;
    if (threadIdx.x < PHX_MAX_CANDIDATES) shared.ranks[threadIdx.x] = 0;
    __syncthreads();
    float value;
    for (int32_t i = threadIdx.x; i < tokens.n; i += blockDim.x)
        if (tokens.value_at(i, &value) && kept.keeps(order_key(value), i))
            shared.ranks[atomicAdd(&shared.n, 1)] = rank_key(value, i);
    __syncthreads();
    sort(shared.ranks);
}

__global__ void __launch_bounds__(THREADS) best_of_slices(struct candidates_args a)
{
    __shared__ best_shared shared;
    const int64_t m = a.first_row + blockIdx.y;
    wait_for_predecessor();
    const int32_t slot = a.slots[m];
    if (slot < 0) return;
    const struct phx_sampling *p = params_of(a.params, a.params_stride, slot);
    const int32_t begin = (int32_t)((int64_t)a.cols * blockIdx.x / a.n_slices);
    const int32_t n = (int32_t)((int64_t)a.cols * (blockIdx.x + 1) / a.n_slices) - begin;
    const row_tokens row = {a.adjusted + m * a.adjusted_stride + begin, p->temperature, n};
    const uint64_t key = phx_sample_key(p->seed, p->choice, a.positions[m]);
    if (p->top_k > 0)
        find_best(row, a.n_candidates, shared);
    else
        find_best(noisy_tokens{row, key, a.vocab_begin + begin, n}, a.n_candidates, shared);

    const int64_t place = (int64_t)blockIdx.y * a.n_slices + blockIdx.x;
    if (threadIdx.x < a.n_candidates) {
        const uint64_t rank =
            shared.ranks[threadIdx.x]; /* indices in the slice to those in the row */
        a.ranks[place * a.n_candidates + threadIdx.x] = rank != 0 ? rank - (uint32_t)begin : 0;
    }
    const struct phx_candidate stats =
        statistics(a.logits + m * a.logits_stride + begin, n, shared.select);
    if (threadIdx.x == 0) a.sums[place] = {stats.value, stats.raw};
}

/* A row's statistics from those of its slices, by one warp. */
__device__ struct phx_candidate join_sums(const slice_sum *sums, int32_t n)
{
    struct phx_candidate stats = {};
    float max = -CUDART_INF_F, sum = 0;
    for (int32_t i = threadIdx.x % 32; i < n; i += 32) max = fmaxf(max, sums[i].max);
    max = warp_reduce(max, max_op());
    for (int32_t i = threadIdx.x % 32; i < n; i += 32)
        sum += sums[i].max == max ? sums[i].sum : sums[i].sum * expf(sums[i].max - max);
    stats.value = max;
    stats.raw = warp_reduce(sum, add_op());
    stats.id = -1;
    return stats;
}

__global__ void __launch_bounds__(JOIN_THREADS) join_slices(struct candidates_args a)
{
    __shared__ best_shared shared;
    const int64_t m = a.first_row + blockIdx.x;
    wait_for_predecessor();
    const int32_t slot = a.slots[m];
    if (slot < 0) return;
    const struct phx_sampling *p = params_of(a.params, a.params_stride, slot);
    const int64_t place = (int64_t)blockIdx.x * a.n_slices;
    const left_tokens left = {a.ranks + place * a.n_candidates, a.n_slices * a.n_candidates};
    find_best(left, a.n_candidates, shared);

    struct phx_candidate *record = (struct phx_candidate *)(a.records + m * a.records_stride);
    if (threadIdx.x < a.n_candidates) {
        struct phx_candidate c = {};
        c.id = -1;
        if (shared.ranks[threadIdx.x] != 0) {
            const int32_t i = index_of_rank(left.ranks[index_of_rank(shared.ranks[threadIdx.x])]);
            const uint64_t key = phx_sample_key(p->seed, p->choice, a.positions[m]);
            c.value = sample_value(a.adjusted[m * a.adjusted_stride + i], p->temperature);
            c.raw = a.logits[m * a.logits_stride + i];
            c.id = a.vocab_begin + i;
            c.noisy = p->temperature > 0 ? sample_noisy(c.value, key, c.id) : c.value;
        }
        record[threadIdx.x] = c;
    }
    if (threadIdx.x >= 32) return;
    const struct phx_candidate stats = join_sums(a.sums + place, a.n_slices);
    if (threadIdx.x == 0) record[a.n_candidates] = stats;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

extern "C" enum phx_status phx_cuda_sample_candidates(struct phx_stream *stream,
                                                      const struct phx_sample_candidates *args)
{
    struct candidates_args a = {};
    a.logits = address_of<const float>(args->logits);
    a.adjusted = address_of<const float>(args->adjusted);
    a.logits_stride = args->logits.stride;
    a.adjusted_stride = args->adjusted.stride;
    a.slots = address_of<const int32_t>(args->slots);
    a.positions = address_of<const int32_t>(args->positions);
    a.vocab_begin = args->vocab_begin;
    a.cols = (int32_t)args->logits.cols;
    a.params = address_of<const char>(args->params);
    a.params_stride = args->params.stride;
    a.n_candidates = args->n_candidates;
    a.records = address_of<char>(args->records);
    a.records_stride = args->records.stride;
    const int64_t blocks = phx_cuda_candidate_slices(stream->device);
    a.ranks = (uint64_t *)phx_cuda_stream(stream)->best;
    a.sums = (slice_sum *)(a.ranks + blocks * PHX_MAX_CANDIDATES);
    PHX_TRY(phx_cuda_use(stream->device));
    for (; a.first_row < args->logits.rows; a.first_row += blocks) {
        const int64_t rows = min64(blocks, args->logits.rows - a.first_row);
        const int64_t slices = min64(ceil_div(a.cols, SLICE_VALUES), MAX_SLICES);
        a.n_slices = (int32_t)min64(slices, blocks / rows);
        const dim3 grid((unsigned)a.n_slices, (unsigned)rows);
        PHX_TRY(launch(stream, "best_of_slices", {grid, THREADS}, best_of_slices, a));
        PHX_TRY(launch(stream, "join_slices", {(unsigned)rows, JOIN_THREADS}, join_slices, a));
    }
    return PHX_OK;
}
