/// \file loops.h
/// The inner loops of attention and sampling, one set for each instruction set.
///
/// All arrays are f32 and may lie anywhere, unless said. Sums are taken in an order that depends on
/// the set alone.
#ifndef PHX_KERNELS_CPU_LOOPS_H
#define PHX_KERNELS_CPU_LOOPS_H

#include <stdint.h>

#include "kernels/cpu/cpu.h"

/// What one query has seen so far of its keys.
struct phx_softmax_state {
    float max; ///< largest score, -infinity before the first key
    float sum; ///< of exp(score - max)
};

struct phx_cpu_loops {
    int lanes; ///< values in a vector

    /// to[r][0..padded) = from[r][0..cols), then zeros. padded >= cols. `from`: f32, f16 or bf16,
    /// rows without gaps.
    void (*widen)(enum phx_dtype dtype, const void *from, int64_t rows, int64_t cols, float *to,
                  int64_t padded);

    /// to[c][r] = from[r][c] for 64 rows; cols a multiple of 4; `to` without gaps.
    void (*transpose)(const float *from, int64_t cols, int64_t from_stride, float *to);

    /// c[i][j] += sum_k a[i][k] b[k][j], one addition after the other, so that an element does not
    /// depend on what is computed beside it; n a multiple of the lanes.
    void (*product)(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_stride,
                    const float *b, int64_t b_stride, float *c, int64_t c_stride);

    /// Take the keys [begin, end) of a page's 64 into `state`: scores[j] becomes
    /// exp(soft_cap(scores[j]) - state->max), 0 for the other keys. NaN stays NaN, in the sum too;
    /// the maximum is over the rest. Returns by what everything summed before must be multiplied.
    float (*softmax)(float *scores, int64_t begin, int64_t end, float soft_cap,
                     struct phx_softmax_state *state);

    void (*scale)(float *x, int64_t n, float factor);

    /// The largest of x[0..n); NaNs are passed over; -infinity if there is nothing else.
    float (*max)(const float *x, int64_t n);
    /// sum of exp(x[i] - max), where max >= x[i]; NaN if a difference is one.
    float (*sum_exp)(const float *x, int64_t n, float max);
};

const struct phx_cpu_loops *phx_cpu_loops(enum phx_cpu_isa isa);

#endif
