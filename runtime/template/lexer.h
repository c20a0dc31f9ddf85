/// \file lexer.h
/// A template's text as tokens, by the rules of jinja2's lexer with trim_blocks and lstrip_blocks.
#ifndef PHX_RUNTIME_TEMPLATE_LEXER_H
#define PHX_RUNTIME_TEMPLATE_LEXER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "runtime/template/arena.h"
#include "runtime/tokenizer/buffer.h"

enum phx_ttoken_kind {
    PHX_TTOKEN_END,
    PHX_TTOKEN_TEXT,           ///< between tags; text
    PHX_TTOKEN_BLOCK_BEGIN,    ///< {%
    PHX_TTOKEN_BLOCK_END,      ///< %}
    PHX_TTOKEN_VARIABLE_BEGIN, ///< {{
    PHX_TTOKEN_VARIABLE_END,   ///< }}
    PHX_TTOKEN_NAME,           ///< text
    PHX_TTOKEN_STRING,         ///< text: what it stands for
    PHX_TTOKEN_INTEGER,        ///< integer
    PHX_TTOKEN_FLOAT,          ///< real
    PHX_TTOKEN_OPERATOR,       ///< text: of one or two characters
};

struct phx_ttoken {
    enum phx_ttoken_kind kind;
    int line;
    struct phx_slice text;
    int64_t integer;
    double real;
};

struct phx_lexer {
    const char *file; ///< for messages
    struct phx_arena *arena;
    const char *at, *end;
    int line;
    bool line_starts;            ///< only white space can stand before `at` in its line
    enum phx_ttoken_kind inside; ///< BLOCK_BEGIN, VARIABLE_BEGIN, or TEXT: between tags
    enum phx_ttoken_kind opens;  ///< what begins at `at`; TEXT: nothing that is known yet
    bool raw;                    ///< a raw block's text comes next
    char brackets[128];          ///< open ones, what closes each
    int n_brackets;
};

/// `source` must outlive the tokens, have \n as its only line ends, and be valid UTF-8.
void phx_lexer_start(const char *file, const char *source, size_t n, struct phx_arena *arena,
                     struct phx_lexer *out);
enum phx_status phx_lexer_next(struct phx_lexer *lexer, struct phx_ttoken *out);

#endif
