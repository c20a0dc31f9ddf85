#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/check.h"
#include "launch/verbs/bench_report.h"
#include "launch/verbs/json_line.h"

/* ---- figures ---- */

double phx_bench_mean(const double *values, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += values[i];
    return sum / n;
}

double phx_bench_deviation(const double *values, int n)
{
    double mean = phx_bench_mean(values, n), sum = 0;
    if (n < 2) return 0;
    for (int i = 0; i < n; i++) sum += (values[i] - mean) * (values[i] - mean);
    return sqrt(sum / (n - 1));
}

/* Student's t that a value of so many degrees of freedom stays below in 97.5 of 100 cases; beyond
 * the table within 0.002 of it. */
static double student(int freedom)
{
    static const double t[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262};
    const int n = sizeof t / sizeof *t;
    if (freedom <= n) return t[freedom - 1];
    return 1.95996 + 2.3722 / freedom + 2.8225 / ((double)freedom * freedom);
}

double phx_bench_spread(const double *values, int n)
{
    return n < 2 ? 0 : student(n - 1) * phx_bench_deviation(values, n) * sqrt(2.0 / n);
}

struct figures {
    double seconds, seconds_deviation, seconds_spread; /* of the test */
    double tokens_s, tokens_s_deviation, tokens_s_spread;
    double ms_per_step;
    double gb_s, tflop_s; /* of all ranks together */
    double floor_fraction;
    double comm_share;
};

static double tokens_of(const struct phx_bench_test *t)
{
    return (double)t->n_seqs * ((double)t->n_prompt + t->n_gen);
}

