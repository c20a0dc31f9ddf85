#include "launch/verbs/bench_tests.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"

static void add(struct phx_bench_tests *tests, struct phx_bench_test test)
{
    if (test.n_prompt > 0 || test.n_gen > 0) tests->items[tests->n++] = test;
}

static void add_lists(const struct phx_options *o, struct phx_bench_test t,
                      struct phx_bench_tests *out)
{
    for (size_t i = 0; i < o->bench_prompt.n; i++) {
        t.n_prompt = o->bench_prompt.items[i];
        t.n_gen = 0;
        add(out, t);
    }
    for (size_t i = 0; i < o->bench_generate.n; i++) {
        t.n_prompt = 0;
        t.n_gen = o->bench_generate.items[i];
        add(out, t);
    }
    for (size_t i = 0; i < o->bench_both.n; i++) {
        t.n_prompt = o->bench_both.items[i].first;
        t.n_gen = o->bench_both.items[i].second;
        add(out, t);
    }
}

static enum phx_status add_text(const char *text, struct phx_bench_tests *out)
{
    int64_t numbers[4];
    const char *at = text;
    for (int i = 0; i < 4; i++) {
        size_t digits = strspn(at, "0123456789");
        numbers[i] = digits > 0 && digits < 10 ? strtoll(at, NULL, 10) : -1;
        if (numbers[i] < 0 || at[digits] != (i < 3 ? ',' : '\0')) goto bad;
        at += digits + 1;
    }
    if (numbers[0] + numbers[1] == 0 || numbers[3] < 1 || numbers[3] > PHX_MAX_SEQS) goto bad;
    add(out, (struct phx_bench_test){(int32_t)numbers[0], (int32_t)numbers[1], (int32_t)numbers[2],
                                     (int32_t)numbers[3]});
    return PHX_OK;
bad:
    return phx_fail(PHX_USAGE,
                    "--test %.100s: must be tokens to read, to make, in the cache before, and "
                    "sequences, like 0,128,8192,1",
                    text);
}

static bool has_lists(const struct phx_options *o)
{
    return o->tests.n == 0 || phx_options_given(o, "--n-prompt") ||
           phx_options_given(o, "--n-gen") || phx_options_given(o, "-pg");
}

enum phx_status phx_bench_tests_create(const struct phx_options *options,
                                       struct phx_bench_tests *out)
{
    const struct phx_options *o = options;
    size_t most = o->bench_prompt.n + o->bench_generate.n + o->bench_both.n;
    *out = (struct phx_bench_tests){
        .items = calloc(most * o->depth.n * o->batches.n + o->tests.n + 1, sizeof *out->items)};
    if (out->items == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the tests");
    for (size_t d = 0; d < o->depth.n && has_lists(o); d++)
        for (size_t b = 0; b < o->batches.n; b++)
            add_lists(
                o,
                (struct phx_bench_test){.depth = o->depth.items[d], .n_seqs = o->batches.items[b]},
                out);
    for (size_t i = 0; i < o->tests.n; i++) PHX_TRY(add_text(o->tests.items[i], out));
    if (out->n > 0) return PHX_OK;
    return phx_fail(PHX_USAGE, "nothing to measure: give -p, -n or -pg a number above 0");
}

void phx_bench_tests_free(struct phx_bench_tests *tests)
{
    free(tests->items);
    *tests = (struct phx_bench_tests){0};
}

void phx_bench_test_name(const struct phx_bench_test *test, char name[PHX_BENCH_NAME_BYTES])
{
    size_t n = 0, size = PHX_BENCH_NAME_BYTES;
    if (test->n_prompt > 0) n += (size_t)snprintf(name, size, "pp%d", test->n_prompt);
    if (test->n_gen > 0)
        n += (size_t)snprintf(name + n, size - n, "%stg%d", n > 0 ? "+" : "", test->n_gen);
    if (test->depth > 0) snprintf(name + n, size - n, " @ d%d", test->depth);
}

int64_t phx_bench_test_length(const struct phx_bench_test *test)
{
    return (int64_t)test->depth + test->n_prompt + test->n_gen;
}

struct phx_run_needs phx_bench_tests_needs(const struct phx_bench_tests *tests,
                                           const struct phx_config *config, int32_t step_tokens)
{
    struct phx_run_needs needs = {.max_seqs = 1, .max_rows = step_tokens, .max_length = 2};
    for (size_t i = 0; i < tests->n; i++) {
        const struct phx_bench_test *t = &tests->items[i];
        /* Room for a token that is drawn and never read. */
        int64_t length = phx_bench_test_length(t) + 2, all = length * t->n_seqs;
        if (length > config->max_positions) continue;
        if (t->n_seqs > needs.max_seqs) needs.max_seqs = t->n_seqs;
        if (length > needs.max_length) needs.max_length = (int32_t)length;
        if (all > needs.total_tokens) needs.total_tokens = all;
    }
    return needs;
}

/* ---- work ---- */

/* Weights are read once for all rows of a step; keys and values for each sequence. */
static void add_step(const struct phx_bench_rank *rank, int64_t rows, int64_t n_seqs,
                     int64_t length, double n_times, struct phx_step_work *sum)
{
    struct phx_step_work w;
    struct phx_step_shape shape = {n_seqs, (rows + n_seqs - 1) / n_seqs, length};
    phx_step_work_of(rank->config, rank->plan, rank->checkpoint, rank->device, rank->kv_dtype,
                     &shape, &w);
    sum->weight_bytes += n_times * w.weight_bytes;
    sum->cache_bytes += n_times * w.cache_bytes;
    sum->product_operations += n_times * w.product_operations;
    sum->attention_operations += n_times * w.attention_operations;
    sum->n_products += (int64_t)n_times * w.n_products;
    sum->n_attentions += (int64_t)n_times * w.n_attentions;
    sum->n_sums += (int64_t)n_times * w.n_sums;
    sum->sum_bytes += (int64_t)n_times * w.sum_bytes;
}

/* As the scheduler does it: sequence after sequence, as much as a step holds. A step that ends
 * within a sequence is counted as one of whole sequences, with as many rows. */
static int64_t add_prompts(const struct phx_bench_test *test, const struct phx_bench_rank *rank,
                           int64_t step, struct phx_step_work *sum)
{
    int64_t p = test->n_prompt, left = p * test->n_seqs, n_steps = 0, at = 0;
    for (; left > 0; n_steps++) {
        int64_t rows = left < step ? left : step;
        if (p > step) {
            /* Within one sequence as far as it goes. */
            if (rows > p - at) rows = p - at;
            add_step(rank, rows, 1, test->depth + at + rows, 1, sum);
            at = at + rows == p ? 0 : at + rows;
        } else {
            add_step(rank, rows, (rows + p - 1) / p, test->depth + p, 1, sum);
        }
        left -= rows;
    }
    return n_steps;
}

int64_t phx_bench_test_work(const struct phx_bench_test *test, const struct phx_bench_rank *rank,
                            int32_t step_tokens, struct phx_step_work *out)
{
    *out = (struct phx_step_work){0};
    int64_t n_steps = add_prompts(test, rank, step_tokens, out);
    if (test->n_gen == 0) return n_steps;
    /* Bytes and operations are linear in the length, up to windows: the mean stands for all. */
    int64_t length = (int64_t)test->depth + test->n_prompt + (test->n_gen + 1) / 2;
    add_step(rank, test->n_seqs, test->n_seqs, length, test->n_gen, out);
    return n_steps + test->n_gen;
}
