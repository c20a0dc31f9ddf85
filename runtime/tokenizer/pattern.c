#define PCRE2_CODE_UNIT_WIDTH 8
#include "runtime/tokenizer/pattern.h"

#include <ctype.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/tokenizer/buffer.h"
#include "runtime/tokenizer/unicode.h"

struct phx_pattern {
    char *literal; /* NULL: code */
    size_t literal_bytes;
    pcre2_code *code;
};

struct phx_matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

/* White_Space. PCRE2's own \s has U+180E as well. */
#define SPACE                                                                                      \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}"
#define NOT_SPACE                                                                                  \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{"     \
    "1fff}"                                                                                        \
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{"   \
    "10ffff}"
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
/* Outside of a set, Oniguruma counts the numbers of Latin-1 among the word characters. */
#define WORD_ALONE WORD "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"
#define HEX "0-9A-Fa-f"

/* Escapes by letter: what to write outside and inside a character class; NULL: refused there. */
static const struct escape {
    char letter;
    const char *outside, *inside;
} escapes[] = {
    {'s', "[" SPACE "]", SPACE},
    {'S', "[^" SPACE "]", NOT_SPACE},
    {'w', "[" WORD_ALONE "]", WORD},
    {'W', "[^" WORD_ALONE "]", NULL},
    {'h', "[" HEX "]", HEX},
    {'H', "[^" HEX "]", NULL},
    {'d', "\\p{Nd}", "\\p{Nd}"},
    {'D', "\\P{Nd}", "\\P{Nd}"},
    {'v', "\\x{b}", "\\x{b}"},
    {'t', "\\t", "\\t"},
    {'n', "\\n", "\\n"},
    {'r', "\\r", "\\r"},
    {'f', "\\f", "\\f"},
    {'a', "\\a", "\\a"},
    {'e', "\\e", "\\e"},
    {'A', "\\A", NULL},
    {'z', "\\z", NULL},
    {'Z', "\\Z", NULL},
};

/* What may follow "(?" . */
static const char *const groups[] = {":", "=", "!", "<=", "<!", ">", "i:"};

struct rewriting {
    const char *file, *regex;
    const char *at; /* the next byte to read */
    bool in_class;
    struct phx_bytes out;
};

static enum phx_status refuse(const struct rewriting *r, const char *what, size_t bytes)
{
    return phx_fail(PHX_UNSUPPORTED, "%s: the pattern %s uses %.*s, which is not supported",
                    r->file, r->regex, (int)bytes, what);
}

static enum phx_status put(struct rewriting *r, const char *text)
{
    return phx_bytes_append(&r->out, text, strlen(text));
}

static enum phx_status copy(struct rewriting *r, size_t bytes)
{
    PHX_TRY(phx_bytes_append(&r->out, r->at, bytes));
    r->at += bytes;
    return PHX_OK;
}

static bool is_script(const char *name, size_t n)
{
    return n > 2 && strncmp(name, "Any", n) != 0 && strncmp(name, "Alphabetic", n) != 0;
}

/* \p{Name}. For PCRE2 the name of a script alone means Script_Extensions: say that Script is meant.
 * General categories have at most two letters. */
static enum phx_status rewrite_property(struct rewriting *r)
{
    const char *name = r->at + 2;
    const char *end = *name == '{' ? strchr(name, '}') : NULL;
    if (!end || end == name + 1) return refuse(r, r->at, 2);
    name++;
    PHX_TRY(copy(r, 3));
    if (*name == '^') {
        PHX_TRY(copy(r, 1));
        name++;
    }
    if (is_script(name, (size_t)(end - name))) PHX_TRY(put(r, "sc:"));
    return copy(r, (size_t)(end + 1 - name));
}

/* \uHHHH, \xHH, \x{H...}; a \x above 7F is a byte, not a character. */
static enum phx_status rewrite_code(struct rewriting *r)
{
    const char *digits = r->at + 2;
    size_t n = strspn(digits, "0123456789abcdefABCDEF");
    if (r->at[1] == 'x' && *digits == '{') {
        n = strspn(digits + 1, "0123456789abcdefABCDEF");
        if (n == 0 || digits[1 + n] != '}') return refuse(r, r->at, 3);
        return copy(r, n + 4);
    }
    size_t wanted = r->at[1] == 'u' ? 4 : 2;
    if (n < wanted || (wanted == 2 && *digits > '7')) return refuse(r, r->at, 2);
    PHX_TRY(put(r, "\\x{"));
    r->at += 2;
    PHX_TRY(copy(r, wanted));
    return put(r, "}");
}

