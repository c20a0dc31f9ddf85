#include "runtime/kv_cache.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/base/random.h"
#include "kernels/ops.h"

/* Known blocks form a tree: each names the one before it in its text. A page may be reused, so
 * names are serial numbers that never come again. */
struct page {
    uint64_t name;   /* 0: not known */
    uint64_t before; /* name of the block before it; 0: it is the first */
    int32_t n_users;
    int32_t next_alike;   /* of the same bucket; -1: none */
    int32_t older, newer; /* of the unused known ones; a ring through the entry n_pages */
};

struct phx_kv_cache {
    int32_t n_pages, n_slots, max_slot_blocks;
    bool shares;
    int32_t n_free;
    int32_t *free;      /* [n_pages] neither held nor known: a stack, the top is free[n_free - 1] */
    int32_t *n_blocks;  /* [n_slots] */
    int32_t *table;     /* [n_slots][max_slot_blocks] */
    struct page *pages; /* [n_pages + 1] the last one is the ring's beginning and end */
    int32_t n_unused;   /* known ones that no slot holds */
    int32_t n_known;
    uint64_t n_names;
    /* If it shares: */
    int32_t *tokens;  /* [n_pages][PHX_PAGE_TOKENS] of known ones */
    int32_t *buckets; /* [n_buckets] a known page, or -1 */
    uint32_t n_buckets;
    int32_t *n_told;     /* [n_slots] leading blocks that are known, on this page or another */
    uint64_t *last_told; /* [n_slots] name of the last one of these; 0: none */
};

int32_t phx_kv_blocks_for(int64_t n_tokens)
{
    return (int32_t)((n_tokens + PHX_PAGE_TOKENS - 1) / PHX_PAGE_TOKENS);
}

static bool make_tree(struct phx_kv_cache *c)
{
    size_t n_pages = (size_t)c->n_pages, n_slots = (size_t)c->n_slots;
    for (c->n_buckets = 1; c->n_buckets < n_pages; c->n_buckets *= 2) continue;
    c->tokens = malloc(n_pages * PHX_PAGE_TOKENS * sizeof *c->tokens);
    c->buckets = malloc(c->n_buckets * sizeof *c->buckets);
    c->n_told = calloc(n_slots, sizeof *c->n_told);
    c->last_told = calloc(n_slots, sizeof *c->last_told);
    if (c->tokens == NULL || c->buckets == NULL || c->n_told == NULL || c->last_told == NULL)
        return false;
    for (uint32_t i = 0; i < c->n_buckets; i++) c->buckets[i] = -1;
    return true;
}

enum phx_status phx_kv_cache_create(int32_t n_pages, int32_t n_slots, int32_t max_slot_blocks,
                                    bool shares, struct phx_kv_cache **out)
{
    PHX_ASSERT(n_pages > 0 && n_slots > 0 && max_slot_blocks > 0);
    struct phx_kv_cache *c = calloc(1, sizeof *c);
    if (c == NULL) goto no_memory;
    c->n_pages = n_pages;
    c->n_slots = n_slots;
    c->max_slot_blocks = max_slot_blocks;
    c->shares = shares;
    c->free = malloc((size_t)n_pages * sizeof *c->free);
    c->n_blocks = calloc((size_t)n_slots, sizeof *c->n_blocks);
    c->table = malloc((size_t)n_slots * (size_t)max_slot_blocks * sizeof *c->table);
    c->pages = calloc((size_t)n_pages + 1, sizeof *c->pages);
    if (c->free == NULL || c->n_blocks == NULL || c->table == NULL || c->pages == NULL)
        goto no_memory;
    if (shares && !make_tree(c)) goto no_memory;
    c->pages[n_pages].older = c->pages[n_pages].newer = n_pages;
    for (int32_t page = n_pages - 1; page >= 0; page--) c->free[c->n_free++] = page;
    *out = c;
    return PHX_OK;
no_memory:
    phx_kv_cache_destroy(c);
    return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the table of %d cache pages", n_pages);
}

void phx_kv_cache_destroy(struct phx_kv_cache *cache)
{
    if (cache == NULL) return;
    free(cache->free);
    free(cache->n_blocks);
    free(cache->table);
    free(cache->pages);
    free(cache->tokens);
    free(cache->buckets);
    free(cache->n_told);
    free(cache->last_told);
    free(cache);
}

int32_t phx_kv_cache_pages(const struct phx_kv_cache *cache)
{
    return cache->n_pages;
}

int32_t phx_kv_cache_free_pages(const struct phx_kv_cache *cache)
{
    return cache->n_free + cache->n_unused;
}

int32_t phx_kv_cache_known_pages(const struct phx_kv_cache *cache)
{
    return cache->n_known;
}

int32_t phx_kv_cache_slot_blocks(const struct phx_kv_cache *cache, int32_t slot)
{
    PHX_ASSERT(slot >= 0 && slot < cache->n_slots);
    return cache->n_blocks[slot];
}

static int32_t *row_of(const struct phx_kv_cache *c, int32_t slot)
{
    return c->table + (int64_t)slot * c->max_slot_blocks;
}

int32_t phx_kv_cache_page(const struct phx_kv_cache *cache, int32_t slot, int32_t block)
{
    PHX_ASSERT(block >= 0 && block < phx_kv_cache_slot_blocks(cache, slot));
    return row_of(cache, slot)[block];
}

int32_t phx_kv_cache_users(const struct phx_kv_cache *cache, int32_t page)
{
    PHX_ASSERT(page >= 0 && page < cache->n_pages);
    return cache->pages[page].n_users;
}

/* ---- known blocks ---- */

static int32_t *tokens_of(const struct phx_kv_cache *c, int32_t page)
{
    return c->tokens + (int64_t)page * PHX_PAGE_TOKENS;
}

