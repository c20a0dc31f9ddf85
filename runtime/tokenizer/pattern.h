/// \file pattern.h
/// What a tokenizer.json searches text for: a literal string, or a regular expression.
///
/// These expressions are written for Oniguruma (Ruby syntax). PCRE2 takes most of them as they are;
/// what it would take differently is rewritten (\s, \w, \h, \v, \uHHHH, scripts, {,n}) or refused.
/// Letters and numbers that Unicode added after the version that PCRE2 knows (10.42: 14.0) count as
/// neither.
#ifndef PHX_RUNTIME_TOKENIZER_PATTERN_H
#define PHX_RUNTIME_TOKENIZER_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/base/status.h"

/// Immutable.
struct phx_pattern;

/// PHX_UNSUPPORTED names the construct or carries PCRE2's complaint; `file` is for messages.
enum phx_status phx_pattern_create_regex(const char *file, const char *regex,
                                         struct phx_pattern **out);
enum phx_status phx_pattern_create_literal(const char *file, const char *literal,
                                           struct phx_pattern **out);
void phx_pattern_destroy(struct phx_pattern *pattern);

/// The text of a literal; NULL for an expression.
const char *phx_pattern_literal(const struct phx_pattern *pattern);

/// What matching needs besides the pattern; one per thread.
struct phx_matcher;
enum phx_status phx_matcher_create(struct phx_matcher **out);
void phx_matcher_destroy(struct phx_matcher *matcher);

/// A walk over the matches in one text; start with {0}.
struct phx_match {
    size_t start, end; ///< of the match found last
    size_t from;       ///< where the next search starts
    bool any;          ///< there was one
};
/// Step to the next match in data[0, n), valid UTF-8; *found is false when there is none. As in the
/// `onig` crate, an empty match right behind the previous match does not count.
enum phx_status phx_pattern_next(const struct phx_pattern *pattern, struct phx_matcher *matcher,
                                 const char *data, size_t n, struct phx_match *match, bool *found);

#endif
