#include "runtime/memory_plan.h"

#include <stdio.h>
#include <string.h>

#include "runtime/batch.h"
#include "runtime/forward.h"
#include "runtime/loader.h"

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t local(const struct phx_shard_plan *plan, int32_t layer, enum phx_dim dim)
{
    return phx_interval_length(
        phx_shard_plan_interval(plan, phx_shard_plan_rank(plan), layer, dim));
}

static struct phx_limits stream_limits(const struct phx_config *config,
                                       const struct phx_shard_plan *plan,
                                       const struct phx_scheduler_limits *limits)
{
    struct phx_limits l = {.max_rows = limits->max_rows,
                           .max_seqs = limits->max_seqs,
                           .max_length = limits->max_length,
                           .max_in = config->hidden,
                           .max_out = config->hidden,
                           .max_vocab = config->vocab};
    for (int32_t i = 0; i < config->n_layers; i++) {
        const struct phx_layer_shape *shape = &config->layers[i].shape;
        int64_t q = local(plan, i, PHX_DIM_Q), kv = local(plan, i, PHX_DIM_KV);
        int64_t ffn = local(plan, i, PHX_DIM_FFN);
        l.max_in = max64(l.max_in, max64(q, ffn));
        l.max_out = max64(l.max_out, max64(q + 2 * kv, 2 * ffn));
        l.max_heads = (int32_t)max64(l.max_heads, q / shape->head_dim);
        l.max_kv_heads = (int32_t)max64(l.max_kv_heads, kv / shape->head_dim);
        l.max_head_dim = (int32_t)max64(l.max_head_dim, shape->head_dim);
    }
    return l;
}

void phx_memory_plan_make(const struct phx_config *config, const struct phx_shard_plan *plan,
                          const struct phx_checkpoint *checkpoint, const struct phx_device *device,
                          const struct phx_scheduler_limits *limits, enum phx_dtype kv_dtype,
                          struct phx_memory_plan *out)
{
    memset(out, 0, sizeof *out);
    int64_t vocab = local(plan, 0, PHX_DIM_VOCAB);
    out->stream_limits = stream_limits(config, plan, limits);
    out->weights_bytes = phx_weights_device_bytes(config, plan, checkpoint, device);
    for (int32_t l = 0; l < config->n_layers; l++)
        out->kv_page_bytes +=
            2 * phx_dtype_bytes(kv_dtype, PHX_PAGE_TOKENS * local(plan, l, PHX_DIM_KV));
    out->kv_bytes = (size_t)limits->n_pages * out->kv_page_bytes;
    out->activation_bytes =
        phx_forward_bytes(config, plan, device, limits->max_rows, limits->max_outputs);
    out->batch_bytes = phx_batch_bytes(limits, vocab);
    out->scratch_bytes = phx_stream_scratch_bytes(device, &out->stream_limits);
    out->comm.max_reduce_bytes = phx_forward_reduce_bytes(config, device, limits->max_rows);
    out->comm.max_gather_bytes =
        (size_t)limits->max_outputs *
        (size_t)max64(vocab * (int64_t)sizeof(float),
                      (PHX_MAX_CANDIDATES + 1) * (int64_t)sizeof(struct phx_candidate));
    out->comm_bytes = 2 * out->comm.max_reduce_bytes;
    out->total_bytes = out->weights_bytes + out->kv_bytes + out->activation_bytes +
                       out->batch_bytes + out->scratch_bytes + out->comm_bytes;
}

enum phx_status phx_memory_plan_check(const struct phx_memory_plan *plan,
                                      const struct phx_scheduler_limits *limits,
                                      const struct phx_device *device, int n_sharers)
{
    struct phx_device_info info;
    phx_device_info(device, &info);
    size_t available = info.memory_free_bytes / (size_t)n_sharers;
    if (plan->total_bytes <= available) return PHX_OK;
    const double gb = 1e9;
    size_t fixed = plan->total_bytes - plan->kv_bytes;
    char advice[160] = "use more ranks";
    if (fixed < available && plan->kv_page_bytes > 0) {
        size_t tokens = (available - fixed) / plan->kv_page_bytes * PHX_PAGE_TOKENS;
        if (tokens > 0)
            snprintf(advice, sizeof advice, "a cache of %zu tokens would fit (-c, fewer sequences)",
                     tokens);
    }
    return phx_fail(PHX_OUT_OF_MEMORY,
                    "this rank needs %.2f GB on %s and %.2f GB are free: weights %.2f, KV cache of "
                    "%lld tokens %.2f, activations and scratch %.2f; %s",
                    (double)plan->total_bytes / gb, info.name, (double)available / gb,
                    (double)plan->weights_bytes / gb, (long long)limits->n_pages * PHX_PAGE_TOKENS,
                    (double)plan->kv_bytes / gb, (double)(fixed - plan->weights_bytes) / gb,
                    advice);
}
