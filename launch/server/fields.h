/// \file fields.h
/// Typed fields out of a request's JSON object, each mistake told by the field's name.
///
/// An absent or null field leaves *out as it is. False: *problem tells why.
#ifndef PHX_LAUNCH_SERVER_FIELDS_H
#define PHX_LAUNCH_SERVER_FIELDS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "launch/server/problem.h"

/// The object that `body` is (json_decref it).
bool phx_fields_parse(const char *body, size_t bytes, json_t **out, struct phx_problem *problem);

/// NULL if the field is absent or null.
json_t *phx_fields_get(const json_t *object, const char *name);
/// "a string", "a number", ...
const char *phx_fields_type(const json_t *value);

bool phx_fields_bool(const json_t *object, const char *name, bool *out,
                     struct phx_problem *problem);
/// A number without a fraction, however it is written.
bool phx_fields_int(const json_t *object, const char *name, int64_t min, int64_t max, int64_t *out,
                    struct phx_problem *problem);
bool phx_fields_int32(const json_t *object, const char *name, int32_t min, int32_t max,
                      int32_t *out, struct phx_problem *problem);
/// min..max, or above min if `above`.
bool phx_fields_real(const json_t *object, const char *name, double min, double max, bool above,
                     float *out, struct phx_problem *problem);
/// Lives as long as the object; without zero bytes.
bool phx_fields_string(const json_t *object, const char *name, const char **out,
                       struct phx_problem *problem);

/// *out is malloc'd, [*out_n]; `name` is what messages call `array`. Each id is 0 or more.
bool phx_fields_ids(const json_t *array, const char *name, int32_t **out, size_t *out_n,
                    struct phx_problem *problem);

#endif
