/// \file cpu.h
/// What the files of the CPU backend share. Only kernels/cpu includes this.
#ifndef PHX_KERNELS_CPU_CPU_H
#define PHX_KERNELS_CPU_CPU_H

#include "kernels/backend.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/pool.h"

struct phx_cpu_device {
    struct phx_device base;
    struct phx_pool *pool;
    enum phx_cpu_isa isa; ///< the machine's best, or less if the options ask for less
    bool bf16_products;   ///< products round activations to bf16
};

struct phx_cpu_stream {
    struct phx_stream base;
    char *scratch; ///< scratch_bytes, 64-byte aligned; thread t owns [t * thread_bytes, +
                   ///< thread_bytes)
    size_t scratch_bytes;
    size_t thread_bytes;
};

static inline struct phx_cpu_device *phx_cpu_device(const struct phx_stream *stream)
{
    return (struct phx_cpu_device *)stream->device;
}

static inline struct phx_pool *phx_cpu_pool(const struct phx_stream *stream)
{
    return phx_cpu_device(stream)->pool;
}

enum {
    PHX_CPU_PANEL = 16 ///< rows of a weight that lie interleaved
};

/// Where the panel of rows [panel * 16, panel * 16 + 16) begins, and how many values it has.
/// In a panel, value (row, col) lies at index col * 16 + row for f32 and f16. For bf16, columns lie
/// in pairs, (col / 2) * 32 + row * 2 + col % 2, and an odd last column pairs with zeros. Rows past
/// the last are zeros. Of a quantised type, the 16 blocks of a run of columns lie together, and in
/// them the 16 rows' byte 0, then their byte 1 and so on, but f16 numbers whole. (Columns count
/// from the first block's first one.)
static inline int64_t phx_cpu_panel_values(const struct phx_weight_shape *shape)
{
    int64_t cols = phx_weight_stored_cols(shape);
    if (shape->dtype == PHX_BF16) cols = (cols + 1) / 2 * 2;
    return cols * PHX_CPU_PANEL;
}

static inline char *phx_cpu_panel(const struct phx_weight *weight, int64_t panel)
{
    return (char *)weight->buffer->address +
           phx_dtype_bytes(weight->shape.dtype, panel * phx_cpu_panel_values(&weight->shape));
}

/// Scratch that each thread needs, and that all share, apart from products': attention's.
/// (attention.c)
size_t phx_cpu_ops_thread_bytes(const struct phx_limits *limits);
size_t phx_cpu_ops_shared_bytes(const struct phx_limits *limits);
/// Scratch that each thread needs for products. (product.c)
size_t phx_cpu_linear_thread_bytes(void);
/// Scratch of the stream that all threads share during a product: packed activations. (product.c)
size_t phx_cpu_linear_shared_bytes(const struct phx_limits *limits);

/// The thread's scratch; ops use it freely, nothing survives an op.
static inline void *phx_cpu_scratch(const struct phx_stream *stream, int thread)
{
    const struct phx_cpu_stream *s = (const struct phx_cpu_stream *)stream;
    return s->scratch + (size_t)thread * s->thread_bytes;
}

/// The shared scratch lies after the threads' parts.
static inline void *phx_cpu_shared_scratch(const struct phx_stream *stream)
{
    const struct phx_cpu_stream *s = (const struct phx_cpu_stream *)stream;
    return s->scratch + (size_t)phx_pool_size(phx_cpu_pool(stream)) * s->thread_bytes;
}

/// Row `row` of a weight as f32, to[cols]. (weight.c)
void phx_cpu_weight_row(const struct phx_weight *weight, int64_t row, float *to);
/// The same of a quantised type; and rows from host memory, as phx_weight_write() has them, in the
/// weight's type. (weight_blocks.c)
void phx_cpu_blocks_row(const struct phx_weight *weight, int64_t row, float *to);
void phx_cpu_blocks_write(struct phx_stream *stream, struct phx_weight *weight, int64_t row,
                          int64_t rows, const void *from, size_t from_pitch);

enum phx_status phx_cpu_probe_fill(struct phx_stream *, struct phx_buffer *);
enum phx_status phx_cpu_probe_read(struct phx_stream *, const struct phx_buffer *, size_t, size_t,
                                   struct phx_buffer *);
