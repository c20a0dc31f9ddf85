#include "kernels/backend.h"
#include "kernels/cuda/sizes.h"

static int count(const char **reason)
{
    *reason = "this build has no CUDA backend";
    return 0;
}

const struct phx_backend *phx_backend_cuda(void)
{
    static const struct phx_backend backend = {.name = "cuda",
                                               .count = count,
                                               .stream_scratch_bytes =
                                                   phx_cuda_stream_scratch_bytes,
                                               .weight_bytes = phx_cuda_weight_bytes};
    return &backend;
}
