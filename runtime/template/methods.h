/// \file methods.h
/// Python's methods of strings; some are filters too.
#ifndef PHX_RUNTIME_TEMPLATE_METHODS_H
#define PHX_RUNTIME_TEMPLATE_METHODS_H

#include "runtime/template/filters.h"
#include "runtime/template/text.h"

enum phx_tside { PHX_TSIDE_LEFT = 1, PHX_TSIDE_RIGHT = 2 };
/// Without the characters of `set` at the sides; white space if it is missing or none.
enum phx_status phx_ttext_strip(struct phx_run *run, struct phx_slice text,
                                const struct phx_tv *set, int sides, struct phx_tv *out);
enum phx_status phx_ttext_case(struct phx_run *run, struct phx_slice text, enum phx_tcase to,
                               struct phx_tv *out);
/// The first character in title or upper case, the others in lower case.
enum phx_status phx_ttext_capitalize(struct phx_run *run, struct phx_slice text,
                                     enum phx_tcase first, struct phx_tv *out);
/// At most `most` times, below 0: everywhere.
enum phx_status phx_ttext_replace(struct phx_run *run, struct phx_slice text, struct phx_slice old,
                                  struct phx_slice new_text, int64_t most, struct phx_tv *out);
/// With characters before and after, to a width.
enum phx_status phx_ttext_pad(struct phx_run *run, struct phx_slice text, int64_t left,
                              int64_t right, struct phx_slice fill, struct phx_tv *out);
/// Lines, without their ends or with them.
enum phx_status phx_ttext_lines(struct phx_run *run, struct phx_slice text, bool keeps_ends,
                                struct phx_tv *out);
/// Lists that grow, for results whose length is not known before.
enum phx_status phx_tlist_append(struct phx_run *run, struct phx_tv *list, size_t *capacity,
                                 struct phx_tv item);

extern const struct phx_tfilter phx_ttext_methods[];
extern const size_t phx_ttext_n_methods;

#endif
