/// \file mma.cuh
/// Products of tiles of 16-bit values on tensor cores: mma.sync m16n8k16.
#ifndef PHX_KERNELS_CUDA_MMA_CUH
#define PHX_KERNELS_CUDA_MMA_CUH

#include "kernels/cuda/types.cuh"

/// c += a b: a 16 x 16 row by row, b 16 x 8 column by column. A lane holds of c columns
/// 2 * (lane % 4) + {0, 1} of rows lane / 4 and lane / 4 + 8.
__device__ inline void multiply(phx_f16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline void multiply(phx_bf16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Four 8 x 8 matrices of 16-bit values; lanes 8 m to 8 m + 7 point to the rows of matrix m.
__device__ inline void load_matrices(uint32_t (&to)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(row))
                 : "memory");
}

#endif
