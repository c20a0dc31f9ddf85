/* The sampling rule: what is drawn and how often; that a draw depends on the request alone, not on
 * the ranks that share the vocabulary or on the batch; and its edges. */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "kernels/ops.h"
#include "tests/support/check.h"

enum { MAX_ROWS = 64, MAX_VOCAB = 700, MAX_RANKS = 5 };

/* A batch on the host, and as it lies on the device. */
struct batch {
    struct phx_device *device;
    struct phx_stream *stream;
    struct phx_buffer *buffer;
    int32_t n, vocab;
    struct phx_tensor logits, adjusted, slots, positions, params, records, ids, logprobs, last_ids;
};

static struct phx_tensor take(struct phx_buffer *buffer, size_t *offset, enum phx_dtype dtype,
                              int64_t rows, int64_t cols)
{
    struct phx_tensor view = phx_tensor_view(buffer, *offset, dtype, rows, cols);
    *offset += (phx_tensor_span_bytes(view) + 63) / 64 * 64;
    return view;
}

static void batch_open(struct batch *b, int32_t n, int32_t vocab)
{
    const struct phx_device_options options = {.kind = PHX_DEVICE_CPU, .n_threads = 3};
    const struct phx_limits limits = {.max_rows = MAX_ROWS, .max_vocab = MAX_VOCAB};
    const int64_t record_bytes =
        MAX_RANKS * (PHX_MAX_CANDIDATES + 1) * (int64_t)sizeof(struct phx_candidate);
    size_t offset = 0;
    *b = (struct batch){.n = n, .vocab = vocab};
    assert_ok(phx_device_create(&options, &b->device));
    assert_ok(phx_stream_create(b->device, &limits, &b->stream));
    assert_ok(phx_buffer_create(b->device, 4 << 20, &b->buffer));
    b->logits = take(b->buffer, &offset, PHX_F32, n, vocab);
    b->adjusted = take(b->buffer, &offset, PHX_F32, n, vocab);
    b->slots = take(b->buffer, &offset, PHX_I32, n, 1);
    b->positions = take(b->buffer, &offset, PHX_I32, n, 1);
    b->params = take(b->buffer, &offset, PHX_U8, n, sizeof(struct phx_sampling));
    b->records = take(b->buffer, &offset, PHX_U8, n, record_bytes);
    b->ids = take(b->buffer, &offset, PHX_I32, n, 1);
    b->logprobs = take(b->buffer, &offset, PHX_F32, n, 1);
    b->last_ids = take(b->buffer, &offset, PHX_I32, n, 1);
}

static void batch_close(struct batch *b)
{
    phx_buffer_destroy(b->buffer);
    phx_stream_destroy(b->stream);
    phx_device_destroy(b->device);
}

static int32_t *i32(struct phx_tensor list)
{
    return phx_tensor_address(list);
}

static struct phx_sampling *params_of(const struct batch *b, int32_t slot)
{
    return (struct phx_sampling *)phx_tensor_address(b->params) + slot;
}

static const struct phx_sampling plain = {.temperature = 1, .top_p = 1, .repeat_penalty = 1};

/* Row m has slot m and draws for `position`. */
static void set_row(struct batch *b, int32_t m, const float *logits,
                    const struct phx_sampling *params, int32_t position)
{
    const size_t bytes = sizeof *logits * (size_t)b->vocab;
    memcpy((float *)phx_tensor_address(b->logits) + m * b->vocab, logits, bytes);
    memcpy((float *)phx_tensor_address(b->adjusted) + m * b->vocab, logits, bytes);
    *params_of(b, m) = *params;
    i32(b->slots)[m] = m;
    i32(b->positions)[m] = position;
    i32(b->ids)[m] = i32(b->last_ids)[m] = -77;
}

static void draw_full(struct batch *b)
{
    struct phx_sample_full args = {b->logits, b->adjusted, b->slots,    b->positions,
                                   b->params, b->ids,      b->logprobs, b->last_ids};
    assert_ok(phx_op_sample_full(b->stream, &args));
}

