/* Holds the rows of `phalanx bench` to their schema and to what must be true of any of them.
 *
 *   check_rows ROWS RANKS FILE [MOST]   FILE: a JSON array, or an object a line; or what
 *                                       bench/scale.sh wrote, with rows of any number of ranks
 *                                       (RANKS 0)
 *
 * MOST: the stages of each row must add up to the step, measured by itself, but for this fraction
 * of it. A row whose own spread is larger says nothing about that: exit status 3, if nothing is
 * wrong.
 */
#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    json_type type;
} fields[] = {
    {"build_commit", JSON_NULL},
    {"cpu_info", JSON_STRING},
    {"gpu_info", JSON_STRING},
    {"backends", JSON_STRING},
    {"model_filename", JSON_STRING},
    {"model_type", JSON_STRING},
    {"model_size", JSON_INTEGER},
    {"model_n_params", JSON_INTEGER},
    {"n_batch", JSON_INTEGER},
    {"n_ubatch", JSON_INTEGER},
    {"load_seconds", JSON_REAL},
    {"load_gb_per_s", JSON_REAL},
    {"n_threads", JSON_INTEGER},
    {"type_k", JSON_STRING},
    {"type_v", JSON_STRING},
    {"devices", JSON_STRING},
    {"tp_size", JSON_INTEGER},
    {"activation", JSON_STRING},
    {"dummy_weights", JSON_FALSE},
    {"n_prompt", JSON_INTEGER},
    {"n_gen", JSON_INTEGER},
    {"n_depth", JSON_INTEGER},
    {"n_seqs", JSON_INTEGER},
    {"depth_fill", JSON_STRING},
    {"test", JSON_STRING},
    {"test_time", JSON_STRING},
    {"avg_ns", JSON_INTEGER},
    {"stddev_ns", JSON_INTEGER},
    {"spread_ns", JSON_INTEGER},
    {"avg_ts", JSON_REAL},
    {"stddev_ts", JSON_REAL},
    {"spread_ts", JSON_REAL},
    {"samples_ns", JSON_ARRAY},
    {"samples_ts", JSON_ARRAY},
    {"n_steps", JSON_INTEGER},
    {"ms_per_step", JSON_REAL},
    {"floor_fraction", JSON_REAL},
    {"floor_is", JSON_STRING},
    {"floor_ms_per_step", JSON_REAL},
    {"gb_per_s", JSON_REAL},
    {"tflop_per_s", JSON_REAL},
    {"comm_share", JSON_REAL},
    {"reduced_bytes_per_step", JSON_INTEGER},
    {"peak_bytes", JSON_INTEGER},
    {"token_hash", JSON_STRING},
    {"read_gb_per_s", JSON_REAL},
    {"peak_tflop_per_s", JSON_REAL},
    {"start_us", JSON_REAL},
    {"sum_rows", JSON_INTEGER},
    {"sum_us", JSON_REAL},
    {"sum_us_one_row", JSON_REAL},
    {"world_info", JSON_OBJECT},
};
static const char *const stages[] = {"products", "attention", "sums", "norms",
                                     "sampling", "host",      "gaps"};

static int n_wrong, n_unjudged;

static void expect(int good, const char *what)
{
    if (!good) fprintf(stderr, "%s\n", what);
    n_wrong += !good;
}

static double number(const json_t *row, const char *name)
{
    return json_number_value(json_object_get(row, name));
}

static int near(double a, double b)
{
    return fabs(a - b) <= 1e-6 * fabs(b) + 1e-9;
}

/* `most` < 0: how well they add up does not matter. */
static void check_stages(const json_t *row, double most)
{
    const json_t *o = json_object_get(row, "stages_ms_per_step");
    double sum = 0, step = number(row, "stages_step_ms"),
           difference = number(row, "stages_difference");
    for (size_t i = 0; i < sizeof stages / sizeof *stages; i++) {
        expect(json_is_real(json_object_get(o, stages[i])), stages[i]);
        sum += number(o, stages[i]);
    }
    expect(json_object_size(o) == sizeof stages / sizeof *stages && sum > 0, "stages_ms_per_step");
    expect(json_is_real(json_object_get(row, "stages_step_ms")) && step > 0, "stages_step_ms");
    expect(json_is_real(json_object_get(row, "stages_difference")) &&
               fabs(1 - sum / step - difference) < 1e-6,
           "stages_difference");
    if (most < 0) return;
    if (number(row, "spread_ns") > most * number(row, "avg_ns")) {
        fprintf(stderr, "%s: the spread is too large to judge the stages by\n",
                json_string_value(json_object_get(row, "test")));
        n_unjudged++;
        return;
    }
    if (fabs(difference) > most) fprintf(stderr, "%.1f %% of a step: ", 100 * difference);
    expect(fabs(difference) <= most, "stages that do not add up to the step");
}

