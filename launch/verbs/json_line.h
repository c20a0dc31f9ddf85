/// \file json_line.h
/// Results as JSON, an object a line.
#ifndef PHX_LAUNCH_VERBS_JSON_LINE_H
#define PHX_LAUNCH_VERBS_JSON_LINE_H

#include <jansson.h>
#include <stdio.h>

#include "kernels/base/status.h"

/// Write `object` on one line, flush, and release it. NULL (it could not be made) is
/// PHX_OUT_OF_MEMORY.
enum phx_status phx_json_line(json_t *object, FILE *file);

/// `--json PATH`, before the work, so that a path that cannot be written fails at once. *out is
/// stdout for "-", NULL for NULL; phx_json_file_close() takes any of them.
enum phx_status phx_json_file_open(const char *path, FILE **out);
/// As phx_json_line(), with sentences that name the file.
enum phx_status phx_json_file_write(const char *path, FILE *file, json_t *object);
void phx_json_file_close(FILE *file);

/// [ids[0], ids[1], ...]
json_t *phx_json_ids(const int32_t *ids, size_t n);

#endif
