/* Operands of expressions: names, literals, what is called or looked up in them, filters and tests.
 */
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/template/ast.h"
#include "runtime/template/filters.h"

#define OPERATOR PHX_TTOKEN_OPERATOR
#define NAME PHX_TTOKEN_NAME

/* Expressions up to the closing text, with commas between; *comma: there was one. */
static enum phx_status parse_items(struct phx_tparser *p, const char *closing, bool *comma,
                                   struct phx_tnode **out)
{
    *comma = false;
    *out = NULL;
    for (struct phx_tnode **last = out; !phx_tparser_is(p, OPERATOR, closing);
         last = &(*last)->next) {
        if (*out) {
            PHX_TRY(phx_tparser_expect(p, OPERATOR, ","));
            *comma = true;
            if (phx_tparser_is(p, OPERATOR, closing)) break;
        }
        PHX_TRY(phx_tparse_expression(p, true, last));
    }
    return phx_tparser_next(p);
}

static enum phx_status parse_list(struct phx_tparser *p, struct phx_tnode **out)
{
    bool comma;
    PHX_TRY(phx_tparser_node(p, PHX_TNODE_LIST, out));
    PHX_TRY(phx_tparser_next(p));
    return parse_items(p, "]", &comma, &(*out)->list);
}

static enum phx_status parse_parentheses(struct phx_tparser *p, struct phx_tnode **out)
{
    bool comma;
    struct phx_tnode *tuple;
    PHX_TRY(phx_tparser_node(p, PHX_TNODE_TUPLE, &tuple));
    PHX_TRY(phx_tparser_next(p));
    PHX_TRY(parse_items(p, ")", &comma, &tuple->list));
    *out = tuple->list && !comma ? tuple->list : tuple;
    return PHX_OK;
}

static enum phx_status parse_dict(struct phx_tparser *p, struct phx_tnode **out)
{
    PHX_TRY(phx_tparser_node(p, PHX_TNODE_DICT, out));
    PHX_TRY(phx_tparser_next(p));
    for (struct phx_tnode **last = &(*out)->list; !phx_tparser_is(p, OPERATOR, "}");
         last = &(*last)->next) {
        if (last != &(*out)->list) {
            PHX_TRY(phx_tparser_expect(p, OPERATOR, ","));
            if (phx_tparser_is(p, OPERATOR, "}")) break;
        }
        struct phx_tnode *key, *value;
        PHX_TRY(phx_tparse_expression(p, true, &key));
        PHX_TRY(phx_tparser_expect(p, OPERATOR, ":"));
        PHX_TRY(phx_tparse_expression(p, true, &value));
        PHX_TRY(phx_tparser_make(p, PHX_TNODE_DICT, key, value, last));
    }
    return phx_tparser_next(p);
}

/* Strings that follow each other are one. */
static enum phx_status parse_string(struct phx_tparser *p, struct phx_tnode **out)
{
    PHX_TRY(phx_tparser_node(p, PHX_TNODE_CONST, out));
    struct phx_slice text = p->token.text;
    PHX_TRY(phx_tparser_next(p));
    while (p->token.kind == PHX_TTOKEN_STRING) {
        char *joined;
        PHX_TRY(phx_arena_take(p->arena, text.n + p->token.text.n, 1, &joined));
        memcpy(joined, text.data, text.n);
        memcpy(joined + text.n, p->token.text.data, p->token.text.n);
        text = (struct phx_slice){joined, text.n + p->token.text.n};
        PHX_TRY(phx_tparser_next(p));
    }
    (*out)->value = PHX_TV_OF_TEXT(text.data, text.n);
    return PHX_OK;
}

static enum phx_status parse_name(struct phx_tparser *p, struct phx_tnode **out)
{
    static const struct {
        const char *name;
        struct phx_tv value;
    } constants[] = {
        {"true", {.type = PHX_TV_BOOL, .truth = true}},
        {"True", {.type = PHX_TV_BOOL, .truth = true}},
        {"false", {.type = PHX_TV_BOOL}},
        {"False", {.type = PHX_TV_BOOL}},
        {"none", {.type = PHX_TV_NONE}},
        {"None", {.type = PHX_TV_NONE}},
    };
    PHX_TRY(phx_tparser_node(p, PHX_TNODE_NAME, out));
    (*out)->name = p->token.text;
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
        if (!phx_slice_is(p->token.text, constants[i].name)) continue;
        (*out)->kind = PHX_TNODE_CONST;
        (*out)->value = constants[i].value;
    }
    return phx_tparser_next(p);
}

