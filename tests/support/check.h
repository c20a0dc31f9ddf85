/// \file check.h
/// cmocka with its prerequisites, and asserts on statuses that say the sentence.
#ifndef PHX_TESTS_SUPPORT_CHECK_H
#define PHX_TESTS_SUPPORT_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/base/status.h"

#define assert_ok(call)                                                                            \
    do {                                                                                           \
        enum phx_status check_status = (call);                                                     \
        if (check_status != PHX_OK)                                                                \
            fail_msg("%s: %s: %s", #call, phx_status_text(check_status), phx_fail_sentence());     \
    } while (0)

/// The call fails with this status and its sentence contains this text.
#define assert_fails(call, expected, text)                                                         \
    do {                                                                                           \
        enum phx_status check_status = (call);                                                     \
        if (check_status != (expected) || !strstr(phx_fail_sentence(), (text)))                    \
            fail_msg("%s: got %s: \"%s\", expected %s with \"%s\"", #call,                         \
                     phx_status_text(check_status), phx_fail_sentence(),                           \
                     phx_status_text(expected), (text));                                           \
        phx_fail_clear();                                                                          \
    } while (0)

#endif
