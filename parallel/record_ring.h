/// \file record_ring.h
/// The records' channel of one machine: a ring of bytes in shared memory, written by one rank and
/// read by each of the others at its own pace.
///
/// A record may be longer than the ring: it then passes through in parts while readers read.
#ifndef PHX_PARALLEL_RECORD_RING_H
#define PHX_PARALLEL_RECORD_RING_H

#include <stddef.h>
#include <stdint.h>

#include "parallel/signal.h"

struct phx_record_ring_memory;

/// One rank's view; plain data.
struct phx_record_ring {
    struct phx_record_ring_memory *memory;
    struct phx_world *world;
    int n_readers;
    uint32_t position; ///< bytes written or read so far, modulo 2^32
};

/// What the ranks must share.
size_t phx_record_ring_bytes(int n_readers);
/// `memory` is zeroed, at least phx_record_ring_bytes() long and aligned to 128 bytes.
void phx_record_ring_attach(struct phx_record_ring *ring, void *memory, int n_readers,
                            struct phx_world *world);

/// Waits while the slowest reader is a whole ring behind. PHX_PEER if the world is aborted.
enum phx_status phx_record_ring_send(struct phx_record_ring *ring, const void *record,
                                     size_t bytes);
/// Sleeps until a record comes. `reader` is 0..n_readers-1, a different one for each rank. A record
/// longer than `capacity` is an assertion. PHX_PEER if the world is aborted.
enum phx_status phx_record_ring_receive(struct phx_record_ring *ring, int reader, void *record,
                                        size_t capacity, size_t *out_bytes);

#endif
