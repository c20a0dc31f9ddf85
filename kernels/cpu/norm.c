#include <string.h>

#include "kernels/cpu/access.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/rms.h"

static void norm_row(const struct phx_add_norm *args, int64_t row)
{
    const float *x = phx_f32_row(args->x, row), *post = phx_f32_row(args->post, 0);
    const float *weight = phx_f32_row(args->weight, 0);
    float *residual = phx_f32_row(args->residual, row), *out = phx_f32_row(args->out, row);
    const int64_t n = args->out.cols;
    if (args->start && x != NULL) memset(residual, 0, sizeof *residual * (size_t)n);
    if (post != NULL) {
        float scale = phx_rms_scale(x, n, args->epsilon);
        for (int64_t i = 0; i < n; i++) residual[i] += x[i] * scale * post[i];
    } else if (x != NULL) {
        for (int64_t i = 0; i < n; i++) residual[i] += x[i];
    }
    if (weight == NULL) {
        memcpy(out, residual, sizeof *out * (size_t)n);
        return;
    }
    float scale = phx_rms_scale(residual, n, args->epsilon);
    for (int64_t i = 0; i < n; i++) out[i] = residual[i] * scale * weight[i];
}

static void norm_rows(void *user, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    for (int64_t row = begin; row < end; row++) norm_row(user, row);
}

enum phx_status phx_cpu_add_norm(struct phx_stream *stream, const struct phx_add_norm *args)
{
    phx_pool_for(phx_cpu_pool(stream), args->out.rows, 4, norm_rows, (void *)args);
    return PHX_OK;
}
