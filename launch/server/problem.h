/// \file problem.h
/// What a client is told instead of what it asked for, as the OpenAI API tells it.
#ifndef PHX_LAUNCH_SERVER_PROBLEM_H
#define PHX_LAUNCH_SERVER_PROBLEM_H

#include <jansson.h>
#include <stdbool.h>

#include "kernels/base/status.h"

struct phx_problem {
    int http;         ///< status code; 0: there is no problem
    const char *code; ///< static, or NULL
    char param[64];   ///< the request's field; "": none
    char message[PHX_SENTENCE_BYTES];
};

/// Fill *problem and return false. `param` may be NULL.
bool phx_problem_set(struct phx_problem *problem, int http, const char *code, const char *param,
                     const char *format, ...) __attribute__((format(printf, 5, 6)));
/// The calling thread's recorded sentence, which is forgotten: 400 for PHX_USAGE, 501 for
/// PHX_UNSUPPORTED, 503 for PHX_OUT_OF_MEMORY, else 500. Returns false.
bool phx_problem_take(struct phx_problem *problem, enum phx_status status, const char *param);

/// {"error": {"message", "type", "param", "code"}}; NULL without memory.
json_t *phx_problem_json(const struct phx_problem *problem);

#endif