static int32_t *bucket_of(const struct phx_kv_cache *c, uint64_t before, const int32_t *ids)
{
    uint64_t hash = before;
    for (int i = 0; i < PHX_PAGE_TOKENS; i++)
        hash = (hash ^ (uint32_t)ids[i]) * 0x9e3779b97f4a7c15ull;
    return &c->buckets[phx_mix64(hash) & (c->n_buckets - 1)];
}

/* The page that knows these tokens after the block `before`; -1: none. */
static int32_t find(const struct phx_kv_cache *c, uint64_t before, const int32_t *ids)
{
    int32_t page = *bucket_of(c, before, ids);
    while (page >= 0 && (c->pages[page].before != before ||
                         memcmp(tokens_of(c, page), ids, PHX_PAGE_TOKENS * sizeof *ids) != 0))
        page = c->pages[page].next_alike;
    return page;
}

static void know(struct phx_kv_cache *c, int32_t page, uint64_t before, const int32_t *ids)
{
    int32_t *bucket = bucket_of(c, before, ids);
    struct page *p = &c->pages[page];
    memcpy(tokens_of(c, page), ids, PHX_PAGE_TOKENS * sizeof *ids);
    p->name = ++c->n_names;
    p->before = before;
    p->next_alike = *bucket;
    *bucket = page;
    c->n_known++;
}

static void forget(struct phx_kv_cache *c, int32_t page)
{
    struct page *p = &c->pages[page];
    int32_t *link = bucket_of(c, p->before, tokens_of(c, page));
    while (*link != page) link = &c->pages[*link].next_alike;
    *link = p->next_alike;
    p->name = 0;
    c->n_known--;
}

/* ---- those that no slot holds ---- */

static void set_aside(struct phx_kv_cache *c, int32_t page)
{
    struct page *p = &c->pages[page], *ends = &c->pages[c->n_pages];
    p->newer = c->n_pages;
    p->older = ends->older;
    c->pages[ends->older].newer = page;
    ends->older = page;
    c->n_unused++;
}

static void take_up(struct phx_kv_cache *c, int32_t page)
{
    struct page *p = &c->pages[page];
    c->pages[p->older].newer = p->newer;
    c->pages[p->newer].older = p->older;
    c->n_unused--;
}

/* Some page that nobody holds: one that nobody knows, or the least recently used one. */
static int32_t take_free(struct phx_kv_cache *c)
{
    if (c->n_free > 0) return c->free[--c->n_free];
    int32_t oldest = c->pages[c->n_pages].newer;
    take_up(c, oldest);
    forget(c, oldest);
    return oldest;
}

/* ---- slots ---- */

int32_t phx_kv_cache_share(struct phx_kv_cache *cache, int32_t slot, const int32_t *ids,
                           int32_t n_blocks)
{
    struct phx_kv_cache *c = cache;
    PHX_ASSERT(phx_kv_cache_slot_blocks(c, slot) == 0 && n_blocks <= c->max_slot_blocks);
    if (!c->shares) return 0;
    int32_t n = 0;
    uint64_t last = 0;
    for (; n < n_blocks; n++) {
        int32_t page = find(c, last, ids + (int64_t)n * PHX_PAGE_TOKENS);
        if (page < 0) break;
        if (c->pages[page].n_users++ == 0) take_up(c, page);
        row_of(c, slot)[n] = page;
        last = c->pages[page].name;
    }
    c->n_blocks[slot] = c->n_told[slot] = n;
    c->last_told[slot] = last;
    return n;
}

void phx_kv_cache_know(struct phx_kv_cache *cache, int32_t slot, const int32_t *ids,
                       int32_t n_tokens)
{
    struct phx_kv_cache *c = cache;
    PHX_ASSERT(n_tokens / PHX_PAGE_TOKENS <= phx_kv_cache_slot_blocks(c, slot));
    if (!c->shares) return;
    for (; c->n_told[slot] < n_tokens / PHX_PAGE_TOKENS; c->n_told[slot]++) {
        int32_t block = c->n_told[slot];
        const int32_t *own = ids + (int64_t)block * PHX_PAGE_TOKENS;
        /* Two texts that began together may have computed the same: one page is known. */
        int32_t page = find(c, c->last_told[slot], own);
        if (page < 0) {
            page = row_of(c, slot)[block];
            know(c, page, c->last_told[slot], own);
        }
        c->last_told[slot] = c->pages[page].name;
    }
}

bool phx_kv_cache_grow(struct phx_kv_cache *cache, int32_t slot, int32_t n_blocks)
{
    int32_t have = phx_kv_cache_slot_blocks(cache, slot);
    PHX_ASSERT(n_blocks <= cache->max_slot_blocks);
    if (n_blocks - have > phx_kv_cache_free_pages(cache)) return false;
    for (; have < n_blocks; have++) {
        int32_t page = take_free(cache);
        cache->pages[page].n_users = 1;
        row_of(cache, slot)[have] = page;
    }
    cache->n_blocks[slot] = have;
    return true;
}

void phx_kv_cache_release(struct phx_kv_cache *cache, int32_t slot)
{
    struct phx_kv_cache *c = cache;
    int32_t n = phx_kv_cache_slot_blocks(c, slot);
    /* Backwards: the next owner gets them in the same order, and of a text that is known the end is
     * forgotten before what leads to it. */
    while (n > 0) {
        int32_t page = row_of(c, slot)[--n];
        if (--c->pages[page].n_users > 0) continue;
        if (c->pages[page].name != 0)
            set_aside(c, page);
        else
            c->free[c->n_free++] = page;
    }
    c->n_blocks[slot] = 0;
    if (!c->shares) return;
    c->n_told[slot] = 0;
    c->last_told[slot] = 0;
}
