#include <stdio.h>
#include <string.h>

#include "kernels/base/check.h"
#include "launch/verbs/json_line.h"
#include "launch/verbs/plan_report.h"

static const char *const kind_names[PHX_WEIGHT_KIND_COUNT] = {
    [PHX_WEIGHT_EMBEDDING] = "embedding",
    [PHX_WEIGHT_ATTENTION] = "attention",
    [PHX_WEIGHT_MLP] = "mlp",
    [PHX_WEIGHT_VECTORS] = "vectors",
    [PHX_WEIGHT_LM_HEAD] = "lm_head",
};

static const double gib = 1024.0 * 1024.0 * 1024.0;

static const char *dtype_name(enum phx_dtype dtype)
{
    return dtype == PHX_BF16 ? "bfloat16" : dtype == PHX_F16 ? "float16" : "float32";
}

static size_t total_of(const struct phx_plan_report *r, const struct phx_plan_rank *rank)
{
    return phx_memory_plan_bytes(&rank->memory, r->limits.n_pages);
}

static size_t kv_bytes(const struct phx_plan_report *r, const struct phx_plan_rank *rank)
{
    return (size_t)r->limits.n_pages * rank->memory.kv_page_bytes;
}

static size_t kv_token_bytes(const struct phx_plan_rank *rank)
{
    return rank->memory.kv_page_bytes / PHX_PAGE_TOKENS;
}

static bool is_possible(const struct phx_plan_case *c)
{
    return c->refusal[0] == '\0';
}

static int64_t q_heads(const struct phx_plan_rank *rank)
{
    return phx_interval_length(
        phx_shard_plan_q_heads(rank->plan, phx_shard_plan_rank(rank->plan), 0));
}

static int64_t kv_heads(const struct phx_plan_rank *rank)
{
    return phx_interval_length(
        phx_shard_plan_kv_heads(rank->plan, phx_shard_plan_rank(rank->plan), 0));
}

/* ---- for people ---- */

static double mb(size_t bytes)
{
    return (double)bytes / 1e6;
}

static void print_head(const struct phx_plan_report *r)
{
    const struct phx_config *c = r->config;
    const struct phx_layer_shape *s = &c->layers[0].shape;
    double millions = (double)phx_config_parameters(c) / 1e6;
    bool many = millions >= 1000;
    printf("%s: %.2f %s parameters, %d layers, %d query heads on %d KV heads of %d\n",
           c->model_type, many ? millions / 1000 : millions, many ? "billion" : "million",
           c->n_layers, s->n_heads, s->n_kv_heads, s->head_dim);
    printf("weights as %s; %lld text%s of %lld tokens, steps of %d tokens, KV cache in %s\n",
           r->checkpoint != NULL ? "in the files" : dtype_name(c->dtype), (long long)r->n_texts,
           r->n_texts == 1 ? "" : "s", (long long)r->context, r->limits.max_rows,
           dtype_name(r->kv_dtype));
    if (r->device.kind == PHX_DEVICE_CUDA)
        printf("on %s, %.1f GiB for each rank, filled to %g\n", r->device.name,
               (double)r->device.memory_total_bytes / gib, r->utilization);
    else
        printf("on %s, %.1f GiB free for all ranks\n", r->device.name,
               (double)r->device.memory_free_bytes / gib);
}

static void print_case(const struct phx_plan_report *r, const struct phx_plan_case *c)
{
    const struct phx_plan_rank *first = &c->ranks[0], *last = &c->ranks[c->size - 1];
    char heads[64];
    int n = snprintf(heads, sizeof heads, "%lld/%lld", (long long)q_heads(first),
                     (long long)kv_heads(first));
    if (kv_heads(last) != kv_heads(first))
        snprintf(heads + n, sizeof heads - (size_t)n, " to %lld/%lld", (long long)q_heads(last),
                 (long long)kv_heads(last));
    printf("%3d  %-4s %14s  %9.1f  %9.1f  %9zu  %10.1f  %9lld  %6lld\n", c->size,
           c->fits ? "yes" : "no", heads, mb(total_of(r, &c->ranks[c->fullest])),
           mb(total_of(r, &c->ranks[c->lightest])), kv_token_bytes(first),
           (double)c->sum_bytes / 1e3, (long long)c->longest, (long long)c->most_texts);
}

