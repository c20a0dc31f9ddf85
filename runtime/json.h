/// \file json.h
/// JSON objects in files, and values taken out of them with a sentence for every mistake.
#ifndef PHX_RUNTIME_JSON_H
#define PHX_RUNTIME_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

/// The object in `text`, which messages call `file`; json_decref it. PHX_BAD_DATA if the text is
/// not one JSON object, or says a key twice.
enum phx_status phx_json_parse(const char *file, const char *text, size_t bytes, json_t **out);
/// The object in the file at `path`. PHX_NOT_FOUND if there is none, PHX_IO, PHX_BAD_DATA.
enum phx_status phx_json_load(const char *path, json_t **out);

/// An object and what messages call it.
struct phx_json {
    const char *file;   ///< path
    const char *prefix; ///< what stands before a key: "" or "rope_scaling."
    const json_t *object;
};

enum { PHX_JSON_TEXT_BYTES = 80 };
/// `value` as JSON text, cut short with "..." where it is long; for messages.
const char *phx_json_text(const json_t *value, char text[PHX_JSON_TEXT_BYTES]);

/// The value of `key`; NULL if it is absent or null.
const json_t *phx_json_get(const struct phx_json *json, const char *key);
/// PHX_BAD_DATA if the key is absent or null.
enum phx_status phx_json_require(const struct phx_json *json, const char *key);

/// Typed values. An absent or null key leaves *out as it is; a value of another type, or outside
/// min..max, is PHX_BAD_DATA with the key, the value and what would work.
enum phx_status phx_json_int(const struct phx_json *json, const char *key, int64_t min, int64_t max,
                             int64_t *out);
enum phx_status phx_json_real(const struct phx_json *json, const char *key, double min, double max,
                              double *out);
enum phx_status phx_json_bool(const struct phx_json *json, const char *key, bool *out);
/// The string lives as long as the object.
enum phx_status phx_json_string(const struct phx_json *json, const char *key, const char **out);
/// The object or array lives as long as the object it is in.
enum phx_status phx_json_object(const struct phx_json *json, const char *key, const json_t **out);
enum phx_status phx_json_array(const struct phx_json *json, const char *key, const json_t **out);

#endif
