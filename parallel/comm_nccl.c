/* Sums and gathers by NCCL, one rank a GPU, in stream order and recordable into graphs. Small sums
 * may take a kernel of ours (comm_nccl_fused.cu). NCCL adds in an order of its own, the same for
 * all ranks, and rounds 16-bit sums on the way. */
#include "parallel/comm_nccl.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "kernels/ops.h"

static struct phx_nccl_comm *of(struct phx_comm *comm)
{
    return (struct phx_nccl_comm *)comm;
}

enum phx_status phx_nccl_status(const struct phx_nccl_comm *c, ncclResult_t result,
                                const char *call)
{
    if (result == ncclSuccess) return PHX_OK;
    const char *detail = ncclGetLastError(c->native);
    return phx_fail(PHX_COMM, "%s failed: %s%s%s", call, ncclGetErrorString(result),
                    detail != NULL && detail[0] != '\0' ? ": " : "", detail != NULL ? detail : "");
}

enum phx_status phx_nccl_together(struct phx_world *world, enum phx_status status)
{
    int mine = (int)status;
    int *all = calloc((size_t)world->size, sizeof *all);
    PHX_ASSERT(all != NULL);
    enum phx_status gathered = phx_world_allgather(world, &mine, sizeof mine, all);
    for (int r = 0; r < world->size && status == PHX_OK; r++)
        if (all[r] != PHX_OK) status = PHX_PEER;
    free(all);
    return status != PHX_OK ? status : gathered;
}

/* ---- windows ---- */

static enum phx_status allocate_window(struct phx_nccl_comm *c, size_t bytes,
                                       struct phx_nccl_window *window)
{
    PHX_TRY(phx_cuda_use(c->base.device));
    PHX_NCCL_TRY(c, ncclMemAlloc, (&window->memory, bytes));
    /* Streams do not wait for the default one, so the host does. */
    PHX_CUDA_TRY(cudaMemset, (window->memory, 0, bytes));
    PHX_CUDA_TRY(cudaStreamSynchronize, (cudaStreamLegacy));
    return PHX_OK;
}

static enum phx_status register_window(struct phx_nccl_comm *c, size_t bytes,
                                       struct phx_nccl_window *window)
{
    PHX_NCCL_TRY(c, ncclCommWindowRegister,
                 (c->native, window->memory, bytes, &window->handle, NCCL_WIN_COLL_SYMMETRIC));
    if (window->handle != NULL) return PHX_OK;
    return phx_fail(PHX_UNSUPPORTED, "NCCL offers no symmetric memory here");
}

enum phx_status phx_nccl_window_open(struct phx_nccl_comm *c, size_t bytes,
                                     struct phx_nccl_window *out)
{
    struct phx_nccl_window window = {0};
    bytes = phx_nccl_window_bytes(bytes);
    /* Nobody registers before all have memory: who failed would leave the others waiting. */
    enum phx_status status = phx_nccl_together(c->base.world, allocate_window(c, bytes, &window));
    if (status == PHX_OK)
        status = phx_nccl_together(c->base.world, register_window(c, bytes, &window));
    if (status != PHX_OK) {
        phx_nccl_window_close(c, &window);
        return status;
    }
    *out = window;
    return PHX_OK;
}

static void unregister_window(struct phx_nccl_comm *c, struct phx_nccl_window *window)
{
    if (window->handle != NULL && c->native != NULL)
        ncclCommWindowDeregister(c->native, window->handle);
    window->handle = NULL;
}

void phx_nccl_window_close(struct phx_nccl_comm *c, struct phx_nccl_window *window)
{
    phx_cuda_use(c->base.device);
    unregister_window(c, window);
    if (window->memory != NULL) ncclMemFree(window->memory);
    window->memory = NULL;
}

/* ---- life ---- */

void phx_nccl_info(struct phx_nccl_info *out)
{
    *out = (struct phx_nccl_info){.built = NCCL_VERSION_CODE};
    if (ncclGetVersion(&out->loaded) != ncclSuccess) out->loaded = 0;
    out->has_windows = out->loaded == out->built;
}

