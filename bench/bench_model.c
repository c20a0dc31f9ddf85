/* Decode and prefill of a whole model with made-up weights, against what the same program measures
 * that the machine can read and multiply. Under mpirun the ranks measure together and the
 * yardsticks are their sums.
 *
 *   bench_model -m DIR [-t THREADS] [--dtype float32|bfloat16] [--prompt N] [--decode N] [--repeat
 * N]
 *
 * One JSON object a line on stdout. A fraction is time at the yardstick's rate over measured time.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "kernels/cpu/peaks.h"
#include "launch/placement.h"
#include "launch/run.h"
#include "launch/world_mpi.h"

enum { MAX_REPEAT = 64 };

struct bench {
    const char *model;
    int threads, prompt, decode, repeat;
    bool bf16;
    double read, f32, bf16_peak; /* bytes and operations per second of all ranks */
    double prefill_seconds[MAX_REPEAT], decode_seconds[MAX_REPEAT]; /* a prompt; a token */
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static enum phx_status sum_over_ranks(struct phx_world *world, double *value)
{
    double *all = calloc((size_t)world->size, sizeof *all);
    if (all == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the yardsticks");
    enum phx_status status = phx_world_allgather(world, value, sizeof *value, all);
    *value = 0;
    for (int r = 0; r < world->size; r++) *value += all[r];
    free(all);
    return status;
}

static enum phx_status measure_peaks(struct phx_world *world, struct bench *b,
                                     const struct phx_placement *placement)
{
    struct phx_pool *pool = NULL;
    PHX_TRY(phx_world_agree(world,
                            phx_pool_create(placement->n_threads, placement->cpus, false, &pool)));
    enum phx_cpu_isa isa = phx_isa_best();
    PHX_TRY(phx_world_barrier(world));
    b->read = phx_peak_read(pool);
    PHX_TRY(phx_world_barrier(world));
    b->f32 = phx_peak_f32(pool, isa);
    PHX_TRY(phx_world_barrier(world));
    b->bf16_peak = phx_peak_bf16(pool, isa);
    phx_pool_destroy(pool);
    PHX_TRY(sum_over_ranks(world, &b->read));
    PHX_TRY(sum_over_ranks(world, &b->f32));
    return sum_over_ranks(world, &b->bf16_peak);
}

/* One request; the seconds of its prompt's steps and of its other steps. */
static enum phx_status time_request(struct phx_engine *engine, int n_prompt, int max_new,
                                    double *prompt_seconds, double *decode_seconds)
{
    int32_t *ids = malloc((size_t)n_prompt * sizeof *ids);
    struct phx_request *request = NULL;
    struct phx_engine_counters before, after;
    if (ids == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a prompt");
    for (int i = 0; i < n_prompt; i++) ids[i] = 100 + i;
    struct phx_request_options o = {.prompt_ids = ids,
                                    .n_prompt = n_prompt,
                                    .max_new = max_new,
                                    .sampling = {.top_p = 1, .repeat_penalty = 1}};
    phx_engine_counters(engine, &before);
    enum phx_status status = phx_request_create(&o, &request);
    if (status == PHX_OK) status = phx_engine_submit(engine, request);
    for (bool worked = true; worked && status == PHX_OK;) status = phx_engine_step(engine, &worked);
    phx_engine_counters(engine, &after);
    *prompt_seconds = after.prompt_seconds - before.prompt_seconds;
    *decode_seconds = after.decode_seconds - before.decode_seconds;
    phx_request_destroy(request);
    free(ids);
    return status;
}

static enum phx_status lead(struct phx_run *run, struct bench *b)
{
    double unused = 0, prompt = 0, decode = 0;
    PHX_TRY(time_request(run->engine, b->prompt, 2, &prompt, &unused)); /* warm-up */
    for (int i = 0; i < b->repeat; i++) {
        PHX_TRY(time_request(run->engine, b->prompt, 1, &b->prefill_seconds[i], &unused));
        PHX_TRY(time_request(run->engine, 16, b->decode + 1, &unused, &decode));
        b->decode_seconds[i] = decode / b->decode;
    }
    return phx_engine_stop(run->engine);
}

/* Weight bytes that a token reads: all matrices, the embedding only where it is the head too. */
static double decode_bytes(const struct phx_config *c)
{
    double parameters = (double)phx_config_parameters(c);
    if (!c->tied) parameters -= (double)c->vocab * (double)c->hidden;
    double kv = 0, context = 16;
    for (int32_t l = 0; l < c->n_layers; l++)
        kv += 2 * context * c->layers[l].shape.n_kv_heads * c->layers[l].shape.head_dim * 4;
    return parameters * (double)phx_dtype_bytes(c->dtype, 1) + kv;
}

/* Multiplies and adds of a prompt of n: the last layer's feed-forward and the head see one row. */
static double prefill_operations(const struct phx_config *c, double n)
{
    double total = 2.0 * (double)c->vocab * (double)c->hidden;
    for (int32_t l = 0; l < c->n_layers; l++) {
        const struct phx_layer_shape *s = &c->layers[l].shape;
        double e = (double)c->hidden, q = (double)s->n_heads * s->head_dim;
        double kv = (double)s->n_kv_heads * s->head_dim, rows = l + 1 < c->n_layers ? n : 1;
        total += 2 * n * e * (2 * q + 2 * kv);
        total += 2 * rows * 3 * e * (double)s->ffn;
        total += 4 * q * n * (n + 1) / 2;
    }
    return total;
}

static void report(const struct phx_run *run, struct bench *b, int n_threads)
{
    double decode = median(b->decode_seconds, b->repeat);
    double prefill = median(b->prefill_seconds, b->repeat);
    double bytes = decode_bytes(run->config);
    double operations = prefill_operations(run->config, b->prompt);
    double peak = b->bf16 && b->bf16_peak > 0 ? b->bf16_peak : b->f32;
    struct phx_device_info info;
    phx_device_info(run->device, &info);
    printf("{\"ranks\": %d, \"threads_per_rank\": %d, \"device\": \"%s\", \"compute\": \"%s\", "
           "\"decode_ms\": %.3f, \"decode_tok_s\": %.3f, \"decode_gb_s\": %.2f, "
           "\"read_gb_s\": %.2f, \"decode_fraction\": %.3f, \"prompt\": %d, \"prefill_ms\": %.1f, "
           "\"prefill_tok_s\": %.1f, \"prefill_gflop_s\": %.1f, \"peak_gflop_s\": %.1f, "
           "\"prefill_fraction\": %.3f, \"repeat\": %d}\n",
           run->world->size, n_threads, info.name, b->bf16 ? "bfloat16" : "float32", 1e3 * decode,
           1 / decode, bytes / decode / 1e9, b->read / 1e9, bytes / decode / b->read, b->prompt,
           1e3 * prefill, b->prompt / prefill, operations / prefill / 1e9, peak / 1e9,
           operations / prefill / peak, b->repeat);
    fflush(stdout);
}

static enum phx_status run_bench(struct phx_world *world, struct bench *b,
                                 const struct phx_placement *placement)
{
    struct phx_run *run = NULL;
    struct phx_run_settings settings = {.model = b->model,
                                        .dummy = true,
                                        .device = PHX_DEVICE_CPU,
                                        .compute = b->bf16 ? PHX_BF16 : PHX_F32,
                                        .n_threads = placement->n_threads,
                                        .cpus = placement->cpus};
    struct phx_run_needs needs = {.max_seqs = 1, .max_rows = b->prompt};
    needs.max_length = (b->prompt > b->decode + 16 ? b->prompt : b->decode + 16) + 4;
    PHX_TRY(measure_peaks(world, b, placement));
    enum phx_status status = phx_run_open(world, &settings, &run);
    if (status == PHX_OK) status = phx_run_start(run, &needs);
    if (status == PHX_OK) status = world->rank == 0 ? lead(run, b) : phx_engine_follow(run->engine);
    if (status == PHX_OK && world->rank == 0) report(run, b, placement->n_threads);
    if (status == PHX_OK) phx_run_finish(run);
    phx_run_destroy(run);
    return status;
}

static enum phx_status parse(int argc, char **argv, struct bench *b)
{
    static const struct option names[] = {
        {"model", required_argument, NULL, 'm'},
        {"threads", required_argument, NULL, 't'},
        {"dtype", required_argument, NULL, 'd'},
        {"prompt", required_argument, NULL, 'p'},
        {"decode", required_argument, NULL, 'n'},
        {"repeat", required_argument, NULL, 'r'},
        {NULL, 0, NULL, 0},
    };
    for (int c; (c = getopt_long(argc, argv, "m:t:d:p:n:r:", names, NULL)) != -1;) {
        if (c == 'm') b->model = optarg;
        if (c == 't') b->threads = atoi(optarg);
        if (c == 'd') b->bf16 = strcmp(optarg, "bfloat16") == 0;
        if (c == 'p') b->prompt = atoi(optarg);
        if (c == 'n') b->decode = atoi(optarg);
        if (c == 'r') b->repeat = atoi(optarg);
        if (c == '?') return phx_fail(PHX_USAGE, "see the head of bench_model.c");
    }
    if (b->model == NULL || b->prompt < 1 || b->decode < 1 || b->repeat < 1 ||
        b->repeat > MAX_REPEAT)
        return phx_fail(PHX_USAGE, "-m DIR is needed; prompt, decode at least 1; repeat 1 to %d",
                        MAX_REPEAT);
    return PHX_OK;
}

int main(int argc, char **argv)
{
    struct bench b = {.prompt = 512, .decode = 32, .repeat = 5};
    struct phx_world *world = NULL;
    struct phx_topology *topology = NULL;
    struct phx_placement *placement = NULL;
    enum phx_status status = phx_world_mpi_create(&argc, &argv, &world);
    if (status == PHX_OK) status = phx_world_agree(world, parse(argc, argv, &b));
    if (status == PHX_OK) status = phx_world_agree(world, phx_topology_create(NULL, 0, &topology));
    if (status == PHX_OK)
        status =
            phx_world_agree(world, phx_placement_create(topology, world->node_rank,
                                                        world->node_size, b.threads, &placement));
    if (status == PHX_OK) status = run_bench(world, &b, placement);
    phx_placement_destroy(placement);
    phx_topology_destroy(topology);
    if (status != PHX_OK && phx_fail_sentence()[0] != '\0')
        fprintf(stderr, "bench_model: %s\n", phx_fail_sentence());
    if (world != NULL) phx_world_finish(world);
    phx_world_destroy(world);
    return status == PHX_OK ? 0 : 1;
}
