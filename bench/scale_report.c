/* From the rows of `phalanx bench` on several numbers of ranks to a table, a verdict in words, JSON
 * and a script for gnuplot. Run by bench/scale.sh.
 *
 *   scale_report ROWS [--also 4,8,16] [--nodes N,LATENCY_US,GB_S] [--machine TEXT] [--date TEXT]
 *                [--commit TEXT] [--command TEXT] [--json FILE] [--plot FILE]
 *
 * ROWS: of `phalanx bench -o jsonl`, or what --json wrote before, whose machine, date, commit and
 * command then are those of the result. The table goes to standard output. --also: numbers of ranks
 * to predict beside those that were measured. --nodes: predict these on N nodes too, whose links
 * have the latency and bandwidth given, which nobody measured. Exit status 1 if rows had to be left
 * out because they were wrong.
 */
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/scale_rows.h"
#include "kernels/base/check.h"

struct arguments {
    const char *rows, *machine, *date, *commit, *command, *json, *plot;
    int also[SCALE_RANKS], n_also;
    struct scale_nodes nodes;
};

enum { VERDICT_BYTES = 512, HEADING_BYTES = 512 };

/* What is promised of a breakdown and of a prediction, of the step. */
static const double STAGES_APART = 0.03, PREDICTION_ERROR = 0.15;

static double best_ms(const struct scale_point *p)
{
    return p->n > 0 ? p->mean_ms : p->predicted_ms;
}

/* ---- the table ---- */

static void print_point(const struct scale_test *t, const struct scale_point *p)
{
    const struct scale_point *base = scale_base(t);
    double ms = best_ms(p), speedup = base->mean_ms / ms;
    double tokens_s = base->tokens_s * speedup, ranks = (double)p->size / base->size;
    if (p->refusal[0] != '\0') {
        printf("| %d | %s | | | | | | | | |\n", p->size, p->refusal);
        return;
    }
    if (!(ms > 0)) return;
    if (p->n == 0) {
        printf("| %d | *%.3f predicted* | *%.2f* | *%.2f* | *%.1f* | *%.1f* | | | | |\n", p->size,
               ms, speedup, speedup / ranks, tokens_s, tokens_s / p->size);
        return;
    }
    printf("| %d | %.3f ± %.3f | %.2f | %.2f | %.1f | %.1f | %.3f | %.1f %% |", p->size, ms,
           p->spread_ms, speedup, speedup / ranks, p->tokens_s, p->tokens_s / p->size,
           p->floor_fraction, 100 * p->comm_share);
    if (isnan(p->error))
        printf(" | |\n");
    else
        printf(" %.3f | %+.1f %% |\n", p->predicted_ms, 100 * p->error);
}

static void print_breakdown(const struct scale_test *t)
{
    bool any = false;
    for (int i = 0; i < t->n_points; i++) {
        const struct scale_point *p = &t->points[i];
        double sum = scale_stages_sum(p), step = p->stages_step_ms;
        if (!(sum > 0)) continue;
        if (!any) {
            printf("\n| ranks | step, ms |");
            for (int s = 0; s < SCALE_STAGES; s++) printf(" %s |", scale_stages[s]);
            printf(" together | apart |\n|---:|---:|");
            for (int s = 0; s < SCALE_STAGES; s++) printf("---:|");
            printf("---:|---:|\n");
        }
        any = true;
        printf("| %d | %.3f |", p->size, step);
        for (int s = 0; s < SCALE_STAGES; s++) printf(" %.3f |", p->stage_ms[s]);
        printf(" %.3f | %+.1f %%%s |\n", sum, 100 * (sum / step - 1),
               fabs(sum / step - 1) > STAGES_APART ? ", too much" : "");
    }
}

