/// \file comm_impl.h
/// What a communicator implements; only parallel/comm*.c include this.
#ifndef PHX_PARALLEL_COMM_IMPL_H
#define PHX_PARALLEL_COMM_IMPL_H

#include "parallel/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

struct phx_comm_ops {
    const char *name;
    bool blocking; ///< the work is done when a call returns: it cannot be recorded
    /// Local: whatever can fail on one rank alone, which then must not leave the others waiting in
    /// connect. max_gather_bytes is the largest of any rank.
    enum phx_status (*create)(struct phx_world *, struct phx_device *,
                              const struct phx_comm_options *, struct phx_comm **);
    /// Collective: all ranks have created theirs. NULL: nothing to do.
    enum phx_status (*connect)(struct phx_comm *);
    size_t (*bytes)(const struct phx_comm_options *, int size);    ///< NULL: 0
    void (*describe)(const struct phx_comm *, char *text, size_t); ///< NULL: the name
    /// comm.c destroys the buffers, before the communicator.
    enum phx_status (*buffer)(struct phx_comm *, size_t, struct phx_buffer **);
    enum phx_status (*all_reduce)(struct phx_comm *, struct phx_stream *, struct phx_tensor);
    /// With a weight, without a post norm. NULL: phx_comm_sum_then_norm(), as for all others.
    enum phx_status (*reduce_norm)(struct phx_comm *, struct phx_stream *,
                                   const struct phx_reduce_norm *);
    enum phx_status (*gather_cols)(struct phx_comm *, struct phx_stream *, struct phx_tensor,
                                   const int64_t *, struct phx_tensor);
    /// NULL, like `position`, where the device works inside the calls, or nobody waits for another:
    /// comm.c counts the calls.
    enum phx_status (*begin_step)(struct phx_comm *, struct phx_stream *);
    struct phx_comm_position (*position)(const struct phx_comm *);
    void (*abort)(struct phx_comm *); ///< NULL: waits end with the world's abort
    void (*finish)(struct phx_comm *);
    void (*destroy)(struct phx_comm *);
};

/// The head of every communicator; its create fills what comes before the position.
struct phx_comm {
    const struct phx_comm_ops *ops;
    struct phx_world *world;
    struct phx_device *device;
    struct phx_comm_options options;
    uint64_t host_position;      ///< n_steps << 32 | n_begun, atomic; without ops->position
    struct phx_buffer **buffers; ///< [n_buffers], those of phx_comm_buffer()
    int n_buffers;
    double seconds; ///< in collective calls, if they are blocking
};

/// phx_comm_create() of an implementation.
enum phx_status phx_comm_create_as(const struct phx_comm_ops *ops, struct phx_world *world,
                                   struct phx_device *device,
                                   const struct phx_comm_options *options, struct phx_comm **out);

/// What reduce_norm does once args->partial is the sum: phx_op_add_norm.
enum phx_status phx_comm_norm_sum(struct phx_stream *stream, const struct phx_reduce_norm *args);
/// The composition that defines reduce_norm: all_reduce, then that.
enum phx_status phx_comm_sum_then_norm(struct phx_comm *comm, struct phx_stream *stream,
                                       const struct phx_reduce_norm *args);

extern const struct phx_comm_ops phx_comm_solo;
extern const struct phx_comm_ops phx_comm_host;
/// Of comm_nccl.c, or of comm_nccl_absent.c, whose create says that this build has none.
extern const struct phx_comm_ops phx_comm_nccl;

#ifdef __cplusplus
}
#endif
#endif
