/// \file audit.h
/// The proof of the head mapping on live data: two texts run through the engine as they always do,
/// taps look on, and rank 0 judges every query head of every audited layer by the reference.
///
/// The judge works layer by layer on what the layer was really given, so that errors do not add up
/// and a fault shows where it is.
#ifndef PHX_RUNTIME_AUDIT_H
#define PHX_RUNTIME_AUDIT_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/engine.h"
#include "runtime/safetensors.h"

/// In the order of the data, so that the first one that fails is where to look.
enum phx_audit_check_id {
    PHX_CHECK_CONFIG, ///< gate 1
    PHX_CHECK_MAP,    ///< gate 2
    PHX_CHECK_EMBED,
    PHX_CHECK_Q_PROJECTION,
    PHX_CHECK_K_PROJECTION,
    PHX_CHECK_V_PROJECTION,
    PHX_CHECK_Q_ROPE,
    PHX_CHECK_K_ROPE,
    PHX_CHECK_POINTERS, ///< gate 3
    PHX_CHECK_SCALE,
    PHX_CHECK_SCORES, ///< gate 4
    PHX_CHECK_MASK,
    PHX_CHECK_SOFTMAX,
    PHX_CHECK_VALUES, ///< gate 5
    PHX_CHECK_O_SLICE,
    PHX_CHECK_O_SUM,
    PHX_CHECK_LM_HEAD,
    PHX_CHECK_COUNT
};

/// Where something was found; -1: does not apply.
struct phx_audit_place {
    int32_t layer, rank, q_head, kv_head; ///< heads of the whole model
    int32_t text, position;               ///< text 0: the prompt, 1: the decoy beside it
};

enum { PHX_AUDIT_FOUND_BYTES = 320 };

struct phx_audit_check {
    const char *name;
    int gate;            ///< 1 to 5; 0: a neighbour of the mapping
    const char *formula; ///< what was expected
    const char *look;    ///< where to look if it fails
    bool passed;
    int64_t n;    ///< comparisons made; 0: the model has nothing to compare
    double worst; ///< largest relative error
    double seen;  ///< a number of its own: the smallest distance from a foreign head, the
                  ///< measured scale, the weight of the first forbidden key; NaN: none
    struct phx_audit_place place;      ///< of the first failure
    char found[PHX_AUDIT_FOUND_BYTES]; ///< what was found there; "" if it passed
};

/// A query head of the prompt's last token, for people to read.
struct phx_audit_head {
    int32_t layer, q_head, kv_head, rank, local_q, local_kv; ///< as the kernel had them
    bool ok;                                                 ///< kv_head = q_head / G
    int64_t k_offset, v_offset; ///< elements from where its page begins, / 64: kv_head * head_dim
    int64_t
        token_stride; ///< bytes, as its addresses show, and the next ones too where there are two
    int64_t head_stride, page_stride;
    int32_t element_bytes, block, page;
    float k[8], v[8], scores[8]; ///< of the first key that it sees, and of the first keys
    int n_k, n_scores;
};

struct phx_audit_options {
    const int32_t *prompt_ids;
    int32_t n_prompt;
    const bool *layers; ///< [n_layers] to audit
    double tolerance;   ///< relative, of what a correct device may differ
};

/// Tokens that an audit lets the model add to its texts.
enum { PHX_AUDIT_NEW = 3 };

/// Tokens of the longest text: what the engine must be made for, with two sequences. A short prompt
/// is repeated until it reaches into a second block of the cache.
int32_t phx_audit_length(const struct phx_config *config, int32_t n_prompt);

struct phx_audit;

/// On every rank, before the first step; `limits` are the stream's. `prompt_ids` are rank 0's; the
/// rest is the same on all.
enum phx_status phx_audit_create(const struct phx_engine_parts *parts, struct phx_engine *engine,
                                 const struct phx_limits *limits,
                                 const struct phx_audit_options *options, struct phx_audit **out);
void phx_audit_destroy(struct phx_audit *audit);

/// Collective: run the texts. Rank 0 leads; nothing else may be in the engine.
enum phx_status phx_audit_run(struct phx_audit *audit);
/// Collective, after phx_audit_run: bring the data together and judge it on rank 0. *out_passed is
/// the same on all ranks. `checkpoint` NULL: dummy weights.
enum phx_status phx_audit_judge(struct phx_audit *audit, const struct phx_checkpoint *checkpoint,
                                bool *out_passed);

/// Two KV heads of a layer that had the same keys (or values) for these texts, so that no gate can
/// tell them apart: not a failure.
struct phx_audit_twins {
    int32_t layer, a, b;
    bool values;
};

/// Rank 0, after phx_audit_judge.
const struct phx_audit_twins *phx_audit_twins(const struct phx_audit *audit, size_t *out_n);
/// [PHX_CHECK_COUNT]
const struct phx_audit_check *phx_audit_checks(const struct phx_audit *audit);
/// The first check that failed; NULL if none did.
const struct phx_audit_check *phx_audit_first_failure(const struct phx_audit *audit);
/// False if that head was not seen.
bool phx_audit_head(const struct phx_audit *audit, int32_t layer, int32_t q_head,
                    struct phx_audit_head *out);
/// Tokens of the prompt as it was run, and of all texts.
void phx_audit_lengths(const struct phx_audit *audit, int32_t *out_prompt, int32_t *out_all);

#endif
