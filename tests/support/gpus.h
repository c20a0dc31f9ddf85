/// \file gpus.h
/// What a test that needs GPUs asks first.
#ifndef PHX_TESTS_SUPPORT_GPUS_H
#define PHX_TESTS_SUPPORT_GPUS_H

#include <stdbool.h>

#include "kernels/base/dtype.h"

enum { TEST_SKIPPED = 77 }; ///< exit status that ctest counts as skipped

/// GPUs that devices can be made of; without any, the reason is printed.
int test_count_gpus(void);

/// "f32", "bf16" or "f16"; false if it is none of them.
bool test_compute_type(const char *name, enum phx_dtype *out);

#endif
