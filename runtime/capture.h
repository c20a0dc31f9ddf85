/// \file capture.h
/// What the taps of the running passes saw, kept, and brought together on rank 0: the live data of
/// every rank, as audit and compare judge it.
#ifndef PHX_RUNTIME_CAPTURE_H
#define PHX_RUNTIME_CAPTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "parallel/world.h"
#include "runtime/engine.h"

/// What is kept: the points of a pass, then what lies in caches and comes from attention's taps.
enum {
    PHX_SEEN_K = PHX_POINT_COUNT, ///< [Hk D] of a position, as it lies in its page
    PHX_SEEN_V,                   ///< [Hk D]
    PHX_SEEN_USED,                ///< struct phx_attention_used, of a step; its number as position
    PHX_SEEN_READS,               ///< struct phx_seen_read [blocks], of a query head
    PHX_SEEN_SCORES,              ///< [64 blocks], of a query head; see phx_attention_tap
    PHX_SEEN_WEIGHTS,             ///< [64 blocks]
    PHX_SEEN_MAXIMA,              ///< [64 blocks]
    PHX_SEEN_SUMS,                ///< [2]
    PHX_SEEN_BLOCK,               ///< K then V, [64 D] each, as read; its number as position
    PHX_SEEN_COUNT
};

/// A block of keys as a query head read it. Offsets are bytes from where the layer's K (V) begins.
struct phx_seen_read {
    int64_t k_offset, v_offset;
    int64_t k_stride, v_stride; ///< to the next token
    int32_t slot;               ///< as in struct phx_attention_read
    int32_t page, kv_head, n_keys;
    int32_t true_slot; ///< of the row's sequence
    int32_t block;     ///< number of its PHX_SEEN_BLOCK; -1: outside the cache
    bool was_read;
};

struct phx_capture_options {
    const bool *layers;     ///< [n_layers] to look at
    uint32_t points;        ///< bit set of enum phx_point and PHX_SEEN_K, PHX_SEEN_V
    uint32_t all_rows;      ///< those of which every row is kept, not only the chosen ones
    bool choose_all;        ///< every row is chosen; else:
    const int32_t *choices; ///< these positions of each sequence, and its last row in each step
    int32_t n_choices;
};

struct phx_capture;

/// Looks on from now on; before the first step, on every rank. Everything outlives it, and it the
/// engine's steps. `limits` are the stream's. Copies the options.
enum phx_status phx_capture_create(const struct phx_engine_parts *parts, struct phx_engine *engine,
                                   const struct phx_limits *limits,
                                   const struct phx_capture_options *options,
                                   struct phx_capture **out);
void phx_capture_destroy(struct phx_capture *capture);

/// Collective, after the last step: rank 0 can look up from then on.
enum phx_status phx_capture_gather(struct phx_capture *capture);

/// Rank 0: what was seen there, f32 unless said, of n bytes; NULL if nothing was. `slot` is -1 for
/// what belongs to no sequence, `head` is the rank's own query head or -1. What was seen more than
/// once is the last of it.
const void *phx_capture_find(const struct phx_capture *capture, int rank, int what, int32_t layer,
                             int32_t slot, int32_t position, int32_t head, size_t *out_bytes);

/// Rank 0: the rank's layout of a layer's cache.
struct phx_seen_cache {
    int32_t n_pages, n_kv_heads, head_dim, element_bytes;
    struct phx_interval q_heads, kv_heads; ///< that the rank's plan gives it
    struct phx_interval ffn, vocab;
    struct phx_interval experts, moe_ffn, shared_ffn;
};
const struct phx_seen_cache *phx_capture_cache(const struct phx_capture *capture, int rank,
                                               int32_t layer);

#endif
