/* Statements, and the parser's own moves. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/template/ast.h"
#include "runtime/tokenizer/unicode.h"

#define OPERATOR PHX_TTOKEN_OPERATOR
#define NAME PHX_TTOKEN_NAME

enum { MAX_PARSE_DEPTH = 100, PARSE_MEMORY_BYTES = 512 << 20 };

enum phx_status phx_tparser_fail(const struct phx_tparser *p, enum phx_status status,
                                 const char *format, ...)
{
    char sentence[PHX_SENTENCE_BYTES / 2], found[64] = "";
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    struct phx_slice text = p->token.text;
    size_t n = text.n < 40 ? text.n : 40;
    while (n < text.n && n > 0 && (text.data[n] & 0xc0) == 0x80) n--;
    if (text.n) snprintf(found, sizeof found, ", at '%.*s'", (int)n, text.data);
    return phx_fail(status, "%s line %d: %s%s", p->file, p->token.line, sentence, found);
}

enum phx_status phx_tparser_next(struct phx_tparser *p)
{
    if (!p->has_ahead) return phx_lexer_next(&p->lexer, &p->token);
    p->token = p->ahead;
    p->has_ahead = false;
    return PHX_OK;
}

bool phx_tparser_is(const struct phx_tparser *p, enum phx_ttoken_kind kind, const char *text)
{
    return p->token.kind == kind && phx_slice_is(p->token.text, text);
}

enum phx_status phx_tparser_skip(struct phx_tparser *p, enum phx_ttoken_kind kind, const char *text,
                                 bool *skipped)
{
    *skipped = phx_tparser_is(p, kind, text);
    return *skipped ? phx_tparser_next(p) : PHX_OK;
}

enum phx_status phx_tparser_expect(struct phx_tparser *p, enum phx_ttoken_kind kind,
                                   const char *text)
{
    bool found;
    PHX_TRY(phx_tparser_skip(p, kind, text, &found));
    return found ? PHX_OK : phx_tparser_fail(p, PHX_BAD_DATA, "'%s' is expected", text);
}

enum phx_status phx_tparser_name(struct phx_tparser *p, struct phx_slice *out)
{
    if (p->token.kind != NAME) return phx_tparser_fail(p, PHX_BAD_DATA, "a name is expected");
    *out = p->token.text;
    return phx_tparser_next(p);
}

enum phx_status phx_tparser_node(struct phx_tparser *p, enum phx_tnode_kind kind,
                                 struct phx_tnode **out)
{
    PHX_TRY(phx_arena_take(p->arena, 1, sizeof **out, out));
    (*out)->kind = kind;
    (*out)->line = p->token.line;
    return PHX_OK;
}

enum phx_status phx_tparser_make(struct phx_tparser *p, enum phx_tnode_kind kind,
                                 struct phx_tnode *a, struct phx_tnode *b, struct phx_tnode **out)
{
    PHX_TRY(phx_tparser_node(p, kind, out));
    (*out)->a = a;
    (*out)->b = b;
    return PHX_OK;
}

enum phx_status phx_tparser_enter(struct phx_tparser *p)
{
    if (++p->depth <= MAX_PARSE_DEPTH) return PHX_OK;
    return phx_tparser_fail(p, PHX_UNSUPPORTED, "parts are nested more than %d deep",
                            MAX_PARSE_DEPTH);
}

static enum phx_status parse_body(struct phx_tparser *p, struct phx_tnode **out);

static enum phx_status end_block(struct phx_tparser *p)
{
    if (p->token.kind != PHX_TTOKEN_BLOCK_END) {
        return phx_tparser_fail(p, PHX_BAD_DATA, "the end of the block is expected");
    }
    return phx_tparser_next(p);
}

/* A body and the {% NAME %} that ends it. */
static enum phx_status parse_block(struct phx_tparser *p, const char *end, struct phx_tnode **out)
{
    PHX_TRY(end_block(p));
    PHX_TRY(parse_body(p, out));
    PHX_TRY(phx_tparser_expect(p, NAME, end));
    return end_block(p);
}

/* A block that break and continue cannot leave. */
static enum phx_status parse_closed_block(struct phx_tparser *p, const char *end,
                                          struct phx_tnode **out)
{
    int n_loops = p->n_loops;
    p->n_loops = 0;
    PHX_TRY(parse_block(p, end, out));
    p->n_loops = n_loops;
    return PHX_OK;
}

