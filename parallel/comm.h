/// \file comm.h
/// The device communicator: sums and gathers of tensors over all ranks, in stream order.
///
/// All ranks hold the same bits. The host communicator and fused sums add in f32 in rank order, and
/// round once to the tensor's type; NCCL adds in an order of its own, rounding 16-bit types on the
/// way. All calls but those said to be otherwise are collective: every rank makes the same calls
/// with the same shapes in the same order, from one stream.
#ifndef PHX_PARALLEL_COMM_H
#define PHX_PARALLEL_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"
#include "kernels/tensor.h"
#include "parallel/world.h"

#ifdef __cplusplus
extern "C" {
#endif

struct phx_comm;

enum phx_comm_kind {
    PHX_COMM_SOLO, ///< one rank: nothing to do
    PHX_COMM_HOST, ///< through host memory; CPU devices, or any device staged
    PHX_COMM_NCCL
};

/// The NCCL of this program, which counts 2.28.3 as 22803. Not collective; needs no GPU.
struct phx_nccl_info {
    int built, loaded; ///< the version of its header and its own; 0: this build has none
    bool has_windows;  ///< they are the same: windows and the device API may be used
};
void phx_nccl_info(struct phx_nccl_info *out);

/// How NCCL ranks of one node add. Several nodes: always PHX_ALLREDUCE_NCCL.
enum phx_allreduce {
    PHX_ALLREDUCE_AUTO,      ///< the fastest at each size, by a short measurement at creation
    PHX_ALLREDUCE_NCCL,      ///< ncclAllReduce
    PHX_ALLREDUCE_SYMMETRIC, ///< ncclAllReduce on symmetric windows
    PHX_ALLREDUCE_FUSED      ///< sum, residual and norm in one kernel over peers' memory
};

struct phx_comm_options {
    enum phx_comm_kind kind;
    enum phx_allreduce allreduce; ///< PHX_COMM_NCCL only
    size_t max_reduce_bytes;      ///< largest tensor of an all-reduce
    size_t max_gather_bytes;      ///< largest tensor that one rank gives to a gather
};

/// Ends as a phase of start-up does, in phx_world_agree(): all ranks fail together, and have told
/// why. The world and the device outlive it.
enum phx_status phx_comm_create(struct phx_world *world, struct phx_device *device,
                                const struct phx_comm_options *options, struct phx_comm **out);

/// True if its calls can be recorded into graphs. Not collective.
bool phx_comm_recordable(const struct phx_comm *comm);

/// Device memory that a rank of `size` takes for itself, besides that of phx_comm_buffer(), which
/// on GPUs may be rounded up to 2 MB. Pure. What NCCL takes for itself is not known.
size_t phx_comm_bytes(const struct phx_comm_options *options, int size);

/// How it adds, for people: "fused up to 512 KB, symmetric above". Not collective.
void phx_comm_describe(const struct phx_comm *comm, char *text, size_t size);

/// Memory from which all-reduces run fastest, zeroed. A call takes tensors of the same buffer on
/// all ranks, with NCCL at the same offset, or of no such buffer on any. The buffer dies with the
/// communicator; memory that ranks share may last as long as the world.
enum phx_status phx_comm_buffer(struct phx_comm *comm, size_t bytes, struct phx_buffer **out);

/// x[n][c] = sum over ranks, in place. Any float type; no gaps between rows.
enum phx_status phx_comm_all_reduce(struct phx_comm *comm, struct phx_stream *stream,
                                    struct phx_tensor x);

/// The sum over ranks of `partial`, then phx_op_add_norm with it: residual (+)= sum, out =
/// norm(residual). `partial` is undefined afterwards.
struct phx_reduce_norm {
    struct phx_tensor partial;  ///< act [N, E]
    struct phx_tensor residual; ///< f32 [N, E], in and out
    bool start;                 ///< residual = sum instead of residual += sum
    struct phx_tensor post;     ///< f32 [1, E], optional: a norm of the sum comes first
    struct phx_tensor weight;   ///< f32 [1, E], optional
    float epsilon;
    struct phx_tensor out; ///< act [N, E]
};
enum phx_status phx_comm_reduce_norm(struct phx_comm *comm, struct phx_stream *stream,
                                     const struct phx_reduce_norm *args);

/// Columns of all ranks side by side in rank order: all[n] = mine_0[n] mine_1[n] ... Ranks may give
/// different numbers of columns: rank r fills [col_begin[r], col_begin[r + 1]) of `all`. Any type.
enum phx_status phx_comm_gather_cols(struct phx_comm *comm, struct phx_stream *stream,
                                     struct phx_tensor mine, const int64_t *col_begin,
                                     struct phx_tensor all);

/// Collectives are counted from here until the next call: a step begins. In stream order,
/// recordable into graphs; not collective.
enum phx_status phx_comm_begin_step(struct phx_comm *comm, struct phx_stream *stream);
/// Where this rank's device is: steps begun since creation, and collectives begun of the newest
/// one. Any thread may ask, at any time, without waiting.
struct phx_comm_position {
    uint32_t n_steps, n_begun;
};
void phx_comm_position(const struct phx_comm *comm, struct phx_comm_position *out);
/// Seconds that this rank has spent in sums (with their norms) and gathers, its waits for other
/// ranks included; NaN where the device does them by itself. Not collective; asked from the thread
/// that makes the calls.
double phx_comm_seconds(const struct phx_comm *comm);
/// From any thread: whatever waits for other ranks gives up, as soon as it can, and later calls
/// return PHX_COMM; the communicator is of no use afterwards. NCCL's own kernels wait on until the
/// process ends.
void phx_comm_abort(struct phx_comm *comm);

/// Collective: an orderly end. Graphs with recorded calls are gone by then: NCCL waits for that.
void phx_comm_finish(struct phx_comm *comm);
void phx_comm_destroy(struct phx_comm *comm);

#ifdef __cplusplus
}
#endif
#endif
