/* Sums over ranks in one kernel each: every thread writes its lines into the windows of all other
 * ranks, then waits in its own window for theirs. See comm_nccl_lines.h. */
#include <type_traits>

#include "kernels/cuda/launch.cuh"
#include "parallel/comm_nccl_fused.h"
#include "parallel/comm_nccl_parts.cuh"

enum {
    SUM_THREADS = 256, /* small blocks: a short sum spreads over more of the GPU */
    NORM_THREADS = 1024,
    IN_FLIGHT = 8, /* lines that a thread asks for at a time */
    LOOKS = 4096,  /* at the window, before one at the host's memory */
};

/* ---- lines ---- */

/* One access each, past the first-level cache. */
__device__ inline uint4 read_line(const void *from)
{
    uint4 line;
    asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(line.x), "=r"(line.y), "=r"(line.z), "=r"(line.w)
                 : "l"(__cvta_generic_to_global(from))
                 : "memory");
    return line;
}

__device__ inline void write_line(void *to, uint2 data, uint32_t flag)
{
    asm volatile(
        "st.volatile.global.v4.u32 [%0], {%1, %2, %3, %2};" ::"l"(__cvta_generic_to_global(to)),
        "r"(data.x), "r"(flag), "r"(data.y)
        : "memory");
}

/* What a thread knows of the sum that it takes part in. */
struct exchange {
    uint32_t epoch;
    bool waits; /* false: somebody gave up, results do not matter */
    uint32_t n_steps, n_begun;
    uint32_t n_before; /* thread 0: blocks that had begun before its own */
};

/* After the wait, and after loads that the thread can ask for before it knows the epoch. */
__device__ inline struct exchange enter(const struct phx_fused &f)
{
    const uint4 state = read_line(f.state);
    return {phx_lines_next_epoch(state.x), state.y == 0, state.z, state.w, 0};
}

__device__ inline void set_position(struct phx_fused_state *state, struct phx_fused_host *host,
                                    uint32_t n_steps, uint32_t n_begun)
{
    state->n_steps = n_steps;
    state->n_begun = n_begun;
    *(volatile uint64_t *)&host->position = (uint64_t)n_steps << 32 | n_begun;
}

/* All threads call it once, when they have sent. */
__device__ inline void begin(const struct phx_fused &f, struct exchange &e)
{
    e.waits = !__syncthreads_or(!e.waits); /* past it, all threads of the block have the state */
    if (threadIdx.x != 0) return;
    if (blockIdx.x == 0) set_position(f.state, f.host, e.n_steps, e.n_begun + 1);
    e.n_before = atomicInc(&f.state->n_blocks, gridDim.x - 1); /* the last one sets it to 0 */
}

/* The last block to begin found that all others had read the epoch: it may be changed. Here, so
 * that nobody waits for the answer before looking for data. */
__device__ inline void end(const struct phx_fused &f, const struct exchange &e)
{
    if (threadIdx.x == 0 && e.n_before == gridDim.x - 1) f.state->epoch = e.epoch;
}

__device__ inline uint4 *lines_of(const struct phx_fused &f, uint32_t epoch, int window, int writer)
{
    return (uint4 *)f.windows[window] + phx_lines_begin(epoch, writer, f.n_ranks, f.capacity);
}

/* To each of the others, beginning with the next, so that not all ranks write to the same. */
template <int RANKS>
__device__ inline void send(const struct phx_fused &f, uint32_t epoch, int line, uint2 data)
{
#pragma unroll
    for (int i = 1; i < RANKS; i++) {
        if (i >= f.n_ranks) break;
        const int r = f.rank + i < f.n_ranks ? f.rank + i : f.rank + i - f.n_ranks;
        write_line(lines_of(f, epoch, r, f.rank) + line, data, epoch);
    }
}

__device__ __noinline__ bool is_aborted(struct phx_fused_state *state, struct phx_fused_host *host)
{
    if (*(volatile uint32_t *)&host->abort == 0) return false;
    *(volatile uint32_t *)&state->given_up = 1;
    return true;
}

