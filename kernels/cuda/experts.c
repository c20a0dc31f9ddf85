/* Mixtures of experts. A step of a few rows: each pair of row and expert reads the weights that it
 * needs, and only those. More rows: pairs are grouped by expert on the device, and each expert's
 * weights meet all its rows, tile by tile; quantised ones as values, some of them at a time. The
 * host never learns who was chosen. */
#include "kernels/cuda/blocks.h"

static bool is_few(const struct phx_routing *routing)
{
    return routing->ids.rows <= PHX_CUDA_FEW_EXPERT_ROWS;
}

static struct phx_cuda_experts lists_of(const struct phx_routing *r)
{
    int32_t *notes = phx_tensor_address(r->groups);
    return (struct phx_cuda_experts){.ids = phx_tensor_address(r->ids),
                                     .weights = phx_tensor_address(r->weights),
                                     .starts = notes,
                                     .pairs = notes + r->n_local + 1,
                                     .first = r->first_local,
                                     .n_local = r->n_local,
                                     .k = (int32_t)r->ids.cols,
                                     .n_pairs = r->ids.rows * r->ids.cols};
}

static bool is_quantised(const struct phx_cuda_experts *e)
{
    return !phx_dtype_traits(e->weight_dtype)->is_float;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static void set_straight(struct phx_cuda_experts *e)
{
    e->straight = (uintptr_t)e->x % 16 == 0 && phx_dtype_bytes(e->act, e->x_stride) % 16 == 0 &&
                  e->in == e->pitch && e->lead == 0;
}

/* The product of `x` with the experts' weight into `out`. */
static struct phx_cuda_experts product(const struct phx_routing *routing, struct phx_tensor x,
                                       const struct phx_weight *weight, struct phx_tensor out)
{
    struct phx_cuda_experts e = lists_of(routing);
    e.act = x.dtype;
    e.weight_dtype = weight->shape.dtype;
    e.x = phx_tensor_address(x);
    e.weight = weight->buffer->address;
    e.out = phx_tensor_address(out);
    e.per_row = 1;
    e.in = x.cols;
    e.pitch = phx_cuda_stored_cols(&weight->shape);
    e.lead = weight->shape.lead;
    e.n_out = out.cols;
    e.x_stride = x.stride;
    e.out_stride = out.stride;
    set_straight(&e);
    if (is_quantised(&e)) e.planes = phx_cuda_planes_of(&weight->shape, e.weight);
    return e;
}

/* Outputs [out, out + n) of `n_experts` experts from `expert` on, as a weight of values: all that
 * there are, or of one expert. */
static enum phx_status some_outputs(struct phx_stream *base, const struct phx_cuda_experts *e,
                                    int32_t expert, int32_t n_experts, int64_t out, int64_t n,
                                    bool gated)
{
    char *to = phx_cuda_stream(base)->expanded;
    struct phx_cuda_experts some = *e;
    const bool whole = n == e->n_out;
    some.weight = to;
    some.weight_dtype = e->act;
    some.pitch = phx_cuda_pitch(e->in);
    some.lead = 0;
    some.starts += expert;
    some.n_local = n_experts;
    some.n_out = n;
    some.out = (char *)e->out + phx_dtype_bytes(e->act, out);
    set_straight(&some);
    const int64_t row = (gated ? 2 : 1) * expert * e->n_out + out;
    const int64_t rows = (gated && whole ? 2 : 1) * n_experts * n;
    PHX_TRY(phx_cuda_blocks_expand(base, e->weight_dtype, &e->planes, row, rows, e->lead, e->in,
                                   e->act, to, some.pitch));
    if (gated && !whole) {
        to += phx_dtype_bytes(e->act, n * some.pitch);
        PHX_TRY(phx_cuda_blocks_expand(base, e->weight_dtype, &e->planes, row + e->n_out, n,
                                       e->lead, e->in, e->act, to, some.pitch));
    }
    return phx_cuda_experts_many(base, &some, gated);
}

static enum phx_status many(struct phx_stream *base, const struct phx_cuda_experts *e, bool gated)
{
    if (!is_quantised(e)) return phx_cuda_experts_many(base, e, gated);
    const size_t row_bytes = phx_dtype_bytes(e->act, phx_cuda_pitch(e->in));
    const int64_t fit = (int64_t)(phx_cuda_stream(base)->sizes.expanded_bytes / row_bytes);
    const int64_t halves = gated ? 2 : 1, whole = fit / (halves * e->n_out);
    PHX_ASSERT(fit >= halves); /* limits.quantised */
    const int32_t n_experts = whole > 1 ? (int32_t)min64(whole, e->n_local) : 1;
    const int64_t n = whole > 0 ? e->n_out : fit / halves;
    for (int32_t expert = 0; expert < e->n_local; expert += n_experts)
        for (int64_t out = 0; out < e->n_out; out += n)
            PHX_TRY(some_outputs(base, e, expert, (int32_t)min64(n_experts, e->n_local - expert),
                                 out, min64(n, e->n_out - out), gated));
    return PHX_OK;
}

enum phx_status phx_cuda_experts_gate_up(struct phx_stream *stream,
                                         const struct phx_experts_gate_up *args)
{
    struct phx_cuda_experts e = product(&args->routing, args->x, args->weight, args->out);
    e.per_row = e.k;
    e.activation = args->activation;
    PHX_TRY(phx_cuda_use(stream->device));
    if (!is_few(&args->routing)) return many(stream, &e, true);
    return is_quantised(&e) ? phx_cuda_blocks_experts(stream, &e, true)
                            : phx_cuda_experts_gated_few(stream, &e);
}

enum phx_status phx_cuda_experts_down(struct phx_stream *stream,
                                      const struct phx_experts_down *args)
{
    const struct phx_cuda_experts e = product(&args->routing, args->x, args->weight, args->parts);
    const bool adds = phx_tensor_present(args->add);
    const struct phx_cuda_expert_sums sums = {
        .parts = e.out,
        .add = adds ? phx_tensor_address(args->add) : NULL,
        .add_gate = adds ? phx_tensor_address(args->add_gate) : NULL,
        .out = phx_tensor_address(args->out),
        .parts_stride = e.out_stride,
        .add_stride = args->add.stride,
        .gate_stride = args->add_gate.stride,
        .out_stride = args->out.stride,
    };
    PHX_TRY(phx_cuda_use(stream->device));
    const bool few = is_few(&args->routing);
    if (few && !is_quantised(&e)) return phx_cuda_experts_sum_few(stream, &e, &sums);
    PHX_TRY(few ? phx_cuda_blocks_experts(stream, &e, false) : many(stream, &e, false));
    return phx_cuda_experts_sum(stream, &e, &sums);
}
