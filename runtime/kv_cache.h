/// \file kv_cache.h
/// Which page of the KV cache holds which block of which slot. Pure bookkeeping; the pages
/// themselves are device memory of the engine. A block is PHX_PAGE_TOKENS consecutive positions;
/// all layers share the table.
#ifndef PHX_RUNTIME_KV_CACHE_H
#define PHX_RUNTIME_KV_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"

struct phx_kv_cache;

/// Blocks that `n_tokens` positions take.
int32_t phx_kv_blocks_for(int64_t n_tokens);

enum phx_status phx_kv_cache_create(int32_t n_pages, int32_t n_slots, int32_t max_slot_blocks,
                                    struct phx_kv_cache **out);
void phx_kv_cache_destroy(struct phx_kv_cache *cache);

int32_t phx_kv_cache_pages(const struct phx_kv_cache *cache);
int32_t phx_kv_cache_free_pages(const struct phx_kv_cache *cache);
/// Blocks that the slot holds now.
int32_t phx_kv_cache_slot_blocks(const struct phx_kv_cache *cache, int32_t slot);
/// Page of the slot's block.
int32_t phx_kv_cache_page(const struct phx_kv_cache *cache, int32_t slot, int32_t block);

/// Give the slot pages until it holds `n_blocks`. False, and nothing changed, if too few are free.
bool phx_kv_cache_grow(struct phx_kv_cache *cache, int32_t slot, int32_t n_blocks);
/// Take all pages of the slot back.
void phx_kv_cache_release(struct phx_kv_cache *cache, int32_t slot);

#endif
