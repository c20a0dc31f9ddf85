/* PHX_FORMAT_FAULT=NAME plants a fault of format_fault.h. */
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "tests/faults/format_fault.h"

enum test_format_fault test_format_fault = FORMAT_FAULT_NONE;

__attribute__((constructor)) static void plant(void)
{
    static const char *const names[] = {
#define TEST_FORMAT_FAULT_NAME(name, text) #name,
        TEST_FORMAT_FAULTS(TEST_FORMAT_FAULT_NAME)
#undef TEST_FORMAT_FAULT_NAME
    };
    const char *name = getenv("PHX_FORMAT_FAULT");
    bool known = name == NULL;
    for (int i = 0; i < FORMAT_FAULT_COUNT && !known; i++) {
        known = strcmp(name, names[i]) == 0;
        if (known) test_format_fault = (enum test_format_fault)i;
    }
    PHX_ASSERT(known);
}