static enum phx_status rates(const struct phx_bench_row *row, double **out)
{
    *out = malloc((size_t)row->n * sizeof **out);
    if (*out == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the rates");
    for (int i = 0; i < row->n; i++) (*out)[i] = tokens_of(&row->test) / row->seconds[i];
    return PHX_OK;
}

static enum phx_status compute(const struct phx_bench_row *row, struct figures *f)
{
    double *all;
    PHX_TRY(rates(row, &all));
    f->seconds = phx_bench_mean(row->seconds, row->n);
    f->seconds_deviation = phx_bench_deviation(row->seconds, row->n);
    f->seconds_spread = phx_bench_spread(row->seconds, row->n);
    f->tokens_s = phx_bench_mean(all, row->n);
    f->tokens_s_deviation = phx_bench_deviation(all, row->n);
    f->tokens_s_spread = phx_bench_spread(all, row->n);
    f->ms_per_step = 1e3 * f->seconds / (double)row->n_steps;
    f->gb_s = 1e-9 * phx_step_read_bytes(&row->all_work) / f->seconds;
    f->tflop_s = 1e-12 * phx_step_operations(&row->all_work) / f->seconds;
    f->floor_fraction = row->floor_s / f->seconds;
    const struct phx_bench_breakdown *parts = &row->parts;
    f->comm_share = parts->whole_s > 0 ? parts->stage_s[PHX_STAGE_SUMS] / parts->whole_s : 0;
    free(all);
    return PHX_OK;
}

static const char *dtype_name(enum phx_dtype dtype)
{
    if (dtype != PHX_BF16 && dtype != PHX_F16 && dtype != PHX_F32)
        return phx_dtype_traits(dtype)->name;
    return dtype == PHX_BF16 ? "bf16" : dtype == PHX_F16 ? "f16" : "f32";
}

static const char *backend_of(const struct phx_bench_setup *s)
{
    return s->device.kind == PHX_DEVICE_CUDA ? "CUDA" : "CPU";
}

enum { MODEL_BYTES = 128 };

/* "llama 8.03B bf16", "llama 4M bf16" */
static void model_type(const struct phx_bench_setup *s, char text[MODEL_BYTES])
{
    const char *name = s->config->model_type, *type = dtype_name(s->weight_dtype);
    int64_t ten_millions = llround(1e-7 * s->n_params);
    if (ten_millions < 100)
        snprintf(text, MODEL_BYTES, "%s %ldM %s", name, (long)llround(1e-6 * s->n_params), type);
    else
        snprintf(text, MODEL_BYTES, "%s %ld.%02ldB %s", name, (long)ten_millions / 100,
                 (long)ten_millions % 100, type);
}

/* ---- for people ---- */

static void print_md(FILE *file, const struct phx_bench_setup *s, const struct phx_bench_row *row,
                     const struct figures *f, bool first)
{
    char model[MODEL_BYTES], name[PHX_BENCH_NAME_BYTES], rate[48];
    model_type(s, model);
    phx_bench_test_name(&row->test, name);
    if (row->n > 1)
        snprintf(rate, sizeof rate, "%.2f \xc2\xb1 %.2f", f->tokens_s, f->tokens_s_spread);
    else
        snprintf(rate, sizeof rate, "%.2f \xc2\xb1 -", f->tokens_s); /* one has no spread */
    if (first)
        fprintf(file,
                "| %-24s | %10s | %8s | %7s | %2s | %7s | %5s | %20s | %21s | %9s | %8s | %8s | "
                "%8s | %6s | %9s |\n"
                "| ------------------------ | ---------: | -------: | ------- | -: | ------: | "
                "----: | -------------------: | --------------------: | --------: | -------: | "
                "-------: | -------: | -----: | --------: |\n",
                "model", "size", "params", "backend", "tp", "threads", "batch", "test", "t/s",
                "ms/step", "of floor", "GB/s", "TFLOP/s", "comm", "peak MB");
    fprintf(file,
            "| %-24s | %6.2f GiB | %6.2f B | %7s | %2d | %7d | %5d | %20s | %22s | %9.3f | %8.3f | "
            "%8.1f | %8.3f | %4.1f %% | %9.1f |\n",
            model, s->model_bytes / 1073741824.0, 1e-9 * s->n_params, backend_of(s), s->tp_size,
            s->n_threads, row->test.n_seqs, name, rate, f->ms_per_step, f->floor_fraction, f->gb_s,
            f->tflop_s, 100 * f->comm_share, 1e-6 * row->peak_bytes);
}

static const char *const stage_names[PHX_STAGE_COUNT] = {
    [PHX_STAGE_PRODUCTS] = "products", [PHX_STAGE_ATTENTION] = "attention",
    [PHX_STAGE_SUMS] = "sums",         [PHX_STAGE_NORMS] = "norms",
    [PHX_STAGE_SAMPLING] = "sampling",
};

static bool has_parts(const struct phx_bench_row *row)
{
    return row->parts.host_s > 0;
}

static void print_parts(FILE *file, const struct phx_bench_row *row)
{
    const struct phx_bench_breakdown *p = &row->parts;
    double ms = 1e3 / (double)row->n_steps, difference = phx_bench_breakdown_difference(p);
    fprintf(file, "  a step, ms:");
    for (int s = 0; s < PHX_STAGE_COUNT; s++)
        fprintf(file, " %s %.3f,", stage_names[s], ms * p->stage_s[s]);
    fprintf(file, " gaps %.3f, host %.3f: together %.3f of %.3f measured, %+.1f %% apart\n",
            ms * p->gaps_s, ms * p->host_s, ms * p->whole_s * (1 - difference), ms * p->whole_s,
            -100 * difference);
}

/* ---- for machines ---- */

static void first_line_of_cpuinfo(char text[128])
{
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "r");
    text[0] = '\0';
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        const char *value = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || value == NULL) continue;
        snprintf(text, 128, "%.*s", (int)strcspn(value + 2, "\n"), value + 2);
        break;
    }
    if (file != NULL) fclose(file);
}

static void set_setup(json_t *o, const struct phx_bench_setup *s)
{
    char cpu[128], model[MODEL_BYTES];
    first_line_of_cpuinfo(cpu);
    model_type(s, model);
    bool gpu = s->device.kind == PHX_DEVICE_CUDA;
    const char *commit = s->options->commit;
    json_object_set_new(o, "build_commit", commit ? json_string(commit) : json_null());
    json_object_set_new(o, "cpu_info", json_string(cpu));
    json_object_set_new(o, "gpu_info", json_string(gpu ? s->device.name : ""));
    json_object_set_new(o, "backends", json_string(backend_of(s)));
    json_object_set_new(o, "model_filename", json_string(s->model));
    json_object_set_new(o, "model_type", json_string(model));
    json_object_set_new(o, "model_size", json_integer((json_int_t)s->model_bytes));
    json_object_set_new(o, "model_n_params", json_integer((json_int_t)s->n_params));
    json_object_set_new(o, "n_batch", json_integer(s->step_tokens));
    json_object_set_new(o, "n_ubatch", json_integer(s->part_tokens));
    json_object_set_new(o, "load_seconds", json_real(s->load_s));
    json_object_set_new(o, "load_gb_per_s",
                        json_real(s->load_s > 0 ? 1e-9 * s->load_bytes / s->load_s : 0));
    json_object_set_new(o, "n_threads", json_integer(s->n_threads));
    json_object_set_new(o, "type_k", json_string(dtype_name(s->kv_dtype)));
    json_object_set_new(o, "type_v", json_string(dtype_name(s->kv_dtype)));
    json_object_set_new(o, "devices", json_string(s->device.name));
    json_object_set_new(o, "tp_size", json_integer(s->tp_size));
    json_object_set_new(o, "activation", json_string(dtype_name(s->device.activation)));
    json_object_set_new(o, "dummy_weights",
                        json_boolean(s->options->load_format == PHX_LOAD_DUMMY));
}