/* With the vocabulary cut into uneven shares, some of them smaller than K. */
static void draw_shared(struct batch *b, int32_t n_ranks, int32_t k)
{
    static const int32_t weights[MAX_RANKS] = {3, 1, 7, 2, 5};
    const int64_t bytes = (k + 1) * (int64_t)sizeof(struct phx_candidate);
    int32_t total = 0, sum = 0;
    for (int32_t r = 0; r < n_ranks; r++) total += weights[r];
    for (int32_t r = 0; r < n_ranks; r++) {
        const int32_t begin = b->vocab * sum / total;
        sum += weights[r];
        const int32_t n = b->vocab * sum / total - begin;
        struct phx_sample_candidates args = {.logits = phx_tensor_cols(b->logits, begin, n),
                                             .adjusted = phx_tensor_cols(b->adjusted, begin, n),
                                             .slots = b->slots,
                                             .positions = b->positions,
                                             .vocab_begin = begin,
                                             .params = b->params,
                                             .n_candidates = k,
                                             .records =
                                                 phx_tensor_cols(b->records, r * bytes, bytes)};
        assert_ok(phx_op_sample_candidates(b->stream, &args));
    }
    struct phx_sample_pick args = {.records = phx_tensor_cols(b->records, 0, n_ranks * bytes),
                                   .n_candidates = k,
                                   .n_ranks = n_ranks,
                                   .slots = b->slots,
                                   .params = b->params,
                                   .ids = b->ids,
                                   .logprobs = b->logprobs,
                                   .last_ids = b->last_ids};
    assert_ok(phx_op_sample_pick(b->stream, &args));
}

static float random_logit(uint64_t i)
{
    double sum = -6; /* of twelve uniform values: nearly normal */
    for (uint64_t k = 0; k < 12; k++) sum += (double)(phx_mix64(12 * i + k + 1) >> 11) * 0x1p-53;
    return (float)(3 * sum);
}

/* ---- how often ---- */

enum { N_PROBABILITIES = 7 };

/* Draw many times from known probabilities: 0 for what is not kept, and for the others a
 * chi-square that chance exceeds once in 1e5 (limits for 0 to 6 degrees of freedom). */
static void check_frequencies(const struct phx_sampling *params, const double *expected,
                              int32_t n_ranks)
{
    static const double log_of[N_PROBABILITIES] = {0.05, 0.4, 0.02, 0.25, 0.1, 0.03, 0.15};
    static const double limits[] = {0, 19.5, 23.0, 25.9, 28.5, 30.9, 33.1};
    enum { CALLS = 600, N = CALLS * MAX_ROWS };
    struct batch b;
    float logits[N_PROBABILITIES];
    double times[N_PROBABILITIES] = {0}, chi_square = 0;
    int freedom = -1;
    batch_open(&b, MAX_ROWS, N_PROBABILITIES);
    for (int i = 0; i < N_PROBABILITIES; i++) logits[i] = (float)(log(log_of[i]) + 2);
    for (int32_t call = 0; call < CALLS; call++) {
        for (int32_t m = 0; m < MAX_ROWS; m++) set_row(&b, m, logits, params, call * MAX_ROWS + m);
        if (n_ranks == 0)
            draw_full(&b);
        else
            draw_shared(&b, n_ranks, 7);
        for (int32_t m = 0; m < MAX_ROWS; m++) {
            times[i32(b.ids)[m]]++;
            float logprob = ((float *)phx_tensor_address(b.logprobs))[m];
            assert_true(fabs((double)logprob - log(log_of[i32(b.ids)[m]])) < 1e-5);
        }
    }
    for (int i = 0; i < N_PROBABILITIES; i++) {
        if (expected[i] == 0) {
            assert_true(times[i] == 0);
            continue;
        }
        freedom++;
        chi_square += pow(times[i] - N * expected[i], 2) / (N * expected[i]);
    }
    if (chi_square > limits[freedom])
        fail_msg("chi-square %g over %d degrees of freedom", chi_square, freedom);
    batch_close(&b);
}

