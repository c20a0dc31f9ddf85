#include "parallel/comm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "kernels/base/check.h"
#include "kernels/ops.h"
#include "kernels/stages.h"
#include "parallel/comm_impl.h"

/* Ranks give unequal tensors to a gather: the largest of any rank counts. */
static enum phx_status find_largest(struct phx_world *world, size_t mine, size_t *out)
{
    size_t *all = calloc((size_t)world->size, sizeof *all);
    PHX_ASSERT(all != NULL);
    enum phx_status status = phx_world_allgather(world, &mine, sizeof mine, all);
    *out = 0;
    for (int r = 0; r < world->size; r++)
        if (all[r] > *out) *out = all[r];
    free(all);
    return status;
}

enum phx_status phx_comm_create_as(const struct phx_comm_ops *ops, struct phx_world *world,
                                   struct phx_device *device,
                                   const struct phx_comm_options *options, struct phx_comm **out)
{
    struct phx_comm_options shared = *options;
    struct phx_comm *comm = NULL;
    PHX_TRY(find_largest(world, options->max_gather_bytes, &shared.max_gather_bytes));
    enum phx_status status = phx_world_agree(world, ops->create(world, device, &shared, &comm));
    if (status == PHX_OK && ops->connect != NULL)
        status = phx_world_agree(world, ops->connect(comm));
    if (status == PHX_OK)
        *out = comm;
    else
        phx_comm_destroy(comm);
    return status;
}

static const struct phx_comm_ops *ops_of(enum phx_comm_kind kind)
{
    static const struct phx_comm_ops *const kinds[] = {
        [PHX_COMM_SOLO] = &phx_comm_solo,
        [PHX_COMM_HOST] = &phx_comm_host,
        [PHX_COMM_NCCL] = &phx_comm_nccl,
    };
    PHX_ASSERT((size_t)kind < sizeof kinds / sizeof kinds[0]);
    return kinds[kind];
}

enum phx_status phx_comm_create(struct phx_world *world, struct phx_device *device,
                                const struct phx_comm_options *options, struct phx_comm **out)
{
    PHX_ASSERT(options->kind != PHX_COMM_SOLO || world->size == 1);
    return phx_comm_create_as(ops_of(options->kind), world, device, options, out);
}

size_t phx_comm_bytes(const struct phx_comm_options *options, int size)
{
    const struct phx_comm_ops *ops = ops_of(options->kind);
    return ops->bytes != NULL ? ops->bytes(options, size) : 0;
}

void phx_comm_describe(const struct phx_comm *comm, char *text, size_t size)
{
    if (comm->ops->describe != NULL)
        comm->ops->describe(comm, text, size);
    else
        snprintf(text, size, "%s", comm->ops->name);
}

bool phx_comm_recordable(const struct phx_comm *comm)
{
    return !comm->ops->blocking;
}

enum phx_status phx_comm_buffer(struct phx_comm *comm, size_t bytes, struct phx_buffer **out)
{
    PHX_ASSERT(bytes > 0);
    size_t n = (size_t)comm->n_buffers + 1;
    struct phx_buffer **buffers = realloc(comm->buffers, n * sizeof(struct phx_buffer *));
    PHX_ASSERT(buffers != NULL);
    comm->buffers = buffers;
    PHX_TRY(comm->ops->buffer(comm, bytes, out));
    comm->buffers[comm->n_buffers++] = *out;
    return PHX_OK;
}

static bool is_float(struct phx_tensor tensor)
{
    return phx_dtype_traits(tensor.dtype)->is_float;
}

static bool has_no_gaps(struct phx_tensor tensor)
{
    return tensor.stride == tensor.cols || tensor.rows <= 1;
}

/* Where this rank is, for whom waits for it. */
static void tell_position(struct phx_comm *comm)
{
    if (comm->ops->position == NULL)
        __atomic_store_n(&comm->host_position, comm->host_position + 1, __ATOMIC_RELAXED);
}

