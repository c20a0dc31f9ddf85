#include "tests/faults/fault.h"

enum test_fault test_fault = FAULT_NONE;
