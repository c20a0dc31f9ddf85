#include "runtime/tokenizer/unigram.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/tokenizer/unicode.h"

#define MOST_COUNTED 100000.0f

/* The best way to cut the text up to a place. */
struct phx_unigram_node {
    double score;
    int32_t id;    /* of its last piece */
    int32_t start; /* of its last piece; -1: there is no way */
    int32_t next;  /* on the best way through the whole text: where the piece from here ends */
};

enum phx_status phx_unigram_create(const struct phx_vocabulary *vocabulary, struct phx_unigram *out)
{
    *out = (struct phx_unigram){.vocabulary = vocabulary, .unknown = -1};
    for (int i = 0; i < 256; i++) out->byte_ids[i] = -1;
    out->scores = calloc((size_t)vocabulary->n_ids + 1, sizeof *out->scores);
    return out->scores ? PHX_OK
                       : phx_fail(PHX_OUT_OF_MEMORY, "no memory for the scores of %d tokens",
                                  vocabulary->n_ids);
}

void phx_unigram_destroy(struct phx_unigram *unigram)
{
    phx_trie_destroy(&unigram->pieces);
    free(unigram->scores);
    *unigram = (struct phx_unigram){0};
}

enum phx_status phx_unigram_add(struct phx_unigram *unigram, int32_t id, double score)
{
    const struct phx_slice *text = &unigram->vocabulary->tokens[id];
    unigram->scores[id] = score;
    return phx_trie_add(&unigram->pieces, text->data, text->n, id);
}

static void offer(const struct phx_unigram *unigram, struct phx_unigram_node *nodes, size_t start,
                  size_t end, int32_t id, double score)
{
    struct phx_unigram_node *node = &nodes[end];
    double sum = nodes[start].score + score;
    if (unigram->sentencepiece) sum = (float)sum;
    if (node->start >= 0 && !(sum > node->score)) return;
    *node = (struct phx_unigram_node){.score = sum, .id = id, .start = (int32_t)start};
}

/* Offer every piece that begins at `start`, and say where the longest ends. A character that is
 * none is one of its own. */
static size_t offer_pieces(const struct phx_unigram *unigram, struct phx_unigram_node *nodes,
                           const char *text, size_t n, size_t start)
{
    size_t character_end = start + phx_utf8_bytes(text + start), end = character_end;
    bool known = false;
    uint32_t place = 0;
    for (size_t at = start; at < n; at++) {
        place = phx_trie_next(&unigram->pieces, place, text[at]);
        if (!place) break;
        int32_t id = unigram->pieces.values[place];
        if (id < 0) continue;
        offer(unigram, nodes, start, at + 1, id, unigram->scores[id]);
        known |= at + 1 == character_end;
        if (at + 1 > end) end = at + 1;
    }
    if (!known) {
        offer(unigram, nodes, start, character_end, unigram->unknown, unigram->unknown_score);
    }
    return end;
}

/* In a long text the sums of floats would become coarse: sentencepiece counts from `at` on anew. */
static void count_anew(struct phx_unigram_node *nodes, size_t at, size_t end)
{
    double counted = nodes[at].score;
    for (size_t i = at; i <= end; i++)
        if (i == at || nodes[i].start >= 0) nodes[i].score = (float)(nodes[i].score - counted);
}

static enum phx_status append_unknown(const struct phx_unigram *unigram, const char *text, size_t n,
                                      struct phx_ids *ids)
{
    bool bytes = true;
    for (size_t i = 0; i < n; i++) bytes &= unigram->byte_ids[(unsigned char)text[i]] >= 0;
    /* The text may be that of the unknown token itself. */
    int32_t id = unigram->sentencepiece ? -1 : phx_vocabulary_find(unigram->vocabulary, text, n);
    if (id >= 0) return phx_ids_append(ids, id);
    for (size_t i = 0; bytes && i < n; i++) {
        PHX_TRY(phx_ids_append(ids, unigram->byte_ids[(unsigned char)text[i]]));
    }
    if (bytes) return PHX_OK;
    if (unigram->unknown < 0) {
        return phx_fail(PHX_USAGE,
                        "the text holds \"%.*s\", which the vocabulary does not have, and neither "
                        "has it an unknown token",
                        (int)phx_utf8_bytes(text), text);
    }
    return phx_ids_append(ids, unigram->unknown);
}

enum phx_status phx_unigram_encode(const struct phx_unigram *unigram,
                                   struct phx_unigram_scratch *scratch, const char *text, size_t n,
                                   struct phx_ids *ids)
{
    if (n >= INT32_MAX) {
        return phx_fail(PHX_USAGE, "a text of %zu bytes is too long: at most %d", n, INT32_MAX - 1);
    }
    PHX_TRY(
        phx_buffer_reserve(&scratch->data, &scratch->capacity, 0, n + 1, sizeof *scratch->data));
    struct phx_unigram_node *nodes = scratch->data;
    nodes[0] = (struct phx_unigram_node){0};
    for (size_t i = 1; i <= n; i++) nodes[i] = (struct phx_unigram_node){.start = -1};
    for (size_t at = 0, known = 0; at < n; at += phx_utf8_bytes(text + at)) {
        if (unigram->sentencepiece && fabs(nodes[at].score) > MOST_COUNTED)
            count_anew(nodes, at, known);
        size_t end = offer_pieces(unigram, nodes, text, n, at);
        if (end > known) known = end;
    }
    for (int32_t end = (int32_t)n; end > 0; end = nodes[end].start) {
        nodes[nodes[end].start].next = end;
    }
    for (size_t at = 0; at < n;) {
        size_t end = (size_t)nodes[at].next;
        int32_t id = nodes[end].id;
        if (id != unigram->unknown) {
            PHX_TRY(phx_ids_append(ids, id));
        } else {
            while (end < n && nodes[nodes[end].next].id == id) end = (size_t)nodes[end].next;
            PHX_TRY(append_unknown(unigram, text + at, end - at, ids));
        }
        at = end;
    }
    return PHX_OK;
}
