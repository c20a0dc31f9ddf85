/* Sums and gathers by NCCL, one rank a GPU, in stream order and recordable into graphs. NCCL adds
 * in an order of its own, the same for all ranks, and rounds 16-bit sums on the way. */
#include <nccl.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "kernels/cuda/native.h"
#include "parallel/comm_impl.h"

/* Gathered rows pass through memory of this size, some at a time. */
static const size_t gather_piece_bytes = (size_t)8 << 20;

struct nccl_comm {
    struct phx_comm base;
    ncclComm_t native;
    size_t piece_bytes;        /* what a rank gives to a gather at a time, at most */
    struct phx_buffer *pieces; /* [size + 1][piece_bytes]: those of all ranks, then the own one */
};

static struct nccl_comm *of(struct phx_comm *comm)
{
    return (struct nccl_comm *)comm;
}

static enum phx_status nccl_status(const struct nccl_comm *c, ncclResult_t result, const char *call)
{
    if (result == ncclSuccess) return PHX_OK;
    const char *detail = ncclGetLastError(c->native);
    return phx_fail(PHX_COMM, "%s failed: %s%s%s", call, ncclGetErrorString(result),
                    detail != NULL && detail[0] != '\0' ? ": " : "", detail != NULL ? detail : "");
}

#define NCCL_TRY(c, name, args) PHX_TRY(nccl_status(c, name args, #name))

/* ---- life ---- */

/* Rank 0's id reaches all, or they all learn that there is none. */
static enum phx_status connect(struct nccl_comm *c)
{
    struct {
        ncclUniqueId id;
        int result;
    } offer;
    struct phx_world *world = c->base.world;
    memset(&offer, 0, sizeof offer);
    if (world->rank == 0) offer.result = (int)ncclGetUniqueId(&offer.id);
    PHX_TRY(phx_world_broadcast(world, &offer, sizeof offer, 0));
    if (offer.result != ncclSuccess && world->rank != 0) return PHX_PEER;
    PHX_TRY(nccl_status(c, (ncclResult_t)offer.result, "ncclGetUniqueId"));
    NCCL_TRY(c, ncclCommInitRank, (&c->native, world->size, offer.id, world->rank));
    return PHX_OK;
}

/* Ranks give unequal tensors to a gather: the largest of any rank counts. */
static enum phx_status largest_gather(struct phx_world *world, size_t mine, size_t *out)
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

static void nccl_destroy(struct phx_comm *comm)
{
    struct nccl_comm *c = of(comm);
    phx_cuda_use(comm->device);
    if (c->native != NULL) ncclCommAbort(c->native);
    phx_buffer_destroy(c->pieces);
    free(c);
}

