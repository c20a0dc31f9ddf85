#include "parallel/record_ring.h"

#include <string.h>

#include "kernels/base/check.h"

enum {
    CAPACITY = 1 << 18, /* bytes; a record of a decode step has some hundred */
    PART = CAPACITY / 2,
    SPIN_US = 50 /* idle ranks sleep: only a record that is about to come is worth spinning for */
};

struct phx_record_ring_memory {
    struct phx_signal written; /* counts bytes */
    char data[CAPACITY];
    struct phx_signal read[]; /* [n_readers], each counts bytes */
};

size_t phx_record_ring_bytes(int n_readers)
{
    return sizeof(struct phx_record_ring_memory) + (size_t)n_readers * sizeof(struct phx_signal);
}

void phx_record_ring_attach(struct phx_record_ring *ring, void *memory, int n_readers,
                            struct phx_world *world)
{
    *ring = (struct phx_record_ring){.memory = memory, .world = world, .n_readers = n_readers};
}

/* The ring is a stream: bytes at `position` lie in one or two pieces. */
static size_t contiguous(uint32_t position, size_t bytes)
{
    size_t left = CAPACITY - position % CAPACITY;
    return bytes < left ? bytes : left;
}

static void copy_in(struct phx_record_ring *ring, const void *from, size_t bytes)
{
    size_t first = contiguous(ring->position, bytes);
    memcpy(ring->memory->data + ring->position % CAPACITY, from, first);
    memcpy(ring->memory->data, (const char *)from + first, bytes - first);
    ring->position += (uint32_t)bytes;
}

static void copy_out(struct phx_record_ring *ring, void *to, size_t bytes)
{
    size_t first = contiguous(ring->position, bytes);
    memcpy(to, ring->memory->data + ring->position % CAPACITY, first);
    memcpy((char *)to + first, ring->memory->data, bytes - first);
    ring->position += (uint32_t)bytes;
}

/* Until `bytes` more can be written without running over a reader. */
static bool wait_for_room(struct phx_record_ring *ring, size_t bytes)
{
    uint32_t oldest = ring->position + (uint32_t)bytes - CAPACITY;
    for (int r = 0; r < ring->n_readers; r++)
        if (!phx_signal_wait(&ring->memory->read[r], oldest, ring->world, SPIN_US)) return false;
    return true;
}

static bool wait_for_data(struct phx_record_ring *ring, size_t bytes)
{
    return phx_signal_wait(&ring->memory->written, ring->position + (uint32_t)bytes, ring->world,
                           SPIN_US);
}

/* Writer and reader cut a record into the same parts: its length alone, then up to PART bytes at a
 * time. The length is published together with the first part. */
enum phx_status phx_record_ring_send(struct phx_record_ring *ring, const void *record, size_t bytes)
{
    uint64_t length = bytes;
    if (!wait_for_room(ring, sizeof length)) return PHX_PEER;
    copy_in(ring, &length, sizeof length);
    for (size_t done = 0; done < bytes;) {
        size_t part = bytes - done < PART ? bytes - done : PART;
        if (!wait_for_room(ring, part)) return PHX_PEER;
        copy_in(ring, (const char *)record + done, part);
        phx_signal_set(&ring->memory->written, ring->position);
        done += part;
    }
    return PHX_OK;
}

enum phx_status phx_record_ring_receive(struct phx_record_ring *ring, int reader, void *record,
                                        size_t capacity, size_t *out_bytes)
{
    PHX_ASSERT(reader >= 0 && reader < ring->n_readers);
    uint64_t length;
    if (!wait_for_data(ring, sizeof length)) return PHX_PEER;
    copy_out(ring, &length, sizeof length);
    PHX_ASSERT(length <= capacity);
    for (size_t done = 0; done < length;) {
        size_t part = length - done < PART ? length - done : PART;
        if (!wait_for_data(ring, part)) return PHX_PEER;
        copy_out(ring, (char *)record + done, part);
        phx_signal_set(&ring->memory->read[reader], ring->position);
        done += part;
    }
    *out_bytes = length;
    return PHX_OK;
}
