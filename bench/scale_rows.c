#include "bench/scale_rows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "launch/verbs/bench_report.h"

const char *const scale_stages[SCALE_STAGES] = {
    [SCALE_PRODUCTS] = "products", [SCALE_ATTENTION] = "attention", [SCALE_SUMS] = "sums",
    [SCALE_NORMS] = "norms",       [SCALE_SAMPLING] = "sampling",   [SCALE_GAPS] = "gaps",
    [SCALE_HOST] = "host",
};

/* ---- reading ---- */

static double number(const json_t *row, const char *name)
{
    return json_number_value(json_object_get(row, name));
}

static const char *text(const json_t *row, const char *name)
{
    const char *value = json_string_value(json_object_get(row, name));
    return value != NULL ? value : "";
}

static struct scale_test *find_test(struct scale *s, const struct phx_bench_test *test)
{
    for (int i = 0; i < s->n_tests; i++)
        if (memcmp(&s->tests[i].test, test, sizeof *test) == 0) return &s->tests[i];
    if (s->n_tests == SCALE_TESTS) return NULL;
    s->tests[s->n_tests].test = *test;
    return &s->tests[s->n_tests++];
}

/* Kept in the order of sizes. */
static struct scale_point *find_point(struct scale_test *t, int size)
{
    int at = 0;
    while (at < t->n_points && t->points[at].size < size) at++;
    if (at < t->n_points && t->points[at].size == size) return &t->points[at];
    if (t->n_points == SCALE_RANKS) return NULL;
    memmove(t->points + at + 1, t->points + at, (size_t)(t->n_points - at) * sizeof *t->points);
    t->points[at] = (struct scale_point){.size = size, .error = NAN};
    t->n_points++;
    return &t->points[at];
}

/* Another round of the same drew other tokens, or in float32 other ranks did. */
static bool is_wrong(const struct scale *s, const struct scale_test *t, const struct scale_point *p,
                     const char *hash)
{
    bool exact = strcmp(s->activation, "f32") == 0;
    for (int i = 0; i < t->n_points; i++) {
        const struct scale_point *other = &t->points[i];
        if (other->n > 0 && (exact || other == p) && strcmp(other->hash, hash) != 0) return true;
    }
    return false;
}

/* Not every round was broken down. */
static void take_stages(struct scale_point *p, const json_t *row, const json_t *stages)
{
    double n = p->n_broken_down + 1, old = p->n_broken_down / n;
    for (int i = 0; i < SCALE_STAGES; i++)
        p->stage_ms[i] = old * p->stage_ms[i] + number(stages, scale_stages[i]) / n;
    p->stages_step_ms = old * p->stages_step_ms + number(row, "stages_step_ms") / n;
    p->n_broken_down++;
}

static void take(struct scale_point *p, const json_t *row)
{
    const json_t *stages = json_object_get(row, "stages_ms_per_step");
    double n = p->n + 1, old = p->n / n; /* running means */
    p->own_spread_ms[p->n] = 1e-6 * number(row, "spread_ns") / number(row, "n_steps");
    p->ms[p->n++] = number(row, "ms_per_step");
    p->tokens_s = old * p->tokens_s + number(row, "avg_ts") / n;
    p->floor_fraction = old * p->floor_fraction + number(row, "floor_fraction") / n;
    p->comm_share = old * p->comm_share + number(row, "comm_share") / n;
    p->start_us = old * p->start_us + number(row, "start_us") / n;
    p->sum_us = old * p->sum_us + number(row, "sum_us") / n;
    p->sum_us_one_row = old * p->sum_us_one_row + number(row, "sum_us_one_row") / n;
    p->read_gb_s = old * p->read_gb_s + number(row, "read_gb_per_s") / n;
    p->peak_tflop_s = old * p->peak_tflop_s + number(row, "peak_tflop_per_s") / n;
    if (stages != NULL && number(row, "stages_step_ms") > 0) take_stages(p, row, stages);
    p->peak_bytes = fmax(p->peak_bytes, number(row, "peak_bytes"));
    p->sum_rows = (int32_t)number(row, "sum_rows");
    snprintf(p->hash, sizeof p->hash, "%s", text(row, "token_hash"));
    p->mean_ms = phx_bench_mean(p->ms, p->n);
    p->spread_ms = p->n > 1 ? phx_bench_spread(p->ms, p->n) : p->own_spread_ms[0];
}

