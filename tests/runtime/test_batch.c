/* What a step record makes of a slot's tables on the device. */
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/batch.h"

enum { VOCAB_BEGIN = 10, VOCAB_END = 50, MAX_ROWS = 16, SLOT = 1 };
enum { IN_PROMPT = 1 << 15, TIMES = (1 << 14) - 1 }; /* as in kernels/ops.h */

static const struct phx_scheduler_limits limits = {3, MAX_ROWS, 3, 400, 9, true};

struct bench {
    struct phx_device *device;
    struct phx_stream *stream;
    struct phx_batch *batch;
};

static void open_bench(struct bench *b)
{
    struct phx_limits of_stream = {.max_rows = MAX_ROWS};
    assert_ok(phx_device_create(
        &(struct phx_device_options){.kind = PHX_DEVICE_CPU, .n_threads = 1, .compute = PHX_F32},
        &b->device));
    assert_ok(phx_stream_create(b->device, &of_stream, &b->stream));
    assert_ok(phx_batch_create(b->device, &limits, (struct phx_interval){VOCAB_BEGIN, VOCAB_END},
                               false, &b->batch));
}

static void close_bench(struct bench *b)
{
    phx_batch_destroy(b->batch);
    phx_stream_destroy(b->stream);
    phx_device_destroy(b->device);
}

/* A text of which 128 tokens were found in the cache, 70 of them its prompt's. */
static void shared_tokens_count(void **state)
{
    (void)state;
    enum { N_SEEN = 128, N_PROMPT = 70 };
    struct bench b;
    open_bench(&b);
    void *buffer = calloc(1, phx_step_record_capacity(&limits));
    struct phx_step_record r;
    struct phx_record_head head = {
        .n_joins = 1, .n_biases = 2, .n_seqs = 1, .n_rows = 1, .n_seen = N_SEEN, .adjust = 1};
    memcpy(buffer, &head, sizeof head);
    size_t bytes = sizeof head + sizeof *r.joins + 2 * sizeof *r.biases + sizeof *r.seqs +
                   (1 + N_SEEN) * sizeof *r.ids;
    phx_step_record_read(buffer, bytes, &r);
    r.joins[0] = (struct phx_record_join){
        .sampling = {.top_p = 1, .repeat_penalty = 1.1f, .frequency_penalty = 1, .n_bias = 2},
        .slot = SLOT,
        .fresh = 1,
        .n_seen = N_SEEN,
        .n_prompt = N_PROMPT};
    r.biases[0] = (struct phx_record_bias){20, 1};
    r.biases[1] = (struct phx_record_bias){30, -1};
    r.seqs[0] = (struct phx_record_seq){SLOT, 1, N_SEEN, N_PROMPT};
    int times[VOCAB_END] = {0};
    bool in_prompt[VOCAB_END] = {false};
    for (int i = 0; i < N_SEEN; i++) {
        r.seen[i] = i * i % 53; /* some belong to other ranks */
        if (r.seen[i] >= VOCAB_END) continue;
        if (i < N_PROMPT)
            in_prompt[r.seen[i]] = true;
        else
            times[r.seen[i]]++;
    }
    for (int again = 0; again < 2; again++) { /* the slot's former counts are gone */
        struct phx_step step;
        assert_ok(phx_batch_apply(b.batch, b.stream, &r, &step));
        assert_ok(phx_stream_synchronize(b.stream));
        uint16_t counts[VOCAB_END - VOCAB_BEGIN];
        assert_ok(
            phx_tensor_download(b.stream, phx_tensor_rows(step.table.counts, SLOT, 1), counts));
        for (int id = VOCAB_BEGIN; id < VOCAB_END; id++) {
            assert_int_equal(counts[id - VOCAB_BEGIN] & TIMES, times[id]);
            assert_int_equal((counts[id - VOCAB_BEGIN] & IN_PROMPT) != 0, in_prompt[id]);
        }
        int32_t id;
        assert_ok(phx_tensor_download(b.stream, step.ids, &id));
        assert_int_equal(id, r.ids[0]);
    }
    free(buffer);
    close_bench(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(shared_tokens_count)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
