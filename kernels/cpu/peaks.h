/// \file peaks.h
/// What this machine can do at best, measured.
#ifndef PHX_KERNELS_CPU_PEAKS_H
#define PHX_KERNELS_CPU_PEAKS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/pool.h"

/// Seconds on a clock that only moves forward.
double phx_peak_seconds(void);

/// Bytes per second that all threads together read from a buffer far larger than the caches, each
/// its own part of it, from front to back. The best of several passes; 0 if there is no memory.
double phx_peak_read(struct phx_pool *pool);

/// All threads together read `bytes`, a multiple of 256, from a 64-byte boundary on, each its own
/// part of them; what all words come to under exclusive or.
uint32_t phx_peak_read_once(struct phx_pool *pool, const char *from, size_t bytes);

/// f32 operations (a multiply and an add count as two) per second of all threads together, with
/// all operands in registers. The best of several runs.
double phx_peak_f32(struct phx_pool *pool, enum phx_cpu_isa isa);

/// The same for bf16 dot products; 0 where `isa` has none.
double phx_peak_bf16(struct phx_pool *pool, enum phx_cpu_isa isa);

#endif
