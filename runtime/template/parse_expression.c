/* Expressions, by jinja2's grammar: operators between operands, and what is made of several
 * expressions. */
#include "kernels/base/check.h"
#include "runtime/template/ast.h"

#define OPERATOR PHX_TTOKEN_OPERATOR
#define NAME PHX_TTOKEN_NAME

struct operator_text {
    const char *text;
    enum phx_top op;
};

/* Operators of one level, to the left. */
static enum phx_status
parse_level(struct phx_tparser *p, const struct operator_text *operators, size_t n,
            enum phx_status (*operand)(struct phx_tparser *, struct phx_tnode **),
            struct phx_tnode **out)
{
    PHX_TRY(operand(p, out));
    for (;;) {
        size_t i = 0;
        while (i < n && !phx_tparser_is(p, OPERATOR, operators[i].text)) i++;
        if (i == n) return PHX_OK;
        struct phx_tnode *left = *out, *right;
        PHX_TRY(phx_tparser_next(p));
        PHX_TRY(operand(p, &right));
        PHX_TRY(phx_tparser_make(p, PHX_TNODE_BINARY, left, right, out));
        (*out)->op = operators[i].op;
    }
}

static enum phx_status parse_power(struct phx_tparser *p, struct phx_tnode **out)
{
    static const struct operator_text operators[] = {{"**", PHX_TOP_POW}};
    return parse_level(p, operators, 1, phx_tparse_operand, out);
}

static enum phx_status parse_product(struct phx_tparser *p, struct phx_tnode **out)
{
    static const struct operator_text operators[] = {
        {"*", PHX_TOP_MUL}, {"/", PHX_TOP_DIV}, {"//", PHX_TOP_FLOOR_DIV}, {"%", PHX_TOP_MOD}};
    return parse_level(p, operators, 4, parse_power, out);
}

static enum phx_status parse_concat(struct phx_tparser *p, struct phx_tnode **out)
{
    PHX_TRY(parse_product(p, out));
    if (!phx_tparser_is(p, OPERATOR, "~")) return PHX_OK;
    struct phx_tnode *last = *out;
    PHX_TRY(phx_tparser_node(p, PHX_TNODE_CONCAT, out));
    (*out)->list = last;
    while (phx_tparser_is(p, OPERATOR, "~")) {
        PHX_TRY(phx_tparser_next(p));
        PHX_TRY(parse_product(p, &last->next));
        last = last->next;
    }
    return PHX_OK;
}

static enum phx_status parse_sum(struct phx_tparser *p, struct phx_tnode **out)
{
    static const struct operator_text operators[] = {{"+", PHX_TOP_ADD}, {"-", PHX_TOP_SUB}};
    return parse_level(p, operators, 2, parse_concat, out);
}

/* Step over a comparison's operator, if there is one. */
static enum phx_status skip_comparison(struct phx_tparser *p, enum phx_top *op, bool *found)
{
    static const struct operator_text operators[] = {
        {"==", PHX_TOP_EQ}, {"!=", PHX_TOP_NE}, {"<", PHX_TOP_LT},
        {"<=", PHX_TOP_LE}, {">", PHX_TOP_GT},  {">=", PHX_TOP_GE},
    };
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
        PHX_TRY(phx_tparser_skip(p, OPERATOR, operators[i].text, found));
        *op = operators[i].op;
        if (*found) return PHX_OK;
    }
    *op = PHX_TOP_IN;
    PHX_TRY(phx_tparser_skip(p, NAME, "in", found));
    if (*found || !phx_tparser_is(p, NAME, "not")) return PHX_OK;
    if (!p->has_ahead) {
        PHX_TRY(phx_lexer_next(&p->lexer, &p->ahead));
        p->has_ahead = true;
    }
    *found = p->ahead.kind == NAME && phx_slice_is(p->ahead.text, "in");
    *op = PHX_TOP_NOT_IN;
    if (!*found) return PHX_OK;
    PHX_TRY(phx_tparser_next(p));
    return phx_tparser_next(p);
}

static enum phx_status parse_comparison(struct phx_tparser *p, struct phx_tnode **out)
{
    struct phx_tnode *first, **last = NULL;
    PHX_TRY(parse_sum(p, &first));
    *out = first;
    for (;;) {
        bool found;
        enum phx_top op;
        struct phx_tnode *operand;
        PHX_TRY(skip_comparison(p, &op, &found));
        if (!found) return PHX_OK;
        if (!last) {
            PHX_TRY(phx_tparser_make(p, PHX_TNODE_COMPARE, first, NULL, out));
            last = &(*out)->list;
        }
        PHX_TRY(parse_sum(p, &operand));
        PHX_TRY(phx_tparser_make(p, PHX_TNODE_COMPARE, operand, NULL, last));
        (*last)->op = op;
        last = &(*last)->next;
    }
}

static enum phx_status parse_not(struct phx_tparser *p, struct phx_tnode **out)
{
    bool found;
    struct phx_tnode *operand;
    PHX_TRY(phx_tparser_skip(p, NAME, "not", &found));
    if (!found) return parse_comparison(p, out);
    PHX_TRY(phx_tparser_enter(p));
    PHX_TRY(parse_not(p, &operand));
    p->depth--;
    return phx_tparser_make(p, PHX_TNODE_NOT, operand, NULL, out);
}

