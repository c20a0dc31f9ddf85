#include "runtime/tokenizer/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/base/random.h"
#include "runtime/tokenizer/unicode.h"

struct symbol {
    int32_t id;       /* -1: no token, with ranks by token only */
    int32_t start, n; /* bytes of the word; n 0: merged into the one before */
    int32_t previous, next;
};

/* A pair that may be merged. The lowest `order` (rank, then position of its left symbol) goes
 * first. By then the pair may be gone, so it is looked up again. */
struct candidate {
    uint64_t order; /* rank << 32 | position */
    int32_t id;
};

struct remembered {
    const char *word;
    uint32_t n, n_ids;
    size_t first_id;
};

enum { REMEMBERED = 4096, REMEMBERED_BYTES = 64 };

struct phx_bpe_scratch {
    struct {
        struct symbol *data;
        size_t n, capacity;
    } symbols;
    struct {
        struct candidate *data;
        size_t n, capacity;
    } heap;
    struct remembered words[REMEMBERED]; /* by the hash of the word; n 0: empty */
};

enum phx_status phx_bpe_create(const struct phx_vocabulary *vocabulary, size_t n_merges,
                               struct phx_bpe *out)
{
    *out = (struct phx_bpe){
        .vocabulary = vocabulary, .merge_slots = phx_slots_for(n_merges), .unknown = -1};
    out->merges = malloc(out->merge_slots * sizeof *out->merges);
    if (!out->merges) {
        phx_bpe_destroy(out);
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a vocabulary with %zu merges", n_merges);
    }
    for (size_t i = 0; i < out->merge_slots; i++) out->merges[i].id = -1;
    for (int i = 0; i < 256; i++) out->byte_ids[i] = -1;
    return PHX_OK;
}

void phx_bpe_destroy(struct phx_bpe *bpe)
{
    free(bpe->merges);
    free(bpe->ranks);
    *bpe = (struct phx_bpe){0};
}

static struct phx_merge *merge_slot(const struct phx_bpe *bpe, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)left << 32 | (uint32_t)right;
    size_t slot = phx_mix64(pair) & (bpe->merge_slots - 1);
    while (bpe->merges[slot].id >= 0 && bpe->merges[slot].pair != pair) {
        slot = (slot + 1) & (bpe->merge_slots - 1);
    }
    return &bpe->merges[slot];
}

void phx_bpe_add_merge(struct phx_bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
    *merge_slot(bpe, left, right) =
        (struct phx_merge){(uint64_t)left << 32 | (uint32_t)right, rank, id};
}

struct scored {
    float score;
    int32_t id;
};

static int compare_scores(const void *a, const void *b)
{
    float x = ((const struct scored *)a)->score, y = ((const struct scored *)b)->score;
    return (x < y) - (x > y);
}

/* Tokens of the same score have the same rank: of these the leftmost goes first. */
enum phx_status phx_bpe_rank_by_score(struct phx_bpe *bpe, const float *scores,
                                      const bool *mergeable)
{
    size_t n_ids = (size_t)bpe->vocabulary->n_ids, n = 0;
    struct scored *order = malloc((n_ids + 1) * sizeof *order);
    bpe->ranks = malloc((n_ids + 1) * sizeof *bpe->ranks);
    if (!order || !bpe->ranks) {
        free(order);
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the scores of %zu tokens", n_ids);
    }
    for (size_t id = 0; id < n_ids; id++) {
        bpe->ranks[id] = PHX_NEVER_MERGED;
        if (mergeable[id]) order[n++] = (struct scored){scores[id], (int32_t)id};
    }
    qsort(order, n, sizeof *order, compare_scores);
    uint32_t rank = 0;
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && order[i].score < order[i - 1].score) rank++;
        bpe->ranks[order[i].id] = rank;
    }
    free(order);
    return PHX_OK;
}

enum phx_status phx_bpe_scratch_create(struct phx_bpe_scratch **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? PHX_OK : phx_fail(PHX_OUT_OF_MEMORY, "no memory to encode a text");
}

void phx_bpe_scratch_destroy(struct phx_bpe_scratch *scratch)
{
    if (!scratch) return;
    free(scratch->symbols.data);
    free(scratch->heap.data);
    free(scratch);
}

static enum phx_status add_symbol(struct phx_bpe_scratch *scratch, int32_t id, size_t start,
                                  size_t n)
{
    PHX_TRY(PHX_RESERVE(&scratch->symbols, 1));
    int32_t at = (int32_t)scratch->symbols.n++;
    scratch->symbols.data[at] = (struct symbol){id, (int32_t)start, (int32_t)n, at - 1, at + 1};
    return PHX_OK;
}

