#include "runtime/memory_plan.h"

#include <stdio.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "runtime/batch.h"
#include "runtime/forward.h"
#include "runtime/loader.h"
#include "runtime/weight_walk.h"

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t local(const struct phx_shard_plan *plan, int32_t layer, enum phx_dim dim)
{
    return phx_interval_length(
        phx_shard_plan_interval(plan, phx_shard_plan_rank(plan), layer, dim));
}

static bool has_quantised(const struct phx_checkpoint *checkpoint)
{
    for (size_t i = 0; checkpoint && i < phx_checkpoint_count(checkpoint); i++) {
        const struct phx_file_tensor *tensor = phx_checkpoint_at(checkpoint, i);
        if (phx_file_tensor_is_weight(tensor) &&
            !phx_dtype_traits((enum phx_dtype)tensor->dtype)->is_float)
            return true;
    }
    return false;
}

static struct phx_limits stream_limits(const struct phx_config *config,
                                       const struct phx_shard_plan *plan,
                                       const struct phx_checkpoint *checkpoint,
                                       const struct phx_scheduler_limits *limits)
{
    struct phx_limits l = {.max_rows = limits->max_rows,
                           .max_seqs = limits->max_seqs,
                           .max_length = limits->max_length,
                           .max_in = config->hidden,
                           .max_out = config->hidden,
                           .max_vocab = config->vocab,
                           .quantised = has_quantised(checkpoint)};
    for (int32_t i = 0; i < config->n_layers; i++) {
        const struct phx_layer_shape *shape = &config->layers[i].shape;
        int64_t q = local(plan, i, PHX_DIM_Q), kv = local(plan, i, PHX_DIM_KV);
        int64_t shared = local(plan, i, PHX_DIM_SHARED_FFN);
        int64_t ffn = max64(local(plan, i, PHX_DIM_FFN), shared);
        int64_t moe_ffn = local(plan, i, PHX_DIM_MOE_FFN);
        l.max_in = max64(l.max_in, max64(q, max64(ffn, moe_ffn)));
        l.max_out = max64(l.max_out, max64(q + 2 * kv, 2 * ffn));
        l.max_heads = (int32_t)max64(l.max_heads, q / shape->head_dim);
        l.max_kv_heads = (int32_t)max64(l.max_kv_heads, kv / shape->head_dim);
        l.max_head_dim = (int32_t)max64(l.max_head_dim, shape->head_dim);
    }
    return l;
}

/* What is free. On the CPU less rank 0's logits, on other machines too, which could have that much
 * more: who shares rank 0's machine is not known here. */
static void find_room(const struct phx_memory_share *share, struct phx_memory_plan *out)
{
    struct phx_device_info info;
    phx_device_info(share->device, &info);
    size_t room = info.memory_free_bytes, reserved = out->host_bytes;
    if (info.kind == PHX_DEVICE_CUDA)
        reserved = (size_t)((1 - share->utilization) * (double)info.memory_total_bytes);
    room = room > reserved ? room - reserved : 0;
    out->room_bytes = room / (size_t)share->n_sharers;
    out->fill_bytes = info.kind == PHX_DEVICE_CUDA ? out->room_bytes : out->room_bytes / 2;
}

/* Of any rank: the communicator makes room for the largest part of a gather. */
static int64_t most_vocab(const struct phx_shard_plan *plan)
{
    int64_t most = 0;
    for (int r = 0; r < phx_shard_plan_size(plan); r++)
        most = max64(most, phx_interval_length(phx_shard_plan_interval(plan, r, 0, PHX_DIM_VOCAB)));
    return most;
}