static enum phx_status nccl_create(struct phx_world *world, struct phx_device *device,
                                   const struct phx_comm_options *options, struct phx_comm **out)
{
    enum phx_status status = PHX_OK;
    struct phx_device_info info;
    phx_device_info(device, &info);
    if (info.kind != PHX_DEVICE_CUDA)
        return phx_fail(PHX_UNSUPPORTED, "NCCL adds what lies on GPUs, and this rank computes on "
                                         "the CPU: use the host communicator");
    struct nccl_comm *c = calloc(1, sizeof *c);
    if (c == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the communicator");
    c->base.ops = &phx_comm_nccl;
    c->base.world = world;
    c->base.device = device;
    c->base.options = *options;
    size_t largest;
    PHX_TRY_GOTO(largest_gather(world, options->max_gather_bytes, &largest), fail);
    c->piece_bytes = largest < gather_piece_bytes ? largest : gather_piece_bytes;
    PHX_TRY_GOTO(phx_cuda_use(device), fail);
    PHX_TRY_GOTO(phx_buffer_create(device, ((size_t)world->size + 1) * c->piece_bytes, &c->pieces),
                 fail);
    PHX_TRY_GOTO(connect(c), fail);
    *out = &c->base;
    return PHX_OK;
fail:
    nccl_destroy(&c->base);
    return status;
}

static void nccl_finish(struct phx_comm *comm)
{
    struct nccl_comm *c = of(comm);
    phx_cuda_use(comm->device);
    ncclResult_t result = ncclCommFinalize(c->native);
    if (result == ncclSuccess) result = ncclCommDestroy(c->native);
    if (result == ncclSuccess)
        c->native = NULL; /* else destroy aborts it */
    else
        phx_log(PHX_LOG_WARN, "the end of NCCL failed: %s", ncclGetErrorString(result));
}

static enum phx_status nccl_buffer(struct phx_comm *comm, size_t bytes, struct phx_buffer **out)
{
    return phx_buffer_create(comm->device, bytes, out);
}

/* ---- sums ---- */

static ncclDataType_t data_type(enum phx_dtype dtype)
{
    if (dtype == PHX_F16) return ncclFloat16;
    if (dtype == PHX_BF16) return ncclBfloat16;
    PHX_ASSERT(dtype == PHX_F32);
    return ncclFloat32;
}

static enum phx_status nccl_all_reduce(struct phx_comm *comm, struct phx_stream *stream,
                                       struct phx_tensor x)
{
    struct nccl_comm *c = of(comm);
    void *address = phx_tensor_address(x);
    PHX_TRY(phx_cuda_use(comm->device));
    NCCL_TRY(c, ncclAllReduce,
             (address, address, (size_t)(x.rows * x.cols), data_type(x.dtype), ncclSum, c->native,
              phx_cuda_stream_native(stream)));
    return PHX_OK;
}

/* ---- gathers ---- */

struct matrix {
    char *address;
    size_t pitch;
};

static struct matrix matrix_of(struct phx_tensor t)
{
    return (struct matrix){phx_tensor_address(t), phx_dtype_bytes(t.dtype, t.stride)};
}

static enum phx_status copy(struct matrix to, struct matrix from, size_t row_bytes, int64_t rows,
                            cudaStream_t stream)
{
    if (row_bytes == 0) return PHX_OK;
    PHX_CUDA_TRY(cudaMemcpy2DAsync, (to.address, to.pitch, from.address, from.pitch, row_bytes,
                                     (size_t)rows, cudaMemcpyDeviceToDevice, stream));
    return PHX_OK;
}

/* Ranks have different numbers of columns, NCCL gathers equal pieces: each is as wide as the
 * widest. */
static enum phx_status gather_rows(struct nccl_comm *c, cudaStream_t stream, struct phx_tensor mine,
                                   const int64_t *col_begin, struct phx_tensor all, size_t width)
{
    const int size = c->base.world->size;
    const size_t piece = width * (size_t)all.rows;
    char *pieces = phx_buffer_address(c->pieces);
    char *own = pieces + (size_t)size * c->piece_bytes;
    PHX_TRY(copy((struct matrix){own, width}, matrix_of(mine),
                 phx_dtype_bytes(mine.dtype, mine.cols), mine.rows, stream));
    NCCL_TRY(c, ncclAllGather, (own, pieces, piece, ncclUint8, c->native, stream));
    for (int r = 0; r < size; r++) {
        struct phx_tensor to = phx_tensor_cols(all, col_begin[r], col_begin[r + 1] - col_begin[r]);
        PHX_TRY(copy(matrix_of(to), (struct matrix){pieces + (size_t)r * piece, width},
                     phx_dtype_bytes(to.dtype, to.cols), to.rows, stream));
    }
    return PHX_OK;
}

static enum phx_status nccl_gather_cols(struct phx_comm *comm, struct phx_stream *stream,
                                        struct phx_tensor mine, const int64_t *col_begin,
                                        struct phx_tensor all)
{
    struct nccl_comm *c = of(comm);
    int64_t widest = 0;
    for (int r = 0; r < comm->world->size; r++)
        if (col_begin[r + 1] - col_begin[r] > widest) widest = col_begin[r + 1] - col_begin[r];
    const size_t width = phx_dtype_bytes(all.dtype, widest);
    const int64_t step = (int64_t)(c->piece_bytes / width);
    PHX_ASSERT(step >= 1);
    PHX_TRY(phx_cuda_use(comm->device));
    for (int64_t row = 0; row < all.rows; row += step) {
        const int64_t rows = all.rows - row < step ? all.rows - row : step;
        PHX_TRY(gather_rows(c, phx_cuda_stream_native(stream), phx_tensor_rows(mine, row, rows),
                            col_begin, phx_tensor_rows(all, row, rows), width));
    }
    return PHX_OK;
}

const struct phx_comm_ops phx_comm_nccl = {
    .name = "nccl",
    .blocking = false,
    .create = nccl_create,
    .buffer = nccl_buffer,
    .all_reduce = nccl_all_reduce,
    .reduce_norm = NULL,
    .gather_cols = nccl_gather_cols,
    .finish = nccl_finish,
    .destroy = nccl_destroy,
};
