/* Sums and gathers through host memory.
 *
 * Ranks of one node meet in shared memory. Each has a signal, which counts the meetings that it
 * came to, and two slots, which it fills in turn: an exchange. When a slot is filled again,
 * everyone has come to the exchange in between and so was done with the slot: one meeting an
 * exchange is enough.
 *
 * A small tensor is exchanged, and everyone sums all slots. A large one is cut into slices: after a
 * first meeting each rank sums its slice of all ranks' tensors and writes it back into all of them,
 * after a second one everyone has the whole sum, and nobody touches another's tensor any more.
 * Tensors in phx_comm_buffer() memory are summed where they are, others pass through the slots.
 *
 * Ranks of several nodes exchange pieces with phx_world_allgather() instead.
 *
 * If the device is not the host's, tensors are staged through its copies. */
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/ops.h"
#include "parallel/comm_impl.h"
#include "parallel/host_sum.h"
#include "parallel/shard_plan.h"
#include "parallel/signal.h"

enum {
    MAX_PIECE_BYTES = 1 << 18, /* of a tensor that goes through slots: stays in the caches */
    SMALL_BYTES = 1 << 12,     /* up to here reading all slots costs less than a second meeting */
    LINE_BYTES = 64,
    SPIN_US = 1000 /* a peer's step rarely takes longer by more than this */
};

/* What a rank tells its peers, in shared memory. */
struct post {
    struct phx_signal meetings;
    uint64_t offset_bytes; /* where its tensor lies in its part of the segment */
    char padding[120];
};

/* Memory of all ranks of the node, one part each: the slots, and each phx_comm_buffer(). */
struct segment {
    char *memory;
    size_t part_bytes;
    const struct phx_buffer *buffer; /* the own part; NULL for the slots */
};

struct host_comm {
    struct phx_comm base;
    bool staged; /* the host cannot read the device's memory */
    bool near;   /* all ranks are on this node */
    size_t piece_bytes;
    uint32_t n_meetings;
    unsigned turn;            /* which slot is next: 0 or 1 */
    struct post *posts;       /* near: [size] */
    struct segment *segments; /* [n_segments]; near: the first holds the slots */
    int n_segments;
    char *mine, *gathered; /* far: [piece_bytes], [size][piece_bytes] */
    char *result;          /* staged: [piece_bytes] */
    char **parts;          /* [size] what the ranks brought to the last exchange */
};

static struct host_comm *of(struct phx_comm *comm)
{
    return (struct host_comm *)comm;
}

static char *part_of(const struct segment *segment, int rank)
{
    return segment->memory + (size_t)rank * segment->part_bytes;
}

/* The slot of a rank that the next exchange uses. */
static char *slot_of(const struct host_comm *c, int rank)
{
    return part_of(&c->segments[0], rank) + c->turn * c->piece_bytes;
}

/* ---- meetings and exchanges ---- */

/* Everything that a rank wrote before is seen by all after. */
static enum phx_status meet(struct host_comm *c)
{
    struct phx_world *world = c->base.world;
    c->n_meetings++;
    phx_signal_set(&c->posts[world->rank].meetings, c->n_meetings);
    for (int r = 0; r < world->size; r++)
        if (!phx_signal_wait(&c->posts[r].meetings, c->n_meetings, world, SPIN_US)) return PHX_PEER;
    return PHX_OK;
}

/* Where to put what the next exchange takes from this rank: up to piece_bytes. */
static char *own_piece(const struct host_comm *c)
{
    if (!c->near) return c->mine;
    return slot_of(c, c->base.world->rank);
}

/* Afterwards parts[r] is the piece of rank r, until the next exchange. */
static enum phx_status exchange(struct host_comm *c, size_t bytes)
{
    struct phx_world *world = c->base.world;
    if (!c->near) {
        PHX_TRY(phx_world_allgather(world, c->mine, bytes, c->gathered));
        for (int r = 0; r < world->size; r++) c->parts[r] = c->gathered + (size_t)r * bytes;
        return PHX_OK;
    }
    PHX_TRY(meet(c));
    for (int r = 0; r < world->size; r++) c->parts[r] = slot_of(c, r);
    c->turn ^= 1;
    return PHX_OK;
}

