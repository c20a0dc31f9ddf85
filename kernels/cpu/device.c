/* The device is this process: memory is malloc's, a stream's work is done inside the call. */
#include "kernels/cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include "kernels/base/check.h"
#include "kernels/cpu/memory.h"

enum {
    ALIGNMENT = 256,
    SCRATCH_ALIGNMENT = 128, /* two cache lines: the prefetcher fetches pairs */
    SMALLEST_PAGE = 4096
};
/* Buffers from here on are aligned to huge pages and use them where the system has any. */
static const size_t huge_page = (size_t)2 << 20;
static const size_t huge_from = (size_t)4 << 20;
/* What a thread copies or zeroes at a time. */
static const size_t piece_bytes = (size_t)1 << 20;

struct cpu_event {
    struct phx_event base;
    bool recorded;
    struct timespec time;
};

enum phx_status phx_cpu_describe(int ordinal, struct phx_device_info *out)
{
    struct phx_memory memory;
    (void)ordinal;
    phx_memory_read("", &memory);
    *out = (struct phx_device_info){
        .kind = PHX_DEVICE_CPU, .name = "CPU", .memory_total_bytes = memory.total_bytes};
    return PHX_OK;
}

enum phx_status phx_cpu_device_create(const struct phx_device_options *options,
                                      struct phx_device **out)
{
    PHX_ASSERT(options->n_threads >= 1);
    PHX_ASSERT(options->compute == PHX_F32 || options->compute == PHX_BF16);
    enum phx_cpu_isa isa;
    PHX_TRY(phx_isa_choose(options->isa, &isa));
    struct phx_cpu_device *device = calloc(1, sizeof *device);
    if (device == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a device");
    enum phx_status status =
        phx_pool_create(options->n_threads, options->cpus, options->crowded, &device->pool);
    if (status != PHX_OK) {
        free(device);
        return status;
    }
    device->bf16_products = options->compute == PHX_BF16;
    if (isa == PHX_ISA_AVX512_BF16 && !device->bf16_products) isa = PHX_ISA_AVX512;
    device->isa = isa;
    struct phx_memory memory;
    phx_memory_read("", &memory);
    device->base.backend = phx_backend_cpu();
    device->base.info = (struct phx_device_info){
        .kind = PHX_DEVICE_CPU,
        .memory_total_bytes = memory.total_bytes,
        .memory_free_bytes = memory.free_bytes,
        .activation = PHX_F32,
        .kv_default = PHX_F32,
        .has_graphs = false,
        .n_units = options->n_threads,
    };
    snprintf(device->base.info.name, sizeof device->base.info.name, "CPU, %d thread%s, %s",
             options->n_threads, options->n_threads == 1 ? "" : "s", phx_isa_name(isa));
    *out = &device->base;
    return PHX_OK;
}

void phx_cpu_device_destroy(struct phx_device *base)
{
    struct phx_cpu_device *device = (struct phx_cpu_device *)base;
    phx_pool_destroy(device->pool);
    free(device);
}

void phx_cpu_device_info(const struct phx_device *device, struct phx_device_info *out)
{
    struct phx_memory memory;
    phx_memory_read("", &memory);
    *out = device->info;
    out->memory_free_bytes = memory.free_bytes;
}

/* ---- memory ---- */

struct zero_job {
    char *to;
};

static void zero_piece(void *user, int64_t begin, int64_t end, int thread)
{
    const struct zero_job *job = user;
    (void)thread;
    memset(job->to + begin, 0, (size_t)(end - begin));
}

static void touch_piece(void *user, int64_t begin, int64_t end, int thread)
{
    const struct zero_job *job = user;
    (void)thread;
    for (int64_t at = begin; at < end; at += SMALLEST_PAGE) *(volatile char *)(job->to + at) = 0;
}

/* By all threads: it is also what first touches the pages. Large ones are asked for anew: the
 * system has cleared them then, and to do so again would take as long as to fill them. */
static void zero(struct phx_pool *pool, char *to, size_t bytes)
{
    struct zero_job job = {to};
    size_t whole = bytes < huge_from ? 0 : bytes / huge_page * huge_page;
    if (whole > 0 && madvise(to, whole, MADV_DONTNEED) != 0) whole = 0;
    phx_pool_for(pool, (int64_t)whole, (int64_t)piece_bytes, touch_piece, &job);
    job.to = to + whole;
    phx_pool_for(pool, (int64_t)(bytes - whole), (int64_t)piece_bytes, zero_piece, &job);
}

/* The system would grant far more than there is and kill the process when it is touched: ask first.
 */
static enum phx_status check_memory(size_t bytes, const char *what)
{
    const double gib = 1024.0 * 1024.0 * 1024.0;
    struct phx_memory memory;
    phx_memory_read("", &memory);
    if (bytes <= memory.free_bytes) return PHX_OK;
    return phx_fail(PHX_OUT_OF_MEMORY,
                    "%s of %.2f GiB does not fit: %.2f GiB of the %.2f GiB that %s are free", what,
                    (double)bytes / gib, (double)memory.free_bytes / gib,
                    (double)memory.total_bytes / gib,
                    memory.limited ? "this process's control group may use" : "this machine has");
}

/* There is enough: somebody has set a limit. */
static enum phx_status refused(size_t bytes, const char *what)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        return phx_fail(PHX_OUT_OF_MEMORY,
                        "the system refused %s of %.2f MB: this process may have %.2f MB of "
                        "addresses (ulimit -v); raise that, or use more ranks",
                        what, (double)bytes / 1e6, (double)limit.rlim_cur / 1e6);
    return phx_fail(PHX_OUT_OF_MEMORY,
                    "the system refused %s of %.2f MB, though so much is free: is "
                    "vm.overcommit_memory 2?",
                    what, (double)bytes / 1e6);
}

