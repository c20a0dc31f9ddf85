/* What `phalanx bench` measures: its tests in order, the steps, bytes and operations they are, and
 * the model of a step on other ranks. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>

#include "launch/verbs/bench_tests.h"

#define assert_near(a, b, most) assert_true(fabs((a) - (b)) <= (most))

static int32_t list_items[][4] = {{512, 8}, {128}, {0, 8192}, {1, 3}};

static void make_rank(int size, int rank, struct phx_config **config, struct phx_shard_plan **plan,
                      struct phx_device **device)
{
    struct phx_layer_shape *layers;
    assert_ok(phx_config_load(PHX_TEST_DATA "/dummy/llama-1b-2layers", config));
    layers = calloc((size_t)(*config)->n_layers, sizeof *layers);
    struct phx_model_shape shape = phx_config_shape(*config, layers);
    assert_ok(phx_shard_plan_create(&shape, size, rank, plan));
    free(layers);
    assert_ok(phx_device_on_paper(&(struct phx_device_info){.kind = PHX_DEVICE_CPU,
                                                            .name = "paper",
                                                            .activation = PHX_F32,
                                                            .kv_default = PHX_F32,
                                                            .n_units = 1},
                                  device));
}

static void test_order_and_names(void **state)
{
    (void)state;
    struct phx_int_pair both[] = {{512, 128}};
    struct phx_options o = {.bench_prompt = {list_items[0], 2},
                            .bench_generate = {list_items[1], 1},
                            .bench_both = {both, 1},
                            .depth = {list_items[2], 2},
                            .batches = {list_items[3], 2}};
    static const char *const names[] = {"pp512", "pp8", "tg128", "pp512+tg128"};
    struct phx_bench_tests tests;
    char name[PHX_BENCH_NAME_BYTES], expected[PHX_BENCH_NAME_BYTES];
    assert_ok(phx_bench_tests_create(&o, &tests));
    assert_int_equal(tests.n, 16);
    for (size_t i = 0; i < tests.n; i++) {
        phx_bench_test_name(&tests.items[i], name);
        snprintf(expected, sizeof expected, "%s%s", names[i % 4], i < 8 ? "" : " @ d8192");
        assert_string_equal(name, expected);
        assert_int_equal(tests.items[i].n_seqs, i / 4 % 2 == 0 ? 1 : 3);
    }
    assert_int_equal(phx_bench_test_length(&tests.items[15]), 8192 + 512 + 128);

    struct phx_config *config;
    assert_ok(phx_config_load(PHX_TEST_DATA "/dummy/llama-1b-2layers", &config));
    struct phx_run_needs needs = phx_bench_tests_needs(&tests, config, 256);
    assert_int_equal(needs.max_seqs, 3);
    assert_int_equal(needs.max_rows, 256);
    assert_int_equal(needs.max_length, 8192 + 512 + 128 + 2);
    assert_int_equal(needs.total_tokens, 3 * (8192 + 512 + 128 + 2));
    phx_config_destroy(config);
    phx_bench_tests_free(&tests);

    const char *texts[] = {"0,5,100000,7", "64,0,0,1"};
    o.tests = (struct phx_text_list){texts, 2};
    assert_ok(phx_bench_tests_create(&o, &tests));
    assert_int_equal(tests.n, 2);
    assert_true(tests.items[0].n_gen == 5 && tests.items[0].depth == 100000);
    assert_true(tests.items[0].n_seqs == 7 && tests.items[1].n_prompt == 64);
    phx_bench_tests_free(&tests);
    static const char *const bad[] = {
        "",         "1,2,3",   "1,2,3,0",  "0,0,3,1",          "1,2,3,4,5",
        "1,2,-3,4", "1,2,3,x", "1,2,3,4 ", "9999999999,1,1,1", "1,,3,4"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        texts[1] = bad[i];
        assert_fails(phx_bench_tests_create(&o, &tests), PHX_USAGE, "must be tokens to read");
        phx_bench_tests_free(&tests);
    }
    o.tests.n = 0;

    list_items[1][0] = 0;
    o.bench_prompt.n = 0;
    o.bench_both.n = 0;
    assert_int_equal(phx_bench_tests_create(&o, &tests), PHX_USAGE);
    phx_bench_tests_free(&tests);
}

/* By hand, for a Llama of 2 layers: E 2048, 32 query heads on 8 KV heads of 64, F 8192, V 128256,
 * tied, weights of two bytes, a cache of four. */
