/* Panels of a quantised type: the blocks of 16 rows byte by byte side by side (cpu.h). */
#include <string.h>

#include "kernels/base/blocks.h"
#include "kernels/base/check.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/lanes.h"

enum { LANES_BYTES = 8 << 10 };

/* f16 numbers at the beginning of a block, and at its end. */
static void count_f16(enum phx_dtype dtype, int *first, int *last)
{
    *last = dtype == PHX_Q6_K;
    *first = dtype == PHX_Q6_K                                             ? 0
             : dtype == PHX_Q8_0 || dtype == PHX_Q4_0 || dtype == PHX_Q5_0 ? 1
                                                                           : 2;
}

/* Where byte `at` of lane 0 lies, f16 numbers being two bytes; `step` from lane to lane. */
struct places {
    int bytes, first_end, last_begin;
};

static struct places places_of(enum phx_dtype dtype)
{
    int first, last, bytes = phx_dtype_traits(dtype)->block_bytes;
    count_f16(dtype, &first, &last);
    return (struct places){bytes, 2 * first, bytes - 2 * last};
}

/* Blocks of `lanes` rows, pitch bytes apart, to their places in a panel from lane `lane` on. */
static void interleave(const struct places *p, const char *from, size_t pitch, int lane, int lanes,
                       char *to)
{
    const int begin[] = {0, p->first_end, p->last_begin, p->bytes};
    for (int part = 0; part < 3; part++) {
        int unit = part == 1 ? 1 : 2, at = begin[part];
        phx_cpu_lanes_write(unit, from + at, pitch, (begin[part + 1] - at) / unit, lane, lanes,
                            to + at * PHX_CPU_PANEL);
    }
}

static void gather(const struct places *p, const char *panel, int lane, char *block)
{
    for (int at = 0; at < p->bytes; at++) {
        bool f16 = at < p->first_end || at >= p->last_begin;
        block[at] =
            panel[f16 ? at / 2 * 2 * PHX_CPU_PANEL + 2 * lane + at % 2 : at * PHX_CPU_PANEL + lane];
    }
}

struct source {
    struct phx_weight *weight;
    int64_t row, rows;
    const char *from;
    size_t pitch;
};

/* Panels [begin, end), counted from that of the source's first row. */
static void fill_panels(void *user, int64_t begin, int64_t end, int thread)
{
    const struct source *s = user;
    const struct phx_weight_shape *shape = &s->weight->shape;
    const struct places places = places_of(shape->dtype);
    int64_t n_blocks =
        phx_weight_stored_cols(shape) / phx_dtype_traits(shape->dtype)->block_elements;
    const int64_t bytes = places.bytes * PHX_CPU_PANEL; /* of a block of all lanes */
    char lanes[LANES_BYTES];
    const int64_t some = LANES_BYTES / (2 * bytes) * 2; /* so many are whole lines of a cache */
    (void)thread;
    for (int64_t panel = s->row / PHX_CPU_PANEL + begin; panel < s->row / PHX_CPU_PANEL + end;
         panel++) {
        int64_t first = panel * PHX_CPU_PANEL, last = first + PHX_CPU_PANEL;
        int64_t row = first > s->row ? first : s->row;
        if (last > s->row + s->rows) last = s->row + s->rows;
        const char *from = s->from + (size_t)(row - s->row) * s->pitch;
        char *to = phx_cpu_panel(s->weight, panel);
        int n_lanes = (int)(last - row);
        bool whole = n_lanes == PHX_CPU_PANEL;
        for (int64_t block = 0, n; block < n_blocks; block += n) {
            n = n_blocks - block < some ? n_blocks - block : some;
            for (int64_t i = 0; i < n; i++)
                interleave(&places, from + (block + i) * places.bytes, s->pitch, (int)(row - first),
                           n_lanes, (whole ? lanes : to) + i * bytes);
            if (whole) phx_cpu_copy_past_caches(to, lanes, (size_t)(n * bytes));
            to += n * bytes;
        }
    }
}

void phx_cpu_blocks_write(struct phx_stream *stream, struct phx_weight *weight, int64_t row,
                          int64_t rows, const void *from, size_t from_pitch)
{
    struct source source = {weight, row, rows, from, from_pitch};
    if (rows == 0 || weight->shape.cols == 0) return;
    int64_t n = (row + rows - 1) / PHX_CPU_PANEL - row / PHX_CPU_PANEL + 1;
    phx_pool_for(phx_cpu_pool(stream), n, 1, fill_panels, &source);
}

void phx_cpu_blocks_row(const struct phx_weight *weight, int64_t row, float *to)
{
    const struct phx_weight_shape *shape = &weight->shape;
    const struct places places = places_of(shape->dtype);
    const int64_t block = phx_dtype_traits(shape->dtype)->block_elements;
    const char *panel = phx_cpu_panel(weight, row / PHX_CPU_PANEL);
    char bytes[PHX_MAX_BLOCK_ELEMENTS];
    float values[PHX_MAX_BLOCK_ELEMENTS];
    for (int64_t begin = -shape->lead; begin < shape->cols; begin += block) {
        gather(&places, panel, (int)(row % PHX_CPU_PANEL), bytes);
        phx_values_widen(shape->dtype, bytes, block, values);
        for (int64_t i = begin < 0 ? -begin : 0; i < block && begin + i < shape->cols; i++)
            to[begin + i] = values[i];
        panel += places.bytes * PHX_CPU_PANEL;
    }
}
