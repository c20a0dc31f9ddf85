/* Kernels that start early (kernels/cuda/launch.cuh) wait for what they read and write: the ops of
 * decoder steps, in their order, in a build whose warps come late on purpose
 * (PHX_CUDA_PLANTED_DELAY), one by one and as a graph, against the same kernels started in turn.
 * All bytes must be the same. In a second build some kernels do not wait
 * (PHX_CUDA_PLANTED_NO_WAIT): there other bytes must show.
 * Exit status 77 where no kernel starts early: skipped. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"
#include "tests/kernels/waits_chain.h"
#include "tests/support/check.h"

#ifdef PHX_CUDA_PLANTED_NO_WAIT
enum { MUST_DIFFER = true };
#else
enum { MUST_DIFFER = false };
#endif

enum {
    SKIPPED = 77,
    STEPS = 4,
    ROUNDS = 3,
};

static const struct shape shapes[] = {
    {"one row", PHX_BF16, PHX_BF16, 256, 168, 6, 2, 64, 1, 0},
    {"a few rows, askew", PHX_BF16, PHX_BF16, 252, 171, 5, 1, 80, 5, 0},
    {"a prompt", PHX_F16, PHX_F16, 256, 176, 8, 2, 128, 3, 40},
    {"a prompt in f32, askew", PHX_F32, PHX_F32, 252, 171, 5, 1, 24, 12, 20},
    {"weights of another type", PHX_BF16, PHX_F32, 256, 168, 3, 3, 80, 2, 9},
    {"a few rows, quantised weights", PHX_BF16, PHX_Q5_0, 256, 168, 6, 2, 64, 4, 0},
    {"a prompt, quantised weights", PHX_F16, PHX_Q5_0, 256, 171, 5, 1, 80, 3, 40},
};

/* ---- the ops in their order ---- */

static void norm(const struct chain *c, struct phx_tensor x, struct phx_tensor residual, bool start,
                 struct phx_tensor out)
{
    assert_ok(phx_op_add_norm(c->stream, &(struct phx_add_norm){.x = x,
                                                                .residual = residual,
                                                                .start = start,
                                                                .weight = c->norm,
                                                                .epsilon = 1e-5f,
                                                                .out = out}));
}

static void linear(const struct chain *c, struct phx_tensor x, const struct phx_weight *weight,
                   struct phx_tensor bias, struct phx_tensor out)
{
    assert_ok(phx_op_linear(
        c->stream, &(struct phx_linear){.x = x, .weight = weight, .bias = bias, .out = out}));
}

/* partial -> mixed: what experts make of x is added. */
static void mix(const struct chain *c)
{
    linear(c, c->x, c->router_w, (struct phx_tensor){0}, c->router);
    assert_ok(phx_op_route(c->stream,
                           &(struct phx_route){.logits = phx_tensor_cols(c->router, 0, EXPERTS),
                                               .normalize = true,
                                               .routing = c->routing}));
    assert_ok(phx_op_experts_gate_up(c->stream,
                                     &(struct phx_experts_gate_up){.x = c->x,
                                                                   .routing = c->routing,
                                                                   .weight = c->experts_gate_up_w,
                                                                   .activation = PHX_SILU,
                                                                   .out = c->experts}));
    assert_ok(phx_op_experts_down(
        c->stream, &(struct phx_experts_down){.x = c->experts,
                                              .routing = c->routing,
                                              .weight = c->experts_down_w,
                                              .parts = c->parts,
                                              .add = c->partial,
                                              .add_gate = phx_tensor_cols(c->router, EXPERTS, 1),
                                              .out = c->mixed}));
}

static void layer(const struct chain *c, int l)
{
    const struct shape *s = c->shape;
    const struct phx_tensor none = {0};
    linear(c, c->x, c->qkv_w, c->qkv_bias, c->qkv);
    assert_ok(phx_op_rope_append(c->stream, &(struct phx_rope_append){.qkv = c->qkv,
                                                                      .n_heads = s->heads,
                                                                      .cos_sin = c->rope,
                                                                      .q_norm = c->head_norm,
                                                                      .k_norm = c->head_norm,
                                                                      .epsilon = 1e-5f,
                                                                      .kv = c->kv[l],
                                                                      .layout = &c->layout}));
    assert_ok(phx_op_attention(
        c->stream,
        &(struct phx_attention){.q = phx_tensor_cols(c->qkv, 0, (int64_t)s->heads * s->dim),
                                .n_heads = s->heads,
                                .kv = c->kv[l],
                                .layout = &c->layout,
                                .window = l == 1 ? 300 : 0,
                                .scale = 0.1f,
                                .out = c->attended,
                                .lse = c->lse}));
    linear(c, c->attended, c->o_w, none, c->partial);
    norm(c, c->partial, c->residual, false, c->x);
    assert_ok(phx_op_gate_up(c->stream, &(struct phx_gate_up){.x = c->x,
                                                              .weight = c->gate_up_w,
                                                              .bias = c->gate_up_bias,
                                                              .activation = PHX_SILU,
                                                              .out = c->ffn}));
    linear(c, c->ffn, c->down_w, none, c->partial);
    if (l == 1) mix(c);
    norm(c, l == 1 ? c->mixed : c->partial, c->residual, false, c->x);
}

