/* A tile of a product on plain f32 arithmetic: SIDE x SIDE threads, each with EACH x EACH outputs
 * that lie SIDE apart. */
#ifndef PHX_KERNELS_CUDA_PLAIN_TILE_CUH
#define PHX_KERNELS_CUDA_PLAIN_TILE_CUH

enum {
    TILE = 64,  /* rows of x and of the weight */
    DEPTH = 16, /* of the inner dimension at a time */
    SIDE = 16,
    EACH = TILE / SIDE,
    PLAIN_THREADS = SIDE * SIDE
};

typedef float plain_operand[DEPTH][TILE + 1]; /* in shared memory, column by column */

/* acc[i][j] += sum over d of x[d][down + i SIDE] w[d][across + j SIDE]. */
__device__ inline void multiply_plain(const plain_operand &x, const plain_operand &w, int down,
                                      int across, float (&acc)[EACH][EACH])
{
    for (int d = 0; d < DEPTH; d++) {
        float a[EACH], b[EACH];
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            a[i] = x[d][down + i * SIDE];
            b[i] = w[d][across + i * SIDE];
        }
#pragma unroll
        for (int i = 0; i < EACH; i++)
#pragma unroll
            for (int j = 0; j < EACH; j++) acc[i][j] = fmaf(a[i], b[j], acc[i][j]);
    }
}

#endif