static void print_fit(const struct phx_plan_report *r)
{
    const char *s = r->n_texts == 1 ? "" : "s";
    printf(
        "\n  T  fits  heads, q/kv    fullest   lightest   KV cache     summed    longest    most\n"
        "                           rank, MB   rank, MB  B a token  KB a token    context   "
        "texts\n");
    for (int i = 0; i < r->n_cases; i++) {
        const struct phx_plan_case *c = &r->cases[i];
        if (is_possible(c))
            print_case(r, c);
        else
            printf("%3d  %s\n", c->size, c->refusal);
    }
    printf("KV cache: of rank 0; summed: over the ranks; longest context: of %lld text%s, at most "
           "%lld;\nmost texts: of %lld tokens each, at most %d are tried\n",
           (long long)r->n_texts, s, (long long)r->config->max_positions, (long long)r->context,
           PHX_MAX_SEQS);
}

/* Ranks side by side with the same memory are one line. */
static bool is_like(const struct phx_plan_rank *a, const struct phx_plan_rank *b)
{
    return memcmp(&a->memory, &b->memory, sizeof a->memory) == 0;
}

static void print_ranks(const struct phx_plan_report *r, const struct phx_plan_case *c)
{
    for (int first = 0, next; first < c->size; first = next) {
        const struct phx_plan_rank *rank = &c->ranks[first];
        const struct phx_memory_plan *m = &rank->memory;
        char ranks[32];
        for (next = first + 1; next < c->size && is_like(rank, &c->ranks[next]);) next++;
        snprintf(ranks, sizeof ranks, next == first + 1 ? "%d" : "%d-%d", first, next - 1);
        const size_t *kinds = m->kind_bytes;
        printf("%3d %6s %8.1f %8.1f %9.1f %7.1f %8.1f %9.1f %7.1f %7.1f %6.1f %9.1f\n", c->size,
               ranks, mb(kinds[PHX_WEIGHT_EMBEDDING]), mb(kinds[PHX_WEIGHT_ATTENTION]),
               mb(kinds[PHX_WEIGHT_MLP]), mb(kinds[PHX_WEIGHT_VECTORS]),
               mb(kinds[PHX_WEIGHT_LM_HEAD]), mb(kv_bytes(r, rank)), mb(m->activation_bytes),
               mb(m->scratch_bytes), mb(m->comm_bytes), mb(total_of(r, rank)));
    }
}

/* NULL: of a GPU that is not known. */
static void print_beside(const struct phx_beside *beside)
{
    if (beside != NULL && beside->source != NULL)
        printf(
            "beside it a rank takes %.1f MB for the driver and CUDA's libraries, and, of several, "
            "%.1f MB\nfor NCCL: %s\n",
            mb(beside->driver_bytes), mb(beside->nccl_bytes), beside->source);
    else
        printf(
            "beside it a rank takes what the driver, CUDA's libraries and NCCL need: not measured "
            "on such a GPU\n");
}

static void print_memory(const struct phx_plan_report *r)
{
    printf(
        "\nmemory of a rank, MB\n"
        "  T  ranks   embed. attention     mlp vectors  lm_head  KV cache  activ. scratch  comm.   "
        "  total\n");
    for (int i = 0; i < r->n_cases; i++)
        if (is_possible(&r->cases[i])) print_ranks(r, &r->cases[i]);
    printf("vectors: norms and biases\n");
    if (r->device.kind == PHX_DEVICE_CUDA) print_beside(r->gpu != NULL ? &r->gpu->beside : NULL);
}

static void print_prediction(const struct phx_plan_report *r)
{
    if (r->no_prediction != NULL) {
        printf("\nno prediction of times: %s\n", r->no_prediction);
        return;
    }
    printf("\npredicted, not measured: the least time that reading, multiplying and sums take\n"
           "  T  decode ms  tok/s    prompt ms  tok/s\n");
    for (int i = 0; i < r->n_cases; i++) {
        const struct phx_plan_case *c = &r->cases[i];
        if (is_possible(c) && !c->predicted)
            printf("%3d  %s\n", c->size,
                   c->fits ? "not known beyond the GPUs of one node" : "does not fit");
        if (c->predicted)
            printf("%3d  %9.2f  %7.1f  %9.2f  %7.0f\n", c->size, 1e3 * c->decode_s,
                   (double)r->n_texts / c->decode_s, 1e3 * c->prompt_s,
                   (double)r->prompt.n_rows / c->prompt_s);
    }
    printf("decode: a token for each text, the last of its %lld; prompt: the first %lld of a "
           "text\nconstants: %s\n",
           (long long)r->context, (long long)r->prompt.n_rows, r->gpu->source);
}

