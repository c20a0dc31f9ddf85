/// \file gguf_pre.h
/// What tokenizer.ggml.pre stands for: how text is cut into words before the merges.
#ifndef PHX_RUNTIME_TOKENIZER_GGUF_PRE_H
#define PHX_RUNTIME_TOKENIZER_GGUF_PRE_H

#include <stdbool.h>
#include <stddef.h>

struct phx_gguf_pre {
    const char *normalizer, *steps; ///< components as in a tokenizer.json
    bool ignores_merges;            ///< a word that is a token is that token
    bool adds_bos;                  ///< if the file does not say
};

/// False if the name is not known.
bool phx_gguf_pre_find(const char *name, size_t n, struct phx_gguf_pre *out);

#endif
