/// \file unigram.h
/// The model: a text to the ids of the pieces whose scores add up to most.
///
/// Source: Kudo 2018 (Viterbi over log probabilities), in the order and rounding of the
/// `tokenizers` library or of sentencepiece.
#ifndef PHX_RUNTIME_TOKENIZER_UNIGRAM_H
#define PHX_RUNTIME_TOKENIZER_UNIGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "runtime/tokenizer/buffer.h"
#include "runtime/tokenizer/trie.h"
#include "runtime/tokenizer/vocabulary.h"

/// How much less than the lowest score of a piece an unknown character has.
#define PHX_UNKNOWN_PENALTY 10

/// Immutable once filled. Zeroed: not there.
struct phx_unigram {
    const struct phx_vocabulary *vocabulary;
    struct phx_trie pieces; ///< what a text may be cut into, and their ids
    double *scores;         ///< [vocabulary->n_ids]
    double unknown_score;   ///< of a character that is no piece
    int32_t unknown;        ///< the id of a run of such characters; -1: they are refused
    int32_t byte_ids[256];  ///< <0x00> to <0xFF>; -1 each without byte fallback
    bool sentencepiece;     ///< sums in float, as sentencepiece; else in double, as the library
};

/// Tables for the vocabulary, which must outlive it; no piece yet, no unknown, no byte fallback.
enum phx_status phx_unigram_create(const struct phx_vocabulary *vocabulary,
                                   struct phx_unigram *out);
void phx_unigram_destroy(struct phx_unigram *unigram);
/// Make a token of the vocabulary a piece.
enum phx_status phx_unigram_add(struct phx_unigram *unigram, int32_t id, double score);

/// What is known of a text up to a place, kept from one text to the next. Zeroed: empty;
/// free(data) ends it.
struct phx_unigram_scratch {
    struct phx_unigram_node *data;
    size_t capacity;
};

/// Append the ids of a text of n > 0 bytes, valid UTF-8. PHX_USAGE beyond 2^31 bytes, and for an
/// unknown character if there is no token for it.
enum phx_status phx_unigram_encode(const struct phx_unigram *unigram,
                                   struct phx_unigram_scratch *scratch, const char *text, size_t n,
                                   struct phx_ids *ids);

#endif