static void nccl_destroy(struct phx_comm *comm)
{
    struct phx_nccl_comm *c = of(comm);
    phx_cuda_use(comm->device);
    if (c->native != NULL) {
        if (c->fused.host != NULL) __atomic_store_n(&c->fused.host->abort, 1, __ATOMIC_RELAXED);
        ncclCommAbort(c->native);
        c->native = NULL;
    }
    for (int w = 0; w < c->n_windows; w++) phx_nccl_window_close(c, &c->windows[w]);
    free(c->windows);
    phx_nccl_window_close(c, &c->fused_window);
    phx_buffer_destroy(c->state);
    phx_buffer_destroy(c->pieces);
    if (c->fused.host != NULL) phx_host_free(comm->device, c->fused.host);
    free(c);
}

static enum phx_status prepare(struct phx_nccl_comm *c)
{
    struct phx_device *device = c->base.device;
    const struct phx_world *world = c->base.world;
    struct phx_fused *fused = &c->fused;
    void *host;
    int ordinal;
    PHX_TRY(phx_cuda_use(device));
    PHX_TRY(phx_buffer_create(device, ((size_t)world->size + 1) * c->piece_bytes, &c->pieces));
    PHX_TRY(phx_buffer_create(device, sizeof(struct phx_fused_state), &c->state));
    PHX_TRY(phx_host_alloc(device, sizeof *fused->host, &host));
    memset(host, 0, sizeof *fused->host);
    fused->host = host;
    fused->state = phx_buffer_address(c->state);
    fused->rank = world->rank;
    fused->n_ranks = world->size;
    fused->capacity = (int32_t)phx_nccl_lines_capacity(&c->base.options);
    PHX_CUDA_TRY(cudaGetDevice, (&ordinal));
    PHX_CUDA_TRY(cudaDeviceGetAttribute,
                 (&fused->max_blocks, cudaDevAttrMultiProcessorCount, ordinal));
    return phx_fused_load(world->size <= PHX_LINES_MAX_RANKS ? world->size : 1,
                          &fused->starts_early);
}

static enum phx_status nccl_create(struct phx_world *world, struct phx_device *device,
                                   const struct phx_comm_options *options, struct phx_comm **out)
{
    struct phx_device_info info;
    phx_device_info(device, &info);
    if (info.kind != PHX_DEVICE_CUDA)
        return phx_fail(PHX_UNSUPPORTED, "NCCL adds what lies on GPUs, and this rank computes on "
                                         "the CPU: use the host communicator");
    struct phx_nccl_comm *c = calloc(1, sizeof *c);
    PHX_ASSERT(c != NULL);
    c->base.ops = &phx_comm_nccl;
    c->base.world = world;
    c->base.device = device;
    c->base.options = *options;
    c->piece_bytes = phx_nccl_piece_bytes(options);
    enum phx_status status = prepare(c);
    if (status == PHX_OK)
        *out = &c->base;
    else
        nccl_destroy(&c->base);
    return status;
}

/* Rank 0's id reaches all, or they all learn that there is none. */
static enum phx_status join(struct phx_nccl_comm *c)
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
    PHX_TRY(phx_nccl_status(c, (ncclResult_t)offer.result, "ncclGetUniqueId"));
    PHX_TRY(phx_cuda_use(c->base.device));
    PHX_NCCL_TRY(c, ncclCommInitRank, (&c->native, world->size, offer.id, world->rank));
    return PHX_OK;
}

static enum phx_status nccl_connect(struct phx_comm *comm)
{
    struct phx_nccl_comm *c = of(comm);
    PHX_TRY(phx_nccl_together(comm->world, join(c)));
    return phx_nccl_choose_ways(c);
}

static void nccl_finish(struct phx_comm *comm)
{
    struct phx_nccl_comm *c = of(comm);
    phx_cuda_use(comm->device);
    for (int w = 0; w < c->n_windows; w++) unregister_window(c, &c->windows[w]);
    unregister_window(c, &c->fused_window);
    ncclResult_t result = ncclCommFinalize(c->native);
    if (result == ncclSuccess) result = ncclCommDestroy(c->native);
    if (result == ncclSuccess)
        c->native = NULL; /* else destroy aborts it */
    else
        phx_log(PHX_LOG_WARN, "the end of NCCL failed: %s", ncclGetErrorString(result));
}