/* ---- sums ---- */

static struct phx_host_parts parts_of(const struct host_comm *c, enum phx_dtype dtype)
{
    return (struct phx_host_parts){dtype, c->base.world->size, c->parts};
}

/* After a meeting about `parts`: the sum into all of them. */
static enum phx_status sum_by_slices(struct host_comm *c, enum phx_dtype dtype, int64_t n)
{
    struct phx_host_parts parts = parts_of(c, dtype);
    int64_t line = LINE_BYTES / (int64_t)phx_dtype_bytes(dtype, 1);
    struct phx_interval own = phx_interval_share(n, line, parts.n, c->base.world->rank);
    phx_host_sum_everywhere(&parts, own.begin, phx_interval_length(own));
    return meet(c);
}

static enum phx_status fetch(struct phx_stream *stream, struct phx_tensor from, char *to)
{
    PHX_TRY(phx_tensor_download(stream, from, to));
    return phx_stream_synchronize(stream);
}

static bool is_small(const struct host_comm *c, size_t bytes)
{
    return bytes <= SMALL_BYTES && bytes <= c->piece_bytes;
}

/* x: one row of at most a piece. */
static enum phx_status sum_piece(struct host_comm *c, struct phx_stream *stream,
                                 struct phx_tensor x)
{
    size_t bytes = phx_tensor_span_bytes(x);
    PHX_TRY(fetch(stream, x, own_piece(c)));
    PHX_TRY(exchange(c, bytes));
    struct phx_host_parts parts = parts_of(c, x.dtype);
    if (c->near && !is_small(c, bytes)) {
        PHX_TRY(sum_by_slices(c, x.dtype, x.cols));
        return phx_tensor_upload(stream, x, parts.data[c->base.world->rank]);
    }
    if (!c->staged) {
        phx_host_sum(&parts, 0, x.cols, phx_tensor_address(x));
        return PHX_OK;
    }
    phx_host_sum(&parts, 0, x.cols, c->result);
    return phx_tensor_upload(stream, x, c->result);
}

/* The segment that holds the buffer, NULL if none does. */
static const struct segment *find_segment(const struct host_comm *c,
                                          const struct phx_buffer *buffer)
{
    for (int s = 1; s < c->n_segments; s++)
        if (c->segments[s].buffer == buffer) return &c->segments[s];
    return NULL;
}

/* Ranks may have their tensors at different places of their parts: everyone says where. */
static enum phx_status sum_in_segment(struct host_comm *c, const struct segment *segment,
                                      struct phx_tensor x)
{
    struct phx_world *world = c->base.world;
    c->posts[world->rank].offset_bytes = x.offset_bytes;
    PHX_TRY(meet(c));
    for (int r = 0; r < world->size; r++)
        c->parts[r] = part_of(segment, r) + c->posts[r].offset_bytes;
    return sum_by_slices(c, x.dtype, x.rows * x.cols);
}

static enum phx_status host_all_reduce(struct phx_comm *comm, struct phx_stream *stream,
                                       struct phx_tensor x)
{
    struct host_comm *c = of(comm);
    int64_t n = x.rows * x.cols;
    int64_t piece = (int64_t)(c->piece_bytes / phx_dtype_bytes(x.dtype, 1));
    const struct segment *segment = find_segment(c, x.buffer);
    if (segment != NULL && !is_small(c, phx_dtype_bytes(x.dtype, n)))
        return sum_in_segment(c, segment, x);
    struct phx_tensor flat = {x.buffer, x.offset_bytes, x.dtype, 1, n, n};
    for (int64_t begin = 0; begin < n; begin += piece) {
        int64_t length = n - begin < piece ? n - begin : piece;
        PHX_TRY(sum_piece(c, stream, phx_tensor_cols(flat, begin, length)));
    }
    return PHX_OK;
}