static void set_times(json_t *o, const struct phx_bench_row *row, const struct figures *f)
{
    char date[32];
    time_t t = time(NULL);
    struct tm utc;
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &utc));
    json_object_set_new(o, "test_time", json_string(date));
    json_object_set_new(o, "avg_ns", json_integer(llround(1e9 * f->seconds)));
    json_object_set_new(o, "stddev_ns", json_integer(llround(1e9 * f->seconds_deviation)));
    json_object_set_new(o, "spread_ns", json_integer(llround(1e9 * f->seconds_spread)));
    json_object_set_new(o, "avg_ts", json_real(f->tokens_s));
    json_object_set_new(o, "stddev_ts", json_real(f->tokens_s_deviation));
    json_object_set_new(o, "spread_ts", json_real(f->tokens_s_spread));
    json_t *ns = json_array(), *ts = json_array();
    for (int i = 0; i < row->n; i++) {
        json_array_append_new(ns, json_integer(llround(1e9 * row->seconds[i])));
        json_array_append_new(ts, json_real(tokens_of(&row->test) / row->seconds[i]));
    }
    json_object_set_new(o, "samples_ns", ns);
    json_object_set_new(o, "samples_ts", ts);
}

static void set_figures(json_t *o, const struct phx_bench_setup *s, const struct phx_bench_row *row,
                        const struct figures *f)
{
    char hash[17];
    double steps = (double)row->n_steps;
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)row->token_hash);
    json_object_set_new(o, "n_steps", json_integer(row->n_steps));
    json_object_set_new(o, "ms_per_step", json_real(f->ms_per_step));
    json_object_set_new(o, "floor_fraction", json_real(f->floor_fraction));
    json_object_set_new(o, "floor_is", json_string(row->floor_is_reading ? "read" : "multiply"));
    json_object_set_new(o, "floor_ms_per_step", json_real(1e3 * row->floor_s / steps));
    json_object_set_new(o, "gb_per_s", json_real(f->gb_s));
    json_object_set_new(o, "tflop_per_s", json_real(f->tflop_s));
    json_object_set_new(o, "comm_share", json_real(f->comm_share));
    json_object_set_new(o, "reduced_bytes_per_step",
                        json_integer((json_int_t)((double)row->work.sum_bytes / steps)));
    json_object_set_new(o, "peak_bytes", json_integer((json_int_t)row->peak_bytes));
    json_object_set_new(o, "token_hash", json_string(hash));
    json_object_set_new(o, "read_gb_per_s", json_real(1e-9 * s->yardsticks.read_bytes_s));
    json_object_set_new(o, "peak_tflop_per_s", json_real(1e-12 * s->yardsticks.operations_s));
    json_object_set_new(o, "start_us", json_real(1e6 * s->yardsticks.start_s));
    json_object_set_new(o, "sum_rows", json_integer(row->sum_rows));
    json_object_set_new(o, "sum_us", json_real(1e6 * row->sum_s));
    json_object_set_new(o, "sum_us_one_row", json_real(1e6 * row->small_sum_s));
}

