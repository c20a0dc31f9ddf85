/* Filters of one value: texts, numbers, JSON. Those of lists are in list_filters.c. */
#include "runtime/template/filters.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/template/list_filters.h"
#include "runtime/template/methods.h"
#include "runtime/tokenizer/unicode.h"

#define FILTER(name)                                                                               \
    static enum phx_status name(struct phx_run *run, const struct phx_tv *value,                   \
                                const struct phx_targs *args, struct phx_tv *out)

/* A filter without arguments, on str() of the value. */
#define TEXT_FILTER(name, call)                                                                    \
    FILTER(name)                                                                                   \
    {                                                                                              \
        struct phx_slice text;                                                                     \
        PHX_TRY(phx_targs_bind(run, #name, args, "", 0, NULL));                                    \
        PHX_TRY(phx_tv_text(run, value, &text));                                                   \
        return call;                                                                               \
    }
TEXT_FILTER(upper, phx_ttext_case(run, text, PHX_TCASE_UPPER, out))
TEXT_FILTER(lower, phx_ttext_case(run, text, PHX_TCASE_LOWER, out))
TEXT_FILTER(capitalize, phx_ttext_capitalize(run, text, PHX_TCASE_TITLE, out))
TEXT_FILTER(string, (*out = PHX_TV_OF_TEXT(text.data, text.n), PHX_OK))

/* Words begin after spaces, dashes and opening brackets. */
FILTER(title)
{
    struct phx_slice text;
    bool first = true;
    size_t start = run->scratch.n;
    PHX_TRY(phx_targs_bind(run, "title", args, "", 0, NULL));
    PHX_TRY(phx_tv_text(run, value, &text));
    PHX_TRY(phx_run_charge(run, text.n / 4, 0));
    for (size_t at = 0; at < text.n; at += phx_utf8_bytes(text.data + at)) {
        uint32_t code = phx_utf8_get(text.data + at);
        PHX_TRY(phx_tcase_put(first ? PHX_TCASE_UPPER : PHX_TCASE_LOWER, code, &run->scratch));
        first = phx_tspace_is(code) || (code && code < 0x80 && strchr("-({[<", (int)code));
    }
    return phx_tv_take_scratch(run, start, out);
}

FILTER(trim)
{
    struct phx_tv set;
    struct phx_slice text;
    PHX_TRY(phx_targs_bind(run, "trim", args, "chars", 0, &set));
    PHX_TRY(phx_tv_text(run, value, &text));
    return phx_ttext_strip(run, text, &set, PHX_TSIDE_LEFT | PHX_TSIDE_RIGHT, out);
}

FILTER(replace)
{
    struct phx_tv bound[3];
    struct phx_slice text, old, new_text;
    int64_t most = -1;
    PHX_TRY(phx_targs_bind(run, "replace", args, "old,new,count", 2, bound));
    PHX_TRY(phx_tv_text(run, value, &text));
    PHX_TRY(phx_tv_text(run, &bound[0], &old));
    PHX_TRY(phx_tv_text(run, &bound[1], &new_text));
    if (bound[2].type != PHX_TV_NONE) PHX_TRY(phx_targ_int(run, &bound[2], &most));
    return phx_ttext_replace(run, text, old, new_text, most, out);
}

FILTER(center)
{
    struct phx_tv bound;
    struct phx_slice text;
    int64_t width = 80;
    PHX_TRY(phx_targs_bind(run, "center", args, "width", 0, &bound));
    PHX_TRY(phx_tv_text(run, value, &text));
    PHX_TRY(phx_targ_int(run, &bound, &width));
    int64_t missing = width - (int64_t)phx_tv_characters(text);
    if (missing < 0) missing = 0;
    int64_t left = missing / 2 + (missing & width & 1);
    return phx_ttext_pad(run, text, left, missing - left, (struct phx_slice){" ", 1}, out);
}

/* What stands before each line but the first. */
static enum phx_status indentation(struct phx_run *run, const struct phx_tv *width,
                                   struct phx_slice *out)
{
    int64_t n = 4;
    struct phx_tv text;
    if (width->type == PHX_TV_STRING) {
        *out = width->text;
        return PHX_OK;
    }
    PHX_TRY(phx_targ_int(run, width, &n));
    PHX_TRY(phx_ttext_pad(run, (struct phx_slice){"", 0}, n, 0, (struct phx_slice){" ", 1}, &text));
    *out = text.text;
    return PHX_OK;
}

FILTER(indent)
{
    struct phx_tv bound[3], lines;
    struct phx_slice text, space;
    size_t start = run->scratch.n;
    PHX_TRY(phx_targs_bind(run, "indent", args, "width,first,blank", 0, bound));
    PHX_TRY(phx_tv_text(run, value, &text));
    PHX_TRY(indentation(run, &bound[0], &space));
    bool first = phx_tv_truth(&bound[1]), blank = phx_tv_truth(&bound[2]);
    struct phx_tv indent = PHX_TV_OF_TEXT(space.data, space.n), newline = PHX_TV_OF_TEXT("\n", 1);
    PHX_TRY(phx_ttext_lines(run, text, false, &lines));
    if (text.n == 0 || phx_utf8_after(phx_tspace_is, text.data + text.n - 1, text.n ? 1 : 0)) {
        /* Jinja adds a newline before it splits: a text that ends in one keeps an empty line. */
        size_t capacity = lines.list->n;
        bool ends = text.n == 0 || text.data[text.n - 1] == '\n' || text.data[text.n - 1] == '\r';
        if (ends) PHX_TRY(phx_tlist_append(run, &lines, &capacity, PHX_TV_OF_TEXT("", 0)));
    }
    for (size_t i = 0; i < lines.list->n; i++) {
        const struct phx_tv *line = &lines.list->items[i];
        bool indents = i == 0 ? first : blank || line->text.n;
        if (i) PHX_TRY(phx_tv_print(run, &newline, false));
        if (indents) PHX_TRY(phx_tv_print(run, &indent, false));
        PHX_TRY(phx_tv_print(run, line, false));
    }
    return phx_tv_take_scratch(run, start, out);
}

FILTER(format)
{
    struct phx_slice text;
    if (args->n_named) return phx_run_refuse(run, "format: named arguments are not supported");
    PHX_TRY(phx_tv_text(run, value, &text));
    return phx_tv_format(run, text, args->items, args->n, out);
}

FILTER(defaulted)
{
    struct phx_tv bound[2];
    PHX_TRY(phx_targs_bind(run, "default", args, "default_value,boolean", 0, bound));
    bool replaced =
        value->type == PHX_TV_UNDEFINED || (phx_tv_truth(&bound[1]) && !phx_tv_truth(value));
    *out = !replaced ? *value : bound[0].type == PHX_TV_MISSING ? PHX_TV_OF_TEXT("", 0) : bound[0];
    return PHX_OK;
}

FILTER(length)
{
    int64_t n;
    PHX_TRY(phx_targs_bind(run, "length", args, "", 0, NULL));
    PHX_TRY(phx_tv_length(run, value, &n));
    *out = PHX_TV_OF_INT(n);
    return PHX_OK;
}

FILTER(absolute)
{
    static const struct phx_tv zero = {.type = PHX_TV_INT};
    PHX_TRY(phx_targs_bind(run, "abs", args, "", 0, NULL));
    if (!phx_tv_is_number(value)) {
        return phx_run_fail(run, "bad operand type for abs(): '%s'", phx_tv_type_name(value));
    }
    if (value->type == PHX_TV_FLOAT) {
        *out = PHX_TV_OF_FLOAT(fabs(value->real));
        return PHX_OK;
    }
    bool negative = value->type == PHX_TV_INT && value->integer < 0;
    return phx_tv_binary(run, negative ? 1 : 0, &zero, value, out); /* 0 - value, 0 + value */
}

static enum phx_status fail_on_undefined(struct phx_run *run, const struct phx_tv *value)
{
    return phx_run_fail(run, "'%.*s' is undefined", (int)value->text.n, value->text.data);
}

/* The number that a text is, as float() reads it; false if it is none. */
static bool read_real(const struct phx_tv *value, double *out)
{
    char text[64], *end;
    size_t n = value->text.n, left = phx_utf8_before(phx_tspace_is, value->text.data, n);
    size_t right = phx_utf8_after(phx_tspace_is, value->text.data + left, n - left);
    n -= left + right;
    if (n == 0 || n >= sizeof text) return false;
    memcpy(text, value->text.data + left, n);
    text[n] = '\0';
    if (strspn(text, "0123456789+-.eEinfatyINFATY") != n) return false;
    *out = strtod(text, &end);
    return *end == '\0';
}

static enum phx_status real_to_int(struct phx_run *run, double real, const struct phx_tv *otherwise,
                                   struct phx_tv *out)
{
    *out = *otherwise;
    if (isnan(real) || isinf(real)) return PHX_OK;
    if (!(fabs(real) < 9.2e18)) {
        return phx_run_refuse(run, "a whole number beyond 64 bits is not supported");
    }
    *out = PHX_TV_OF_INT((int64_t)trunc(real));
    return PHX_OK;
}

FILTER(to_int)
{
    struct phx_tv bound[2], otherwise = PHX_TV_OF_INT(0);
    double real;
    int64_t base = 10;
    PHX_TRY(phx_targs_bind(run, "int", args, "default,base", 0, bound));
    PHX_TRY(phx_targ_int(run, &bound[1], &base));
    if (base != 10) return phx_run_refuse(run, "int: base %lld is not supported", (long long)base);
    if (bound[0].type != PHX_TV_MISSING) otherwise = bound[0];
    if (value->type == PHX_TV_UNDEFINED) return fail_on_undefined(run, value);
    *out = otherwise;
    if (value->type == PHX_TV_FLOAT) return real_to_int(run, value->real, &otherwise, out);
    if (phx_tv_is_number(value)) return phx_tv_binary(run, 0, &PHX_TV_OF_INT(0), value, out);
    if (value->type != PHX_TV_STRING || !read_real(value, &real)) return PHX_OK;
    char text[32];
    size_t n = value->text.n < 20 ? value->text.n : 20;
    memcpy(text, value->text.data, n);
    text[n] = '\0';
    char *end;
    long long integer = strtoll(text, &end, 10);
    if (end != text && (size_t)(end - text) == value->text.n && n < 19) {
        *out = PHX_TV_OF_INT(integer);
        return PHX_OK;
    }
    return real_to_int(run, real, &otherwise, out);
}

FILTER(to_float)
{
    struct phx_tv otherwise;
    double real;
    PHX_TRY(phx_targs_bind(run, "float", args, "default", 0, &otherwise));
    if (value->type == PHX_TV_UNDEFINED) return fail_on_undefined(run, value);
    if (phx_tv_is_number(value)) {
        *out = PHX_TV_OF_FLOAT(phx_tv_real(value));
    } else if (value->type == PHX_TV_STRING && read_real(value, &real)) {
        *out = PHX_TV_OF_FLOAT(real);
    } else {
        *out = otherwise.type == PHX_TV_MISSING ? PHX_TV_OF_FLOAT(0) : otherwise;
    }
    return PHX_OK;
}

/* Decimal digits as printf rounds them: exactly, to even, as round() does. */
FILTER(rounded)
{
    struct phx_tv bound[2];
    struct phx_slice method = {"common", 6};
    int64_t precision = 0;
    char text[512];
    PHX_TRY(phx_targs_bind(run, "round", args, "precision,method", 0, bound));
    PHX_TRY(phx_targ_int(run, &bound[0], &precision));
    PHX_TRY(phx_targ_text(run, &bound[1], &method));
    if (value->type == PHX_TV_UNDEFINED) return fail_on_undefined(run, value);
    if (!phx_tv_is_number(value)) {
        return phx_run_fail(run, "type %s doesn't define round", phx_tv_type_name(value));
    }
    if (precision < 0 || precision > 100) {
        return phx_run_refuse(run, "round: precision %lld is not supported", (long long)precision);
    }
    double real = phx_tv_real(value), scale = pow(10, (double)precision);
    if (phx_slice_is(method, "ceil")) {
        *out = PHX_TV_OF_FLOAT(ceil(real * scale) / scale);
    } else if (phx_slice_is(method, "floor")) {
        *out = PHX_TV_OF_FLOAT(floor(real * scale) / scale);
    } else if (!phx_slice_is(method, "common")) {
        return phx_run_fail(run, "method must be common, ceil or floor");
    } else if (value->type == PHX_TV_FLOAT) {
        snprintf(text, sizeof text, "%.*f", (int)precision, real);
        *out = PHX_TV_OF_FLOAT(strtod(text, NULL));
    } else {
        *out = *value;
    }
    return PHX_OK;
}

FILTER(to_json)
{
    struct phx_tv bound[4];
    struct phx_tjson_style style = {.comma = {", ", 2}, .colon = {": ", 2}};
    size_t start = run->scratch.n;
    PHX_TRY(
        phx_targs_bind(run, "tojson", args, "ensure_ascii,indent,separators,sort_keys", 0, bound));
    style.ascii = phx_tv_truth(&bound[0]);
    style.sort = phx_tv_truth(&bound[3]);
    style.lines = bound[1].type != PHX_TV_MISSING && bound[1].type != PHX_TV_NONE;
    if (style.lines) {
        style.comma.n = 1;
        PHX_TRY(indentation(run, &bound[1], &style.indent));
    }
    if (bound[2].type != PHX_TV_MISSING && bound[2].type != PHX_TV_NONE) {
        struct phx_tv_list *parts;
        PHX_TRY(phx_tv_iterate(run, &bound[2], &parts));
        if (parts->n != 2) return phx_run_fail(run, "tojson: separators must be two texts");
        PHX_TRY(phx_targ_text(run, &parts->items[0], &style.comma));
        PHX_TRY(phx_targ_text(run, &parts->items[1], &style.colon));
    }
    PHX_TRY(phx_tv_dump(run, value, &style, 0));
    return phx_tv_take_scratch(run, start, out);
}

/* Nothing here is ever escaped, so nothing need be marked as safe. */
FILTER(safe)
{
    struct phx_slice text;
    PHX_TRY(phx_targs_bind(run, "safe", args, "", 0, NULL));
    PHX_TRY(phx_tv_text(run, value, &text));
    *out = PHX_TV_OF_TEXT(text.data, text.n);
    return PHX_OK;
}

FILTER(word_count)
{
    struct phx_slice text;
    int64_t n = 0;
    bool inside = false;
    PHX_TRY(phx_targs_bind(run, "wordcount", args, "", 0, NULL));
    PHX_TRY(phx_tv_text(run, value, &text));
    PHX_TRY(phx_run_charge(run, 0, text.n));
    for (size_t at = 0; at < text.n; at += phx_utf8_bytes(text.data + at)) {
        uint32_t code = phx_utf8_get(text.data + at);
        bool word = phx_tcase_is_letter(code) || phx_tcase_is_decimal(code) || code == '_';
        n += word && !inside;
        inside = word;
    }
    *out = PHX_TV_OF_INT(n);
    return PHX_OK;
}

static const struct phx_tfilter filters[] = {
    {"abs", absolute},    {"capitalize", capitalize}, {"center", center},
    {"count", length},    {"d", defaulted},           {"default", defaulted},
    {"float", to_float},  {"format", format},         {"indent", indent},
    {"int", to_int},      {"length", length},         {"lower", lower},
    {"replace", replace}, {"round", rounded},         {"safe", safe},
    {"string", string},   {"title", title},           {"tojson", to_json},
    {"trim", trim},       {"upper", upper},           {"wordcount", word_count},
};

const struct phx_tfilter *phx_tfilter_find(struct phx_slice name)
{
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++) {
        if (phx_slice_is(name, filters[i].name)) return &filters[i];
    }
    for (size_t i = 0; i < phx_tlist_n_filters; i++) {
        if (phx_slice_is(name, phx_tlist_filters[i].name)) return &phx_tlist_filters[i];
    }
    return NULL;
}
