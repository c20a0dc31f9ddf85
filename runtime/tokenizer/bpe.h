/// \file bpe.h
/// The model: a word to ids, by byte pair encoding.
///
/// A word starts as its characters; the pair of neighbours whose merge has the lowest rank
/// (leftmost on a tie) becomes one token, until no pair can be merged. Source: Sennrich et al.
/// 2016, in the order of the `tokenizers` library, or of sentencepiece: there two neighbours can be
/// merged if both together are a token, whose own rank counts.
#ifndef PHX_RUNTIME_TOKENIZER_BPE_H
#define PHX_RUNTIME_TOKENIZER_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "runtime/tokenizer/buffer.h"
#include "runtime/tokenizer/vocabulary.h"

struct phx_merge {
    uint64_t pair; ///< left id << 32 | right id
    uint32_t rank;
    int32_t id; ///< of the two as one; -1: an empty slot
};

#define PHX_NEVER_MERGED UINT32_MAX

/// Immutable once filled. Zeroed: not there.
struct phx_bpe {
    const struct phx_vocabulary *vocabulary;
    struct phx_merge *merges; ///< [merge_slots] by the hash of the pair
    size_t merge_slots;       ///< a power of two
    uint32_t *ranks;       ///< [vocabulary->n_ids] as sentencepiece, or PHX_NEVER_MERGED; or NULL
    int32_t unknown;       ///< -1: characters that are not in the vocabulary vanish
    bool fuse_unknown;     ///< a run of unknown characters is one token
    int32_t byte_ids[256]; ///< <0x00> to <0xFF>; -1 each without byte fallback
    bool ignore_merges;    ///< a word that is a token is that token
};

/// Empty tables for so many merges of the vocabulary, which must outlive it.
enum phx_status phx_bpe_create(const struct phx_vocabulary *vocabulary, size_t n_merges,
                               struct phx_bpe *out);
void phx_bpe_destroy(struct phx_bpe *bpe);
/// A pair that is there already gets the new rank.
void phx_bpe_add_merge(struct phx_bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id);
/// From now on as sentencepiece: a token may be made by merging if mergeable[id], the ones with a
/// higher score first. scores and mergeable: [vocabulary->n_ids]; scores must be finite.
enum phx_status phx_bpe_rank_by_score(struct phx_bpe *bpe, const float *scores,
                                      const bool *mergeable);

/// Memory for encoding words, kept from one to the next; also remembers short words, whose text
/// must stay where it is until destroy. All calls must append to the same array.
struct phx_bpe_scratch;
enum phx_status phx_bpe_scratch_create(struct phx_bpe_scratch **out);
void phx_bpe_scratch_destroy(struct phx_bpe_scratch *scratch);

/// Append the ids of a word of n > 0 bytes, valid UTF-8. PHX_USAGE beyond 2^31 bytes.
enum phx_status phx_bpe_encode(const struct phx_bpe *bpe, struct phx_bpe_scratch *scratch,
                               const char *word, size_t n, struct phx_ids *ids);

#endif
