/// \file expected.h
/// What must come of a planted fault, from nothing but the model's shape and the number of ranks.
#ifndef PHX_TESTS_FAULTS_EXPECTED_H
#define PHX_TESTS_FAULTS_EXPECTED_H

#include <stdbool.h>

#include "runtime/audit.h"
#include "tests/faults/fault.h"

struct test_shape {
    int heads, kv, group, dim;
    bool qk_norm, qk_norm_all, o_bias, tied, experts, square; ///< square: W_o is
};

struct test_expected {
    bool visible;   ///< false: nothing can be wrong there, and all must pass
    bool unaudited; ///< no mapping of heads: compare alone sees it
    enum phx_audit_check_id check;
    int rank, q_head, kv_head; ///< -1: of none
    const char *activation;    ///< that compare names first
    int activation_rank;
};

struct test_expected test_expect(enum test_fault fault, const struct test_shape *shape, int size);

#endif
