/// \file cuda.h
/// What the files of the CUDA backend share. Only kernels/cuda includes this.
#ifndef PHX_KERNELS_CUDA_CUDA_H
#define PHX_KERNELS_CUDA_CUDA_H

#include <cublasLt.h>

#include "kernels/backend.h"
#include "kernels/base/check.h"
#include "kernels/cuda/native.h"
#include "kernels/cuda/sizes.h"

#ifdef __cplusplus
extern "C" {
#endif

struct phx_cuda_device {
    struct phx_device base;
    int ordinal;
    bool starts_early; ///< kernels start before their predecessor has ended (launch.cuh)
    cublasLtHandle_t lt;
};

/// Pinned memory through which uploads pass, so that a source may be reused at once. (copy.c)
struct phx_cuda_ring;

/// The algorithms that cuBLASLt chose for the shapes seen so far. (matmul.c)
struct phx_cuda_plans;

struct phx_cuda_stream {
    struct phx_stream base;
    cudaStream_t native;
    bool recording; ///< between graph_begin and graph_end
    struct phx_cuda_ring *ring;
    struct phx_cuda_plans *plans;
    struct phx_buffer *memory; ///< the parts, in this order
    struct phx_cuda_scratch sizes;
    char *workspace, *packed, *wide, *expanded, *partial, *tickets, *best;
};

static inline struct phx_cuda_device *phx_cuda_device(const struct phx_stream *stream)
{
    return (struct phx_cuda_device *)stream->device;
}

static inline struct phx_cuda_stream *phx_cuda_stream(const struct phx_stream *stream)
{
    return (struct phx_cuda_stream *)stream;
}

/// What the kernels that the device runs were compiled for, 80 or 90; or CUDA's error. (convert.cu)
cudaError_t phx_cuda_probe(int *architecture);

/* ---- copy.c ---- */
enum phx_status phx_cuda_ring_create(struct phx_cuda_ring **out);
void phx_cuda_ring_destroy(struct phx_cuda_ring *ring);
/// A rectangle of host memory to device memory; `from` may be reused on return.
enum phx_status phx_cuda_upload(struct phx_cuda_stream *stream, void *to, size_t to_pitch,
                                const void *from, size_t from_pitch, size_t row_bytes,
                                int64_t rows);

/* ---- convert.cu ---- */
/// to[r][c] = from[r][c] in another type; strides in values.
enum phx_status phx_cuda_convert(struct phx_stream *stream, enum phx_dtype from_dtype,
                                 const void *from, int64_t from_stride, enum phx_dtype to_dtype,
                                 void *to, int64_t to_stride, int64_t rows, int64_t cols);
enum phx_status phx_cuda_dummy(struct phx_stream *stream, enum phx_dtype dtype, void *to,
                               int64_t stride, int64_t rows, int64_t cols,
                               const struct phx_dummy *dummy, int64_t global_row,
                               int64_t global_col);

/// A quantised weight, plane by plane. (blocks.h)
struct phx_cuda_planes {
    char *quants, *tops, *scales, *supers;
    struct phx_cuda_block_pitches pitches;
    int64_t cols; ///< phx_cuda_stored_cols()
};

/* ---- products: linear.c decides, matmul.c is cuBLASLt, gemv.cu and gemm.cu are kernels ---- */
/// out[n][o] = soft_cap(scale * (sum_i x[n][i] weight[o][i] + bias[o])), as in struct phx_linear;
/// every row of x and weight begins at a multiple of 16 bytes, `in` is a multiple of
/// PHX_CUDA_ALIGN_VALUES. A weight of a quantised type is in `planes`, and only blocks.h takes it.
struct phx_cuda_product {
    enum phx_dtype x_dtype, weight_dtype, out_dtype;
    const void *x;      ///< [n, in], x_stride
    const void *weight; ///< [n_out, in], stride `in`
    struct phx_cuda_planes planes;
    const float *bias; ///< [n_out] or NULL
    void *out;         ///< [n, n_out], out_stride
    int64_t n, in, n_out;
    int64_t x_stride, out_stride;
    float scale, soft_cap; ///< 0: none
};

enum { PHX_CUDA_GEMV_MAX_ROWS = 8 };

/// n in 1..PHX_CUDA_GEMV_MAX_ROWS.
enum phx_status phx_cuda_gemv(struct phx_stream *stream, const struct phx_cuda_product *product);
/// The same with the weight's upper half gating the lower one: out [n, n_out / 2], bias [n_out].
enum phx_status phx_cuda_gemv_gated(struct phx_stream *stream,
                                    const struct phx_cuda_product *product,
                                    enum phx_activation activation);
/// Any types and sizes.
enum phx_status phx_cuda_gemm(struct phx_stream *stream, const struct phx_cuda_product *product);
/// Without bias and cap: cuBLASLt then scales as well and leaves nothing to do.
static inline bool phx_cuda_is_finished(const struct phx_cuda_product *p)
{
    return p->bias == NULL && p->soft_cap == 0;
}
/// Without bias and cap, nor the scale where there are any. Sets *done to false, with nothing
/// launched, where cuBLASLt has nothing to offer.
enum phx_status phx_cuda_matmul(struct phx_stream *stream, const struct phx_cuda_product *product,
                                bool *done);
enum phx_status phx_cuda_plans_create(struct phx_cuda_plans **out);
void phx_cuda_plans_destroy(struct phx_cuda_plans *plans);

/// Bias, scale and soft cap of a product, in place.
enum phx_status phx_cuda_finish_product(struct phx_stream *stream,
                                        const struct phx_cuda_product *product);
/// to[n][lead + i] = from[n][i] for i < in; zeros before and after, up to its stride `pitch`.
enum phx_status phx_cuda_pack(struct phx_stream *stream, enum phx_dtype dtype, const void *from,
                              int64_t stride, void *to, int64_t n, int64_t in, int64_t lead,
                              int64_t pitch);
/// out[n][f] = activation(x[n][f] + bias[f]) * (x[n][F + f] + bias[F + f]); x has no gaps.
enum phx_status phx_cuda_gate(struct phx_stream *stream, enum phx_dtype dtype, const void *x,
                              const float *bias, enum phx_activation activation, void *out,
                              int64_t out_stride, int64_t n, int64_t n_gated);

/* ---- the rest of the table: discover.c, device.c, copy.c, weight.c, linear.c, each op's .cu ----
 */
enum phx_status phx_cuda_device_create(const struct phx_device_options *, struct phx_device **);
void phx_cuda_device_destroy(struct phx_device *);
void phx_cuda_device_info(const struct phx_device *, struct phx_device_info *);
enum phx_status phx_cuda_stream_create(struct phx_device *, const struct phx_limits *,
                                       struct phx_stream **);
void phx_cuda_stream_destroy(struct phx_stream *);
enum phx_status phx_cuda_stream_synchronize(struct phx_stream *);

enum phx_status phx_cuda_buffer_create(struct phx_device *, size_t, struct phx_buffer **);
enum phx_status phx_cuda_buffer_wrap(struct phx_device *, void *, size_t, struct phx_buffer **);
void phx_cuda_buffer_destroy(struct phx_buffer *);
enum phx_status phx_cuda_buffer_upload(struct phx_stream *, struct phx_buffer *, size_t, size_t,
                                       const void *, size_t, size_t, int64_t);
enum phx_status phx_cuda_buffer_download(struct phx_stream *, const struct phx_buffer *, size_t,
                                         size_t, void *, size_t, size_t, int64_t);
enum phx_status phx_cuda_buffer_copy(struct phx_stream *, struct phx_buffer *, size_t,
                                     const struct phx_buffer *, size_t, size_t);
enum phx_status phx_cuda_buffer_zero(struct phx_stream *, struct phx_buffer *, size_t, size_t);
enum phx_status phx_cuda_host_alloc(struct phx_device *, size_t, void **);
void phx_cuda_host_free(struct phx_device *, void *);

enum phx_status phx_cuda_event_create(struct phx_device *, struct phx_event **);
void phx_cuda_event_destroy(struct phx_event *);
enum phx_status phx_cuda_event_record(struct phx_event *, struct phx_stream *);
enum phx_status phx_cuda_event_wait(struct phx_event *);
enum phx_status phx_cuda_event_elapsed_ms(const struct phx_event *, const struct phx_event *,
                                          float *);

enum phx_status phx_cuda_graph_begin(struct phx_stream *);
enum phx_status phx_cuda_graph_end(struct phx_stream *, struct phx_graph **);
enum phx_status phx_cuda_graph_launch(struct phx_graph *, struct phx_stream *);
void phx_cuda_graph_destroy(struct phx_graph *);

enum phx_status phx_cuda_weight_create(struct phx_device *, const struct phx_weight_shape *,
                                       struct phx_weight **);
void phx_cuda_weight_destroy(struct phx_weight *);
enum phx_status phx_cuda_weight_write(struct phx_stream *, struct phx_weight *, int64_t, int64_t,
                                      enum phx_dtype, const void *, size_t);
enum phx_status phx_cuda_weight_write_dummy(struct phx_stream *, struct phx_weight *, int64_t,
                                            int64_t, const struct phx_dummy *, int64_t, int64_t);
enum phx_status phx_cuda_weight_read(struct phx_stream *, const struct phx_weight *, int64_t,
                                     int64_t, float *);

enum phx_status phx_cuda_probe_fill(struct phx_stream *, struct phx_buffer *);
enum phx_status phx_cuda_probe_read(struct phx_stream *, const struct phx_buffer *, size_t, size_t,
                                    struct phx_buffer *);
enum phx_status phx_cuda_probe_empty(struct phx_stream *, bool);
double phx_cuda_probe_multiply(struct phx_stream *);
enum phx_status phx_cuda_embed(struct phx_stream *, const struct phx_embed *);
enum phx_status phx_cuda_add_norm(struct phx_stream *, const struct phx_add_norm *);
enum phx_status phx_cuda_linear(struct phx_stream *, const struct phx_linear *);
enum phx_status phx_cuda_gate_up(struct phx_stream *, const struct phx_gate_up *);
enum phx_status phx_cuda_route(struct phx_stream *, const struct phx_route *);
enum phx_status phx_cuda_experts_gate_up(struct phx_stream *, const struct phx_experts_gate_up *);
enum phx_status phx_cuda_experts_down(struct phx_stream *, const struct phx_experts_down *);
enum phx_status phx_cuda_rope_table(struct phx_stream *, const struct phx_rope_table *);
enum phx_status phx_cuda_head_squares(struct phx_stream *, const struct phx_head_squares *);
enum phx_status phx_cuda_rope_append(struct phx_stream *, const struct phx_rope_append *);
enum phx_status phx_cuda_attention(struct phx_stream *, const struct phx_attention *);
enum phx_status phx_cuda_attention_tapped(struct phx_stream *, const struct phx_attention *);
enum phx_status phx_cuda_gather_rows(struct phx_stream *, const struct phx_gather_rows *);
enum phx_status phx_cuda_count_tokens(struct phx_stream *, const struct phx_count_tokens *);
enum phx_status phx_cuda_adjust_logits(struct phx_stream *, const struct phx_adjust_logits *);
enum phx_status phx_cuda_sample_candidates(struct phx_stream *,
                                           const struct phx_sample_candidates *);
enum phx_status phx_cuda_sample_pick(struct phx_stream *, const struct phx_sample_pick *);
enum phx_status phx_cuda_sample_full(struct phx_stream *, const struct phx_sample_full *);

#ifdef __cplusplus
}
#endif
#endif
