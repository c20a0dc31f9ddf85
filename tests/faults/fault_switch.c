/* For programs with faults in them: PHX_FAULT=NAME plants one, the same on all ranks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/faults/fault.h"

__attribute__((constructor)) static void choose_fault(void)
{
    static const char *const names[] = {
#define TEST_FAULT_NAME(name, text) [FAULT_##name] = #name,
        TEST_FAULTS(TEST_FAULT_NAME) TEST_FORMAT_FAULTS(TEST_FAULT_NAME)
#undef TEST_FAULT_NAME
    };
    const char *wanted = getenv("PHX_FAULT");
    for (size_t i = 0; wanted != NULL && i < sizeof names / sizeof *names; i++) {
        if (names[i] == NULL || strcmp(wanted, names[i]) != 0) continue;
        test_fault = (enum test_fault)i;
        return;
    }
    if (wanted != NULL) {
        fprintf(stderr, "PHX_FAULT=%s: there is no such fault\n", wanted);
        abort();
    }
}