static void compare_rounds(struct scale *s, const struct scale_point *p)
{
    for (int i = 0; i < p->n; i++)
        for (int k = 0; k < i; k++) {
            double spread = fmax(p->own_spread_ms[i], p->own_spread_ms[k]);
            s->n_pairs++;
            s->n_agreeing += fabs(p->ms[i] - p->ms[k]) <= spread;
        }
}

static enum phx_status add_row(struct scale *s, json_t *row)
{
    struct phx_bench_test test = {(int32_t)number(row, "n_prompt"), (int32_t)number(row, "n_gen"),
                                  (int32_t)number(row, "n_depth"), (int32_t)number(row, "n_seqs")};
    if (number(row, "n_steps") < 1 || number(row, "tp_size") < 1)
        return phx_fail(PHX_BAD_DATA, "not a row of phalanx bench");
    if (s->model == NULL) {
        s->model = text(row, "model_filename");
        s->device = text(row, "devices");
        s->activation = text(row, "activation");
        s->cache = text(row, "type_k");
        s->backend = text(row, "backends");
        double b = number(row, "n_batch"), ub = number(row, "n_ubatch");
        s->step_tokens = (int32_t)(b < ub ? b : ub);
    }
    if (strcmp(s->model, text(row, "model_filename")) != 0)
        return phx_fail(PHX_BAD_DATA, "rows of two models, %s and %s", s->model,
                        text(row, "model_filename"));
    if (number(row, "tp_size") > 1) s->sums = text(json_object_get(row, "world_info"), "sums");
    struct scale_test *t = find_test(s, &test);
    struct scale_point *p = t != NULL ? find_point(t, (int)number(row, "tp_size")) : NULL;
    if (p == NULL || p->n == SCALE_ROUNDS)
        return phx_fail(PHX_BAD_DATA, "more than %d tests, %d numbers of ranks or %d rounds",
                        SCALE_TESTS, SCALE_RANKS, SCALE_ROUNDS);
    if (is_wrong(s, t, p, text(row, "token_hash"))) {
        fprintf(stderr, "%s of %d ranks drew other tokens than before: wrong, and not counted\n",
                text(row, "test"), p->size);
        s->n_wrong++;
        return PHX_OK;
    }
    take(p, row);
    return PHX_OK;
}

static void read_rows(FILE *file, struct scale *out)
{
    json_error_t error;
    json_t *row;
    while ((row = json_loadf(file, JSON_DISABLE_EOF_CHECK, &error)) != NULL) {
        json_t *rows = json_object_get(row, "rows");
        if (json_is_array(rows)) {
            out->file = row;
            json_array_extend(out->rows, rows);
            return;
        }
        json_array_append_new(out->rows, row);
    }
}

enum phx_status scale_read(const char *path, struct scale *out)
{
    *out = (struct scale){.sums = "", .rows = json_array(), .worst_error = NAN};
    FILE *file = fopen(path, "r");
    if (file == NULL) return phx_fail(PHX_IO, "%s cannot be read", path);
    read_rows(file, out);
    fclose(file);
    for (size_t i = 0; i < json_array_size(out->rows); i++)
        PHX_TRY(add_row(out, json_array_get(out->rows, i)));
    if (out->n_tests == 0)
        return phx_fail(PHX_BAD_DATA,
                        "%s has neither rows of phalanx bench -o jsonl nor what scale.sh wrote",
                        path);
    for (int i = 0; i < out->n_tests; i++)
        for (int k = 0; k < out->tests[i].n_points; k++)
            compare_rounds(out, &out->tests[i].points[k]);
    return PHX_OK;
}

void scale_free(struct scale *scale)
{
    json_decref(scale->rows);
    json_decref(scale->file);
}

void scale_title(const struct scale_test *t, char title[SCALE_TITLE_BYTES])
{
    char name[PHX_BENCH_NAME_BYTES];
    phx_bench_test_name(&t->test, name);
    snprintf(title, SCALE_TITLE_BYTES, "%s, batch %d", name, t->test.n_seqs);
}

