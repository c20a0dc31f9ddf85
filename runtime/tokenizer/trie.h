/// \file trie.h
/// Texts as paths of bytes, to find those that another text begins with.
#ifndef PHX_RUNTIME_TOKENIZER_TRIE_H
#define PHX_RUNTIME_TOKENIZER_TRIE_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

struct phx_trie_edge {
    uint32_t key;   ///< node << 8 | byte
    uint32_t child; ///< 0: an empty slot
};

/// Node 0 is the empty text. A zeroed trie has no other. Immutable once filled.
struct phx_trie {
    struct phx_trie_edge *edges; ///< [slots] by the hash of the key
    size_t slots;                ///< a power of two
    int32_t *values;             ///< [n_nodes] of the text that ends here; -1: none does
    size_t n_nodes, capacity;
};

/// A text that is there already gets the new value. PHX_UNSUPPORTED beyond 2^24 nodes.
enum phx_status phx_trie_add(struct phx_trie *trie, const char *text, size_t n, int32_t value);
void phx_trie_destroy(struct phx_trie *trie);
/// The node that follows `node` by a byte; 0 if there is none.
uint32_t phx_trie_next(const struct phx_trie *trie, uint32_t node, char byte);

#endif
