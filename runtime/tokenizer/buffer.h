/// \file buffer.h
/// Arrays that grow, for the tokenizer. A zeroed struct is an empty one; free(data) ends it.
#ifndef PHX_RUNTIME_TOKENIZER_BUFFER_H
#define PHX_RUNTIME_TOKENIZER_BUFFER_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

/// Bytes of somebody else, not zero-terminated.
struct phx_slice {
    const char *data;
    size_t n;
};

struct phx_bytes {
    char *data;
    size_t n, capacity;
};

struct phx_ids {
    int32_t *data;
    size_t n, capacity;
};

/// Room for `more` items after array->n in a struct with data, n and capacity.
#define PHX_RESERVE(array, more)                                                                   \
    phx_buffer_reserve(&(array)->data, &(array)->capacity, (array)->n, (more),                     \
                       sizeof *(array)->data)

/// `data` is the address of a pointer to items. PHX_OUT_OF_MEMORY leaves everything as it was.
enum phx_status phx_buffer_reserve(void *data, size_t *capacity, size_t n, size_t more,
                                   size_t item_bytes);

/// `data` may not lie in `bytes`.
enum phx_status phx_bytes_append(struct phx_bytes *bytes, const char *data, size_t n);
/// The first place in data[0, n) where wanted[0, wanted_bytes), which is not empty, stands; NULL if
/// there is none.
const char *phx_bytes_find(const char *data, size_t n, const char *wanted, size_t wanted_bytes);
enum phx_status phx_ids_append(struct phx_ids *ids, int32_t id);

/// For tables by hash, probed one slot after the other.
uint64_t phx_text_hash(const char *data, size_t n);
/// A power of two, of which n items take at most half.
size_t phx_slots_for(size_t n);

#endif
