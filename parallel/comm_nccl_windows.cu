/* Where the ranks' memory lies, which only NCCL's device code knows. Alone in a file: that code is
 * compiled without its warnings. */
#include <nccl_device.h>

#include "kernels/base/check.h"
#include "parallel/comm_nccl_fused.h"

__global__ void find_windows(ncclWindow_t window, int n_ranks, struct phx_fused_host *host)
{
    if ((int)threadIdx.x < n_ranks)
        host->windows[threadIdx.x] = ncclGetLsaPointer(window, 0, (int)threadIdx.x);
}

extern "C" enum phx_status phx_fused_find_windows(const struct phx_fused *fused,
                                                  cudaStream_t stream, ncclComm_t comm,
                                                  ncclWindow_t window)
{
    const int n_near = ncclTeamLsa(comm).nRanks;
    if (n_near != fused->n_ranks)
        return phx_fail(PHX_UNSUPPORTED, "only %d of %d ranks can write each other's memory",
                        n_near, fused->n_ranks);
    find_windows<<<1, PHX_LINES_MAX_RANKS, 0, stream>>>(window, fused->n_ranks, fused->host);
    return phx_cuda_status(cudaGetLastError(), "find_windows");
}
