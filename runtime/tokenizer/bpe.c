#include "runtime/tokenizer/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/base/random.h"
#include "runtime/tokenizer/unicode.h"

struct symbol {
    int32_t id; /* -1: merged into the one before */
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

static uint64_t text_hash(const char *data, size_t n)
{
    uint64_t hash = 0xcbf29ce484222325u + n;
    while (n >= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        hash = phx_mix64(hash ^ word);
        data += 8;
        n -= 8;
    }
    uint64_t tail = 0;
    memcpy(&tail, data, n);
    return phx_mix64(hash ^ tail);
}

/* At most half of the slots are taken. */
static size_t slots_for(size_t n)
{
    size_t slots = 16;
    while (slots < 2 * n) slots *= 2;
    return slots;
}

enum phx_status phx_bpe_create(int32_t n_ids, size_t n_tokens, size_t n_merges, struct phx_bpe *out)
{
    *out = (struct phx_bpe){.n_ids = n_ids, .unknown = -1};
    out->text_slots = slots_for(n_tokens);
    out->merge_slots = slots_for(n_merges);
    out->tokens = calloc((size_t)n_ids + 1, sizeof *out->tokens);
    out->by_text = malloc(out->text_slots * sizeof *out->by_text);
    out->merges = malloc(out->merge_slots * sizeof *out->merges);
    if (!out->tokens || !out->by_text || !out->merges) {
        phx_bpe_destroy(out);
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a vocabulary of %zu tokens", n_tokens);
    }
    for (size_t i = 0; i < out->text_slots; i++) out->by_text[i] = -1;
    for (size_t i = 0; i < out->merge_slots; i++) out->merges[i].id = -1;
    for (int i = 0; i < 256; i++) out->byte_ids[i] = -1;
    return PHX_OK;
}

void phx_bpe_destroy(struct phx_bpe *bpe)
{
    free(bpe->tokens);
    free(bpe->by_text);
    free(bpe->merges);
    *bpe = (struct phx_bpe){0};
}

/* The slot that holds the text, or the empty one where it would go. */
static int32_t *text_slot(const struct phx_bpe *bpe, const char *data, size_t n)
{
    size_t slot = text_hash(data, n) & (bpe->text_slots - 1);
    for (;; slot = (slot + 1) & (bpe->text_slots - 1)) {
        int32_t id = bpe->by_text[slot];
        if (id < 0) return &bpe->by_text[slot];
        const struct phx_slice *token = &bpe->tokens[id];
        if (token->n == n && memcmp(token->data, data, n) == 0) return &bpe->by_text[slot];
    }
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

void phx_bpe_add_token(struct phx_bpe *bpe, struct phx_slice text, int32_t id)
{
    PHX_ASSERT(id >= 0 && id < bpe->n_ids && !bpe->tokens[id].data);
    int32_t *slot = text_slot(bpe, text.data, text.n);
    PHX_ASSERT(*slot < 0);
    bpe->tokens[id] = text;
    *slot = id;
    if (text.n > bpe->longest) bpe->longest = text.n;
}

void phx_bpe_add_merge(struct phx_bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
    *merge_slot(bpe, left, right) =
        (struct phx_merge){(uint64_t)left << 32 | (uint32_t)right, rank, id};
}

int32_t phx_bpe_find(const struct phx_bpe *bpe, const char *data, size_t n)
{
    return n > bpe->longest ? -1 : *text_slot(bpe, data, n);
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

static enum phx_status add_symbol(struct phx_bpe_scratch *scratch, int32_t id)
{
    PHX_TRY(PHX_RESERVE(&scratch->symbols, 1));
    int32_t at = (int32_t)scratch->symbols.n++;
    scratch->symbols.data[at] = (struct symbol){id, at - 1, at + 1};
    return PHX_OK;
}

/* The bytes of a character as tokens, if there is one for each. */
static enum phx_status add_bytes(const struct phx_bpe *bpe, struct phx_bpe_scratch *scratch,
                                 const char *data, size_t n, bool *added)
{
    *added = false;
    for (size_t i = 0; i < n; i++) {
        if (bpe->byte_ids[(unsigned char)data[i]] < 0) return PHX_OK;
    }
    for (size_t i = 0; i < n; i++) {
        PHX_TRY(add_symbol(scratch, bpe->byte_ids[(unsigned char)data[i]]));
    }
    *added = true;
    return PHX_OK;
}

/* As the library: an unknown token is added when the next known character comes, so bytes that fall
 * between stand before it. */
static enum phx_status add_characters(const struct phx_bpe *bpe, struct phx_bpe_scratch *scratch,
                                      const char *word, size_t n)
{
    bool unknown = false; /* a token for unknown characters is due */
    scratch->symbols.n = 0;
    for (size_t at = 0; at < n;) {
        size_t bytes = phx_utf8_bytes(word + at);
        int32_t id = phx_bpe_find(bpe, word + at, bytes);
        bool added = false;
        if (id < 0) PHX_TRY(add_bytes(bpe, scratch, word + at, bytes, &added));
        if (!added && unknown && (id >= 0 || !bpe->fuse_unknown)) {
            PHX_TRY(add_symbol(scratch, bpe->unknown));
            unknown = false;
        }
        if (id >= 0) {
            PHX_TRY(add_symbol(scratch, id));
        } else if (!added) {
            unknown = bpe->unknown >= 0;
        }
        at += bytes;
    }
    if (unknown) PHX_TRY(add_symbol(scratch, bpe->unknown));
    if (scratch->symbols.n) scratch->symbols.data[scratch->symbols.n - 1].next = -1;
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

/* Add the pair at `at` and the symbol after it to the end of the heap, if it can be merged. */
static enum phx_status add_candidate(const struct phx_bpe *bpe, struct phx_bpe_scratch *scratch,
                                     int32_t at, bool *added)
{
    const struct symbol *symbols = scratch->symbols.data;
    const struct phx_merge *merge = merge_slot(bpe, symbols[at].id, symbols[symbols[at].next].id);
    *added = merge->id >= 0;
    if (!*added) return PHX_OK;
    PHX_TRY(PHX_RESERVE(&scratch->heap, 1));
    scratch->heap.data[scratch->heap.n++] =
        (struct candidate){(uint64_t)merge->rank << 32 | (uint32_t)at, merge->id};
    return PHX_OK;
}

static enum phx_status push_candidate(const struct phx_bpe *bpe, struct phx_bpe_scratch *scratch,
                                      int32_t at)
{
    bool added;
    PHX_TRY(add_candidate(bpe, scratch, at, &added));
    if (added) sift_up(scratch->heap.data, scratch->heap.n - 1);
    return PHX_OK;
}

static enum phx_status merge_all(const struct phx_bpe *bpe, struct phx_bpe_scratch *scratch)
{
    struct symbol *symbols = scratch->symbols.data;
    scratch->heap.n = 0;
    for (size_t i = 0; i + 1 < scratch->symbols.n; i++) {
        bool added;
        PHX_TRY(add_candidate(bpe, scratch, (int32_t)i, &added));
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
        if (symbols[at].id < 0 || next < 0) continue;
        if (merge_slot(bpe, symbols[at].id, symbols[next].id)->id != best.id) continue;

        symbols[at].id = best.id;
        symbols[at].next = symbols[next].next;
        symbols[next].id = -1;
        if (symbols[at].next >= 0) symbols[symbols[at].next].previous = at;
        if (symbols[at].previous >= 0) {
            PHX_TRY(push_candidate(bpe, scratch, symbols[at].previous));
        }
        if (symbols[at].next >= 0) PHX_TRY(push_candidate(bpe, scratch, at));
    }
    return PHX_OK;
}

static enum phx_status encode_new(const struct phx_bpe *bpe, struct phx_bpe_scratch *scratch,
                                  const char *word, size_t n, struct phx_ids *ids)
{
    if (n > INT32_MAX) {
        return phx_fail(PHX_USAGE, "a word of %zu bytes is too long: at most %d", n, INT32_MAX);
    }
    int32_t id = bpe->ignore_merges ? phx_bpe_find(bpe, word, n) : -1;
    if (id >= 0) return phx_ids_append(ids, id);
    PHX_TRY(add_characters(bpe, scratch, word, n));
    PHX_TRY(merge_all(bpe, scratch));
    for (size_t i = 0; i < scratch->symbols.n; i++) {
        if (scratch->symbols.data[i].id >= 0) {
            PHX_TRY(phx_ids_append(ids, scratch->symbols.data[i].id));
        }
    }
    return PHX_OK;
}

enum phx_status phx_bpe_encode(const struct phx_bpe *bpe, struct phx_bpe_scratch *scratch,
                               const char *word, size_t n, struct phx_ids *ids)
{
    if (n > REMEMBERED_BYTES) return encode_new(bpe, scratch, word, n, ids);
    struct remembered *slot = &scratch->words[text_hash(word, n) % REMEMBERED];
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
