/// \file stop_text.h
/// Finds stop strings in text that comes in pieces, and holds back what may still become one.
#ifndef PHX_RUNTIME_STOP_TEXT_H
#define PHX_RUNTIME_STOP_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/base/status.h"

struct phx_stop_text;

/// Copies the n strings; empty ones are PHX_USAGE.
enum phx_status phx_stop_text_create(const char *const *stops, size_t n,
                                     struct phx_stop_text **out);
void phx_stop_text_destroy(struct phx_stop_text *text);

/// Add a piece. *out_text (valid until the next call) is what can be shown now: everything up to
/// the first stop string, or up to what may be the beginning of one. True once a stop string is
/// complete; nothing may be added after that.
enum phx_status phx_stop_text_push(struct phx_stop_text *text, const char *piece, size_t bytes,
                                   const char **out_text, size_t *out_bytes, bool *out_stopped);
/// What is held back, when no more comes.
void phx_stop_text_flush(struct phx_stop_text *text, const char **out_text, size_t *out_bytes);

#endif
