/// \file product.h
/// Products. Activations are packed once, tile by tile, into the shared scratch; then threads take
/// pieces, blocks of rows x runs of panels, and add up each piece in their own scratch before bias
/// and activation are applied on the way out. The inner dimension is summed in blocks of 512
/// columns, always the same ones: the result depends on neither threads nor pieces.
///
/// Rows come in groups, each of which meets a part of the weight of its own: those of an expert. A
/// plain product has one. As many groups as the packed activations have room for run at once.
#ifndef PHX_KERNELS_CPU_PRODUCT_H
#define PHX_KERNELS_CPU_PRODUCT_H

#include "kernels/cpu/tile.h"

enum { PHX_PRODUCT_MAX_GROUPS = 64 }; /* at once */

/// Rows [begin, begin + rows) of the product's order, for n_out (gated: 2 n_out) rows of the weight
/// from weight_row on.
struct phx_product_group {
    int64_t begin, rows, weight_row;
    int64_t packed; ///< rows of packed activations before it, those that fill up tiles included
    int64_t first_tile, first_piece;
    int64_t n_row_blocks;
};

struct phx_product {
    /* By the caller; what is not wanted stays 0. */
    const struct phx_weight *weight;
    struct phx_stream *stream;
    const float *x;
    int64_t x_stride;
    const int32_t *order; ///< row i of a group is row order[i] / per_row of x and order[i] of out;
    int32_t per_row;      ///< NULL: i of both
    int64_t n_out;        ///< columns of out
    bool gated;
    enum phx_activation activation;
    const float *bias;
    float scale, soft_cap; ///< 0: none
    float *out;
    int64_t out_stride;

    /* By phx_product_choose(). */
    enum phx_tile_kind kind;
    const struct phx_tile *tiles;
    int max_rows; ///< of a tile
    int64_t n_steps, block_steps;
    size_t step_x_bytes, step_w_bytes; ///< of one row of packed activations, of one panel
    const struct phx_block_code *code; ///< of a quantised weight; NULL: not one
    bool expand;                       ///< its panels to f32; tiles, steps and x are those of f32
    bool round;                        ///< activations to bf16
    void (*gate)(enum phx_activation activation, const float *z, const float *up, int64_t n,
                 float *out);

    /* By phx_product_add() and _multiply(). */
    const char *packed; ///< [tile][step][row of the tile]
    struct phx_product_group groups[PHX_PRODUCT_MAX_GROUPS];
    int n_groups;
    int64_t n_panels, piece_panels; ///< panels of outputs; those of a piece
};

/// Tiles, steps and sizes, for groups of about n_rows.
void phx_product_choose(struct phx_product *product, int64_t n_rows);

/// One more group: there is room for it, and for a row more than it has in the packed activations.
void phx_product_add(struct phx_product *product, int64_t begin, int64_t rows, int64_t weight_row);

/// The groups that were added, if any; then there are none.
void phx_product_multiply(struct phx_product *product);

#endif
