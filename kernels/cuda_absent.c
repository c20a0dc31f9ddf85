#include "kernels/backend.h"

static int count(const char **reason)
{
    *reason = "this build has no CUDA backend";
    return 0;
}

const struct phx_backend *phx_backend_cuda(void)
{
    static const struct phx_backend backend = {.name = "cuda", .count = count};
    return &backend;
}
