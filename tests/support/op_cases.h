/// \file op_cases.h
/// Every op's cases: shapes, tolerances, bytes and operations. One table for the test of each
/// backend and for the bench.
#ifndef PHX_TESTS_SUPPORT_OP_CASES_H
#define PHX_TESTS_SUPPORT_OP_CASES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"
#include "tests/support/op_run.h"

/// What a case is, on a given device.
struct op_case {
    char name[96];
    double tolerance; ///< of op_result.error
    double bytes;     ///< that must move at least once
    double flops;
    bool large; ///< a shape of a real model: for the bench, slow to check
};

struct op_table {
    const char *op;
    size_t n_cases;
    void (*describe)(size_t index, const struct phx_device_info *info, struct op_case *out);
    /// Makes inputs, launches, compares; then launches n_timed times more.
    void (*run)(struct op_run *run, size_t index, double tolerance, int n_timed);
};

extern const struct op_table op_table_embed, op_table_add_norm, op_table_linear, op_table_gate_up,
    op_table_route, op_table_experts_gate_up, op_table_experts_down, op_table_rope_table,
    op_table_head_squares, op_table_rope_append, op_table_attention, op_table_attention_nan,
    op_table_gather_rows, op_table_count_tokens, op_table_adjust_logits, op_table_sample_candidates,
    op_table_sample_pick, op_table_sample_full;

extern const struct op_table *const op_tables[];
extern const size_t n_op_tables;

/// A case on a device, with the case's tolerance or least_tolerance, whichever is larger: a device
/// may be asked to round more than its types tell. The result's `failure` is "" if all was right.
void op_case_run(struct phx_device *device, const struct op_table *table, size_t index,
                 double least_tolerance, int n_timed, struct op_result *result);

/// The same of a recorded run (op_run.h), on a device that has graphs.
void op_case_run_recorded(struct phx_device *device, const struct op_table *table, size_t index,
                          struct op_result *result);

/// Tolerance of an op that computes in f32 and rounds its result to `dtype` once.
double op_tolerance(enum phx_dtype dtype);

#endif
