/// \file memory_plan.h
/// Device bytes of a rank, before anything is taken: what the engine allocates and what a user is
/// told.
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

struct phx_memory_plan {
    struct phx_limits stream_limits; ///< for phx_stream_create
    struct phx_comm_options comm;    ///< for phx_comm_create; `kind` is the caller's choice
    size_t weights_bytes;
    size_t kv_page_bytes;    ///< of all layers, K and V
    size_t kv_bytes;         ///< n_pages of them
    size_t activation_bytes; ///< of the decoder pass
    size_t batch_bytes;      ///< tables of slots, pages and sampling
    size_t scratch_bytes;    ///< of the stream
    size_t comm_bytes;       ///< of the communicator
    size_t total_bytes;
};

/// `checkpoint` NULL: dummy weights.
void phx_memory_plan_make(const struct phx_config *config, const struct phx_shard_plan *plan,
                          const struct phx_checkpoint *checkpoint, const struct phx_device *device,
                          const struct phx_scheduler_limits *limits, enum phx_dtype kv_dtype,
                          struct phx_memory_plan *out);

/// PHX_OUT_OF_MEMORY, with the parts and the largest context that fits, if the device has less free
/// memory. `n_sharers` ranks share the device's memory (the ranks of a node, on the CPU).
enum phx_status phx_memory_plan_check(const struct phx_memory_plan *plan,
                                      const struct phx_scheduler_limits *limits,
                                      const struct phx_device *device, int n_sharers);

#endif
