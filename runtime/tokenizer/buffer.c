#include "runtime/tokenizer/buffer.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/base/random.h"

enum phx_status phx_buffer_reserve(void *data, size_t *capacity, size_t n, size_t more,
                                   size_t item_bytes)
{
    if (more <= *capacity - n) return PHX_OK;
    size_t most = PTRDIFF_MAX / item_bytes;
    size_t wanted = n + n / 2 + 16;
    if (wanted < n + more) wanted = n + more;
    if (n > most / 2 || more > most / 2 || wanted > most) {
        return phx_fail(PHX_OUT_OF_MEMORY, "the tokenizer needs more memory than there can be");
    }
    void *grown;
    memcpy(&grown, data, sizeof grown);
    grown = realloc(grown, wanted * item_bytes);
    if (!grown) {
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for %zu bytes of the tokenizer",
                        wanted * item_bytes);
    }
    memcpy(data, &grown, sizeof grown);
    *capacity = wanted;
    return PHX_OK;
}

enum phx_status phx_bytes_append(struct phx_bytes *bytes, const char *data, size_t n)
{
    PHX_TRY(PHX_RESERVE(bytes, n));
    if (n) memcpy(bytes->data + bytes->n, data, n);
    bytes->n += n;
    return PHX_OK;
}

/* memmem() under ThreadSanitizer looks at all that is left, every time. */
const char *phx_bytes_find(const char *data, size_t n, const char *wanted, size_t wanted_bytes)
{
    while (n >= wanted_bytes) {
        const char *hit = memchr(data, *wanted, n - wanted_bytes + 1);
        if (!hit || memcmp(hit, wanted, wanted_bytes) == 0) return hit;
        n -= (size_t)(hit + 1 - data);
        data = hit + 1;
    }
    return NULL;
}

enum phx_status phx_ids_append(struct phx_ids *ids, int32_t id)
{
    PHX_TRY(PHX_RESERVE(ids, 1));
    ids->data[ids->n++] = id;
    return PHX_OK;
}

uint64_t phx_text_hash(const char *data, size_t n)
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

size_t phx_slots_for(size_t n)
{
    size_t slots = 16;
    while (slots < 2 * n) slots *= 2;
    return slots;
}