void phx_memory_plan_make(const struct phx_config *config, const struct phx_shard_plan *plan,
                          const struct phx_checkpoint *checkpoint,
                          const struct phx_memory_share *share, const struct phx_comm_options *comm,
                          const struct phx_scheduler_limits *limits, enum phx_dtype kv_dtype,
                          int64_t host_rows, struct phx_memory_plan *out)
{
    const struct phx_device *device = share->device;
    memset(out, 0, sizeof *out);
    int64_t vocab = local(plan, 0, PHX_DIM_VOCAB);
    out->stream_limits = stream_limits(config, plan, checkpoint, limits);
    out->weights_bytes =
        phx_weights_device_bytes(config, plan, checkpoint, device, out->kind_bytes);
    for (int32_t l = 0; l < config->n_layers; l++)
        out->kv_page_bytes +=
            2 * phx_dtype_bytes(kv_dtype, PHX_PAGE_TOKENS * local(plan, l, PHX_DIM_KV));
    out->activation_bytes =
        phx_forward_bytes(config, plan, device, limits->max_rows, limits->max_outputs) +
        phx_batch_bytes(limits, vocab);
    out->scratch_bytes = phx_stream_scratch_bytes(device, &out->stream_limits);
    out->comm = *comm;
    out->comm.max_reduce_bytes = phx_forward_reduce_bytes(config, device, limits->max_rows);
    out->comm.max_gather_bytes =
        (size_t)limits->max_outputs *
        (size_t)max64(most_vocab(plan) * (int64_t)sizeof(float),
                      (PHX_MAX_CANDIDATES + 1) * (int64_t)sizeof(struct phx_candidate));
    out->partials_bytes = 2 * out->comm.max_reduce_bytes;
    out->comm_bytes = out->partials_bytes + phx_comm_bytes(&out->comm, phx_shard_plan_size(plan));
    out->host_rows = host_rows;
    out->host_bytes = (size_t)host_rows * (size_t)config->vocab * sizeof(float);
    find_room(share, out);
}

/* ---- what fits ---- */

size_t phx_memory_plan_bytes(const struct phx_memory_plan *plan, int64_t n_pages)
{
    return plan->weights_bytes + (size_t)n_pages * plan->kv_page_bytes + plan->activation_bytes +
           plan->scratch_bytes + plan->comm_bytes;
}

/* Pages that fit into `bytes` beside all else; negative: so many bytes are missing for that. */
static int64_t pages_in(const struct phx_memory_plan *plan, size_t bytes)
{
    int64_t left = (int64_t)bytes - (int64_t)phx_memory_plan_bytes(plan, 0);
    return left < 0 ? left : left / (int64_t)plan->kv_page_bytes;
}

static int32_t choose_pages(const struct phx_memory_plan *plans, int n_ranks,
                            const struct phx_scheduler_limits *limits)
{
    int64_t pages = limits->n_pages;
    int64_t one_text = min64(pages, phx_kv_blocks_for(limits->max_length));
    for (int r = 0; r < n_ranks; r++)
        pages = min64(pages, pages_in(&plans[r], plans[r].fill_bytes));
    return (int32_t)max64(pages, one_text);
}

/* The rank that has the least room, if it is too little for n_pages; otherwise -1. */
static int find_lacking(const struct phx_memory_plan *plans, int n_ranks, int64_t n_pages)
{
    int lacking = -1;
    for (int r = 0; r < n_ranks; r++) {
        int64_t fit = pages_in(&plans[r], plans[r].room_bytes);
        if (fit >= n_pages) continue;
        n_pages = fit;
        lacking = r;
    }
    return lacking;
}

/* ---- what is told ---- */

static double mb(size_t bytes)
{
    return (double)bytes / 1e6;
}

static double gb(size_t bytes)
{
    return (double)bytes / 1e9;
}