enum phx_status phx_cpu_probe_empty(struct phx_stream *, bool);
double phx_cpu_probe_multiply(struct phx_stream *);
enum phx_status phx_cpu_embed(struct phx_stream *, const struct phx_embed *);
enum phx_status phx_cpu_add_norm(struct phx_stream *, const struct phx_add_norm *);
enum phx_status phx_cpu_linear(struct phx_stream *, const struct phx_linear *);
enum phx_status phx_cpu_gate_up(struct phx_stream *, const struct phx_gate_up *);
enum phx_status phx_cpu_route(struct phx_stream *, const struct phx_route *);
enum phx_status phx_cpu_experts_gate_up(struct phx_stream *, const struct phx_experts_gate_up *);
enum phx_status phx_cpu_experts_down(struct phx_stream *, const struct phx_experts_down *);
enum phx_status phx_cpu_rope_table(struct phx_stream *, const struct phx_rope_table *);
enum phx_status phx_cpu_head_squares(struct phx_stream *, const struct phx_head_squares *);
enum phx_status phx_cpu_rope_append(struct phx_stream *, const struct phx_rope_append *);
enum phx_status phx_cpu_attention(struct phx_stream *, const struct phx_attention *);
enum phx_status phx_cpu_attention_tapped(struct phx_stream *, const struct phx_attention *);
enum phx_status phx_cpu_gather_rows(struct phx_stream *, const struct phx_gather_rows *);
enum phx_status phx_cpu_count_tokens(struct phx_stream *, const struct phx_count_tokens *);
enum phx_status phx_cpu_adjust_logits(struct phx_stream *, const struct phx_adjust_logits *);
enum phx_status phx_cpu_sample_candidates(struct phx_stream *,
                                          const struct phx_sample_candidates *);
enum phx_status phx_cpu_sample_pick(struct phx_stream *, const struct phx_sample_pick *);
enum phx_status phx_cpu_sample_full(struct phx_stream *, const struct phx_sample_full *);

/* The rest of the table: device.c and weight.c. */
enum phx_status phx_cpu_describe(int ordinal, struct phx_device_info *);
enum phx_status phx_cpu_device_create(const struct phx_device_options *, struct phx_device **);
void phx_cpu_device_destroy(struct phx_device *);
void phx_cpu_device_info(const struct phx_device *, struct phx_device_info *);
enum phx_status phx_cpu_stream_create(struct phx_device *, const struct phx_limits *,
                                      struct phx_stream **);
void phx_cpu_stream_destroy(struct phx_stream *);
size_t phx_cpu_stream_scratch_bytes(const struct phx_device *, const struct phx_limits *);
enum phx_status phx_cpu_stream_synchronize(struct phx_stream *);
enum phx_status phx_cpu_buffer_create(struct phx_device *, size_t, struct phx_buffer **);
enum phx_status phx_cpu_buffer_wrap(struct phx_device *, void *, size_t, struct phx_buffer **);
void phx_cpu_buffer_destroy(struct phx_buffer *);
enum phx_status phx_cpu_buffer_upload(struct phx_stream *, struct phx_buffer *, size_t, size_t,
                                      const void *, size_t, size_t, int64_t);
enum phx_status phx_cpu_buffer_download(struct phx_stream *, const struct phx_buffer *, size_t,
                                        size_t, void *, size_t, size_t, int64_t);
enum phx_status phx_cpu_buffer_copy(struct phx_stream *, struct phx_buffer *, size_t,
                                    const struct phx_buffer *, size_t, size_t);
enum phx_status phx_cpu_buffer_zero(struct phx_stream *, struct phx_buffer *, size_t, size_t);
enum phx_status phx_cpu_host_alloc(struct phx_device *, size_t, void **);
void phx_cpu_host_free(struct phx_device *, void *);
enum phx_status phx_cpu_event_create(struct phx_device *, struct phx_event **);
void phx_cpu_event_destroy(struct phx_event *);
enum phx_status phx_cpu_event_record(struct phx_event *, struct phx_stream *);
enum phx_status phx_cpu_event_wait(struct phx_event *);
enum phx_status phx_cpu_event_elapsed_ms(const struct phx_event *, const struct phx_event *,
                                         float *);
enum phx_status phx_cpu_graph_begin(struct phx_stream *);
enum phx_status phx_cpu_graph_end(struct phx_stream *, struct phx_graph **);
enum phx_status phx_cpu_graph_launch(struct phx_graph *, struct phx_stream *);
void phx_cpu_graph_destroy(struct phx_graph *);
size_t phx_cpu_weight_bytes(const struct phx_device *, const struct phx_weight_shape *);
enum phx_status phx_cpu_weight_create(struct phx_device *, const struct phx_weight_shape *,
                                      struct phx_weight **);
void phx_cpu_weight_destroy(struct phx_weight *);
enum phx_status phx_cpu_weight_write(struct phx_stream *, struct phx_weight *, int64_t, int64_t,
                                     enum phx_dtype, const void *, size_t);
enum phx_status phx_cpu_weight_write_dummy(struct phx_stream *, struct phx_weight *, int64_t,
                                           int64_t, const struct phx_dummy *, int64_t, int64_t);
enum phx_status phx_cpu_weight_read(struct phx_stream *, const struct phx_weight *, int64_t,
                                    int64_t, float *);

#endif
