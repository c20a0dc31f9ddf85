/* Which kernel computes a product. Few rows: gemv. More: cuBLASLt, where weight and activations
 * have the same type and it takes the shape; else the plain one. Inputs that lie askew (a row not
 * at a multiple of 16 bytes, a width not a multiple of 8) are first packed into scratch, some rows
 * at a time. */
#include "kernels/cuda/cuda.h"

static bool lies_straight(const struct phx_cuda_product *p)
{
    return (uintptr_t)p->x % 16 == 0 && phx_dtype_bytes(p->x_dtype, p->x_stride) % 16 == 0 &&
           p->in % PHX_CUDA_ALIGN_VALUES == 0;
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

static enum phx_status many_rows(struct phx_stream *stream, const struct phx_cuda_product *p)
{
    bool done = false;
    if (p->x_dtype == p->weight_dtype) PHX_TRY(phx_cuda_matmul(stream, p, &done));
    if (!done) return phx_cuda_gemm(stream, p);
    if (phx_cuda_is_finished(p)) return PHX_OK;
    return phx_cuda_finish_product(stream, p);
}

static enum phx_status plain(struct phx_stream *stream, const struct phx_cuda_product *p,
                             enum phx_activation activation)
{
    (void)activation;
    return p->n <= PHX_CUDA_GEMV_MAX_ROWS ? phx_cuda_gemv(stream, p) : many_rows(stream, p);
}

static enum phx_status gated(struct phx_stream *base, const struct phx_cuda_product *p,
                             enum phx_activation activation)
{
    if (p->n <= PHX_CUDA_GEMV_MAX_ROWS) return phx_cuda_gemv_gated(base, p, activation);
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
over_rows(struct phx_stream *base, struct phx_cuda_product *p, enum phx_activation activation,
          enum phx_status (*compute)(struct phx_stream *, const struct phx_cuda_product *,
                                     enum phx_activation))
{
    const struct phx_cuda_stream *stream = phx_cuda_stream(base);
    PHX_TRY(phx_cuda_use(base->device));
    if (lies_straight(p)) return compute(base, p, activation);
    const int64_t in = p->in, pitch = phx_cuda_pitch(in);
    int64_t step = (int64_t)(stream->sizes.packed_bytes / phx_dtype_bytes(p->x_dtype, pitch));
    PHX_ASSERT(step >= 1); /* limits.max_in */
    p->in = pitch;         /* as the weight lies */
    for (int64_t row = 0; row < p->n; row += step) {
        struct phx_cuda_product some = part(*p, row, min64(step, p->n - row));
        PHX_TRY(phx_cuda_pack(base, p->x_dtype, some.x, p->x_stride, stream->packed, some.n, in));
        some.x = stream->packed;
        some.x_stride = pitch;
        PHX_TRY(compute(base, &some, activation));
    }
    return PHX_OK;
}

static struct phx_cuda_product product(struct phx_tensor x, const struct phx_weight *weight,
                                       struct phx_tensor bias, struct phx_tensor out)
{
    return (struct phx_cuda_product){
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
}

enum phx_status phx_cuda_linear(struct phx_stream *stream, const struct phx_linear *args)
{
    struct phx_cuda_product p = product(args->x, args->weight, args->bias, args->out);
    p.scale = args->scale;
    p.soft_cap = args->soft_cap;
    return over_rows(stream, &p, PHX_SILU, plain);
}

enum phx_status phx_cuda_gate_up(struct phx_stream *stream, const struct phx_gate_up *args)
{
    struct phx_cuda_product p = product(args->x, args->weight, args->bias, args->out);
    return over_rows(stream, &p, args->activation, gated);
}
