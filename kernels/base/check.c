#include "kernels/base/check.h"

#include <stdlib.h>

#include "kernels/base/log.h"

void phx_assert_failed(const char *condition, const char *file, int line)
{
    phx_log(PHX_LOG_ERROR, "assertion failed: %s (%s:%d)", condition, file, line);
    abort();
}
