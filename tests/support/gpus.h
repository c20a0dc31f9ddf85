/// \file gpus.h
/// What a test that needs GPUs asks first.
#ifndef PHX_TESTS_SUPPORT_GPUS_H
#define PHX_TESTS_SUPPORT_GPUS_H

enum { TEST_SKIPPED = 77 }; ///< exit status that ctest counts as skipped

/// GPUs that devices can be made of; without any, the reason is printed.
int test_count_gpus(void);

#endif
