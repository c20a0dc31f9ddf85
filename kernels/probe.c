#include "kernels/probe.h"

#include "kernels/backend.h"
#include "kernels/base/check.h"

enum { UNIT_BYTES = 256 };

enum phx_status phx_probe_fill(struct phx_stream *stream, struct phx_buffer *words)
{
    PHX_ASSERT(words->device == stream->device && words->bytes % UNIT_BYTES == 0);
    return stream->device->backend->probe_fill(stream, words);
}

enum phx_status phx_probe_read(struct phx_stream *stream, const struct phx_buffer *words,
                               size_t offset_bytes, size_t bytes, struct phx_buffer *result)
{
    PHX_ASSERT(words->device == stream->device && result->device == stream->device);
    PHX_ASSERT(offset_bytes % UNIT_BYTES == 0 && bytes % UNIT_BYTES == 0);
    PHX_ASSERT(bytes <= words->bytes && offset_bytes <= words->bytes - bytes);
    PHX_ASSERT(result->bytes >= sizeof(uint32_t));
    return stream->device->backend->probe_read(stream, words, offset_bytes, bytes, result);
}

enum phx_status phx_probe_empty(struct phx_stream *stream, bool early)
{
    return stream->device->backend->probe_empty(stream, early);
}

double phx_probe_multiply(struct phx_stream *stream)
{
    return stream->device->backend->probe_multiply(stream);
}
