#include "runtime/step_model.h"

#include <math.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/weight_walk.h"

/* ---- constants ----
 *
 * Measured on H200s (one or two, NVLink, CUDA 13.0, NCCL 2.28.3): a plain kernel reads 4.50 TB/s,
 * 0.94 of the data sheet's 4.8; cuBLAS multiplies 8192^3 bf16 matrices of random values at 790
 * TFLOP/s, 0.80 of 989; in a graph, ncclAllReduce over two takes 5.9 us for 2 KB and 76 us for
 * 16 MB, an exchange as that of comm_nccl_fused.cu 2.3 us for 8 KB and 5.3 us for 512 KB.
 *
 * The H100 (SXM) has the same chip and links; its memory reads 3.35 TB/s by the data sheet, taken
 * times 0.94. The A100 (SXM, 80 GB): 2.04 TB/s and 312 TFLOP/s by the data sheet, taken times 0.94
 * and 0.80, and NVLink of two thirds of the bandwidth, with the same latencies. */

#define GIB(x) ((size_t)((x) * (double)((size_t)1 << 30)))

static const struct phx_gpu_kind kinds[] = {
    {.name = "h200",
     .full_name = "H200 (SXM)",
     .memory_bytes = GIB(139),
     .n_sms = 132,
     .read_bytes_s = 4.50e12,
     .operations_s = 790e12,
     .ring = {5.9e-6, 240e9},
     .direct = {2.2e-6, 172e9},
     .source = "measured on two H200"},
    {.name = "h100",
     .full_name = "H100 (SXM, 80 GB)",
     .memory_bytes = GIB(79.1),
     .n_sms = 132,
     .read_bytes_s = 3.15e12,
     .operations_s = 790e12,
     .ring = {5.9e-6, 240e9},
     .direct = {2.2e-6, 172e9},
     .source = "measured on two H200, memory as of the data sheet times 0.94 as there"},
    {.name = "a100",
     .full_name = "A100 (SXM, 80 GB)",
     .memory_bytes = GIB(79.2),
     .n_sms = 108,
     .read_bytes_s = 1.92e12,
     .operations_s = 250e12,
     .ring = {5.9e-6, 160e9},
     .direct = {2.2e-6, 115e9},
     .source = "data sheet times 0.94 (memory), 0.80 (products) and latencies as measured on H200"},
};

const struct phx_gpu_kind *phx_gpu_kind_find(const char *name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].name, name) == 0) return &kinds[i];
    return NULL;
}

/* ---- work ---- */

/* Keys that the rows at positions [begin, end) see, all together. */
static double keys_seen(int64_t begin, int64_t end, int32_t window)
{
    double keys = 0;
    if (window > 0 && end > window) {
        int64_t from = begin > window ? begin : window;
        keys = (double)(end - from) * window;
        end = from;
    }
    double first = (double)begin, last = (double)end;
    return last > first ? keys + (last * (last + 1) - first * (first + 1)) / 2 : keys;
}

static void add_attention(const struct phx_config *config, const struct phx_shard_plan *plan,
                          int32_t layer, enum phx_dtype kv_dtype,
                          const struct phx_step_shape *shape, struct phx_step_work *out)
{
    int rank = phx_shard_plan_rank(plan);
    int32_t window = config->layers[layer].window;
    int64_t q = phx_interval_length(phx_shard_plan_interval(plan, rank, layer, PHX_DIM_Q));
    int64_t kv = phx_interval_length(phx_shard_plan_interval(plan, rank, layer, PHX_DIM_KV));
    int64_t keys = shape->length; /* that any row sees */
    if (window > 0 && window + shape->n_rows - 1 < keys) keys = window + shape->n_rows - 1;
    out->cache_bytes +=
        2.0 * (double)(shape->n_seqs * keys) * (double)phx_dtype_bytes(kv_dtype, kv);
    out->n_attentions++;
    out->attention_operations += 4.0 * (double)(shape->n_seqs * q) *
                                 keys_seen(shape->length - shape->n_rows, shape->length, window);
}

/* What part of a weight `rows` rows read, and how many of its products they make: of experts, the
 * expected part of those chosen, as if all were as likely. */
static void add_weight(const struct phx_config *config, const struct phx_weight_place *place,
                       double bytes, double rows, struct phx_step_work *out)
{
    double touched = 1, used = 1;
    if (place->slot == PHX_SLOT_EXPERTS_GATE_UP || place->slot == PHX_SLOT_EXPERTS_DOWN) {
        used = (double)config->n_chosen / config->layers[place->layer].shape.n_experts;
        touched = 1 - pow(1 - used, rows);
    }
    out->weight_bytes += touched * bytes;
    out->n_products++;
    out->product_operations += 2.0 * used * rows * (double)(place->shape.rows * place->shape.cols);
}