/* parts[c][r]: what rank r wrote into line first + c * step, if that is below n. The own ones are
 * given. */
template <int RANKS, int CHUNK>
__device__ inline void receive(const struct phx_fused &f, struct exchange &e, int first, int step,
                               int n, const uint2 (&own)[CHUNK], uint2 (&parts)[CHUNK][RANKS])
{
    const uint4 *window = lines_of(f, e.epoch, f.rank, 0);
    uint4 got[CHUNK][RANKS];
    bool complete;
    uint32_t n_looks = 0;
    do {
        complete = true;
#pragma unroll
        for (int c = 0; c < CHUNK; c++)
#pragma unroll
            for (int r = 0; r < RANKS; r++)
                if (r < f.n_ranks && r != f.rank && first + c * step < n)
                    got[c][r] = read_line(window + r * f.capacity + first + c * step);
                else
                    got[c][r] = make_uint4(own[c].x, e.epoch, own[c].y, e.epoch);
#pragma unroll
        for (int c = 0; c < CHUNK; c++)
#pragma unroll
            for (int r = 0; r < RANKS; r++)
                complete &= got[c][r].y == e.epoch && got[c][r].w == e.epoch;
        if (++n_looks % LOOKS == 0 && is_aborted(f.state, f.host)) e.waits = false;
    } while (!complete && e.waits);
#pragma unroll
    for (int c = 0; c < CHUNK; c++)
#pragma unroll
        for (int r = 0; r < RANKS; r++) parts[c][r] = make_uint2(got[c][r].x, got[c][r].z);
}

/* In rank order, rounded to T. */
template <typename T, int RANKS>
__device__ inline void add(const struct phx_fused &f, const uint2 (&parts)[RANKS],
                           float (&sum)[part<T>::N])
{
#pragma unroll
    for (int r = 0; r < RANKS; r++) {
        if (r >= f.n_ranks) break;
        part<T> p;
        memcpy(&p, &parts[r], sizeof p);
#pragma unroll
        for (int v = 0; v < part<T>::N; v++)
            sum[v] = r == 0 ? to_f32(p.values[v]) : sum[v] + to_f32(p.values[v]);
    }
#pragma unroll
    for (int v = 0; v < part<T>::N; v++) sum[v] = to_f32(from_f32<T>(sum[v]));
}

/* In the last epochs before they repeat: lines that this thread has read, or nobody. */
__device__ __noinline__ void clear_lines(const struct phx_fused &f, uint32_t epoch, int first,
                                         int step, int end)
{
    for (int r = 0; r < f.n_ranks; r++)
        for (int i = first; i < end; i += step)
            write_line(lines_of(f, epoch, f.rank, r) + i, make_uint2(0, 0), 0);
}

/* Those past the first `n`, which this sum had no use for. */
__device__ inline void clear_rest(const struct phx_fused &f, uint32_t epoch, int n)
{
    const int thread = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    clear_lines(f, epoch, n + thread, (int)(gridDim.x * blockDim.x), f.capacity);
}

/* ---- kernels ---- */

/* Thread i of the grid takes lines i, i + step, ... It has sent all before it waits for the first.
 */
