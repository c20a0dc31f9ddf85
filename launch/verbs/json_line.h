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

/// [ids[0], ids[1], ...]
json_t *phx_json_ids(const int32_t *ids, size_t n);

#endif
