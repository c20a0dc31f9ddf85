/// \file step_model.h
/// How long a step takes on a kind of GPU, at best: the longer of reading and multiplying, then the
/// sums over ranks. A prediction from a few constants; nothing is measured here, and what a step
/// takes besides (the starts of kernels, attention's other work, the host) is left out.
#ifndef PHX_RUNTIME_STEP_MODEL_H
#define PHX_RUNTIME_STEP_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"
#include "parallel/shard_plan.h"
#include "runtime/config.h"
#include "runtime/safetensors.h"

/// Seconds of a sum of n bytes over T ranks: latency + factor n / bandwidth, where the factor is
/// 2 (T - 1) / T for a ring and T - 1 where each rank sends all it has to every other.
struct phx_sum_constants {
    double latency_s, bytes_s;
};

struct phx_gpu_kind {
    const char *name; ///< as typed: "h100"
    const char *full_name;
    size_t memory_bytes;             ///< that the driver shows
    int n_sms;                       ///< multiprocessors
    double read_bytes_s;             ///< of its memory
    double operations_s;             ///< of products of 16-bit types
    struct phx_sum_constants ring;   ///< ncclAllReduce
    struct phx_sum_constants direct; ///< fused sums
    const char *source;              ///< of these constants, for people
};

/// NULL if there is none of this name.
const struct phx_gpu_kind *phx_gpu_kind_find(const char *name);

/// Sequences that each read n_rows positions, the last of `length`. One row: decoding.
struct phx_step_shape {
    int64_t n_seqs, n_rows, length;
};

/// What a rank does in a step.
struct phx_step_work {
    double read_bytes; ///< weights, keys and values
    double operations; ///< multiplies and adds
    int64_t n_sums;    ///< over ranks; 0 for one rank
    int64_t sum_bytes; ///< of all of them together: this rank's tensors
};
/// Of plan's rank. `checkpoint` NULL: weights of config->dtype.
void phx_step_work_of(const struct phx_config *config, const struct phx_shard_plan *plan,
                      const struct phx_checkpoint *checkpoint, const struct phx_device *device,
                      enum phx_dtype kv_dtype, const struct phx_step_shape *shape,
                      struct phx_step_work *out);

/// Of `size` ranks of one node, each with such work.
enum { PHX_STEP_MODEL_MAX_RANKS = 8 };
double phx_step_seconds(const struct phx_gpu_kind *kind, int size,
                        const struct phx_step_work *work);

#endif
