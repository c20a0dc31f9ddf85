/// \file gpu_probe.h
/// Kernels that do next to nothing: what a GPU reads at best, and what a launch costs.
#ifndef PHX_BENCH_GPU_PROBE_H
#define PHX_BENCH_GPU_PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/// words[i] = phx_mix32(i).
enum phx_status bench_probe_fill(struct phx_stream *stream, struct phx_buffer *words);
/// Read the first `bytes` (a multiple of 16) with 16-byte loads; *result (u32) ^= each word.
enum phx_status bench_probe_read(struct phx_stream *stream, const struct phx_buffer *words,
                                 size_t bytes, struct phx_buffer *result);
/// A kernel of one block per multiprocessor that only waits for its predecessor; `early`: it may
/// start before that has ended, as all kernels of the backend do.
enum phx_status bench_probe_empty(struct phx_stream *stream, int n_blocks, bool early);

#ifdef __cplusplus
}
#endif
#endif
