/* The ops that are products of weights. */
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/cpu/access.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/experts.h"
#include "kernels/cpu/product.h"

static void multiply_rows(struct phx_product *p, int64_t n_rows)
{
    if (n_rows == 0 || p->n_out == 0) return;
    phx_product_choose(p, n_rows);
    phx_product_add(p, 0, n_rows, 0);
    phx_product_multiply(p);
}

/* Room for packed rows of this product: that of the widest, as many as a step has. */
static int64_t packed_room(const struct phx_product *p)
{
    size_t bytes = phx_cpu_linear_shared_bytes(&p->stream->limits);
    return (int64_t)(bytes / ((size_t)p->n_steps * p->step_x_bytes));
}

static int64_t mean_rows(const int32_t *starts, int32_t n_experts)
{
    int64_t n_used = 0;
    for (int32_t e = 0; e < n_experts; e++) n_used += starts[e + 1] > starts[e];
    return n_used > 0 ? (starts[n_experts] + n_used - 1) / n_used : 0;
}

static void multiply_by_expert(struct phx_product *p, const struct phx_routing *routing)
{
    const int32_t *starts = phx_cpu_expert_starts(routing);
    const int64_t weight_rows = p->gated ? 2 * p->n_out : p->n_out;
    p->order = phx_cpu_expert_pairs(routing);
    phx_product_choose(p, mean_rows(starts, routing->n_local));
    const int64_t room = packed_room(p);
    int64_t used = 0;
    for (int32_t e = 0; e < routing->n_local; e++) {
        int64_t rows = starts[e + 1] - starts[e];
        if (rows == 0) continue;
        if (used + rows + 1 > room || p->n_groups == PHX_PRODUCT_MAX_GROUPS) {
            phx_product_multiply(p);
            used = 0;
        }
        phx_product_add(p, starts[e], rows, e * weight_rows);
        used += rows + 1;
    }
    phx_product_multiply(p);
}

static const float *floats(struct phx_tensor tensor)
{
    return phx_tensor_present(tensor) ? phx_tensor_address(tensor) : NULL;
}

enum phx_status phx_cpu_linear(struct phx_stream *stream, const struct phx_linear *args)
{
    struct phx_product p = {
        .weight = args->weight,
        .stream = stream,
        .x = floats(args->x),
        .x_stride = args->x.stride,
        .n_out = args->out.cols,
        .bias = floats(args->bias),
        .scale = args->scale,
        .soft_cap = args->soft_cap,
        .out = phx_tensor_address(args->out),
        .out_stride = args->out.stride,
    };
    multiply_rows(&p, args->x.rows);
    return PHX_OK;
}

enum phx_status phx_cpu_gate_up(struct phx_stream *stream, const struct phx_gate_up *args)
{
    struct phx_product p = {
        .weight = args->weight,
        .stream = stream,
        .x = floats(args->x),
        .x_stride = args->x.stride,
        .n_out = args->out.cols,
        .gated = true,
        .activation = args->activation,
        .bias = floats(args->bias),
        .out = phx_tensor_address(args->out),
        .out_stride = args->out.stride,
    };
    multiply_rows(&p, args->x.rows);
    return PHX_OK;
}

enum phx_status phx_cpu_experts_gate_up(struct phx_stream *stream,
                                        const struct phx_experts_gate_up *args)
{
    struct phx_product p = {
        .weight = args->weight,
        .stream = stream,
        .x = floats(args->x),
        .x_stride = args->x.stride,
        .per_row = (int32_t)args->routing.ids.cols,
        .n_out = args->out.cols,
        .gated = true,
        .activation = args->activation,
        .out = phx_tensor_address(args->out),
        .out_stride = args->out.stride,
    };
    multiply_by_expert(&p, &args->routing);
    return PHX_OK;
}

enum phx_status phx_cpu_experts_down(struct phx_stream *stream, const struct phx_experts_down *args)
{
    struct phx_product p = {
        .weight = args->weight,
        .stream = stream,
        .x = floats(args->x),
        .x_stride = args->x.stride,
        .per_row = 1,
        .n_out = args->out.cols,
        .out = phx_tensor_address(args->parts),
        .out_stride = args->parts.stride,
    };
    multiply_by_expert(&p, &args->routing);
    phx_cpu_experts_sum(stream, args);
    return PHX_OK;
}