void phx_step_work_of(const struct phx_config *config, const struct phx_shard_plan *plan,
                      const struct phx_checkpoint *checkpoint, const struct phx_device *device,
                      enum phx_dtype kv_dtype, const struct phx_step_shape *shape,
                      struct phx_step_work *out)
{
    struct phx_weight_walk walk = phx_weight_walk_start(config, plan, checkpoint);
    struct phx_weight_place place;
    struct phx_device_info info;
    int64_t rows = shape->n_seqs * shape->n_rows, n_layers = config->n_layers;
    phx_device_info(device, &info);
    *out = (struct phx_step_work){0};
    while (phx_weight_walk_next(&walk, &place)) {
        enum phx_weight_kind kind = phx_slot_kind(place.slot);
        bool is_head = kind == (config->tied ? PHX_WEIGHT_EMBEDDING : PHX_WEIGHT_LM_HEAD);
        if (place.is_vector || place.continues || (kind == PHX_WEIGHT_EMBEDDING && !is_head))
            continue;
        /* From the last layer's attention on only rows with logits matter: one a sequence. */
        bool few = is_head || (kind == PHX_WEIGHT_MLP && place.layer + 1 == n_layers);
        add_weight(config, &place, (double)phx_weight_bytes(device, &place.shape),
                   (double)(few ? shape->n_seqs : rows), out);
    }
    for (int32_t l = 0; l < n_layers; l++) add_attention(config, plan, l, kv_dtype, shape, out);
    if (phx_shard_plan_size(plan) == 1) return;
    /* Of the embeddings and after attention and MLP of each layer; of squares two numbers a row. */
    out->n_sums = 1 + phx_config_layer_sums(config) * n_layers;
    out->sum_bytes = (int64_t)phx_dtype_bytes(
        info.activation, ((2 * n_layers - 1) * rows + 2 * shape->n_seqs) * config->hidden);
    if (config->qk_norm_all) out->sum_bytes += n_layers * rows * 2 * (int64_t)sizeof(float);
}

/* ---- time ---- */

static double sum_s(const struct phx_sum_constants *c, double factor, double bytes)
{
    return c->latency_s + factor * bytes / c->bytes_s;
}

double phx_step_seconds(const struct phx_gpu_kind *kind, int size, const struct phx_step_work *work)
{
    PHX_ASSERT(size >= 1 && size <= PHX_STEP_MODEL_MAX_RANKS);
    double seconds = fmax(phx_step_read_bytes(work) / kind->read_bytes_s,
                          phx_step_operations(work) / kind->operations_s);
    if (work->n_sums == 0) return seconds;
    double bytes = (double)work->sum_bytes / (double)work->n_sums, others = size - 1;
    double ring = sum_s(&kind->ring, 2 * others / (1 + others), bytes);
    double direct = sum_s(&kind->direct, others, bytes);
    return seconds + (double)work->n_sums * fmin(ring, direct);
}

/* ---- on other ranks ---- */

static double ring_factor(int size)
{
    double others = size - 1;
    return 2 * others / (1 + others);
}

double phx_sum_seconds(const struct phx_sum_constants *constants, int size, double bytes)
{
    return sum_s(constants, ring_factor(size), bytes);
}

struct phx_sum_constants phx_sum_fit(int size, double small_bytes, double small_s,
                                     double large_bytes, double large_s)
{
    struct phx_sum_constants c = {small_s, INFINITY};
    if (!(large_bytes > small_bytes) || !(large_s > small_s)) return c;
    c.bytes_s = ring_factor(size) * (large_bytes - small_bytes) / (large_s - small_s);
    c.latency_s = fmax(0, small_s - ring_factor(size) * small_bytes / c.bytes_s);
    return c;
}

/* The part of a stage that its operations take to start does not shrink. */
static double scale_stage(double stage_s, double starts_s, double ratio)
{
    double fixed = fmin(starts_s, stage_s);
    return fixed + (stage_s - fixed) * ratio;
}

static double ratio(double to, double to_rate, double from, double from_rate)
{
    return from > 0 ? to / to_rate / (from / from_rate) : 0;
}

double phx_step_scale(const struct phx_step_stages *stages, const struct phx_step_work *from,
                      const struct phx_step_rates *from_rates, const struct phx_step_work *to,
                      const struct phx_step_rates *to_rates, double one_sum_s)
{
    const double to_read = to_rates->read_bytes_s, from_read = from_rates->read_bytes_s;
    const double to_ops = to_rates->operations_s, from_ops = from_rates->operations_s;
    double products =
        fmax(ratio(to->weight_bytes, to_read, from->weight_bytes, from_read),
             ratio(to->product_operations, to_ops, from->product_operations, from_ops));
    double attention =
        fmax(ratio(to->cache_bytes, to_read, from->cache_bytes, from_read),
             ratio(to->attention_operations, to_ops, from->attention_operations, from_ops));
    return scale_stage(stages->products_s, (double)from->n_products * stages->start_s, products) +
           scale_stage(stages->attention_s, (double)from->n_attentions * stages->start_s,
                       attention) +
           stages->other_s + (double)to->n_sums * one_sum_s;
}