static void print_test(const struct scale_test *t)
{
    char title[SCALE_TITLE_BYTES];
    scale_title(t, title);
    printf(
        "\n## %s\n\n| ranks | ms/step | speed-up | efficiency | tok/s | tok/s a rank | of floor | "
        "sums | predicted, ms | error |\n|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        title);
    for (int i = 0; i < t->n_points; i++) print_point(t, &t->points[i]);
    print_breakdown(t);
}

static void print_nodes(const struct scale *scale, const struct scale_nodes *nodes)
{
    printf(
        "\n## %d nodes, predicted\n\nLinks of %.1f us and %.1f GB/s between nodes are taken from "
        "the command line, not measured.\n\n| test | ranks | ms/step |\n|---|---:|---:|\n",
        nodes->n, 1e6 * nodes->link.latency_s, 1e-9 * nodes->link.bytes_s);
    for (int i = 0; i < scale->n_tests; i++)
        for (int k = 0; k < scale->tests[i].n_points; k++) {
            const struct scale_point *p = &scale->tests[i].points[k];
            char title[SCALE_TITLE_BYTES];
            scale_title(&scale->tests[i], title);
            if (p->nodes_ms > 0)
                printf("| %s | %d x %d | *%.3f* |\n", title, nodes->n, p->size, p->nodes_ms);
        }
}

/* ---- how far to believe it ---- */

static void print_repeats(const struct scale *scale)
{
    if (scale->n_pairs > 0)
        printf("- repeated: of %d pairs of rounds %d (%.0f %%) differ by less than the larger of "
               "the spreads that the two printed; 95 %% are expected\n",
               scale->n_pairs, scale->n_agreeing, 100.0 * scale->n_agreeing / scale->n_pairs);
}

static void print_errors(const struct scale *scale)
{
    if (isnan(scale->worst_error)) return;
    printf("- predicted from the fewest ranks:");
    for (int i = 0; i < scale->n_tests; i++)
        for (int k = 0; k < scale->tests[i].n_points; k++) {
            const struct scale_point *p = &scale->tests[i].points[k];
            char title[SCALE_TITLE_BYTES];
            scale_title(&scale->tests[i], title);
            if (!isnan(p->error))
                printf(" %s on %d ranks %+.1f %%;", title, p->size, 100 * p->error);
        }
    printf(" at worst %.1f %%, %s %.0f %%\n", 100 * scale->worst_error,
           scale->worst_error > PREDICTION_ERROR ? "more than" : "within", 100 * PREDICTION_ERROR);
}

static void print_apart(const struct scale *scale)
{
    double worst = 0;
    bool any = false;
    for (int i = 0; i < scale->n_tests; i++)
        for (int k = 0; k < scale->tests[i].n_points; k++) {
            const struct scale_point *p = &scale->tests[i].points[k];
            if (!(scale_stages_sum(p) > 0)) continue;
            any = true;
            worst = fmax(worst, fabs(scale_stages_sum(p) / p->stages_step_ms - 1));
        }
    if (any)
        printf("- broken down: parts and step, each measured by itself, differ by up to %.1f %% of "
               "the step, %s %.0f %%\n",
               100 * worst, worst > STAGES_APART ? "more than" : "within", 100 * STAGES_APART);
}

/* ---- the verdict ---- */

/* More text behind what is there, as much as there is room for. */
__attribute__((format(printf, 2, 3))) static void say(char text[VERDICT_BYTES], const char *format,
                                                      ...)
{
    size_t used = strlen(text);
    va_list args;
    va_start(args, format);
    vsnprintf(text + used, VERDICT_BYTES - used, format, args);
    va_end(args);
}

static void judge_point(const struct scale_point *base, const struct scale_point *p,
                        char text[VERDICT_BYTES])
{
    double speedup = base->mean_ms / p->mean_ms, gain = fabs(base->mean_ms - p->mean_ms);
    /* Each is that of two means which vary as that one does. */
    if (gain <= sqrt(0.5) * hypot(base->spread_ms, p->spread_ms))
        say(text, "%d ranks make no difference beyond the spread (%.2fx)", p->size, speedup);
    else if (speedup < 1)
        say(text, "%d ranks do not pay: they are slower (%.2fx)", p->size, speedup);
    else if (speedup < 1 + 0.25 * ((double)p->size / base->size - 1))
        say(text, "%d ranks hardly pay: %.2fx", p->size, speedup);
    else
        say(text, "%d ranks: %.2fx", p->size, speedup);
    if (p->size > 1) say(text, ", sums take %.0f %%", 100 * fmax(0, p->comm_share));
    say(text, "; ");
}

static void judge(const struct scale *scale, const struct scale_test *t, char text[VERDICT_BYTES])
{
    const struct scale_point *base = scale_base(t);
    char title[SCALE_TITLE_BYTES];
    int n_measured = 0;
    scale_title(t, title);
    text[0] = '\0';
    say(text, "%s: %.3f ms a step on %d rank%s, the fewest here; ", title, base->mean_ms,
        base->size, base->size == 1 ? "" : "s");
    for (int i = 0; i < t->n_points; i++) {
        const struct scale_point *p = &t->points[i];
        if (p->n == 0 || p == base) continue;
        judge_point(base, p, text);
        n_measured++;
    }
    if (n_measured == 0) say(text, "no other number was measured; ");
    bool first = true;
    for (int i = 0; i < t->n_points; i++) {
        const struct scale_point *p = &t->points[i];
        if (p->n > 0 || !(p->predicted_ms > 0)) continue;
        say(text, "%s%d would give about %.2fx", first ? "predicted: " : ", ", p->size,
            base->mean_ms / p->predicted_ms);
        first = false;
    }
    if (!first && !isnan(scale->worst_error))
        say(text, " (predictions were off by up to %.0f %% where they were checked)",
            100 * scale->worst_error);
    size_t end = strlen(text);
    while (end > 0 && (text[end - 1] == ' ' || text[end - 1] == ';')) text[--end] = '\0';
}

/* ---- JSON ---- */

static json_t *point_json(const struct scale_test *t, const struct scale_point *p)
{
    json_t *o = json_pack("{s:i, s:b, s:f}", "tp_size", p->size, "measured", p->n > 0,
                          "ms_per_step", best_ms(p));
    if (p->refusal[0] != '\0') json_object_set_new(o, "refused", json_string(p->refusal));
    if (best_ms(p) > 0)
        json_object_set_new(o, "speedup", json_real(scale_base(t)->mean_ms / best_ms(p)));
    if (p->predicted_ms > 0) json_object_set_new(o, "predicted_ms", json_real(p->predicted_ms));
    if (!isnan(p->error)) json_object_set_new(o, "prediction_error", json_real(p->error));
    if (p->nodes_ms > 0) json_object_set_new(o, "nodes_predicted_ms", json_real(p->nodes_ms));
    if (p->n == 0) return o;
    json_object_set_new(o, "rounds", json_integer(p->n));
    json_object_set_new(o, "spread_ms", json_real(p->spread_ms));
    json_object_set_new(o, "tokens_per_s", json_real(p->tokens_s));
    json_object_set_new(o, "floor_fraction", json_real(p->floor_fraction));
    json_object_set_new(o, "comm_share", json_real(p->comm_share));
    json_object_set_new(o, "peak_bytes", json_real(p->peak_bytes));
    json_object_set_new(o, "token_hash", json_string(p->hash));
    if (!(scale_stages_sum(p) > 0)) return o;
    json_t *stages = json_object();
    for (int s = 0; s < SCALE_STAGES; s++)
        json_object_set_new(stages, scale_stages[s], json_real(p->stage_ms[s]));
    json_object_set_new(o, "stages_ms_per_step", stages);
    json_object_set_new(o, "stages_step_ms", json_real(p->stages_step_ms));
    json_object_set_new(o, "stages_difference",
                        json_real(1 - scale_stages_sum(p) / p->stages_step_ms));
    return o;
}

static enum phx_status write_json(const struct scale *scale, const struct arguments *a)
{
    json_t *root = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "machine", a->machine, "date",
                             a->date, "commit", a->commit, "command", a->command, "model",
                             scale->model, "device", scale->device, "sums", scale->sums);
    json_t *tests = json_array(), *verdict = json_array();
    for (int i = 0; i < scale->n_tests; i++) {
        const struct scale_test *t = &scale->tests[i];
        char title[SCALE_TITLE_BYTES], text[VERDICT_BYTES];
        json_t *points = json_array();
        scale_title(t, title);
        for (int k = 0; k < t->n_points; k++)
            json_array_append_new(points, point_json(t, &t->points[k]));
        json_array_append_new(tests,
                              json_pack("{s:s, s:i, s:i, s:i, s:i, s:o}", "test", title, "n_prompt",
                                        t->test.n_prompt, "n_gen", t->test.n_gen, "n_depth",
                                        t->test.depth, "n_seqs", t->test.n_seqs, "points", points));
        judge(scale, t, text);
        json_array_append_new(verdict, json_string(text));
    }
    if (a->nodes.n > 1)
        json_object_set_new(root, "nodes",
                            json_pack("{s:i, s:f, s:f}", "n", a->nodes.n, "latency_us",
                                      1e6 * a->nodes.link.latency_s, "gb_per_s",
                                      1e-9 * a->nodes.link.bytes_s));
    json_object_set_new(
        root, "round_pairs",
        json_pack("{s:i, s:i}", "n", scale->n_pairs, "agreeing", scale->n_agreeing));
    json_object_set_new(root, "tests", tests);
    json_object_set_new(root, "verdict", verdict);
    json_object_set(root, "rows", scale->rows);
    int failed = json_dump_file(root, a->json, JSON_INDENT(1));
    json_decref(root);
    return failed ? phx_fail(PHX_IO, "%s cannot be written", a->json) : PHX_OK;
}

