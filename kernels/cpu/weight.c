/* Weights lie in panels of 16 rows, column by column (cpu.h): a product then reads a weight once,
 * from front to back, and adds to 16 outputs at a time, without tails and without sums across
 * lanes. */
#include <stdlib.h>
#include <string.h>

#include "kernels/base/blocks.h"
#include "kernels/base/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/lanes.h"

enum {
    CHUNK = 256,           /* columns made at a time: whole pairs, whole blocks */
    PIECE_VALUES = 1 << 16 /* values that are worth a thread's attention */
};

struct source {
    struct phx_weight *weight;
    int64_t row, rows; /* what to fill */
    /* Make values [col, col + n) of row `row` of the weight, in its type. */
    void (*make)(const struct source *source, int64_t row, int64_t col, int64_t n, void *to);

    enum phx_dtype from_dtype;
    const char *from; /* of row `row` */
    size_t from_pitch;

    struct phx_dummy dummy;
    int64_t global_row, global_col;
};

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void make_from_host(const struct source *s, int64_t row, int64_t col, int64_t n, void *to)
{
    const char *from =
        s->from + (size_t)(row - s->row) * s->from_pitch + phx_dtype_bytes(s->from_dtype, col);
    enum phx_dtype dtype = s->weight->shape.dtype;
    if (dtype == s->from_dtype) {
        memcpy(to, from, phx_dtype_bytes(dtype, n));
        return;
    }
    float wide[CHUNK];
    phx_values_widen(s->from_dtype, from, n, wide);
    phx_values_narrow(dtype, wide, n, to);
}

static void make_dummy(const struct source *s, int64_t row, int64_t col, int64_t n, void *to)
{
    uint32_t key = phx_dummy_row_key(s->dummy.key, s->global_row + row - s->row);
    uint32_t first = (uint32_t)(s->global_col + col);
    float wide[CHUNK];
    for (int64_t i = 0; i < n; i++) {
        float scaled = s->dummy.scale * phx_dummy_unit(key, first + (uint32_t)i);
        wide[i] = s->dummy.center + scaled;
    }
    phx_values_narrow(s->weight->shape.dtype, wide, n, to);
}

/* Fill what the source gives of panels [begin, end), counted from its first one. */
static void fill_panels(void *user, int64_t begin, int64_t end, int thread)
{
    const struct source *s = user;
    const struct phx_weight_shape *shape = &s->weight->shape;
    float values[PHX_CPU_PANEL][CHUNK];
    char lanes[sizeof values];
    /* Of bf16, two columns are one. */
    const int unit = shape->dtype == PHX_F16 ? 2 : 4, columns = shape->dtype == PHX_BF16 ? 2 : 1;
    (void)thread;
    for (int64_t panel = begin; panel < end; panel++) {
        int64_t first = (s->row / PHX_CPU_PANEL + panel) * PHX_CPU_PANEL;
        int64_t last = min64(first + PHX_CPU_PANEL, s->row + s->rows);
        int64_t row = first < s->row ? s->row : first;
        bool whole = last - row == PHX_CPU_PANEL;
        char *to = phx_cpu_panel(s->weight, first / PHX_CPU_PANEL);
        for (int64_t col = 0; col < shape->cols; col += CHUNK) {
            int64_t n = min64(CHUNK, shape->cols - col), n_units = (n + columns - 1) / columns;
            for (int64_t r = row; r < last; r++) {
                values[r - row][n / 2] = 0; /* the pair of an odd last column */
                s->make(s, r, col, n, values[r - row]);
            }
            int64_t bytes = n_units * PHX_CPU_PANEL * unit;
            phx_cpu_lanes_write(unit, (const char *)values, sizeof values[0], n_units,
                                (int)(row - first), (int)(last - row), whole ? lanes : to);
            if (whole) phx_cpu_copy_past_caches(to, lanes, (size_t)bytes);
            to += bytes;
        }
    }
}

