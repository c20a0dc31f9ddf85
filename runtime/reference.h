/// \file reference.h
/// The judge: a decoder in double precision on whole, unsharded weights, written from the formulas
/// of the model alone. It shares no code with the kernels or the decoder pass, knows no rank, and
/// is as slow as it looks. Weights are read row by row as they are stored.
///
/// Letters: N positions, E hidden size, H query and K KV heads, D head size, F feed-forward
/// columns (of an expert or of the shared one, where it says so), X experts, V vocabulary; all of
/// the whole model. Matrices are rows without gaps.
#ifndef PHX_RUNTIME_REFERENCE_H
#define PHX_RUNTIME_REFERENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "parallel/shard_plan.h"
#include "runtime/config.h"
#include "runtime/safetensors.h"

/// A tensor of the model, apart from its neighbours in fused places.
enum phx_ref_tensor {
    PHX_REF_EMBED,          ///< [V, E]
    PHX_REF_LM_HEAD,        ///< [V, E]; the embedding where tied
    PHX_REF_Q,              ///< [H D, E]
    PHX_REF_K,              ///< [K D, E]
    PHX_REF_V,              ///< [K D, E]
    PHX_REF_O,              ///< [E, H D]
    PHX_REF_GATE,           ///< [F, E]
    PHX_REF_UP,             ///< [F, E]
    PHX_REF_DOWN,           ///< [E, F]
    PHX_REF_ROUTER,         ///< [X, E]
    PHX_REF_SHARED_SCALE,   ///< [1, E]: how much of the shared expert, before the sigmoid
    PHX_REF_SHARED_GATE,    ///< [F, E]
    PHX_REF_SHARED_UP,      ///< [F, E]
    PHX_REF_SHARED_DOWN,    ///< [E, F]
    PHX_REF_ATTN_NORM,      ///< [E]
    PHX_REF_ATTN_POST_NORM, ///< [E] of what attention gives; like all norms, where there is one
    PHX_REF_FFN_NORM,       ///< [E]
    PHX_REF_FFN_POST_NORM,  ///< [E] of what the MLP gives
    PHX_REF_FINAL_NORM,     ///< [E]
    PHX_REF_Q_NORM,         ///< [D]; over all heads [H D]
    PHX_REF_K_NORM,         ///< [D]; over all heads [K D]
    PHX_REF_TENSOR_COUNT
};

struct phx_reference;

struct phx_reference_options {
    /// The type in which rotary frequencies are kept before they are used: PHX_F32, or PHX_BF16 for
    /// results of models that were cast to bf16 as a whole.
    enum phx_dtype inv_freq;
    /// Which experts a run chose: ids [k] for a position in a layer; false: not known. They are
    /// taken in place of the reference's own where each is as good to within `close` of the row's
    /// largest logit: rounding may turn such a choice. NULL: none are.
    bool (*chosen)(void *user, int32_t layer, int64_t position, int32_t *ids);
    void *user;
    double close;
};

/// `checkpoint` NULL: dummy weights. Both outlive it. PHX_BAD_DATA names a tensor that is missing
/// or has another shape.
enum phx_status phx_reference_create(const struct phx_config *config,
                                     const struct phx_checkpoint *checkpoint,
                                     const struct phx_reference_options *options,
                                     struct phx_reference **out);
void phx_reference_destroy(struct phx_reference *reference);

/// out[cols] = row `row` of a tensor; vectors have one row.
void phx_reference_row(const struct phx_reference *reference, enum phx_ref_tensor tensor,
                       int32_t layer, int64_t row, double *out);

/// The bias that follows the product with a matrix, out[rows of it]; false, and zeros, if the model
/// has none.
bool phx_reference_bias(const struct phx_reference *reference, enum phx_ref_tensor tensor,
                        int32_t layer, double *out);

/// y[n][r - rows.begin] = sum over c in cols of W[r][c] x[n][c - cols.begin]; no bias.
void phx_reference_product(const struct phx_reference *reference, enum phx_ref_tensor tensor,
                           int32_t layer, struct phx_interval rows, struct phx_interval cols,
                           int64_t n, const double *x, double *y);

