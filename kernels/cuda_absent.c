#include "kernels/backend.h"

static bool available(const char **reason)
{
    *reason = "this build has no CUDA backend: use the CPU";
    return false;
}

const struct phx_backend *phx_backend_cuda(void)
{
    static const struct phx_backend backend = {.name = "cuda", .available = available};
    return &backend;
}
