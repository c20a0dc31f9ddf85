/// \file rank_check.h
/// Checks inside the body of a rank, where cmocka's assertions cannot be used: the rank fails with
/// a sentence, which ends its peers too.
#ifndef PHX_TESTS_PARALLEL_RANK_CHECK_H
#define PHX_TESTS_PARALLEL_RANK_CHECK_H

#include "kernels/base/check.h"

#define RANK_CHECK(condition)                                                                      \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return phx_fail(PHX_BAD_DATA, "rank %d, %s:%d: %s", world->rank, __FILE__, __LINE__,   \
                            #condition);                                                           \
    } while (0)

#endif
