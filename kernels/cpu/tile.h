/// \file tile.h
/// The innermost loop of a product, one table of tiles per instruction set. Only product.c uses it.
///
/// A tile multiplies a few rows of packed activations with a few panels of a weight (cpu.h) over
/// some steps of the inner dimension: c[r][16 p + lane] += sum over steps. Each output is one chain
/// of additions in the order of the columns, whichever tile computes it, so that a row's result
/// does not depend on the rows beside it.
#ifndef PHX_KERNELS_CPU_TILE_H
#define PHX_KERNELS_CPU_TILE_H

#include <stdint.h>

#include "kernels/ops.h"

/// How weights are read. A step is one column with activations float x[step][rows]; for BF16 a
/// pair of columns with float x[step][2][rows]; for BF16_DOT a pair of columns with activations in
/// bf16, uint16_t x[step][rows][2].
enum phx_tile_kind { PHX_TILE_F32, PHX_TILE_F16, PHX_TILE_BF16, PHX_TILE_BF16_DOT };

enum { PHX_TILE_MAX_ROWS = 12, PHX_TILE_MAX_PANELS = 4 };

struct phx_tile {
    int rows, panels;
    /// `panels` points to as many pointers; rows of c are c_stride floats apart.
    void (*run)(const void *x, const char *const *panels, int64_t n_steps, float *c,
                int64_t c_stride);
};

/// The tiles of a kind, rows ascending from 1, ended by rows 0. Only avx512_bf16 has BF16_DOT.
const struct phx_tile *phx_tiles_portable(enum phx_tile_kind kind);
const struct phx_tile *phx_tiles_avx2(enum phx_tile_kind kind);
const struct phx_tile *phx_tiles_avx512(enum phx_tile_kind kind);
const struct phx_tile *phx_tiles_avx512_bf16(enum phx_tile_kind kind);

/// What multiplies with a quantised weight: for one or two rows tiles whose step is a block, with
/// activations float x[step][columns of a block][rows]; for more, panels are expanded to f32, in
/// the layout of f32 panels, and multiplied as such. Both give the same bits.
struct phx_block_code {
    struct phx_tile tiles[3]; ///< as those of a kind
    void (*expand)(const char *panel, int64_t n_blocks, float *to);
};
enum { PHX_BLOCK_TILE_MAX_ROWS = 2 };
const struct phx_block_code *phx_blocks_portable(enum phx_dtype dtype);
const struct phx_block_code *phx_blocks_avx2(enum phx_dtype dtype);
const struct phx_block_code *phx_blocks_avx512(enum phx_dtype dtype);

/// out[i] = act(z[i]) * up[i] for n values, as in phx_gate_up.
void phx_gate_portable(enum phx_activation activation, const float *z, const float *up, int64_t n,
                       float *out);
void phx_gate_avx2(enum phx_activation activation, const float *z, const float *up, int64_t n,
                   float *out);
void phx_gate_avx512(enum phx_activation activation, const float *z, const float *up, int64_t n,
                     float *out);

#endif
