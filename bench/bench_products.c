/* Products of a Llama-3.2-1B's shapes: bytes per second of a few rows and operations per second of
 * many, beside what this machine can do at best. A row is printed only if its result was right. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/peaks.h"
#include "kernels/base/check.h"
#include "kernels/ops.h"

enum { HIDDEN = 2048, FFN = 8192, MANY = 512, MAX_COPIES = 256, SAMPLES = 64 };

struct options {
    int n_threads;
    const char *isa;
    enum phx_dtype compute;
    bool json;
};

struct peaks {
    double read, f32, bf16;
};

struct product {
    const char *name;
    int64_t in, out; /* out: columns of the result; a gated weight has twice as many rows */
    bool gated;
};

static const struct product products[] = {
    {"qkv", HIDDEN, 3072, false},       {"o", HIDDEN, HIDDEN, false},
    {"gate_up", HIDDEN, FFN, true},     {"down", FFN, HIDDEN, false},
    {"lm_head", HIDDEN, 128256, false},
};

struct bench {
    struct options options;
    struct phx_device *device;
    struct phx_stream *stream;
    struct peaks peaks;
    bool first_row;
};

/* One product with its operands. Enough copies of the weight that none is still in a cache when its
 * turn comes again. */
struct operands {
    const struct product *product;
    int64_t n_rows;
    struct phx_weight *weights[MAX_COPIES];
    int n_weights;
    struct phx_buffer *x_buffer, *out_buffer;
    struct phx_tensor x, out;
    float *x_host; /* [n_rows][in] */
};

static int64_t weight_rows(const struct product *product)
{
    return product->gated ? 2 * product->out : product->out;
}

static void close_operands(struct operands *o)
{
    for (int i = 0; i < o->n_weights; i++) phx_weight_destroy(o->weights[i]);
    phx_buffer_destroy(o->x_buffer);
    phx_buffer_destroy(o->out_buffer);
    free(o->x_host);
}

static enum phx_status open_operands(struct bench *b, const struct product *product, int64_t n_rows,
                                     struct operands *o)
{
    struct phx_weight_shape shape = {PHX_BF16, weight_rows(product), product->in};
    size_t weight_bytes = phx_weight_bytes(b->device, &shape);
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    size_t wanted = n_rows < MANY ? 2 * (size_t)(cache > 0 ? cache : 64 << 20) : 0;
    *o = (struct operands){.product = product, .n_rows = n_rows};
    struct phx_dummy dummy = {phx_dummy_key(product->name), 0.0f, 0.05f};
    do {
        PHX_TRY(phx_weight_create(b->device, &shape, &o->weights[o->n_weights]));
        o->n_weights++;
        PHX_TRY(phx_weight_write_dummy(b->stream, o->weights[o->n_weights - 1], 0, shape.rows,
                                       &dummy, 0, 0));
    } while ((size_t)o->n_weights * weight_bytes < wanted && o->n_weights < MAX_COPIES);

    size_t x_bytes = phx_dtype_bytes(PHX_F32, n_rows * product->in);
    size_t out_bytes = phx_dtype_bytes(PHX_F32, n_rows * product->out);
    PHX_TRY(phx_buffer_create(b->device, x_bytes, &o->x_buffer));
    PHX_TRY(phx_buffer_create(b->device, out_bytes, &o->out_buffer));
    o->x = phx_tensor_view(o->x_buffer, 0, PHX_F32, n_rows, product->in);
    o->out = phx_tensor_view(o->out_buffer, 0, PHX_F32, n_rows, product->out);
    o->x_host = malloc(x_bytes);
    PHX_ASSERT(o->x_host != NULL);
    for (int64_t i = 0; i < n_rows * product->in; i++)
        o->x_host[i] = phx_dummy_unit(12345u, (uint32_t)i);
    return phx_tensor_upload(b->stream, o->x, o->x_host);
}

static enum phx_status run_once(struct bench *b, const struct operands *o, int which)
{
    const struct phx_weight *weight = o->weights[which % o->n_weights];
    if (o->product->gated) {
        struct phx_gate_up args = {
            .x = o->x, .weight = weight, .activation = PHX_SILU, .out = o->out};
        PHX_TRY(phx_op_gate_up(b->stream, &args));
    } else {
        struct phx_linear args = {.x = o->x, .weight = weight, .out = o->out};
        PHX_TRY(phx_op_linear(b->stream, &args));
    }
    return phx_stream_synchronize(b->stream);
}

/* ---- the judge ---- */