/* Small ones: the sum goes straight into the residual stream. */
static enum phx_status host_reduce_norm(struct phx_comm *comm, struct phx_stream *stream,
                                        const struct phx_reduce_norm *args)
{
    struct host_comm *c = of(comm);
    struct phx_tensor partial = args->partial, residual = args->residual;
    size_t bytes = phx_dtype_bytes(partial.dtype, partial.rows * partial.cols);
    if (c->staged || partial.dtype != PHX_F32 || !is_small(c, bytes))
        return phx_comm_sum_then_norm(comm, stream, args);
    PHX_TRY(fetch(stream, partial, own_piece(c)));
    PHX_TRY(exchange(c, bytes));
    struct phx_host_parts parts = parts_of(c, partial.dtype);
    for (int64_t row = 0; row < residual.rows; row++)
        phx_host_sum_residual(&parts, row * residual.cols, residual.cols,
                              phx_tensor_address(phx_tensor_rows(residual, row, 1)), args->start);
    return phx_op_add_norm(stream, &(struct phx_add_norm){
                                       .residual = residual,
                                       .weight = args->weight,
                                       .epsilon = args->epsilon,
                                       .out = args->out,
                                   });
}

/* ---- gathers ---- */

enum direction { TO_HOST, FROM_HOST };

/* Elements [begin, begin + n) of the tensor, counted without the gaps between rows. */
static enum phx_status copy_elements(struct phx_stream *stream, struct phx_tensor tensor,
                                     int64_t begin, int64_t n, char *host, enum direction direction)
{
    while (n > 0) {
        int64_t row = begin / tensor.cols, col = begin % tensor.cols;
        int64_t rows = col == 0 && n >= tensor.cols ? n / tensor.cols : 1;
        int64_t cols = n < tensor.cols - col ? n : tensor.cols - col;
        struct phx_tensor part = phx_tensor_cols(phx_tensor_rows(tensor, row, rows), col, cols);
        PHX_TRY(direction == TO_HOST ? phx_tensor_download(stream, part, host)
                                     : phx_tensor_upload(stream, part, host));
        host += phx_dtype_bytes(tensor.dtype, rows * cols);
        begin += rows * cols;
        n -= rows * cols;
    }
    return PHX_OK;
}

/* How much of [begin, begin + piece) lies in [0, length). */
static int64_t within(int64_t length, int64_t begin, int64_t piece)
{
    int64_t left = length - begin;
    return left < 0 ? 0 : left < piece ? left : piece;
}

static enum phx_status host_gather_cols(struct phx_comm *comm, struct phx_stream *stream,
                                        struct phx_tensor mine, const int64_t *col_begin,
                                        struct phx_tensor all)
{
    struct host_comm *c = of(comm);
    int size = comm->world->size;
    size_t element_bytes = phx_dtype_bytes(mine.dtype, 1);
    int64_t piece = (int64_t)(c->piece_bytes / element_bytes);
    int64_t longest = 0;
    for (int r = 0; r < size; r++) {
        int64_t length = all.rows * (col_begin[r + 1] - col_begin[r]);
        if (length > longest) longest = length;
    }
    for (int64_t begin = 0; begin < longest; begin += piece) {
        int64_t own = within(mine.rows * mine.cols, begin, piece);
        PHX_TRY(copy_elements(stream, mine, begin, own, own_piece(c), TO_HOST));
        PHX_TRY(phx_stream_synchronize(stream));
        PHX_TRY(exchange(c, (size_t)within(longest, begin, piece) * element_bytes));
        for (int r = 0; r < size; r++) {
            int64_t cols = col_begin[r + 1] - col_begin[r];
            struct phx_tensor to = phx_tensor_cols(all, col_begin[r], cols);
            int64_t n = within(all.rows * cols, begin, piece);
            PHX_TRY(copy_elements(stream, to, begin, n, c->parts[r], FROM_HOST));
        }
    }
    return PHX_OK;
}

/* ---- making and ending ---- */

static size_t whole_pages(size_t bytes)
{
    return (bytes + PHX_SHARED_ALIGNMENT - 1) / PHX_SHARED_ALIGNMENT * PHX_SHARED_ALIGNMENT;
}

