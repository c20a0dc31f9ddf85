#include "runtime/template/arena.h"

#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"

enum { CHUNK_BYTES = 1 << 16 };

struct phx_arena_chunk {
    struct phx_arena_chunk *next;
    size_t used, n_bytes;
    alignas(max_align_t) char data[];
};

static enum phx_status add_chunk(struct phx_arena *arena, size_t n)
{
    size_t n_bytes = n > CHUNK_BYTES ? n : CHUNK_BYTES;
    struct phx_arena_chunk *chunk = calloc(1, sizeof *chunk + n_bytes);
    if (!chunk) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for %zu bytes of a template", n);
    chunk->n_bytes = n_bytes;
    chunk->next = arena->chunks;
    arena->chunks = chunk;
    return PHX_OK;
}

enum phx_status phx_arena_take(struct phx_arena *arena, size_t n, size_t item_bytes, void *out)
{
    size_t align = alignof(max_align_t);
    if (n > arena->limit / item_bytes || arena->used + n * item_bytes > arena->limit) {
        return phx_fail(PHX_UNSUPPORTED, "the template needs more than the %zu bytes it may have",
                        arena->limit);
    }
    size_t bytes = (n * item_bytes + align) / align * align; /* at least one */
    struct phx_arena_chunk *chunk = arena->chunks;
    if (!chunk || chunk->n_bytes - chunk->used < bytes) {
        PHX_TRY(add_chunk(arena, bytes));
        chunk = arena->chunks;
    }
    void *taken = chunk->data + chunk->used;
    chunk->used += bytes;
    arena->used += bytes;
    memcpy(out, &taken, sizeof taken);
    return PHX_OK;
}

void phx_arena_destroy(struct phx_arena *arena)
{
    while (arena->chunks) {
        struct phx_arena_chunk *chunk = arena->chunks;
        arena->chunks = chunk->next;
        free(chunk);
    }
}