static enum phx_status rewrite_escape(struct rewriting *r)
{
    char letter = r->at[1];
    if (letter == '\0') return refuse(r, "a \\ at its end", strlen("a \\ at its end"));
    if (letter == 'p' || letter == 'P') return rewrite_property(r);
    if (letter == 'x' || letter == 'u') return rewrite_code(r);
    if (!isalnum((unsigned char)letter)) return copy(r, 1 + phx_utf8_bytes(r->at + 1));
    for (size_t i = 0; i < sizeof escapes / sizeof *escapes; i++) {
        if (escapes[i].letter != letter) continue;
        const char *text = r->in_class ? escapes[i].inside : escapes[i].outside;
        if (!text) break;
        r->at += 2;
        return put(r, text);
    }
    return refuse(r, r->at, 2);
}

static enum phx_status rewrite_in_class(struct rewriting *r)
{
    if (*r->at == '[') return refuse(r, "a set within a set", strlen("a set within a set"));
    if (strncmp(r->at, "&&", 2) == 0) return refuse(r, r->at, 2);
    if (*r->at == ']') r->in_class = false;
    return copy(r, 1);
}

static enum phx_status rewrite_group(struct rewriting *r)
{
    if (r->at[1] != '?') return copy(r, 1);
    /* An option without a group of its own means the same in both only at the very beginning. */
    if (r->at == r->regex && strncmp(r->at, "(?i)", 4) == 0) return copy(r, 4);
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        if (strncmp(r->at + 2, groups[i], strlen(groups[i])) == 0) {
            return copy(r, 2 + strlen(groups[i]));
        }
    }
    return refuse(r, r->at, r->at[2] ? 3 : 2);
}

/* {n}, {n,}, {n,m} and {,m}; anything else is a literal brace for both. In Oniguruma a + behind one
 * repeats it, and a ? behind {n} makes it optional. */
static enum phx_status rewrite_interval(struct rewriting *r)
{
    size_t low = strspn(r->at + 1, "0123456789");
    const char *end = r->at + 1 + low;
    size_t high = 0;
    bool comma = *end == ',';
    if (comma) {
        high = strspn(end + 1, "0123456789");
        end += 1 + high;
    }
    if (*end != '}' || low + high == 0) return copy(r, 1);
    if (end[1] == '+' || (end[1] == '?' && !comma)) {
        return refuse(r, r->at, (size_t)(end + 2 - r->at));
    }
    if (low == 0) {
        PHX_TRY(put(r, "{0"));
        r->at++;
    }
    return copy(r, (size_t)(end + 1 - r->at));
}

static enum phx_status rewrite(struct rewriting *r)
{
    while (*r->at) {
        if (*r->at == '\\') {
            PHX_TRY(rewrite_escape(r));
        } else if (r->in_class) {
            PHX_TRY(rewrite_in_class(r));
        } else if (*r->at == '[') {
            PHX_TRY(copy(r, r->at[1] == '^' ? 2 : 1));
            if (*r->at == ']') return refuse(r, "a set that begins with ]", 24);
            r->in_class = true;
        } else if (*r->at == '(') {
            PHX_TRY(rewrite_group(r));
        } else if (*r->at == '{') {
            PHX_TRY(rewrite_interval(r));
        } else {
            PHX_TRY(copy(r, 1));
        }
    }
    return PHX_OK;
}

static enum phx_status compile(const struct rewriting *r, pcre2_code **out)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) return phx_fail(PHX_OUT_OF_MEMORY, "%s: no memory for a pattern", r->file);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int error;
    PCRE2_SIZE where;
    /* Oniguruma's ^ and $ match at every line. */
    *out = pcre2_compile((PCRE2_SPTR)(r->out.n ? r->out.data : ""), r->out.n,
                         PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_AUTO_CAPTURE, &error,
                         &where, context);
    pcre2_compile_context_free(context);
    if (!*out) {
        char text[160];
        pcre2_get_error_message(error, (PCRE2_UCHAR *)text, sizeof text);
        return phx_fail(PHX_UNSUPPORTED, "%s: the pattern %s does not compile: %s", r->file,
                        r->regex, text);
    }
    pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* where there is no JIT, PCRE2 interprets */
    return PHX_OK;
}