static void test_frequencies(void **state)
{
    static const struct {
        struct phx_sampling params;
        bool shared; /* may be drawn from candidates */
        double expected[N_PROBABILITIES];
    } cases[] = {
        {{.temperature = 1, .top_p = 1}, true, {0.05, 0.4, 0.02, 0.25, 0.1, 0.03, 0.15}},
        {{.temperature = 0.5f, .top_p = 1}, /* squares */
         true,
         {0.0025 / 0.2588, 0.16 / 0.2588, 0.0004 / 0.2588, 0.0625 / 0.2588, 0.01 / 0.2588,
          0.0009 / 0.2588, 0.0225 / 0.2588}},
        {{.temperature = 1, .top_p = 1, .top_k = 3}, true, {0, 0.5, 0, 0.3125, 0, 0, 0.1875}},
        {{.temperature = 1, .top_p = 0.6f}, false, {0, 0.4 / 0.65, 0, 0.25 / 0.65, 0, 0, 0}},
        {{.temperature = 1, .top_p = 0.7f}, false, {0, 0.5, 0, 0.3125, 0, 0, 0.1875}},
        /* of the first three, renormalised 0.5 0.3125 0.1875 */
        {{.temperature = 1, .top_p = 0.7f, .top_k = 3},
         true,
         {0, 0.4 / 0.65, 0, 0.25 / 0.65, 0, 0, 0}},
        {{.temperature = 1, .top_p = 1, .min_p = 0.2f},
         false,
         {0, 0.4 / 0.9, 0, 0.25 / 0.9, 0.1 / 0.9, 0, 0.15 / 0.9}},
        {{.temperature = 1, .top_p = 0.95f, .min_p = 0.3f, .top_k = 5},
         true,
         {0, 0.5, 0, 0.3125, 0, 0, 0.1875}},
        {{.temperature = 1, .top_p = 0.99f, .top_k = 4},
         true,
         {0, 0.4 / 0.9, 0, 0.25 / 0.9, 0.1 / 0.9, 0, 0.15 / 0.9}},
        {{.temperature = 0, .top_p = 1}, true, {0, 1, 0, 0, 0, 0, 0}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct phx_sampling params = cases[i].params;
        params.repeat_penalty = 1;
        params.seed = 1000 + i;
        check_frequencies(&params, cases[i].expected, 0);
        if (cases[i].shared) check_frequencies(&params, cases[i].expected, 1 + (int32_t)i % 3);
    }
}

/* ---- what a draw does not depend on ---- */

/* Parameters that may be drawn from candidates, K = 40. */
static struct phx_sampling shared_params(int32_t m)
{
    struct phx_sampling p = plain;
    p.temperature = m % 4 == 0 ? 0 : 0.3f + 0.2f * (float)(m % 7);
    p.seed = (uint64_t)m / 5 + 3;
    p.choice = m % 3;
    if (m % 3 == 0) return p;
    p.top_k = 1 + m * 5 % 40;
    if (m % 2 == 0) p.top_p = 0.05f + 0.9f * (float)(m % 10) / 10;
    if (m % 5 == 0) p.min_p = 0.03f;
    return p;
}

/* `ties`: few different values. */
static void fill_batch(struct batch *b, bool ties)
{
    for (int32_t m = 0; m < b->n; m++) {
        float logits[MAX_VOCAB];
        const struct phx_sampling p = shared_params(m);
        for (int32_t i = 0; i < b->vocab; i++) {
            logits[i] = random_logit((uint64_t)(m * MAX_VOCAB + i));
            if (ties) logits[i] = floorf(logits[i]);
        }
        set_row(b, m, logits, &p, 100 + m);
    }
}

static void test_ranks_do_not_matter(void **state)
{
    static const int32_t vocabs[] = {24, 97, 333, MAX_VOCAB};
    (void)state;
    for (int i = 0; i < 8; i++) {
        struct batch b;
        int32_t ids[MAX_ROWS];
        float logprobs[MAX_ROWS];
        batch_open(&b, MAX_ROWS, vocabs[i / 2]);
        fill_batch(&b, i % 2 != 0);
        draw_full(&b);
        memcpy(ids, phx_tensor_address(b.ids), sizeof ids);
        memcpy(logprobs, phx_tensor_address(b.logprobs), sizeof logprobs);
        for (int32_t n_ranks = 1; n_ranks <= MAX_RANKS; n_ranks++) {
            for (int32_t k = 40; k <= PHX_MAX_CANDIDATES; k += PHX_MAX_CANDIDATES - 40) {
                draw_shared(&b, n_ranks, k);
                assert_memory_equal(ids, phx_tensor_address(b.ids), sizeof ids);
                assert_memory_equal(ids, phx_tensor_address(b.last_ids), sizeof ids);
                const float *own = phx_tensor_address(b.logprobs);
                for (int32_t m = 0; m < MAX_ROWS; m++)
                    assert_true(fabsf(own[m] - logprobs[m]) < 1e-5f);
            }
        }
        batch_close(&b);
    }
}

static void test_batch_does_not_matter(void **state)
{
    (void)state;
    struct batch all, one;
    batch_open(&all, MAX_ROWS, 333);
    batch_open(&one, 1, 333);
    fill_batch(&all, false);
    /* Slots in another order than rows, and some rows idle. */
    for (int32_t m = 0; m < MAX_ROWS; m++) {
        const struct phx_sampling p = shared_params(m);
        i32(all.slots)[m] = m % 9 == 5 ? -1 : (m * 7 + 3) % MAX_ROWS;
        *params_of(&all, (m * 7 + 3) % MAX_ROWS) = p;
    }
    for (int shared = 0; shared < 2; shared++) {
        if (shared != 0)
            draw_shared(&all, 3, 40);
        else
            draw_full(&all);
        for (int32_t m = 0; m < MAX_ROWS; m++) {
            const int32_t slot = (m * 7 + 3) % MAX_ROWS;
            const float *logits = (const float *)phx_tensor_address(all.logits) + m * 333;
            const struct phx_sampling p = shared_params(m);
            if (i32(all.slots)[m] < 0) {
                assert_int_equal(i32(all.ids)[m], -77);
                assert_int_equal(i32(all.last_ids)[slot], -77);
                continue;
            }
            set_row(&one, 0, logits, &p, 100 + m);
            draw_full(&one);
            assert_int_equal(i32(all.ids)[m], i32(one.ids)[0]);
            assert_int_equal(i32(all.last_ids)[slot], i32(one.ids)[0]);
        }
    }
    batch_close(&all);
    batch_close(&one);
}

/* ---- edges ---- */

/* What one row draws, which must be the same from any number of ranks where the parameters allow
 * that. */
static int32_t draw_one(const float *logits, int32_t vocab, const struct phx_sampling *params)
{
    struct batch b;
    batch_open(&b, 1, vocab);
    set_row(&b, 0, logits, params, 11);
    draw_full(&b);
    const int32_t id = i32(b.ids)[0];
    assert_in_range(id, 0, vocab - 1);
    bool shared = params->temperature == 0 || (params->top_k > 0 && params->top_k <= 256) ||
                  (params->top_k == 0 && params->top_p >= 1 && params->min_p <= 0);
    for (int32_t n_ranks = 1; shared && n_ranks <= 3; n_ranks++) {
        draw_shared(&b, n_ranks, params->top_k > 0 ? params->top_k : 1);
        assert_int_equal(i32(b.ids)[0], id);
    }
    batch_close(&b);
    return id;
}

static struct phx_sampling with(float temperature, int32_t top_k, float top_p, float min_p)
{
    struct phx_sampling p = plain;
    p.temperature = temperature;
    p.top_k = top_k;
    p.top_p = top_p;
    p.min_p = min_p;
    p.seed = 5;
    return p;
}

static void test_equals_go_to_the_lowest_id(void **state)
{
    (void)state;
    float logits[50] = {0};
    logits[13] = logits[31] = logits[49] = 2.5f;
    const struct phx_sampling greedy = with(0, 0, 1, 0), one = with(1, 1, 1, 0);
    const struct phx_sampling half = with(1, 0, 1e-6f, 0);
    assert_int_equal(draw_one(logits, 50, &greedy), 13);
    assert_int_equal(draw_one(logits, 50, &one), 13);
    assert_int_equal(draw_one(logits, 50, &half), 13);
    logits[0] = -0.0f;
    logits[13] = logits[31] = logits[49] = -1;
    assert_int_equal(draw_one(logits, 50, &greedy), 0);
    assert_int_equal(draw_one(logits, 50, &one), 0); /* -0 equals 0 */
}

static void test_edges_of_the_cuts(void **state)
{
    (void)state;
    float logits[MAX_VOCAB];
    int32_t best = 0;
    for (int32_t i = 0; i < MAX_VOCAB; i++) {
        logits[i] = random_logit((uint64_t)i + 999999);
        if (logits[i] > logits[best]) best = i;
    }
    const struct phx_sampling all = with(1, 0, 1, 0);
    const int32_t free_draw = draw_one(logits, MAX_VOCAB, &all);
    struct phx_sampling p = with(1, 0, 1e-30f, 0);
    assert_int_equal(draw_one(logits, MAX_VOCAB, &p), best);
    p = with(1, 0, 1, 1);
    assert_int_equal(draw_one(logits, MAX_VOCAB, &p), best);
    p = with(1e-30f, 0, 0.5f, 0);
    assert_int_equal(draw_one(logits, MAX_VOCAB, &p), best);
    p = with(1, MAX_VOCAB, 1, 0); /* cuts that cut nothing */
    assert_int_equal(draw_one(logits, MAX_VOCAB, &p), free_draw);
    p = with(1, 1 << 30, 1, 1e-30f);
    assert_int_equal(draw_one(logits, MAX_VOCAB, &p), free_draw);
    p = with(1, 0, 0.99999994f, 0);
    assert_int_equal(draw_one(logits, MAX_VOCAB, &p), free_draw);
    float same[4] = {1, 1, 1, 1}; /* exactly half: the first two */
    for (uint64_t seed = 0; seed < 50; seed++) {
        p = with(1, 0, 0.5f, 0);
        p.seed = seed;
        assert_in_range(draw_one(same, 4, &p), 0, 1);
    }
}

/* Whatever the logits are, a token comes out, from finite ones if there are any. */
static void test_logits_that_are_no_numbers(void **state)
{
    static const float bad[] = {(float)NAN, -INFINITY, INFINITY};
    const struct phx_sampling ways[] = {
        with(0, 0, 1, 0),    with(1, 0, 1, 0),    with(1, 5, 1, 0),      with(1, 0, 0.9f, 0),
        with(1, 3, 0.5f, 0), with(2, 0, 1, 0.1f), with(1, 9, 0.9f, 0.2f)};
    (void)state;
    for (size_t way = 0; way < sizeof ways / sizeof *ways; way++) {
        for (int k = 0; k < 3; k++) {
            float logits[37];
            for (int i = 0; i < 37; i++) logits[i] = bad[k];
            draw_one(logits, 37, &ways[way]);
            logits[20] = 1.5f;
            int32_t id = draw_one(logits, 37, &ways[way]);
            if (k < 2) assert_int_equal(id, 20);
            for (int i = 0; i < 37; i++) logits[i] = i % 3 == 0 ? bad[k] : (float)(i % 7);
            id = draw_one(logits, 37, &ways[way]);
            if (k < 2)
                assert_true(id % 3 != 0);
            else
                assert_true(id % 3 == 0);
        }
    }
}

/* They show in the log-probability, wherever in the vocabulary they are. */
static void test_logprobs_of_logits_that_are_no_numbers(void **state)
{
    static const float bad[] = {(float)NAN, INFINITY, -INFINITY};
    const struct phx_sampling params = with(1, 5, 1, 0);
    (void)state;
    struct batch b;
    batch_open(&b, 1, 101);
    for (int k = 0; k < 3; k++)
        for (int32_t at = 0; at <= 101; at++) { /* 101: all of them */
            float logits[101];
            for (int32_t i = 0; i < 101; i++)
                logits[i] = at == i || at == 101 ? bad[k] : (float)(i % 7);
            /* a share that is ruled out, with what it has for all of them */
            for (int32_t i = 0; k == 2 && at < 101 && i < 30; i++) logits[i] = -INFINITY;
            set_row(&b, 0, logits, &params, 9);
            for (int shared = 0; shared < 2; shared++) {
                *(float *)phx_tensor_address(b.logprobs) = 1;
                if (shared)
                    draw_shared(&b, 5, 5);
                else
                    draw_full(&b);
                float logprob = *(float *)phx_tensor_address(b.logprobs);
                if (k == 2 && at < 101)
                    assert_true(logprob < 0 && logprob > -10);
                else
                    assert_true(isnan(logprob));
            }
        }
    batch_close(&b);
}

/* ---- with penalties ---- */

/* Counting what was drawn, and a penalty on it, makes greedy decoding walk down the ranking. */
static void test_counts_and_penalties_meet(void **state)
{
    enum { VOCAB = 20, BEGIN = 0 };
    (void)state;
    struct batch b;
    struct phx_sampling p = with(0, 0, 1, 0);
    float logits[VOCAB];
    p.presence_penalty = 100;
    p.n_bias = 1;
    for (int i = 0; i < VOCAB; i++) logits[i] = (float)(i * 7 % VOCAB); /* a permutation */
    batch_open(&b, 1, VOCAB);
    set_row(&b, 0, logits, &p, 0);

    size_t offset = 3 << 20;
    struct phx_sampling_table table = {b.params, take(b.buffer, &offset, PHX_U16, 1, VOCAB),
                                       take(b.buffer, &offset, PHX_I32, 1, PHX_MAX_BIAS),
                                       take(b.buffer, &offset, PHX_F32, 1, PHX_MAX_BIAS)};
    i32(table.bias_ids)[0] = 4;
    ((float *)phx_tensor_address(table.bias_values))[0] = -50;
    struct phx_count_tokens bias = {
        .ids = table.bias_ids, .slots = b.slots, .counts = table.counts};
    bias.ids.cols = bias.ids.stride = 1;
    bias.kind = PHX_COUNT_BIAS;
    assert_ok(phx_op_count_tokens(b.stream, &bias));

    for (int step = 0; step < VOCAB; step++) {
        struct phx_adjust_logits adjust = {b.logits, b.slots, BEGIN, table, b.adjusted};
        assert_ok(phx_op_adjust_logits(b.stream, &adjust));
        draw_full(&b);
        int32_t wanted = 0; /* the step'th in rank, the biased one last */
        int rank = step;
        for (int32_t i = 0; i < VOCAB; i++) {
            int above = 0;
            for (int32_t k = 0; k < VOCAB; k++) above += k != 4 && logits[k] > logits[i];
            if (i == 4 ? rank == VOCAB - 1 : above == rank) wanted = i;
        }
        assert_int_equal(i32(b.ids)[0], wanted);
        /* The drawn token counts through the slot's newest. */
        int32_t newest = -1;
        i32(b.positions)[0] = newest;
        struct phx_count_tokens count = {b.positions, b.last_ids,       b.slots,
                                         BEGIN,       PHX_COUNT_OUTPUT, table.counts};
        assert_ok(phx_op_count_tokens(b.stream, &count));
    }
    batch_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frequencies),
        cmocka_unit_test(test_ranks_do_not_matter),
        cmocka_unit_test(test_batch_does_not_matter),
        cmocka_unit_test(test_equals_go_to_the_lowest_id),
        cmocka_unit_test(test_edges_of_the_cuts),
        cmocka_unit_test(test_logits_that_are_no_numbers),
        cmocka_unit_test(test_logprobs_of_logits_that_are_no_numbers),
        cmocka_unit_test(test_counts_and_penalties_meet),
    };
    return cmocka_run_group_tests_name("sampling", tests, NULL, NULL);
}
