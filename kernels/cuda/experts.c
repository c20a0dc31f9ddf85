/* Mixtures of experts. A step of a few rows: each pair of row and expert reads the weights that it
 * needs, and only those. More rows: pairs are grouped by expert on the device, and each expert's
 * weights meet all its rows, tile by tile. The host never learns who was chosen. */
#include "kernels/cuda/experts.h"

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
    e.pitch = phx_cuda_pitch(x.cols);
    e.n_out = out.cols;
    e.x_stride = x.stride;
    e.out_stride = out.stride;
    e.straight =
        (uintptr_t)e.x % 16 == 0 && phx_dtype_bytes(x.dtype, x.stride) % 16 == 0 && e.in == e.pitch;
    return e;
}

enum phx_status phx_cuda_experts_gate_up(struct phx_stream *stream,
                                         const struct phx_experts_gate_up *args)
{
    struct phx_cuda_experts e = product(&args->routing, args->x, args->weight, args->out);
    e.per_row = e.k;
    e.activation = args->activation;
    PHX_TRY(phx_cuda_use(stream->device));
    if (is_few(&args->routing)) return phx_cuda_experts_gated_few(stream, &e);
    return phx_cuda_experts_many(stream, &e, true);
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
    if (is_few(&args->routing)) return phx_cuda_experts_sum_few(stream, &e, &sums);
    PHX_TRY(phx_cuda_experts_many(stream, &e, false));
    return phx_cuda_experts_sum(stream, &e, &sums);
}
