/// \file forward_impl.h
/// What the files of the decoder pass share. Only they include this.
#ifndef PHX_RUNTIME_FORWARD_IMPL_H
#define PHX_RUNTIME_FORWARD_IMPL_H

#include "kernels/base/check.h"
#include "runtime/forward.h"

enum { PHX_MAX_ROPES = 4 };

/// Everything that a pass writes, as views of one buffer (partial: of the communicator's).
struct phx_activations {
    struct phx_tensor x;        ///< act [N, E] full: the normed residual
    struct phx_tensor residual; ///< f32 [N, E] full
    struct phx_tensor qkv;      ///< act [N, (Hq + 2 Hk) D] split by heads
    struct phx_tensor squares;  ///< f32 [N, 2] of q and k, for norms over all heads; else absent
    struct phx_tensor attended; ///< act [N, Hq D] split by heads
    struct phx_tensor ffn;      ///< act [N, F] split; the shared expert's too
    struct phx_tensor router;   ///< f32 [N, X + 1] full: logits, the shared expert's gate
    struct phx_tensor chosen;   ///< i32 [N, k] full
    struct phx_tensor choice;   ///< f32 [N, k] full
    struct phx_tensor groups;   ///< i32 [1, X + 1 + N k] the backend's notes
    struct phx_tensor experts;  ///< act [N k, F] split: hidden columns of each pair
    struct phx_tensor parts;    ///< act [N k, E] scratch
    struct phx_tensor shared;   ///< act [N, E] partial
    struct phx_tensor rope[PHX_MAX_ROPES]; ///< f32 [N, R] full
    struct phx_tensor out_x;               ///< act [M, E] full
    struct phx_tensor out_residual;        ///< f32 [M, E] full
    struct phx_tensor logits;              ///< f32 [M, V] split
    struct phx_tensor adjusted;            ///< f32 [M, V] split
    struct phx_tensor all_logits;          ///< f32 [M, whole vocabulary] full; T = 1: logits
    struct phx_tensor all_adjusted;        ///< f32 [M, whole vocabulary] full; T = 1: adjusted
    struct phx_tensor records;             ///< u8 [M, (K + 1) entries] split
    struct phx_tensor all_records;         ///< u8 [M, T (K + 1) entries] full
    struct phx_tensor ids, logprobs;       ///< [M, 1] full
};

struct phx_forward {
    struct phx_forward_parts parts;
    const struct phx_forward_taps *taps; ///< NULL: nobody looks on
    struct phx_buffer *memory;
    struct phx_activations a;
    struct phx_tensor partial;     ///< act [N, E] partial; the communicator's memory
    struct phx_tensor out_partial; ///< act [M, E] partial; the communicator's memory
    struct phx_buffer *inv_freq;
    int32_t n_ropes;
    struct phx_tensor rope_freq[PHX_MAX_ROPES]; ///< f32 [1, R/2]
    float rope_scale[PHX_MAX_ROPES];
    int32_t *layer_rope;   ///< [n_layers] index into the tables; -1: no rotation
    int64_t *vocab_begin;  ///< [T + 1]
    int64_t *record_begin; ///< [T + 1] scratch for the widths of the records
};

/// The step's first rows of a scratch matrix, as `cols` columns without gaps.
static inline struct phx_tensor phx_forward_part(struct phx_tensor t, int64_t rows, int64_t cols)
{
    PHX_ASSERT(rows <= t.rows && cols <= t.cols);
    t.rows = rows;
    t.cols = t.stride = cols;
    return t;
}

/// To the taps, if somebody looks on.
enum phx_status phx_forward_look(const struct phx_forward *f, struct phx_stream *s,
                                 const struct phx_step *step, enum phx_point point, int32_t layer,
                                 struct phx_tensor tensor);

/// x [full] -> partial [partial]. (forward_mlp.c)
enum phx_status phx_forward_mlp(struct phx_forward *f, struct phx_stream *s,
                                const struct phx_step *step, int32_t l, struct phx_tensor x,
                                struct phx_tensor partial);

#endif
