/* Operations at the shapes of models, each against what the machine can do at best.
 *
 *   bench_ops --device cpu|cuda [--set read,gemv,gemm,decode,prefill,small] [--match TEXT] [--json]
 *             [--threads N] [--commit TEXT]
 *
 * Each number is the median over launches of one graph that holds a chain of launches (on a CPU: of
 * a plain loop). Operands take turns, so that no cache serves what a model would read from memory;
 * all are random. A result is first compared with one computed in double precision, and not timed
 * if it is wrong. --match picks rows whose name contains the text, as "8B T=1 qkv". */
#include "bench/bench_ops.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/base/check.h"
#include "kernels/cpu/peaks.h"

enum {
    REPEATS = 11,
    CPU_REPEATS = 5,
    MAX_COPIES = 512,
    MAX_CHAIN = 400,
    CHAIN_US = 3000,
    NAME_BYTES = 96
};

const struct bench_shape bench_shapes[BENCH_SHAPES] = {
    {"8B", 4096, 14336, 128256, 32, 8, 128, 32},
    {"70B", 8192, 28672, 128256, 64, 8, 128, 80},
    {"0.5B", 896, 4864, 151936, 14, 2, 64, 24},
};

struct set {
    const char *name;
    enum phx_status (*run)(struct bench *b);
};

static const struct set sets[] = {{"gemv", bench_gemv},
                                  {"gemm", bench_gemm},
                                  {"decode", bench_decode},
                                  {"prefill", bench_prefill},
                                  {"small", bench_small}};
enum { N_SETS = sizeof sets / sizeof *sets };

/* ---- operands ---- */

enum phx_status bench_stream(struct bench *b, const struct phx_limits *limits)
{
    phx_stream_destroy(b->stream);
    b->stream = NULL;
    return phx_stream_create(b->device, limits, &b->stream);
}

enum phx_status bench_refill(struct bench *b, struct phx_buffer *buffer, int64_t n, int64_t shift)
{
    const bool narrow = b->info.activation == PHX_BF16;
    const size_t size = phx_dtype_bytes(b->info.activation, 1);
    for (int64_t done = 0; done < n;) {
        int64_t from = (shift + done) % BENCH_RANDOM, some = BENCH_RANDOM - from;
        if (some > n - done) some = n - done;
        const void *values = narrow ? (void *)(b->random_bf16 + from) : (void *)(b->random + from);
        size_t bytes = (size_t)some * size;
        PHX_TRY(phx_buffer_upload(b->stream, buffer, (size_t)done * size, bytes, values, bytes,
                                  bytes, 1));
        done += some;
    }
    return PHX_OK;
}

enum phx_status bench_buffer(struct bench *b, int64_t n, int64_t shift, struct phx_buffer **out)
{
    PHX_TRY(phx_buffer_create(b->device, phx_dtype_bytes(b->info.activation, n), out));
    return bench_refill(b, *out, n, shift);
}

int bench_copies(const struct bench *b, size_t bytes)
{
    struct phx_device_info info;
    phx_device_info(b->device, &info);
    size_t wanted = BENCH_ROTATED_BYTES;
    if (wanted > info.memory_free_bytes / 4) wanted = info.memory_free_bytes / 4;
    size_t copies = (wanted + bytes - 1) / bytes;
    if (copies > MAX_COPIES) copies = MAX_COPIES;
    return copies > 1 ? (int)copies : 1;
}

enum phx_status bench_value(struct bench *b, struct phx_tensor tensor, int64_t row, int64_t col,
                            double *out)
{
    struct phx_tensor one = phx_tensor_cols(phx_tensor_rows(tensor, row, 1), col, 1);
    float wide = 0;
    uint16_t narrow = 0;
    PHX_ASSERT(tensor.dtype == PHX_F32 || tensor.dtype == PHX_BF16);
    PHX_TRY(phx_tensor_download(b->stream, one,
                                tensor.dtype == PHX_F32 ? (void *)&wide : (void *)&narrow));
    PHX_TRY(phx_stream_synchronize(b->stream));
    *out = (double)(tensor.dtype == PHX_F32 ? wide : phx_f32_from_bf16(narrow));
    return PHX_OK;
}