static enum phx_status nccl_buffer(struct phx_comm *comm, size_t bytes, struct phx_buffer **out)
{
    struct phx_nccl_comm *c = of(comm);
    if (!c->choice.symmetric) return phx_buffer_create(comm->device, bytes, out);
    struct phx_nccl_window *windows =
        realloc(c->windows, ((size_t)c->n_windows + 1) * sizeof *windows);
    PHX_ASSERT(windows != NULL);
    c->windows = windows;
    PHX_TRY(phx_nccl_window_open(c, bytes, &windows[c->n_windows]));
    return phx_buffer_wrap(comm->device, windows[c->n_windows++].memory, bytes, out);
}

/* ---- positions and the end of waiting ---- */

static enum phx_status nccl_begin_step(struct phx_comm *comm, struct phx_stream *stream)
{
    PHX_TRY(phx_cuda_use(comm->device));
    return phx_fused_mark(&of(comm)->fused, phx_cuda_stream_native(stream), true);
}

static struct phx_comm_position nccl_position(const struct phx_comm *comm)
{
    const struct phx_fused_host *host = ((const struct phx_nccl_comm *)comm)->fused.host;
    uint64_t word = __atomic_load_n(&host->position, __ATOMIC_RELAXED);
    return (struct phx_comm_position){(uint32_t)(word >> 32), (uint32_t)word};
}

/* NCCL's own kernels wait on: ncclCommAbort() frees what another thread may be using, and waits for
 * graphs that only that thread can destroy. They end with the process. */
static void nccl_abort(struct phx_comm *comm)
{
    struct phx_nccl_comm *c = of(comm);
    __atomic_store_n(&c->aborted, true, __ATOMIC_RELAXED);
    __atomic_store_n(&c->fused.host->abort, 1, __ATOMIC_RELAXED);
}

/* What every call does first. */
static enum phx_status enter(struct phx_nccl_comm *c)
{
    if (__atomic_load_n(&c->aborted, __ATOMIC_RELAXED))
        return phx_fail(PHX_COMM, "the communicator was aborted");
    return phx_cuda_use(c->base.device);
}

/* ---- sums ---- */

static ncclDataType_t data_type(enum phx_dtype dtype)
{
    if (dtype == PHX_F16) return ncclFloat16;
    if (dtype == PHX_BF16) return ncclBfloat16;
    PHX_ASSERT(dtype == PHX_F32);
    return ncclFloat32;
}

bool phx_nccl_can_fuse_sum(const struct phx_nccl_comm *c, enum phx_dtype dtype, int64_t n)
{
    return c->fused_window.memory != NULL &&
           phx_lines_count(1, n, phx_dtype_bytes(dtype, 1)) <= c->fused.capacity;
}

bool phx_nccl_can_fuse_norm(const struct phx_nccl_comm *c, enum phx_dtype dtype, int64_t rows,
                            int64_t cols)
{
    const int64_t row_lines = phx_lines_count(1, cols, phx_dtype_bytes(dtype, 1));
    return c->fused_window.memory != NULL && row_lines <= PHX_FUSED_MAX_ROW_LINES &&
           rows * row_lines <= c->fused.capacity;
}

enum phx_status phx_nccl_reduce(struct phx_nccl_comm *c, enum phx_allreduce way,
                                struct phx_stream *stream, struct phx_tensor x)
{
    void *address = phx_tensor_address(x);
    const int64_t n = x.rows * x.cols;
    cudaStream_t native = phx_cuda_stream_native(stream);
    if (way == PHX_ALLREDUCE_FUSED)
        return phx_fused_all_reduce(&c->fused, native, x.dtype, address, n);
    PHX_TRY(phx_fused_mark(&c->fused, native, false));
    PHX_NCCL_TRY(c, ncclAllReduce,
                 (address, address, (size_t)n, data_type(x.dtype), ncclSum, c->native, native));
    return PHX_OK;
}

enum phx_status phx_nccl_reduce_norm(struct phx_nccl_comm *c, enum phx_allreduce way,
                                     struct phx_stream *stream, const struct phx_reduce_norm *args)
{
    if (way != PHX_ALLREDUCE_FUSED) {
        PHX_TRY(phx_nccl_reduce(c, way, stream, args->partial));
        return phx_comm_norm_sum(stream, args);
    }
    PHX_ASSERT(args->out.dtype == args->partial.dtype && args->weight.dtype == PHX_F32);
    return phx_fused_reduce_norm(&c->fused, phx_cuda_stream_native(stream),
                                 &(struct phx_fused_norm){
                                     .dtype = args->partial.dtype,
                                     .partial = phx_tensor_address(args->partial),
                                     .residual = phx_tensor_address(args->residual),
                                     .weight = phx_tensor_address(args->weight),
                                     .out = phx_tensor_address(args->out),
                                     .rows = args->partial.rows,
                                     .residual_stride = args->residual.stride,
                                     .out_stride = args->out.stride,
                                     .cols = (int32_t)args->partial.cols,
                                     .start = args->start,
                                     .epsilon = args->epsilon,
                                 });
}

