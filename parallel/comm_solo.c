#include <stdlib.h>

#include "kernels/base/check.h"
#include "parallel/comm_impl.h"

static enum phx_status solo_create(struct phx_world *world, struct phx_device *device,
                                   const struct phx_comm_options *options, struct phx_comm **out)
{
    struct phx_comm *comm = calloc(1, sizeof *comm);
    PHX_ASSERT(comm != NULL);
    comm->ops = &phx_comm_solo;
    comm->world = world;
    comm->device = device;
    comm->options = *options;
    *out = comm;
    return PHX_OK;
}

static enum phx_status solo_buffer(struct phx_comm *comm, size_t bytes, struct phx_buffer **out)
{
    return phx_buffer_create(comm->device, bytes, out);
}

static enum phx_status solo_all_reduce(struct phx_comm *comm, struct phx_stream *stream,
                                       struct phx_tensor x)
{
    (void)comm, (void)stream, (void)x;
    return PHX_OK;
}

static enum phx_status solo_gather_cols(struct phx_comm *comm, struct phx_stream *stream,
                                        struct phx_tensor mine, const int64_t *col_begin,
                                        struct phx_tensor all)
{
    (void)comm, (void)col_begin;
    for (int64_t row = 0; row < mine.rows; row++) {
        struct phx_tensor from = phx_tensor_rows(mine, row, 1), to = phx_tensor_rows(all, row, 1);
        PHX_TRY(phx_buffer_copy(stream, to.buffer, to.offset_bytes, from.buffer, from.offset_bytes,
                                phx_tensor_span_bytes(from)));
    }
    return PHX_OK;
}

static void solo_finish(struct phx_comm *comm)
{
    (void)comm;
}

static void solo_destroy(struct phx_comm *comm)
{
    free(comm);
}

const struct phx_comm_ops phx_comm_solo = {
    .name = "solo",
    .blocking = false,
    .create = solo_create,
    .buffer = solo_buffer,
    .all_reduce = solo_all_reduce,
    .reduce_norm = NULL,
    .gather_cols = solo_gather_cols,
    .finish = solo_finish,
    .destroy = solo_destroy,
};