static enum phx_status fill(struct phx_stream *stream, struct source *source)
{
    int64_t cols = source->weight->shape.cols;
    if (source->rows == 0 || cols == 0) return PHX_OK;
    int64_t first = source->row / PHX_CPU_PANEL;
    int64_t last = (source->row + source->rows - 1) / PHX_CPU_PANEL;
    int64_t grain = PIECE_VALUES / (PHX_CPU_PANEL * cols);
    phx_pool_for(phx_cpu_pool(stream), last + 1 - first, grain > 0 ? grain : 1, fill_panels,
                 source);
    return PHX_OK;
}

size_t phx_cpu_weight_bytes(const struct phx_device *device, const struct phx_weight_shape *shape)
{
    (void)device;
    int64_t panels = (shape->rows + PHX_CPU_PANEL - 1) / PHX_CPU_PANEL;
    return phx_dtype_bytes(shape->dtype, panels * phx_cpu_panel_values(shape));
}

enum phx_status phx_cpu_weight_create(struct phx_device *device,
                                      const struct phx_weight_shape *shape, struct phx_weight **out)
{
    struct phx_weight *weight = malloc(sizeof *weight);
    if (weight == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a weight's handle");
    *weight = (struct phx_weight){.device = device, .shape = *shape};
    enum phx_status status =
        phx_cpu_buffer_create(device, phx_cpu_weight_bytes(device, shape), &weight->buffer);
    if (status != PHX_OK) {
        free(weight);
        return status;
    }
    *out = weight;
    return PHX_OK;
}

void phx_cpu_weight_destroy(struct phx_weight *weight)
{
    phx_cpu_buffer_destroy(weight->buffer);
    free(weight);
}

enum phx_status phx_cpu_weight_write(struct phx_stream *stream, struct phx_weight *weight,
                                     int64_t row, int64_t rows, enum phx_dtype from_dtype,
                                     const void *from, size_t from_pitch)
{
    struct source source = {.weight = weight,
                            .row = row,
                            .rows = rows,
                            .make = make_from_host,
                            .from_dtype = from_dtype,
                            .from = from,
                            .from_pitch = from_pitch};
    if (!phx_dtype_traits(weight->shape.dtype)->is_float) {
        phx_cpu_blocks_write(stream, weight, row, rows, from, from_pitch);
        return PHX_OK;
    }
    return fill(stream, &source);
}

enum phx_status phx_cpu_weight_write_dummy(struct phx_stream *stream, struct phx_weight *weight,
                                           int64_t row, int64_t rows, const struct phx_dummy *dummy,
                                           int64_t global_row, int64_t global_col)
{
    struct source source = {.weight = weight,
                            .row = row,
                            .rows = rows,
                            .make = make_dummy,
                            .dummy = *dummy,
                            .global_row = global_row,
                            .global_col = global_col};
    return fill(stream, &source);
}

void phx_cpu_weight_row(const struct phx_weight *weight, int64_t row, float *to)
{
    const char *panel = phx_cpu_panel(weight, row / PHX_CPU_PANEL);
    int64_t lane = row % PHX_CPU_PANEL, cols = weight->shape.cols;
    const uint16_t *from = (const uint16_t *)panel;
    switch (weight->shape.dtype) {
    case PHX_F16:
        for (int64_t c = 0; c < cols; c++) to[c] = phx_f32_from_f16(from[c * PHX_CPU_PANEL + lane]);
        break;
    case PHX_BF16:
        for (int64_t c = 0; c < cols; c++)
            to[c] = phx_f32_from_bf16(from[c / 2 * 2 * PHX_CPU_PANEL + 2 * lane + c % 2]);
        break;
    case PHX_F32:
        for (int64_t c = 0; c < cols; c++) to[c] = ((const float *)panel)[c * PHX_CPU_PANEL + lane];
        break;
    default:
        phx_cpu_blocks_row(weight, row, to);
    }
}

enum phx_status phx_cpu_weight_read(struct phx_stream *stream, const struct phx_weight *weight,
                                    int64_t row, int64_t rows, float *to)
{
    (void)stream;
    for (int64_t r = 0; r < rows; r++)
        phx_cpu_weight_row(weight, row + r, to + r * weight->shape.cols);
    return PHX_OK;
}
