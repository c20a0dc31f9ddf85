#include <string.h>

#include "kernels/cpu/access.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/rms.h"

static void norm_row(float *residual, const float *x, bool start, const float *weight,
                     float epsilon, float *out, int64_t n)
{
    if (start) {
        memcpy(residual, x, sizeof *x * (size_t)n);
    } else if (x != NULL) {
        for (int64_t i = 0; i < n; i++) residual[i] += x[i];
    }
    float scale = phx_rms_scale(residual, n, epsilon);
    for (int64_t i = 0; i < n; i++) out[i] = residual[i] * scale * weight[i];
}

static void norm_rows(void *user, int64_t begin, int64_t end, int thread)
{
    const struct phx_add_norm *args = user;
    (void)thread;
    for (int64_t n = begin; n < end; n++)
        norm_row(phx_f32_row(args->residual, n), phx_f32_row(args->x, n), args->start,
                 phx_f32_row(args->weight, 0), args->epsilon, phx_f32_row(args->out, n),
                 args->out.cols);
}

enum phx_status phx_cpu_add_norm(struct phx_stream *stream, const struct phx_add_norm *args)
{
    phx_pool_for(phx_cpu_pool(stream), args->out.rows, 4, norm_rows, (void *)args);
    return PHX_OK;
}
