/// \file wgmma.cuh
/// Barriers in shared memory, bulk tensor copies and products of warpgroups (sm_90a), as PTX names
/// them. Empty where the code is not for that architecture.
#ifndef PHX_KERNELS_CUDA_WGMMA_CUH
#define PHX_KERNELS_CUDA_WGMMA_CUH

#include <cuda.h>

#include "kernels/cuda/types.cuh"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* ---- barriers and copies ---- */

static __device__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

static __device__ void barrier_init(uint64_t *barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals)
                 : "memory");
}

static __device__ void arrive(uint64_t *barrier)
{
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

/* Once for the warp, which is done with what the barrier guards. */
static __device__ void release(uint64_t *barrier)
{
    __syncwarp();
    if (threadIdx.x % 32 == 0) arrive(barrier);
}

static __device__ void arrive_expecting(uint64_t *barrier, int bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}

/* Until the phase of that parity is complete; parity 1 of a new barrier is. */
static __device__ void await(uint64_t *barrier, int parity)
{
    uint32_t done;
    do {
        asm volatile("{\n\t.reg .pred p;\n\t"
                     "mbarrier.try_wait.parity.shared.b64 p, [%1], %2;\n\t"
                     "selp.u32 %0, 1, 0, p;\n\t}"
                     : "=r"(done)
                     : "r"(shared_address(barrier)), "r"(parity)
                     : "memory");
    } while (!done);
}

/* 64 values of the 64 rows from `row` on; zeros where there are no such rows. */
static __device__ void copy_page(const CUtensorMap *map, int column, int32_t row, char *to,
                                 uint64_t *barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(shared_address(to)),
                 "l"(map), "r"(column), "r"(row), "r"(shared_address(barrier))
                 : "memory");
}

/* What ordinary stores wrote is for wgmma to read; before a barrier, in each thread that wrote. */
static __device__ void publish_shared()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

static __device__ void sync_threads(int barrier, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

/* ---- wgmma ---- */

static __device__ void wgmma_begin()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int PENDING> __device__ inline void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/* The compiler moves no use of these across. */
template <int N> __device__ inline void pin(float (&c)[N][4])
{
#pragma unroll
    for (int n = 0; n < N; n++)
        asm volatile("" : "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])::"memory");
}

template <int N> __device__ inline void pin(uint32_t (&c)[N][4])
{
#pragma unroll
    for (int n = 0; n < N; n++)
        asm volatile("" : "+r"(c[n][0]), "+r"(c[n][1]), "+r"(c[n][2]), "+r"(c[n][3])::"memory");
}

/* The assembler likes to move arithmetic below a wait that it does not depend on, and then it no
 * longer runs beside the products. Nothing moves across a branch: `never` depends on what is to
 * stay above, and is false. */
static __device__ void stay_above(bool never)
{
    if (__any_sync(~0u, never)) asm volatile("trap;");
}

/* A matrix in shared memory: address, then two distances, all in 16 bytes, and the swizzle's kind,
 * 128 bytes. K-major: `leading` unused, `stride` from eight rows to the next. MN-major: `leading`
 * from 64 columns to the next 64, `stride` from eight of k to the next. */
static __device__ uint64_t describe(uint32_t address, uint32_t leading, uint32_t stride)
{
    return (uint64_t)(address >> 4 & 0x3fff) | (uint64_t)(leading >> 4) << 16 |
           (uint64_t)(stride >> 4) << 32 | (uint64_t)1 << 62;
}

/* The same matrix `bytes` further on: addresses are 14 bits of the lower word and do not overflow.
 */
static __device__ uint64_t further(uint64_t matrix, uint32_t bytes)
{
    return (matrix & ~(uint64_t)UINT32_MAX) | ((uint32_t)matrix + (bytes >> 4));
}

#define FOUR(c, n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define SIXTEEN(c, n) FOUR(c, n), FOUR(c, n + 1), FOUR(c, n + 2), FOUR(c, n + 3)
#define NAMES_32                                                                                   \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "   \
    "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_64                                                                                   \
    NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "  \
             "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

/* c = a b, or c += a b: 64 x 16 and 16 x N, both K-major in shared memory; the operands after c
 * are A, B and ADDS. */
#define WGMMA_SHARED(T, NAME, N, NAMES, A, B, ADDS, ...)                                           \
    static __device__ inline void wgmma(T, float(&c)[N / 8][4], uint64_t a, uint64_t b, int adds)  \
    {                                                                                              \
        asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, " ADDS ", 0;\n\t"                       \
                     "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {" NAMES    \
                     "}, " A ", " B ", p, 1, 1, 0, 0;\n\t}"                                        \
                     : __VA_ARGS__                                                                 \
                     : "l"(a), "l"(b), "r"(adds));                                                 \
    }

/* c += a b: a in registers, b 16 x N, MN-major in shared memory. */
#define WGMMA_REGISTERS(T, NAME, N, NAMES, A, B, ...)                                              \
    static __device__ inline void wgmma(T, float(&c)[N / 8][4], const uint32_t(&a)[4], uint64_t b) \
    {                                                                                              \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {" NAMES    \
                     "}, {" A "}, " B ", 1, 1, 1, 1;"                                              \
                     : __VA_ARGS__                                                                 \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                        \
    }

#define WGMMA_OF(T, NAME)                                                                          \
    WGMMA_SHARED(T, NAME, 64, NAMES_32, "%32", "%33", "%34", SIXTEEN(c, 0), SIXTEEN(c, 4))         \
    WGMMA_REGISTERS(T, NAME, 64, NAMES_32, "%32, %33, %34, %35", "%36", SIXTEEN(c, 0),             \
                    SIXTEEN(c, 4))                                                                 \
    WGMMA_REGISTERS(T, NAME, 128, NAMES_64, "%64, %65, %66, %67", "%68", SIXTEEN(c, 0),            \
                    SIXTEEN(c, 4), SIXTEEN(c, 8), SIXTEEN(c, 12))

WGMMA_OF(phx_f16, "f16")
WGMMA_OF(phx_bf16, "bf16")

#undef FOUR
#undef SIXTEEN
#undef NAMES_32
#undef NAMES_64
#undef WGMMA_SHARED
#undef WGMMA_REGISTERS
#undef WGMMA_OF
#endif

#endif