/* ---- rows ---- */

static void name_row(const struct bench_row *row, char name[NAME_BYTES])
{
    int n = snprintf(name, NAME_BYTES, "%s T=%d %s", row->shape, row->tp, row->op);
    if (row->rows > 0) n += snprintf(name + n, NAME_BYTES - (size_t)n, " M=%ld", (long)row->rows);
    if (row->batch > 0)
        snprintf(name + n, NAME_BYTES - (size_t)n, " B=%ld C=%ld", (long)row->batch,
                 (long)row->context);
}

bool bench_wants(const struct bench *b, const struct bench_row *row)
{
    char name[NAME_BYTES];
    name_row(row, name);
    return b->match == NULL || strstr(name, b->match) != NULL;
}

static void print_json(const struct bench *b, const struct bench_row *row)
{
    const double seconds = 1e-6 * row->us;
    printf("{\"set\": \"%s\", \"by\": \"phalanx\", \"shape\": \"%s\", \"tp\": %d, \"op\": \"%s\"",
           row->set, row->shape, row->tp, row->op);
    if (row->rows > 0) printf(", \"rows\": %ld", (long)row->rows);
    if (row->batch > 0)
        printf(", \"batch\": %ld, \"context\": %ld", (long)row->batch, (long)row->context);
    if (row->in > 0) printf(", \"in\": %ld, \"out\": %ld", (long)row->in, (long)row->out);
    if (row->us > 0) printf(", \"us\": %.3f", row->us);
    if (row->bytes > 0) {
        printf(", \"gb_per_s\": %.1f", 1e-9 * row->bytes / seconds);
        printf(", \"of_read\": %.3f", row->bytes / seconds / b->read);
    }
    if (row->flops > 0) printf(", \"tflop_per_s\": %.2f", 1e-12 * row->flops / seconds);
    printf("}\n");
}

static void print_text(const struct bench *b, const struct bench_row *row)
{
    char name[NAME_BYTES], dimensions[NAME_BYTES] = "";
    const double seconds = 1e-6 * row->us;
    name_row(row, name);
    if (row->in > 0)
        snprintf(dimensions, sizeof dimensions, "%ld->%ld", (long)row->in, (long)row->out);
    printf("%-8s %-40s %-14s %11.2f us", row->set, name, dimensions, row->us);
    if (row->bytes > 0)
        printf(" %8.1f GB/s %5.3f of read", 1e-9 * row->bytes / seconds,
               row->bytes / seconds / b->read);
    if (row->flops > 0) printf(" %8.2f TFLOP/s", 1e-12 * row->flops / seconds);
    printf("\n");
}

void bench_print(const struct bench *b, const struct bench_row *row)
{
    (b->json ? print_json : print_text)(b, row);
    fflush(stdout);
}

/* ---- chains ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, by_value);
    return values[n / 2];
}

/* Long enough that a launch of the graph itself does not count. */
static int chain_length(const struct bench *b, const struct bench_case *c,
                        const struct bench_row *row)
{
    double us = 1.0 + 1e6 * row->bytes / b->read + row->flops / 600e6;
    int n = us * MAX_CHAIN < CHAIN_US ? MAX_CHAIN : (int)(CHAIN_US / us);
    if (n < c->at_least) n = c->at_least;
    if (c->at_most > 0 && n > c->at_most) n = c->at_most;
    return n > 1 ? n : 1;
}

static enum phx_status record(struct bench *b, const struct bench_case *c, int n,
                              struct phx_graph **out)
{
    enum phx_status status = PHX_OK;
    PHX_TRY(phx_graph_begin(b->stream));
    for (int i = 0; i < n && status == PHX_OK; i++) status = c->launch(b, c->user, i);
    if (status == PHX_OK) return phx_graph_end(b->stream, out);
    phx_graph_end(b->stream, NULL);
    return status;
}

