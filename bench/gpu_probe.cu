#include "bench/gpu_probe.h"
#include "kernels/cuda/launch.cuh"

enum { THREADS = 512, LOADS = 8, BLOCKS_PER_SM = 4, SMS = 132 };

__global__ void fill(uint32_t *words, size_t n)
{
    wait_for_predecessor();
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n;
         i += (size_t)gridDim.x * THREADS)
        words[i] = phx_mix32((uint32_t)i);
}

/* A block takes LOADS * THREADS neighbours at a time, so that many loads are under way. */
__global__ void __launch_bounds__(THREADS) read(const uint4 *from, size_t n, uint32_t *result)
{
    uint32_t sum = 0;
    wait_for_predecessor();
    for (size_t at = (size_t)blockIdx.x * LOADS * THREADS; at < n;
         at += (size_t)gridDim.x * LOADS * THREADS) {
        uint4 loaded[LOADS];
#pragma unroll
        for (int i = 0; i < LOADS; i++) {
            size_t k = at + (size_t)i * THREADS + threadIdx.x;
            loaded[i] = k < n ? __ldcs(from + k) : uint4{0, 0, 0, 0};
        }
#pragma unroll
        for (int i = 0; i < LOADS; i++)
            sum ^= loaded[i].x ^ loaded[i].y ^ loaded[i].z ^ loaded[i].w;
    }
    sum = __reduce_xor_sync(~0u, sum);
    if (threadIdx.x % 32 == 0) atomicXor(result, sum);
}

__global__ void empty()
{
    wait_for_predecessor();
}

extern "C" enum phx_status bench_probe_fill(struct phx_stream *stream, struct phx_buffer *words)
{
    return launch_on(phx_cuda_stream_native(stream), false, "fill", {SMS * BLOCKS_PER_SM, THREADS},
                     fill, (uint32_t *)phx_buffer_address(words), phx_buffer_bytes(words) / 4);
}

extern "C" enum phx_status bench_probe_read(struct phx_stream *stream,
                                            const struct phx_buffer *words, size_t bytes,
                                            struct phx_buffer *result)
{
    return launch_on(phx_cuda_stream_native(stream), false, "read", {SMS * BLOCKS_PER_SM, THREADS},
                     read, (const uint4 *)phx_buffer_address(words), bytes / sizeof(uint4),
                     (uint32_t *)phx_buffer_address(result));
}

extern "C" enum phx_status bench_probe_empty(struct phx_stream *stream, int n_blocks, bool early)
{
    return launch_on(phx_cuda_stream_native(stream), early, "empty",
                     {dim3((unsigned)n_blocks), 256}, empty);
}
