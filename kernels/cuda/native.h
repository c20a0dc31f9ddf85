/// \file native.h
/// What CUDA calls a stream and where a tensor lies. Only kernels/cuda and parallel/comm_nccl*
/// include this.
#ifndef PHX_KERNELS_CUDA_NATIVE_H
#define PHX_KERNELS_CUDA_NATIVE_H

#include <cuda_runtime_api.h>

#include "kernels/device.h"
#include "kernels/tensor.h"

/// Code of kernels for this architecture (9.0) and later ones waits for its predecessor in the
/// stream, and so may start before that has ended (launch.cuh).
#define PHX_CUDA_EARLY_START 90

#ifdef __cplusplus
extern "C" {
#endif

/// Make the device the calling thread's current one. PHX_DEVICE if CUDA refuses.
enum phx_status phx_cuda_use(const struct phx_device *device);

/// The stream behind a stream of a CUDA device.
cudaStream_t phx_cuda_stream_native(const struct phx_stream *stream);

/// PHX_OK, or the failure of `call` ("cudaMalloc") in CUDA's words.
enum phx_status phx_cuda_status(cudaError_t error, const char *call);

#ifdef __cplusplus
}
#endif

/// Return the status of a CUDA runtime call unless it succeeded.
#define PHX_CUDA_TRY(name, args) PHX_TRY(phx_cuda_status(name args, #name))

#endif