/* Behind if or elif. */
static enum phx_status parse_if(struct phx_tparser *p, struct phx_tnode **out)
{
    bool found;
    PHX_TRY(phx_tparser_enter(p));
    PHX_TRY(phx_tparser_node(p, PHX_TNODE_IF, out));
    PHX_TRY(phx_tparse_tuple(p, false, &(*out)->a));
    PHX_TRY(end_block(p));
    PHX_TRY(parse_body(p, &(*out)->body));
    PHX_TRY(phx_tparser_skip(p, NAME, "elif", &found));
    if (found) {
        PHX_TRY(parse_if(p, &(*out)->other));
        p->depth--;
        return PHX_OK;
    }
    PHX_TRY(phx_tparser_skip(p, NAME, "else", &found));
    if (found) {
        PHX_TRY(end_block(p));
        PHX_TRY(parse_body(p, &(*out)->other));
    }
    p->depth--;
    PHX_TRY(phx_tparser_expect(p, NAME, "endif"));
    return end_block(p);
}

static enum phx_status parse_for(struct phx_tparser *p, struct phx_tnode **out)
{
    bool found;
    PHX_TRY(phx_tparser_node(p, PHX_TNODE_FOR, out));
    PHX_TRY(phx_tparse_target(p, &(*out)->a));
    if ((*out)->a->kind == PHX_TNODE_ATTR) {
        return phx_tparser_fail(p, PHX_BAD_DATA, "a loop cannot assign to an attribute");
    }
    PHX_TRY(phx_tparser_expect(p, NAME, "in"));
    PHX_TRY(phx_tparse_tuple(p, false, &(*out)->b));
    PHX_TRY(phx_tparser_skip(p, NAME, "if", &found));
    if (found) PHX_TRY(phx_tparse_expression(p, true, &(*out)->c));
    if (phx_tparser_is(p, NAME, "recursive")) {
        return phx_tparser_fail(p, PHX_UNSUPPORTED, "recursive loops are not supported");
    }
    PHX_TRY(end_block(p));
    p->n_loops++;
    PHX_TRY(parse_body(p, &(*out)->body));
    p->n_loops--;
    PHX_TRY(phx_tparser_skip(p, NAME, "else", &found));
    if (found) {
        PHX_TRY(end_block(p));
        PHX_TRY(parse_body(p, &(*out)->other));
    }
    PHX_TRY(phx_tparser_expect(p, NAME, "endfor"));
    return end_block(p);
}

static enum phx_status parse_set(struct phx_tparser *p, struct phx_tnode **out)
{
    bool found;
    PHX_TRY(phx_tparser_node(p, PHX_TNODE_SET, out));
    PHX_TRY(phx_tparse_target(p, &(*out)->a));
    PHX_TRY(phx_tparser_skip(p, OPERATOR, "=", &found));
    if (found) {
        PHX_TRY(phx_tparse_tuple(p, true, &(*out)->b));
        return end_block(p);
    }
    (*out)->kind = PHX_TNODE_SET_BLOCK;
    PHX_TRY(phx_tparse_filters(p, NULL, false, &(*out)->b));
    return parse_closed_block(p, "endset", &(*out)->body);
}

/* (name, name=default), before the parenthesis. */
static enum phx_status parse_signature(struct phx_tparser *p, struct phx_tnode **out)
{
    bool defaults = false;
    PHX_TRY(phx_tparser_expect(p, OPERATOR, "("));
    for (struct phx_tnode **last = out; !phx_tparser_is(p, OPERATOR, ")"); last = &(*last)->next) {
        if (last != out) PHX_TRY(phx_tparser_expect(p, OPERATOR, ","));
        bool found;
        PHX_TRY(phx_tparser_node(p, PHX_TNODE_KEYWORD, last));
        PHX_TRY(phx_tparser_name(p, &(*last)->name));
        PHX_TRY(phx_tparser_skip(p, OPERATOR, "=", &found));
        if (!found && defaults) {
            return phx_tparser_fail(p, PHX_BAD_DATA,
                                    "an argument without a default follows one with a default");
        }
        defaults = found;
        if (found) PHX_TRY(phx_tparse_expression(p, true, &(*last)->a));
    }
    return phx_tparser_next(p);
}

