/* Products of a Llama-3.2-1B's shapes: bytes per second of a few rows and operations per second of
 * many, beside what this machine can do at best. A row is printed only if its result was right. */
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/check.h"
#include "kernels/cpu/peaks.h"
#include "kernels/ops.h"

enum { HIDDEN = 2048, FFN = 8192, FEW = 8, MANY = 512, MAX_COPIES = 256, SAMPLES = 64 };

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

/* A product with its operands. Enough copies of the weight that none is still in a cache when its
 * turn comes again. */
struct operands {
    const struct product *product;
    struct phx_weight *weights[MAX_COPIES];
    int n_weights;
    struct phx_buffer *x_buffer, *out_buffer;
    struct phx_tensor x, out; /* the rows to use */
    float *x_host;            /* [MANY][in] */
};

static int64_t weight_rows(const struct product *product)
{
    return product->gated ? 2 * product->out : product->out;
}

/* Few rows of a prompt have logits. */
static int64_t most_rows(const struct product *product)
{
    return product->out > FFN ? FEW : MANY;
}

static void close_operands(struct operands *o)
{
    for (int i = 0; i < o->n_weights; i++) phx_weight_destroy(o->weights[i]);
    phx_buffer_destroy(o->x_buffer);
    phx_buffer_destroy(o->out_buffer);
    free(o->x_host);
}

static enum phx_status make_weights(struct bench *b, struct operands *o)
{
    struct phx_weight_shape shape = {
        .dtype = PHX_BF16, .rows = weight_rows(o->product), .cols = o->product->in};
    struct phx_dummy dummy = {phx_dummy_key(o->product->name), 0.0f, 0.05f};
    struct phx_device_info info;
    phx_device_info(b->device, &info);
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    size_t bytes = phx_weight_bytes(b->device, &shape);
    size_t wanted = 4 * (cache > 0 ? (size_t)cache : (size_t)64 << 20);
    if (wanted > info.memory_free_bytes / 2) wanted = info.memory_free_bytes / 2;
    do {
        struct phx_weight **weight = &o->weights[o->n_weights];
        PHX_TRY(phx_weight_create(b->device, &shape, weight));
        o->n_weights++;
        PHX_TRY(phx_weight_write_dummy(b->stream, *weight, 0, shape.rows, &dummy, 0, 0));
    } while ((size_t)o->n_weights * bytes < wanted && o->n_weights < MAX_COPIES);
    return PHX_OK;
}

static enum phx_status open_operands(struct bench *b, const struct product *product,
                                     struct operands *o)
{
    int64_t rows = most_rows(product);
    size_t x_bytes = phx_dtype_bytes(PHX_F32, rows * product->in);
    size_t out_bytes = phx_dtype_bytes(PHX_F32, rows * product->out);
    *o = (struct operands){.product = product};
    PHX_TRY(make_weights(b, o));
    PHX_TRY(phx_buffer_create(b->device, x_bytes, &o->x_buffer));
    PHX_TRY(phx_buffer_create(b->device, out_bytes, &o->out_buffer));
    o->x = phx_tensor_view(o->x_buffer, 0, PHX_F32, rows, product->in);
    o->x_host = malloc(x_bytes);
    PHX_ASSERT(o->x_host != NULL);
    for (int64_t i = 0; i < rows * product->in; i++)
        o->x_host[i] = phx_dummy_unit(12345u, (uint32_t)i);
    return phx_tensor_upload(b->stream, o->x, o->x_host);
}