enum phx_status phx_plan_print(const struct phx_plan_report *r)
{
    print_head(r);
    print_fit(r);
    print_memory(r);
    print_prediction(r);
    return fflush(stdout) == 0 ? PHX_OK : phx_fail(PHX_IO, "cannot write the result");
}

/* ---- for scripts ---- */

static json_t *bytes_json(size_t bytes)
{
    return json_integer((json_int_t)bytes);
}

static json_t *beside_json(const struct phx_gpu_kind *gpu)
{
    if (gpu == NULL || gpu->beside.source == NULL) return json_null();
    return json_pack("{s:o, s:o, s:s}", "driver_bytes", bytes_json(gpu->beside.driver_bytes),
                     "nccl_bytes", bytes_json(gpu->beside.nccl_bytes), "source",
                     gpu->beside.source);
}

static json_t *rank_json(const struct phx_plan_report *r, const struct phx_plan_rank *rank)
{
    const struct phx_memory_plan *m = &rank->memory;
    json_t *weights = json_object();
    for (int kind = 0; kind < PHX_WEIGHT_KIND_COUNT; kind++)
        json_object_set_new(weights, kind_names[kind], bytes_json(m->kind_bytes[kind]));
    return json_pack("{s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "q_heads",
                     (json_int_t)q_heads(rank), "kv_heads", (json_int_t)kv_heads(rank),
                     "weights_bytes", weights, "kv_token_bytes", bytes_json(kv_token_bytes(rank)),
                     "kv_bytes", bytes_json(kv_bytes(r, rank)), "activation_bytes",
                     bytes_json(m->activation_bytes), "scratch_bytes", bytes_json(m->scratch_bytes),
                     "comm_bytes", bytes_json(m->comm_bytes), "total_bytes",
                     bytes_json(total_of(r, rank)), "room_bytes", bytes_json(m->room_bytes),
                     "weights_total_bytes", bytes_json(m->weights_bytes));
}

static json_t *case_json(const struct phx_plan_report *r, const struct phx_plan_case *c)
{
    if (!is_possible(c))
        return json_pack("{s:i, s:b, s:s}", "ranks", c->size, "possible", 0, "reason", c->refusal);
    json_t *each = json_array(), *prediction = json_null();
    for (int rank = 0; rank < c->size; rank++)
        json_array_append_new(each, rank_json(r, &c->ranks[rank]));
    if (c->predicted)
        prediction = json_pack("{s:f, s:f}", "decode_s", c->decode_s, "prompt_s", c->prompt_s);
    return json_pack("{s:i, s:b, s:b, s:i, s:I, s:I, s:I, s:o, s:o}", "ranks", c->size, "possible",
                     1, "fits", c->fits, "fullest", c->fullest, "longest_context",
                     (json_int_t)c->longest, "most_texts", (json_int_t)c->most_texts,
                     "sum_bytes_per_token", (json_int_t)c->sum_bytes, "each", each, "prediction",
                     prediction);
}

enum phx_status phx_plan_print_json(const struct phx_plan_report *r)
{
    json_t *cases = json_array();
    for (int i = 0; i < r->n_cases; i++) json_array_append_new(cases, case_json(r, &r->cases[i]));
    return phx_json_line(
        json_pack("{s:s, s:I, s:s, s:o, s:o, s:I, s:I, s:I, s:s, s:o}", "model_type",
                  r->config->model_type, "parameters", (json_int_t)phx_config_parameters(r->config),
                  "device", r->device.name, "memory_bytes",
                  bytes_json(r->device.memory_total_bytes), "beside", beside_json(r->gpu),
                  "context", (json_int_t)r->context, "texts", (json_int_t)r->n_texts,
                  "prompt_tokens", (json_int_t)r->prompt.n_rows, "kv_type", dtype_name(r->kv_dtype),
                  "cases", cases),
        stdout);
}