template <typename T, int RANKS>
__global__ void __launch_bounds__(SUM_THREADS)
    all_reduce(const __grid_constant__ struct phx_fused f, T *x, int64_t n, bool aligned)
{
    constexpr int V = part<T>::N, CHUNK = IN_FLIGHT / RANKS;
    const int n_lines = (int)((n + V - 1) / V), step = (int)(gridDim.x * blockDim.x);
    const int first = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    auto left = [=](int line) { return n - (int64_t)line * V; };
    auto load = [=](int line, uint2(&parts)[CHUNK]) {
#pragma unroll
        for (int c = 0; c < CHUNK; c++, line += step)
            if (line < n_lines)
                parts[c] = load_part(x + (int64_t)line * V, left(line), aligned && left(line) >= V);
    };
    uint2 own[CHUNK] = {};
    prefetch(f.state);
    wait_for_predecessor();
    load(first, own);
    struct exchange e = enter(f);
    for (int i = first; i < n_lines; i += CHUNK * step) {
        if (i != first) load(i, own);
#pragma unroll
        for (int c = 0; c < CHUNK; c++)
            if (i + c * step < n_lines) send<RANKS>(f, e.epoch, i + c * step, own[c]);
    }
    begin(f, e);
    for (int i = first; i < n_lines; i += CHUNK * step) {
        uint2 parts[CHUNK][RANKS];
        if (n_lines > CHUNK * step) load(i, own);
        receive<RANKS, CHUNK>(f, e, i, step, n_lines, own, parts);
#pragma unroll
        for (int c = 0; c < CHUNK; c++) {
            const int line = i + c * step;
            if (line >= n_lines) break;
            float sum[V];
            add<T, RANKS>(f, parts[c], sum);
            store_part(x + (int64_t)line * V, left(line), aligned && left(line) >= V, sum);
        }
    }
    if (phx_lines_must_clear(e.epoch)) {
        clear_lines(f, e.epoch, first, step, n_lines);
        clear_rest(f, e.epoch, n_lines);
    }
    end(f, e);
}

/* This rank's part of a row: thread i of the block takes lines i, i + blockDim.x, ..., TURNS of
 * them at most. `aligned`: all rows begin at, and are, whole parts of aligned memory. */
template <typename T, int TURNS>
__device__ inline void load_row(const struct phx_fused_norm &a, bool aligned, int row,
                                uint2 (&own)[TURNS])
{
    constexpr int V = part<T>::N;
    const T *from = (const T *)a.partial + (int64_t)row * a.cols;
#pragma unroll
    for (int t = 0; t < TURNS; t++) {
        const int col = (int)(threadIdx.x + t * blockDim.x) * V;
        if (col < a.cols) own[t] = load_part(from + col, a.cols - col, aligned);
    }
}

/* residual (+)= the sum of all ranks' parts; returns the sum of this thread's squares. */
template <typename T, int RANKS, int TURNS>
__device__ inline float add_row(const struct phx_fused &f, const struct phx_fused_norm &a,
                                bool aligned, struct exchange &e, int row,
                                const uint2 (&own)[TURNS], float (&values)[TURNS][part<T>::N])
{
    constexpr int V = part<T>::N, MOST = IN_FLIGHT / RANKS, CHUNK = TURNS < MOST ? TURNS : MOST;
    const int n_lines = (a.cols + V - 1) / V, step = (int)blockDim.x;
    float *residual = a.residual + row * a.residual_stride, squares = 0;
#pragma unroll
    for (int t = 0; t < TURNS; t += CHUNK) {
        const int first = (int)threadIdx.x + t * step;
        uint2 mine[CHUNK], parts[CHUNK][RANKS];
#pragma unroll
        for (int c = 0; c < CHUNK; c++) {
            const int col = (first + c * step) * V;
            mine[c] = own[t + c];
#pragma unroll
            for (int v = 0; v < V; v++) values[t + c][v] = 0;
            if (col < a.cols && !a.start)
                load_floats(values[t + c], residual + col, a.cols - col, aligned);
        }
        receive<RANKS, CHUNK>(f, e, row * n_lines + first, step, (row + 1) * n_lines, mine, parts);
#pragma unroll
        for (int c = 0; c < CHUNK; c++) {
            const int col = (first + c * step) * V;
            if (col >= a.cols) break;
            float sum[V];
            add<T, RANKS>(f, parts[c], sum);
#pragma unroll
            for (int v = 0; v < V; v++) {
                values[t + c][v] += sum[v];
                squares += values[t + c][v] * values[t + c][v];
            }
            store_floats(residual + col, a.cols - col, aligned, values[t + c]);
        }
    }
    return squares;
}

