/* The probes of kernels/probe.h. */
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/launch.cuh"

enum { THREADS = 512, LOADS = 8, BLOCKS_PER_SM = 4 };

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

static unsigned blocks_of(const struct phx_stream *stream, int per_unit)
{
    return (unsigned)(stream->device->info.n_units * per_unit);
}

extern "C" enum phx_status phx_cuda_probe_fill(struct phx_stream *stream, struct phx_buffer *words)
{
    return launch_on(phx_cuda_stream_native(stream), false, "fill",
                     {dim3(blocks_of(stream, BLOCKS_PER_SM)), THREADS}, fill,
                     (uint32_t *)words->address, words->bytes / 4);
}

extern "C" enum phx_status phx_cuda_probe_read(struct phx_stream *stream,
                                               const struct phx_buffer *words, size_t offset_bytes,
                                               size_t bytes, struct phx_buffer *result)
{
    const char *from = (const char *)words->address + offset_bytes;
    return launch_on(phx_cuda_stream_native(stream), false, "read",
                     {dim3(blocks_of(stream, BLOCKS_PER_SM)), THREADS}, read, (const uint4 *)from,
                     bytes / sizeof(uint4), (uint32_t *)result->address);
}

extern "C" enum phx_status phx_cuda_probe_empty(struct phx_stream *stream, bool early)
{
    return launch_on(phx_cuda_stream_native(stream), early, "empty",
                     {dim3(blocks_of(stream, 1)), 256}, empty);
}

extern "C" double phx_cuda_probe_multiply(struct phx_stream *)
{
    return 0;
}
