#include "launch/server/fields.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/tokenizer/unicode.h"

bool phx_fields_parse(const char *body, size_t bytes, json_t **out, struct phx_problem *problem)
{
    json_error_t error;
    if (bytes == 0)
        return phx_problem_set(problem, 400, NULL, NULL,
                               "the body is empty: it must be a JSON object");
    json_t *json = json_loadb(body, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (json == NULL) {
        /* What jansson shows of the text may be cut within a character. */
        size_t shown = phx_utf8_valid(error.text, strlen(error.text));
        return phx_problem_set(problem, 400, NULL, NULL,
                               "the body is not valid JSON: line %d, column %d: %.*s", error.line,
                               error.column, (int)shown, error.text);
    }
    if (!json_is_object(json)) {
        const char *type = phx_fields_type(json);
        json_decref(json);
        return phx_problem_set(problem, 400, NULL, NULL, "the body is %s: it must be a JSON object",
                               type);
    }
    *out = json;
    return true;
}

json_t *phx_fields_get(const json_t *object, const char *name)
{
    json_t *value = json_object_get(object, name);
    return json_is_null(value) ? NULL : value;
}

const char *phx_fields_type(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "nothing";
}

static bool wrong_type(const char *name, const json_t *value, const char *wanted,
                       struct phx_problem *problem)
{
    return phx_problem_set(problem, 400, NULL, name, "%s is %s: it must be %s", name,
                           phx_fields_type(value), wanted);
}

bool phx_fields_bool(const json_t *object, const char *name, bool *out, struct phx_problem *problem)
{
    const json_t *value = phx_fields_get(object, name);
    if (value == NULL) return true;
    if (!json_is_boolean(value)) return wrong_type(name, value, "true or false", problem);
    *out = json_is_true(value);
    return true;
}

/* False if the value is no whole number that fits. */
static bool whole(const json_t *value, int64_t *out)
{
    if (json_is_integer(value)) {
        *out = json_integer_value(value);
        return true;
    }
    if (!json_is_real(value)) return false;
    double x = json_real_value(value);
    if (!(fabs(x) < 9007199254740992.0) || floor(x) != x) return false;
    *out = (int64_t)x;
    return true;
}

bool phx_fields_int(const json_t *object, const char *name, int64_t min, int64_t max, int64_t *out,
                    struct phx_problem *problem)
{
    const json_t *value = phx_fields_get(object, name);
    int64_t x;
    if (value == NULL) return true;
    if (!json_is_number(value)) return wrong_type(name, value, "a whole number", problem);
    if (!whole(value, &x))
        return phx_problem_set(problem, 400, NULL, name, "%s is %g: it must be a whole number",
                               name, json_number_value(value));
    if (x < min)
        return phx_problem_set(problem, 400, NULL, name, "%s is %lld: it must be at least %lld",
                               name, (long long)x, (long long)min);
    if (x > max)
        return phx_problem_set(problem, 400, NULL, name, "%s is %lld: it must be at most %lld",
                               name, (long long)x, (long long)max);
    *out = x;
    return true;
}

bool phx_fields_int32(const json_t *object, const char *name, int32_t min, int32_t max,
                      int32_t *out, struct phx_problem *problem)
{
    int64_t wide = *out;
    if (!phx_fields_int(object, name, min, max, &wide, problem)) return false;
    *out = (int32_t)wide;
    return true;
}

bool phx_fields_real(const json_t *object, const char *name, double min, double max, bool above,
                     float *out, struct phx_problem *problem)
{
    const json_t *value = phx_fields_get(object, name);
    if (value == NULL) return true;
    if (!json_is_number(value)) return wrong_type(name, value, "a number", problem);
    double x = json_number_value(value);
    if (x < min || x > max || (above && x == min))
        return phx_problem_set(problem, 400, NULL, name,
                               "%s is %g: it must be %s %g and at most %g", name, x,
                               above ? "above" : "at least", min, max);
    *out = (float)x;
    return true;
}

bool phx_fields_string(const json_t *object, const char *name, const char **out,
                       struct phx_problem *problem)
{
    const json_t *value = phx_fields_get(object, name);
    if (value == NULL) return true;
    if (!json_is_string(value)) return wrong_type(name, value, "a string", problem);
    if (strlen(json_string_value(value)) != json_string_length(value))
        return phx_problem_set(problem, 400, NULL, name, "%s holds a zero character", name);
    *out = json_string_value(value);
    return true;
}

bool phx_fields_ids(const json_t *array, const char *name, int32_t **out, size_t *out_n,
                    struct phx_problem *problem)
{
    size_t n = json_array_size(array);
    int32_t *ids = malloc(n * sizeof *ids + 1);
    if (ids == NULL) return phx_problem_set(problem, 503, NULL, name, "no memory for %zu ids", n);
    for (size_t i = 0; i < n; i++) {
        int64_t id;
        const json_t *value = json_array_get(array, i);
        if (!whole(value, &id) || id < 0 || id > INT32_MAX) {
            free(ids);
            return phx_problem_set(problem, 400, NULL, name,
                                   "%s: entry %zu is no token id: ids are whole numbers from 0 on",
                                   name, i);
        }
        ids[i] = (int32_t)id;
    }
    *out = ids;
    *out_n = n;
    return true;
}
