/* Which kernel computes a product. Few rows: gemv. More: cuBLASLt, where weight and activations
 * have the same type and it takes the shape; else the plain one. A quantised weight becomes values
 * of the activations' type on the way, some of its rows at a time, or meets some more rows of x in
 * several gemvs, which then read less. Inputs that lie askew (a row not at a multiple of 16 bytes,
 * another width than the weight's as it lies) are first packed into scratch, some rows at a time.
 */
#include "kernels/cuda/blocks.h"

/* Where expansion, which writes and reads sixteen bits of every value, takes as long as gemvs. */
enum { FEW_QUANTISED_ROWS = 4 * PHX_CUDA_GEMV_MAX_ROWS };

static bool is_quantised(const struct phx_cuda_product *p)
{
    return !phx_dtype_traits(p->weight_dtype)->is_float;
}

static bool lies_straight(const struct phx_cuda_product *p, const struct phx_weight_shape *shape)
{
    return (uintptr_t)p->x % 16 == 0 && phx_dtype_bytes(p->x_dtype, p->x_stride) % 16 == 0 &&
           shape->lead == 0 && p->in == phx_cuda_stored_cols(shape);
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Rows [row, row + n) of a product. */
static struct phx_cuda_product part(struct phx_cuda_product p, int64_t row, int64_t n)
{
    p.x = (const char *)p.x + phx_dtype_bytes(p.x_dtype, row * p.x_stride);
    p.out = (char *)p.out + phx_dtype_bytes(p.out_dtype, row * p.out_stride);
    p.n = n;
    return p;
}

static enum phx_status many_plain_rows(struct phx_stream *stream, const struct phx_cuda_product *p)
{
    bool done = false;
    if (p->x_dtype == p->weight_dtype) PHX_TRY(phx_cuda_matmul(stream, p, &done));
    if (!done) return phx_cuda_gemm(stream, p);
    if (phx_cuda_is_finished(p)) return PHX_OK;
    return phx_cuda_finish_product(stream, p);
}

/* Rows of the weight as values, and their columns of out. */
static enum phx_status expanded_rows(struct phx_stream *base, const struct phx_cuda_product *p)
{
    const struct phx_cuda_stream *stream = phx_cuda_stream(base);
    int64_t step = (int64_t)(stream->sizes.expanded_bytes / phx_dtype_bytes(p->x_dtype, p->in));
    PHX_ASSERT(step >= PHX_CUDA_ALIGN_VALUES); /* limits.quantised */
    step -= step % PHX_CUDA_ALIGN_VALUES;      /* out stays aligned */
    for (int64_t row = 0; row < p->n_out; row += step) {
        struct phx_cuda_product some = *p;
        some.n_out = min64(step, p->n_out - row);
        some.weight_dtype = p->x_dtype;
        some.weight = stream->expanded;
        some.out = (char *)p->out + phx_dtype_bytes(p->out_dtype, row);
        if (p->bias != NULL) some.bias = p->bias + row;
        PHX_TRY(phx_cuda_blocks_expand(base, p->weight_dtype, &p->planes, row, some.n_out, 0, p->in,
                                       p->x_dtype, stream->expanded, p->in));
        PHX_TRY(many_plain_rows(base, &some));
    }
    return PHX_OK;
}

static enum phx_status many_rows(struct phx_stream *stream, const struct phx_cuda_product *p)
{
    return is_quantised(p) ? expanded_rows(stream, p) : many_plain_rows(stream, p);
}

static enum phx_status few_rows(struct phx_stream *stream, const struct phx_cuda_product *p,
                                bool is_gated, enum phx_activation activation)
{
    if (!is_quantised(p))
        return is_gated ? phx_cuda_gemv_gated(stream, p, activation) : phx_cuda_gemv(stream, p);
    for (int64_t row = 0; row < p->n; row += PHX_CUDA_GEMV_MAX_ROWS) {
        const struct phx_cuda_product some =
            part(*p, row, min64(PHX_CUDA_GEMV_MAX_ROWS, p->n - row));
        PHX_TRY(is_gated ? phx_cuda_blocks_gemv_gated(stream, &some, activation)
                         : phx_cuda_blocks_gemv(stream, &some));
    }
    return PHX_OK;
}

static bool is_few(const struct phx_cuda_product *p)
{
    return p->n <= (is_quantised(p) ? FEW_QUANTISED_ROWS : PHX_CUDA_GEMV_MAX_ROWS);
}

static enum phx_status plain(struct phx_stream *stream, const struct phx_cuda_product *p,
                             enum phx_activation activation)
{
    return is_few(p) ? few_rows(stream, p, false, activation) : many_rows(stream, p);
}

static enum phx_status gated(struct phx_stream *base, const struct phx_cuda_product *p,
                             enum phx_activation activation)
{
    if (is_few(p)) return few_rows(base, p, true, activation);
    const struct phx_cuda_stream *stream = phx_cuda_stream(base);
    int64_t step = (int64_t)(stream->sizes.wide_bytes / phx_dtype_bytes(p->x_dtype, p->n_out));
    PHX_ASSERT(step >= 1); /* limits.max_out */
    for (int64_t row = 0; row < p->n; row += step) {
        struct phx_cuda_product some = part(*p, row, min64(step, p->n - row));
        void *out = some.out;
        some.bias = NULL;
        some.out = stream->wide;
        some.out_dtype = p->x_dtype;
        some.out_stride = p->n_out;
        PHX_TRY(many_rows(base, &some));
        PHX_TRY(phx_cuda_gate(base, p->x_dtype, stream->wide, p->bias, activation, out,
                              p->out_stride, some.n, p->n_out / 2));
    }
    return PHX_OK;
}

/* `compute` over all rows at once, or over packed copies of some rows at a time. */
static enum phx_status
over_rows(struct phx_stream *base, struct phx_cuda_product *p, const struct phx_weight_shape *shape,
          enum phx_activation activation,
          enum phx_status (*compute)(struct phx_stream *, const struct phx_cuda_product *,
                                     enum phx_activation))
{
    const struct phx_cuda_stream *stream = phx_cuda_stream(base);
    PHX_TRY(phx_cuda_use(base->device));
    if (lies_straight(p, shape)) return compute(base, p, activation);
    const int64_t in = p->in, pitch = phx_cuda_stored_cols(shape);
    int64_t step = (int64_t)(stream->sizes.packed_bytes / phx_dtype_bytes(p->x_dtype, pitch));
    PHX_ASSERT(step >= 1); /* limits.max_in */
    p->in = pitch;         /* as the weight lies */
    for (int64_t row = 0; row < p->n; row += step) {
        struct phx_cuda_product some = part(*p, row, min64(step, p->n - row));
        PHX_TRY(phx_cuda_pack(base, p->x_dtype, some.x, p->x_stride, stream->packed, some.n, in,
                              shape->lead, pitch));
        some.x = stream->packed;
        some.x_stride = pitch;
        PHX_TRY(compute(base, &some, activation));
    }
    return PHX_OK;
}

static struct phx_cuda_product product(struct phx_tensor x, const struct phx_weight *weight,
                                       struct phx_tensor bias, struct phx_tensor out)
{
    struct phx_cuda_product p = {
        .x_dtype = x.dtype,
        .weight_dtype = weight->shape.dtype,
        .out_dtype = out.dtype,
        .x = phx_tensor_address(x),
        .weight = weight->buffer->address,
        .bias = phx_tensor_present(bias) ? phx_tensor_address(bias) : NULL,
        .out = phx_tensor_address(out),
        .n = x.rows,
        .in = x.cols,
        .n_out = weight->shape.rows,
        .x_stride = x.stride,
        .out_stride = out.stride,
    };
    if (is_quantised(&p)) p.planes = phx_cuda_planes_of(&weight->shape, p.weight);
    return p;
}

enum phx_status phx_cuda_linear(struct phx_stream *stream, const struct phx_linear *args)
{
    struct phx_cuda_product p = product(args->x, args->weight, args->bias, args->out);
    p.scale = args->scale;
    p.soft_cap = args->soft_cap;
    return over_rows(stream, &p, &args->weight->shape, PHX_SILU, plain);
}

enum phx_status phx_cuda_gate_up(struct phx_stream *stream, const struct phx_gate_up *args)
{
    struct phx_cuda_product p = product(args->x, args->weight, args->bias, args->out);
    return over_rows(stream, &p, &args->weight->shape, args->activation, gated);
}
