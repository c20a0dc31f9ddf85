/* From the rows of `phalanx bench` on several numbers of ranks to a table, a verdict in words, JSON
 * and a script for gnuplot. Run by bench/scale.sh.
 *
 *   scale_report ROWS [--also 4,8,16] [--nodes N,LATENCY_US,GB_S] [--machine TEXT] [--date TEXT]
 *                [--commit TEXT] [--command TEXT] [--json FILE] [--plot FILE]
 *
 * The table goes to standard output. --also: numbers of ranks to predict beside those that were
 * measured. --nodes: predict these on N nodes too, whose links have the latency and bandwidth
 * given, which nobody measured. Exit status 1 if rows had to be left out because they were wrong.
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

enum { TITLE_BYTES = 96, VERDICT_BYTES = 512 };

static void title_of(const struct scale_test *t, char title[TITLE_BYTES])
{
    char name[PHX_BENCH_NAME_BYTES];
    phx_bench_test_name(&t->test, name);
    snprintf(title, TITLE_BYTES, "%s, batch %d", name, t->test.n_seqs);
}

static const struct scale_point *base_of(const struct scale_test *t)
{
    const struct scale_point *p = t->points;
    while (p->n == 0) p++;
    return p;
}

static double best_ms(const struct scale_point *p)
{
    return p->n > 0 ? p->mean_ms : p->predicted_ms;
}

static double stages_sum(const struct scale_point *p)
{
    double sum = 0;
    for (int i = 0; i < SCALE_STAGES; i++) sum += p->stage_ms[i];
    return sum;
}

/* ---- the table ---- */

static void print_point(const struct scale_test *t, const struct scale_point *p)
{
    const struct scale_point *base = base_of(t);
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
        if (!(stages_sum(p) > 0)) continue;
        if (!any) {
            printf("\n| ranks | step, ms |");
            for (int s = 0; s < SCALE_STAGES; s++) printf(" %s |", scale_stages[s]);
            printf("\n|---:|---:|");
            for (int s = 0; s < SCALE_STAGES; s++) printf("---:|");
            printf("\n");
        }
        any = true;
        printf("| %d | %.3f |", p->size, stages_sum(p));
        for (int s = 0; s < SCALE_STAGES; s++) printf(" %.3f |", p->stage_ms[s]);
        printf("\n");
    }
}

static void print_test(const struct scale_test *t)
{
    char title[TITLE_BYTES];
    title_of(t, title);
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
            char title[TITLE_BYTES];
            title_of(&scale->tests[i], title);
            if (p->predicted_ms > 0)
                printf("| %s | %d x %d | *%.3f* |\n", title, nodes->n, p->size, p->predicted_ms);
        }
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
    if (gain <= base->spread_ms + p->spread_ms)
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
    const struct scale_point *base = base_of(t);
    char title[TITLE_BYTES];
    int n_measured = 0;
    title_of(t, title);
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
        json_object_set_new(o, "speedup", json_real(base_of(t)->mean_ms / best_ms(p)));
    if (p->predicted_ms > 0) json_object_set_new(o, "predicted_ms", json_real(p->predicted_ms));
    if (!isnan(p->error)) json_object_set_new(o, "prediction_error", json_real(p->error));
    if (p->n == 0) return o;
    json_object_set_new(o, "rounds", json_integer(p->n));
    json_object_set_new(o, "spread_ms", json_real(p->spread_ms));
    json_object_set_new(o, "tokens_per_s", json_real(p->tokens_s));
    json_object_set_new(o, "floor_fraction", json_real(p->floor_fraction));
    json_object_set_new(o, "comm_share", json_real(p->comm_share));
    json_object_set_new(o, "peak_bytes", json_real(p->peak_bytes));
    json_object_set_new(o, "token_hash", json_string(p->hash));
    if (!(stages_sum(p) > 0)) return o;
    json_t *stages = json_object();
    for (int s = 0; s < SCALE_STAGES; s++)
        json_object_set_new(stages, scale_stages[s], json_real(p->stage_ms[s]));
    json_object_set_new(o, "stages_ms_per_step", stages);
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
        char title[TITLE_BYTES], text[VERDICT_BYTES];
        json_t *points = json_array();
        title_of(t, title);
        for (int k = 0; k < t->n_points; k++)
            json_array_append_new(points, point_json(t, &t->points[k]));
        json_array_append_new(tests,
                              json_pack("{s:s, s:i, s:i, s:i, s:i, s:o}", "test", title, "n_prompt",
                                        t->test.n_prompt, "n_gen", t->test.n_gen, "n_depth",
                                        t->test.depth, "n_seqs", t->test.n_seqs, "points", points));
        judge(scale, t, text);
        json_array_append_new(verdict, json_string(text));
    }
    json_object_set_new(root, "tests", tests);
    json_object_set_new(root, "verdict", verdict);
    json_object_set(root, "rows", scale->rows);
    int failed = json_dump_file(root, a->json, JSON_INDENT(1));
    json_decref(root);
    return failed ? phx_fail(PHX_IO, "%s cannot be written", a->json) : PHX_OK;
}