static void draw(const struct chain *c)
{
    assert_ok(
        phx_op_count_tokens(c->stream, &(struct phx_count_tokens){.ids = c->ids,
                                                                  .last_ids = c->last_ids,
                                                                  .slots = c->slots,
                                                                  .kind = PHX_COUNT_OUTPUT,
                                                                  .counts = c->sampling.counts}));
    assert_ok(
        phx_op_adjust_logits(c->stream, &(struct phx_adjust_logits){.logits = c->logits,
                                                                    .slots = c->out_slots,
                                                                    .table = c->sampling,
                                                                    .adjusted = c->adjusted}));
    assert_ok(phx_op_sample_candidates(
        c->stream, &(struct phx_sample_candidates){.logits = c->logits,
                                                   .adjusted = c->adjusted,
                                                   .slots = c->out_slots,
                                                   .positions = c->out_positions,
                                                   .params = c->sampling.params,
                                                   .n_candidates = CANDIDATES,
                                                   .records = c->records}));
    assert_ok(phx_op_sample_pick(c->stream, &(struct phx_sample_pick){.records = c->records,
                                                                      .n_candidates = CANDIDATES,
                                                                      .n_ranks = 1,
                                                                      .slots = c->out_slots,
                                                                      .params = c->sampling.params,
                                                                      .ids = c->new_ids,
                                                                      .logprobs = c->logprobs,
                                                                      .last_ids = c->last_ids}));
    assert_ok(
        phx_op_sample_full(c->stream, &(struct phx_sample_full){.logits = c->logits,
                                                                .adjusted = c->adjusted,
                                                                .slots = c->out_slots,
                                                                .positions = c->out_positions,
                                                                .params = c->sampling.params,
                                                                .ids = c->full_ids,
                                                                .logprobs = c->full_logprobs,
                                                                .last_ids = c->full_last_ids}));
}

/* Copies stand between kernels too: into the spare matrix, which is zeroed in part. */
static void pass(const struct chain *c)
{
    const struct phx_tensor none = {0};
    assert_ok(
        phx_op_rope_table(c->stream, &(struct phx_rope_table){.positions = c->layout.positions,
                                                              .inv_freq = c->inv_freq,
                                                              .scale = 1,
                                                              .out = c->rope}));
    assert_ok(phx_op_embed(c->stream, &(struct phx_embed){.table = c->table,
                                                          .ids = c->ids,
                                                          .last_ids = c->last_ids,
                                                          .scale = 3,
                                                          .out = c->partial}));
    norm(c, c->partial, c->residual, true, c->x);
    for (int l = 0; l < LAYERS; l++) layer(c, l);
    assert_ok(phx_op_gather_rows(
        c->stream, &(struct phx_gather_rows){c->residual, c->out_rows, c->out_residual}));
    assert_ok(phx_op_gather_rows(
        c->stream, &(struct phx_gather_rows){c->partial, c->out_rows, c->out_partial}));
    norm(c, c->out_partial, c->out_residual, false, c->out_x);
    linear(c, c->out_x, c->head_w, none, c->logits);
    assert_ok(phx_buffer_copy(c->stream, c->buffer, c->spare.offset_bytes, c->buffer,
                              c->logits.offset_bytes, SPARE_BYTES));
    assert_ok(phx_buffer_zero(c->stream, c->buffer, c->spare.offset_bytes + SPARE_BYTES,
                              SPARE_BYTES / 2));
    draw(c);
    assert_ok(phx_tensor_download(c->stream, c->new_ids, c->pinned));
}

/* ---- runs ---- */

/* All that there is after some steps. Two passes in each: nothing but kernels between the end of
 * one and the beginning of the next, which reads the new tokens. */
