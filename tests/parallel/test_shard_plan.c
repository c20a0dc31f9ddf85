/* The law of heads over real shapes, stated again element by element. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "parallel/shard_plan.h"

enum { GRAIN = 8, MAX_SIZE = 16 };

#define HEADS(heads, kv, dim) .n_heads = heads, .n_kv_heads = kv, .head_dim = dim
#define DENSE(heads, kv, dim, columns)                                                             \
    {                                                                                              \
        HEADS(heads, kv, dim), .ffn = columns                                                      \
    }
#define MOE(heads, kv, dim, n, columns, shared)                                                    \
    {                                                                                              \
        HEADS(heads, kv, dim), .n_experts = n, .moe_ffn = columns, .shared_ffn = shared            \
    }

struct model {
    const char *name;
    int64_t hidden, vocab;
    struct phx_layer_shape layer;
};

static const struct model models[] = {
    {"Llama-3-8B", 4096, 128256, DENSE(32, 8, 128, 14336)},
    {"Llama-3-70B", 8192, 128256, DENSE(64, 8, 128, 28672)},
    {"Llama-3.2-1B", 2048, 128256, DENSE(32, 8, 64, 8192)},
    {"Llama-2-7B", 4096, 32000, DENSE(32, 32, 128, 11008)},
    {"Qwen2.5-0.5B", 896, 151936, DENSE(14, 2, 64, 4864)},
    {"Qwen2.5-7B", 3584, 152064, DENSE(28, 4, 128, 18944)},
    {"Qwen2.5-72B", 8192, 152064, DENSE(64, 8, 128, 29568)},
    {"Qwen3-8B", 4096, 151936, DENSE(32, 8, 128, 12288)},
    {"Qwen3-0.6B", 1024, 151936, DENSE(16, 8, 128, 3072)},
    {"Phi-3-medium-like", 5120, 32064, DENSE(40, 10, 128, 17920)},
    {"SmolLM-135M-like", 576, 49152, DENSE(9, 3, 64, 1536)},
    {"SmolLM-360M-like", 960, 49152, DENSE(15, 5, 64, 2560)},
    {"demo", 288, 2048, DENSE(12, 4, 32, 512)},
    {"llama-15q5kv-uneven", 120, 515, DENSE(15, 5, 8, 104)},
    {"llama-mha-6q6kv", 96, 512, DENSE(6, 6, 16, 144)},
    {"llama-mqa-7q1kv", 112, 512, DENSE(7, 1, 16, 144)},
    {"qwen2-14q2kv", 128, 512, DENSE(14, 2, 64, 192)},
    {"nothing divides", 1001, 50257, DENSE(33, 11, 20, 1003)},
    {"Mixtral-8x7B", 4096, 32000, MOE(32, 8, 128, 8, 14336, 0)},
    {"Qwen3-30B-A3B", 2048, 151936, MOE(32, 4, 128, 128, 768, 0)},
    {"Qwen1.5-MoE-A2.7B", 2048, 151936, MOE(16, 16, 128, 60, 1408, 5632)},
    {"of experts nothing divides", 1001, 50257, MOE(33, 11, 20, 61, 203, 1003)},
};

static struct phx_shard_plan *make_plan(const struct phx_model_shape *shape, int size, int rank)
{
    struct phx_shard_plan *plan = NULL;
    assert_int_equal(phx_shard_plan_create(shape, size, rank, &plan), PHX_OK);
    return plan;
}

/* Each element of a cut dimension belongs to exactly one rank, in rank order; of another, to all.
 */
static void check_ownership(const struct phx_shard_plan *plan, int32_t layer, enum phx_dim dim,
                            bool cut)
{
    int size = phx_shard_plan_size(plan);
    int64_t full = phx_shard_plan_full(plan, layer, dim);
    unsigned char *owners = calloc((size_t)full + 1, 1);
    assert_non_null(owners);
    int64_t expected_begin = 0;
    for (int r = 0; r < size; r++) {
        struct phx_interval own = phx_shard_plan_interval(plan, r, layer, dim);
        assert_true(own.begin >= 0 && own.end <= full);
        assert_true(own.begin < own.end || full == 0); /* no such columns in this layer */
        assert_int_equal(own.begin, cut ? expected_begin : 0);
        expected_begin = own.end;
        for (int64_t i = own.begin; i < own.end; i++) owners[i]++;
    }
    for (int64_t i = 0; i < full; i++) assert_int_equal(owners[i], cut ? 1 : size);
    free(owners);
}

