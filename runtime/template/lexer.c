#include "runtime/template/lexer.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/template/text.h"
#include "runtime/tokenizer/unicode.h"

void phx_lexer_start(const char *file, const char *source, size_t n, struct phx_arena *arena,
                     struct phx_lexer *out)
{
    *out = (struct phx_lexer){
        .file = file,
        .arena = arena,
        .at = source,
        .end = source + n,
        .line = 1,
        .line_starts = true,
        .inside = PHX_TTOKEN_TEXT,
        .opens = PHX_TTOKEN_TEXT,
    };
}

static bool begins(const struct phx_lexer *lexer, const char *at, const char *text)
{
    size_t n = strlen(text);
    return (size_t)(lexer->end - at) >= n && memcmp(at, text, n) == 0;
}

/* Go on to `to`, and count lines. */
static void advance(struct phx_lexer *lexer, const char *to)
{
    for (; lexer->at < to; lexer->at++) lexer->line += *lexer->at == '\n';
}

static void skip_space(struct phx_lexer *lexer)
{
    advance(lexer, lexer->at +
                       phx_utf8_before(phx_tspace_is, lexer->at, (size_t)(lexer->end - lexer->at)));
}

/* Where the next tag or comment begins; the end if none does. */
static const char *find_tag(const struct phx_lexer *lexer)
{
    for (const char *at = lexer->at; lexer->end - at >= 2; at++) {
        at = memchr(at, '{', (size_t)(lexer->end - at));
        if (!at) break;
        if (lexer->end - at >= 2 && (at[1] == '{' || at[1] == '%' || at[1] == '#')) return at;
    }
    return lexer->end;
}

/* The text before a tag at `tag`, without the white space that the tag takes away. */
static struct phx_slice trimmed_text(const struct phx_lexer *lexer, const char *tag)
{
    struct phx_slice text = {lexer->at, (size_t)(tag - lexer->at)};
    if (lexer->end - tag < 2) return text;
    char sign = lexer->end - tag > 2 ? tag[2] : '\0';
    if (sign == '-') {
        text.n -= phx_utf8_after(phx_tspace_is, text.data, text.n);
    } else if (sign != '+' && tag[1] != '{') {
        size_t line = text.n;
        while (line > 0 && text.data[line - 1] != '\n') line--;
        bool alone =
            phx_utf8_before(phx_tspace_is, text.data + line, text.n - line) == text.n - line;
        if ((line > 0 || lexer->line_starts) && alone) text.n = line;
    }
    return text;
}

/* Behind the end of a block or a comment, with the white space or the newline that it takes. */
static void end_tag(struct phx_lexer *lexer, bool takes_space, bool takes_newline, const char *to)
{
    advance(lexer, to);
    lexer->line_starts = false;
    const char *before = lexer->at;
    if (takes_space) {
        skip_space(lexer);
    } else if (takes_newline && lexer->at < lexer->end && *lexer->at == '\n') {
        advance(lexer, lexer->at + 1);
    }
    lexer->line_starts = lexer->at > before && lexer->at[-1] == '\n';
}

static enum phx_status skip_comment(struct phx_lexer *lexer)
{
    int line = lexer->line;
    const char *start = lexer->at + 2;
    if (start < lexer->end && (*start == '-' || *start == '+')) start++;
    const char *at = start;
    while (at < lexer->end && !begins(lexer, at, "#}")) at++;
    if (at >= lexer->end) {
        return phx_fail(PHX_BAD_DATA, "%s line %d: a comment {# is not closed", lexer->file, line);
    }
    bool space = at > start && at[-1] == '-';
    bool keeps = at > start && at[-1] == '+';
    end_tag(lexer, space, !keeps, at + 2);
    return PHX_OK;
}