const struct scale_point *scale_base(const struct scale_test *t)
{
    const struct scale_point *p = t->points;
    while (p->n == 0) p++;
    return p;
}

double scale_stages_sum(const struct scale_point *p)
{
    double sum = 0;
    for (int i = 0; i < SCALE_STAGES; i++) sum += p->stage_ms[i];
    return sum;
}

/* ---- predicting ---- */

static enum phx_dtype dtype_of(const char *name)
{
    return strcmp(name, "bf16") == 0 ? PHX_BF16 : strcmp(name, "f16") == 0 ? PHX_F16 : PHX_F32;
}

struct predictor {
    struct scale *scale;
    struct phx_config *config;
    struct phx_device *device; /* on paper */
    struct phx_model_shape shape;
    struct phx_layer_shape *layers;
    const struct scale_nodes *nodes;
};

/* Of a step, as the mean over the test's; of rank 0, which never has less to do than others. */
static enum phx_status work_of(const struct predictor *p, const struct phx_bench_test *test,
                               int size, struct phx_step_work *out)
{
    struct phx_shard_plan *plan = NULL;
    PHX_TRY(phx_shard_plan_create(&p->shape, size, 0, &plan));
    struct phx_bench_rank rank = {p->config, plan, NULL, p->device, dtype_of(p->scale->cache)};
    double n = (double)phx_bench_test_work(test, &rank, p->scale->step_tokens, out);
    phx_shard_plan_destroy(plan);
    out->weight_bytes /= n;
    out->cache_bytes /= n;
    out->product_operations /= n;
    out->attention_operations /= n;
    out->n_products = (int64_t)((double)out->n_products / n);
    out->n_attentions = (int64_t)((double)out->n_attentions / n);
    out->n_sums = (int64_t)((double)out->n_sums / n);
    out->sum_bytes = (int64_t)((double)out->sum_bytes / n);
    return PHX_OK;
}

/* From the most ranks on which sums were measured alone; NULL: none. */
static const struct scale_point *sums_of(const struct scale_test *t)
{
    const struct scale_point *found = NULL;
    for (int i = 0; i < t->n_points; i++)
        if (t->points[i].n > 0 && t->points[i].sum_us > 0) found = &t->points[i];
    return found;
}

/* Of `size` ranks on each node: as measured alone there, otherwise by the constants of other ranks;
 * then between the nodes. */
static bool sum_seconds(const struct predictor *p, const struct scale_test *t,
                        const struct scale_point *base, const struct scale_point *to, int n_nodes,
                        double *out)
{
    const struct scale_point *from = to->n > 0 && to->sum_us > 0 ? to : sums_of(t);
    double row = (double)phx_dtype_bytes(dtype_of(p->scale->activation), p->config->hidden);
    double bytes = row * base->sum_rows;
    *out = 0;
    if (from == NULL && to->size > 1) return false;
    if (to->size > 1) {
        struct phx_sum_constants c =
            phx_sum_fit(from->size, row, 1e-6 * from->sum_us_one_row, bytes, 1e-6 * from->sum_us);
        *out = from == to ? 1e-6 * to->sum_us : phx_sum_seconds(&c, to->size, bytes);
    }
    if (n_nodes > 1) *out += phx_sum_seconds(&p->nodes->link, n_nodes, bytes);
    return true;
}

/* As measured there; otherwise those of the fewest ranks, which GPUs have each and ranks on a CPU
 * share. */
static struct phx_step_rates rates_of(const struct predictor *p, const struct scale_point *base,
                                      const struct scale_point *to)
{
    const struct scale_point *from = to->n > 0 ? to : base;
    bool shares = from != to && strcmp(p->scale->backend, "CPU") == 0;
    double part = shares ? (double)base->size / to->size : 1;
    return (struct phx_step_rates){1e9 * part * from->read_gb_s, 1e12 * part * from->peak_tflop_s};
}

/* The stages of the fewest ranks, so that together they are the time that was measured there. The
 * starts of operations are among them on a CPU, and in the gaps on a GPU. */