static void check_balance(const struct phx_shard_plan *plan, int32_t layer, enum phx_dim dim,
                          int64_t unit)
{
    int64_t least = INT64_MAX, most = 0;
    for (int r = 0; r < phx_shard_plan_size(plan); r++) {
        struct phx_interval own = phx_shard_plan_interval(plan, r, layer, dim);
        int64_t length = phx_interval_length(own);
        assert_int_equal(own.begin % unit, 0);
        if (length < least) least = length;
        if (length > most) most = length;
    }
    assert_true(most - least <= unit);
}

/* Of every query head q of every rank: KV head q / G is on the rank, at local index j / G. */
static void check_heads(const struct phx_shard_plan *plan, int32_t layer,
                        const struct phx_layer_shape *shape)
{
    int64_t group = shape->n_heads / shape->n_kv_heads, n_seen = 0;
    int size = phx_shard_plan_size(plan);
    for (int r = 0; r < size; r++) {
        struct phx_interval kv = phx_shard_plan_kv_heads(plan, r, layer);
        struct phx_interval q = phx_shard_plan_q_heads(plan, r, layer);
        int64_t n_more = shape->n_kv_heads % size;
        assert_int_equal(phx_interval_length(kv), shape->n_kv_heads / size + (r < n_more));
        for (int64_t head = q.begin; head < q.end; head++, n_seen++) {
            int64_t kv_head = head / group;
            assert_true(kv_head >= kv.begin && kv_head < kv.end);
            assert_int_equal((head - q.begin) / group, kv_head - kv.begin);
        }
        struct phx_interval q_rows = phx_shard_plan_interval(plan, r, layer, PHX_DIM_Q);
        struct phx_interval kv_rows = phx_shard_plan_interval(plan, r, layer, PHX_DIM_KV);
        assert_int_equal(q_rows.begin, q.begin * shape->head_dim);
        assert_int_equal(q_rows.end, q.end * shape->head_dim);
        assert_int_equal(kv_rows.begin, kv.begin * shape->head_dim);
        assert_int_equal(kv_rows.end, kv.end * shape->head_dim);
    }
    assert_int_equal(n_seen, shape->n_heads);
}

static void check_layer(const struct phx_shard_plan *plan, int32_t layer,
                        const struct phx_layer_shape *shape)
{
    assert_int_equal(phx_shard_plan_full(plan, layer, PHX_DIM_ONE), 1);
    assert_int_equal(phx_shard_plan_full(plan, layer, PHX_DIM_HEAD), shape->head_dim);
    assert_int_equal(phx_shard_plan_full(plan, layer, PHX_DIM_Q), shape->n_heads * shape->head_dim);
    assert_int_equal(phx_shard_plan_full(plan, layer, PHX_DIM_KV),
                     shape->n_kv_heads * shape->head_dim);
    assert_int_equal(phx_shard_plan_full(plan, layer, PHX_DIM_FFN), shape->ffn);
    check_ownership(plan, layer, PHX_DIM_ONE, false);
    check_ownership(plan, layer, PHX_DIM_HIDDEN, false);
    check_ownership(plan, layer, PHX_DIM_HEAD, false);
    check_ownership(plan, layer, PHX_DIM_Q, true);
    check_ownership(plan, layer, PHX_DIM_KV, true);
    check_ownership(plan, layer, PHX_DIM_FFN, true);
    check_ownership(plan, layer, PHX_DIM_SHARED_FFN, true);
    check_ownership(plan, layer, PHX_DIM_EXPERTS, false);
    check_ownership(plan, layer, PHX_DIM_VOCAB, true);
    check_heads(plan, layer, shape);
    check_balance(plan, layer, PHX_DIM_Q, shape->n_heads / shape->n_kv_heads * shape->head_dim);
    check_balance(plan, layer, PHX_DIM_KV, shape->head_dim);
    check_balance(plan, layer, PHX_DIM_FFN, GRAIN);
    check_balance(plan, layer, PHX_DIM_SHARED_FFN, GRAIN);
    check_balance(plan, layer, PHX_DIM_VOCAB, GRAIN);
}