/* ---- the picture ---- */

static void plot_speedup(FILE *file, const struct scale_test *t, int index)
{
    const struct scale_point *base = base_of(t);
    fprintf(file, "$speed%d << EOD\n", index);
    for (int i = 0; i < t->n_points; i++) {
        const struct scale_point *p = &t->points[i];
        if (p->n > 0)
            fprintf(file, "%d %g %g\n", p->size, base->mean_ms / p->mean_ms,
                    base->mean_ms / p->mean_ms * p->spread_ms / p->mean_ms);
    }
    fprintf(file, "EOD\n$predicted%d << EOD\n", index);
    for (int i = 0; i < t->n_points; i++)
        if (t->points[i].predicted_ms > 0)
            fprintf(file, "%d %g\n", t->points[i].size, base->mean_ms / t->points[i].predicted_ms);
    fprintf(file, "EOD\n$stages%d << EOD\nranks", index);
    for (int s = 0; s < SCALE_STAGES; s++) fprintf(file, " %s", scale_stages[s]);
    fprintf(file, "\n");
    for (int i = 0; i < t->n_points; i++) {
        if (!(stages_sum(&t->points[i]) > 0)) continue;
        fprintf(file, "%d", t->points[i].size);
        /* What is lost in the noise cannot be drawn below nothing. */
        for (int s = 0; s < SCALE_STAGES; s++)
            fprintf(file, " %g", fmax(0, t->points[i].stage_ms[s]));
        fprintf(file, "\n");
    }
    fprintf(file, "EOD\n");
}

static bool has_stages(const struct scale_test *t)
{
    return stages_sum(base_of(t)) > 0;
}

static enum phx_status write_plot(const struct scale *scale, const struct arguments *a)
{
    FILE *file = fopen(a->plot, "w");
    char title[TITLE_BYTES], error[64] = "";
    if (file == NULL) return phx_fail(PHX_IO, "%s cannot be written", a->plot);
    if (!isnan(scale->worst_error))
        snprintf(error, sizeof error, ", off by up to %.0f %%", 100 * scale->worst_error);
    for (int i = 0; i < scale->n_tests; i++) plot_speedup(file, &scale->tests[i], i);
    fprintf(
        file,
        "set multiplot layout 2,%d title \"%s, %s, %s, commit %s\" noenhanced\n"
        "set style fill solid 0.9\nset grid ytics\nset key top left Left reverse\nset bars small\n",
        scale->n_tests, scale->model, a->machine, a->date, a->commit);
    for (int i = 0; i < scale->n_tests; i++) {
        title_of(&scale->tests[i], title);
        fprintf(
            file,
            "set title \"%s\" noenhanced\nset xlabel 'ranks'\nset ylabel 'speed-up'\n"
            "set logscale xy 2\nset xtics (1,2,4,8,16)\nset yrange [0.5:16]\nset xrange "
            "[0.8:20]\n"
            "plot x with lines lc rgb '#bbbbbb' title 'ideal', $predicted%d with linespoints dt "
            "2 pt 6 lc rgb '#cc7722' title 'predicted%s', $speed%d with yerrorbars pt 7 lc rgb "
            "'#1f5fa8' title 'measured'\nunset logscale\n",
            title, i, error, i);
    }
    fprintf(file, "set style data histograms\nset style histogram rowstacked\nset boxwidth 0.6\n"
                  "set xrange [-0.6:*]\nset yrange [0:*]\nset xtics autofreq\nset ylabel 'ms a "
                  "step'\nset key outside right Left reverse\n");
    for (int i = 0; i < scale->n_tests; i++) {
        title_of(&scale->tests[i], title);
        if (!has_stages(&scale->tests[i])) {
            fprintf(file, "set multiplot next\n");
            continue;
        }
        fprintf(file,
                "set title \"%s\" noenhanced\nplot for [i=2:%d] $stages%d using i:xtic(1) "
                "title columnheader(i)\n",
                title, SCALE_STAGES + 1, i);
    }
    fprintf(file, "unset multiplot\n");
    return fclose(file) == 0 ? PHX_OK : phx_fail(PHX_IO, "%s cannot be written", a->plot);
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
    for (int i = 0; i < scale->n_tests; i++) print_test(&scale->tests[i]);
}

static enum phx_status run(const struct arguments *a, struct scale *scale)
{
    const struct scale_nodes one = {.n = 1};
    PHX_TRY(scale_read(a->rows, scale));
    PHX_TRY(scale_predict(scale, a->also, a->n_also, &one));
    print_all(scale, a);
    if (a->json != NULL) PHX_TRY(write_json(scale, a));
    if (a->plot != NULL) PHX_TRY(write_plot(scale, a));
    if (a->nodes.n == 1) return PHX_OK;
    PHX_TRY(scale_predict(scale, a->also, a->n_also, &a->nodes));
    print_nodes(scale, &a->nodes);
    return PHX_OK;
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
