/// \file forward.h
/// The decoder pass: the one place where operations and collectives are put in order.
///
/// Letters as in kernels/ops.h. Every rank runs the same pass on the same step.
#ifndef PHX_RUNTIME_FORWARD_H
#define PHX_RUNTIME_FORWARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"
#include "kernels/ops.h"
#include "parallel/comm.h"
#include "parallel/shard_plan.h"
#include "runtime/config.h"
#include "runtime/step_record.h"
#include "runtime/weights.h"

/// A step as the device sees it.
struct phx_step {
    struct phx_step_layout layout;
    struct phx_tensor ids;           ///< i32 [N, 1]; -1 - slot reads last_ids
    struct phx_tensor last_ids;      ///< i32 [B, 1], in and out
    struct phx_tensor prompt_slots;  ///< i32 [N, 1] slot whose prompt the row belongs to, or -1
    struct phx_tensor output_slots;  ///< i32 [N, 1] slot whose output the row belongs to, or -1
    struct phx_tensor out_rows;      ///< i32 [M, 1] rows whose logits are wanted
    struct phx_tensor out_slots;     ///< i32 [M, 1] -1: draws nothing
    struct phx_tensor out_positions; ///< i32 [M, 1] position of the predicted token
    int32_t n_outputs;               ///< M, may be 0
    bool decodes;                    ///< every sequence has one row, which draws a token
    enum phx_draw draw;
    int32_t n_candidates;
    bool adjust;
    bool gather_logits; ///< the logits of the whole vocabulary are wanted
    struct phx_sampling_table table;
};

/// Views of the pass's own memory, valid until the next pass.
struct phx_forward_result {
    struct phx_tensor ids;          ///< i32 [M, 1]; undefined where out_slots is -1
    struct phx_tensor logprobs;     ///< f32 [M, 1]
    struct phx_tensor local_logits; ///< f32 [M, V]
    struct phx_tensor logits;       ///< f32 [M, whole vocabulary], if gather_logits
};

/// Places of a pass, in its order (each norm right after its residual), with what stands there.
/// From PHX_POINT_MID_RESIDUAL of the last layer on only the output rows are left: M instead of N.
enum phx_point {
    PHX_POINT_STEP,           ///< the step begins; no tensor
    PHX_POINT_EMBED,          ///< act [N, E] partial
    PHX_POINT_RESIDUAL,       ///< f32 [N, E] full: the layer's input
    PHX_POINT_ATTN_NORM,      ///< act [N, E] full
    PHX_POINT_QKV,            ///< act [N, (Hq + 2 Hk) D] split: as projected
    PHX_POINT_Q,              ///< act [N, Hq D] split: normed and rotated; keys are in their pages
    PHX_POINT_ATTENDED,       ///< act [N, Hq D] split
    PHX_POINT_O,              ///< act [N, E] partial
    PHX_POINT_MID_RESIDUAL,   ///< f32 [N, E] full
    PHX_POINT_FFN_NORM,       ///< act [N, E] full
    PHX_POINT_ROUTER,         ///< f32 [N, X] full: logits; this and the next two of experts only
    PHX_POINT_CHOSEN,         ///< i32 [N, k] full: experts
    PHX_POINT_CHOICE,         ///< f32 [N, k] full: their weights
    PHX_POINT_GATE_UP,        ///< act [N, F] split; of experts [N, k F], other ranks' undefined
    PHX_POINT_SHARED_GATE_UP, ///< act [N, F] split, of the shared expert
    PHX_POINT_DOWN,           ///< act [N, E] partial
    PHX_POINT_END_RESIDUAL,   ///< f32 [M, E] full: the last layer's output
    PHX_POINT_FINAL_NORM,     ///< act [M, E] full
    PHX_POINT_LOGITS,         ///< f32 [M, V] split
    PHX_POINT_COUNT
};

/// Whoever looks on while passes run: an audit. Not with passes that are recorded.
struct phx_forward_taps {
    void *user;
    /// At each point of each pass, its tensor not yet synchronised; `layer` is 0 where there is
    /// none.
    enum phx_status (*look)(void *user, struct phx_stream *stream, const struct phx_step *step,
                            enum phx_point point, int32_t layer, struct phx_tensor tensor);
    /// What to give to the layer's attention; NULL: nothing.
    const struct phx_attention_tap *(*attention)(void *user, int32_t layer);
};

struct phx_forward_parts {
    const struct phx_config *config;
    const struct phx_shard_plan *plan;
    const struct phx_weights *weights;
    const struct phx_kv_pages *kv; ///< [n_layers]
    struct phx_comm *comm;
    struct phx_buffer *partials; ///< of the communicator, 2 * phx_forward_reduce_bytes()
    struct phx_device *device;
    struct phx_stream *stream; ///< for what is uploaded at creation
    int32_t max_rows, max_outputs;
};

struct phx_forward;

/// Device bytes that a pass keeps for its activations, the communicator's buffer apart.
size_t phx_forward_bytes(const struct phx_config *config, const struct phx_shard_plan *plan,
                         const struct phx_device *device, int32_t max_rows, int32_t max_outputs);
/// Bytes of the communicator's buffer: the partial results.
size_t phx_forward_reduce_bytes(const struct phx_config *config, const struct phx_device *device,
                                int32_t max_rows);

/// The parts outlive it; the arrays config, plan, weights and kv are read through their pointers.
enum phx_status phx_forward_create(const struct phx_forward_parts *parts, struct phx_forward **out);
void phx_forward_destroy(struct phx_forward *forward);

/// For all passes from now on; NULL: none. Read through the pointer.
void phx_forward_set_taps(struct phx_forward *forward, const struct phx_forward_taps *taps);

/// Collective. Allocates nothing, waits for nothing.
enum phx_status phx_forward_run(struct phx_forward *forward, struct phx_stream *stream,
                                const struct phx_step *step, struct phx_forward_result *out);

/// What the collective of this ordinal (from 0, phx_comm_position) does in a pass, with its layer,
/// counted from 0 as in the tensors' names: "the sum after the attention of layer 3".
enum { PHX_COLLECTIVE_NAME_BYTES = 64 };
void phx_forward_collective_name(const struct phx_config *config, uint32_t ordinal, char *text,
                                 size_t bytes);

#endif
