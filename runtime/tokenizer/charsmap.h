/// \file charsmap.h
/// sentencepiece's precompiled map of characters, and its normalizer.
///
/// The map is a double-array trie (darts-clone) of what to replace, and the replacements, each
/// ended by a zero byte: u32 trie bytes, u32 units, texts; little-endian.
#ifndef PHX_RUNTIME_TOKENIZER_CHARSMAP_H
#define PHX_RUNTIME_TOKENIZER_CHARSMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "runtime/tokenizer/added.h"
#include "runtime/tokenizer/buffer.h"

/// Immutable. Zeroed: empty, maps nothing.
struct phx_charsmap {
    uint32_t *units; ///< [n_units]
    size_t n_units;
    char *texts; ///< UTF-8, ends with a zero byte
    size_t texts_bytes;
};

/// `file` is for messages. PHX_BAD_DATA if the map is broken as a whole; what is broken within
/// shows when it is used.
enum phx_status phx_charsmap_create(const char *file, const char *data, size_t n,
                                    struct phx_charsmap *out);
void phx_charsmap_destroy(struct phx_charsmap *map);

/// Append the bytes that a text of base64, padded, stands for. PHX_BAD_DATA.
enum phx_status phx_base64_decode(const char *file, const char *text, struct phx_bytes *out);

/// Append data[0, n), valid UTF-8, as the `tokenizers` library maps it: a short grapheme cluster
/// becomes what the shortest entry that it begins with becomes, else each character on its own.
enum phx_status phx_charsmap_rewrite(const struct phx_charsmap *map, const char *data, size_t n,
                                     struct phx_bytes *out);

/// How sentencepiece rewrites a text before it cuts it.
struct phx_spm_rules {
    struct phx_charsmap map;      ///< owned
    struct phx_added_set symbols; ///< owned, its tokens are not: kept as they are written
    bool prepends, appends;       ///< a space at the start or the end
    bool trims;                   ///< spaces at the ends go, and runs of them become one
    bool escapes;                 ///< spaces become U+2581
};

void phx_spm_rules_destroy(struct phx_spm_rules *rules);
/// Append data[0, n), n > 0, valid UTF-8, as sentencepiece normalizes it.
enum phx_status phx_spm_normalize(const struct phx_spm_rules *rules, const char *data, size_t n,
                                  struct phx_bytes *out);

#endif
