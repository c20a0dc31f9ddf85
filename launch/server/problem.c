#include "launch/server/problem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "runtime/tokenizer/unicode.h"

bool phx_problem_set(struct phx_problem *problem, int http, const char *code, const char *param,
                     const char *format, ...)
{
    va_list args;
    problem->http = http;
    problem->code = code;
    snprintf(problem->param, sizeof problem->param, "%s", param != NULL ? param : "");
    va_start(args, format);
    vsnprintf(problem->message, sizeof problem->message, format, args);
    va_end(args);
    return false;
}

bool phx_problem_take(struct phx_problem *problem, enum phx_status status, const char *param)
{
    int http = 500;
    if (status == PHX_USAGE) http = 400;
    if (status == PHX_UNSUPPORTED) http = 501;
    if (status == PHX_OUT_OF_MEMORY) http = 503;
    phx_problem_set(problem, http, NULL, param, "%s", phx_fail_sentence());
    phx_fail_clear();
    return false;
}

static const char *type_of(int http)
{
    switch (http) {
    case 401:
        return "authentication_error";
    case 404:
        return "not_found_error";
    case 429:
        return "rate_limit_error";
    default:
        return http < 500 ? "invalid_request_error" : "server_error";
    }
}

json_t *phx_problem_json(const struct phx_problem *problem)
{
    /* A sentence that was cut short may end within a character. */
    size_t bytes = phx_utf8_valid(problem->message, strlen(problem->message));
    json_t *param = problem->param[0] != '\0' ? json_string(problem->param) : json_null();
    return json_pack("{s:{s:s%, s:s, s:o, s:s?}}", "error", "message", problem->message, bytes,
                     "type", type_of(problem->http), "param", param, "code", problem->code);
}
