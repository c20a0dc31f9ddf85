/// \file vocabulary.h
/// The tokens of a model: texts by id, and ids by text.
#ifndef PHX_RUNTIME_TOKENIZER_VOCABULARY_H
#define PHX_RUNTIME_TOKENIZER_VOCABULARY_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "runtime/tokenizer/buffer.h"

/// Immutable once filled.
struct phx_vocabulary {
    struct phx_slice *tokens; ///< [n_ids] text by id; data is NULL where there is none; not owned
    int32_t n_ids;
    size_t longest;    ///< bytes of the longest token
    int32_t *by_text;  ///< [text_slots] ids by the hash of their text; -1: empty
    size_t text_slots; ///< a power of two
};

/// Empty tables for so many ids and tokens.
enum phx_status phx_vocabulary_create(int32_t n_ids, size_t n_tokens, struct phx_vocabulary *out);
void phx_vocabulary_destroy(struct phx_vocabulary *vocabulary);
/// `text` stays the caller's and must outlive the vocabulary; the id must be free, and so the text.
void phx_vocabulary_add(struct phx_vocabulary *vocabulary, struct phx_slice text, int32_t id);
/// The id of a text; -1 if there is none.
int32_t phx_vocabulary_find(const struct phx_vocabulary *vocabulary, const char *data, size_t n);
/// The ids of <0x00> to <0xFF>, the tokens of byte fallback; -1 where there is none.
void phx_vocabulary_find_bytes(const struct phx_vocabulary *vocabulary, int32_t byte_ids[256]);

#endif