static enum phx_status parse_macro(struct phx_tparser *p, struct phx_tnode **out)
{
    PHX_TRY(phx_tparser_node(p, PHX_TNODE_MACRO, out));
    PHX_TRY(phx_tparser_name(p, &(*out)->name));
    PHX_TRY(parse_signature(p, &(*out)->list));
    return parse_closed_block(p, "endmacro", &(*out)->body);
}

static enum phx_status parse_call(struct phx_tparser *p, struct phx_tnode **out)
{
    PHX_TRY(phx_tparser_node(p, PHX_TNODE_CALL_BLOCK, out));
    if (phx_tparser_is(p, OPERATOR, "(")) PHX_TRY(parse_signature(p, &(*out)->list));
    PHX_TRY(phx_tparse_expression(p, false, &(*out)->a));
    if ((*out)->a->kind != PHX_TNODE_CALL) {
        return phx_tparser_fail(p, PHX_BAD_DATA, "a call is expected");
    }
    return parse_closed_block(p, "endcall", &(*out)->body);
}

static enum phx_status parse_filter_block(struct phx_tparser *p, struct phx_tnode **out)
{
    PHX_TRY(phx_tparser_node(p, PHX_TNODE_FILTER_BLOCK, out));
    PHX_TRY(phx_tparse_filters(p, NULL, true, &(*out)->b));
    return parse_closed_block(p, "endfilter", &(*out)->body);
}

static enum phx_status parse_with(struct phx_tparser *p, struct phx_tnode **out)
{
    PHX_TRY(phx_tparser_node(p, PHX_TNODE_WITH, out));
    for (struct phx_tnode **last = &(*out)->list; p->token.kind != PHX_TTOKEN_BLOCK_END;
         last = &(*last)->next) {
        if (last != &(*out)->list) PHX_TRY(phx_tparser_expect(p, OPERATOR, ","));
        PHX_TRY(phx_tparser_node(p, PHX_TNODE_SET, last));
        PHX_TRY(phx_tparser_node(p, PHX_TNODE_NAME, &(*last)->a));
        PHX_TRY(phx_tparser_name(p, &(*last)->a->name));
        PHX_TRY(phx_tparser_expect(p, OPERATOR, "="));
        PHX_TRY(phx_tparse_expression(p, true, &(*last)->b));
    }
    return parse_block(p, "endwith", &(*out)->body);
}

static enum phx_status parse_generation(struct phx_tparser *p, struct phx_tnode **out)
{
    PHX_TRY(phx_tparser_node(p, PHX_TNODE_BLOCK, out));
    return parse_block(p, "endgeneration", &(*out)->body);
}

static enum phx_status parse_jump(struct phx_tparser *p, enum phx_tnode_kind kind,
                                  struct phx_tnode **out)
{
    PHX_TRY(phx_tparser_node(p, kind, out));
    if (!p->n_loops) return phx_tparser_fail(p, PHX_BAD_DATA, "there is no loop around this");
    return end_block(p);
}

static enum phx_status parse_break(struct phx_tparser *p, struct phx_tnode **out)
{
    return parse_jump(p, PHX_TNODE_BREAK, out);
}

static enum phx_status parse_continue(struct phx_tparser *p, struct phx_tnode **out)
{
    return parse_jump(p, PHX_TNODE_CONTINUE, out);
}

static enum phx_status parse_statement(struct phx_tparser *p, struct phx_tnode **out)
{
    static const struct {
        const char *name;
        enum phx_status (*parse)(struct phx_tparser *p, struct phx_tnode **out);
    } statements[] = {
        {"if", parse_if},       {"for", parse_for},
        {"set", parse_set},     {"macro", parse_macro},
        {"call", parse_call},   {"filter", parse_filter_block},
        {"with", parse_with},   {"generation", parse_generation},
        {"break", parse_break}, {"continue", parse_continue},
    };
    if (p->token.kind != NAME) return phx_tparser_fail(p, PHX_BAD_DATA, "a statement is expected");
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        if (!phx_tparser_is(p, NAME, statements[i].name)) continue;
        PHX_TRY(phx_tparser_next(p));
        return statements[i].parse(p, out);
    }
    return phx_tparser_fail(p, PHX_UNSUPPORTED, "the statement is not supported here");
}

static bool ends_body(const struct phx_tparser *p)
{
    static const char *const ends[] = {"elif",    "else",         "endif",   "endfor",
                                       "endset",  "endmacro",     "endcall", "endfilter",
                                       "endwith", "endgeneration"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        if (phx_tparser_is(p, NAME, ends[i])) return true;
    }
    return false;
}

