/* What an audit checks, what it expects, and where to look when it is not so. */
#include <math.h>

#include "runtime/audit_impl.h"

static const struct {
    const char *name;
    int gate;
    const char *formula, *look;
} checks_of[PHX_CHECK_COUNT] = {
    [PHX_CHECK_CONFIG] = {"config", 1, "group_size = num_heads / num_kv_heads, in the kernels too",
                          "who passes n_heads and n_kv_heads to attention: runtime/forward.c"},
    [PHX_CHECK_MAP] = {"map", 2, "kv_head = q_head / group_size, each head on exactly one rank",
                       "the heads of a rank in parallel/shard_plan.c, the KV head of a query head "
                       "in the backend's attention"},
    [PHX_CHECK_EMBED] = {"embedding", 0, "x = E[id], the sum over ranks",
                         "the vocabulary's cut: parallel/shard_plan.c, phx_op_embed"},
    [PHX_CHECK_Q_PROJECTION] = {"q projection", 0, "q = W_q x + b_q, rows of this rank's heads",
                                "orientation and rows of q_proj and its bias: runtime/weights.c, "
                                "runtime/loader.c"},
    [PHX_CHECK_K_PROJECTION] = {"k projection", 0, "k = W_k x + b_k, rows of this rank's KV heads",
                                "orientation and rows of k_proj and its bias: runtime/weights.c, "
                                "runtime/loader.c"},
    [PHX_CHECK_V_PROJECTION] = {"v projection", 0, "v = W_v x + b_v, as it lies in the cache",
                                "orientation and rows of v_proj and its bias: runtime/weights.c, "
                                "runtime/loader.c; the append in the backend's rope"},
    [PHX_CHECK_Q_ROPE] =
        {"q norm and rope", 0,
         "RMS norm per head or over all, then (i, i + R/2) rotated by position * frequency",
         "the backend's rope; positions in runtime/batch.c; frequencies in "
         "runtime/rope_config.c"},
    [PHX_CHECK_K_ROPE] =
        {"k norm and rope", 0,
         "RMS norm per head or over all, then (i, i + R/2) rotated by position * frequency",
         "the backend's rope and its append to the page"},
    [PHX_CHECK_POINTERS] = {"pointers", 3,
                            "K at ((page * num_kv_heads + kv_head) * 64 + token) * head_dim",
                            "addresses and strides in the backend's attention and append; the "
                            "block table in runtime/batch.c"},
    [PHX_CHECK_SCALE] = {"score scale", 0, "1 / sqrt(head_dim), or what config.json says",
                         "attention_scale in runtime/config.c and in the backend's attention"},
    [PHX_CHECK_SCORES] = {"scores", 4, "scores = scale * q . K[q_head / group_size], no other's",
                          "the products of q and K in the backend's attention"},
    [PHX_CHECK_MASK] = {"mask", 0, "weight 0 outside of (position - window, position]",
                        "the visible keys in the backend's attention; seq_length in "
                        "runtime/batch.c"},
    [PHX_CHECK_SOFTMAX] = {"softmax", 0, "weights exp(s - max), divided by their sum",
                           "the softmax of the backend's attention"},
    [PHX_CHECK_VALUES] = {"values", 5, "out = softmax(scores) V[q_head / group_size], no other's",
                          "the addresses of V and its product in the backend's attention"},
    [PHX_CHECK_O_SLICE] = {"o slice", 0, "partial = W_o[:, own columns] out (+ bias on rank 0)",
                           "orientation and columns of o_proj: runtime/weights.c, "
                           "runtime/loader.c"},
    [PHX_CHECK_O_SUM] =
        {"o sum", 0,
         "residual + W_o out + b_o, scaled or normed where the model does; the bias once",
         "the sum over ranks: parallel/comm_*; first_rank_only in "
         "runtime/weights.c"},
    [PHX_CHECK_LM_HEAD] = {"lm_head", 0, "logits = W x, rows of this rank's part of the vocabulary",
                           "rows, orientation and tie of lm_head: runtime/weights.c, "
                           "runtime/loader.c"},
};

void phx_audit_checks_reset(struct phx_audit_check checks[PHX_CHECK_COUNT])
{
    for (int i = 0; i < PHX_CHECK_COUNT; i++)
        checks[i] = (struct phx_audit_check){.name = checks_of[i].name,
                                             .gate = checks_of[i].gate,
                                             .formula = checks_of[i].formula,
                                             .look = checks_of[i].look,
                                             .passed = true,
                                             .seen = NAN,
                                             .place = {-1, -1, -1, -1, -1, -1}};
}
