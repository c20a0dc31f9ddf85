/// \file step_model.h
/// How long a step takes: the one place that says so, for `plan` and for bench/scale.sh.
///
/// Two predictions. phx_step_seconds(): at best on a kind of GPU, from a few constants: the longer
/// of reading and multiplying, then the sums over ranks; what a step takes besides (the starts of
/// kernels, attention's other work, the host) is left out. phx_step_scale(): on another number of
/// ranks, from the measured stages of a step and from sums measured alone.
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

/// What a rank takes of a GPU beside its plan (memory_plan.h), as bench/bench_memory measures it.
struct phx_beside {
    size_t driver_bytes; ///< with CUDA's libraries and recorded steps
    size_t nccl_bytes;   ///< more than that, of one of several ranks
    const char *source;  ///< for people; NULL: not measured
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
    struct phx_beside beside;
};

/// NULL if there is none of this name.
const struct phx_gpu_kind *phx_gpu_kind_find(const char *name);

/// Sequences that each read n_rows positions, the last of `length`. One row: decoding.
struct phx_step_shape {
    int64_t n_seqs, n_rows, length;
};

/// What a rank does in a step.
struct phx_step_work {
    double weight_bytes, cache_bytes;                ///< read: weights; keys and values
    double product_operations, attention_operations; ///< multiplies and adds
    int64_t n_products, n_attentions;                ///< operations of these kinds
    int64_t n_sums;                                  ///< over ranks; 0 for one rank
    int64_t sum_bytes; ///< of all of them together: this rank's tensors
};
static inline double phx_step_read_bytes(const struct phx_step_work *work)
{
    return work->weight_bytes + work->cache_bytes;
}
static inline double phx_step_operations(const struct phx_step_work *work)
{
    return work->product_operations + work->attention_operations;
}
/// Of plan's rank. `checkpoint` NULL: weights of config->dtype.
void phx_step_work_of(const struct phx_config *config, const struct phx_shard_plan *plan,
                      const struct phx_checkpoint *checkpoint, const struct phx_device *device,
                      enum phx_dtype kv_dtype, const struct phx_step_shape *shape,
                      struct phx_step_work *out);

/// Of `size` ranks of one node, each with such work.
enum { PHX_STEP_MODEL_MAX_RANKS = 8 };
double phx_step_seconds(const struct phx_gpu_kind *kind, int size,
                        const struct phx_step_work *work);

/// A sum of `bytes` over `size` ranks round a ring: latency + 2 (T - 1) / T bytes / bandwidth.
double phx_sum_seconds(const struct phx_sum_constants *constants, int size, double bytes);
/// The constants by which sums of so many bytes over `size` ranks take as long as measured. If only
/// one size was measured, or the larger one took no longer, the bandwidth has no end.
struct phx_sum_constants phx_sum_fit(int size, double small_bytes, double small_s,
                                     double large_bytes, double large_s);

/// A step, measured stage by stage on some number of ranks, without the sums over ranks.
struct phx_step_stages {
    double products_s, attention_s;
    double
        other_s; ///< norms, sampling, gaps, the host: taken to be the same on any number of ranks
    double start_s; ///< of an operation that does nothing, in a chain of such
};
/// What a rank's device does at best, alone beside it; ranks that share a machine have less each.
struct phx_step_rates {
    double read_bytes_s, operations_s;
};
/// The same step on other ranks. Of products and attention the starts stay, and the rest goes with
/// the time that reading or multiplying takes at best, whichever shrinks less; then to->n_sums sums
/// of sum_s each.
double phx_step_scale(const struct phx_step_stages *stages, const struct phx_step_work *from,
                      const struct phx_step_rates *from_rates, const struct phx_step_work *to,
                      const struct phx_step_rates *to_rates, double sum_s);

#endif