/* {% NAME %} at `at`: where it ends; NULL if it is something else. */
static const char *find_named_tag(const struct phx_lexer *lexer, const char *at, const char *name,
                                  bool *takes_space, bool *takes_newline)
{
    if (!begins(lexer, at, "{%")) return NULL;
    at += 2;
    if (at < lexer->end && (*at == '-' || *at == '+')) at++;
    at += phx_utf8_before(phx_tspace_is, at, (size_t)(lexer->end - at));
    if (!begins(lexer, at, name)) return NULL;
    at += strlen(name);
    at += phx_utf8_before(phx_tspace_is, at, (size_t)(lexer->end - at));
    *takes_space = begins(lexer, at, "-%}");
    *takes_newline = begins(lexer, at, "%}");
    bool keeps = begins(lexer, at, "+%}");
    return *takes_newline ? at + 2 : *takes_space || keeps ? at + 3 : NULL;
}

/* The text of a raw block, whose {% raw %} is behind. */
static enum phx_status read_raw(struct phx_lexer *lexer, struct phx_ttoken *out)
{
    int line = lexer->line;
    for (const char *at = lexer->at; at < lexer->end; at++) {
        bool space, newline;
        const char *to = find_named_tag(lexer, at, "endraw", &space, &newline);
        if (!to) continue;
        out->kind = PHX_TTOKEN_TEXT;
        out->text = trimmed_text(lexer, at);
        end_tag(lexer, space, newline, to);
        lexer->raw = false;
        return PHX_OK;
    }
    return phx_fail(PHX_BAD_DATA, "%s line %d: a raw block is not closed", lexer->file, line);
}

/* Text up to the next tag; *found is false if there is none before it. */
static enum phx_status read_text(struct phx_lexer *lexer, struct phx_ttoken *out, bool *found)
{
    const char *tag = find_tag(lexer);
    struct phx_slice text = trimmed_text(lexer, tag);
    out->line = lexer->line;
    advance(lexer, tag);
    lexer->opens = PHX_TTOKEN_END;
    if (tag < lexer->end) {
        lexer->opens = tag[1] == '{'   ? PHX_TTOKEN_VARIABLE_BEGIN
                       : tag[1] == '%' ? PHX_TTOKEN_BLOCK_BEGIN
                                       : PHX_TTOKEN_TEXT;
    }
    *found = text.n > 0;
    out->kind = PHX_TTOKEN_TEXT;
    out->text = text;
    return PHX_OK;
}

/* The tag that begins here; *found is false for a comment, or for what begins a raw block. */
static enum phx_status open_tag(struct phx_lexer *lexer, struct phx_ttoken *out, bool *found)
{
    enum phx_ttoken_kind opens = lexer->opens;
    lexer->opens = PHX_TTOKEN_TEXT;
    *found = false;
    if (opens == PHX_TTOKEN_TEXT) {
        return begins(lexer, lexer->at, "{#") ? skip_comment(lexer) : PHX_OK;
    }
    *found = true;
    out->kind = opens;
    out->line = lexer->line;
    if (opens == PHX_TTOKEN_END) {
        lexer->opens = PHX_TTOKEN_END;
        return PHX_OK;
    }
    bool space, newline;
    const char *raw = find_named_tag(lexer, lexer->at, "raw", &space, &newline);
    if (raw && raw[-3] != '+') {
        *found = false;
        end_tag(lexer, space, false, raw);
        lexer->raw = true;
        return PHX_OK;
    }
    advance(lexer, lexer->at + 2);
    if (lexer->at < lexer->end && (*lexer->at == '-' || *lexer->at == '+')) lexer->at++;
    lexer->inside = opens;
    lexer->n_brackets = 0;
    return PHX_OK;
}

static bool close_tag(struct phx_lexer *lexer, struct phx_ttoken *out)
{
    bool block = lexer->inside == PHX_TTOKEN_BLOCK_BEGIN;
    const char *end = block ? "%}" : "}}";
    if (lexer->n_brackets) return false;
    bool space = *lexer->at == '-' && begins(lexer, lexer->at + 1, end);
    bool keeps = block && *lexer->at == '+' && begins(lexer, lexer->at + 1, end);
    if (!space && !keeps && !begins(lexer, lexer->at, end)) return false;
    out->kind = block ? PHX_TTOKEN_BLOCK_END : PHX_TTOKEN_VARIABLE_END;
    lexer->inside = PHX_TTOKEN_TEXT;
    end_tag(lexer, space, block && !keeps, lexer->at + 2 + (space || keeps));
    return true;
}