static enum phx_status parse_primary(struct phx_tparser *p, struct phx_tnode **out)
{
    const struct phx_ttoken *token = &p->token;
    if (token->kind == NAME) return parse_name(p, out);
    if (token->kind == PHX_TTOKEN_STRING) return parse_string(p, out);
    if (token->kind == PHX_TTOKEN_INTEGER || token->kind == PHX_TTOKEN_FLOAT) {
        PHX_TRY(phx_tparser_node(p, PHX_TNODE_CONST, out));
        (*out)->value = token->kind == PHX_TTOKEN_INTEGER ? PHX_TV_OF_INT(token->integer)
                                                          : PHX_TV_OF_FLOAT(token->real);
        return phx_tparser_next(p);
    }
    if (phx_tparser_is(p, OPERATOR, "(")) return parse_parentheses(p, out);
    if (phx_tparser_is(p, OPERATOR, "[")) return parse_list(p, out);
    if (phx_tparser_is(p, OPERATOR, "{")) return parse_dict(p, out);
    return phx_tparser_fail(p, PHX_BAD_DATA, "an expression is expected");
}

static enum phx_status parse_argument(struct phx_tparser *p, bool *keywords, struct phx_tnode **out)
{
    struct phx_tnode *value;
    if (phx_tparser_is(p, OPERATOR, "*") || phx_tparser_is(p, OPERATOR, "**")) {
        return phx_tparser_fail(p, PHX_UNSUPPORTED, "arguments with * are not supported");
    }
    PHX_TRY(phx_tparse_expression(p, true, &value));
    bool keyword = false;
    if (value->kind == PHX_TNODE_NAME) PHX_TRY(phx_tparser_skip(p, OPERATOR, "=", &keyword));
    if (!keyword && *keywords) {
        return phx_tparser_fail(p, PHX_BAD_DATA,
                                "an argument without a name follows one with a "
                                "name");
    }
    *keywords = keyword;
    *out = value;
    if (!keyword) return PHX_OK;
    PHX_TRY(phx_tparser_make(p, PHX_TNODE_KEYWORD, NULL, NULL, out));
    (*out)->name = value->name;
    return phx_tparse_expression(p, true, &(*out)->a);
}

/* (a, b, name=c), before the parenthesis. */
static enum phx_status parse_arguments(struct phx_tparser *p, struct phx_tnode **out)
{
    bool keywords = false;
    PHX_TRY(phx_tparser_expect(p, OPERATOR, "("));
    for (struct phx_tnode **last = out; !phx_tparser_is(p, OPERATOR, ")"); last = &(*last)->next) {
        if (last != out) {
            PHX_TRY(phx_tparser_expect(p, OPERATOR, ","));
            if (phx_tparser_is(p, OPERATOR, ")")) break;
        }
        PHX_TRY(parse_argument(p, &keywords, last));
    }
    return phx_tparser_next(p);
}

/* What stands in brackets. */
static enum phx_status parse_subscript(struct phx_tparser *p, struct phx_tnode *value,
                                       struct phx_tnode **out)
{
    struct phx_tnode *parts[3] = {NULL};
    int n_colons = 0;
    PHX_TRY(phx_tparser_next(p));
    while (!phx_tparser_is(p, OPERATOR, "]")) {
        if (phx_tparser_is(p, OPERATOR, ":")) {
            if (++n_colons > 2) return phx_tparser_fail(p, PHX_BAD_DATA, "a slice has two colons");
            PHX_TRY(phx_tparser_next(p));
        } else if (parts[n_colons] || phx_tparser_is(p, OPERATOR, ",")) {
            return phx_tparser_fail(p, PHX_UNSUPPORTED, "several subscripts are not supported");
        } else {
            PHX_TRY(phx_tparse_expression(p, true, &parts[n_colons]));
        }
    }
    if (!n_colons && !parts[0]) {
        return phx_tparser_fail(p, PHX_BAD_DATA, "a subscript is expected");
    }
    PHX_TRY(phx_tparser_next(p));
    PHX_TRY(phx_tparser_make(p, n_colons ? PHX_TNODE_SLICE : PHX_TNODE_ITEM, value, parts[0], out));
    (*out)->c = parts[1];
    (*out)->other = parts[2];
    return PHX_OK;
}

static enum phx_status parse_attribute(struct phx_tparser *p, struct phx_tnode *value,
                                       struct phx_tnode **out)
{
    PHX_TRY(phx_tparser_next(p));
    if (p->token.kind == PHX_TTOKEN_INTEGER) {
        struct phx_tnode *index;
        PHX_TRY(parse_primary(p, &index));
        return phx_tparser_make(p, PHX_TNODE_ITEM, value, index, out);
    }
    PHX_TRY(phx_tparser_make(p, PHX_TNODE_ATTR, value, NULL, out));
    return phx_tparser_name(p, &(*out)->name);
}

static enum phx_status parse_postfix(struct phx_tparser *p, struct phx_tnode **out)
{
    for (;;) {
        struct phx_tnode *value = *out;
        if (phx_tparser_is(p, OPERATOR, ".")) {
            PHX_TRY(parse_attribute(p, value, out));
        } else if (phx_tparser_is(p, OPERATOR, "[")) {
            PHX_TRY(parse_subscript(p, value, out));
        } else if (phx_tparser_is(p, OPERATOR, "(")) {
            PHX_TRY(phx_tparser_make(p, PHX_TNODE_CALL, value, NULL, out));
            PHX_TRY(parse_arguments(p, &(*out)->list));
        } else {
            return PHX_OK;
        }
    }
}