/* Seconds now, if the time that calls take is what their work takes. */
static double clock_of(const struct phx_comm *comm)
{
    struct timespec t = {0};
    if (comm->ops->blocking) clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A call under way: when it began, and what it has taken of its stage. */
struct call {
    double begun_s;
    struct phx_stage_mark stage;
};

static struct call begin(struct phx_comm *comm, struct phx_stream *stream)
{
    tell_position(comm);
    struct call call = {.begun_s = clock_of(comm)};
    if (comm->world->size > 1) call.stage = phx_stream_stage_begin(stream);
    return call;
}

static enum phx_status end(struct phx_comm *comm, struct phx_stream *stream, struct call call,
                           enum phx_status status)
{
    comm->seconds += clock_of(comm) - call.begun_s;
    if (comm->world->size > 1) phx_stream_stage_end(stream, PHX_STAGE_SUMS, call.stage);
    return status;
}

/* For a collective that is left out. A single rank has nothing to start. */
static enum phx_status stand_in(const struct phx_comm *comm, struct phx_stream *stream)
{
    if (comm->world->size == 1) return PHX_OK;
    const struct phx_stage_mark begun = phx_stream_stage_begin(stream);
    enum phx_status status = phx_stream_stand_in(stream);
    phx_stream_stage_end(stream, PHX_STAGE_SUMS, begun);
    return status;
}

enum phx_status phx_comm_all_reduce(struct phx_comm *comm, struct phx_stream *stream,
                                    struct phx_tensor x)
{
    PHX_ASSERT(phx_stream_device(stream) == comm->device);
    PHX_ASSERT(phx_tensor_present(x) && is_float(x) && has_no_gaps(x));
    if (x.rows == 0 || x.cols == 0) return PHX_OK;
    if (phx_stream_leaves_out(stream, PHX_STAGE_SUMS)) return stand_in(comm, stream);
    struct call call = begin(comm, stream);
    return end(comm, stream, call, comm->ops->all_reduce(comm, stream, x));
}

enum phx_status phx_comm_norm_sum(struct phx_stream *stream, const struct phx_reduce_norm *args)
{
    return phx_op_add_norm(stream, &(struct phx_add_norm){
                                       .x = args->partial,
                                       .post = args->post,
                                       .residual = args->residual,
                                       .start = args->start,
                                       .weight = args->weight,
                                       .epsilon = args->epsilon,
                                       .out = args->out,
                                   });
}

enum phx_status phx_comm_sum_then_norm(struct phx_comm *comm, struct phx_stream *stream,
                                       const struct phx_reduce_norm *args)
{
    PHX_TRY(comm->ops->all_reduce(comm, stream, args->partial));
    return phx_comm_norm_sum(stream, args);
}

enum phx_status phx_comm_reduce_norm(struct phx_comm *comm, struct phx_stream *stream,
                                     const struct phx_reduce_norm *args)
{
    struct phx_tensor partial = args->partial;
    PHX_ASSERT(phx_stream_device(stream) == comm->device);
    PHX_ASSERT(phx_tensor_present(partial) && is_float(partial) && has_no_gaps(partial));
    PHX_ASSERT(args->residual.dtype == PHX_F32 && args->residual.rows == partial.rows &&
               args->residual.cols == partial.cols);
    if (partial.rows == 0) return PHX_OK;
    bool plain = !phx_tensor_present(args->post) && phx_tensor_present(args->weight);
    bool fused = plain && comm->ops->reduce_norm != NULL;
    if (phx_stream_leaves_out(stream, PHX_STAGE_SUMS)) {
        if (!fused)
            PHX_TRY(stand_in(comm, stream)); /* of one that is fused, the norm starts for both */
        return phx_comm_norm_sum(stream, args);
    }
    struct call call = begin(comm, stream);
    return end(comm, stream, call,
               fused ? comm->ops->reduce_norm(comm, stream, args)
                     : phx_comm_sum_then_norm(comm, stream, args));
}

enum phx_status phx_comm_gather_cols(struct phx_comm *comm, struct phx_stream *stream,
                                     struct phx_tensor mine, const int64_t *col_begin,
                                     struct phx_tensor all)
{
    int rank = comm->world->rank, size = comm->world->size;
    PHX_ASSERT(phx_stream_device(stream) == comm->device);
    PHX_ASSERT(phx_tensor_present(mine) && phx_tensor_present(all));
    PHX_ASSERT(mine.dtype == all.dtype && mine.rows == all.rows);
    PHX_ASSERT(col_begin[0] == 0 && col_begin[size] == all.cols);
    for (int r = 0; r < size; r++) PHX_ASSERT(col_begin[r] <= col_begin[r + 1]);
    PHX_ASSERT(mine.cols == col_begin[rank + 1] - col_begin[rank]);
    if (all.rows == 0 || all.cols == 0) return PHX_OK;
    if (phx_stream_leaves_out(stream, PHX_STAGE_SUMS)) return stand_in(comm, stream);
    struct call call = begin(comm, stream);
    return end(comm, stream, call, comm->ops->gather_cols(comm, stream, mine, col_begin, all));
}

enum phx_status phx_comm_begin_step(struct phx_comm *comm, struct phx_stream *stream)
{
    phx_stream_begin_pass(stream);
    if (comm->ops->begin_step != NULL) return comm->ops->begin_step(comm, stream);
    uint64_t n_steps = (comm->host_position >> 32) + 1;
    __atomic_store_n(&comm->host_position, n_steps << 32, __ATOMIC_RELAXED);
    return PHX_OK;
}

void phx_comm_position(const struct phx_comm *comm, struct phx_comm_position *out)
{
    uint64_t word = __atomic_load_n(&comm->host_position, __ATOMIC_RELAXED);
    *out = comm->ops->position != NULL
               ? comm->ops->position(comm)
               : (struct phx_comm_position){(uint32_t)(word >> 32), (uint32_t)word};
}

double phx_comm_seconds(const struct phx_comm *comm)
{
    return comm->ops->blocking || comm->world->size == 1 ? comm->seconds : NAN;
}

void phx_comm_abort(struct phx_comm *comm)
{
    if (comm->ops->abort != NULL) comm->ops->abort(comm);
}

void phx_comm_finish(struct phx_comm *comm)
{
    comm->ops->finish(comm);
}

void phx_comm_destroy(struct phx_comm *comm)
{
    if (comm == NULL) return;
    for (int b = 0; b < comm->n_buffers; b++) phx_buffer_destroy(comm->buffers[b]);
    free(comm->buffers);
    comm->ops->destroy(comm);
}