static bool has_bytes(const struct phx_bpe *bpe, const char *data, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (bpe->byte_ids[(unsigned char)data[i]] < 0) return false;
    }
    return true;
}

/* As the library: an unknown token is added when the next known character comes, so bytes that fall
 * between stand before it. */
static enum phx_status add_characters(const struct phx_bpe *bpe, struct phx_bpe_scratch *scratch,
                                      const char *word, size_t n)
{
    bool unknown = false; /* a token for unknown characters is due */
    for (size_t at = 0, bytes; at < n; at += bytes) {
        bytes = phx_utf8_bytes(word + at);
        int32_t id = phx_vocabulary_find(bpe->vocabulary, word + at, bytes);
        if (id < 0 && has_bytes(bpe, word + at, bytes)) {
            for (size_t i = at; i < at + bytes; i++) {
                PHX_TRY(add_symbol(scratch, bpe->byte_ids[(unsigned char)word[i]], i, 1));
            }
            continue;
        }
        if (unknown && (id >= 0 || !bpe->fuse_unknown)) {
            PHX_TRY(add_symbol(scratch, bpe->unknown, at, 1));
            unknown = false;
        }
        if (id >= 0) {
            PHX_TRY(add_symbol(scratch, id, at, bytes));
        } else {
            unknown = bpe->unknown >= 0;
        }
    }
    return unknown ? add_symbol(scratch, bpe->unknown, 0, 1) : PHX_OK;
}

/* As sentencepiece: what is unknown may still become part of a token. */
static enum phx_status add_raw_characters(const struct phx_bpe *bpe,
                                          struct phx_bpe_scratch *scratch, const char *word,
                                          size_t n)
{
    for (size_t at = 0, bytes; at < n; at += bytes) {
        bytes = phx_utf8_bytes(word + at);
        int32_t id = phx_vocabulary_find(bpe->vocabulary, word + at, bytes);
        PHX_TRY(add_symbol(scratch, id, at, bytes));
    }
    return PHX_OK;
}

static void sift_up(struct candidate *heap, size_t at)
{
    struct candidate moving = heap[at];
    while (at > 0) {
        size_t parent = (at - 1) / 2;
        if (heap[parent].order <= moving.order) break;
        heap[at] = heap[parent];
        at = parent;
    }
    heap[at] = moving;
}

static void sift_down(struct candidate *heap, size_t n, size_t at)
{
    struct candidate moving = heap[at];
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= n) break;
        if (child + 1 < n && heap[child + 1].order < heap[child].order) child++;
        if (heap[child].order >= moving.order) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moving;
}

/* What the symbol at `at` and the one after it become, and how soon; false: nothing. */
static bool find_merge(const struct phx_bpe *bpe, const struct phx_bpe_scratch *scratch,
                       const char *word, int32_t at, struct phx_merge *out)
{
    const struct symbol *left = &scratch->symbols.data[at];
    const struct symbol *right = &scratch->symbols.data[left->next];
    if (bpe->ranks) {
        out->id =
            phx_vocabulary_find(bpe->vocabulary, word + left->start, (size_t)(left->n + right->n));
        if (out->id >= 0) out->rank = bpe->ranks[out->id];
        return out->id >= 0 && out->rank != PHX_NEVER_MERGED;
    }
    *out = *merge_slot(bpe, left->id, right->id);
    return out->id >= 0;
}

/* Add the pair at `at` and the symbol after it to the end of the heap, if it can be merged. */
static enum phx_status add_candidate(const struct phx_bpe *bpe, struct phx_bpe_scratch *scratch,
                                     const char *word, int32_t at, bool *added)
{
    struct phx_merge merge;
    *added = find_merge(bpe, scratch, word, at, &merge);
    if (!*added) return PHX_OK;
    PHX_TRY(PHX_RESERVE(&scratch->heap, 1));
    scratch->heap.data[scratch->heap.n++] =
        (struct candidate){(uint64_t)merge.rank << 32 | (uint32_t)at, merge.id};
    return PHX_OK;
}

static enum phx_status push_candidate(const struct phx_bpe *bpe, struct phx_bpe_scratch *scratch,
                                      const char *word, int32_t at)
{
    bool added;
    PHX_TRY(add_candidate(bpe, scratch, word, at, &added));
    if (added) sift_up(scratch->heap.data, scratch->heap.n - 1);
    return PHX_OK;
}

