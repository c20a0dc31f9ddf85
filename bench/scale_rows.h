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
    SCALE_GAPS,
    SCALE_HOST,
    SCALE_STAGES
};
extern const char *const scale_stages[SCALE_STAGES]; ///< as in stages_ms_per_step

/// A test on some number of ranks, all rounds of it, or what is predicted of it.
struct scale_point {
    int size;                           ///< ranks
    int n;                              ///< rounds; 0: predicted only
    char refusal[256];                  ///< why so many ranks are impossible; "": they are not
    double ms[SCALE_ROUNDS];            ///< a step
    double own_spread_ms[SCALE_ROUNDS]; ///< that each round printed of itself
    double mean_ms;
    double spread_ms; ///< phx_bench_spread() of the rounds; of a single one its own
    double tokens_s, floor_fraction, comm_share, peak_bytes;
    int n_broken_down;             ///< rounds that have stages
    double stage_ms[SCALE_STAGES]; ///< means of these; all 0: no breakdown
    double stages_step_ms;         ///< the step that they are parts of, measured by itself
    double start_us, sum_us, sum_us_one_row;
    int32_t sum_rows;
    double read_gb_s, peak_tflop_s;
    char hash[20];
    double predicted_ms; ///< from the fewest ranks; 0: cannot be predicted
    double error;        ///< of that, relative to what was measured; NaN: nothing to compare
    double nodes_ms;     ///< predicted of so many ranks on each of several nodes; 0: not asked for
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
    json_t *file;       ///< what was read, if it was more than rows; NULL: it was not
    json_t *rows;       ///< [n] as they were read
    int n_wrong;        ///< rows that are not counted because their tokens are wrong
    double worst_error; ///< of all predictions that were measured; NaN: none
    /// Pairs of rounds of the same, and those of them that differ by no more than the larger of the
    /// spreads that the two printed.
    int n_pairs, n_agreeing;
};

/// Several nodes: `size` ranks on each, joined by links of these constants, which nobody measured
/// here. n = 1: one node.
struct scale_nodes {
    int n;
    struct phx_sum_constants link;
};

/// Rows of `phalanx bench`, an object a line, or what write_json() of scale_report.c wrote before.
/// Rows whose tokens differ from those of the same test in another round, or in float32 on other
/// ranks, are told on stderr and not counted.
enum phx_status scale_read(const char *path, struct scale *out);
void scale_free(struct scale *scale);

/// Fill in predicted_ms and error of all points, nodes_ms if there are several nodes, and add
/// points for the numbers of ranks in `sizes` that were not measured.
enum phx_status scale_predict(struct scale *scale, const int *sizes, int n_sizes,
                              const struct scale_nodes *nodes);

enum { SCALE_TITLE_BYTES = 96 };
/// "tg32 @ d1024, batch 64"
void scale_title(const struct scale_test *test, char title[SCALE_TITLE_BYTES]);
/// Of the fewest ranks that were measured.
const struct scale_point *scale_base(const struct scale_test *test);
/// Milliseconds of all parts together; 0: no breakdown.
double scale_stages_sum(const struct scale_point *point);

/// A script for gnuplot, in scale_plot.c.
enum phx_status scale_plot(const struct scale *scale, const struct scale_nodes *nodes,
                           const char *heading, const char *path);

#endif
