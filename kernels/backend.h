/// \file backend.h
/// What a backend is: one table, filled in its folder; and the heads of the objects it makes.
///
/// Only kernels/ includes this. device.c, weight.c and ops.c check arguments and call through the
/// table. A backend's own objects start with the structs below.
#ifndef PHX_KERNELS_BACKEND_H
#define PHX_KERNELS_BACKEND_H

#include "kernels/device.h"
#include "kernels/ops.h"
#include "kernels/weight.h"

#ifdef __cplusplus
extern "C" {
#endif

struct phx_backend;
struct phx_stage_times;

struct phx_device {
    const struct phx_backend *backend;
    struct phx_device_info info;
};

struct phx_stream {
    struct phx_device *device;
    struct phx_limits limits;
    unsigned left_out;             ///< bits 1 << enum phx_stage
    bool stands_in;                ///< for what is left out something starts that does nothing
    struct phx_stage_times *times; ///< NULL: nobody asks
    double all_stages_s;           ///< of all stages together
    double ended_s;                ///< when the last one of this pass ended; 0: none yet
    int n_open;                    ///< under way, one within the other
};

struct phx_buffer {
    struct phx_device *device;
    void *address;
    size_t bytes;
    bool owned; ///< false for a wrapped buffer
};

struct phx_event {
    struct phx_device *device;
};

struct phx_graph {
    struct phx_device *device;
};

struct phx_weight {
    struct phx_device *device;
    struct phx_weight_shape shape;
    struct phx_buffer *buffer;
    /// Of a weight of several types: those of one type each, and no buffer. A backend never sees
    /// such a weight.
    struct phx_weight *bands[PHX_MAX_BANDS];
    int n_bands;
};

struct phx_backend {
    const char *name;
    /// Devices that can be made; 0 with a reason, a static sentence.
    int (*count)(const char **reason);
    enum phx_status (*describe)(int ordinal, struct phx_device_info *);
    /// Of two different devices.
    enum phx_status (*link)(int from, int to, struct phx_device_link *);

    enum phx_status (*device_create)(const struct phx_device_options *, struct phx_device **);
    void (*device_destroy)(struct phx_device *);
    /// A copy of the device's info with memory_free_bytes brought up to date.
    void (*device_info)(const struct phx_device *, struct phx_device_info *);

    enum phx_status (*stream_create)(struct phx_device *, const struct phx_limits *,
                                     struct phx_stream **);
    void (*stream_destroy)(struct phx_stream *);
    size_t (*stream_scratch_bytes)(const struct phx_device *, const struct phx_limits *);
    enum phx_status (*stream_synchronize)(struct phx_stream *);

    enum phx_status (*buffer_create)(struct phx_device *, size_t, struct phx_buffer **);
    enum phx_status (*buffer_wrap)(struct phx_device *, void *, size_t, struct phx_buffer **);
    void (*buffer_destroy)(struct phx_buffer *);
    enum phx_status (*buffer_upload)(struct phx_stream *, struct phx_buffer *, size_t, size_t,
                                     const void *, size_t, size_t, int64_t);
    enum phx_status (*buffer_download)(struct phx_stream *, const struct phx_buffer *, size_t,
                                       size_t, void *, size_t, size_t, int64_t);
    enum phx_status (*buffer_copy)(struct phx_stream *, struct phx_buffer *, size_t,
                                   const struct phx_buffer *, size_t, size_t);
    enum phx_status (*buffer_zero)(struct phx_stream *, struct phx_buffer *, size_t, size_t);
    enum phx_status (*host_alloc)(struct phx_device *, size_t, void **);
    void (*host_free)(struct phx_device *, void *);

    enum phx_status (*event_create)(struct phx_device *, struct phx_event **);
    void (*event_destroy)(struct phx_event *);
    enum phx_status (*event_record)(struct phx_event *, struct phx_stream *);
    enum phx_status (*event_wait)(struct phx_event *);
    enum phx_status (*event_elapsed_ms)(const struct phx_event *, const struct phx_event *,
                                        float *);

    enum phx_status (*graph_begin)(struct phx_stream *);
    enum phx_status (*graph_end)(struct phx_stream *, struct phx_graph **);
    enum phx_status (*graph_launch)(struct phx_graph *, struct phx_stream *);
    void (*graph_destroy)(struct phx_graph *);

    size_t (*weight_bytes)(const struct phx_device *, const struct phx_weight_shape *);
    enum phx_status (*weight_create)(struct phx_device *, const struct phx_weight_shape *,
                                     struct phx_weight **);
    void (*weight_destroy)(struct phx_weight *);
    enum phx_status (*weight_write)(struct phx_stream *, struct phx_weight *, int64_t, int64_t,
                                    enum phx_dtype, const void *, size_t);
    enum phx_status (*weight_write_dummy)(struct phx_stream *, struct phx_weight *, int64_t,
                                          int64_t, const struct phx_dummy *, int64_t, int64_t);
    enum phx_status (*weight_read)(struct phx_stream *, const struct phx_weight *, int64_t, int64_t,
                                   float *);

    enum phx_status (*probe_fill)(struct phx_stream *, struct phx_buffer *);
    enum phx_status (*probe_read)(struct phx_stream *, const struct phx_buffer *, size_t, size_t,
                                  struct phx_buffer *);
    enum phx_status (*probe_empty)(struct phx_stream *, bool);
    double (*probe_multiply)(struct phx_stream *);

    enum phx_status (*embed)(struct phx_stream *, const struct phx_embed *);
    enum phx_status (*add_norm)(struct phx_stream *, const struct phx_add_norm *);
    enum phx_status (*linear)(struct phx_stream *, const struct phx_linear *);
    enum phx_status (*gate_up)(struct phx_stream *, const struct phx_gate_up *);
    enum phx_status (*route)(struct phx_stream *, const struct phx_route *);
    enum phx_status (*experts_gate_up)(struct phx_stream *, const struct phx_experts_gate_up *);
    enum phx_status (*experts_down)(struct phx_stream *, const struct phx_experts_down *);
    enum phx_status (*rope_table)(struct phx_stream *, const struct phx_rope_table *);
    enum phx_status (*head_squares)(struct phx_stream *, const struct phx_head_squares *);
    enum phx_status (*rope_append)(struct phx_stream *, const struct phx_rope_append *);
    enum phx_status (*attention)(struct phx_stream *, const struct phx_attention *);
    enum phx_status (*attention_tapped)(struct phx_stream *, const struct phx_attention *);
    enum phx_status (*gather_rows)(struct phx_stream *, const struct phx_gather_rows *);
    enum phx_status (*count_tokens)(struct phx_stream *, const struct phx_count_tokens *);
    enum phx_status (*adjust_logits)(struct phx_stream *, const struct phx_adjust_logits *);
    enum phx_status (*sample_candidates)(struct phx_stream *, const struct phx_sample_candidates *);
    enum phx_status (*sample_pick)(struct phx_stream *, const struct phx_sample_pick *);
    enum phx_status (*sample_full)(struct phx_stream *, const struct phx_sample_full *);
};

const struct phx_backend *phx_backend_cpu(void);
/// Of cuda/, or of cuda_absent.c, whose `count` says that this build has none, and which else only
/// knows the sizes of cuda/sizes.h.
const struct phx_backend *phx_backend_cuda(void);

#ifdef __cplusplus
}
#endif
#endif