static void use_rows(struct operands *o, int64_t rows)
{
    o->x = phx_tensor_view(o->x_buffer, 0, PHX_F32, rows, o->product->in);
    o->out = phx_tensor_view(o->out_buffer, 0, PHX_F32, rows, o->product->out);
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

/* What output (row, col) should be, from the weight's rows as the device gives them back. */
static enum phx_status expect(struct bench *b, const struct operands *o, int64_t row, int64_t col,
                              double *expected, double *size)
{
    const struct product *p = o->product;
    float w[FFN];
    double up_size = 0.0;
    PHX_ASSERT(p->in <= FFN);
    PHX_TRY(phx_weight_read(b->stream, o->weights[0], col, 1, w));
    *size = 0.0;
    *expected = exact(b, o, w, row, size);
    if (!p->gated) return PHX_OK;
    PHX_TRY(phx_weight_read(b->stream, o->weights[0], p->out + col, 1, w));
    *expected = *expected / (1.0 + exp(-*expected)) * exact(b, o, w, row, &up_size);
    *size = (1.0 + *size) * (1.0 + up_size);
    return PHX_OK;
}

/* Compare some outputs of the last product; `right` becomes false where one is wrong. */
static enum phx_status judge(struct bench *b, const struct operands *o, bool *right)
{
    const struct product *p = o->product;
    for (int i = 0; i < SAMPLES; i++) {
        int64_t row = i * (o->out.rows - 1) / (SAMPLES - 1), col = i * (p->out - 1) / (SAMPLES - 1);
        struct phx_tensor output = phx_tensor_cols(phx_tensor_rows(o->out, row, 1), col, 1);
        double expected, size;
        float got;
        PHX_TRY(expect(b, o, row, col, &expected, &size));
        PHX_TRY(phx_tensor_download(b->stream, output, &got));
        if (fabs((double)got - expected) <= 1e-6 * size) continue;
        fprintf(stderr, "%s, %ld rows: output [%ld, %ld] is %g instead of %g\n", p->name,
                (long)o->x.rows, (long)row, (long)col, (double)got, expected);
        *right = false;
        return PHX_OK;
    }
    return PHX_OK;
}

/* ---- rows ---- */

static void print_row(struct bench *b, const struct operands *o, double seconds)
{
    const struct product *p = o->product;
    double values = (double)weight_rows(p) * (double)p->in;
    double bytes_rate = 2.0 * values / seconds, rate = 2.0 * (double)o->x.rows * values / seconds;
    double of_read = bytes_rate / b->peaks.read, of_f32 = rate / b->peaks.f32;
    if (b->options.json) {
        printf("%s\n    {\"product\": \"%s\", \"rows\": %ld, \"in\": %ld, \"out\": %ld, "
               "\"us\": %.1f, \"gb_per_s\": %.2f, \"of_read\": %.3f, \"gflop_per_s\": %.1f, "
               "\"of_f32\": %.3f",
               b->first_row ? "" : ",", p->name, (long)o->x.rows, (long)p->in, (long)p->out,
               1e6 * seconds, 1e-9 * bytes_rate, of_read, 1e-9 * rate, of_f32);
        if (b->peaks.bf16 > 0) printf(", \"of_bf16\": %.3f", rate / b->peaks.bf16);
        printf("}");
    } else {
        printf("%-8s %4ld x %4ld -> %6ld  %10.1f us  %6.2f GB/s %5.2f  %7.1f GFLOP/s %5.2f",
               p->name, (long)o->x.rows, (long)p->in, (long)p->out, 1e6 * seconds,
               1e-9 * bytes_rate, of_read, 1e-9 * rate, of_f32);
        if (b->peaks.bf16 > 0) printf(" %5.2f", rate / b->peaks.bf16);
        printf("\n");
    }
    b->first_row = false;
    fflush(stdout);
}

/* Others may use the machine: each run is timed, and the best of some, over half a second, counts.
 */
static enum phx_status measure(struct bench *b, const struct operands *o, bool *all_right)
{
    bool right = true;
    PHX_TRY(run_once(b, o, 0));
    PHX_TRY(judge(b, o, &right));
    *all_right &= right;
    if (!right) return PHX_OK;
    double best = INFINITY, begin = phx_peak_seconds();
    for (int i = 1; i < 5 || phx_peak_seconds() - begin < 0.5; i++) {
        double from = phx_peak_seconds();
        PHX_TRY(run_once(b, o, i));
        double seconds = phx_peak_seconds() - from;
        if (seconds < best) best = seconds;
    }
    print_row(b, o, best);
    return PHX_OK;
}

static enum phx_status measure_product(struct bench *b, const struct product *product,
                                       bool *all_right)
{
    static const int64_t n_rows[] = {1, 2, 4, FEW, MANY};
    struct operands o;
    enum phx_status status;
    PHX_TRY_GOTO(open_operands(b, product, &o), done);
    for (size_t i = 0; i < sizeof n_rows / sizeof *n_rows; i++) {
        if (n_rows[i] > most_rows(product)) continue;
        use_rows(&o, n_rows[i]);
        PHX_TRY_GOTO(measure(b, &o, all_right), done);
    }
done:
    close_operands(&o);
    return status;
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
        for (size_t p = 0; p < sizeof products / sizeof *products && status == PHX_OK; p++)
            status = measure_product(&b, &products[p], &all_right);
        if (b.options.json) printf("\n]}\n");
    }
    if (status != PHX_OK) fprintf(stderr, "%s\n", phx_fail_sentence());
    phx_stream_destroy(b.stream);
    phx_device_destroy(b.device);
    return status == PHX_OK && all_right ? 0 : 1;
}
