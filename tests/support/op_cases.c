#include "tests/support/op_cases.h"

#include <math.h>

#include "tests/support/op_step.h"

const struct op_table *const op_tables[] = {
    &op_table_embed,         &op_table_add_norm,
    &op_table_linear,        &op_table_gate_up,
    &op_table_route,         &op_table_experts_gate_up,
    &op_table_experts_down,  &op_table_rope_table,
    &op_table_head_squares,  &op_table_rope_append,
    &op_table_attention,     &op_table_attention_nan,
    &op_table_gather_rows,   &op_table_count_tokens,
    &op_table_adjust_logits, &op_table_sample_candidates,
    &op_table_sample_pick,   &op_table_sample_full,
};
const size_t n_op_tables = sizeof op_tables / sizeof *op_tables;

double op_tolerance(enum phx_dtype dtype)
{
    switch (dtype) {
    case PHX_F16:
        return 2e-3;
    case PHX_BF16:
        return 1e-2;
    default:
        return 1e-5;
    }
}

static void run_case(struct phx_device *device, const struct op_table *table, size_t index,
                     bool recorded, double least_tolerance, int n_timed, struct op_result *result)
{
    struct phx_device_info info;
    struct op_case description = {0};
    struct op_run run;
    phx_device_info(device, &info);
    table->describe(index, &info, &description);
    const bool large = description.large;
    const struct phx_limits limits = {
        .max_rows = 512,
        .max_seqs = OP_STEP_SEQS,
        .max_length = large ? 65536 : 4096,
        .max_in = large ? 8192 : 1024,
        .max_out = large ? 8192 : 1024,
        .max_vocab = large ? 131072 : 1024,
        .max_heads = 71,
        .max_kv_heads = 8,
        .max_head_dim = 256,
        .quantised = true,
    };
    op_run_open(&run, device, &limits, 0x5eed + index, result);
    run.recorded = recorded;
    table->run(&run, index, fmax(description.tolerance, least_tolerance), n_timed);
    op_run_close(&run);
}

void op_case_run(struct phx_device *device, const struct op_table *table, size_t index,
                 double least_tolerance, int n_timed, struct op_result *result)
{
    run_case(device, table, index, false, least_tolerance, n_timed, result);
}

void op_case_run_recorded(struct phx_device *device, const struct op_table *table, size_t index,
                          struct op_result *result)
{
    run_case(device, table, index, true, 0, 0, result);
}
