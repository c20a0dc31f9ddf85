/// \file comm_nccl.h
/// What the files of the NCCL communicator share; only parallel/comm_nccl* include this.
#ifndef PHX_PARALLEL_COMM_NCCL_H
#define PHX_PARALLEL_COMM_NCCL_H

#include <nccl.h>

#include "parallel/comm_impl.h"
#include "parallel/comm_nccl_choice.h"
#include "parallel/comm_nccl_fused.h"

/// Memory that all ranks have registered with NCCL, this rank's part of it.
struct phx_nccl_window {
    void *memory; ///< NULL: none
    ncclWindow_t handle;
};

struct phx_nccl_comm {
    struct phx_comm base;
    ncclComm_t native;
    size_t piece_bytes;        ///< what a rank gives to a gather at a time, at most
    struct phx_buffer *pieces; ///< [size + 1][piece_bytes]: those of all ranks, then the own one
    struct phx_buffer *state;  ///< struct phx_fused_state
    struct phx_fused fused;    ///< without windows where nothing is fused
    struct phx_nccl_window fused_window;
    struct phx_nccl_window *windows; ///< [n_windows] of phx_comm_buffer()
    int n_windows;
    struct phx_nccl_choice choice;
    bool aborted; ///< atomic
};

/* ---- comm_nccl.c ---- */
/// PHX_OK, or the failure of `call` in NCCL's words.
enum phx_status phx_nccl_status(const struct phx_nccl_comm *c, ncclResult_t result,
                                const char *call);
#define PHX_NCCL_TRY(c, name, args) PHX_TRY(phx_nccl_status(c, name args, #name))

/// Collective. PHX_OK if all ranks have that; otherwise a rank's own status, with its sentence left
/// for whoever reports it, or PHX_PEER.
enum phx_status phx_nccl_together(struct phx_world *world, enum phx_status status);

/// Collective: `bytes` of zeros, registered by all ranks or, with a failure on each, by none.
enum phx_status phx_nccl_window_open(struct phx_nccl_comm *c, size_t bytes,
                                     struct phx_nccl_window *out);
void phx_nccl_window_close(struct phx_nccl_comm *c, struct phx_nccl_window *window);

/// Is there room for it, and are its rows short enough for a block?
bool phx_nccl_can_fuse_sum(const struct phx_nccl_comm *c, enum phx_dtype dtype, int64_t n);
bool phx_nccl_can_fuse_norm(const struct phx_nccl_comm *c, enum phx_dtype dtype, int64_t rows,
                            int64_t cols);
/// phx_comm_all_reduce and phx_comm_reduce_norm in one of the ways, not PHX_ALLREDUCE_AUTO.
enum phx_status phx_nccl_reduce(struct phx_nccl_comm *c, enum phx_allreduce way,
                                struct phx_stream *stream, struct phx_tensor x);
enum phx_status phx_nccl_reduce_norm(struct phx_nccl_comm *c, enum phx_allreduce way,
                                     struct phx_stream *stream, const struct phx_reduce_norm *args);

/* ---- comm_nccl_ways.c ---- */
/// Collective, at creation: open what options.allreduce needs, check each way with data, report
/// what does not work, and choose among the rest.
enum phx_status phx_nccl_choose_ways(struct phx_nccl_comm *c);

/* ---- comm_nccl_trial.c: ways are tried, at creation; all calls but `close` are collective ---- */
struct phx_nccl_trial;
enum phx_status phx_nccl_trial_open(struct phx_nccl_comm *c, struct phx_nccl_trial **out);
void phx_nccl_trial_close(struct phx_nccl_trial *trial);
struct phx_stream *phx_nccl_trial_stream(struct phx_nccl_trial *trial);
/// Largest sum that is timed.
size_t phx_nccl_trial_max_bytes(const struct phx_nccl_trial *trial);
/// What PHX_ALLREDUCE_SYMMETRIC is tried with.
enum phx_status phx_nccl_trial_open_window(struct phx_nccl_trial *trial);

/// Sums of several sizes against the host's, launched one by one and from graphs; where they are
/// fused, norms too. This rank's verdict, with a sentence; PHX_COMM if sums are wrong or do not
/// come to an end.
enum phx_status phx_nccl_trial_check(struct phx_nccl_trial *trial, enum phx_allreduce way);
/// Microseconds of a phx_comm_reduce_norm in a chain of them in a graph; 0 where it cannot be
/// fused.
enum phx_status phx_nccl_trial_time(struct phx_nccl_trial *trial, enum phx_allreduce way,
                                    size_t bytes, double *out_us);

extern const char *const phx_nccl_way_names[PHX_ALLREDUCE_FUSED + 1];

#endif