static enum phx_status time_graph(struct bench *b, struct phx_graph *graph, int n, double *us)
{
    double all[REPEATS];
    for (int i = -1; i < REPEATS; i++) { /* the first warms up */
        float ms;
        PHX_TRY(phx_event_record(b->begin, b->stream));
        PHX_TRY(phx_graph_launch(graph, b->stream));
        PHX_TRY(phx_event_record(b->end, b->stream));
        PHX_TRY(phx_stream_synchronize(b->stream));
        PHX_TRY(phx_event_elapsed_ms(b->begin, b->end, &ms));
        all[i < 0 ? 0 : i] = 1e3 * (double)ms / n;
    }
    *us = median(all, REPEATS);
    return PHX_OK;
}

/* Once without a graph, because libraries set up on first use what may take long. */
static enum phx_status measure_graph(struct bench *b, const struct bench_case *c, int n, double *us)
{
    struct phx_graph *graph = NULL;
    enum phx_status status;
    PHX_TRY(c->prepare(b, c->user));
    PHX_TRY(c->launch(b, c->user, 0));
    PHX_TRY(record(b, c, n, &graph));
    PHX_TRY_GOTO(c->prepare(b, c->user), done);
    PHX_TRY_GOTO(phx_graph_launch(graph, b->stream), done);
    PHX_TRY_GOTO(phx_stream_synchronize(b->stream), done);
    PHX_TRY_GOTO(c->judge(b, c->user, n), done);
    PHX_TRY_GOTO(time_graph(b, graph, n, us), done);
done:
    phx_graph_destroy(graph);
    return status;
}

static enum phx_status measure_loop(struct bench *b, const struct bench_case *c, double *us)
{
    double all[CPU_REPEATS];
    PHX_TRY(c->prepare(b, c->user));
    PHX_TRY(c->launch(b, c->user, 0));
    PHX_TRY(c->judge(b, c->user, 1));
    for (int i = 0; i < CPU_REPEATS; i++) {
        double begin = phx_peak_seconds();
        PHX_TRY(c->launch(b, c->user, 1 + i));
        all[i] = 1e6 * (phx_peak_seconds() - begin);
    }
    *us = median(all, CPU_REPEATS);
    return PHX_OK;
}

enum phx_status bench_measure(struct bench *b, const struct bench_case *c, struct bench_row *row)
{
    char name[NAME_BYTES];
    row->us = 0;
    enum phx_status status = b->info.has_graphs
                                 ? measure_graph(b, c, chain_length(b, c, row), &row->us)
                                 : measure_loop(b, c, &row->us);
    if (status == PHX_OK) bench_print(b, row);
    if (status != PHX_BAD_DATA) return status;
    name_row(row, name);
    fprintf(stderr, "%s %s is wrong and not timed: %s\n", row->set, name, phx_fail_sentence());
    phx_fail_clear();
    b->n_wrong++;
    return PHX_OK;
}

/* ---- the program ---- */

struct options {
    enum phx_device_kind kind;
    const char *sets, *commit;
};

static bool has_set(const char *list, const char *name)
{
    const size_t length = strlen(name);
    for (const char *at = list; at != NULL; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, name, length) == 0 && (at[length] == ',' || at[length] == '\0'))
            return true;
    }
    return false;
}

static bool known_sets(const char *list)
{
    size_t length = 0;
    for (const char *at = list; *at != '\0'; at += at[length] == ',' ? length + 1 : length) {
        length = strcspn(at, ",");
        bool known = length == 4 && strncmp(at, "read", 4) == 0;
        for (int i = 0; i < N_SETS; i++)
            known |= strlen(sets[i].name) == length && strncmp(at, sets[i].name, length) == 0;
        if (!known) return false;
    }
    return *list != '\0';
}

