#include "kernels/device.h"

#include <stdlib.h>

#include "kernels/backend.h"
#include "kernels/base/check.h"

static const struct phx_backend *backend_of(enum phx_device_kind kind)
{
    switch (kind) {
    case PHX_DEVICE_CPU:
        return phx_backend_cpu();
    case PHX_DEVICE_CUDA:
        return phx_backend_cuda();
    }
    phx_assert_failed("a device kind", __FILE__, __LINE__);
}

bool phx_device_available(enum phx_device_kind kind, const char **reason)
{
    return backend_of(kind)->count(reason) > 0;
}

bool phx_device_built(enum phx_device_kind kind)
{
    return backend_of(kind)->device_create != NULL;
}

int phx_device_count(enum phx_device_kind kind)
{
    const char *reason;
    return backend_of(kind)->count(&reason);
}

static enum phx_status check_ordinal(enum phx_device_kind kind, int ordinal)
{
    int n = phx_device_count(kind);
    if (ordinal >= 0 && ordinal < n) return PHX_OK;
    return phx_fail(PHX_NOT_FOUND, "there is no device %d: this process sees %d", ordinal, n);
}

enum phx_status phx_device_describe(enum phx_device_kind kind, int ordinal,
                                    struct phx_device_info *out)
{
    PHX_TRY(check_ordinal(kind, ordinal));
    return backend_of(kind)->describe(ordinal, out);
}

enum phx_status phx_device_link(enum phx_device_kind kind, int from, int to,
                                struct phx_device_link *out)
{
    PHX_TRY(check_ordinal(kind, from));
    PHX_TRY(check_ordinal(kind, to));
    *out = (struct phx_device_link){.direct = true, .atomics = true};
    return from == to ? PHX_OK : backend_of(kind)->link(from, to, out);
}

enum phx_status phx_device_create(const struct phx_device_options *options, struct phx_device **out)
{
    const struct phx_backend *backend = backend_of(options->kind);
    const char *reason = NULL;
    if (backend->count(&reason) == 0) return phx_fail(PHX_UNSUPPORTED, "%s", reason);
    return backend->device_create(options, out);
}

void phx_device_destroy(struct phx_device *device)
{
    if (device != NULL) device->backend->device_destroy(device);
}

void phx_device_info(const struct phx_device *device, struct phx_device_info *out)
{
    device->backend->device_info(device, out);
}

static void check_limits(const struct phx_limits *limits)
{
    PHX_ASSERT(limits->max_rows >= 0 && limits->max_length >= 0);
    PHX_ASSERT(limits->max_seqs >= 0 && limits->max_seqs <= PHX_MAX_SEQS);
    PHX_ASSERT(limits->max_in >= 0 && limits->max_out >= 0 && limits->max_vocab >= 0);
    PHX_ASSERT(limits->max_heads >= 0 && limits->max_kv_heads >= 0 && limits->max_head_dim >= 0);
}

enum phx_status phx_stream_create(struct phx_device *device, const struct phx_limits *limits,
                                  struct phx_stream **out)
{
    check_limits(limits);
    return device->backend->stream_create(device, limits, out);
}

void phx_stream_destroy(struct phx_stream *stream)
{
    if (stream != NULL) stream->device->backend->stream_destroy(stream);
}

size_t phx_stream_scratch_bytes(const struct phx_device *device, const struct phx_limits *limits)
{
    check_limits(limits);
    return device->backend->stream_scratch_bytes(device, limits);
}

enum phx_status phx_stream_synchronize(struct phx_stream *stream)
{
    return stream->device->backend->stream_synchronize(stream);
}

struct phx_device *phx_stream_device(const struct phx_stream *stream)
{
    return stream->device;
}

enum phx_status phx_buffer_create(struct phx_device *device, size_t bytes, struct phx_buffer **out)
{
    return device->backend->buffer_create(device, bytes, out);
}

enum phx_status phx_buffer_wrap(struct phx_device *device, void *address, size_t bytes,
                                struct phx_buffer **out)
{
    PHX_ASSERT(address != NULL || bytes == 0);
    return device->backend->buffer_wrap(device, address, bytes, out);
}

void phx_buffer_destroy(struct phx_buffer *buffer)
{
    if (buffer != NULL) buffer->device->backend->buffer_destroy(buffer);
}

size_t phx_buffer_bytes(const struct phx_buffer *buffer)
{
    return buffer->bytes;
}

void *phx_buffer_address(const struct phx_buffer *buffer)
{
    return buffer->address;
}

/* True if a rectangle lies within `bytes`; sizes are such that nothing wraps round. */
static bool rectangle_fits(size_t bytes, size_t offset, size_t pitch, size_t row_bytes,
                           int64_t rows)
{
    if (rows < 0 || (rows > 1 && pitch < row_bytes)) return false;
    if (rows == 0 || row_bytes == 0) return offset <= bytes;
    size_t span;
    if (__builtin_mul_overflow((size_t)(rows - 1), pitch, &span)) return false;
    if (__builtin_add_overflow(span, row_bytes, &span)) return false;
    return offset <= bytes && span <= bytes - offset;
}