static bool is_name(char c, bool first)
{
    unsigned char byte = (unsigned char)c;
    return byte >= 0x80 || c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (!first && c >= '0' && c <= '9');
}

static bool is_digit(const struct phx_lexer *lexer, const char *at)
{
    return at < lexer->end && *at >= '0' && *at <= '9';
}

static enum phx_status read_number(struct phx_lexer *lexer, struct phx_ttoken *out)
{
    char text[64];
    size_t n = 0;
    bool real = false;
    const char *at = lexer->at;
    while (is_digit(lexer, at) || (n && at < lexer->end && *at == '_')) {
        if (*at != '_' && n < sizeof text - 1) text[n++] = *at;
        at++;
    }
    /* not in x.0.1, which is two subscripts */
    if (lexer->at[-1] != '.' && at < lexer->end && *at == '.' && is_digit(lexer, at + 1)) {
        real = true;
        do {
            if (n < sizeof text - 1) text[n++] = *at;
            at++;
        } while (is_digit(lexer, at));
    }
    const char *exponent = at + (at < lexer->end);
    exponent += exponent < lexer->end && (*exponent == '-' || *exponent == '+');
    if (at < lexer->end && (*at == 'e' || *at == 'E') && is_digit(lexer, exponent)) {
        real = true;
        while (at < exponent || is_digit(lexer, at)) {
            if (n < sizeof text - 1) text[n++] = *at;
            at++;
        }
    }
    text[n] = '\0';
    bool other = !real && n > 1 && text[0] == '0';
    if (n > 18 || other || (at < lexer->end && is_name(*at, true))) {
        return phx_fail(PHX_UNSUPPORTED, "%s line %d: the number %.*s is not supported",
                        lexer->file, lexer->line, (int)(at - lexer->at), lexer->at);
    }
    out->kind = real ? PHX_TTOKEN_FLOAT : PHX_TTOKEN_INTEGER;
    out->integer = strtoll(text, NULL, 10);
    out->real = strtod(text, NULL);
    lexer->at = at;
    return PHX_OK;
}