/* x[row] times a row of the weight, in double precision; `size` grows with its rounding. */
static double exact(const struct bench *b, const struct operands *o, const float *w, int64_t row,
                    double *size)
{
    double sum = 0.0;
    for (int64_t k = 0; k < o->product->in; k++) {
        float x = o->x_host[row * o->product->in + k];
        if (b->options.compute == PHX_BF16) x = phx_f32_from_bf16(phx_bf16_from_f32(x));
        sum += (double)x * (double)w[k];
        *size += fabs((double)x * (double)w[k]);
    }
    return sum;
}

static bool right(struct bench *b, const struct operands *o)
{
    const struct product *p = o->product;
    float *out = malloc(phx_dtype_bytes(PHX_F32, o->n_rows * p->out));
    float *w = malloc(phx_dtype_bytes(PHX_F32, p->in));
    PHX_ASSERT(out != NULL && w != NULL);
    bool ok = phx_tensor_download(b->stream, o->out, out) == PHX_OK;
    for (int i = 0; i < SAMPLES && ok; i++) {
        int64_t row = i * (o->n_rows - 1) / (SAMPLES - 1), col = i * (p->out - 1) / (SAMPLES - 1);
        double size = 0.0, up_size = 0.0;
        ok = phx_weight_read(b->stream, o->weights[0], col, 1, w) == PHX_OK;
        double expected = exact(b, o, w, row, &size);
        if (ok && p->gated) {
            ok = phx_weight_read(b->stream, o->weights[0], p->out + col, 1, w) == PHX_OK;
            expected = expected / (1.0 + exp(-expected)) * exact(b, o, w, row, &up_size);
            size = (1.0 + size) * (1.0 + up_size);
        }
        double got = (double)out[row * p->out + col];
        if (!ok || fabs(got - expected) <= 1e-6 * size) continue;
        fprintf(stderr, "%s, %ld rows: output [%ld, %ld] is %g instead of %g\n", p->name,
                (long)o->n_rows, (long)row, (long)col, got, expected);
        ok = false;
    }
    free(w);
    free(out);
    return ok;
}

/* ---- rows ---- */

static void print_row(struct bench *b, const struct operands *o, double seconds)
{
    const struct product *p = o->product;
    double values = (double)weight_rows(p) * (double)p->in;
    double bytes_rate = 2.0 * values / seconds, rate = 2.0 * (double)o->n_rows * values / seconds;
    double of_read = bytes_rate / b->peaks.read, of_f32 = rate / b->peaks.f32;
    if (b->options.json) {
        printf("%s\n    {\"product\": \"%s\", \"rows\": %ld, \"in\": %ld, \"out\": %ld, "
               "\"us\": %.1f, \"gb_per_s\": %.2f, \"of_read\": %.3f, \"gflop_per_s\": %.1f, "
               "\"of_f32\": %.3f",
               b->first_row ? "" : ",", p->name, (long)o->n_rows, (long)p->in, (long)p->out,
               1e6 * seconds, 1e-9 * bytes_rate, of_read, 1e-9 * rate, of_f32);
        if (b->peaks.bf16 > 0) printf(", \"of_bf16\": %.3f", rate / b->peaks.bf16);
        printf("}");
    } else {
        printf("%-8s %4ld x %4ld -> %6ld  %10.1f us  %6.2f GB/s %5.2f  %7.1f GFLOP/s %5.2f",
               p->name, (long)o->n_rows, (long)p->in, (long)p->out, 1e6 * seconds,
               1e-9 * bytes_rate, of_read, 1e-9 * rate, of_f32);
        if (b->peaks.bf16 > 0) printf(" %5.2f", rate / b->peaks.bf16);
        printf("\n");
    }
    b->first_row = false;
    fflush(stdout);
}

/* Others may use the machine: each run is timed, and the best of some, over about half a second,
 * counts. */
static enum phx_status measure(struct bench *b, const struct product *product, int64_t n_rows,
                               bool *all_right)
{
    struct operands o = {0};
    enum phx_status status;
    double best = INFINITY, begin = phx_bench_seconds();
    PHX_TRY_GOTO(open_operands(b, product, n_rows, &o), done);
    PHX_TRY_GOTO(run_once(b, &o, 0), done);
    if (!right(b, &o)) {
        *all_right = false;
        goto done;
    }
    begin = phx_bench_seconds();
    for (int i = 1; i < 5 || phx_bench_seconds() - begin < 0.5; i++) {
        double from = phx_bench_seconds();
        PHX_TRY_GOTO(run_once(b, &o, i), done);
        double seconds = phx_bench_seconds() - from;
        if (seconds < best) best = seconds;
    }
    print_row(b, &o, best);
done:
    close_operands(&o);
    return status;
}

