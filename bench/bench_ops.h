/// \file bench_ops.h
/// What the sets of bench_ops share: a device, numbers to compute with, chains of launches that are
/// judged and then timed, and the rows of the result.
#ifndef PHX_BENCH_BENCH_OPS_H
#define PHX_BENCH_BENCH_OPS_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/ops.h"

/// A model's dimensions, of all ranks together.
struct bench_shape {
    const char *name;
    int64_t hidden, ffn, vocab;
    int32_t n_heads, n_kv_heads, head_dim, n_layers;
};

enum { BENCH_SHAPES = 3 };
extern const struct bench_shape bench_shapes[BENCH_SHAPES]; ///< 8B, 70B, 0.5B

struct bench {
    struct phx_device *device;
    struct phx_device_info info;
    struct phx_stream *stream; ///< of the set under way
    struct phx_event *begin, *end;
    double read;       ///< bytes a second, measured first
    const char *match; ///< only rows whose name contains it are measured; NULL: all
    bool json;
    int n_threads; ///< of a CPU
    int n_wrong;
    float *random;         ///< BENCH_RANDOM values in [-1, 1), rounded to the activations' type
    uint16_t *random_bf16; ///< the same
};

/// Not a multiple of a page's size: where values repeat, they do so at other places of a page.
enum { BENCH_RANDOM = (4 << 20) + 4168 };

/// Bytes of operands in turn that no cache holds.
#define BENCH_ROTATED_BYTES ((size_t)192 << 20)

/// Of one row of the result; what is 0 or NULL is not printed.
struct bench_row {
    const char *set, *shape, *op;
    int tp;
    int64_t rows;           ///< of activations
    int64_t batch, context; ///< sequences, and keys of each
    int64_t in, out;        ///< of a product
    double bytes;           ///< that must be read at least
    double flops;
    double us;
};

/// Launches that follow each other, i = 0, 1, ...: each on the operands whose turn it is.
struct bench_case {
    void *user;
    enum phx_status (*launch)(struct bench *b, void *user, int i);
    /// Bring everything that launches change into the state that judge() expects before the first.
    enum phx_status (*prepare)(struct bench *b, void *user);
    /// After n launches from the prepared state: PHX_BAD_DATA with a sentence if the last one's
    /// result is wrong.
    enum phx_status (*judge)(struct bench *b, void *user, int n);
    int at_least; ///< launches of a chain: as many as there are operands in turn
    int at_most;  ///< 0: any number
};

/// True if the row is among those wanted.
bool bench_wants(const struct bench *b, const struct bench_row *row);
/// Judge a chain, time it and print the row; a wrong result is reported, counted and not timed,
/// and row->us stays 0.
enum phx_status bench_measure(struct bench *b, const struct bench_case *c, struct bench_row *row);
void bench_print(const struct bench *b, const struct bench_row *row);

/// A stream for a set, in place of the one before.
enum phx_status bench_stream(struct bench *b, const struct phx_limits *limits);
/// A buffer of n values of the activations' type, value i being bench_random(b, shift + i).
enum phx_status bench_buffer(struct bench *b, int64_t n, int64_t shift, struct phx_buffer **out);
/// The same again.
enum phx_status bench_refill(struct bench *b, struct phx_buffer *buffer, int64_t n, int64_t shift);
static inline double bench_random(const struct bench *b, int64_t i)
{
    return (double)b->random[i % BENCH_RANDOM];
}
/// Of one value, a rounding to the activations' type.
static inline double bench_rounding(const struct bench *b)
{
    return b->info.activation == PHX_BF16 ? 1.0 / 256 : 1e-6;
}
/// What operands of `bytes` each can be had in turn: so many that no cache holds them all.
int bench_copies(const struct bench *b, size_t bytes);
/// One value of a tensor of floats, once the stream is synchronised.
enum phx_status bench_value(struct bench *b, struct phx_tensor tensor, int64_t row, int64_t col,
                            double *out);

/// The sets.
enum phx_status bench_read(struct bench *b);
enum phx_status bench_gemv(struct bench *b);
enum phx_status bench_gemm(struct bench *b);
enum phx_status bench_decode(struct bench *b);
enum phx_status bench_prefill(struct bench *b);
enum phx_status bench_small(struct bench *b);

#endif
