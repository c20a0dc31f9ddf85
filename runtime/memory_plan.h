/// \file memory_plan.h
/// Bytes of a rank, before anything is taken: what the engine allocates and what a user is told.
///
/// Every rank makes its plan, all ranks see all plans, and all settle on the same number of cache
/// pages: as many as the run can ever need where they fit on every rank, otherwise as many as do,
/// but enough for one text of the greatest length. Texts that do not fit together wait
/// (scheduler.h).
///
/// On GPUs some of what is taken is not planned, since nobody tells it before: NCCL's own buffers,
/// cuBLASLt's code, the graphs of recorded steps (step_graphs.h). It has to fit in what the
/// utilization leaves: a tenth of the GPU unless the user asks for less.
#ifndef PHX_RUNTIME_MEMORY_PLAN_H
#define PHX_RUNTIME_MEMORY_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"
#include "parallel/comm.h"
#include "parallel/shard_plan.h"
#include "runtime/config.h"
#include "runtime/safetensors.h"
#include "runtime/scheduler.h"
#include "runtime/weights.h"

/// Plain data: ranks exchange it.
struct phx_memory_plan {
    struct phx_limits stream_limits; ///< for phx_stream_create
    struct phx_comm_options comm;    ///< for phx_comm_create
    size_t weights_bytes;
    size_t kind_bytes[PHX_WEIGHT_KIND_COUNT]; ///< of these
    size_t kv_page_bytes;                     ///< of all layers, K and V
    size_t activation_bytes; ///< of the decoder pass; tables of slots, pages and sampling
    size_t scratch_bytes;    ///< of the stream
    size_t partials_bytes;   ///< for phx_comm_buffer
    size_t comm_bytes;       ///< of the communicator, that buffer too; not what NCCL takes itself
    int64_t host_rows;       ///< of logits, on rank 0's host
    size_t host_bytes;       ///< of these, the same on all ranks
    size_t room_bytes;       ///< that this rank may take of its device
    size_t fill_bytes;       ///< up to which the cache grows beyond one text; at most room_bytes
};

/// The part of a device's memory that is a rank's.
struct phx_memory_share {
    const struct phx_device *device;
    int n_sharers;      ///< ranks that have the same one
    double utilization; ///< CUDA: of the GPU's memory, with what others use. On the CPU the room is
                        ///< all that is free, and the cache fills half of it
};

/// `checkpoint` NULL: dummy weights. `comm`: its choices, not its sizes. `limits` but for n_pages.
/// `host_rows`: rows of the whole vocabulary's logits that rank 0 keeps in host memory. Looks at
/// what is free: all ranks have their devices, and none takes anything before all have made their
/// plans.
void phx_memory_plan_make(const struct phx_config *config, const struct phx_shard_plan *plan,
                          const struct phx_checkpoint *checkpoint,
                          const struct phx_memory_share *share, const struct phx_comm_options *comm,
                          const struct phx_scheduler_limits *limits, enum phx_dtype kv_dtype,
                          int64_t host_rows, struct phx_memory_plan *out);

/// Of the device, with a cache of n_pages.
size_t phx_memory_plan_bytes(const struct phx_memory_plan *plan, int64_t n_pages);

/// Lowers limits->n_pages to what fits on all of the n_ranks ranks: the same everywhere. If one
/// text of limits->max_length does not fit, the rank that lacks the most gets PHX_OUT_OF_MEMORY,
/// with the parts and the largest context that fits; so does rank 0 if its host cannot hold the
/// logits. Rank 0 logs a table of all ranks: PHX_LOG_INFO, or PHX_LOG_WARN if something does not
/// fit.
enum phx_status phx_memory_plans_settle(const struct phx_memory_plan *plans, int n_ranks, int rank,
                                        const struct phx_memory_share *share,
                                        struct phx_scheduler_limits *limits);

#endif
