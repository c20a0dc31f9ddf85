/// \file template.h
/// Chat templates: the subset of Jinja that models' templates use, rendered to exactly the text
/// that jinja2 makes of it, in the environment that transformers gives it: sandboxed and immutable,
/// trim_blocks, lstrip_blocks, loop controls, a tojson that keeps key order and non-ASCII
/// characters, raise_exception(), strftime_now(), {% generation %}.
///
/// What the subset does not have (include, import, extends, unknown filters and tests, ...) is
/// refused by name and line, most of it when the template is parsed.
#ifndef PHX_RUNTIME_TEMPLATE_TEMPLATE_H
#define PHX_RUNTIME_TEMPLATE_TEMPLATE_H

#include <jansson.h>
#include <stddef.h>
#include <time.h>

#include "kernels/base/status.h"

/// Immutable: may be rendered by several threads at once.
struct phx_template;

/// Bounds of one rendering, so that a template cannot hang or eat its host.
enum {
    PHX_TEMPLATE_SOURCE_BYTES = 1 << 20,
    PHX_TEMPLATE_STEPS = 4 << 20,          ///< nodes evaluated, and items and 16 bytes gone through
    PHX_TEMPLATE_MEMORY_BYTES = 256 << 20, ///< all values and the text together
    PHX_TEMPLATE_DEPTH = 400,              ///< of nested parts and calls
};

/// `name` is what errors call the template. Their sentences say the line. PHX_BAD_DATA for what is
/// no template, PHX_UNSUPPORTED for what is not in the subset.
enum phx_status phx_template_parse(const char *name, const char *source, size_t n,
                                   struct phx_template **out);
void phx_template_destroy(struct phx_template *tmpl);

/// The text for `variables`, an object: messages, tools, add_generation_prompt, bos_token, ... A
/// name that is not among them is undefined, as in Jinja. *out_text is malloc'd and zero-terminated
/// (it may hold zero bytes: *out_bytes counts). strftime_now() formats `now`, in local time.
/// PHX_USAGE: the template raised an exception, with its message, or the messages do not fit it;
/// PHX_UNSUPPORTED: beyond the subset or the bounds.
enum phx_status phx_template_render(const struct phx_template *tmpl, const json_t *variables,
                                    time_t now, char **out_text, size_t *out_bytes);

#endif