static enum phx_status allocate(struct phx_pool *pool, size_t bytes, const char *what, void **out)
{
    PHX_TRY(check_memory(bytes, what));
    size_t alignment = bytes >= huge_from ? huge_page : ALIGNMENT;
    if (posix_memalign(out, alignment, bytes > 0 ? bytes : 1) != 0) return refused(bytes, what);
    /* Only an advice: without huge pages everything works, more slowly. */
    if (bytes >= huge_from) madvise(*out, bytes, MADV_HUGEPAGE);
    zero(pool, *out, bytes);
    return PHX_OK;
}

static enum phx_status make_buffer(struct phx_device *device, void *address, size_t bytes,
                                   bool owned, struct phx_buffer **out)
{
    struct phx_buffer *buffer = malloc(sizeof *buffer);
    if (buffer == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a buffer's handle");
    *buffer = (struct phx_buffer){device, address, bytes, owned};
    *out = buffer;
    return PHX_OK;
}

enum phx_status phx_cpu_buffer_create(struct phx_device *device, size_t bytes,
                                      struct phx_buffer **out)
{
    void *address;
    PHX_TRY(allocate(((struct phx_cpu_device *)device)->pool, bytes, "a buffer", &address));
    enum phx_status status = make_buffer(device, address, bytes, true, out);
    if (status != PHX_OK) free(address);
    return status;
}

enum phx_status phx_cpu_buffer_wrap(struct phx_device *device, void *address, size_t bytes,
                                    struct phx_buffer **out)
{
    return make_buffer(device, address, bytes, false, out);
}

void phx_cpu_buffer_destroy(struct phx_buffer *buffer)
{
    if (buffer->owned) free(buffer->address);
    free(buffer);
}

struct copy_job {
    char *to;
    const char *from;
    size_t to_pitch, from_pitch, row_bytes;
};

static void copy_rows(void *user, int64_t begin, int64_t end, int thread)
{
    const struct copy_job *job = user;
    (void)thread;
    for (int64_t row = begin; row < end; row++)
        memcpy(job->to + (size_t)row * job->to_pitch, job->from + (size_t)row * job->from_pitch,
               job->row_bytes);
}

static void copy_bytes(void *user, int64_t begin, int64_t end, int thread)
{
    const struct copy_job *job = user;
    (void)thread;
    memcpy(job->to + begin, job->from + begin, (size_t)(end - begin));
}

static void copy_rectangle(struct phx_pool *pool, struct copy_job job, int64_t rows)
{
    if (rows == 0 || job.row_bytes == 0) return;
    if (rows == 1 || (job.to_pitch == job.row_bytes && job.from_pitch == job.row_bytes)) {
        phx_pool_for(pool, rows * (int64_t)job.row_bytes, (int64_t)piece_bytes, copy_bytes, &job);
        return;
    }
    int64_t grain = (int64_t)(piece_bytes / job.row_bytes);
    phx_pool_for(pool, rows, grain > 0 ? grain : 1, copy_rows, &job);
}

enum phx_status phx_cpu_buffer_upload(struct phx_stream *stream, struct phx_buffer *to,
                                      size_t to_offset, size_t to_pitch, const void *from,
                                      size_t from_pitch, size_t row_bytes, int64_t rows)
{
    struct copy_job job = {(char *)to->address + to_offset, from, to_pitch, from_pitch, row_bytes};
    copy_rectangle(phx_cpu_pool(stream), job, rows);
    return PHX_OK;
}

enum phx_status phx_cpu_buffer_download(struct phx_stream *stream, const struct phx_buffer *from,
                                        size_t from_offset, size_t from_pitch, void *to,
                                        size_t to_pitch, size_t row_bytes, int64_t rows)
{
    struct copy_job job = {to, (const char *)from->address + from_offset, to_pitch, from_pitch,
                           row_bytes};
    copy_rectangle(phx_cpu_pool(stream), job, rows);
    return PHX_OK;
}

enum phx_status phx_cpu_buffer_copy(struct phx_stream *stream, struct phx_buffer *to,
                                    size_t to_offset, const struct phx_buffer *from,
                                    size_t from_offset, size_t bytes)
{
    struct copy_job job = {(char *)to->address + to_offset,
                           (const char *)from->address + from_offset, bytes, bytes, bytes};
    copy_rectangle(phx_cpu_pool(stream), job, 1);
    return PHX_OK;
}

enum phx_status phx_cpu_buffer_zero(struct phx_stream *stream, struct phx_buffer *buffer,
                                    size_t offset, size_t bytes)
{
    zero(phx_cpu_pool(stream), (char *)buffer->address + offset, bytes);
    return PHX_OK;
}

enum phx_status phx_cpu_host_alloc(struct phx_device *device, size_t bytes, void **out)
{
    return allocate(((struct phx_cpu_device *)device)->pool, bytes, "host memory", out);
}

void phx_cpu_host_free(struct phx_device *device, void *address)
{
    (void)device;
    free(address);
}

/* ---- streams ---- */

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

static size_t round_up(size_t bytes, size_t to)
{
    return (bytes + to - 1) / to * to;
}

/* Products and other ops never run at once: a thread's part serves both. */
static size_t thread_bytes(const struct phx_limits *limits)
{
    size_t bytes = max_size(phx_cpu_ops_thread_bytes(limits), phx_cpu_linear_thread_bytes());
    return round_up(bytes, SCRATCH_ALIGNMENT);
}

size_t phx_cpu_stream_scratch_bytes(const struct phx_device *device,
                                    const struct phx_limits *limits)
{
    size_t shared = max_size(phx_cpu_ops_shared_bytes(limits), phx_cpu_linear_shared_bytes(limits));
    return (size_t)device->info.n_units * thread_bytes(limits) + shared;
}

enum phx_status phx_cpu_stream_create(struct phx_device *device, const struct phx_limits *limits,
                                      struct phx_stream **out)
{
    struct phx_cpu_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a stream's handle");
    stream->base = (struct phx_stream){.device = device, .limits = *limits};
    stream->thread_bytes = thread_bytes(limits);
    stream->scratch_bytes = phx_cpu_stream_scratch_bytes(device, limits);
    void *scratch;
    enum phx_status status = allocate(((struct phx_cpu_device *)device)->pool,
                                      stream->scratch_bytes, "the scratch memory", &scratch);
    if (status != PHX_OK) {
        free(stream);
        return status;
    }
    stream->scratch = scratch;
    *out = &stream->base;
    return PHX_OK;
}

void phx_cpu_stream_destroy(struct phx_stream *base)
{
    struct phx_cpu_stream *stream = (struct phx_cpu_stream *)base;
    free(stream->scratch);
    free(stream);
}

enum phx_status phx_cpu_stream_synchronize(struct phx_stream *stream)
{
    (void)stream;
    return PHX_OK;
}

/* ---- events and graphs ---- */

enum phx_status phx_cpu_event_create(struct phx_device *device, struct phx_event **out)
{
    struct cpu_event *event = calloc(1, sizeof *event);
    if (event == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for an event");
    event->base.device = device;
    *out = &event->base;
    return PHX_OK;
}

void phx_cpu_event_destroy(struct phx_event *event)
{
    free(event);
}

enum phx_status phx_cpu_event_record(struct phx_event *base, struct phx_stream *stream)
{
    struct cpu_event *event = (struct cpu_event *)base;
    (void)stream;
    clock_gettime(CLOCK_MONOTONIC, &event->time);
    event->recorded = true;
    return PHX_OK;
}

enum phx_status phx_cpu_event_wait(struct phx_event *event)
{
    (void)event;
    return PHX_OK;
}

enum phx_status phx_cpu_event_elapsed_ms(const struct phx_event *from_base,
                                         const struct phx_event *to_base, float *out_ms)
{
    const struct cpu_event *from = (const struct cpu_event *)from_base;
    const struct cpu_event *to = (const struct cpu_event *)to_base;
    PHX_ASSERT(from->recorded && to->recorded);
    double seconds = (double)(to->time.tv_sec - from->time.tv_sec);
    double nanoseconds = (double)(to->time.tv_nsec - from->time.tv_nsec);
    *out_ms = (float)(seconds * 1e3 + nanoseconds * 1e-6);
    return PHX_OK;
}

static enum phx_status no_graphs(void)
{
    return phx_fail(PHX_UNSUPPORTED, "the CPU records no graphs: give it the work step by step");
}

enum phx_status phx_cpu_graph_begin(struct phx_stream *stream)
{
    (void)stream;
    return no_graphs();
}

enum phx_status phx_cpu_graph_end(struct phx_stream *stream, struct phx_graph **out)
{
    (void)stream;
    if (out == NULL) return PHX_OK;
    *out = NULL;
    return no_graphs();
}

enum phx_status phx_cpu_graph_launch(struct phx_graph *graph, struct phx_stream *stream)
{
    (void)graph;
    (void)stream;
    return no_graphs();
}

void phx_cpu_graph_destroy(struct phx_graph *graph)
{
    (void)graph;
}