/* A block takes a row, or every gridDim.x-th. It has sent all before it waits for the first. */
template <typename T, int RANKS, int TURNS>
__global__ void __launch_bounds__(NORM_THREADS, 1)
    reduce_norm(const __grid_constant__ struct phx_fused f,
                const __grid_constant__ struct phx_fused_norm a, bool aligned)
{
    constexpr int V = part<T>::N;
    __shared__ float shared[32];
    const int n_lines = (a.cols + V - 1) / V, rows = (int)a.rows;
    const int thread = (int)threadIdx.x, step = (int)blockDim.x;
    const int first_row = (int)blockIdx.x, row_step = (int)gridDim.x;
    uint2 own[TURNS] = {};
    for (int line = thread; line < n_lines; line += step) prefetch(a.weight + line * V);
    prefetch(f.state);
    wait_for_predecessor();
    load_row<T>(a, aligned, first_row, own);
    struct exchange e = enter(f);
    for (int row = first_row; row < rows; row += row_step) {
        if (row != first_row) load_row<T>(a, aligned, row, own);
#pragma unroll
        for (int t = 0; t < TURNS; t++)
            if (thread + t * step < n_lines)
                send<RANKS>(f, e.epoch, row * n_lines + thread + t * step, own[t]);
    }
    begin(f, e);
    float weight[TURNS][V], values[TURNS][V];
#pragma unroll
    for (int t = 0; t < TURNS; t++) {
        const int col = (thread + t * step) * V;
        if (col < a.cols) load_floats(weight[t], a.weight + col, a.cols - col, aligned);
    }
    for (int row = first_row; row < rows; row += row_step) {
        if (rows > row_step) load_row<T>(a, aligned, row, own);
        const float squares = add_row<T, RANKS>(f, a, aligned, e, row, own, values);
        const float scale = 1 / sqrtf(block_sum(squares, shared) / (float)a.cols + a.epsilon);
        T *out = (T *)a.out + row * a.out_stride;
#pragma unroll
        for (int t = 0; t < TURNS; t++) {
            const int col = (thread + t * step) * V;
            if (col >= a.cols) break;
#pragma unroll
            for (int v = 0; v < V; v++) values[t][v] = values[t][v] * scale * weight[t][v];
            store_part(out + col, a.cols - col, aligned, values[t]);
        }
        if (phx_lines_must_clear(e.epoch))
            clear_lines(f, e.epoch, row * n_lines + thread, step, (row + 1) * n_lines);
    }
    if (phx_lines_must_clear(e.epoch)) clear_rest(f, e.epoch, rows * n_lines);
    end(f, e);
}

__global__ void mark(struct phx_fused_state *state, struct phx_fused_host *host, bool step)
{
    wait_for_predecessor();
    const uint4 old = read_line(state);
    set_position(state, host, old.z + (step ? 1 : 0), step ? 0 : old.w + 1);
}

/* ---- launchers ---- */

template <int N> using constant = std::integral_constant<int, N>;

/* With the most ranks of the kernel to take. */
template <typename F> static enum phx_status with_ranks(int n_ranks, F f)
{
    PHX_ASSERT(n_ranks >= 1 && n_ranks <= PHX_LINES_MAX_RANKS);
    if (n_ranks <= 2) return f(constant<2>());
    return n_ranks <= 4 ? f(constant<4>()) : f(constant<8>());
}

template <typename F> static enum phx_status with_turns(int64_t turns, F f)
{
    PHX_ASSERT(turns >= 1 && turns <= 4);
    if (turns == 1) return f(constant<1>());
    return turns == 2 ? f(constant<2>()) : f(constant<4>());
}

template <typename... Parameters, typename... Arguments>
static enum phx_status launch(const struct phx_fused *f, cudaStream_t stream, const char *name,
                              int64_t blocks, int64_t threads, void (*kernel)(Parameters...),
                              const Arguments &...arguments)
{
    return launch_on(stream, f->starts_early, name, {dim3((unsigned)blocks), (unsigned)threads},
                     kernel, arguments...);
}

template <typename... Parameters>
static enum phx_status load(void (*kernel)(Parameters...), struct cudaFuncAttributes *out)
{
    PHX_CUDA_TRY(cudaFuncGetAttributes, (out, (const void *)kernel));
    return PHX_OK;
}

