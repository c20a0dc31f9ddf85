#include "kernels/cpu/product.h"

#include <math.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/tile.h"

enum {
    BLOCK = 512,      /* columns summed at a time: their part of a tile's operands fits in L1 */
    ROW_BLOCK = 96,   /* rows of a piece: their part of the activations fits in L2 */
    PIECE_PANELS = 8, /* most panels of a piece; half gate and half up, where gated */
    SUM_PANELS = 12,  /* room for them: one more where up is shifted, in whole groups */
    GROUP = PHX_TILE_MAX_PANELS,
    SUM_COLS = SUM_PANELS * PHX_CPU_PANEL,
    PIECES_PER_THREAD = 4, /* with fewer, threads wait long for the last one */
    SMALL = 1 << 16,       /* multiplications that are done before other threads are awake */
};

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t blocks_of(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

static int64_t x_row(const struct phx_product *p, int64_t i)
{
    return p->order != NULL ? p->order[i] / p->per_row : i;
}

static int64_t out_row(const struct phx_product *p, int64_t i)
{
    return p->order != NULL ? p->order[i] : i;
}

/* ---- packing ---- */

/* The tile for n rows. */
static const struct phx_tile *tile_for(const struct phx_product *p, int64_t n)
{
    const struct phx_tile *tile = p->tiles;
    while (tile->rows < n && tile[1].rows != 0) tile++;
    return tile;
}

static void pack_floats(const struct phx_product *p, const float *from, int64_t begin, int64_t end,
                        int rows, float *to)
{
    for (int64_t k = begin; k < end; k++)
        to[k * rows] = p->round ? phx_f32_from_bf16(phx_bf16_from_f32(from[k])) : from[k];
}

static void pack_pairs(const float *from, int64_t begin, int64_t end, int rows, uint16_t *to)
{
    for (int64_t k = begin; k < end; k++) to[k / 2 * 2 * rows + k % 2] = phx_bf16_from_f32(from[k]);
}

/* Rows past the last, and the partner of an odd last column, are zeros. */
static void pack_tiles(void *user, int64_t begin, int64_t end, int thread)
{
    const struct phx_product *p = user;
    int64_t in = p->weight->shape.cols;
    (void)thread;
    const struct phx_product_group *g = p->groups;
    for (int64_t t = begin; t < end; t++) {
        while (g + 1 < p->groups + p->n_groups && g[1].first_tile <= t) g++;
        int64_t first = (t - g->first_tile) * p->max_rows, n = min64(p->max_rows, g->rows - first);
        int rows = tile_for(p, n)->rows;
        char *to = (char *)p->packed + (size_t)((g->packed + first) * p->n_steps) * p->step_x_bytes;
        if (n < rows || in % 2 != 0 || p->code)
            memset(to, 0, (size_t)(rows * p->n_steps) * p->step_x_bytes);
        for (int64_t k = 0; k < in; k += BLOCK)
            for (int64_t r = 0; r < n; r++) {
                const float *from = p->x + x_row(p, g->begin + first + r) * p->x_stride;
                if (p->kind == PHX_TILE_BF16_DOT)
                    pack_pairs(from, k, min64(k + BLOCK, in), rows, (uint16_t *)to + 2 * r);
                else
                    pack_floats(p, from, k, min64(k + BLOCK, in), rows,
                                (float *)to + p->weight->shape.lead * rows + r);
            }
    }
}

/* ---- pieces ---- */

struct piece {
    const struct phx_product_group *group;
    int64_t row, rows;              /* of the group */
    int64_t col, cols;              /* of out */
    const char *panels[SUM_PANELS]; /* which the piece multiplies with */
    int n_panels;
    int first, up; /* where its outputs, and a gated piece's up half, begin in its sums */
};

/* The panels of `n` rows of the weight, which begin anywhere in one; where they begin in the sums.
 */
static int add_rows(const struct phx_product *p, struct piece *piece, int64_t row, int64_t n)
{
    int first = piece->n_panels * PHX_CPU_PANEL + (int)(row % PHX_CPU_PANEL);
    for (int64_t panel = row / PHX_CPU_PANEL; panel < blocks_of(row + n, PHX_CPU_PANEL); panel++)
        piece->panels[piece->n_panels++] = phx_cpu_panel(p->weight, panel);
    return first;
}

static struct piece piece_at(const struct phx_product *p, const struct phx_product_group *group,
                             int64_t index)
{
    int64_t panel = index / group->n_row_blocks * p->piece_panels;
    int64_t last_panel = min64(panel + p->piece_panels, p->n_panels);
    struct piece piece = {.group = group,
                          .row = index % group->n_row_blocks * ROW_BLOCK,
                          .col = panel * PHX_CPU_PANEL};
    piece.rows = min64(ROW_BLOCK, group->rows - piece.row);
    piece.cols = min64(last_panel * PHX_CPU_PANEL, p->n_out) - piece.col;
    int64_t row = group->weight_row + piece.col;
    piece.first = add_rows(p, &piece, row, piece.cols);
    if (p->gated) piece.up = add_rows(p, &piece, row + p->n_out, piece.cols);
    for (int i = piece.n_panels; i % GROUP != 0; i++) /* to be computed in vain, not read */
        piece.panels[i] = piece.panels[i - 1];
    return piece;
}

/* `n_steps` columns from `step` on of a group of panels, as f32 panels in `to`. */
static void expand_group(const struct phx_product *p, const struct piece *piece, int group,
                         int64_t step, int64_t n_steps, float *to, const char *out[GROUP])
{
    const struct phx_dtype_traits *traits = phx_dtype_traits(p->weight->shape.dtype);
    int64_t block = step / traits->block_elements, n_blocks = n_steps / traits->block_elements;
    for (int i = 0; i < GROUP; i++) {
        const char *panel = piece->panels[group + i];
        bool again = i > 0 && panel == piece->panels[group + i - 1]; /* in vain */
        out[i] = again ? out[i - 1] : (const char *)(to + (int64_t)i * BLOCK * PHX_CPU_PANEL);
        if (!again)
            p->code->expand(panel + block * traits->block_bytes * PHX_CPU_PANEL, n_blocks,
                            (float *)out[i]);
    }
}

/* Add `n_steps` steps from `step` on of a group of panels to the sums of the piece's rows. */
static void sum_group(const struct phx_product *p, const struct piece *piece, int group,
                      int64_t step, int64_t n_steps, float *sums)
{
    const char *from[GROUP];
    if (p->expand)
        expand_group(p, piece, group, step, n_steps, sums + ROW_BLOCK * SUM_COLS, from);
    else
        for (int i = 0; i < GROUP; i++)
            from[i] = piece->panels[group + i] + (size_t)step * p->step_w_bytes;
    for (int64_t row = 0; row < piece->rows; row += p->max_rows) {
        const struct phx_tile *tile = tile_for(p, min64(p->max_rows, piece->rows - row));
        int64_t before = (piece->group->packed + piece->row + row) * p->n_steps + step * tile->rows;
        const char *x = p->packed + (size_t)before * p->step_x_bytes;
        for (int i = group; i < group + GROUP && i < piece->n_panels; i += tile->panels) {
            tile->run(x, from + (i - group), n_steps, sums + row * SUM_COLS + i * PHX_CPU_PANEL,
                      SUM_COLS);
        }
    }
}

/* Many rows use a block of panels again and again: block by block. A few rows only read them:
 * each panel from front to back. */
static void sum_piece(const struct phx_product *p, const struct piece *piece, float *sums)
{
    int64_t run = piece->rows > p->max_rows ? p->block_steps : p->n_steps;
    int64_t sum_rows = blocks_of(piece->rows, p->max_rows) * p->max_rows;
    memset(sums, 0, (size_t)(sum_rows * SUM_COLS) * sizeof *sums);
    for (int64_t begin = 0; begin < p->n_steps; begin += run)
        for (int group = 0; group < piece->n_panels; group += GROUP)
            for (int64_t step = begin; step < min64(begin + run, p->n_steps);
                 step += p->block_steps)
                sum_group(p, piece, group, step, min64(p->block_steps, p->n_steps - step), sums);
}

static void scale_and_cap(float scale, float cap, int64_t n, float *sums)
{
    for (int64_t c = 0; scale != 0 && c < n; c++) sums[c] *= scale;
    for (int64_t c = 0; cap != 0 && c < n; c++) sums[c] = cap * tanhf(sums[c] / cap);
}

static void add_bias(const float *bias, int64_t n, float *sums)
{
    for (int64_t c = 0; c < n; c++) sums[c] += bias[c];
}

/* One row of a piece, from its sums to out. */
static void finish_row(const struct phx_product *p, const struct piece *piece, float *sums,
                       float *out)
{
    float *up = sums + piece->up;
    sums += piece->first;
    if (p->bias != NULL) {
        add_bias(p->bias + piece->col, piece->cols, sums);
        if (p->gated) add_bias(p->bias + p->n_out + piece->col, piece->cols, up);
    }
    scale_and_cap(p->scale, p->soft_cap, piece->cols, sums);
    if (p->gated)
        p->gate(p->activation, sums, up, piece->cols, out);
    else
        memcpy(out, sums, (size_t)piece->cols * sizeof *out);
}

static void run_pieces(void *user, int64_t begin, int64_t end, int thread)
{
    const struct phx_product *p = user;
    float *sums = phx_cpu_scratch(p->stream, thread);
    const struct phx_product_group *g = p->groups;
    for (int64_t index = begin; index < end; index++) {
        while (g + 1 < p->groups + p->n_groups && g[1].first_piece <= index) g++;
        struct piece piece = piece_at(p, g, index - g->first_piece);
        sum_piece(p, &piece, sums);
        for (int64_t r = 0; r < piece.rows; r++)
            finish_row(p, &piece, sums + r * SUM_COLS,
                       p->out + out_row(p, g->begin + piece.row + r) * p->out_stride + piece.col);
    }
}

/* ---- the whole ---- */

static const struct phx_tile *tiles_of(enum phx_cpu_isa isa, enum phx_tile_kind kind)
{
    switch (isa) {
    case PHX_ISA_PORTABLE:
        return phx_tiles_portable(kind);
    case PHX_ISA_AVX2:
        return phx_tiles_avx2(kind);
    case PHX_ISA_AVX512:
        return phx_tiles_avx512(kind);
    default:
        PHX_ASSERT(isa == PHX_ISA_AVX512_BF16);
        return phx_tiles_avx512_bf16(kind);
    }
}

/* A quantised weight: its blocks are steps for a few rows, its columns for many. */
static void choose_blocks(struct phx_product *p, enum phx_cpu_isa isa, int64_t n_rows)
{
    enum phx_dtype dtype = p->weight->shape.dtype;
    int block = phx_dtype_traits(dtype)->block_elements;
    p->kind = PHX_TILE_F32;
    p->code = isa == PHX_ISA_PORTABLE ? phx_blocks_portable(dtype)
              : isa == PHX_ISA_AVX2   ? phx_blocks_avx2(dtype)
                                      : phx_blocks_avx512(dtype);
    p->expand = n_rows > PHX_BLOCK_TILE_MAX_ROWS;
    p->tiles = p->expand ? tiles_of(isa, PHX_TILE_F32) : p->code->tiles;
    int step_cols = p->expand ? 1 : block;
    p->n_steps = phx_weight_stored_cols(&p->weight->shape) / step_cols;
    p->block_steps = BLOCK / step_cols;
    p->step_x_bytes = (size_t)step_cols * sizeof(float);
    p->step_w_bytes = p->expand ? 0 : phx_dtype_bytes(dtype, block * PHX_CPU_PANEL);
}

static void choose_plain(struct phx_product *p, enum phx_cpu_isa isa)
{
    enum phx_dtype dtype = p->weight->shape.dtype;
    p->kind = dtype == PHX_F32 ? PHX_TILE_F32 : dtype == PHX_F16 ? PHX_TILE_F16 : PHX_TILE_BF16;
    if (p->kind == PHX_TILE_BF16 && p->round && isa == PHX_ISA_AVX512_BF16)
        p->kind = PHX_TILE_BF16_DOT;
    p->tiles = tiles_of(isa, p->kind);
    int step_cols = dtype == PHX_BF16 ? 2 : 1;
    p->n_steps = blocks_of(p->weight->shape.cols, step_cols);
    p->block_steps = BLOCK / step_cols;
    p->step_x_bytes = p->kind == PHX_TILE_BF16_DOT ? 4 : (size_t)step_cols * sizeof(float);
    p->step_w_bytes = phx_dtype_bytes(dtype, step_cols * PHX_CPU_PANEL);
}

void phx_product_choose(struct phx_product *p, int64_t n_rows)
{
    const struct phx_cpu_device *device = phx_cpu_device(p->stream);
    p->round = device->bf16_products;
    p->gate = device->isa == PHX_ISA_PORTABLE ? phx_gate_portable
              : device->isa == PHX_ISA_AVX2   ? phx_gate_avx2
                                              : phx_gate_avx512;
    if (phx_dtype_traits(p->weight->shape.dtype)->is_float)
        choose_plain(p, device->isa);
    else
        choose_blocks(p, device->isa, n_rows);
    p->max_rows = tile_for(p, INT64_MAX)->rows;
    PHX_ASSERT(ROW_BLOCK % p->max_rows == 0);
}

/* One row of floats is packed as it lies, but for what would pair with an odd last column or fill
 * up blocks. */
static bool lies_packed(const struct phx_product *p)
{
    bool padded =
        (size_t)p->n_steps * p->step_x_bytes !=
        (size_t)p->weight->shape.cols * sizeof(float); /* or in bf16: then it is rounded */
    return p->order == NULL && p->groups[0].rows == 1 && !p->round && !padded;
}

static void pack(struct phx_product *p, int64_t n_rows)
{
    struct phx_pool *pool = phx_cpu_pool(p->stream);
    if (lies_packed(p)) {
        p->packed = (const char *)p->x;
        return;
    }
    int64_t n_tiles = 0;
    for (int g = 0; g < p->n_groups; g++) {
        p->groups[g].first_tile = n_tiles;
        n_tiles += blocks_of(p->groups[g].rows, p->max_rows);
    }
    bool small = n_rows * p->weight->shape.cols <= SMALL;
    p->packed = phx_cpu_shared_scratch(p->stream);
    phx_pool_for(pool, n_tiles, small ? n_tiles : 1, pack_tiles, p);
}

static int64_t count_pieces(struct phx_product *p)
{
    int64_t n = 0;
    for (int g = 0; g < p->n_groups; g++) {
        p->groups[g].first_piece = n;
        p->groups[g].n_row_blocks = blocks_of(p->groups[g].rows, ROW_BLOCK);
        n += blocks_of(p->n_panels, p->piece_panels) * p->groups[g].n_row_blocks;
    }
    return n;
}

void phx_product_multiply(struct phx_product *p)
{
    struct phx_pool *pool = phx_cpu_pool(p->stream);
    int64_t n_rows = 0;
    for (int g = 0; g < p->n_groups; g++) n_rows += p->groups[g].rows;
    if (n_rows == 0) return;
    pack(p, n_rows);
    p->n_panels = blocks_of(p->n_out, PHX_CPU_PANEL);
    int64_t n_pieces, wanted = (int64_t)PIECES_PER_THREAD * phx_pool_size(pool);
    p->piece_panels = p->gated ? PIECE_PANELS : 2 * PIECE_PANELS;
    do {
        p->piece_panels /= 2;
        n_pieces = count_pieces(p);
    } while (p->piece_panels > 1 && n_pieces < wanted);
    int64_t weight_rows = p->gated ? 2 * p->n_out : p->n_out;
    bool small = n_rows * weight_rows * p->weight->shape.cols <= SMALL;
    phx_pool_for(pool, n_pieces, small ? n_pieces : 1, run_pieces, p);
    p->n_groups = 0;
}

/* The last tile of a group may take one row more than it has. */
void phx_product_add(struct phx_product *p, int64_t begin, int64_t rows, int64_t weight_row)
{
    const struct phx_product_group *last = p->n_groups > 0 ? &p->groups[p->n_groups - 1] : NULL;
    p->groups[p->n_groups++] = (struct phx_product_group){
        .begin = begin,
        .rows = rows,
        .weight_row = weight_row,
        .packed = last != NULL ? last->packed + last->rows + 1 : 0,
    };
}

/* ---- scratch ---- */

/* Sums, and a group of panels expanded. */
size_t phx_cpu_linear_thread_bytes(void)
{
    return sizeof(float) * (ROW_BLOCK * SUM_COLS + GROUP * BLOCK * PHX_CPU_PANEL);
}

/* The last tile may take one row more than it has; the input is padded to whole blocks at both
 * ends. */
size_t phx_cpu_linear_shared_bytes(const struct phx_limits *limits)
{
    return sizeof(float) * (size_t)(limits->max_rows + 1) *
           (size_t)(limits->max_in + 2 * PHX_MAX_BLOCK_ELEMENTS);
}
