#include <string.h>

#include "kernels/base/check.h"
#include "kernels/cpu/access.h"
#include "kernels/cpu/cpu.h"

static void gather_rows(void *user, int64_t begin, int64_t end, int thread)
{
    const struct phx_gather_rows *args = user;
    (void)thread;
    for (int64_t m = begin; m < end; m++) {
        const int64_t row = phx_i32_at(args->rows, m, 0);
        PHX_ASSERT(row >= 0 && row < args->x.rows);
        memcpy(phx_tensor_address(phx_tensor_rows(args->out, m, 1)),
               phx_tensor_address(phx_tensor_rows(args->x, row, 1)),
               phx_dtype_bytes(args->x.dtype, args->x.cols));
    }
}

enum phx_status phx_cpu_gather_rows(struct phx_stream *stream, const struct phx_gather_rows *args)
{
    phx_pool_for(phx_cpu_pool(stream), args->out.rows, 4, gather_rows, (void *)args);
    return PHX_OK;
}