static void check_row(const json_t *row, int n_ranks, double most)
{
    if (n_ranks == 0) n_ranks = (int)number(row, "tp_size");
    size_t n = sizeof fields / sizeof *fields;
    for (size_t i = 0; i < n; i++) {
        const json_t *value = json_object_get(row, fields[i].name);
        int good = value != NULL && json_typeof(value) == fields[i].type;
        if (value != NULL && fields[i].type == JSON_FALSE) good = json_is_boolean(value);
        if (value != NULL && fields[i].type == JSON_NULL)
            good = json_is_null(value) || json_is_string(value);
        expect(good, fields[i].name);
    }
    bool broken_down = json_object_get(row, "stages_ms_per_step") != NULL;
    if (broken_down) check_stages(row, most);
    expect(broken_down || most < 0, "no stages");
    expect(json_object_size(row) == n + (broken_down ? 3 : 0), "fields that nobody knows");

    const json_t *ns = json_object_get(row, "samples_ns");
    size_t repeats = json_array_size(ns);
    double mean = 0,
           tokens = number(row, "n_seqs") * (number(row, "n_prompt") + number(row, "n_gen"));
    for (size_t i = 0; i < repeats; i++)
        mean += json_number_value(json_array_get(ns, i)) / (double)repeats;
    expect(repeats > 0 && json_array_size(json_object_get(row, "samples_ts")) == repeats,
           "samples");
    expect(fabs(mean - number(row, "avg_ns")) <= 1, "avg_ns is the samples' mean");
    if (repeats == 1) expect(near(number(row, "avg_ts"), 1e9 * tokens / mean), "avg_ts");
    expect(near(number(row, "ms_per_step") * number(row, "n_steps"), 1e-6 * mean) ||
               fabs(number(row, "ms_per_step") * number(row, "n_steps") - 1e-6 * mean) < 1e-5,
           "ms_per_step");
    expect(fabs(number(row, "floor_fraction") * number(row, "ms_per_step") /
                    number(row, "floor_ms_per_step") -
                1) < 1e-6,
           "floor_fraction");
    expect(number(row, "tp_size") == n_ranks, "tp_size");
    bool made_up = json_is_true(json_object_get(row, "dummy_weights"));
    expect(number(row, "load_seconds") > 0 && (number(row, "load_gb_per_s") == 0) == made_up,
           "load");
    expect((number(row, "reduced_bytes_per_step") > 0) == (n_ranks > 1), "reduced bytes");
    expect(n_ranks > 1 || number(row, "comm_share") == 0, "comm_share of one rank");
    expect(number(row, "read_gb_per_s") > 0 && number(row, "peak_tflop_per_s") > 0, "yardsticks");
    expect(strlen(json_string_value(json_object_get(row, "token_hash"))) == 16, "token_hash");
    expect(number(json_object_get(row, "world_info"), "ranks") == n_ranks, "world_info");
}

/* Every test has points, of which the first was measured, and a verdict. */
static void check_scale(const json_t *all)
{
    static const char *const names[] = {"machine", "date",   "commit", "command",
                                        "model",   "device", "sums"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        expect(json_is_string(json_object_get(all, names[i])), names[i]);
    const json_t *tests = json_object_get(all, "tests"), *verdict = json_object_get(all, "verdict");
    expect(json_array_size(tests) > 0 && json_array_size(verdict) == json_array_size(tests),
           "a verdict for each test");
    for (size_t i = 0; i < json_array_size(tests); i++) {
        const json_t *points = json_object_get(json_array_get(tests, i), "points");
        const json_t *first = json_array_get(points, 0);
        expect(json_is_true(json_object_get(first, "measured")), "the first point is measured");
        expect(near(number(first, "speedup"), 1), "speed-up of the first point");
        for (size_t k = 0; k < json_array_size(points); k++) {
            const json_t *p = json_array_get(points, k);
            int refused = json_object_get(p, "refused") != NULL;
            expect(refused || number(p, "ms_per_step") > 0, "ms_per_step of a point");
            int checked = json_object_get(p, "prediction_error") != NULL;
            expect(!checked || near(number(p, "predicted_ms") / number(p, "ms_per_step") - 1,
                                    number(p, "prediction_error")),
                   "prediction_error");
        }
    }
}

int main(int argc, char **argv)
{
    if (argc != 4 && argc != 5) return 2;
    int expected = atoi(argv[1]), n_ranks = atoi(argv[2]), n = 0;
    double most = argc == 5 ? atof(argv[4]) : -1;
    json_error_t error;
    FILE *file = fopen(argv[3], "r");
    if (file == NULL) return 2;
    json_t *all = json_loadf(file, 0, &error);
    const json_t *scaled = json_object_get(all, "rows");
    if (scaled != NULL) check_scale(all);
    if (json_is_array(all) || scaled != NULL) {
        size_t i;
        json_t *row;
        json_array_foreach(scaled != NULL ? scaled : all, i, row)
        {
            check_row(row, n_ranks, most);
            n++;
        }
    } else {
        json_decref(all);
        all = NULL;
        rewind(file);
        json_t *row;
        while ((row = json_loadf(file, JSON_DISABLE_EOF_CHECK, &error)) != NULL) {
            check_row(row, n_ranks, most);
            json_decref(row);
            n++;
        }
    }
    json_decref(all);
    fclose(file);
    if (n != expected) fprintf(stderr, "%d rows instead of %d\n", n, expected);
    if (n != expected || n_wrong > 0) return 1;
    return n_unjudged > 0 ? 3 : 0;
}