static void test_work(void **state)
{
    (void)state;
    const double e = 2048, kv = 512, f = 8192, v = 128256, layers = 2;
    for (int size = 1; size <= 2; size++) {
        struct phx_config *config;
        struct phx_shard_plan *plan;
        struct phx_device *device;
        struct phx_step_work w;
        make_rank(size, 0, &config, &plan, &device);
        struct phx_bench_rank rank = {config, plan, NULL, device, PHX_F32};
        const double weights = (layers * (e * (2 * e + 2 * kv) + 3 * e * f) + v * e) / size;

        struct phx_bench_test decode = {0, 5, 100, 3}; /* lengths 101 to 105: 103 in the middle */
        assert_int_equal(phx_bench_test_work(&decode, &rank, 64, &w), 5);
        assert_near(w.weight_bytes, 5 * 2 * weights, 1);
        assert_near(w.cache_bytes, 5 * layers * 3 * 103 * 2 * kv * 4 / size, 1);
        assert_near(w.product_operations, 5 * 3 * 2 * weights, 1);
        assert_near(w.attention_operations, 5 * layers * 3 * 4 * e * 103 / size, 1);
        assert_int_equal(w.n_attentions, 5 * 2);
        assert_int_equal(w.n_sums, size == 1 ? 0 : 5 * (1 + 2 * 2));

        /* 150 tokens in pieces of 64, 64 and 22, after 10 others. */
        struct phx_bench_test prompt = {150, 0, 10, 1};
        assert_int_equal(phx_bench_test_work(&prompt, &rank, 64, &w), 3);
        assert_near(w.weight_bytes, 3 * 2 * weights, 1);
        assert_near(w.cache_bytes, layers * (74 + 138 + 160) * 2 * kv * 4 / size, 1);
        double seen = 0;
        for (int i = 11; i <= 160; i++) seen += i;
        assert_near(w.attention_operations, layers * 4 * e * seen / size, 1);
        phx_device_destroy(device);
        phx_shard_plan_destroy(plan);
        phx_config_destroy(config);
    }
}

static void test_model(void **state)
{
    (void)state;
    struct phx_step_work one = {.weight_bytes = 16e9,
                                .cache_bytes = 4e9,
                                .product_operations = 32e9,
                                .attention_operations = 1e9,
                                .n_products = 100,
                                .n_attentions = 20};
    struct phx_step_work two = {.weight_bytes = 8e9,
                                .cache_bytes = 2.5e9,
                                .product_operations = 16e9,
                                .attention_operations = 0.5e9,
                                .n_products = 100,
                                .n_attentions = 20,
                                .n_sums = 50};
    struct phx_step_stages stages = {
        .products_s = 4.1e-3, .attention_s = 1.02e-3, .other_s = 0.5e-3, .start_s = 1e-6};
    /* Of the products 0.1 ms are starts, the rest halves; of attention 0.02, the rest 2.5 / 4. */
    double expected = 0.1e-3 + 2e-3 + 0.02e-3 + 0.625e-3 + 0.5e-3 + 50 * 3e-6;
    struct phx_step_rates own = {4e12, 8e14}, shared = {2e12, 8e14};
    assert_near(phx_step_scale(&stages, &one, &own, &two, &own, 3e-6), expected, 1e-12);
    assert_near(phx_step_scale(&stages, &one, &own, &one, &own, 3e-6), 5.62e-3, 1e-12);
    /* Two ranks that read half as fast each. */
    expected = 0.1e-3 + 4e-3 + 0.02e-3 + 1.25e-3 + 0.5e-3 + 50 * 3e-6;
    assert_near(phx_step_scale(&stages, &one, &own, &two, &shared, 3e-6), expected, 1e-12);

    struct phx_sum_constants c = phx_sum_fit(2, 8e3, 10e-6, 1008e3, 110e-6);
    assert_near(c.bytes_s, 1e10, 1);
    assert_near(c.latency_s, 9.2e-6, 1e-12);
    assert_near(phx_sum_seconds(&c, 2, 8e3), 10e-6, 1e-12);
    assert_near(phx_sum_seconds(&c, 4, 1e6), 9.2e-6 + 1.5 * 100e-6, 1e-12);
    c = phx_sum_fit(2, 8e3, 10e-6, 8e3, 10e-6);
    assert_true(isinf(c.bytes_s));
    assert_near(phx_sum_seconds(&c, 8, 1e9), 10e-6, 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_order_and_names),
                                       cmocka_unit_test(test_work), cmocka_unit_test(test_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