/// y = x W^T + bias with the whole matrix.
void phx_reference_linear(const struct phx_reference *reference, enum phx_ref_tensor tensor,
                          int32_t layer, int64_t n, const double *x, double *y);

/// y[n] = x[n] / sqrt(mean(x[n]^2) + epsilon) * weight over rows as long as the weight; y = x, rows
/// of the hidden size, where the model has no such norm. y may be x.
void phx_reference_norm(const struct phx_reference *reference, enum phx_ref_tensor tensor,
                        int32_t layer, int64_t n, const double *x, double *y);

/// For each row of the heads `heads`, in place: RMS norm of each head, or over all heads (if the
/// model norms q and k), then rotation of pairs (i, i + R/2) by position * frequency(i), R being
/// the dimensions that the layer rotates. `which` is PHX_REF_Q or PHX_REF_K. squares[n] is the sum
/// of squares over all heads of the model, which a norm over all needs; NULL: `heads` are all.
void phx_reference_rotate(const struct phx_reference *reference, enum phx_ref_tensor which,
                          int32_t layer, int64_t n, const int32_t *positions,
                          struct phx_interval heads, const double *squares, double *x);

/// scores[j] = scale * q . k_j for the keys j of one head, k[j] being `stride` apart.
void phx_reference_scores(const double *q, const double *k, int64_t stride, int64_t n_keys,
                          int64_t dim, double scale, double *scores);
/// x = cap * tanh(x / cap); 0: as it is.
void phx_reference_cap(double cap, int64_t n, double *x);
/// out[D] = sum_j softmax(scores)_j v_j over the keys of (position - window, position] (window 0:
/// all up to it), v[j] being `stride` apart.
void phx_reference_attend(const double *scores, const double *v, int64_t stride, int64_t dim,
                          int32_t position, int32_t window, double *out);

/// Named activations of a whole pass, in the order of execution.
enum phx_activation_name {
    PHX_ACT_EMBED,          ///< [N, E]
    PHX_ACT_ATTN_NORM,      ///< [N, E]
    PHX_ACT_Q_PROJ,         ///< [N, H D] before norm and rotation
    PHX_ACT_K_PROJ,         ///< [N, K D]
    PHX_ACT_V,              ///< [N, K D]
    PHX_ACT_Q,              ///< [N, H D] normed and rotated
    PHX_ACT_K,              ///< [N, K D]
    PHX_ACT_SCORES,         ///< [N, H n_keys]; before a cap; keys that a row does not see hold 0
    PHX_ACT_ATTN,           ///< [N, H D] before `o`
    PHX_ACT_O,              ///< [N, E] summed over ranks, as it is added to the residual
    PHX_ACT_ATTN_RESIDUAL,  ///< [N, E]
    PHX_ACT_FFN_NORM,       ///< [N, E]
    PHX_ACT_ROUTER,         ///< [N, X] logits; this and the next only where there are experts
    PHX_ACT_EXPERTS,        ///< [N, X] their weights; 0 where not chosen
    PHX_ACT_GATE_UP,        ///< [N, F] act(gate) * up; of experts [N, X F], 0 where not chosen
    PHX_ACT_SHARED_GATE_UP, ///< [N, F] only where there is a shared expert
    PHX_ACT_DOWN,           ///< [N, E] summed over ranks, as it is added to the residual
    PHX_ACT_RESIDUAL,       ///< [N, E] the layer's output
    PHX_ACT_FINAL_NORM,     ///< [N, E]
    PHX_ACT_LOGITS,         ///< [N, V]
    PHX_ACT_COUNT
};

/// "embed", "attn_norm", ...
const char *phx_activation_text(enum phx_activation_name name);

/// A whole pass over one text: `see` is called with every activation, in order; `layer` is -1 for
/// those of no layer. PHX_OUT_OF_MEMORY, or what `see` returned.
enum phx_status
phx_reference_run(const struct phx_reference *reference, const int32_t *ids, int32_t n,
                  enum phx_status (*see)(void *user, enum phx_activation_name name, int32_t layer,
                                         int64_t cols, const double *values),
                  void *user);

#endif
