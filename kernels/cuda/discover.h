/// \file discover.h
/// The GPUs that this process sees, by ordinal. Nothing is taken from them: for the backend's
/// table.
#ifndef PHX_KERNELS_CUDA_DISCOVER_H
#define PHX_KERNELS_CUDA_DISCOVER_H

#include "kernels/device.h"

/// 0 with a reason, a static sentence.
int phx_cuda_count(const char **reason);
enum phx_status phx_cuda_describe(int ordinal, struct phx_device_info *out);
enum phx_status phx_cuda_link(int from, int to, struct phx_device_link *out);

#endif