static enum phx_status parse_and(struct phx_tparser *p, struct phx_tnode **out)
{
    PHX_TRY(parse_not(p, out));
    for (;;) {
        bool found;
        struct phx_tnode *left = *out, *right;
        PHX_TRY(phx_tparser_skip(p, NAME, "and", &found));
        if (!found) return PHX_OK;
        PHX_TRY(parse_not(p, &right));
        PHX_TRY(phx_tparser_make(p, PHX_TNODE_AND, left, right, out));
    }
}

static enum phx_status parse_or(struct phx_tparser *p, struct phx_tnode **out)
{
    PHX_TRY(parse_and(p, out));
    for (;;) {
        bool found;
        struct phx_tnode *left = *out, *right;
        PHX_TRY(phx_tparser_skip(p, NAME, "or", &found));
        if (!found) return PHX_OK;
        PHX_TRY(parse_and(p, &right));
        PHX_TRY(phx_tparser_make(p, PHX_TNODE_OR, left, right, out));
    }
}

enum phx_status phx_tparse_expression(struct phx_tparser *p, bool conditions,
                                      struct phx_tnode **out)
{
    PHX_TRY(phx_tparser_enter(p));
    PHX_TRY(parse_or(p, out));
    for (;;) {
        bool found = false;
        struct phx_tnode *value = *out, *condition, *other = NULL;
        if (conditions) PHX_TRY(phx_tparser_skip(p, NAME, "if", &found));
        if (!found) break;
        PHX_TRY(parse_or(p, &condition));
        PHX_TRY(phx_tparser_skip(p, NAME, "else", &found));
        if (found) PHX_TRY(phx_tparse_expression(p, true, &other));
        PHX_TRY(phx_tparser_make(p, PHX_TNODE_IF_ELSE, value, condition, out));
        (*out)->c = other;
    }
    p->depth--;
    return PHX_OK;
}

/* True where a tuple without parentheses ends. */
static bool ends_tuple(const struct phx_tparser *p)
{
    return p->token.kind == PHX_TTOKEN_BLOCK_END || p->token.kind == PHX_TTOKEN_VARIABLE_END ||
           phx_tparser_is(p, OPERATOR, "=") || phx_tparser_is(p, NAME, "in") ||
           phx_tparser_is(p, NAME, "if") || phx_tparser_is(p, NAME, "recursive");
}

enum phx_status phx_tparse_tuple(struct phx_tparser *p, bool conditions, struct phx_tnode **out)
{
    struct phx_tnode *first, *tuple, **last;
    PHX_TRY(phx_tparse_expression(p, conditions, &first));
    *out = first;
    if (!phx_tparser_is(p, OPERATOR, ",")) return PHX_OK;
    PHX_TRY(phx_tparser_node(p, PHX_TNODE_TUPLE, &tuple));
    tuple->list = first;
    *out = tuple;
    for (last = &first->next; phx_tparser_is(p, OPERATOR, ","); last = &(*last)->next) {
        PHX_TRY(phx_tparser_next(p));
        if (ends_tuple(p)) break;
        PHX_TRY(phx_tparse_expression(p, conditions, last));
    }
    return PHX_OK;
}

static enum phx_status parse_target_name(struct phx_tparser *p, struct phx_tnode **out)
{
    PHX_TRY(phx_tparser_node(p, PHX_TNODE_NAME, out));
    PHX_TRY(phx_tparser_name(p, &(*out)->name));
    if (phx_slice_is((*out)->name, "loop")) {
        return phx_tparser_fail(p, PHX_UNSUPPORTED, "the name 'loop' cannot be assigned to");
    }
    return PHX_OK;
}

enum phx_status phx_tparse_target(struct phx_tparser *p, struct phx_tnode **out)
{
    bool parenthesis, found = false;
    struct phx_tnode *first, *tuple, **last;
    PHX_TRY(phx_tparser_skip(p, OPERATOR, "(", &parenthesis));
    PHX_TRY(parse_target_name(p, &first));
    *out = first;
    if (!parenthesis) PHX_TRY(phx_tparser_skip(p, OPERATOR, ".", &found));
    if (found) {
        PHX_TRY(phx_tparser_make(p, PHX_TNODE_ATTR, first, NULL, out));
        return phx_tparser_name(p, &(*out)->name);
    }
    if (phx_tparser_is(p, OPERATOR, ",")) {
        PHX_TRY(phx_tparser_node(p, PHX_TNODE_TUPLE, &tuple));
        tuple->list = first;
        *out = tuple;
        for (last = &first->next; phx_tparser_is(p, OPERATOR, ","); last = &(*last)->next) {
            PHX_TRY(phx_tparser_next(p));
            if (p->token.kind != NAME || ends_tuple(p)) break;
            PHX_TRY(parse_target_name(p, last));
        }
    }
    return parenthesis ? phx_tparser_expect(p, OPERATOR, ")") : PHX_OK;
}
