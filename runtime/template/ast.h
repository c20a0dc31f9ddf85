/// \file ast.h
/// A parsed template: nodes in an arena.
#ifndef PHX_RUNTIME_TEMPLATE_AST_H
#define PHX_RUNTIME_TEMPLATE_AST_H

#include "runtime/template/arena.h"
#include "runtime/template/lexer.h"
#include "runtime/template/template.h"
#include "runtime/template/value.h"

enum phx_tnode_kind {
    /* Expressions. */
    PHX_TNODE_CONST,   ///< value
    PHX_TNODE_NAME,    ///< name
    PHX_TNODE_LIST,    ///< list
    PHX_TNODE_TUPLE,   ///< list
    PHX_TNODE_DICT,    ///< list: pairs; a: key, b: value of each
    PHX_TNODE_ATTR,    ///< a.name
    PHX_TNODE_ITEM,    ///< a[b]
    PHX_TNODE_SLICE,   ///< a[b:c:other], each may be missing
    PHX_TNODE_CALL,    ///< a(list)
    PHX_TNODE_FILTER,  ///< a | name(list); a is NULL at the start of a filter block
    PHX_TNODE_TEST,    ///< a is name(list)
    PHX_TNODE_NOT,     ///< not a
    PHX_TNODE_NEG,     ///< -a
    PHX_TNODE_POS,     ///< +a
    PHX_TNODE_BINARY,  ///< a op b
    PHX_TNODE_AND,     ///< a and b
    PHX_TNODE_OR,      ///< a or b
    PHX_TNODE_CONCAT,  ///< the texts of list, joined
    PHX_TNODE_COMPARE, ///< a, then each of list: op a
    PHX_TNODE_IF_ELSE, ///< a if b else c; c may be missing
    PHX_TNODE_KEYWORD, ///< of an argument: name=a
    /* Statements. */
    PHX_TNODE_TEXT,         ///< value
    PHX_TNODE_OUTPUT,       ///< a
    PHX_TNODE_IF,           ///< if a: body, else other
    PHX_TNODE_FOR,          ///< for a in b if c: body, else other
    PHX_TNODE_SET,          ///< a = b
    PHX_TNODE_SET_BLOCK,    ///< a = the text of body, through the filters b
    PHX_TNODE_MACRO,        ///< name(list): body; an argument: name, default a
    PHX_TNODE_CALL_BLOCK,   ///< a is the call, caller(list): body
    PHX_TNODE_FILTER_BLOCK, ///< b: filters, body
    PHX_TNODE_WITH,         ///< list: sets, body
    PHX_TNODE_BLOCK,        ///< body: {% generation %}
    PHX_TNODE_BREAK,
    PHX_TNODE_CONTINUE,
};

enum phx_top {
    PHX_TOP_ADD,
    PHX_TOP_SUB,
    PHX_TOP_MUL,
    PHX_TOP_DIV,
    PHX_TOP_FLOOR_DIV,
    PHX_TOP_MOD,
    PHX_TOP_POW,
    PHX_TOP_EQ,
    PHX_TOP_NE,
    PHX_TOP_LT,
    PHX_TOP_LE,
    PHX_TOP_GT,
    PHX_TOP_GE,
    PHX_TOP_IN,
    PHX_TOP_NOT_IN,
};

struct phx_tnode {
    enum phx_tnode_kind kind;
    enum phx_top op;
    int line;
    struct phx_slice name;
    struct phx_tv value;
    struct phx_tnode *a, *b, *c;
    struct phx_tnode *list, *body, *other; ///< the first of each; then next
    struct phx_tnode *next;
};

struct phx_template {
    char *name;   ///< for messages
    char *source; ///< what the nodes' texts lie in
    struct phx_arena arena;
    struct phx_tnode *body;
};

/// A parser stands before `token`.
struct phx_tparser {
    const char *file;
    struct phx_arena *arena;
    struct phx_lexer lexer;
    struct phx_ttoken token, ahead; ///< ahead: the one after it, if has_ahead
    bool has_ahead;
    int depth;
    int n_loops; ///< for blocks around this place, within its macro
};

enum phx_status phx_tparser_fail(const struct phx_tparser *p, enum phx_status status,
                                 const char *format, ...) __attribute__((format(printf, 3, 4)));
enum phx_status phx_tparser_next(struct phx_tparser *p);
bool phx_tparser_is(const struct phx_tparser *p, enum phx_ttoken_kind kind, const char *text);
/// Step over the token if it is that.
enum phx_status phx_tparser_skip(struct phx_tparser *p, enum phx_ttoken_kind kind, const char *text,
                                 bool *skipped);
enum phx_status phx_tparser_expect(struct phx_tparser *p, enum phx_ttoken_kind kind,
                                   const char *text);
/// A name, stepped over.
enum phx_status phx_tparser_name(struct phx_tparser *p, struct phx_slice *out);
enum phx_status phx_tparser_node(struct phx_tparser *p, enum phx_tnode_kind kind,
                                 struct phx_tnode **out);
/// A node with its first two parts, of which either may be NULL.
enum phx_status phx_tparser_make(struct phx_tparser *p, enum phx_tnode_kind kind,
                                 struct phx_tnode *a, struct phx_tnode *b, struct phx_tnode **out);
/// Nested parts: depth is counted up, and the caller counts it down.
enum phx_status phx_tparser_enter(struct phx_tparser *p);

/// An expression; with `conditions`, it may be a if b else c.
enum phx_status phx_tparse_expression(struct phx_tparser *p, bool conditions,
                                      struct phx_tnode **out);
/// What operators stand between, with its sign, and the filters and tests behind it.
enum phx_status phx_tparse_operand(struct phx_tparser *p, struct phx_tnode **out);
/// Expressions with commas between, as a tuple; one alone is itself.
enum phx_status phx_tparse_tuple(struct phx_tparser *p, bool conditions, struct phx_tnode **out);
/// Names, with commas between if there are several, or one attribute of a namespace: what for and
/// set assign to.
enum phx_status phx_tparse_target(struct phx_tparser *p, struct phx_tnode **out);
/// Filters of `value`, which may be NULL, after a |; with `one`, that of a filter block, which has
/// none before it.
enum phx_status phx_tparse_filters(struct phx_tparser *p, struct phx_tnode *value, bool one,
                                   struct phx_tnode **out);

/// A whole template.
enum phx_status phx_tparse_template(struct phx_tparser *p, struct phx_tnode **out);

#endif
