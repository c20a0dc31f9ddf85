/// \file arena.h
/// Memory that is given back all at once, up to a limit.
#ifndef PHX_RUNTIME_TEMPLATE_ARENA_H
#define PHX_RUNTIME_TEMPLATE_ARENA_H

#include <stddef.h>

#include "kernels/base/status.h"

struct phx_arena_chunk;

/// {.limit = bytes} is an empty one.
struct phx_arena {
    struct phx_arena_chunk *chunks;
    size_t used, limit; ///< bytes
};

/// Zeroed memory, aligned for anything. PHX_UNSUPPORTED beyond the limit. `out` is the address of a
/// pointer.
enum phx_status phx_arena_take(struct phx_arena *arena, size_t n, size_t item_bytes, void *out);
void phx_arena_destroy(struct phx_arena *arena);

#endif