enum phx_status phx_pattern_create_regex(const char *file, const char *regex,
                                         struct phx_pattern **out)
{
    struct phx_pattern *pattern = calloc(1, sizeof *pattern);
    if (!pattern) return phx_fail(PHX_OUT_OF_MEMORY, "%s: no memory for a pattern", file);
    struct rewriting r = {.file = file, .regex = regex, .at = regex};
    enum phx_status status;
    PHX_TRY_GOTO(rewrite(&r), done);
    PHX_TRY_GOTO(compile(&r, &pattern->code), done);
done:
    free(r.out.data);
    if (status != PHX_OK) {
        free(pattern);
        return status;
    }
    *out = pattern;
    return PHX_OK;
}

enum phx_status phx_pattern_create_literal(const char *file, const char *literal,
                                           struct phx_pattern **out)
{
    if (!*literal) return phx_pattern_create_regex(file, literal, out);
    struct phx_pattern *pattern = calloc(1, sizeof *pattern);
    char *copied = strdup(literal);
    if (!pattern || !copied) {
        free(pattern);
        free(copied);
        return phx_fail(PHX_OUT_OF_MEMORY, "%s: no memory for a pattern", file);
    }
    pattern->literal = copied;
    pattern->literal_bytes = strlen(copied);
    *out = pattern;
    return PHX_OK;
}

void phx_pattern_destroy(struct phx_pattern *pattern)
{
    if (!pattern) return;
    pcre2_code_free(pattern->code);
    free(pattern->literal);
    free(pattern);
}

const char *phx_pattern_literal(const struct phx_pattern *pattern)
{
    return pattern->literal;
}

enum phx_status phx_matcher_create(struct phx_matcher **out)
{
    struct phx_matcher *matcher = calloc(1, sizeof *matcher);
    if (matcher) {
        matcher->data = pcre2_match_data_create(1, NULL);
        matcher->context = pcre2_match_context_create(NULL);
    }
    if (!matcher || !matcher->data || !matcher->context) {
        phx_matcher_destroy(matcher);
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory to match patterns");
    }
    matcher->stack = pcre2_jit_stack_create(32 << 10, 8 << 20, NULL); /* NULL without JIT */
    if (matcher->stack) pcre2_jit_stack_assign(matcher->context, NULL, matcher->stack);
    *out = matcher;
    return PHX_OK;
}

void phx_matcher_destroy(struct phx_matcher *matcher)
{
    if (!matcher) return;
    pcre2_match_data_free(matcher->data);
    pcre2_match_context_free(matcher->context);
    pcre2_jit_stack_free(matcher->stack);
    free(matcher);
}

static enum phx_status search(const struct phx_pattern *pattern, struct phx_matcher *matcher,
                              const char *data, size_t n, size_t from, size_t *start, size_t *end,
                              bool *found)
{
    *found = false;
    if (pattern->literal) {
        const char *hit =
            phx_bytes_find(data + from, n - from, pattern->literal, pattern->literal_bytes);
        if (!hit) return PHX_OK;
        *start = (size_t)(hit - data);
        *end = *start + pattern->literal_bytes;
        *found = true;
        return PHX_OK;
    }
    int count = pcre2_match(pattern->code, (PCRE2_SPTR)data, n, from, PCRE2_NO_UTF_CHECK,
                            matcher->data, matcher->context);
    if (count == PCRE2_ERROR_NOMATCH) return PHX_OK;
    if (count < 0) {
        char text[160];
        pcre2_get_error_message(count, (PCRE2_UCHAR *)text, sizeof text);
        return phx_fail(PHX_UNSUPPORTED,
                        "a pattern of the tokenizer cannot be matched against a text of %zu bytes: "
                        "%s",
                        n, text);
    }
    const PCRE2_SIZE *found_at = pcre2_get_ovector_pointer(matcher->data);
    *start = found_at[0];
    *end = found_at[1];
    *found = true;
    return PHX_OK;
}

enum phx_status phx_pattern_next(const struct phx_pattern *pattern, struct phx_matcher *matcher,
                                 const char *data, size_t n, struct phx_match *match, bool *found)
{
    *found = false;
    while (match->from <= n) {
        size_t start = 0, end = 0;
        PHX_TRY(search(pattern, matcher, data, n, match->from, &start, &end, found));
        if (!*found) return PHX_OK;
        if (start < end || !match->any || end != match->end) {
            *match = (struct phx_match){.start = start, .end = end, .from = end, .any = true};
            return PHX_OK;
        }
        *found = false;
        match->from += match->from < n ? phx_utf8_bytes(data + match->from) : 1;
    }
    return PHX_OK;
}
