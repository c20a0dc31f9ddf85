/// Linked into every test program: PHX_TEST='*name*' runs only those of its tests.
#include <stdlib.h>

#include "tests/support/check.h"

__attribute__((constructor)) static void set_filter(void)
{
    const char *pattern = getenv("PHX_TEST");
    if (pattern) cmocka_set_test_filter(pattern);
}