static bool stages_of(const struct predictor *p, const struct scale_point *base,
                      struct phx_step_stages *out)
{
    bool includes_starts = strcmp(p->scale->backend, "CPU") == 0;
    double all = 0;
    for (int i = 0; i < SCALE_STAGES; i++) all += base->stage_ms[i];
    if (!(all > 0)) return false;
    double to_s = 1e-3 * base->mean_ms / all;
    *out = (struct phx_step_stages){.products_s = to_s * base->stage_ms[SCALE_PRODUCTS],
                                    .attention_s = to_s * base->stage_ms[SCALE_ATTENTION],
                                    .start_s = includes_starts ? 1e-6 * base->start_us : 0};
    if (out->attention_s < 0) out->attention_s = 0; /* lost in the noise */
    out->other_s = to_s * (all - base->stage_ms[SCALE_SUMS]) - out->products_s - out->attention_s;
    return true;
}

/* From the fewest ranks that were measured to `to`, on each of so many nodes; *out stays 0 if that
 * cannot be predicted. */
static enum phx_status predict_point(const struct predictor *p, const struct scale_test *t,
                                     const struct scale_point *base,
                                     const struct phx_step_stages *stages, struct scale_point *to,
                                     int n_nodes, double *out)
{
    struct phx_step_work from, work;
    double sum_s;
    PHX_TRY(work_of(p, &t->test, base->size, &from));
    enum phx_status status = work_of(p, &t->test, to->size * n_nodes, &work);
    if (status == PHX_USAGE || status == PHX_UNSUPPORTED) {
        if (n_nodes == 1) snprintf(to->refusal, sizeof to->refusal, "%s", phx_fail_sentence());
        phx_fail_clear();
        return PHX_OK;
    }
    PHX_TRY(status);
    if (!sum_seconds(p, t, base, to, n_nodes, &sum_s)) return PHX_OK;
    struct phx_step_rates from_rates = rates_of(p, base, base), rates = rates_of(p, base, to);
    *out = 1e3 * phx_step_scale(stages, &from, &from_rates, &work, &rates, sum_s);
    return PHX_OK;
}

static enum phx_status predict_test(const struct predictor *p, struct scale_test *t)
{
    const struct scale_point *base = scale_base(t);
    struct phx_step_stages stages;
    if (!stages_of(p, base, &stages)) return PHX_OK;
    for (int i = 0; i < t->n_points; i++) {
        struct scale_point *to = &t->points[i];
        PHX_TRY(predict_point(p, t, base, &stages, to, 1, &to->predicted_ms));
        if (p->nodes->n > 1)
            PHX_TRY(predict_point(p, t, base, &stages, to, p->nodes->n, &to->nodes_ms));
        if (to->n == 0 || to == base || !(to->predicted_ms > 0)) continue;
        to->error = to->predicted_ms / to->mean_ms - 1;
        p->scale->worst_error = fmax(p->scale->worst_error, fabs(to->error));
    }
    return PHX_OK;
}

static enum phx_status open_model(struct predictor *p)
{
    struct phx_device_info info = {.name = "paper", .n_units = 1};
    info.kind = strcmp(p->scale->backend, "CUDA") == 0 ? PHX_DEVICE_CUDA : PHX_DEVICE_CPU;
    info.activation = info.kv_default = dtype_of(p->scale->activation);
    PHX_TRY(phx_config_load(p->scale->model, &p->config));
    p->layers = calloc((size_t)p->config->n_layers, sizeof *p->layers);
    if (p->layers == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the model's layers");
    p->shape = phx_config_shape(p->config, p->layers);
    return phx_device_on_paper(&info, &p->device);
}

enum phx_status scale_predict(struct scale *scale, const int *sizes, int n_sizes,
                              const struct scale_nodes *nodes)
{
    struct predictor p = {.scale = scale, .nodes = nodes};
    enum phx_status status = open_model(&p);
    for (int i = 0; i < scale->n_tests && status == PHX_OK; i++) {
        for (int k = 0; k < n_sizes && status == PHX_OK; k++)
            if (find_point(&scale->tests[i], sizes[k]) == NULL)
                status = phx_fail(PHX_USAGE, "more than %d numbers of ranks", SCALE_RANKS);
        if (status == PHX_OK) status = predict_test(&p, &scale->tests[i]);
    }
    phx_device_destroy(p.device);
    free(p.layers);
    phx_config_destroy(p.config);
    return status;
}