static enum phx_status merge_all(const struct phx_bpe *bpe, struct phx_bpe_scratch *scratch,
                                 const char *word)
{
    struct symbol *symbols = scratch->symbols.data;
    scratch->heap.n = 0;
    for (size_t i = 0; i + 1 < scratch->symbols.n; i++) {
        bool added;
        PHX_TRY(add_candidate(bpe, scratch, word, (int32_t)i, &added));
    }
    for (size_t i = scratch->heap.n / 2; i-- > 0;) {
        sift_down(scratch->heap.data, scratch->heap.n, i);
    }
    while (scratch->heap.n > 0) {
        struct candidate best = scratch->heap.data[0];
        scratch->heap.data[0] = scratch->heap.data[--scratch->heap.n];
        if (scratch->heap.n) sift_down(scratch->heap.data, scratch->heap.n, 0);

        int32_t at = (int32_t)(uint32_t)best.order;
        int32_t next = symbols[at].next;
        struct phx_merge merge;
        if (symbols[at].n == 0 || next < 0) continue;
        if (!find_merge(bpe, scratch, word, at, &merge) || merge.id != best.id) continue;

        symbols[at].id = best.id;
        symbols[at].n += symbols[next].n;
        symbols[at].next = symbols[next].next;
        symbols[next].n = 0;
        if (symbols[at].next >= 0) symbols[symbols[at].next].previous = at;
        if (symbols[at].previous >= 0) {
            PHX_TRY(push_candidate(bpe, scratch, word, symbols[at].previous));
        }
        if (symbols[at].next >= 0) PHX_TRY(push_candidate(bpe, scratch, word, at));
    }
    return PHX_OK;
}

/* With ranks by token: what has become no token is its bytes, or a run of them is unknown. */
static enum phx_status append_unknown(const struct phx_bpe *bpe, const char *text, size_t n,
                                      bool follows_unknown, struct phx_ids *ids)
{
    if (!has_bytes(bpe, text, n)) {
        return follows_unknown ? PHX_OK : phx_ids_append(ids, bpe->unknown);
    }
    for (size_t i = 0; i < n; i++) {
        PHX_TRY(phx_ids_append(ids, bpe->byte_ids[(unsigned char)text[i]]));
    }
    return PHX_OK;
}

static enum phx_status encode_new(const struct phx_bpe *bpe, struct phx_bpe_scratch *scratch,
                                  const char *word, size_t n, struct phx_ids *ids)
{
    if (n > INT32_MAX) {
        return phx_fail(PHX_USAGE, "a word of %zu bytes is too long: at most %d", n, INT32_MAX);
    }
    int32_t id = bpe->ignore_merges ? phx_vocabulary_find(bpe->vocabulary, word, n) : -1;
    if (id >= 0) return phx_ids_append(ids, id);
    scratch->symbols.n = 0;
    PHX_TRY(bpe->ranks ? add_raw_characters(bpe, scratch, word, n)
                       : add_characters(bpe, scratch, word, n));
    if (scratch->symbols.n == 0) return PHX_OK;
    scratch->symbols.data[scratch->symbols.n - 1].next = -1;
    PHX_TRY(merge_all(bpe, scratch, word));
    const struct symbol *symbols = scratch->symbols.data;
    bool unknown = false;
    for (int32_t at = 0; at >= 0; at = symbols[at].next) {
        const struct symbol *symbol = &symbols[at];
        PHX_TRY(symbol->id >= 0
                    ? phx_ids_append(ids, symbol->id)
                    : append_unknown(bpe, word + symbol->start, (size_t)symbol->n, unknown, ids));
        unknown = symbol->id < 0;
    }
    return PHX_OK;
}

enum phx_status phx_bpe_encode(const struct phx_bpe *bpe, struct phx_bpe_scratch *scratch,
                               const char *word, size_t n, struct phx_ids *ids)
{
    if (n > REMEMBERED_BYTES) return encode_new(bpe, scratch, word, n, ids);
    struct remembered *slot = &scratch->words[phx_text_hash(word, n) % REMEMBERED];
    if (slot->n == n && memcmp(slot->word, word, n) == 0) {
        PHX_TRY(PHX_RESERVE(ids, slot->n_ids));
        memcpy(ids->data + ids->n, ids->data + slot->first_id, slot->n_ids * sizeof *ids->data);
        ids->n += slot->n_ids;
        return PHX_OK;
    }
    size_t first = ids->n;
    PHX_TRY(encode_new(bpe, scratch, word, n, ids));
    if (ids->n > first) {
        *slot = (struct remembered){word, (uint32_t)n, (uint32_t)(ids->n - first), first};
    }
    return PHX_OK;
}
