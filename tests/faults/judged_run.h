/// \file judged_run.h
/// A run of a model on ranks that are threads, judged by audit or by compare.
#ifndef PHX_TESTS_FAULTS_JUDGED_RUN_H
#define PHX_TESTS_FAULTS_JUDGED_RUN_H

#include <stdbool.h>

#include "kernels/device.h"
#include "runtime/audit.h"
#include "runtime/compare.h"

/// What computes, and how far it may be off.
struct test_mode {
    const char *name;
    enum phx_device_kind device; ///< ranks share GPUs if there are fewer
    enum phx_dtype compute;
    double tolerance;
    bool host_sums; ///< GPUs: also where NCCL could add, since that takes seconds to begin
};

struct test_outcome {
    const struct test_mode *mode;
    const char *directory;
    bool whole_experts;             ///< of a mixture: else columns of each
    bool compares;                  ///< else: audits
    struct phx_audit_check failure; ///< of the audit; passed: none
    struct phx_difference first;    ///< of compare; ok: none
    enum phx_audit_check_id id;
    size_t n_twins;               ///< of the audit
    struct phx_audit_twins twins; ///< the first
};

/// The first four members of *out say what is run; the others become what came of it.
enum phx_status test_run_judged(int size, struct test_outcome *out);

#endif