static int hex_value(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* The escape behind a backslash at `at`, as Python has them: bytes to `out`; the bytes read. */
static size_t read_escape(const char *at, const char *end, char *out, size_t *n)
{
    static const char letters[] = "nrtabfv\\'\"", values[] = "\n\r\t\a\b\f\v\\'\"";
    const char *letter = at < end && *at ? strchr(letters, *at) : NULL;
    size_t digits = at >= end ? 0 : *at == 'x' ? 2 : *at == 'u' ? 4 : *at == 'U' ? 8 : 0;
    if (at < end && *at == '\n') return 1; /* a line that goes on */
    if (letter) {
        out[(*n)++] = values[letter - letters];
        return 1;
    }
    uint32_t code = 0;
    size_t n_octal = 0;
    while (n_octal < 3 && at + n_octal < end && at[n_octal] >= '0' && at[n_octal] <= '7') {
        code = code * 8 + (uint32_t)(at[n_octal++] - '0');
    }
    if (n_octal) {
        *n += phx_utf8_put(code, out + *n);
        return n_octal;
    }
    if (digits == 0 || (size_t)(end - at) <= digits) digits = 0;
    for (size_t i = 1; i <= digits; i++) {
        if (hex_value(at[i]) < 0) digits = 0;
        code = code << 4 | (uint32_t)hex_value(at[i]);
    }
    if (digits == 0 || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) {
        out[(*n)++] = '\\'; /* no escape: it stays */
        return 0;
    }
    *n += phx_utf8_put(code, out + *n);
    return 1 + digits;
}

static enum phx_status read_string(struct phx_lexer *lexer, struct phx_ttoken *out)
{
    char quote = *lexer->at, *text;
    const char *start = lexer->at + 1, *at = start;
    while (at < lexer->end && *at != quote) at += *at == '\\' ? 2 : 1;
    if (at >= lexer->end) {
        return phx_fail(PHX_BAD_DATA, "%s line %d: a string is not closed", lexer->file,
                        lexer->line);
    }
    const char *end = at;
    PHX_TRY(phx_arena_take(lexer->arena, (size_t)(end - start) + 1, 1, &text));
    out->kind = PHX_TTOKEN_STRING;
    out->text = (struct phx_slice){text, 0};
    for (at = start; at < end;) {
        if (*at != '\\') {
            text[out->text.n++] = *at++;
        } else {
            at++;
            at += read_escape(at, end, text, &out->text.n);
        }
    }
    advance(lexer, end + 1);
    return PHX_OK;
}

static enum phx_status read_operator(struct phx_lexer *lexer, struct phx_ttoken *out)
{
    static const char *const doubles[] = {"//", "**", "==", "!=", ">=", "<="};
    size_t n = 1;
    for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++) {
        if (begins(lexer, lexer->at, doubles[i])) n = 2;
    }
    char c = *lexer->at;
    if (!strchr("+-/*%~[](){}=<>.:|,;!", c) || (c == '!' && n == 1) || c == '\0') {
        return phx_fail(PHX_BAD_DATA, "%s line %d: unexpected character '%.*s'", lexer->file,
                        lexer->line, (int)phx_utf8_bytes(lexer->at), lexer->at);
    }
    if (strchr("([{", c)) {
        if (lexer->n_brackets == (int)sizeof lexer->brackets) {
            return phx_fail(PHX_UNSUPPORTED, "%s line %d: more than %d open brackets", lexer->file,
                            lexer->line, lexer->n_brackets);
        }
        lexer->brackets[lexer->n_brackets++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (strchr(")]}", c) &&
               (lexer->n_brackets == 0 || lexer->brackets[--lexer->n_brackets] != c)) {
        return phx_fail(PHX_BAD_DATA, "%s line %d: unexpected '%c'", lexer->file, lexer->line, c);
    }
    out->kind = PHX_TTOKEN_OPERATOR;
    out->text = (struct phx_slice){lexer->at, n};
    lexer->at += n;
    return PHX_OK;
}

static enum phx_status read_in_tag(struct phx_lexer *lexer, struct phx_ttoken *out)
{
    skip_space(lexer);
    out->line = lexer->line;
    if (lexer->at >= lexer->end) {
        return phx_fail(PHX_BAD_DATA, "%s line %d: a tag is not closed", lexer->file, lexer->line);
    }
    if (close_tag(lexer, out)) return PHX_OK;
    if (is_name(*lexer->at, true)) {
        const char *start = lexer->at;
        while (lexer->at < lexer->end && is_name(*lexer->at, false)) lexer->at++;
        out->kind = PHX_TTOKEN_NAME;
        out->text = (struct phx_slice){start, (size_t)(lexer->at - start)};
        return PHX_OK;
    }
    if (*lexer->at >= '0' && *lexer->at <= '9') return read_number(lexer, out);
    if (*lexer->at == '\'' || *lexer->at == '"') return read_string(lexer, out);
    return read_operator(lexer, out);
}

enum phx_status phx_lexer_next(struct phx_lexer *lexer, struct phx_ttoken *out)
{
    *out = (struct phx_ttoken){.line = lexer->line};
    if (lexer->inside != PHX_TTOKEN_TEXT) return read_in_tag(lexer, out);
    for (bool found = false;;) {
        if (lexer->raw) {
            PHX_TRY(read_raw(lexer, out));
            return PHX_OK;
        }
        bool open = lexer->opens != PHX_TTOKEN_TEXT || begins(lexer, lexer->at, "{#");
        PHX_TRY(open ? open_tag(lexer, out, &found) : read_text(lexer, out, &found));
        if (found) return PHX_OK;
    }
}