static enum phx_status measure_all(struct bench *b, bool *all_right)
{
    static const int64_t n_rows[] = {1, 2, 4, 8, MANY};
    for (size_t n = 0; n < sizeof n_rows / sizeof *n_rows; n++)
        for (size_t p = 0; p < sizeof products / sizeof *products; p++) {
            if (n_rows[n] == MANY && products[p].out > 2 * FFN) continue; /* few rows have logits */
            PHX_TRY(measure(b, &products[p], n_rows[n], all_right));
        }
    return PHX_OK;
}

static enum phx_status open_bench(struct bench *b)
{
    struct phx_device_options options = {.kind = PHX_DEVICE_CPU,
                                         .n_threads = b->options.n_threads,
                                         .isa = b->options.isa,
                                         .compute = b->options.compute};
    struct phx_limits limits = {.max_rows = MANY, .max_in = FFN, .max_out = 2 * FFN};
    PHX_TRY(phx_device_create(&options, &b->device));
    PHX_TRY(phx_stream_create(b->device, &limits, &b->stream));
    enum phx_cpu_isa isa;
    PHX_TRY(phx_isa_choose(b->options.isa, &isa));
    struct phx_pool *pool;
    PHX_TRY(phx_pool_create(b->options.n_threads, NULL, false, &pool));
    b->peaks = (struct peaks){.read = phx_peak_read(pool), .f32 = phx_peak_f32(pool, isa)};
    if (b->options.compute == PHX_BF16) b->peaks.bf16 = phx_peak_bf16(pool, phx_isa_best());
    phx_pool_destroy(pool);
    return PHX_OK;
}

static void print_head(const struct bench *b)
{
    struct phx_device_info info;
    phx_device_info(b->device, &info);
    if (b->options.json)
        printf("{\"device\": \"%s\", \"read_gb_per_s\": %.2f, \"f32_gflop_per_s\": %.1f, "
               "\"bf16_gflop_per_s\": %.1f, \"products\": [",
               info.name, 1e-9 * b->peaks.read, 1e-9 * b->peaks.f32, 1e-9 * b->peaks.bf16);
    else
        printf("%s: reads %.2f GB/s, f32 %.1f GFLOP/s, bf16 dot products %.1f GFLOP/s\n"
               "(fractions: of the read bandwidth, of the f32 peak, of the bf16 peak)\n",
               info.name, 1e-9 * b->peaks.read, 1e-9 * b->peaks.f32, 1e-9 * b->peaks.bf16);
}

static bool parse(int argc, char **argv, struct options *options)
{
    static const struct option long_options[] = {{"threads", required_argument, NULL, 't'},
                                                 {"isa", required_argument, NULL, 'i'},
                                                 {"dtype", required_argument, NULL, 'd'},
                                                 {"json", no_argument, NULL, 'j'},
                                                 {NULL, 0, NULL, 0}};
    *options =
        (struct options){.n_threads = (int)sysconf(_SC_NPROCESSORS_ONLN), .compute = PHX_F32};
    int option;
    while ((option = getopt_long(argc, argv, "t:", long_options, NULL)) != -1) {
        if (option == 't')
            options->n_threads = atoi(optarg);
        else if (option == 'i')
            options->isa = optarg;
        else if (option == 'j')
            options->json = true;
        else if (option == 'd' && strcmp(optarg, "bfloat16") == 0)
            options->compute = PHX_BF16;
        else if (option != 'd' || strcmp(optarg, "float32") != 0)
            return false;
    }
    return optind == argc && options->n_threads >= 1;
}

int main(int argc, char **argv)
{
    struct bench b = {.first_row = true};
    if (!parse(argc, argv, &b.options)) {
        fprintf(stderr,
                "usage: %s [--threads N] [--isa portable|avx2|avx512|avx512_bf16] "
                "[--dtype float32|bfloat16] [--json]\n",
                argv[0]);
        return 2;
    }
    bool all_right = true;
    enum phx_status status = open_bench(&b);
    if (status == PHX_OK) {
        print_head(&b);
        status = measure_all(&b, &all_right);
        if (b.options.json) printf("\n]}\n");
    }
    if (status != PHX_OK) fprintf(stderr, "%s\n", phx_fail_sentence());
    phx_stream_destroy(b.stream);
    phx_device_destroy(b.device);
    return status == PHX_OK && all_right ? 0 : 1;
}
