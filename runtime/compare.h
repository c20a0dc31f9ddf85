/// \file compare.h
/// Where two runs part: the named activations of a prompt's pass on this world, in the order of
/// execution, against the reference or against activations in a file.
#ifndef PHX_RUNTIME_COMPARE_H
#define PHX_RUNTIME_COMPARE_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/engine.h"
#include "runtime/safetensors.h"

struct phx_compare_options {
    const int32_t *prompt_ids;
    int32_t n_prompt;
    bool quick; ///< only the embedding, the layers' outputs and the logits
    /// What a correct device may differ after one layer: the root of the normalised mean squared
    /// error; the worst element may be ten times as far off, of the largest. Each layer rounds
    /// anew, so that after n layers it is sqrt(n) times as much.
    double tolerance;
};

/// One activation on one rank.
struct phx_difference {
    const char *name; ///< "embed", "attn_norm", "q_proj", ...; see runtime/reference.h; "o_partial"
    int32_t layer;    ///< -1: of none
    int32_t rank;
    int64_t rows, cols;
    double max_abs, nmse;         ///< nmse = sum (a - b)^2 / sum b^2
    int32_t token, head, element; ///< of the worst; head -1: the activation has none. Heads and
                                  ///< elements are those of the whole model
    double live, truth;           ///< there
    bool ok;
};

struct phx_compare;

/// On every rank, before the first step; `limits` are the stream's. A decoy runs beside the prompt.
/// `prompt_ids` are rank 0's.
enum phx_status phx_compare_create(const struct phx_engine_parts *parts, struct phx_engine *engine,
                                   const struct phx_limits *limits,
                                   const struct phx_compare_options *options,
                                   struct phx_compare **out);
void phx_compare_destroy(struct phx_compare *compare);

/// Collective: run, and bring what was seen together on rank 0.
enum phx_status phx_compare_run(struct phx_compare *compare);

/// Rank 0: against the reference. `checkpoint` NULL: dummy weights.
enum phx_status phx_compare_with_reference(struct phx_compare *compare,
                                           const struct phx_checkpoint *checkpoint);
/// Rank 0: against the tensors of a file that phx_compare_dump wrote, or that has some of its
/// names. PHX_BAD_DATA: another prompt, other shapes, none of the names.
enum phx_status phx_compare_with_file(struct phx_compare *compare,
                                      const struct phx_checkpoint *file);
/// Rank 0: "input_ids", "embed", "layers.0.attn_norm", ..., "logits": f32 [N, cols], ranks side by
/// side.
enum phx_status phx_compare_dump(const struct phx_compare *compare, const char *path);

/// Rank 0: in the order of execution.
const struct phx_difference *phx_compare_differences(const struct phx_compare *compare,
                                                     size_t *out_n);
/// The first that is out of its tolerance; NULL: none.
const struct phx_difference *phx_compare_first(const struct phx_compare *compare);

#endif
