/// \file added.h
/// Added tokens (special ones among them), found in the text before the model sees it.
#ifndef PHX_RUNTIME_TOKENIZER_ADDED_H
#define PHX_RUNTIME_TOKENIZER_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "runtime/tokenizer/steps.h"

struct phx_added {
    char *content; ///< owned
    char *match; ///< owned: what is searched for, the content after the normalizer if `normalized`
    int32_t id;
    bool single_word;    ///< does not count next to a word character
    bool lstrip, rstrip; ///< takes the white space on that side with it
    bool normalized;     ///< searched for in the normalized text, not in the original
    bool special;
};

/// Tokens to search for together: the longest of those that match leftmost. Zeroed: none.
struct phx_added_set {
    const struct phx_added **sorted; ///< by match text; owned, the tokens are not
    size_t n;
    size_t first[257]; ///< sorted[first[b]] is the first one that begins with byte b or a later one
};

/// The ones of tokens[0, n) with this `normalized`. PHX_BAD_DATA if two have the same match text.
enum phx_status phx_added_set_create(const char *file, const struct phx_added *tokens, size_t n,
                                     bool normalized, struct phx_added_set *out);
void phx_added_set_destroy(struct phx_added_set *set);

/// The longest token that data[0, n) begins with, and its bytes; NULL if there is none.
const struct phx_added *phx_added_set_longest(const struct phx_added_set *set, const char *data,
                                              size_t n, size_t *bytes);

/// Cut the pieces of the text at the tokens that are written in it.
enum phx_status phx_added_set_split(const struct phx_added_set *set, struct phx_text *text);

#endif
