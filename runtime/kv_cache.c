#include "runtime/kv_cache.h"

#include <stdlib.h>

#include "kernels/base/check.h"
#include "kernels/ops.h"

struct phx_kv_cache {
    int32_t n_pages, n_slots, max_slot_blocks;
    int32_t n_free;
    int32_t *free;     /* [n_pages] a stack; the top is free[n_free - 1] */
    int32_t *n_blocks; /* [n_slots] */
    int32_t *table;    /* [n_slots][max_slot_blocks] */
};

int32_t phx_kv_blocks_for(int64_t n_tokens)
{
    return (int32_t)((n_tokens + PHX_PAGE_TOKENS - 1) / PHX_PAGE_TOKENS);
}

enum phx_status phx_kv_cache_create(int32_t n_pages, int32_t n_slots, int32_t max_slot_blocks,
                                    struct phx_kv_cache **out)
{
    PHX_ASSERT(n_pages > 0 && n_slots > 0 && max_slot_blocks > 0);
    struct phx_kv_cache *c = calloc(1, sizeof *c);
    if (c == NULL) goto no_memory;
    c->n_pages = n_pages;
    c->n_slots = n_slots;
    c->max_slot_blocks = max_slot_blocks;
    c->free = malloc((size_t)n_pages * sizeof *c->free);
    c->n_blocks = calloc((size_t)n_slots, sizeof *c->n_blocks);
    c->table = malloc((size_t)n_slots * (size_t)max_slot_blocks * sizeof *c->table);
    if (c->free == NULL || c->n_blocks == NULL || c->table == NULL) goto no_memory;
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
    free(cache);
}

int32_t phx_kv_cache_pages(const struct phx_kv_cache *cache)
{
    return cache->n_pages;
}

int32_t phx_kv_cache_free_pages(const struct phx_kv_cache *cache)
{
    return cache->n_free;
}

int32_t phx_kv_cache_slot_blocks(const struct phx_kv_cache *cache, int32_t slot)
{
    PHX_ASSERT(slot >= 0 && slot < cache->n_slots);
    return cache->n_blocks[slot];
}

int32_t phx_kv_cache_page(const struct phx_kv_cache *cache, int32_t slot, int32_t block)
{
    PHX_ASSERT(block >= 0 && block < phx_kv_cache_slot_blocks(cache, slot));
    return cache->table[(int64_t)slot * cache->max_slot_blocks + block];
}

bool phx_kv_cache_grow(struct phx_kv_cache *cache, int32_t slot, int32_t n_blocks)
{
    int32_t have = phx_kv_cache_slot_blocks(cache, slot);
    PHX_ASSERT(n_blocks <= cache->max_slot_blocks);
    if (n_blocks - have > cache->n_free) return false;
    int32_t *row = cache->table + (int64_t)slot * cache->max_slot_blocks;
    for (; have < n_blocks; have++) row[have] = cache->free[--cache->n_free];
    cache->n_blocks[slot] = have;
    return true;
}

void phx_kv_cache_release(struct phx_kv_cache *cache, int32_t slot)
{
    int32_t n = phx_kv_cache_slot_blocks(cache, slot);
    const int32_t *row = cache->table + (int64_t)slot * cache->max_slot_blocks;
    /* Backwards, so that the next owner gets them in the same order. */
    while (n > 0) cache->free[cache->n_free++] = row[--n];
    cache->n_blocks[slot] = 0;
}