/* ---- the program ---- */

static enum phx_status read_sizes(const char *list, struct arguments *a)
{
    for (const char *at = list; *at != '\0'; at += *at == ',') {
        char *end;
        long size = strtol(at, &end, 10);
        if (end == at || (*end != ',' && *end != '\0') || size < 1 || size > 4096 ||
            a->n_also == SCALE_RANKS)
            return phx_fail(PHX_USAGE, "--also %s: must be numbers of ranks, like 4,8,16", list);
        a->also[a->n_also++] = (int)size;
        at = end;
    }
    return PHX_OK;
}

static enum phx_status read_nodes(const char *text, struct arguments *a)
{
    double latency_us, gb_s;
    if (sscanf(text, "%d,%lf,%lf", &a->nodes.n, &latency_us, &gb_s) != 3 || a->nodes.n < 2 ||
        !(latency_us >= 0) || !(gb_s > 0))
        return phx_fail(PHX_USAGE, "--nodes %s: must be nodes, microseconds, GB/s: 2,10,50", text);
    a->nodes.link = (struct phx_sum_constants){1e-6 * latency_us, 1e9 * gb_s};
    return PHX_OK;
}

static enum phx_status parse(int argc, char **argv, struct arguments *a)
{
    static const struct option names[] = {
        {"also", required_argument, NULL, 'a'},
        {"nodes", required_argument, NULL, 'n'},
        {"machine", required_argument, NULL, 'm'},
        {"date", required_argument, NULL, 'd'},
        {"commit", required_argument, NULL, 'c'},
        {"command", required_argument, NULL, 'x'},
        {"json", required_argument, NULL, 'j'},
        {"plot", required_argument, NULL, 'p'},
        {NULL, 0, NULL, 0},
    };
    *a = (struct arguments){.machine = "", .date = "", .commit = "", .command = "", .nodes.n = 1};
    for (int c; (c = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (c == 'a') PHX_TRY(read_sizes(optarg, a));
        if (c == 'n') PHX_TRY(read_nodes(optarg, a));
        if (c == 'm') a->machine = optarg;
        if (c == 'd') a->date = optarg;
        if (c == 'c') a->commit = optarg;
        if (c == 'x') a->command = optarg;
        if (c == 'j') a->json = optarg;
        if (c == 'p') a->plot = optarg;
        if (c == '?') return phx_fail(PHX_USAGE, "see the head of scale_report.c");
    }
    if (optind + 1 != argc) return phx_fail(PHX_USAGE, "one file with rows, as of scale.sh");
    a->rows = argv[optind];
    return PHX_OK;
}

static void print_all(const struct scale *scale, const struct arguments *a)
{
    printf("# %s on 1 and more ranks\n\n- machine: %s\n- device of a rank: %s\n- sums: %s\n- date: "
           "%s\n- commit: %s\n- command: `%s`\n\n",
           scale->model, a->machine, scale->device, scale->sums[0] ? scale->sums : "none", a->date,
           a->commit, a->command);
    for (int i = 0; i < scale->n_tests; i++) {
        char text[VERDICT_BYTES];
        judge(scale, &scale->tests[i], text);
        printf("- %s\n", text);
    }
    print_errors(scale);
    print_apart(scale);
    print_repeats(scale);
    for (int i = 0; i < scale->n_tests; i++) print_test(&scale->tests[i]);
    if (a->nodes.n > 1) print_nodes(scale, &a->nodes);
}

/* What a file of before says of itself, unless the command line says it. */
static void remember(const char *name, const struct scale *scale, const char **value)
{
    const char *text = json_string_value(json_object_get(scale->file, name));
    if ((*value)[0] == '\0' && text != NULL) *value = text;
}

/* Points that were predicted only are predicted again. */
static enum phx_status remember_sizes(const struct scale *scale, struct arguments *a)
{
    const json_t *test = json_array_get(json_object_get(scale->file, "tests"), 0);
    const json_t *points = json_object_get(test, "points");
    for (size_t i = 0; i < json_array_size(points) && a->n_also < SCALE_RANKS; i++)
        a->also[a->n_also++] =
            (int)json_integer_value(json_object_get(json_array_get(points, i), "tp_size"));
    for (int i = 0; i < a->n_also; i++)
        if (a->also[i] < 1) return phx_fail(PHX_BAD_DATA, "%s: a point of no ranks", a->rows);
    return PHX_OK;
}

static void remember_nodes(const struct scale *scale, struct scale_nodes *nodes)
{
    const json_t *o = json_object_get(scale->file, "nodes");
    if (nodes->n > 1 || o == NULL) return;
    nodes->n = (int)json_integer_value(json_object_get(o, "n"));
    nodes->link.latency_s = 1e-6 * json_number_value(json_object_get(o, "latency_us"));
    nodes->link.bytes_s = 1e9 * json_number_value(json_object_get(o, "gb_per_s"));
}

static enum phx_status run(struct arguments *a, struct scale *scale)
{
    PHX_TRY(scale_read(a->rows, scale));
    remember("machine", scale, &a->machine);
    remember("date", scale, &a->date);
    remember("commit", scale, &a->commit);
    remember("command", scale, &a->command);
    remember_nodes(scale, &a->nodes);
    if (scale->file != NULL && a->n_also == 0) PHX_TRY(remember_sizes(scale, a));
    PHX_TRY(scale_predict(scale, a->also, a->n_also, &a->nodes));
    print_all(scale, a);
    if (a->json != NULL) PHX_TRY(write_json(scale, a));
    char heading[HEADING_BYTES];
    snprintf(heading, sizeof heading, "%s, %s, %s, commit %s", scale->model, a->machine, a->date,
             a->commit);
    return a->plot != NULL ? scale_plot(scale, &a->nodes, heading, a->plot) : PHX_OK;
}

int main(int argc, char **argv)
{
    struct arguments a;
    struct scale *scale = calloc(1, sizeof *scale);
    PHX_ASSERT(scale != NULL);
    enum phx_status status = parse(argc, argv, &a);
    if (status == PHX_OK) status = run(&a, scale);
    if (status != PHX_OK) fprintf(stderr, "scale_report: %s\n", phx_fail_sentence());
    int n_wrong = scale->n_wrong;
    scale_free(scale);
    free(scale);
    return status != PHX_OK ? 2 : n_wrong > 0;
}
