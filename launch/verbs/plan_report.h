/// \file plan_report.h
/// What `plan` found out, for plan_print.c.
#ifndef PHX_LAUNCH_VERBS_PLAN_REPORT_H
#define PHX_LAUNCH_VERBS_PLAN_REPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "launch/run.h"
#include "runtime/step_model.h"

struct phx_plan_rank {
    struct phx_shard_plan *plan;
    struct phx_device *device; ///< on paper
    struct phx_memory_plan memory;
};

/// A number of ranks.
struct phx_plan_case {
    int size;
    char refusal[512];           ///< why not so many; "": possible, and the rest is there
    struct phx_plan_rank *ranks; ///< [size]
    int fullest, lightest;       ///< the ranks that take most and least
    bool fits;                   ///< what was asked for, on every rank
    int64_t longest;             ///< context of which n_texts fit; 0: none
    int64_t most_texts;          ///< of the context asked for
    int64_t sum_bytes;           ///< summed over the ranks for a token
    bool predicted;              ///< it fits, and the constants are known
    double decode_s, prompt_s;
};

struct phx_plan_report {
    const struct phx_config *config;
    const struct phx_checkpoint *checkpoint; ///< NULL: no weights in the folder
    const struct phx_gpu_kind *gpu; ///< NULL: a CPU, or a GPU of which only memory is known
    struct phx_device_info device;  ///< n_units is that of each rank
    double utilization;             ///< of a GPU's memory
    enum phx_dtype kv_dtype;
    int64_t context, n_texts;
    struct phx_step_shape prompt; ///< the step whose time is predicted
    const char *no_prediction;    ///< a sentence; NULL: there is one
    struct phx_scheduler_limits limits;
    struct phx_plan_case *cases; ///< [n_cases]
    int n_cases;
};

enum phx_status phx_plan_print(const struct phx_plan_report *report);
enum phx_status phx_plan_print_json(const struct phx_plan_report *report);

#endif
