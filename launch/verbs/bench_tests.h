/// \file bench_tests.h
/// What `phalanx bench` is asked to measure, and what that is in steps, bytes and operations. Pure.
#ifndef PHX_LAUNCH_VERBS_BENCH_TESTS_H
#define PHX_LAUNCH_VERBS_BENCH_TESTS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"
#include "launch/options.h"
#include "launch/run.h"
#include "runtime/step_model.h"

/// n_seqs sequences, each with `depth` tokens in the cache, read n_prompt tokens each and then make
/// n_gen each.
struct phx_bench_test {
    int32_t n_prompt, n_gen, depth, n_seqs;
};

struct phx_bench_tests {
    struct phx_bench_test *items; ///< [n]
    size_t n;
};

/// Those of llama-bench, in its order: for each depth and number of sequences pp, tg, pg. PHX_USAGE
/// if there are none.
enum phx_status phx_bench_tests_create(const struct phx_options *options,
                                       struct phx_bench_tests *out);
void phx_bench_tests_free(struct phx_bench_tests *tests);

enum { PHX_BENCH_NAME_BYTES = 64 };
/// "pp512", "tg128 @ d8192", "pp512+tg128"
void phx_bench_test_name(const struct phx_bench_test *test, char name[PHX_BENCH_NAME_BYTES]);

/// Positions of a sequence when the test is over.
int64_t phx_bench_test_length(const struct phx_bench_test *test);

/// What all tests that the model has positions for need, in steps of step_tokens.
struct phx_run_needs phx_bench_tests_needs(const struct phx_bench_tests *tests,
                                           const struct phx_config *config, int32_t step_tokens);

/// How a rank computes, as far as its work depends on it.
struct phx_bench_rank {
    const struct phx_config *config;
    const struct phx_shard_plan *plan;
    const struct phx_checkpoint *checkpoint; ///< NULL: none
    const struct phx_device *device;
    enum phx_dtype kv_dtype;
};

/// The test's steps, with prompts in pieces of step_tokens at most: what the rank does in all of
/// them together. Returns how many they are.
int64_t phx_bench_test_work(const struct phx_bench_test *test, const struct phx_bench_rank *rank,
                            int32_t step_tokens, struct phx_step_work *out);

#endif