template <typename T, typename Ranks>
static enum phx_status load_sums(T, Ranks, struct cudaFuncAttributes *out)
{
    PHX_TRY(load(all_reduce<T, Ranks::value>, out));
    PHX_TRY(load(reduce_norm<T, Ranks::value, 1>, out));
    PHX_TRY(load(reduce_norm<T, Ranks::value, 2>, out));
    return load(reduce_norm<T, Ranks::value, 4>, out);
}

extern "C" enum phx_status phx_fused_load(int n_ranks, bool *out_starts_early)
{
    struct cudaFuncAttributes attributes = {};
    PHX_TRY(load(mark, &attributes));
    PHX_TRY(with_ranks(n_ranks, [&](auto ranks) {
        PHX_TRY(load_sums(float(), ranks, &attributes));
        PHX_TRY(load_sums(phx_f16(), ranks, &attributes));
        return load_sums(phx_bf16(), ranks, &attributes);
    }));
    *out_starts_early = attributes.ptxVersion >= PHX_CUDA_EARLY_START;
    return PHX_OK;
}

extern "C" enum phx_status phx_fused_mark(const struct phx_fused *fused, cudaStream_t stream,
                                          bool step)
{
    return launch(fused, stream, "mark", 1, 1, mark, fused->state, fused->host, step);
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static bool at_multiples(const void *address, int64_t pitch, int64_t bytes)
{
    return (intptr_t)address % bytes == 0 && pitch % bytes == 0;
}

extern "C" enum phx_status phx_fused_all_reduce(const struct phx_fused *fused, cudaStream_t stream,
                                                enum phx_dtype dtype, void *x, int64_t n)
{
    const int64_t lines = phx_lines_count(1, n, phx_dtype_bytes(dtype, 1));
    PHX_ASSERT(lines > 0 && lines <= fused->capacity);
    const bool aligned = at_multiples(x, 0, PHX_LINE_DATA_BYTES);
    return with_type(dtype, [&](auto type) {
        return with_ranks(fused->n_ranks, [&](auto ranks) {
            using T = decltype(type);
            return launch(fused, stream, "all_reduce",
                          min64(ceil_div(lines, SUM_THREADS), fused->max_blocks), SUM_THREADS,
                          all_reduce<T, ranks()>, *fused, (T *)x, n, aligned);
        });
    });
}

extern "C" enum phx_status phx_fused_reduce_norm(const struct phx_fused *fused, cudaStream_t stream,
                                                 const struct phx_fused_norm *a)
{
    const int64_t value = (int64_t)phx_dtype_bytes(a->dtype, 1);
    const int64_t lines = phx_lines_count(1, a->cols, (size_t)value);
    const int64_t values = PHX_LINE_DATA_BYTES / value, floats = values * (int64_t)sizeof(float);
    PHX_ASSERT(a->rows > 0 && lines > 0 && lines <= PHX_FUSED_MAX_ROW_LINES);
    PHX_ASSERT(a->rows * lines <= fused->capacity);
    const bool aligned = a->cols % values == 0 &&
                         at_multiples(a->partial, 0, PHX_LINE_DATA_BYTES) &&
                         at_multiples(a->out, a->out_stride * value, PHX_LINE_DATA_BYTES) &&
                         at_multiples(a->residual, a->residual_stride * 4, floats) &&
                         at_multiples(a->weight, 0, floats);
    /* As few threads as take the row in as few turns. */
    const int64_t turns = ceil_div(lines, NORM_THREADS);
    const int64_t threads = ceil_div(ceil_div(lines, turns), 32) * 32;
    return with_type(a->dtype, [&](auto type) {
        return with_ranks(fused->n_ranks, [&](auto ranks) {
            return with_turns(turns, [&](auto most_turns) {
                return launch(fused, stream, "reduce_norm", min64(a->rows, fused->max_blocks),
                              threads, reduce_norm<decltype(type), ranks(), most_turns()>, *fused,
                              *a, aligned);
            });
        });
    });
}