enum phx_status phx_buffer_upload(struct phx_stream *stream, struct phx_buffer *to,
                                  size_t to_offset_bytes, size_t to_pitch_bytes, const void *from,
                                  size_t from_pitch_bytes, size_t row_bytes, int64_t rows)
{
    PHX_ASSERT(stream->device == to->device);
    PHX_ASSERT(rectangle_fits(to->bytes, to_offset_bytes, to_pitch_bytes, row_bytes, rows));
    PHX_ASSERT(rows <= 1 || from_pitch_bytes >= row_bytes);
    return to->device->backend->buffer_upload(stream, to, to_offset_bytes, to_pitch_bytes, from,
                                              from_pitch_bytes, row_bytes, rows);
}

enum phx_status phx_buffer_download(struct phx_stream *stream, const struct phx_buffer *from,
                                    size_t from_offset_bytes, size_t from_pitch_bytes, void *to,
                                    size_t to_pitch_bytes, size_t row_bytes, int64_t rows)
{
    PHX_ASSERT(stream->device == from->device);
    PHX_ASSERT(rectangle_fits(from->bytes, from_offset_bytes, from_pitch_bytes, row_bytes, rows));
    PHX_ASSERT(rows <= 1 || to_pitch_bytes >= row_bytes);
    return from->device->backend->buffer_download(stream, from, from_offset_bytes, from_pitch_bytes,
                                                  to, to_pitch_bytes, row_bytes, rows);
}

enum phx_status phx_buffer_copy(struct phx_stream *stream, struct phx_buffer *to,
                                size_t to_offset_bytes, const struct phx_buffer *from,
                                size_t from_offset_bytes, size_t bytes)
{
    PHX_ASSERT(stream->device == to->device && stream->device == from->device);
    PHX_ASSERT(rectangle_fits(to->bytes, to_offset_bytes, bytes, bytes, 1));
    PHX_ASSERT(rectangle_fits(from->bytes, from_offset_bytes, bytes, bytes, 1));
    return to->device->backend->buffer_copy(stream, to, to_offset_bytes, from, from_offset_bytes,
                                            bytes);
}

enum phx_status phx_buffer_zero(struct phx_stream *stream, struct phx_buffer *buffer,
                                size_t offset_bytes, size_t bytes)
{
    PHX_ASSERT(stream->device == buffer->device);
    PHX_ASSERT(rectangle_fits(buffer->bytes, offset_bytes, bytes, bytes, 1));
    return buffer->device->backend->buffer_zero(stream, buffer, offset_bytes, bytes);
}

enum phx_status phx_host_alloc(struct phx_device *device, size_t bytes, void **out)
{
    return device->backend->host_alloc(device, bytes, out);
}

void phx_host_free(struct phx_device *device, void *address)
{
    if (address != NULL) device->backend->host_free(device, address);
}

enum phx_status phx_event_create(struct phx_device *device, struct phx_event **out)
{
    return device->backend->event_create(device, out);
}

void phx_event_destroy(struct phx_event *event)
{
    if (event != NULL) event->device->backend->event_destroy(event);
}

enum phx_status phx_event_record(struct phx_event *event, struct phx_stream *stream)
{
    PHX_ASSERT(event->device == stream->device);
    return event->device->backend->event_record(event, stream);
}

enum phx_status phx_event_wait(struct phx_event *event)
{
    return event->device->backend->event_wait(event);
}

enum phx_status phx_event_elapsed_ms(const struct phx_event *from, const struct phx_event *to,
                                     float *out_ms)
{
    PHX_ASSERT(from->device == to->device);
    return from->device->backend->event_elapsed_ms(from, to, out_ms);
}

enum phx_status phx_graph_begin(struct phx_stream *stream)
{
    return stream->device->backend->graph_begin(stream);
}

enum phx_status phx_graph_end(struct phx_stream *stream, struct phx_graph **out)
{
    return stream->device->backend->graph_end(stream, out);
}

enum phx_status phx_graph_launch(struct phx_graph *graph, struct phx_stream *stream)
{
    PHX_ASSERT(graph->device == stream->device);
    return graph->device->backend->graph_launch(graph, stream);
}

void phx_graph_destroy(struct phx_graph *graph)
{
    if (graph != NULL) graph->device->backend->graph_destroy(graph);
}

/* ---- on paper ---- */

struct paper_device {
    struct phx_device base;
    struct phx_backend backend;
};

static void tear_up(struct phx_device *device)
{
    free(device);
}

static void read_paper(const struct phx_device *device, struct phx_device_info *out)
{
    *out = device->info;
}

enum phx_status phx_device_on_paper(const struct phx_device_info *info, struct phx_device **out)
{
    const struct phx_backend *backend = backend_of(info->kind);
    struct paper_device *paper = calloc(1, sizeof *paper);
    if (paper == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a device");
    paper->backend = (struct phx_backend){.name = backend->name,
                                          .device_destroy = tear_up,
                                          .device_info = read_paper,
                                          .stream_scratch_bytes = backend->stream_scratch_bytes,
                                          .weight_bytes = backend->weight_bytes};
    paper->base = (struct phx_device){&paper->backend, *info};
    *out = &paper->base;
    return PHX_OK;
}