static bool is_small(const struct phx_nccl_comm *c, struct phx_tensor x)
{
    return phx_dtype_bytes(x.dtype, x.rows * x.cols) <= c->choice.fused_bytes;
}

static enum phx_status nccl_all_reduce(struct phx_comm *comm, struct phx_stream *stream,
                                       struct phx_tensor x)
{
    struct phx_nccl_comm *c = of(comm);
    enum phx_allreduce way = c->choice.symmetric ? PHX_ALLREDUCE_SYMMETRIC : PHX_ALLREDUCE_NCCL;
    if (is_small(c, x) && phx_nccl_can_fuse_sum(c, x.dtype, x.rows * x.cols))
        way = PHX_ALLREDUCE_FUSED;
    PHX_TRY(enter(c));
    return phx_nccl_reduce(c, way, stream, x);
}

static enum phx_status nccl_reduce_norm(struct phx_comm *comm, struct phx_stream *stream,
                                        const struct phx_reduce_norm *args)
{
    struct phx_nccl_comm *c = of(comm);
    struct phx_tensor x = args->partial;
    if (!is_small(c, x) || !phx_nccl_can_fuse_norm(c, x.dtype, x.rows, x.cols))
        return phx_comm_sum_then_norm(comm, stream, args);
    PHX_TRY(enter(c));
    return phx_nccl_reduce_norm(c, PHX_ALLREDUCE_FUSED, stream, args);
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
static enum phx_status gather_rows(struct phx_nccl_comm *c, cudaStream_t stream,
                                   struct phx_tensor mine, const int64_t *col_begin,
                                   struct phx_tensor all, size_t width)
{
    const int size = c->base.world->size;
    const size_t piece = width * (size_t)all.rows;
    char *pieces = phx_buffer_address(c->pieces);
    char *own = pieces + (size_t)size * c->piece_bytes;
    PHX_TRY(copy((struct matrix){own, width}, matrix_of(mine),
                 phx_dtype_bytes(mine.dtype, mine.cols), mine.rows, stream));
    PHX_NCCL_TRY(c, ncclAllGather, (own, pieces, piece, ncclUint8, c->native, stream));
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
    struct phx_nccl_comm *c = of(comm);
    cudaStream_t native = phx_cuda_stream_native(stream);
    int64_t widest = 0;
    for (int r = 0; r < comm->world->size; r++)
        if (col_begin[r + 1] - col_begin[r] > widest) widest = col_begin[r + 1] - col_begin[r];
    const size_t width = phx_dtype_bytes(all.dtype, widest);
    const int64_t step = (int64_t)(c->piece_bytes / width);
    PHX_ASSERT(step >= 1);
    PHX_TRY(enter(c));
    PHX_TRY(phx_fused_mark(&c->fused, native, false));
    for (int64_t row = 0; row < all.rows; row += step) {
        const int64_t rows = all.rows - row < step ? all.rows - row : step;
        PHX_TRY(gather_rows(c, native, phx_tensor_rows(mine, row, rows), col_begin,
                            phx_tensor_rows(all, row, rows), width));
    }
    return PHX_OK;
}

static void nccl_describe(const struct phx_comm *comm, char *text, size_t size)
{
    phx_nccl_describe(&((const struct phx_nccl_comm *)comm)->choice, comm->options.max_reduce_bytes,
                      text, size);
}

const struct phx_comm_ops phx_comm_nccl = {
    .name = "nccl",
    .blocking = false,
    .create = nccl_create,
    .connect = nccl_connect,
    .bytes = phx_nccl_bytes,
    .describe = nccl_describe,
    .buffer = nccl_buffer,
    .all_reduce = nccl_all_reduce,
    .reduce_norm = nccl_reduce_norm,
    .gather_cols = nccl_gather_cols,
    .begin_step = nccl_begin_step,
    .position = nccl_position,
    .abort = nccl_abort,
    .finish = nccl_finish,
    .destroy = nccl_destroy,
};