/* Before the parts lie `head_bytes`, whole pages, of all ranks together. */
static enum phx_status add_segment(struct host_comm *c, size_t head_bytes, size_t part_bytes)
{
    struct phx_world *world = c->base.world;
    part_bytes = whole_pages(part_bytes);
    size_t n = (size_t)c->n_segments + 1;
    struct segment *segments = realloc(c->segments, n * sizeof *segments);
    PHX_ASSERT(segments != NULL);
    c->segments = segments;
    struct phx_shared shared;
    PHX_TRY(phx_world_share(world, head_bytes + (size_t)world->size * part_bytes, &shared));
    c->segments[c->n_segments++] =
        (struct segment){(char *)shared.address + head_bytes, part_bytes, NULL};
    return PHX_OK;
}

static enum phx_status host_buffer(struct phx_comm *comm, size_t bytes, struct phx_buffer **out)
{
    struct host_comm *c = of(comm);
    if (c->staged || !c->near) return phx_buffer_create(comm->device, bytes, out);
    PHX_TRY(add_segment(c, 0, bytes));
    struct segment *segment = &c->segments[c->n_segments - 1];
    char *address = part_of(segment, comm->world->rank);
    PHX_TRY(phx_buffer_wrap(comm->device, address, bytes, out));
    segment->buffer = *out;
    return PHX_OK;
}

/* The posts and the slots. */
static enum phx_status host_connect(struct phx_comm *comm)
{
    struct host_comm *c = of(comm);
    size_t posts_bytes = whole_pages((size_t)comm->world->size * sizeof(struct post));
    if (!c->near) return PHX_OK;
    PHX_TRY(add_segment(c, posts_bytes, 2 * c->piece_bytes));
    c->posts = (struct post *)(void *)(c->segments[0].memory - posts_bytes);
    return PHX_OK;
}

static enum phx_status allocate(size_t bytes, char **out)
{
    *out = aligned_alloc(LINE_BYTES, bytes);
    if (*out != NULL) return PHX_OK;
    return phx_fail(PHX_OUT_OF_MEMORY, "no memory for %zu bytes of sums over ranks", bytes);
}

static void host_finish(struct phx_comm *comm)
{
    (void)comm; /* the shared memory is the world's */
}

static void host_destroy(struct phx_comm *comm)
{
    struct host_comm *c = of(comm);
    free(c->mine);
    free(c->gathered);
    free(c->result);
    free(c->parts);
    free(c->segments);
    free(c);
}

static enum phx_status host_create(struct phx_world *world, struct phx_device *device,
                                   const struct phx_comm_options *options, struct phx_comm **out)
{
    struct phx_device_info info;
    phx_device_info(device, &info);
    struct host_comm *c = calloc(1, sizeof *c);
    PHX_ASSERT(c != NULL);
    c->base.ops = &phx_comm_host;
    c->base.world = world;
    c->base.device = device;
    c->base.options = *options;
    c->staged = info.kind != PHX_DEVICE_CPU;
    c->near = world->node_size == world->size;
    size_t largest = options->max_reduce_bytes > options->max_gather_bytes
                         ? options->max_reduce_bytes
                         : options->max_gather_bytes;
    if (largest > MAX_PIECE_BYTES) largest = MAX_PIECE_BYTES;
    c->piece_bytes = (largest / LINE_BYTES + 1) * LINE_BYTES;
    c->parts = calloc((size_t)world->size, sizeof *c->parts);
    PHX_ASSERT(c->parts != NULL);

    enum phx_status status = PHX_OK;
    if (!c->near) {
        PHX_TRY_GOTO(allocate(c->piece_bytes, &c->mine), fail);
        PHX_TRY_GOTO(allocate((size_t)world->size * c->piece_bytes, &c->gathered), fail);
    }
    if (c->staged) PHX_TRY_GOTO(allocate(c->piece_bytes, &c->result), fail);
    *out = &c->base;
    return PHX_OK;
fail:
    host_destroy(&c->base);
    return status;
}

const struct phx_comm_ops phx_comm_host = {
    .name = "host",
    .blocking = true,
    .create = host_create,
    .connect = host_connect,
    .buffer = host_buffer,
    .all_reduce = host_all_reduce,
    .reduce_norm = host_reduce_norm,
    .gather_cols = host_gather_cols,
    .finish = host_finish,
    .destroy = host_destroy,
};
