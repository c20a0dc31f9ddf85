/// \file check.h
/// The two forms of passing a failure on, and the assert that stays in release builds.
#ifndef PHX_KERNELS_BASE_CHECK_H
#define PHX_KERNELS_BASE_CHECK_H

#include "kernels/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/// Return the status of `call` unless it is PHX_OK.
#define PHX_TRY(call)                                                                              \
    do {                                                                                           \
        enum phx_status phx_try_status = (call);                                                   \
        if (phx_try_status != PHX_OK) return phx_try_status;                                       \
    } while (0)

/// Store the status of `call` in the local variable `status`; unless it is PHX_OK, go to `label`.
#define PHX_TRY_GOTO(call, label)                                                                  \
    do {                                                                                           \
        status = (call);                                                                           \
        if (status != PHX_OK) goto label;                                                          \
    } while (0)

/// A programmer's mistake ends the process, in every build. Never for what a user can cause.
#define PHX_ASSERT(condition)                                                                      \
    ((condition) ? (void)0 : phx_assert_failed(#condition, __FILE__, __LINE__))

__attribute__((noreturn)) void phx_assert_failed(const char *condition, const char *file, int line);

#ifdef __cplusplus
}
#endif
#endif
