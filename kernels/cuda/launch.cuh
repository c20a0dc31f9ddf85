/// \file launch.cuh
/// How every kernel is launched, here and in parallel/comm_nccl_fused.cu, and what every one of
/// them does first.
///
/// From sm_90 on a kernel starts while its predecessor in the stream still runs (programmatic
/// dependent launch). So every thread of every kernel calls wait_for_predecessor() before it reads
/// or writes anything that others write or read: inputs, outputs, scratch. Threads with nothing to
/// do call it too: the end of a kernel says that all before it have ended only because it waited.
///
/// Before the wait: arithmetic on arguments; prefetch(), which brings weights into the L2 cache,
/// where nothing is ever stale; and, in gemv.cu, load_streamed() of the weight, since nothing
/// starts before the writes of a weight are complete (weight.c). No other load: its value could be
/// an old one. And never __ldg() or `const __restrict__` for what other kernels write, not even
/// after the wait: such loads may be moved before it, and their cache does not follow writes.
///
/// Neighbours that are not ours: copies, memsets, cuBLASLt's kernels and NCCL's plain ones are
/// launched in the ordinary way, and start when all before them is complete; NCCL's kernels for
/// symmetric memory start early and wait as ours do. A kernel of ours after any of them starts when
/// its blocks have ended, or let it, and waits for the rest. A recorded graph keeps all of this.
#ifndef PHX_KERNELS_CUDA_LAUNCH_CUH
#define PHX_KERNELS_CUDA_LAUNCH_CUH

#include "kernels/base/check.h"
#include "kernels/base/random.h"
#include "kernels/cuda/native.h"

struct launch_shape {
    dim3 grid;
    unsigned threads;
    size_t shared_bytes = 0;
    unsigned cluster = 1; /* blocks of the grid's first direction that share one; from sm_90 on */
};

/// `starts_early`: while its predecessor still runs; the code must be one that waits.
template <typename... Parameters, typename... Arguments>
static enum phx_status launch_on(cudaStream_t stream, bool starts_early, const char *name,
                                 const struct launch_shape &shape, void (*kernel)(Parameters...),
                                 const Arguments &...arguments)
{
    cudaLaunchAttribute attributes[2] = {};
    unsigned n_attributes = 0;
    if (starts_early) {
        cudaLaunchAttribute *early = &attributes[n_attributes++];
        early->id = cudaLaunchAttributeProgrammaticStreamSerialization;
        early->val.programmaticStreamSerializationAllowed = 1;
    }
    if (shape.cluster > 1) {
        cudaLaunchAttribute *cluster = &attributes[n_attributes++];
        cluster->id = cudaLaunchAttributeClusterDimension;
        cluster->val.clusterDim.x = shape.cluster;
        cluster->val.clusterDim.y = cluster->val.clusterDim.z = 1;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = shape.grid;
    config.blockDim = dim3(shape.threads);
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = n_attributes;
    return phx_cuda_status(cudaLaunchKernelEx(&config, kernel, arguments...), name);
}

#ifdef PHX_CUDA_PLANTED_DELAY
/// Of a test's build: some warps come late, so that what a successor does too early shows.
__device__ inline void come_late()
{
    const uint32_t warp = threadIdx.x / 32 + 64 * (blockIdx.x + 997 * (blockIdx.y + blockIdx.z));
    const uint32_t draw = phx_mix32((uint32_t)clock64() + 0x9e3779b1u * warp);
    const long long cycles = draw % 2 * (draw / 2 % 100000), begin = clock64();
    while (clock64() - begin < cycles) __nanosleep(500);
}
#else
__device__ inline void come_late()
{
}
#endif

/// Until the predecessor is complete and its writes are visible; then the successor may start,
/// whose own wait ends when this kernel does.
__device__ inline void wait_for_predecessor()
{
#ifdef PHX_CUDA_PLANTED_NO_WAIT
    constexpr bool waits = false; /* of a test's build, which must fail */
#else
    constexpr bool waits = true;
#endif
#if __CUDA_ARCH__ >= 10 * PHX_CUDA_EARLY_START
    if (waits) cudaGridDependencySynchronize();
    cudaTriggerProgrammaticLaunchCompletion();
#else
    (void)waits;
#endif
    come_late();
}

__device__ inline void prefetch(const void *from)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(from)));
}

#endif
