/* The probes of kernels/probe.h. */
#include "kernels/base/random.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/peaks.h"

static void fill_words(void *user, int64_t begin, int64_t end, int thread)
{
    uint32_t *words = user;
    (void)thread;
    for (int64_t i = begin; i < end; i++) words[i] = phx_mix32((uint32_t)i);
}

enum phx_status phx_cpu_probe_fill(struct phx_stream *stream, struct phx_buffer *words)
{
    phx_pool_for(phx_cpu_pool(stream), (int64_t)(words->bytes / sizeof(uint32_t)), 1 << 16,
                 fill_words, words->address);
    return PHX_OK;
}

enum phx_status phx_cpu_probe_read(struct phx_stream *stream, const struct phx_buffer *words,
                                   size_t offset_bytes, size_t bytes, struct phx_buffer *result)
{
    const char *from = (const char *)words->address + offset_bytes;
    *(uint32_t *)result->address ^= phx_peak_read_once(phx_cpu_pool(stream), from, bytes);
    return PHX_OK;
}

static void nothing(void *user, int thread)
{
    (void)user;
    (void)thread;
}

enum phx_status phx_cpu_probe_empty(struct phx_stream *stream, bool early)
{
    (void)early;
    phx_pool_run(phx_cpu_pool(stream), nothing, NULL);
    return PHX_OK;
}

double phx_cpu_probe_multiply(struct phx_stream *stream)
{
    const struct phx_cpu_device *device = phx_cpu_device(stream);
    double bf16 = device->bf16_products ? phx_peak_bf16(device->pool, device->isa) : 0;
    return bf16 > 0 ? bf16 : phx_peak_f32(device->pool, device->isa);
}
