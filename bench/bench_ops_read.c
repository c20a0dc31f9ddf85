/* What the machine reads at best, and on a GPU what a kernel costs that does nothing. */
#include "bench/bench_ops.h"
#include "kernels/base/check.h"
#include "kernels/cpu/peaks.h"
#include "kernels/probe.h"

enum { CHECKED_BYTES = 64 << 20, EMPTY_CHAIN = 1000 };
#define READ_BYTES ((size_t)8 << 30)

struct reading {
    struct phx_buffer *words, *result;
    size_t bytes;
    bool early; /* of empty kernels */
};

static enum phx_status launch_read(struct bench *b, void *user, int i)
{
    const struct reading *r = user;
    (void)i;
    return phx_probe_read(b->stream, r->words, 0, r->bytes, r->result);
}

static enum phx_status launch_empty(struct bench *b, void *user, int i)
{
    (void)i;
    return phx_probe_empty(b->stream, ((const struct reading *)user)->early);
}

static enum phx_status prepare(struct bench *b, void *user)
{
    return phx_buffer_zero(b->stream, ((const struct reading *)user)->result, 0, 4);
}

static enum phx_status judge_nothing(struct bench *b, void *user, int n)
{
    (void)b;
    (void)user;
    (void)n;
    return PHX_OK;
}

/* The sum of the first words; that of all of them would take the host seconds. */
static enum phx_status judge_read(struct bench *b, void *user, int n)
{
    const struct reading *r = user;
    uint32_t expected = 0, got = 0;
    (void)n;
    for (uint32_t i = 0; i < CHECKED_BYTES / 4; i++) expected ^= phx_mix32(i);
    PHX_TRY(phx_buffer_zero(b->stream, r->result, 0, 4));
    PHX_TRY(phx_probe_read(b->stream, r->words, 0, CHECKED_BYTES, r->result));
    PHX_TRY(phx_buffer_download(b->stream, r->result, 0, 4, &got, 4, 4, 1));
    PHX_TRY(phx_stream_synchronize(b->stream));
    if (got == expected) return PHX_OK;
    return phx_fail(PHX_BAD_DATA, "the words read sum up to %08x instead of %08x", got, expected);
}

static enum phx_status read_gpu(struct bench *b, struct reading *r)
{
    struct bench_row row = {.set = "read", .shape = "memory", .tp = 1, .op = "read"};
    struct bench_case c = {r, launch_read, prepare, judge_read, 1, 1};
    PHX_TRY(phx_probe_fill(b->stream, r->words));
    row.bytes = (double)r->bytes;
    b->read = 1.0; /* until it is known; a chain of one needs no estimate */
    PHX_TRY(bench_measure(b, &c, &row));
    if (row.us <= 0) return phx_fail(PHX_BAD_DATA, "without a read bandwidth nothing is measured");
    b->read = row.bytes / (1e-6 * row.us);
    return PHX_OK;
}

static enum phx_status empty_kernels(struct bench *b, struct reading *r)
{
    for (int early = 0; early < 2; early++) {
        struct bench_row row = {.set = "read", .shape = "memory", .tp = 1};
        struct bench_case c = {r, launch_empty, prepare, judge_nothing, EMPTY_CHAIN, EMPTY_CHAIN};
        row.op = early ? "empty kernel, early start" : "empty kernel";
        r->early = early != 0;
        PHX_TRY(bench_measure(b, &c, &row));
    }
    return PHX_OK;
}

static enum phx_status read_cpu(struct bench *b)
{
    struct bench_row row = {.set = "read", .shape = "memory", .tp = 1, .op = "read"};
    struct phx_pool *pool = NULL;
    PHX_TRY(phx_pool_create(b->n_threads, NULL, false, &pool));
    b->read = phx_peak_read(pool);
    phx_pool_destroy(pool);
    row.bytes = (double)READ_BYTES;
    row.us = 1e6 * row.bytes / b->read;
    bench_print(b, &row);
    return PHX_OK;
}

enum phx_status bench_read(struct bench *b)
{
    struct reading r = {.bytes = READ_BYTES};
    enum phx_status status;
    if (b->info.kind == PHX_DEVICE_CPU) return read_cpu(b);
    PHX_TRY(bench_stream(b, &(struct phx_limits){0}));
    PHX_TRY_GOTO(phx_buffer_create(b->device, r.bytes, &r.words), done);
    PHX_TRY_GOTO(phx_buffer_create(b->device, 4, &r.result), done);
    PHX_TRY_GOTO(read_gpu(b, &r), done);
    PHX_TRY_GOTO(empty_kernels(b, &r), done);
done:
    phx_buffer_destroy(r.words);
    phx_buffer_destroy(r.result);
    return status;
}
