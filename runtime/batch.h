/// \file batch.h
/// A rank's copy of what the step records say: slots, pages, sampling parameters, on host and
/// device. Applying the records in order keeps it the same on all ranks.
#ifndef PHX_RUNTIME_BATCH_H
#define PHX_RUNTIME_BATCH_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"
#include "parallel/shard_plan.h"
#include "runtime/forward.h"
#include "runtime/scheduler.h"
#include "runtime/step_record.h"

struct phx_batch;

/// Device bytes that it takes; `vocab` is this rank's part.
size_t phx_batch_bytes(const struct phx_scheduler_limits *limits, int64_t vocab);

/// `vocab` is this rank's part of the vocabulary.
enum phx_status phx_batch_create(struct phx_device *device,
                                 const struct phx_scheduler_limits *limits,
                                 struct phx_interval vocab, bool pads, struct phx_batch **out);
void phx_batch_destroy(struct phx_batch *batch);

/// Upload what the record changes and fill in the step's views. Allocates nothing.
///
/// If the batch pads, a step that only decodes gets further rows that compute nothing (seq_slot and
/// out_slots -1), up to phx_batch_bucket() rows, so that few shapes exist.
enum phx_status phx_batch_apply(struct phx_batch *batch, struct phx_stream *stream,
                                const struct phx_step_record *record, struct phx_step *out);

/// n_rows rounded up to one of few numbers, four an octave: 1 to 8, 10, 12, 14, 16, 20, ...; at
/// most `most`.
int32_t phx_batch_bucket(int32_t n_rows, int32_t most);

#endif