/* Each expert whole on one rank, in order; or a part of each on every rank. */
static void check_experts(const struct phx_model_shape *shape, int size)
{
    struct phx_shard_plan *plan = make_plan(shape, size, 0);
    const struct phx_layer_shape *layer = &shape->layers[0];
    const bool whole = shape->expert_parallel;
    int64_t end = 0;
    check_ownership(plan, 0, PHX_DIM_MOE_FFN, !whole);
    if (!whole) check_balance(plan, 0, PHX_DIM_MOE_FFN, GRAIN);
    assert_int_equal(phx_shard_plan_full(plan, 0, PHX_DIM_MOE_FFN), layer->moe_ffn);
    assert_int_equal(phx_shard_plan_full(plan, 0, PHX_DIM_SHARED_FFN), layer->shared_ffn);
    for (int r = 0; r < size; r++) {
        struct phx_interval own = phx_shard_plan_experts(plan, r, 0);
        assert_int_equal(own.begin, whole ? end : 0);
        end = own.end;
        if (!whole || layer->n_experts == 0) continue;
        int64_t least = layer->n_experts / size;
        assert_in_range(phx_interval_length(own), least, least + (layer->n_experts % size != 0));
    }
    assert_int_equal(end, layer->n_experts);
    phx_shard_plan_destroy(plan);
}

static void test_real_shapes(void **state)
{
    (void)state;
    for (size_t m = 0; m < sizeof models / sizeof models[0]; m++) {
        const struct model *model = &models[m];
        const struct phx_layer_shape layers[2] = {model->layer, model->layer};
        struct phx_model_shape shape = {
            .hidden = model->hidden, .vocab = model->vocab, .n_layers = 2, .layers = layers};
        for (int size = 1; size <= MAX_SIZE; size++) {
            struct phx_shard_plan *plan = NULL;
            if (size > model->layer.n_kv_heads) {
                assert_int_equal(phx_shard_plan_create(&shape, size, 0, &plan), PHX_USAGE);
                assert_null(plan);
                continue;
            }
            plan = make_plan(&shape, size, size - 1);
            assert_int_equal(phx_shard_plan_rank(plan), size - 1);
            assert_int_equal(phx_shard_plan_size(plan), size);
            assert_int_equal(phx_shard_plan_full(plan, 0, PHX_DIM_HIDDEN), model->hidden);
            assert_int_equal(phx_shard_plan_full(plan, 0, PHX_DIM_VOCAB), model->vocab);
            check_layer(plan, 1, &model->layer);
            phx_shard_plan_destroy(plan);
            check_experts(&shape, size);
            struct phx_model_shape divided = shape;
            divided.expert_parallel = true;
            check_experts(&divided, size);
        }
    }
}

static void test_layers_that_differ(void **state)
{
    (void)state;
    const struct phx_layer_shape layers[] = {DENSE(24, 8, 16, 1000), DENSE(10, 5, 32, 88),
                                             DENSE(12, 4, 8, 40), DENSE(7, 7, 24, 512)};
    struct phx_model_shape shape = {.hidden = 96, .vocab = 1001, .n_layers = 4, .layers = layers};
    for (int size = 1; size <= 4; size++) {
        struct phx_shard_plan *plan = make_plan(&shape, size, 0);
        for (int32_t l = 0; l < 4; l++) check_layer(plan, l, &layers[l]);
        phx_shard_plan_destroy(plan);
    }
}

static void test_shares(void **state)
{
    (void)state;
    for (int64_t length = 0; length < 70; length++)
        for (int64_t grain = 1; grain < 12; grain++)
            for (int size = 1; size < 10; size++) {
                int64_t end = 0, least = INT64_MAX, most = 0;
                for (int r = 0; r < size; r++) {
                    struct phx_interval own = phx_interval_share(length, grain, size, r);
                    int64_t own_length = phx_interval_length(own);
                    assert_int_equal(own.begin, end);
                    assert_true(own_length >= 0);
                    end = own.end;
                    if (own_length < least) least = own_length;
                    if (own_length > most) most = own_length;
                }
                assert_int_equal(end, length);
                assert_true(most - least <= grain);
            }
}

struct refusal {
    int size;
    struct phx_model_shape shape;
    enum phx_status status;
    const char *sentence;
};

#define LAYERS(...)                                                                                \
    .n_layers = (int32_t)(sizeof((const struct phx_layer_shape[]){__VA_ARGS__}) /                  \
                          sizeof(struct phx_layer_shape)),                                         \
    .layers = (const struct phx_layer_shape[])                                                     \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

