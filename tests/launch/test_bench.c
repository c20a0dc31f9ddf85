/* What `phalanx bench` measures: its tests in order, the steps, bytes and operations they are, and
 * the model of a step on other ranks. */
#include "tests/support/check.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/base/random.h"
#include "launch/verbs/bench_report.h"

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

/* ---- where a step goes ---- */

static double part_of(const struct phx_bench_breakdown *parts, enum phx_stage stage)
{
    return parts->stage_s[stage];
}

/* A CPU: what was timed, what remains if nothing is started, and the whole apart from both. */
static void test_parts_timed(void **state)
{
    (void)state;
    struct phx_bench_variant v[PHX_BENCH_VARIANTS];
    struct phx_bench_breakdown parts;
    assert_int_equal(phx_bench_variants(false, 1, false, v), 0);
    assert_int_equal(phx_bench_variants(false, 3, false, v), 2);
    assert_true(v[0].left_out == 0 && !v[0].timed && v[1].left_out == 0 && v[1].timed);
    assert_int_equal(phx_bench_variants(false, 3, true, v), 3);
    v[0].seconds = 1;
    v[1].seconds = 1.2; /* says nothing about the whole */
    v[1].times = (struct phx_stage_times){{0.5, 0.2, 0.1, 0.05, 0.03}, 0.2};
    v[2].seconds = 0.06;
    v[2].times.between_s = 0.02;
    phx_bench_parts(v, 3, &parts);
    assert_near(part_of(&parts, PHX_STAGE_SUMS), 0.1, 1e-12);
    assert_near(parts.gaps_s, 0.02, 1e-12);
    assert_near(parts.host_s, 0.04, 1e-12);
    assert_near(phx_bench_breakdown_difference(&parts), 1 - 0.88 - 0.06, 1e-12);
}

/* A GPU: a step of 5.0 s of products, 0.7 of attention, 1.1 of sums fused with norms of 0.3, other
 * norms of 0.2, sampling of 0.1, 0.4 of starts and 0.05 of the host, of which 0.25 of attention
 * hide behind products: leaving either out shows that. */
static void test_parts_left_out(void **state)
{
    (void)state;
    struct phx_bench_variant v[PHX_BENCH_VARIANTS];
    struct phx_bench_breakdown parts;
    const double whole = 5 + 0.7 - 0.25 + 1.1 + 0.2 + 0.1 + 0.4 + 0.05;
    int n = phx_bench_variants(true, 2, true, v);
    assert_int_equal(n, PHX_BENCH_VARIANTS);
    for (int i = 0; i < n; i++) {
        const unsigned out = v[i].left_out;
        assert_true(!v[i].timed && v[i].starts == (i > 0 && i + 1 < n));
        v[i].seconds = whole;
        bool no_products = out & 1u << PHX_STAGE_PRODUCTS;
        bool no_attention = out & 1u << PHX_STAGE_ATTENTION;
        v[i].seconds -= (no_products ? 5 : 0) + (no_attention ? 0.7 : 0);
        v[i].seconds += no_products || no_attention ? 0.25 : 0;
        v[i].seconds -= out & 1u << PHX_STAGE_SUMS ? 0.8 : 0; /* the norm takes its place */
        v[i].seconds -= out & 1u << PHX_STAGE_NORMS ? 0.5 : 0;
        v[i].seconds -= out & 1u << PHX_STAGE_SAMPLING ? 0.1 : 0;
        if (i + 1 == n) v[i].seconds -= 0.4;
    }
    phx_bench_parts(v, n, &parts);
    assert_near(part_of(&parts, PHX_STAGE_PRODUCTS), 4.75, 1e-12);
    assert_near(part_of(&parts, PHX_STAGE_ATTENTION), 0.45, 1e-12);
    assert_near(part_of(&parts, PHX_STAGE_SUMS), 0.8, 1e-12);
    assert_near(part_of(&parts, PHX_STAGE_NORMS), 0.5, 1e-12);
    assert_near(part_of(&parts, PHX_STAGE_SAMPLING), 0.1, 1e-12);
    assert_near(parts.gaps_s, 0.4, 1e-12);
    assert_near(parts.host_s, 0.05, 1e-12);
    assert_near(whole * phx_bench_breakdown_difference(&parts), 0.25, 1e-12);

    n = phx_bench_variants(true, 2, false, v);
    assert_int_equal(n, 2);
    assert_int_equal(v[1].left_out, 1u << PHX_STAGE_SUMS);
    assert_int_equal(phx_bench_variants(true, 1, false, v), 0);
    n = phx_bench_variants(true, 1, true, v); /* no sums, and norms alone */
    assert_int_equal(n, PHX_BENCH_VARIANTS - 1);
    for (int i = 0; i < n - 2; i++)
        assert_true((v[i].left_out & (v[i].left_out - 1)) == 0 &&
                    v[i].left_out != 1u << PHX_STAGE_SUMS);
}

/* ---- the spread ---- */

static double uniform(uint64_t *seed)
{
    *seed = phx_mix64(*seed + 0x9e3779b97f4a7c15ull);
    return ((double)(*seed >> 11) + 0.5) * 0x1p-53;
}

/* Times of a run: 10, and what is added as a normal distribution does or, as a busy machine, now
 * and then much. */
static double sample(uint64_t *seed, bool busy)
{
    double u = uniform(seed), v = uniform(seed);
    if (busy) return 10 - 0.1 * log(u) + (v < 0.1 ? 1 : 0);
    return 10 + 0.1 * sqrt(-2 * log(u)) * cos(2 * 3.14159265358979 * v);
}

/* Of pairs of runs, the part whose means differ by no more than the larger of their `spread`s. */
static double agreeing(int n, bool busy, double (*spread)(const double *, int))
{
    enum { PAIRS = 20000, MOST = 20 };
    uint64_t seed = 1;
    int n_agree = 0;
    for (int i = 0; i < PAIRS; i++) {
        double x[2][MOST];
        for (int run = 0; run < 2; run++)
            for (int k = 0; k < n; k++) x[run][k] = sample(&seed, busy);
        double apart = fabs(phx_bench_mean(x[0], n) - phx_bench_mean(x[1], n));
        n_agree += apart <= fmax(spread(x[0], n), spread(x[1], n));
    }
    return n_agree / (double)PAIRS;
}

/* Two runs of the same command differ by less than the spread that they print: in 95 of 100 cases,
 * however few repetitions there are, which does not hold of the standard deviation. */
static void test_spread(void **state)
{
    (void)state;
    static const int counts[] = {2, 3, 5, 10, 11, 20};
    const double values[] = {1, 2, 4, 5}, three[] = {7, 7, 7};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        assert_true(agreeing(counts[i], false, phx_bench_spread) > 0.95);
        assert_true(agreeing(counts[i], true, phx_bench_spread) > 0.93);
    }
    assert_true(agreeing(2, false, phx_bench_deviation) < 0.8);
    assert_true(agreeing(3, true, phx_bench_deviation) < 0.9);
    /* By hand: the deviation of 1, 2, 4, 5 is sqrt(10 / 3), Student's t for 3 is 3.182. */
    assert_near(phx_bench_spread(values, 4), 3.182 * sqrt(10.0 / 3) * sqrt(0.5), 1e-9);
    assert_near(phx_bench_spread(three, 3), 0, 1e-12);
    assert_near(phx_bench_spread(values, 1), 0, 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_and_names), cmocka_unit_test(test_work),
        cmocka_unit_test(test_model),           cmocka_unit_test(test_parts_timed),
        cmocka_unit_test(test_parts_left_out),  cmocka_unit_test(test_spread)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
