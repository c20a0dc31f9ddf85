/// \file ops.h
/// The operations of a decoder step. Every backend implements every one.
///
/// Letters: N rows (tokens of the step), S sequences, E hidden size, Hq and Hk query and KV heads
/// of this rank, G = Hq / Hk, D head size, F feed-forward columns of this rank, V vocabulary rows
/// of this rank, M rows whose logits are wanted, B slots. Activations have the device's activation
/// type ("act") and may have gaps between rows, lists of numbers [N, 1] may not; accumulation is
/// f32. Outputs never alias inputs unless said.
///
/// Arguments are checked once, in ops.c, by assertion: a wrong shape is a programmer's mistake. The
/// returned status is only ever the device's (PHX_DEVICE). No op allocates.
#ifndef PHX_KERNELS_OPS_H
#define PHX_KERNELS_OPS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/device.h"
#include "kernels/tensor.h"
#include "kernels/weight.h"

#ifdef __cplusplus
extern "C" {
#endif

/// out[n] = table[id(n) - vocab_begin] * scale where the id is this rank's, else 0 (so that the sum
/// over ranks is the embedding). id(n) = ids[n] if ids[n] >= 0, else last_ids[-1 - ids[n]].
struct phx_embed {
    const struct phx_weight *table; ///< [V, E]
    int32_t vocab_begin;
    struct phx_tensor ids;      ///< i32 [N, 1]
    struct phx_tensor last_ids; ///< i32 [B, 1], the newest token of each slot; absent if no id < 0
    float scale;
    struct phx_tensor out; ///< act [N, E]
};
enum phx_status phx_op_embed(struct phx_stream *stream, const struct phx_embed *args);

/// residual += x (or residual = x when `start`); out = residual / rms(residual) * weight,
/// rms(r) = sqrt(mean(r^2) + epsilon). With x absent: residual stays as it is. With `post`,
/// x / rms(x) * post takes the place of x; without `weight`, out = residual.
struct phx_add_norm {
    struct phx_tensor x;        ///< act [N, E], optional
    struct phx_tensor post;     ///< f32 [1, E], optional; not without x
    struct phx_tensor residual; ///< f32 [N, E], in and out
    bool start;
    struct phx_tensor weight; ///< f32 [1, E], optional
    float epsilon;
    struct phx_tensor out; ///< act [N, E]
};
enum phx_status phx_op_add_norm(struct phx_stream *stream, const struct phx_add_norm *args);

/// out = soft_cap(scale * (x W^T + bias)), soft_cap(z) = c tanh(z / c).
struct phx_linear {
    struct phx_tensor x;             ///< act [N, in]
    const struct phx_weight *weight; ///< [out, in]
    struct phx_tensor bias;          ///< f32 [1, out], optional
    struct phx_tensor out;           ///< act or f32 [N, out]
    float scale;                     ///< 0: none, as 1
    float soft_cap;                  ///< c; 0: none
};
enum phx_status phx_op_linear(struct phx_stream *stream, const struct phx_linear *args);

enum phx_activation { PHX_SILU, PHX_GELU_TANH };

/// out = act(x Wg^T + bg) * (x Wu^T + bu); the weight is Wg above Wu, the bias bg before bu.
/// silu(z) = z / (1 + exp(-z)); gelu_tanh(z) = z/2 (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))).
struct phx_gate_up {
    struct phx_tensor x;             ///< act [N, in]
    const struct phx_weight *weight; ///< [2F, in]
    struct phx_tensor bias;          ///< f32 [1, 2F], optional
    enum phx_activation activation;
    struct phx_tensor out; ///< act [N, F]
};
enum phx_status phx_op_gate_up(struct phx_stream *stream, const struct phx_gate_up *args);

/* ---- mixtures of experts ----
 *
 * Of the model's X experts, k are chosen for a row. Pair p = n k + j is the j-th choice of row n.
 * This rank holds L experts: all of them with a part of their columns, or some of them whole. */

enum { PHX_MAX_EXPERTS = 1024, PHX_MAX_CHOSEN = 32 }; ///< largest X and k

struct phx_routing {
    int32_t n_experts;            ///< X
    int32_t first_local, n_local; ///< this rank's experts: L from first_local on
    struct phx_tensor ids;        ///< i32 [N, k] without gaps: experts, the most likely first
    struct phx_tensor weights;    ///< f32 [N, k] without gaps
    struct phx_tensor groups;     ///< i32 [1, L + 1 + N k]: notes of the backend, for its own eyes
};

/// p = softmax(logits[n]) over the X experts; ids[n] = the k with the largest p, lower ids first
/// among equals (a NaN counts as minus infinity there); weights[n][j] = p[ids[n][j]], divided by
/// the sum of the k where `normalize`. Fills `routing`.
struct phx_route {
    struct phx_tensor logits; ///< f32 [N, X]
    bool normalize;
    struct phx_routing routing; ///< lists of it are outputs
};
enum phx_status phx_op_route(struct phx_stream *stream, const struct phx_route *args);

/// For each pair whose expert is this rank's: out[p] = act(x[n] Wg^T) * (x[n] Wu^T) with the
/// expert's Wg above Wu. Rows of other pairs are undefined.
struct phx_experts_gate_up {
    struct phx_tensor x; ///< act [N, in]
    struct phx_routing routing;
    const struct phx_weight *weight; ///< [L 2F, in], expert above expert
    enum phx_activation activation;
    struct phx_tensor out; ///< act [N k, F]
};
enum phx_status phx_op_experts_gate_up(struct phx_stream *stream,
                                       const struct phx_experts_gate_up *args);

/// out[n] = sum over the pairs of row n whose expert is this rank's, in the order of j, of
/// weights[n][j] * (x[p] W^T), with the expert's W; then, with `add`, + sigmoid(add_gate[n]) *
/// add[n]. sigmoid(z) = 1 / (1 + exp(-z)).
struct phx_experts_down {
    struct phx_tensor x; ///< act [N k, in]; rows of other ranks' pairs are not read
    struct phx_routing routing;
    const struct phx_weight *weight; ///< [L E, in], expert above expert
    struct phx_tensor parts;         ///< act [N k, E], scratch: undefined afterwards
    struct phx_tensor add;           ///< act [N, E], optional
    struct phx_tensor add_gate;      ///< f32 [N, 1], gaps allowed; present where `add` is
    struct phx_tensor out;           ///< act [N, E]
};
enum phx_status phx_op_experts_down(struct phx_stream *stream, const struct phx_experts_down *args);

enum { PHX_PAGE_TOKENS = 64 };

/// One layer's share of the paged KV cache: [page][kv head][64][D], K and V apart.
struct phx_kv_pages {
    struct phx_tensor k, v; ///< f32, f16 or bf16 [n_pages * Hk * 64, D]
    int32_t n_pages, n_kv_heads, head_dim;
};

/// Which rows belong to which sequence and where its keys lie. On the device; the same for all
/// layers. Key i of a sequence is in block i / 64 of its slot, at that block's position + i % 64.
struct phx_step_layout {
    int32_t n_rows;                ///< N
    int32_t n_seqs;                ///< S
    int32_t max_seq_rows;          ///< most rows of one sequence in this step
    struct phx_tensor positions;   ///< i32 [N, 1] of each row in its text
    struct phx_tensor row_seq;     ///< i32 [N, 1] index of the row's sequence, 0..S-1
    struct phx_tensor seq_rows;    ///< i32 [S + 1, 1] first row of each sequence, then N
    struct phx_tensor seq_slot;    ///< i32 [S, 1] row of block_table; -1: padding, computes nothing
    struct phx_tensor seq_length;  ///< i32 [S, 1] keys of the sequence after this step's append
    struct phx_tensor block_table; ///< i32 [B, blocks] page of each block; -1: held by another rank
    struct phx_tensor
        page_position; ///< i32 [B, blocks] position of a block's first key; absent: 64 * block
};

/// cos_sin[n] = (cos a_0 .. cos a_{R/2-1}, sin a_0 .. sin a_{R/2-1}) * scale with
/// a_i = position(n) * inv_freq[i], the product rounded to f32.
struct phx_rope_table {
    struct phx_tensor positions; ///< i32 [N, 1]
    struct phx_tensor inv_freq;  ///< f32 [1, R/2]
    float scale;                 ///< attention factor of the scaling rule, 1 without
    struct phx_tensor out;       ///< f32 [N, R]
};
enum phx_status phx_op_rope_table(struct phx_stream *stream, const struct phx_rope_table *args);

/// squares[n] = (sum of q^2 over all of this rank's q heads, the same of k); the sum over ranks is
/// what a norm over all heads of a model needs.
struct phx_head_squares {
    struct phx_tensor qkv; ///< act [N, (Hq + 2 Hk) D], as below
    int32_t n_heads;       ///< Hq
    int32_t n_kv_heads;    ///< Hk
    int32_t head_dim;      ///< D
    struct phx_tensor out; ///< f32 [N, 2], no gaps
};
enum phx_status phx_op_head_squares(struct phx_stream *stream, const struct phx_head_squares *args);

/// For each row: RMS-norm each head of q and k (if norms are given), rotate their first R
/// dimensions (halves: dimension i pairs with i + R/2), then store k and v at the row's position in
/// its page. q is left normed and rotated in qkv; the k and v columns of qkv are undefined
/// afterwards.
///
/// With `squares` the norms are over all heads of the model instead: q / sqrt(squares[n][0] /
/// q_full
/// + epsilon) * q_norm, and so for k with squares[n][1].
struct phx_rope_append {
    struct phx_tensor qkv;     ///< act [N, (Hq + 2 Hk) D]: q heads, k heads, v heads; in and out
    int32_t n_heads;           ///< Hq
    struct phx_tensor cos_sin; ///< f32 [N, R], R even and <= D; absent: no rotation
    struct phx_tensor q_norm;  ///< f32 [1, D], with squares [1, Hq D]; optional
    struct phx_tensor k_norm;  ///< f32 [1, D], with squares [1, Hk D]; optional
    struct phx_tensor squares; ///< f32 [N, 2], no gaps, optional; not without both norms
    int64_t q_full, k_full;    ///< with squares: columns of q and of k on all ranks together
    float epsilon;
    struct phx_kv_pages kv;
    const struct phx_step_layout *layout;
};
enum phx_status phx_op_rope_append(struct phx_stream *stream, const struct phx_rope_append *args);

/// What attention read and computed, as an audit sees it. It is written by the kernels themselves,
/// compiled once more with taps; nothing else about them differs.
struct phx_attention_used { ///< once a call
    int32_t n_heads, n_kv_heads, head_dim;
    int32_t group; ///< query heads that the kernel took to share a KV head
    int32_t window;
    int32_t element_bytes; ///< of K and V
    float scale, soft_cap;
};

/// Of one query head of one row: where a block of keys was read. Addresses are the device's; all 0
/// for a block that was not read.
struct phx_attention_read {
    uint64_t k, v;           ///< of the block's key 0, the head's first element
    uint64_t k_next, v_next; ///< of key 1
    int32_t slot;            ///< row of the block table
    int32_t page;            ///< what stood there
    int32_t kv_head;         ///< of this rank
    int32_t n_keys;          ///< that the block was taken to hold
};

/// Where taps write; R tapped rows, L = 64 * blocks of the block table. Entry (t, h) of the last
/// five is row t * Hq + h. What the kernel does not touch stays as it was. Weights are as they are
/// before a backend rounds them to the type that it multiplies in. Apart from each other and from
/// everything else.
struct phx_attention_tap {
    struct phx_tensor rows;    ///< i32 [N, 1] t of each row of the step, -1: not tapped
    struct phx_tensor used;    ///< u8 [1, sizeof(struct phx_attention_used)]
    struct phx_tensor reads;   ///< u8 [R Hq, blocks * sizeof(struct phx_attention_read)]
    struct phx_tensor scores;  ///< f32 [R Hq, L] scale * q.k_j, before soft cap, mask and softmax
    struct phx_tensor weights; ///< f32 [R Hq, L] e_j = exp(s_j - m_j) as it multiplied v_j, or 0
    struct phx_tensor maxima;  ///< f32 [R Hq, L] m_j, the largest score so far
    struct phx_tensor sums;    ///< f32 [R Hq, 2] at the end: m, sum_j e_j exp(m_j - m)
};

/// Query head h reads KV head h / G. For row n at position p of its sequence, over the sequence's
/// first seq_length keys that lie at positions in (p - window, p] (window 0: [0, p]) and on this
/// rank:
///   s_j = soft_cap(scale * q.k_j), soft_cap(s) = c tanh(s / c) with c = 0: s
///   out = sum_j exp(s_j) v_j / sum_j exp(s_j);  lse = log sum_j exp(s_j)
/// Without such keys out = 0 and lse = -inf. NaN in the row's q, or in such a k or v, gives NaN; of
/// other keys only a v that another row of the step sees may (a backend may multiply it by 0).
struct phx_attention {
    struct phx_tensor q; ///< act [N, Hq D]
    int32_t n_heads;     ///< Hq
    struct phx_kv_pages kv;
    const struct phx_step_layout *layout;
    int32_t window; ///< 0: unlimited
    float scale;
    float soft_cap;                      ///< 0: none
    struct phx_tensor out;               ///< act [N, Hq D]
    struct phx_tensor lse;               ///< f32 [N, Hq], optional
    const struct phx_attention_tap *tap; ///< optional
};
enum phx_status phx_op_attention(struct phx_stream *stream, const struct phx_attention *args);

/// out[m] = x[rows[m]].
struct phx_gather_rows {
    struct phx_tensor x;    ///< any type [N, cols]
    struct phx_tensor rows; ///< i32 [M, 1]
    struct phx_tensor out;  ///< as x [M, cols]
};
enum phx_status phx_op_gather_rows(struct phx_stream *stream, const struct phx_gather_rows *args);

/* ---- sampling: one rule on every backend, see phx_sampling ---- */

/// How a slot's next token is drawn from its logits z (one that is NaN counts as -infinity):
///   1. penalties, over tokens seen in prompt or output: z > 0 ? z / repeat : z * repeat; then over
///      tokens of the output only: z -= presence + frequency * count; then z += bias.
///   2. temperature 0: the largest z, the lowest id among equals. Otherwise z /= temperature, and
///      of the tokens sorted by z (then id) are kept: the first top_k (0: all); of these the
///      shortest prefix whose probability, renormalised, reaches top_p; of these the ones with
///      probability >= min_p * largest.
///   3. the token with the largest z - log(-log(u)), u = phx_sample_uniform(key, id), which draws
///      from softmax(z) over the kept ones (Gumbel-max). key = phx_sample_key(seed, choice,
///      position), where position is the one that the new token will have in its text.
struct phx_sampling {
    float temperature;
    float top_p;             ///< in (0, 1]; 1: off
    float min_p;             ///< in [0, 1]; 0: off
    int32_t top_k;           ///< 0: off
    float repeat_penalty;    ///< 1: off
    float presence_penalty;  ///< 0: off
    float frequency_penalty; ///< 0: off
    int32_t choice;
    uint64_t seed;
    int32_t n_bias; ///< entries of the slot's row in the bias table
    int32_t reserved;
};

enum {
    PHX_MAX_CANDIDATES = 256, ///< largest top_k that needs no gathered logits
    PHX_MAX_BIAS = 1024       ///< logit-bias entries of a slot
};

/// What the device knows of each slot for sampling; B rows each.
struct phx_sampling_table {
    struct phx_tensor params; ///< u8 [B, sizeof(struct phx_sampling)]
    struct phx_tensor
        counts; ///< u16 [B, V]: bit 15 in prompt, bit 14 has a bias, rest: times in output
    struct phx_tensor bias_ids;    ///< i32 [B, PHX_MAX_BIAS] global ids, each once
    struct phx_tensor bias_values; ///< f32 [B, PHX_MAX_BIAS]
};

enum phx_count_kind { PHX_COUNT_PROMPT, PHX_COUNT_OUTPUT, PHX_COUNT_BIAS };

/// Mark ids[n] in row slots[n] of counts, where the id is this rank's. A slot < 0 is skipped. An id
/// < 0 reads last_ids as in phx_embed. Output counts stop at 2^14 - 1.
struct phx_count_tokens {
    struct phx_tensor ids;      ///< i32 [N, 1]
    struct phx_tensor last_ids; ///< i32 [B, 1], optional
    struct phx_tensor slots;    ///< i32 [N, 1]
    int32_t vocab_begin;
    enum phx_count_kind kind;
    struct phx_tensor counts; ///< u16 [B, V], in and out
};
enum phx_status phx_op_count_tokens(struct phx_stream *stream, const struct phx_count_tokens *args);

/// Step 1 of the rule: adjusted[m] from logits[m] under the slot's parameters.
struct phx_adjust_logits {
    struct phx_tensor logits; ///< f32 [M, V]
    struct phx_tensor slots;  ///< i32 [M, 1]; -1: copied as it is
    int32_t vocab_begin;
    struct phx_sampling_table table;
    struct phx_tensor adjusted; ///< f32 [M, V]; may be logits itself
};
enum phx_status phx_op_adjust_logits(struct phx_stream *stream,
                                     const struct phx_adjust_logits *args);

/// A token that may be drawn. The last entry of a record holds no token but the share's raw
/// statistics: value = max logit, raw = sum of exp(logit - max), id = -1. raw is NaN if a logit is
/// NaN or plus infinity.
struct phx_candidate {
    float value; ///< z after step 1, divided by the temperature (if > 0)
    float noisy; ///< value plus its Gumbel noise (value itself at temperature 0)
    float raw;   ///< the logit as the model gave it
    int32_t id;  ///< global token id; -1: no token (fewer than asked for)
};

/// This rank's best K tokens for each row, then its statistics. Rows with top_k > 0 take the K
/// largest by value, others by noisy (K >= 1 is then enough); in that order, lower ids first among
/// equals.
struct phx_sample_candidates {
    struct phx_tensor logits;    ///< f32 [M, V], as the model gave them
    struct phx_tensor adjusted;  ///< f32 [M, V], after step 1; may be logits itself
    struct phx_tensor slots;     ///< i32 [M, 1]; -1: padding, undefined record
    struct phx_tensor positions; ///< i32 [M, 1] position that the new token will have
    int32_t vocab_begin;
    struct phx_tensor params;  ///< as in phx_sampling_table
    int32_t n_candidates;      ///< K, 1..PHX_MAX_CANDIDATES, at least every row's top_k
    struct phx_tensor records; ///< u8 [M, (K + 1) * sizeof(struct phx_candidate)]
};
enum phx_status phx_op_sample_candidates(struct phx_stream *stream,
                                         const struct phx_sample_candidates *args);

/// Draw from the records of all ranks, side by side in rank order. Rows must have temperature 0 or
/// top_k in 1..K, or neither top_p nor min_p. ids[m] and last_ids[slots[m]] become the token;
/// logprobs[m] = raw logit - log sum over the whole vocabulary; NaN if one of the logits is NaN or
/// plus infinity, or all are minus infinity.
struct phx_sample_pick {
    struct phx_tensor records; ///< u8 [M, T * (K + 1) * sizeof(struct phx_candidate)]
    int32_t n_candidates;      ///< K
    int32_t n_ranks;           ///< T
    struct phx_tensor slots;   ///< i32 [M, 1]; -1: padding
    struct phx_tensor params;
    struct phx_tensor ids;      ///< i32 [M, 1]
    struct phx_tensor logprobs; ///< f32 [M, 1]
    struct phx_tensor last_ids; ///< i32 [B, 1], in and out
};
enum phx_status phx_op_sample_pick(struct phx_stream *stream, const struct phx_sample_pick *args);

/// The whole rule, after step 1, on the logits of the whole vocabulary: any parameters.
struct phx_sample_full {
    struct phx_tensor logits;    ///< f32 [M, whole vocabulary], as the model gave them
    struct phx_tensor adjusted;  ///< f32 [M, whole vocabulary], after step 1; may be logits itself
    struct phx_tensor slots;     ///< i32 [M, 1]
    struct phx_tensor positions; ///< i32 [M, 1]
    struct phx_tensor params;
    struct phx_tensor ids;      ///< i32 [M, 1]
    struct phx_tensor logprobs; ///< f32 [M, 1]
    struct phx_tensor last_ids; ///< i32 [B, 1], in and out
};
enum phx_status phx_op_sample_full(struct phx_stream *stream, const struct phx_sample_full *args);

#ifdef __cplusplus
}
#endif
#endif