static const struct refusal refusals[] = {
    {5,
     {96, 512, LAYERS(DENSE(12, 4, 16, 160), DENSE(12, 4, 16, 160))},
     PHX_USAGE,
     "5 ranks cannot share 4 KV heads (12 query heads in groups of 3): "
     "run with 1, 2, 3 or 4 ranks"},
    {2,
     {112, 512, LAYERS(DENSE(7, 1, 16, 144))},
     PHX_USAGE,
     "2 ranks cannot share 1 KV head (7 query heads in groups of 7): run with 1 rank"},
    {2,
     {8, 512, LAYERS(DENSE(1, 1, 8, 64))},
     PHX_USAGE,
     "2 ranks cannot share 1 KV head (1 query head in groups of 1): run with 1 rank"},
    {3,
     {128, 512, LAYERS(DENSE(14, 2, 64, 192))},
     PHX_USAGE,
     "3 ranks cannot share 2 KV heads (14 query heads in groups of 7): run with 1 or 2 ranks"},
    {4,
     {576, 49152, LAYERS(DENSE(9, 3, 64, 1536))},
     PHX_USAGE,
     "4 ranks cannot share 3 KV heads (9 query heads in groups of 3): run with 1, 2 or 3 ranks"},
    {16,
     {4096, 128256, LAYERS(DENSE(32, 8, 128, 14336))},
     PHX_USAGE,
     "16 ranks cannot share 8 KV heads (32 query heads in groups of 4): run with 1 to 8 ranks"},
    {6,
     {96, 512, LAYERS(DENSE(16, 8, 8, 160), DENSE(20, 5, 8, 160))},
     PHX_USAGE,
     "6 ranks cannot share 5 KV heads of layer 1 (20 query heads in groups of 4): "
     "run with 1 to 5 ranks"},
    {4,
     {96, 512, LAYERS(DENSE(16, 8, 8, 160), DENSE(16, 8, 8, 20))},
     PHX_USAGE,
     "4 ranks cannot share 20 feed-forward columns in grains of 8: run with 1, 2 or 3 ranks"},
    {4,
     {96, 10, LAYERS(DENSE(16, 8, 8, 160))},
     PHX_USAGE,
     "4 ranks cannot share 10 tokens of the vocabulary in grains of 8: run with 1 or 2 ranks"},
    {1,
     {96, 512, LAYERS(DENSE(12, 4, 8, 160), DENSE(13, 4, 8, 160))},
     PHX_BAD_DATA,
     "13 query heads of layer 1 cannot read 4 KV heads in equal groups: "
     "the first number must be a multiple of the second"},
    {1,
     {96, 0, LAYERS(DENSE(12, 4, 8, 160))},
     PHX_BAD_DATA,
     "the vocabulary size is 0: it must be at least 1"},
    {1,
     {96, 512, LAYERS(DENSE(12, 4, 8, -160))},
     PHX_BAD_DATA,
     "the number of feed-forward columns of layer 0 is -160: it must be at least 1"},
    {4,
     {96, 512, LAYERS(DENSE(16, 8, 8, 160), MOE(16, 8, 8, 6, 20, 0))},
     PHX_USAGE,
     "4 ranks cannot share 20 columns of each expert in grains of 8: run with 1, 2 or 3 ranks"},
    {4,
     {96, 512, LAYERS(MOE(16, 8, 8, 6, 64, 24))},
     PHX_USAGE,
     "4 ranks cannot share 24 columns of the shared expert in grains of 8: "
     "run with 1, 2 or 3 ranks"},
    {7,
     {96, 512, LAYERS(MOE(16, 8, 8, 6, 20, 0)), .expert_parallel = true},
     PHX_USAGE,
     "7 ranks cannot share 6 experts: run with 1 to 6 ranks"},
    {1,
     {96, 512, LAYERS(MOE(16, 8, 8, 6, 0, 0))},
     PHX_BAD_DATA,
     "the number of columns of an expert of layer 0 is 0: it must be at least 1"},
};

static void test_refusals(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        const struct refusal *refusal = &refusals[i];
        struct phx_shard_plan *plan = NULL;
        phx_fail_clear();
        assert_int_equal(phx_shard_plan_create(&refusal->shape, refusal->size, 0, &plan),
                         refusal->status);
        assert_string_equal(phx_fail_sentence(), refusal->sentence);
        assert_null(plan);
    }
    phx_shard_plan_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_shapes),
        cmocka_unit_test(test_layers_that_differ),
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
