/// \file peaks.h
/// What this machine can do at best, measured: the yardsticks of the benchmarks.
#ifndef PHX_BENCH_PEAKS_H
#define PHX_BENCH_PEAKS_H

#include "kernels/cpu/isa.h"
#include "kernels/cpu/pool.h"

/// Seconds on a clock that only moves forward.
double phx_bench_seconds(void);

/// Bytes per second that all threads together read from a buffer far larger than the caches, each
/// its own part of it, from front to back. The best of several passes; 0 if there is no memory.
double phx_peak_read(struct phx_pool *pool);

/// f32 operations (a multiply and an add count as two) per second of all threads together, with
/// all operands in registers. The best of several runs.
double phx_peak_f32(struct phx_pool *pool, enum phx_cpu_isa isa);

/// The same for bf16 dot products; 0 where `isa` has none.
double phx_peak_bf16(struct phx_pool *pool, enum phx_cpu_isa isa);

#endif
