/* Buffers and copies. What is uploaded passes through a ring of pinned memory: the host goes on as
 * soon as the source has been copied there, and waits only for the ring's oldest part when the ring
 * is full. So a model's pieces are read from its files while the ones before travel; and since one
 * thread reads a mapped file at 7 GB/s where the bus takes 50, a few share large pieces. */
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/pool.h"
#include "kernels/cuda/cuda.h"

enum { N_PIECES = 64, MAX_READERS = 4 };
static const size_t ring_bytes = (size_t)32 << 20;
static const size_t piece_bytes = (size_t)4 << 20;   /* several in flight */
static const size_t slice_bytes = (size_t)256 << 10; /* of a piece, a thread's at a time */
static const size_t piece_alignment = 256;

/* A part of the ring that the device may still read. */
struct piece {
    cudaEvent_t done;
    size_t begin, end;
};

struct phx_cuda_ring {
    char *memory;
    size_t next; /* where the next piece goes, unless it does not fit before the end */
    struct piece pieces[N_PIECES];
    int first, n; /* those in use, oldest first, round and round */
    struct phx_pool *readers;
};

/* ---- the ring ---- */

static int n_readers(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < MAX_READERS ? n : MAX_READERS;
}

enum phx_status phx_cuda_ring_create(struct phx_cuda_ring **out)
{
    struct phx_cuda_ring *ring = calloc(1, sizeof *ring);
    enum phx_status status = PHX_OK;
    if (ring == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a ring of pinned memory");
    void *memory = NULL;
    PHX_TRY_GOTO(
        phx_cuda_status(cudaHostAlloc(&memory, ring_bytes, cudaHostAllocDefault), "cudaHostAlloc"),
        fail);
    ring->memory = memory;
    for (int i = 0; i < N_PIECES; i++)
        PHX_TRY_GOTO(
            phx_cuda_status(cudaEventCreateWithFlags(&ring->pieces[i].done, cudaEventDisableTiming),
                            "cudaEventCreateWithFlags"),
            fail);
    PHX_TRY_GOTO(phx_pool_create(n_readers(), NULL, false, &ring->readers), fail);
    *out = ring;
    return PHX_OK;
fail:
    phx_cuda_ring_destroy(ring);
    return status;
}

void phx_cuda_ring_destroy(struct phx_cuda_ring *ring)
{
    if (ring == NULL) return;
    for (int i = 0; i < N_PIECES; i++)
        if (ring->pieces[i].done != NULL) cudaEventDestroy(ring->pieces[i].done);
    cudaFreeHost(ring->memory);
    phx_pool_destroy(ring->readers);
    free(ring);
}

static enum phx_status free_oldest(struct phx_cuda_ring *ring)
{
    PHX_CUDA_TRY(cudaEventSynchronize, (ring->pieces[ring->first].done));
    ring->first = (ring->first + 1) % N_PIECES;
    ring->n--;
    return PHX_OK;
}

/* A free part of `bytes`, at most piece_bytes, which is to be given to hold_piece. */
static enum phx_status take_piece(struct phx_cuda_ring *ring, size_t bytes, struct piece **out)
{
    size_t begin = ring->next + bytes <= ring_bytes ? ring->next : 0;
    size_t end = begin + bytes;
    if (ring->n == N_PIECES) PHX_TRY(free_oldest(ring));
    /* Pieces lie in the order of their age: when the oldest is out of the way, all are. After a
     * jump to the front the oldest may lie behind `next` for a while. */
    for (int i = 0; i < ring->n;) {
        struct piece *p = &ring->pieces[(ring->first + i) % N_PIECES];
        bool overlaps = p->begin < end && begin < p->end;
        if (!overlaps) {
            i++;
            continue;
        }
        for (; i >= 0; i--) PHX_TRY(free_oldest(ring));
        i = 0;
    }
    struct piece *piece = &ring->pieces[(ring->first + ring->n) % N_PIECES];
    piece->begin = begin;
    piece->end = end;
    *out = piece;
    return PHX_OK;
}

static enum phx_status hold_piece(struct phx_cuda_ring *ring, struct piece *piece,
                                  cudaStream_t stream)
{
    ring->next = (piece->end + piece_alignment - 1) & ~(piece_alignment - 1);
    ring->n++;
    PHX_CUDA_TRY(cudaEventRecord, (piece->done, stream));
    return PHX_OK;
}

/* Rows of host memory that move together in the ring. */
struct rows {
    char *staged;
    const char *from;
    size_t from_pitch, row_bytes;
};

/* Bytes [begin, end) of what is staged. */
static void stage(void *user, int64_t begin, int64_t end, int thread)
{
    const struct rows *rows = user;
    (void)thread;
    for (size_t at = (size_t)begin, n; at < (size_t)end; at += n) {
        size_t row = at / rows->row_bytes, col = at % rows->row_bytes;
        n = rows->row_bytes - col;
        if (n > (size_t)end - at) n = (size_t)end - at;
        memcpy(rows->staged + at, rows->from + row * rows->from_pitch + col, n);
    }
}

/* Rows that fit a piece. */
static enum phx_status upload_rows(struct phx_cuda_stream *stream, char *to, size_t to_pitch,
                                   const char *from, size_t from_pitch, size_t row_bytes,
                                   int64_t rows)
{
    struct phx_cuda_ring *ring = stream->ring;
    struct piece *piece;
    size_t bytes = row_bytes * (size_t)rows;
    PHX_TRY(take_piece(ring, bytes, &piece));
    char *staged = ring->memory + piece->begin;
    struct rows source = {staged, from, from_pitch, row_bytes};
    phx_pool_for(ring->readers, (int64_t)bytes, (int64_t)slice_bytes, stage, &source);
    if (rows == 1 || to_pitch == row_bytes)
        PHX_CUDA_TRY(cudaMemcpyAsync, (to, staged, bytes, cudaMemcpyHostToDevice, stream->native));
    else
        PHX_CUDA_TRY(cudaMemcpy2DAsync, (to, to_pitch, staged, row_bytes, row_bytes, (size_t)rows,
                                         cudaMemcpyHostToDevice, stream->native));
    return hold_piece(ring, piece, stream->native);
}

enum phx_status phx_cuda_upload(struct phx_cuda_stream *stream, void *to_start, size_t to_pitch,
                                const void *from_start, size_t from_pitch, size_t row_bytes,
                                int64_t rows)
{
    char *to = to_start;
    const char *from = from_start;
    PHX_ASSERT(!stream->recording); /* a graph would copy whatever the ring holds by then */
    if (rows == 0 || row_bytes == 0) return PHX_OK;
    if (rows > 1 && to_pitch == row_bytes && from_pitch == row_bytes) {
        row_bytes *= (size_t)rows;
        rows = 1;
    }
    if (row_bytes <= piece_bytes) {
        int64_t step = (int64_t)(piece_bytes / row_bytes);
        for (int64_t r = 0; r < rows; r += step)
            PHX_TRY(upload_rows(stream, to + (size_t)r * to_pitch, to_pitch,
                                from + (size_t)r * from_pitch, from_pitch, row_bytes,
                                rows - r < step ? rows - r : step));
        return PHX_OK;
    }
    for (int64_t r = 0; r < rows; r++, to += to_pitch, from += from_pitch)
        for (size_t done = 0; done < row_bytes; done += piece_bytes) {
            size_t left = row_bytes - done;
            PHX_TRY(upload_rows(stream, to + done, 0, from + done, 0,
                                left < piece_bytes ? left : piece_bytes, 1));
        }
    return PHX_OK;
}

/* ---- buffers ---- */

static enum phx_status make_buffer(struct phx_device *device, void *address, size_t bytes,
                                   bool owned, struct phx_buffer **out)
{
    struct phx_buffer *buffer = malloc(sizeof *buffer);
    if (buffer == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a buffer's handle");
    *buffer = (struct phx_buffer){device, address, bytes, owned};
    *out = buffer;
    return PHX_OK;
}

static enum phx_status allocate(size_t bytes, void **out)
{
    const double gib = 1024.0 * 1024.0 * 1024.0;
    cudaError_t error = cudaMalloc(out, bytes > 0 ? bytes : 1);
    if (error != cudaErrorMemoryAllocation) return phx_cuda_status(error, "cudaMalloc");
    cudaGetLastError();
    size_t free_bytes = 0, total_bytes = 0;
    PHX_CUDA_TRY(cudaMemGetInfo, (&free_bytes, &total_bytes));
    return phx_fail(PHX_OUT_OF_MEMORY,
                    "a buffer of %.2f GiB does not fit: %.2f GiB of the GPU's %.2f GiB are free",
                    (double)bytes / gib, (double)free_bytes / gib, (double)total_bytes / gib);
}

enum phx_status phx_cuda_buffer_create(struct phx_device *device, size_t bytes,
                                       struct phx_buffer **out)
{
    void *address = NULL;
    enum phx_status status;
    PHX_TRY(phx_cuda_use(device));
    PHX_TRY(allocate(bytes, &address));
    /* Streams do not wait for the default one, so the host does. */
    PHX_TRY_GOTO(phx_cuda_status(cudaMemset(address, 0, bytes), "cudaMemset"), fail);
    PHX_TRY_GOTO(phx_cuda_status(cudaStreamSynchronize(cudaStreamLegacy), "cudaStreamSynchronize"),
                 fail);
    PHX_TRY_GOTO(make_buffer(device, address, bytes, true, out), fail);
    return PHX_OK;
fail:
    cudaFree(address);
    return status;
}

enum phx_status phx_cuda_buffer_wrap(struct phx_device *device, void *address, size_t bytes,
                                     struct phx_buffer **out)
{
    return make_buffer(device, address, bytes, false, out);
}

void phx_cuda_buffer_destroy(struct phx_buffer *buffer)
{
    phx_cuda_use(buffer->device);
    if (buffer->owned) cudaFree(buffer->address);
    free(buffer);
}

enum phx_status phx_cuda_host_alloc(struct phx_device *device, size_t bytes, void **out)
{
    PHX_TRY(phx_cuda_use(device));
    cudaError_t error = cudaHostAlloc(out, bytes > 0 ? bytes : 1, cudaHostAllocPortable);
    if (error != cudaErrorMemoryAllocation) return phx_cuda_status(error, "cudaHostAlloc");
    cudaGetLastError();
    return phx_fail(PHX_OUT_OF_MEMORY, "the system refused %zu bytes of pinned memory", bytes);
}

void phx_cuda_host_free(struct phx_device *device, void *address)
{
    phx_cuda_use(device);
    cudaFreeHost(address);
}

/* ---- copies ---- */

static char *at(const struct phx_buffer *buffer, size_t offset_bytes)
{
    return (char *)buffer->address + offset_bytes;
}

enum phx_status phx_cuda_buffer_upload(struct phx_stream *stream, struct phx_buffer *to,
                                       size_t to_offset_bytes, size_t to_pitch, const void *from,
                                       size_t from_pitch, size_t row_bytes, int64_t rows)
{
    PHX_TRY(phx_cuda_use(stream->device));
    return phx_cuda_upload(phx_cuda_stream(stream), at(to, to_offset_bytes), to_pitch, from,
                           from_pitch, row_bytes, rows);
}

static bool is_pinned(const void *address)
{
    struct cudaPointerAttributes attributes;
    return cudaPointerGetAttributes(&attributes, address) == cudaSuccess &&
           attributes.type == cudaMemoryTypeHost;
}

enum phx_status phx_cuda_buffer_download(struct phx_stream *stream, const struct phx_buffer *from,
                                         size_t from_offset_bytes, size_t from_pitch, void *to,
                                         size_t to_pitch, size_t row_bytes, int64_t rows)
{
    const char *address = at(from, from_offset_bytes);
    PHX_TRY(phx_cuda_use(stream->device));
    if (rows == 0 || row_bytes == 0) return PHX_OK;
    PHX_ASSERT(!phx_cuda_stream(stream)->recording || is_pinned(to));
    cudaStream_t native = phx_cuda_stream_native(stream);
    if (rows == 1)
        PHX_CUDA_TRY(cudaMemcpyAsync, (to, address, row_bytes, cudaMemcpyDeviceToHost, native));
    else
        PHX_CUDA_TRY(cudaMemcpy2DAsync, (to, to_pitch, address, from_pitch, row_bytes, (size_t)rows,
                                         cudaMemcpyDeviceToHost, native));
    return PHX_OK;
}

enum phx_status phx_cuda_buffer_copy(struct phx_stream *stream, struct phx_buffer *to,
                                     size_t to_offset_bytes, const struct phx_buffer *from,
                                     size_t from_offset_bytes, size_t bytes)
{
    PHX_TRY(phx_cuda_use(stream->device));
    if (bytes == 0) return PHX_OK;
    PHX_CUDA_TRY(cudaMemcpyAsync, (at(to, to_offset_bytes), at(from, from_offset_bytes), bytes,
                                   cudaMemcpyDeviceToDevice, phx_cuda_stream_native(stream)));
    return PHX_OK;
}

enum phx_status phx_cuda_buffer_zero(struct phx_stream *stream, struct phx_buffer *buffer,
                                     size_t offset_bytes, size_t bytes)
{
    PHX_TRY(phx_cuda_use(stream->device));
    if (bytes == 0) return PHX_OK;
    PHX_CUDA_TRY(cudaMemsetAsync,
                 (at(buffer, offset_bytes), 0, bytes, phx_cuda_stream_native(stream)));
    return PHX_OK;
}
