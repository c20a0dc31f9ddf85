/// \file probe.h
/// The probes of kernels/probe.h on CUDA. Only kernels/cuda includes this.
#ifndef PHX_KERNELS_CUDA_PROBE_H
#define PHX_KERNELS_CUDA_PROBE_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

enum phx_status phx_cuda_probe_fill(struct phx_stream *, struct phx_buffer *);
enum phx_status phx_cuda_probe_read(struct phx_stream *, const struct phx_buffer *, size_t, size_t,
                                    struct phx_buffer *);
enum phx_status phx_cuda_probe_empty(struct phx_stream *, bool);
double phx_cuda_probe_multiply(struct phx_stream *);

#ifdef __cplusplus
}
#endif
#endif
