/// \file kv_cache.h
/// Which page of the KV cache holds which block of which slot. Pure bookkeeping; the pages
/// themselves are device memory of the engine. A block is PHX_PAGE_TOKENS consecutive positions;
/// all layers share the table, those with a sliding window too.
///
/// A cache that shares knows full blocks by their tokens and those of all blocks before them. Such
/// a page may be in the tables of several slots, and is never written again. When the last slot has
/// given it back it stays known until its place is needed: the least recently used one goes first,
/// of a text its last block. Tokens are compared; a hash only finds them.
#ifndef PHX_RUNTIME_KV_CACHE_H
#define PHX_RUNTIME_KV_CACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/status.h"

struct phx_kv_cache;

/// Blocks that `n_tokens` positions take.
int32_t phx_kv_blocks_for(int64_t n_tokens);

enum phx_status phx_kv_cache_create(int32_t n_pages, int32_t n_slots, int32_t max_slot_blocks,
                                    bool shares, struct phx_kv_cache **out);
void phx_kv_cache_destroy(struct phx_kv_cache *cache);

int32_t phx_kv_cache_pages(const struct phx_kv_cache *cache);
/// Pages that no slot holds, known ones included.
int32_t phx_kv_cache_free_pages(const struct phx_kv_cache *cache);
/// Pages whose tokens are known, held or not.
int32_t phx_kv_cache_known_pages(const struct phx_kv_cache *cache);
/// Blocks that the slot holds now.
int32_t phx_kv_cache_slot_blocks(const struct phx_kv_cache *cache, int32_t slot);
/// Page of the slot's block.
int32_t phx_kv_cache_page(const struct phx_kv_cache *cache, int32_t slot, int32_t block);
/// Slots that hold the page.
int32_t phx_kv_cache_users(const struct phx_kv_cache *cache, int32_t page);

/// Give a slot that holds nothing the known pages of the longest beginning of `ids`, of `n_blocks`
/// blocks at most. Returns their number; 0 if the cache does not share.
int32_t phx_kv_cache_share(struct phx_kv_cache *cache, int32_t slot, const int32_t *ids,
                           int32_t n_blocks);
/// The slot's first n_tokens positions hold `ids` for whoever reads them from the next step on:
/// their full blocks are known from here on, and must not be written again.
void phx_kv_cache_know(struct phx_kv_cache *cache, int32_t slot, const int32_t *ids,
                       int32_t n_tokens);
/// Give the slot pages of its own until it holds `n_blocks`. False, and nothing changed, if too few
/// are free.
bool phx_kv_cache_grow(struct phx_kv_cache *cache, int32_t slot, int32_t n_blocks);
/// The slot lets go of all its pages.
void phx_kv_cache_release(struct phx_kv_cache *cache, int32_t slot);

#endif
