/// \file scale_rows.h
/// What bench/scale.sh measured: the rows of `phalanx bench` for several numbers of ranks, taken
/// together by test, and what the model of a step makes of them.
#ifndef PHX_BENCH_SCALE_ROWS_H
#define PHX_BENCH_SCALE_ROWS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "launch/verbs/bench_tests.h"
#include "runtime/step_model.h"

enum { SCALE_RANKS = 16, SCALE_TESTS = 64, SCALE_ROUNDS = 64 };

enum scale_stage {
    SCALE_PRODUCTS,
    SCALE_ATTENTION,
    SCALE_SUMS,
    SCALE_NORMS,
    SCALE_SAMPLING,
    SCALE_HOST,
    SCALE_GAPS,
    SCALE_STAGES
};
extern const char *const scale_stages[SCALE_STAGES]; ///< as in stages_ms_per_step

/// A test on some number of ranks, all rounds of it, or what is predicted of it.
struct scale_point {
    int size;                ///< ranks
    int n;                   ///< rounds; 0: predicted only
    char refusal[256];       ///< why so many ranks are impossible; "": they are not
    double ms[SCALE_ROUNDS]; ///< a step
    double mean_ms, spread_ms;
    double tokens_s, floor_fraction, comm_share, peak_bytes;
    double stage_ms[SCALE_STAGES]; ///< means; all 0: no breakdown
    double start_us, sum_us, sum_us_one_row;
    int32_t sum_rows;
    double read_gb_s, peak_tflop_s;
    char hash[20];
    double predicted_ms; ///< from the fewest ranks; 0: cannot be predicted
    double error;        ///< of that, relative to what was measured; NaN: nothing to compare
};

struct scale_test {
    struct phx_bench_test test;
    struct scale_point points[SCALE_RANKS]; ///< [n_points], fewest ranks first, measured and not
    int n_points;
};

struct scale {
    struct scale_test tests[SCALE_TESTS];
    int n_tests;
    const char *model; ///< folder
    const char *device, *sums, *activation, *cache, *backend;
    int32_t step_tokens;
    json_t *rows;       ///< [n] as they were read
    int n_wrong;        ///< rows that are not counted because their tokens are wrong
    double worst_error; ///< of all predictions that were measured; NaN: none
};

/// Several nodes: `size` ranks on each, joined by links of these constants, which nobody measured
/// here. n = 1: one node.
struct scale_nodes {
    int n;
    struct phx_sum_constants link;
};

/// An object a line. Rows whose tokens differ from those of the same test in another round, or in
/// float32 on other ranks, are told on stderr and not counted.
enum phx_status scale_read(const char *path, struct scale *out);
void scale_free(struct scale *scale);

/// Fill in predicted_ms and error of all points, and add points for the numbers of ranks in `sizes`
/// that were not measured.
enum phx_status scale_predict(struct scale *scale, const int *sizes, int n_sizes,
                              const struct scale_nodes *nodes);

#endif
