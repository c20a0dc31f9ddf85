/* What the driver tells of GPUs that nobody has opened: none of these calls makes a context. */
#include "kernels/cuda/discover.h"

#include <stdio.h>

#include "kernels/base/check.h"
#include "kernels/cuda/native.h"

int phx_cuda_count(const char **reason)
{
    int n_devices = 0, driver = 0;
    cudaError_t error = cudaGetDeviceCount(&n_devices);
    if (error == cudaSuccess && n_devices > 0) return n_devices;
    cudaGetLastError();
    if (error == cudaErrorInsufficientDriver)
        *reason = cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0
                      ? "there is no NVIDIA driver"
                      : "the NVIDIA driver is too old for the CUDA of this build";
    else if (error == cudaSuccess || error == cudaErrorNoDevice)
        *reason = "no NVIDIA GPU is visible to this process";
    else
        *reason = cudaGetErrorString(error);
    return 0;
}

/* As nvidia-smi writes it. */
static void write_uuid(const cudaUUID_t *uuid, char *out)
{
    out += sprintf(out, "GPU");
    for (int i = 0; i < 16; i++) {
        bool begins_group = i == 0 || i == 4 || i == 6 || i == 8 || i == 10;
        out += sprintf(out, "%s%02x", begins_group ? "-" : "", (unsigned char)uuid->bytes[i]);
    }
}

enum phx_status phx_cuda_describe(int ordinal, struct phx_device_info *out)
{
    struct cudaDeviceProp properties;
    PHX_CUDA_TRY(cudaGetDeviceProperties, (&properties, ordinal));
    *out = (struct phx_device_info){.kind = PHX_DEVICE_CUDA,
                                    .memory_total_bytes = properties.totalGlobalMem};
    snprintf(out->name, sizeof out->name, "%.100s", properties.name);
    write_uuid(&properties.uuid, out->uuid);
    PHX_CUDA_TRY(cudaDeviceGetPCIBusId, (out->pci_id, (int)sizeof out->pci_id, ordinal));
    return PHX_OK;
}

enum phx_status phx_cuda_link(int from, int to, struct phx_device_link *out)
{
    int direct = 0, atomics = 0;
    PHX_CUDA_TRY(cudaDeviceCanAccessPeer, (&direct, from, to));
    PHX_CUDA_TRY(cudaDeviceGetP2PAttribute,
                 (&atomics, cudaDevP2PAttrNativeAtomicSupported, from, to));
    PHX_CUDA_TRY(cudaDeviceGetP2PAttribute,
                 (&out->performance, cudaDevP2PAttrPerformanceRank, from, to));
    out->direct = direct != 0;
    out->atomics = atomics != 0;
    return PHX_OK;
}
