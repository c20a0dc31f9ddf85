/* In builds without CUDA, whose devices cannot be GPUs. */
#include "bench/gpu_probe.h"

static enum phx_status absent(void)
{
    return phx_fail(PHX_UNSUPPORTED, "this build has no CUDA backend");
}

enum phx_status bench_probe_fill(struct phx_stream *stream, struct phx_buffer *words)
{
    (void)stream;
    (void)words;
    return absent();
}

enum phx_status bench_probe_read(struct phx_stream *stream, const struct phx_buffer *words,
                                 size_t bytes, struct phx_buffer *result)
{
    (void)stream;
    (void)words;
    (void)bytes;
    (void)result;
    return absent();
}

enum phx_status bench_probe_empty(struct phx_stream *stream, int n_blocks, bool early)
{
    (void)stream;
    (void)n_blocks;
    (void)early;
    return absent();
}
