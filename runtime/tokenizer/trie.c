#include "runtime/tokenizer/trie.h"

#include <stdlib.h>

#include "kernels/base/check.h"
#include "kernels/base/random.h"
#include "runtime/tokenizer/buffer.h"

enum { MAX_NODES = 1 << 24 };

/* The slot that holds the key, or the empty one where it would go. */
static struct phx_trie_edge *edge_slot(const struct phx_trie *trie, uint32_t key)
{
    size_t slot = phx_mix64(key) & (trie->slots - 1);
    while (trie->edges[slot].child && trie->edges[slot].key != key) {
        slot = (slot + 1) & (trie->slots - 1);
    }
    return &trie->edges[slot];
}

uint32_t phx_trie_next(const struct phx_trie *trie, uint32_t node, char byte)
{
    return trie->slots ? edge_slot(trie, node << 8 | (unsigned char)byte)->child : 0;
}

static enum phx_status add_node(struct phx_trie *trie)
{
    enum phx_status status =
        phx_buffer_reserve(&trie->values, &trie->capacity, trie->n_nodes, 1, sizeof *trie->values);
    if (status == PHX_OK) trie->values[trie->n_nodes++] = -1;
    return status;
}

/* Twice as many slots, if more than half of them are taken. */
static enum phx_status grow(struct phx_trie *trie)
{
    if (2 * trie->n_nodes < trie->slots) return PHX_OK;
    struct phx_trie bigger = *trie;
    bigger.slots = trie->slots ? 2 * trie->slots : 1024;
    bigger.edges = calloc(bigger.slots, sizeof *bigger.edges);
    if (!bigger.edges) {
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for %zu slots of a trie", bigger.slots);
    }
    for (size_t i = 0; i < trie->slots; i++) {
        if (trie->edges[i].child) *edge_slot(&bigger, trie->edges[i].key) = trie->edges[i];
    }
    free(trie->edges);
    *trie = bigger;
    return PHX_OK;
}

enum phx_status phx_trie_add(struct phx_trie *trie, const char *text, size_t n, int32_t value)
{
    uint32_t node = 0;
    if (trie->n_nodes == 0) PHX_TRY(add_node(trie));
    for (size_t i = 0; i < n; i++) {
        uint32_t child = phx_trie_next(trie, node, text[i]);
        if (!child) {
            if (trie->n_nodes == MAX_NODES) {
                return phx_fail(PHX_UNSUPPORTED,
                                "the texts of the vocabulary are too long: at most %d bytes",
                                MAX_NODES);
            }
            PHX_TRY(grow(trie));
            child = (uint32_t)trie->n_nodes;
            PHX_TRY(add_node(trie));
            uint32_t key = node << 8 | (unsigned char)text[i];
            *edge_slot(trie, key) = (struct phx_trie_edge){key, child};
        }
        node = child;
    }
    trie->values[node] = value;
    return PHX_OK;
}

void phx_trie_destroy(struct phx_trie *trie)
{
    free(trie->edges);
    free(trie->values);
    *trie = (struct phx_trie){0};
}
