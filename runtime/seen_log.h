/// \file seen_log.h
/// Bytes under keys, written down by every rank and looked up on rank 0: what a capture keeps.
#ifndef PHX_RUNTIME_SEEN_LOG_H
#define PHX_RUNTIME_SEEN_LOG_H

#include <stddef.h>
#include <stdint.h>

#include "parallel/world.h"

struct phx_seen_key {
    int32_t what, layer, slot, position, head;
};

struct phx_seen_log;

/// The world outlives it.
enum phx_status phx_seen_log_create(struct phx_world *world, struct phx_seen_log **out);
void phx_seen_log_destroy(struct phx_seen_log *log);

/// Room for `bytes` under a key, 8-byte aligned, valid until the next call.
enum phx_status phx_seen_log_append(struct phx_seen_log *log, const struct phx_seen_key *key,
                                    size_t bytes, void **out);

/// Collective: what all ranks wrote comes to rank 0.
enum phx_status phx_seen_log_gather(struct phx_seen_log *log);

/// Rank 0, after the gathering: what that rank wrote under the key, the last if there is more than
/// one; NULL: nothing.
const void *phx_seen_log_find(const struct phx_seen_log *log, int rank,
                              const struct phx_seen_key *key, size_t *out_bytes);

#endif