static void set_parts(json_t *o, const struct phx_bench_row *row)
{
    const struct phx_bench_breakdown *p = &row->parts;
    double ms = 1e3 / (double)row->n_steps;
    json_t *parts = json_object();
    for (int s = 0; s < PHX_STAGE_COUNT; s++)
        json_object_set_new(parts, stage_names[s], json_real(ms * p->stage_s[s]));
    json_object_set_new(parts, "gaps", json_real(ms * p->gaps_s));
    json_object_set_new(parts, "host", json_real(ms * p->host_s));
    json_object_set_new(o, "stages_ms_per_step", parts);
    json_object_set_new(o, "stages_step_ms", json_real(ms * p->whole_s));
    json_object_set_new(o, "stages_difference", json_real(phx_bench_breakdown_difference(p)));
}

static json_t *row_json(const struct phx_bench_setup *s, const struct phx_bench_row *row,
                        const struct figures *f)
{
    char name[PHX_BENCH_NAME_BYTES];
    json_t *o = json_object(), *world = json_object();
    phx_bench_test_name(&row->test, name);
    set_setup(o, s);
    json_object_set_new(o, "n_prompt", json_integer(row->test.n_prompt));
    json_object_set_new(o, "n_gen", json_integer(row->test.n_gen));
    json_object_set_new(o, "n_depth", json_integer(row->test.depth));
    json_object_set_new(o, "n_seqs", json_integer(row->test.n_seqs));
    json_object_set_new(o, "depth_fill",
                        json_string(s->options->fill == PHX_FILL_NOISE ? "noise" : "computed"));
    json_object_set_new(o, "test", json_string(name));
    set_times(o, row, f);
    set_figures(o, s, row, f);
    if (has_parts(row)) set_parts(o, row);
    json_object_set_new(world, "ranks", json_integer(s->tp_size));
    json_object_set_new(world, "hosts", json_string(s->hosts));
    json_object_set_new(world, "sums", json_string(s->sums));
    json_object_set_new(o, "world_info", world);
    return o;
}

/* Numbers and texts; lists and objects are left to JSON. */
static void print_csv(FILE *file, json_t *o, bool head)
{
    const char *key, *glue = "";
    json_t *value;
    json_object_foreach(o, key, value)
    {
        if (json_is_array(value) || json_is_object(value)) continue;
        char *text = json_dumps(value, JSON_ENCODE_ANY);
        if (head)
            fprintf(file, "%s%s", glue, key);
        else if (json_is_string(value))
            fprintf(file, "%s\"%s\"", glue, json_string_value(value));
        else
            fprintf(file, "%s%s", glue, json_is_null(value) ? "" : text ? text : "");
        free(text);
        glue = ",";
    }
    fprintf(file, "\n");
}

static enum phx_status print_json(FILE *file, json_t *o, bool first)
{
    char *text = json_dumps(o, JSON_INDENT(2));
    if (text == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "cannot write the result as JSON");
    fprintf(file, "%s%s", first ? "" : ",\n", text);
    free(text);
    return PHX_OK;
}

/* ---- all forms ---- */

static enum phx_status flushed(FILE *file)
{
    if (fflush(file) == 0) return PHX_OK;
    return phx_fail(PHX_IO, "cannot write the results to standard output");
}

enum phx_status phx_bench_print_begin(enum phx_bench_output form, FILE *file)
{
    if (form == PHX_OUTPUT_JSON) fprintf(file, "[\n");
    return flushed(file);
}

enum phx_status phx_bench_print_end(enum phx_bench_output form, FILE *file)
{
    if (form == PHX_OUTPUT_JSON) fprintf(file, "\n]\n");
    return flushed(file);
}

enum phx_status phx_bench_print_row(enum phx_bench_output form, FILE *file,
                                    const struct phx_bench_setup *setup,
                                    const struct phx_bench_row *row, bool first)
{
    struct figures f;
    PHX_TRY(compute(row, &f));
    if (form == PHX_OUTPUT_MD) {
        print_md(file, setup, row, &f, first);
        PHX_TRY(flushed(file));
        if (has_parts(row)) print_parts(stderr, row);
        return PHX_OK;
    }
    json_t *o = row_json(setup, row, &f);
    if (form == PHX_OUTPUT_JSONL) return phx_json_line(o, file);
    enum phx_status status = PHX_OK;
    if (form == PHX_OUTPUT_JSON) {
        status = print_json(file, o, first);
    } else {
        if (first) print_csv(file, o, true);
        print_csv(file, o, false);
    }
    json_decref(o);
    return status == PHX_OK ? flushed(file) : status;
}