/* Up to the end of the template, or to what ends a block, of which {% is behind. */
static enum phx_status parse_body(struct phx_tparser *p, struct phx_tnode **out)
{
    PHX_TRY(phx_tparser_enter(p));
    *out = NULL;
    for (struct phx_tnode **last = out; p->token.kind != PHX_TTOKEN_END;) {
        if (p->token.kind == PHX_TTOKEN_TEXT) {
            PHX_TRY(phx_tparser_node(p, PHX_TNODE_TEXT, last));
            (*last)->value = PHX_TV_OF_TEXT(p->token.text.data, p->token.text.n);
            PHX_TRY(phx_tparser_next(p));
        } else if (p->token.kind == PHX_TTOKEN_VARIABLE_BEGIN) {
            PHX_TRY(phx_tparser_node(p, PHX_TNODE_OUTPUT, last));
            PHX_TRY(phx_tparser_next(p));
            PHX_TRY(phx_tparse_tuple(p, true, &(*last)->a));
            if (p->token.kind != PHX_TTOKEN_VARIABLE_END) {
                return phx_tparser_fail(p, PHX_BAD_DATA, "'}}' is expected");
            }
            PHX_TRY(phx_tparser_next(p));
        } else {
            PHX_TRY(phx_tparser_next(p)); /* {% */
            if (ends_body(p)) break;
            PHX_TRY(parse_statement(p, last));
        }
        last = &(*last)->next;
    }
    p->depth--;
    return PHX_OK;
}

enum phx_status phx_tparse_template(struct phx_tparser *p, struct phx_tnode **out)
{
    PHX_TRY(phx_tparser_next(p));
    PHX_TRY(parse_body(p, out));
    if (p->token.kind == PHX_TTOKEN_END) return PHX_OK;
    return phx_tparser_fail(p, PHX_BAD_DATA, "there is no block that this could belong to");
}

/* Line ends as \n, and without the last one, as jinja2 reads a template. */
static size_t normalize_lines(const char *source, size_t n, char *out)
{
    size_t length = 0;
    for (size_t i = 0; i < n; i++) {
        if (source[i] == '\r' && i + 1 < n && source[i + 1] == '\n') continue;
        out[length++] = source[i] == '\r' ? '\n' : source[i];
    }
    return length > 0 && out[length - 1] == '\n' ? length - 1 : length;
}

static enum phx_status parse_source(const char *source, size_t n, struct phx_template *t)
{
    size_t valid = phx_utf8_valid(source, n);
    if (n > PHX_TEMPLATE_SOURCE_BYTES) {
        return phx_fail(PHX_UNSUPPORTED, "%s: the template has %zu bytes; at most %d are supported",
                        t->name, n, PHX_TEMPLATE_SOURCE_BYTES);
    }
    if (valid < n) {
        return phx_fail(PHX_BAD_DATA, "%s: the template is not valid UTF-8 at byte %zu", t->name,
                        valid);
    }
    t->source = malloc(n + 1);
    if (!t->source) return phx_fail(PHX_OUT_OF_MEMORY, "%s: no memory for a template", t->name);
    size_t length = normalize_lines(source, n, t->source);
    struct phx_tparser parser = {.file = t->name, .arena = &t->arena};
    phx_lexer_start(t->name, t->source, length, &t->arena, &parser.lexer);
    return phx_tparse_template(&parser, &t->body);
}

enum phx_status phx_template_parse(const char *name, const char *source, size_t n,
                                   struct phx_template **out)
{
    struct phx_template *t = calloc(1, sizeof *t);
    char *copy = strdup(name);
    if (!t || !copy) {
        free(t);
        free(copy);
        return phx_fail(PHX_OUT_OF_MEMORY, "%s: no memory for a template", name);
    }
    t->name = copy;
    t->arena.limit = PARSE_MEMORY_BYTES;
    enum phx_status status = parse_source(source, n, t);
    if (status != PHX_OK) {
        phx_template_destroy(t);
        return status;
    }
    *out = t;
    return PHX_OK;
}

void phx_template_destroy(struct phx_template *tmpl)
{
    if (!tmpl) return;
    phx_arena_destroy(&tmpl->arena);
    free(tmpl->source);
    free(tmpl->name);
    free(tmpl);
}
