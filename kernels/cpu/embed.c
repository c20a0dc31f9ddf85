#include <string.h>

#include "kernels/cpu/access.h"
#include "kernels/cpu/cpu.h"

static void embed_rows(void *user, int64_t begin, int64_t end, int thread)
{
    const struct phx_embed *args = user;
    const int64_t cols = args->out.cols, share = args->table->shape.rows;
    (void)thread;
    for (int64_t n = begin; n < end; n++) {
        const int64_t id = phx_token_at(args->ids, args->last_ids, n);
        const int64_t row = id - args->vocab_begin;
        float *out = phx_f32_row(args->out, n);
        if (row < 0 || row >= share) {
            memset(out, 0, sizeof *out * (size_t)cols);
            continue;
        }
        phx_cpu_weight_row(args->table, row, out);
        if (args->scale != 1)
            for (int64_t c = 0; c < cols; c++) out[c] *= args->scale;
    }
}

enum phx_status phx_cpu_embed(struct phx_stream *stream, const struct phx_embed *args)
{
    phx_pool_for(phx_cpu_pool(stream), args->out.rows, 4, embed_rows, (void *)args);
    return PHX_OK;
}
