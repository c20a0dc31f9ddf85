/// \file bench_steps.h
/// A test of `phalanx bench` under way, through the engine as it is. Rank 0 leads: for each part of
/// a test it tells the others what follows, steps, and stops the engine again.
#ifndef PHX_LAUNCH_VERBS_BENCH_STEPS_H
#define PHX_LAUNCH_VERBS_BENCH_STEPS_H

#include "launch/verbs/bench_tests.h"

/// Other ranks: take part until rank 0 calls phx_bench_end().
enum phx_status phx_bench_follow(struct phx_run *run);

/* All else is rank 0's. */

enum phx_status phx_bench_end(struct phx_run *run);

struct phx_bench_steps {
    struct phx_run *run;
    const struct phx_options *options;
    const struct phx_bench_test *test;
    struct phx_request **requests; ///< [n_seqs]
    int32_t begin, end;            ///< positions of each that the test computes
    bool submitted, hashed;
    uint64_t hash; ///< of the tokens that a repetition drew
};

/// Steps follow, with stages left out as phx_stream_leave_out() does, until
/// phx_engine_stop().
enum phx_status phx_bench_begin(struct phx_run *run, unsigned left_out, bool starts);
/// The cache comes to hold what lies before the test, and the test is run once or twice.
enum phx_status phx_bench_prepare(struct phx_bench_steps *steps);
/// Run it as often as it takes until steps are as fast as they will be.
enum phx_status phx_bench_warm_up(struct phx_bench_steps *steps, bool counts);
/// From its first step to its last token. `counts`: PHX_BAD_DATA if the tokens are not those of the
/// first time.
enum phx_status phx_bench_repeat(struct phx_bench_steps *steps, bool counts, double *out_seconds);
/// The sequences leave the engine.
enum phx_status phx_bench_leave(struct phx_bench_steps *steps);

/// Between steps: the seconds of a sum of n_rows rows; the most memory that a rank takes.
enum phx_status phx_bench_sum(struct phx_run *run, int32_t n_rows, double *out);
enum phx_status phx_bench_memory(struct phx_run *run, double *out_bytes);

#endif