static enum phx_status parse_filter(struct phx_tparser *p, struct phx_tnode *value,
                                    struct phx_tnode **out)
{
    PHX_TRY(phx_tparser_make(p, PHX_TNODE_FILTER, value, NULL, out));
    PHX_TRY(phx_tparser_name(p, &(*out)->name));
    if (!phx_tfilter_find((*out)->name)) {
        return phx_tparser_fail(p, PHX_UNSUPPORTED, "there is no filter '%.*s'",
                                (int)(*out)->name.n, (*out)->name.data);
    }
    return phx_tparser_is(p, OPERATOR, "(") ? parse_arguments(p, &(*out)->list) : PHX_OK;
}

static enum phx_status parse_test(struct phx_tparser *p, struct phx_tnode *value,
                                  struct phx_tnode **out)
{
    bool negated;
    PHX_TRY(phx_tparser_next(p));
    PHX_TRY(phx_tparser_skip(p, NAME, "not", &negated));
    PHX_TRY(phx_tparser_make(p, PHX_TNODE_TEST, value, NULL, out));
    PHX_TRY(phx_tparser_name(p, &(*out)->name));
    if (!phx_ttest_find((*out)->name)) {
        return phx_tparser_fail(p, PHX_UNSUPPORTED, "there is no test '%.*s'", (int)(*out)->name.n,
                                (*out)->name.data);
    }
    bool closed = phx_tparser_is(p, NAME, "else") || phx_tparser_is(p, NAME, "or") ||
                  phx_tparser_is(p, NAME, "and");
    bool operand = p->token.kind == NAME || p->token.kind == PHX_TTOKEN_STRING ||
                   p->token.kind == PHX_TTOKEN_INTEGER || p->token.kind == PHX_TTOKEN_FLOAT ||
                   phx_tparser_is(p, OPERATOR, "[") || phx_tparser_is(p, OPERATOR, "{");
    if (phx_tparser_is(p, OPERATOR, "(")) {
        PHX_TRY(parse_arguments(p, &(*out)->list));
    } else if (operand && !closed) {
        if (phx_tparser_is(p, NAME, "is")) {
            return phx_tparser_fail(p, PHX_BAD_DATA, "tests cannot be chained with is");
        }
        PHX_TRY(parse_primary(p, &(*out)->list));
        PHX_TRY(parse_postfix(p, &(*out)->list));
    }
    struct phx_tnode *test = *out;
    return negated ? phx_tparser_make(p, PHX_TNODE_NOT, test, NULL, out) : PHX_OK;
}

enum phx_status phx_tparse_filters(struct phx_tparser *p, struct phx_tnode *value, bool one,
                                   struct phx_tnode **out)
{
    *out = value;
    for (bool first = one;; first = false) {
        struct phx_tnode *before = *out;
        if (!first && !phx_tparser_is(p, OPERATOR, "|")) return PHX_OK;
        if (!first) PHX_TRY(phx_tparser_next(p));
        PHX_TRY(parse_filter(p, before, out));
    }
}

static enum phx_status parse_filters_and_tests(struct phx_tparser *p, struct phx_tnode **out)
{
    for (;;) {
        struct phx_tnode *value = *out;
        if (phx_tparser_is(p, OPERATOR, "|")) {
            PHX_TRY(phx_tparser_next(p));
            PHX_TRY(parse_filter(p, value, out));
        } else if (phx_tparser_is(p, NAME, "is")) {
            PHX_TRY(parse_test(p, value, out));
        } else if (phx_tparser_is(p, OPERATOR, "(")) {
            PHX_TRY(phx_tparser_make(p, PHX_TNODE_CALL, value, NULL, out));
            PHX_TRY(parse_arguments(p, &(*out)->list));
        } else {
            return PHX_OK;
        }
    }
}

static enum phx_status parse_unary(struct phx_tparser *p, bool with_filters, struct phx_tnode **out)
{
    bool minus = phx_tparser_is(p, OPERATOR, "-");
    if (minus || phx_tparser_is(p, OPERATOR, "+")) {
        struct phx_tnode *operand;
        PHX_TRY(phx_tparser_enter(p));
        PHX_TRY(phx_tparser_next(p));
        PHX_TRY(parse_unary(p, false, &operand));
        PHX_TRY(phx_tparser_make(p, minus ? PHX_TNODE_NEG : PHX_TNODE_POS, operand, NULL, out));
        p->depth--;
    } else {
        PHX_TRY(parse_primary(p, out));
    }
    PHX_TRY(parse_postfix(p, out));
    return with_filters ? parse_filters_and_tests(p, out) : PHX_OK;
}

enum phx_status phx_tparse_operand(struct phx_tparser *p, struct phx_tnode **out)
{
    return parse_unary(p, true, out);
}