static void run(struct chain *c, bool recorded, unsigned char *out)
{
    struct phx_graph *graph = NULL;
    chain_set_step(c, 0);
    assert_ok(phx_buffer_upload(c->stream, c->buffer, 0, c->used, c->image, c->used, c->used, 1));
    for (int32_t step = 0; step < STEPS; step++) {
        chain_set_step(c, step);
        chain_upload(c, c->layout.positions);
        chain_upload(c, c->layout.seq_length);
        chain_upload(c, c->out_positions);
        if (recorded && step == 0) assert_ok(phx_graph_begin(c->stream));
        if (!recorded || step == 0) {
            pass(c);
            pass(c);
        }
        if (recorded && step == 0) assert_ok(phx_graph_end(c->stream, &graph));
        if (recorded) assert_ok(phx_graph_launch(graph, c->stream));
    }
    assert_ok(phx_buffer_download(c->stream, c->buffer, 0, c->used, out, c->used, c->used, 1));
    assert_ok(phx_stream_synchronize(c->stream));
    assert_memory_equal(c->pinned, out + c->new_ids.offset_bytes,
                        phx_tensor_span_bytes(c->new_ids));
    phx_graph_destroy(graph);
}

static void check_sane(const struct chain *c, const unsigned char *result)
{
    for (int32_t m = 0; m < c->n_seqs - 1; m++) {
        float drawn, drawn_fully;
        memcpy(&drawn, result + c->logprobs.offset_bytes + (size_t)m * sizeof drawn, sizeof drawn);
        memcpy(&drawn_fully, result + c->full_logprobs.offset_bytes + (size_t)m * sizeof drawn,
               sizeof drawn);
        assert_true(isfinite(drawn) && drawn <= 1e-3f);
        assert_true(isfinite(drawn_fully) && drawn_fully <= 1e-3f);
    }
}

/* Prints where results differ; returns if they do. */
static bool differs(const struct chain *c, const char *how, const unsigned char *expected,
                    const unsigned char *got)
{
    bool any = false;
    for (int i = 0; i < c->n_places; i++) {
        const size_t begin = c->places[i].begin;
        const size_t end = i + 1 < c->n_places ? c->places[i + 1].begin : c->used;
        size_t n = 0;
        for (size_t b = begin; b < end; b++) n += got[b] != expected[b];
        if (n == 0) continue;
        any = true;
        print_message("%s, %s: %zu of %zu bytes of %s differ\n", c->shape->name, how, n,
                      end - begin, c->places[i].name);
    }
    return any;
}

static void check_shape(const struct shape *shape)
{
    struct phx_device_options options = {.kind = PHX_DEVICE_CUDA, .n_threads = 1};
    struct phx_device *device;
    options.compute = shape->act;
    assert_ok(phx_device_create(&options, &device));
    bool *starts_early = &((struct phx_cuda_device *)device)->starts_early;
    struct chain *c = chain_open(device, shape);
    unsigned char *expected = malloc(c->used), *got = malloc(c->used);
    assert_true(expected != NULL && got != NULL);

    *starts_early = false;
    run(c, false, expected);
    check_sane(c, expected);
    run(c, true, got);
    assert_false(differs(c, "in turn, a graph", expected, got));
    *starts_early = true;
    bool any = false;
    for (int round = 0; round < ROUNDS; round++) {
        run(c, false, got);
        any = differs(c, "one by one", expected, got) || any;
        run(c, true, got);
        any = differs(c, "a graph", expected, got) || any;
    }
    assert_int_equal(any, MUST_DIFFER);
    free(expected);
    free(got);
    chain_close(c);
    phx_device_destroy(device);
}

static void test_waits(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_shape(&shapes[i]);
}

static bool starts_early(void)
{
    struct phx_device_options options = {.kind = PHX_DEVICE_CUDA, .n_threads = 1};
    struct phx_device *device;
    if (phx_device_create(&options, &device) != PHX_OK) {
        printf("%s\n", phx_fail_sentence());
        exit(1);
    }
    bool early = ((struct phx_cuda_device *)device)->starts_early;
    phx_device_destroy(device);
    return early;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_waits)};
    const char *reason = NULL;
    if (!phx_device_available(PHX_DEVICE_CUDA, &reason)) {
        printf("skipped: %s\n", reason);
        return SKIPPED;
    }
    if (!starts_early()) {
        printf("skipped: no kernel of this build starts early on this GPU\n");
        return SKIPPED;
    }
    return cmocka_run_group_tests_name("waits for predecessors", tests, NULL, NULL);
}