static bool parse(int argc, char **argv, struct bench *b, struct options *o)
{
    static const struct option long_options[] = {{"device", required_argument, NULL, 'd'},
                                                 {"set", required_argument, NULL, 's'},
                                                 {"match", required_argument, NULL, 'm'},
                                                 {"threads", required_argument, NULL, 't'},
                                                 {"commit", required_argument, NULL, 'c'},
                                                 {"json", no_argument, NULL, 'j'},
                                                 {NULL, 0, NULL, 0}};
    bool has_device = false;
    int option;
    while ((option = getopt_long(argc, argv, "t:", long_options, NULL)) != -1) {
        if (option == 'd') {
            o->kind = strcmp(optarg, "cuda") == 0 ? PHX_DEVICE_CUDA : PHX_DEVICE_CPU;
            has_device = strcmp(optarg, "cuda") == 0 || strcmp(optarg, "cpu") == 0;
        } else if (option == 's') {
            o->sets = optarg;
        } else if (option == 'm') {
            b->match = optarg;
        } else if (option == 't') {
            b->n_threads = atoi(optarg);
        } else if (option == 'c') {
            o->commit = optarg;
        } else if (option == 'j') {
            b->json = true;
        } else {
            return false;
        }
    }
    return has_device && optind == argc && b->n_threads >= 1 && known_sets(o->sets);
}

static enum phx_status open_bench(struct bench *b, enum phx_device_kind kind)
{
    struct phx_device_options options = {.kind = kind, .n_threads = b->n_threads};
    options.compute = kind == PHX_DEVICE_CUDA ? PHX_BF16 : PHX_F32;
    PHX_TRY(phx_device_create(&options, &b->device));
    phx_device_info(b->device, &b->info);
    PHX_TRY(phx_event_create(b->device, &b->begin));
    PHX_TRY(phx_event_create(b->device, &b->end));
    b->random = malloc(BENCH_RANDOM * sizeof *b->random);
    b->random_bf16 = malloc(BENCH_RANDOM * sizeof *b->random_bf16);
    if (b->random == NULL || b->random_bf16 == NULL)
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for random numbers");
    for (int i = 0; i < BENCH_RANDOM; i++) {
        b->random[i] = phx_dummy_unit(4711u, (uint32_t)i);
        b->random_bf16[i] = phx_bf16_from_f32(b->random[i]);
        if (b->info.activation == PHX_BF16) b->random[i] = phx_f32_from_bf16(b->random_bf16[i]);
    }
    return PHX_OK;
}

static void print_head(const struct bench *b, const char *commit, int argc, char **argv)
{
    char date[32];
    time_t now = time(NULL);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%MZ", gmtime(&now));
    printf(b->json ? "{\"machine\": \"%s\", \"date\": \"%s\", \"commit\": \"%s\", \"command\": \""
                   : "machine %s, date %s, commit %s, command ",
           b->info.name, date, commit);
    for (int i = 0; i < argc; i++) printf("%s%s", i > 0 ? " " : "", i > 0 ? argv[i] : "bench_ops");
    printf(b->json ? "\"}\n" : "\n");
}

static enum phx_status run(struct bench *b, const struct options *o)
{
    PHX_TRY(bench_read(b)); /* the yardstick of the others */
    for (int i = 0; i < N_SETS; i++)
        if (has_set(o->sets, sets[i].name)) PHX_TRY(sets[i].run(b));
    return PHX_OK;
}

int main(int argc, char **argv)
{
    struct bench b = {.n_threads = (int)sysconf(_SC_NPROCESSORS_ONLN)};
    struct options o = {.sets = "read,gemv,gemm,decode,prefill,small", .commit = "unknown"};
    if (!parse(argc, argv, &b, &o)) {
        fprintf(stderr,
                "usage: %s --device cpu|cuda [--set read,gemv,gemm,decode,prefill,small] "
                "[--match TEXT] [--threads N] [--commit TEXT] [--json]\n",
                argv[0]);
        return 2;
    }
    enum phx_status status = open_bench(&b, o.kind);
    if (status == PHX_OK) {
        print_head(&b, o.commit, argc, argv);
        status = run(&b, &o);
    }
    if (status != PHX_OK) fprintf(stderr, "%s\n", phx_fail_sentence());
    if (b.n_wrong > 0) fprintf(stderr, "%d results are wrong\n", b.n_wrong);
    phx_event_destroy(b.begin);
    phx_event_destroy(b.end);
    phx_stream_destroy(b.stream);
    phx_device_destroy(b.device);
    free(b.random);
    free(b.random_bf16);
    return status == PHX_OK && b.n_wrong == 0 ? 0 : 1;
}