static void log_table(const struct phx_memory_plan *plans, int n_ranks, int64_t n_pages,
                      enum phx_log_level level)
{
    phx_log(level, "memory, MB    weights        KV cache (tokens)  activations    scratch  "
                   "communicator      total       room");
    for (int r = 0; r < n_ranks; r++) {
        const struct phx_memory_plan *p = &plans[r];
        phx_log(level, "  rank %-3d %10.1f %12.1f (%9lld) %12.1f %10.1f %13.1f %10.1f %10.1f", r,
                mb(p->weights_bytes), mb((size_t)n_pages * p->kv_page_bytes),
                (long long)n_pages * PHX_PAGE_TOKENS, mb(p->activation_bytes), mb(p->scratch_bytes),
                mb(p->comm_bytes), mb(phx_memory_plan_bytes(p, n_pages)), mb(p->room_bytes));
    }
    if (plans[0].host_bytes > 0)
        phx_log(level, "  rank 0 keeps logits on its host: %.1f", mb(plans[0].host_bytes));
}

static enum phx_status check_host(const struct phx_memory_plan *plan)
{
    size_t free_bytes = phx_host_free_bytes();
    if (plan->host_bytes <= free_bytes) return PHX_OK;
    int64_t fit = (int64_t)(free_bytes / (plan->host_bytes / (size_t)plan->host_rows));
    return phx_fail(
        PHX_OUT_OF_MEMORY,
        "the logits of %lld positions, which rank 0 keeps, need %.2f GB and %.2f GB are "
        "free: at most those of %lld would fit (a shorter prompt, a smaller -n)",
        (long long)plan->host_rows, gb(plan->host_bytes), gb(free_bytes), (long long)fit);
}

static enum phx_status refuse(const struct phx_memory_plan *plan, int rank,
                              const struct phx_memory_share *share, int64_t n_pages)
{
    struct phx_device_info info;
    phx_device_info(share->device, &info);
    bool on_gpu = info.kind == PHX_DEVICE_CUDA;
    char room[128], each[40] = "", advice[128];
    if (share->n_sharers > 1)
        snprintf(each, sizeof each, " for each of %d ranks", share->n_sharers);
    snprintf(room, sizeof room, "%.2f GB are free", gb(plan->room_bytes));
    if (on_gpu)
        snprintf(room, sizeof room, "%.2f GB are left of %g of its %.2f GB", gb(plan->room_bytes),
                 share->utilization, gb(info.memory_total_bytes));
    long long tokens = (long long)pages_in(plan, plan->room_bytes) * PHX_PAGE_TOKENS;
    if (tokens > 0)
        snprintf(advice, sizeof advice, "a context of %lld tokens would fit (-c %lld)", tokens,
                 tokens);
    else
        snprintf(advice, sizeof advice, "use %s or a smaller model",
                 on_gpu ? "more ranks, a higher --gpu-memory-utilization" : "more machines");
    return phx_fail(PHX_OUT_OF_MEMORY,
                    "rank %d needs %.2f GB on %s and %s%s: weights %.2f, KV cache for one text of "
                    "%lld tokens %.2f, activations %.2f, scratch %.2f, communicator %.2f; %s",
                    rank, gb(phx_memory_plan_bytes(plan, n_pages)), info.name, room, each,
                    gb(plan->weights_bytes), (long long)n_pages * PHX_PAGE_TOKENS,
                    gb((size_t)n_pages * plan->kv_page_bytes), gb(plan->activation_bytes),
                    gb(plan->scratch_bytes), gb(plan->comm_bytes), advice);
}

enum phx_status phx_memory_plans_settle(const struct phx_memory_plan *plans, int n_ranks, int rank,
                                        const struct phx_memory_share *share,
                                        struct phx_scheduler_limits *limits)
{
    limits->n_pages = choose_pages(plans, n_ranks, limits);
    int lacking = find_lacking(plans, n_ranks, limits->n_pages);
    if (rank == 0)
        log_table(plans, n_ranks, limits->n_pages, lacking >= 0 ? PHX_LOG_WARN : PHX_LOG_INFO);
    if (rank == 0) PHX_TRY(check_host(&plans[0]));
    return rank == lacking ? refuse(&plans[rank], rank, share, limits->n_pages) : PHX_OK;
}
