/* Arithmetic, comparisons and formatting. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/template/ast.h"
#include "runtime/template/filters.h"

static int64_t whole(const struct phx_tv *number)
{
    return number->type == PHX_TV_INT ? number->integer : number->truth;
}

static enum phx_status too_large(struct phx_run *run)
{
    return phx_run_refuse(run, "a whole number beyond 64 bits is not supported");
}

static enum phx_status power(struct phx_run *run, int64_t base, int64_t exponent,
                             struct phx_tv *out)
{
    int64_t result = 1;
    if (exponent < 0) {
        *out = PHX_TV_OF_FLOAT(pow((double)base, (double)exponent));
        return base ? PHX_OK : phx_run_fail(run, "0 cannot be raised to a negative power");
    }
    for (int64_t i = 0; i < exponent && base != 1; i++) {
        PHX_TRY(phx_run_charge(run, 1, 0));
        if (base == 0 || base == -1) {
            result = base == 0 ? 0 : exponent % 2 ? -1 : 1;
            break;
        }
        if (__builtin_mul_overflow(result, base, &result)) return too_large(run);
    }
    *out = PHX_TV_OF_INT(result);
    return PHX_OK;
}

static enum phx_status whole_numbers(struct phx_run *run, enum phx_top op, int64_t a, int64_t b,
                                     struct phx_tv *out)
{
    int64_t result = 0;
    bool overflow = false;
    switch (op) {
    case PHX_TOP_ADD:
        overflow = __builtin_add_overflow(a, b, &result);
        break;
    case PHX_TOP_SUB:
        overflow = __builtin_sub_overflow(a, b, &result);
        break;
    case PHX_TOP_MUL:
        overflow = __builtin_mul_overflow(a, b, &result);
        break;
    case PHX_TOP_POW:
        return power(run, a, b, out);
    default: /* divisions */
        if (b == 0) return phx_run_fail(run, "division by zero");
        if (op == PHX_TOP_DIV) {
            *out = PHX_TV_OF_FLOAT((double)a / (double)b);
            return PHX_OK;
        }
        overflow = a == INT64_MIN && b == -1;
        if (overflow) break;
        result = op == PHX_TOP_MOD ? a % b : a / b;
        /* Python rounds down, C towards zero. */
        if (a % b != 0 && (a < 0) != (b < 0)) result += op == PHX_TOP_MOD ? b : -1;
    }
    *out = PHX_TV_OF_INT(result);
    return overflow ? too_large(run) : PHX_OK;
}

static enum phx_status real_numbers(struct phx_run *run, enum phx_top op, double a, double b,
                                    struct phx_tv *out)
{
    double result;
    if (b == 0 && (op == PHX_TOP_DIV || op == PHX_TOP_FLOOR_DIV || op == PHX_TOP_MOD)) {
        return phx_run_fail(run, "division by zero");
    }
    switch (op) {
    case PHX_TOP_ADD:
        result = a + b;
        break;
    case PHX_TOP_SUB:
        result = a - b;
        break;
    case PHX_TOP_MUL:
        result = a * b;
        break;
    case PHX_TOP_DIV:
        result = a / b;
        break;
    case PHX_TOP_POW:
        result = pow(a, b);
        break;
    default:
        result = fmod(a, b);
        if (result != 0 && (result < 0) != (b < 0)) result += b;
        if (op == PHX_TOP_FLOOR_DIV) result = floor((a - result) / b + 0.5);
    }
    *out = PHX_TV_OF_FLOAT(result);
    return PHX_OK;
}

static enum phx_status joined_lists(struct phx_run *run, const struct phx_tv_list *a,
                                    const struct phx_tv_list *b, struct phx_tv *out)
{
    PHX_TRY(phx_tv_new_list(run, a->kind, a->n + b->n, out));
    if (a->n) memcpy(out->list->items, a->items, a->n * sizeof *a->items);
    if (b->n) memcpy(out->list->items + a->n, b->items, b->n * sizeof *b->items);
    return PHX_OK;
}

static enum phx_status repeated(struct phx_run *run, const struct phx_tv *value, int64_t times,
                                struct phx_tv *out)
{
    if (times < 0) times = 0;
    if (value->type == PHX_TV_STRING) {
        size_t start = run->scratch.n;
        for (int64_t i = 0; i < times; i++) {
            PHX_TRY(phx_run_charge(run, 1, 0));
            PHX_TRY(phx_tv_print(run, value, false));
        }
        return phx_tv_take_scratch(run, start, out);
    }
    size_t n = value->list->n;
    if (n && (size_t)times > PHX_TEMPLATE_STEPS / n) n = PHX_TEMPLATE_STEPS; /* the charge tells */
    PHX_TRY(phx_tv_new_list(run, value->list->kind, n * (size_t)times, out));
    for (size_t i = 0; i < out->list->n; i++) out->list->items[i] = value->list->items[i % n];
    return PHX_OK;
}

static bool is_plain_list(const struct phx_tv *value)
{
    return value->type == PHX_TV_LIST && value->list->kind < PHX_TV_VIEW;
}

static enum phx_status other_values(struct phx_run *run, enum phx_top op, const struct phx_tv *a,
                                    const struct phx_tv *b, struct phx_tv *out)
{
    static const char *const names[] = {"+", "-", "*", "/", "//", "%", "**"};
    bool a_whole = a->type == PHX_TV_INT || a->type == PHX_TV_BOOL;
    bool b_whole = b->type == PHX_TV_INT || b->type == PHX_TV_BOOL;
    if (op == PHX_TOP_ADD && a->type == PHX_TV_STRING && b->type == PHX_TV_STRING) {
        size_t start = run->scratch.n;
        PHX_TRY(phx_tv_print(run, a, false));
        PHX_TRY(phx_tv_print(run, b, false));
        return phx_tv_take_scratch(run, start, out);
    }
    if (op == PHX_TOP_ADD && is_plain_list(a) && is_plain_list(b) &&
        a->list->kind == b->list->kind) {
        return joined_lists(run, a->list, b->list, out);
    }
    if (op == PHX_TOP_MUL && b_whole && (a->type == PHX_TV_STRING || is_plain_list(a))) {
        return repeated(run, a, whole(b), out);
    }
    if (op == PHX_TOP_MUL && a_whole && (b->type == PHX_TV_STRING || is_plain_list(b))) {
        return repeated(run, b, whole(a), out);
    }
    if (op == PHX_TOP_MOD && a->type == PHX_TV_STRING) {
        bool tuple = b->type == PHX_TV_LIST && b->list->kind == PHX_TV_TUPLE;
        return phx_tv_format(run, a->text, tuple ? b->list->items : b, tuple ? b->list->n : 1, out);
    }
    const struct phx_tv *undefined = a->type == PHX_TV_UNDEFINED ? a : b;
    if (undefined->type == PHX_TV_UNDEFINED) {
        return phx_run_fail(run, "'%.*s' is undefined", (int)undefined->text.n,
                            undefined->text.data);
    }
    return phx_run_fail(run, "unsupported operand type(s) for %s: '%s' and '%s'", names[op],
                        phx_tv_type_name(a), phx_tv_type_name(b));
}

enum phx_status phx_tv_binary(struct phx_run *run, int op, const struct phx_tv *a,
                              const struct phx_tv *b, struct phx_tv *out)
{
    if (!phx_tv_is_number(a) || !phx_tv_is_number(b)) {
        return other_values(run, (enum phx_top)op, a, b, out);
    }
    if (a->type == PHX_TV_FLOAT || b->type == PHX_TV_FLOAT) {
        return real_numbers(run, (enum phx_top)op, phx_tv_real(a), phx_tv_real(b), out);
    }
    return whole_numbers(run, (enum phx_top)op, whole(a), whole(b), out);
}

static enum phx_status contains(struct phx_run *run, const struct phx_tv *item,
                                const struct phx_tv *container, bool *out)
{
    *out = false;
    if (container->type == PHX_TV_STRING) {
        if (item->type != PHX_TV_STRING) {
            return phx_run_fail(run, "'in <string>' requires string as left operand, not %s",
                                phx_tv_type_name(item));
        }
        PHX_TRY(phx_run_charge(run, 0, container->text.n));
        *out = item->text.n == 0 || phx_bytes_find(container->text.data, container->text.n,
                                                   item->text.data, item->text.n);
        return PHX_OK;
    }
    if (container->type == PHX_TV_DICT) {
        const struct phx_tv *value;
        PHX_TRY(phx_tv_dict_get(run, container->dict, item, &value));
        *out = value != NULL;
        return PHX_OK;
    }
    struct phx_tv_list *items;
    PHX_TRY(phx_tv_iterate(run, container, &items));
    for (size_t i = 0; !*out && i < items->n; i++) {
        PHX_TRY(phx_tv_equal(run, item, &items->items[i], out));
    }
    return PHX_OK;
}

enum phx_status phx_tv_compare(struct phx_run *run, int op, const struct phx_tv *a,
                               const struct phx_tv *b, bool *out)
{
    int order = 0;
    bool nan =
        (a->type == PHX_TV_FLOAT && isnan(a->real)) || (b->type == PHX_TV_FLOAT && isnan(b->real));
    if (op == PHX_TOP_EQ || op == PHX_TOP_NE) {
        PHX_TRY(phx_tv_equal(run, a, b, out));
        *out = *out == (op == PHX_TOP_EQ);
        return PHX_OK;
    }
    if (op == PHX_TOP_IN || op == PHX_TOP_NOT_IN) {
        PHX_TRY(contains(run, a, b, out));
        *out = *out == (op == PHX_TOP_IN);
        return PHX_OK;
    }
    PHX_TRY(phx_tv_order(run, a, b, &order));
    *out = !nan && (op == PHX_TOP_LT   ? order < 0
                    : op == PHX_TOP_LE ? order <= 0
                    : op == PHX_TOP_GT ? order > 0
                                       : order >= 0);
    return PHX_OK;
}

/* One %...letter of a format; `spec` is what stands between. */
static enum phx_status format_one(struct phx_run *run, struct phx_slice spec, char letter,
                                  const struct phx_tv *value)
{
    char format[32], text[512];
    int n = -1;
    if (letter == 's' && spec.n == 0) return phx_tv_print(run, value, false);
    if (letter == 'r' && spec.n == 0) return phx_tv_print(run, value, true);
    bool plain = spec.n < 16;
    for (size_t i = 0; i < spec.n; i++) plain &= strchr("0123456789.+- ", spec.data[i]) != NULL;
    if (plain && phx_tv_is_number(value) && strchr("dif", letter)) {
        bool real = letter == 'f';
        snprintf(format, sizeof format, "%%%.*s%s", (int)spec.n, spec.data, real ? "f" : "lld");
        double number = phx_tv_real(value);
        if (!real && !(fabs(number) < 9e18)) return too_large(run);
        long long integer = value->type == PHX_TV_FLOAT ? (long long)number : whole(value);
        n = real ? snprintf(text, sizeof text, format, number)
                 : snprintf(text, sizeof text, format, integer);
    } else if (!strchr("sdifr", letter) || spec.n) {
        return phx_run_refuse(run, "the format %%%.*s%c is not supported", (int)spec.n, spec.data,
                              letter);
    } else {
        return phx_run_fail(run, "%%%c format: a number is required, not %s", letter,
                            phx_tv_type_name(value));
    }
    if (n < 0 || n >= (int)sizeof text) {
        return phx_run_refuse(run, "the format %%%.*s%c makes too long a text", (int)spec.n,
                              spec.data, letter);
    }
    return phx_bytes_append(&run->scratch, text, (size_t)n);
}

enum phx_status phx_tv_format(struct phx_run *run, struct phx_slice format,
                              const struct phx_tv *values, size_t n, struct phx_tv *out)
{
    size_t start = run->scratch.n, used = 0;
    for (size_t at = 0; at < format.n;) {
        const char *percent = memchr(format.data + at, '%', format.n - at);
        size_t end = percent ? (size_t)(percent - format.data) : format.n;
        struct phx_tv text = PHX_TV_OF_TEXT(format.data + at, end - at);
        PHX_TRY(phx_tv_print(run, &text, false));
        if (!percent) break;
        struct phx_slice spec = {percent + 1, 0};
        while (end + 1 + spec.n < format.n && !isalpha((unsigned char)spec.data[spec.n]) &&
               spec.data[spec.n] != '%') {
            spec.n++;
        }
        at = end + 2 + spec.n;
        if (at > format.n) return phx_run_fail(run, "incomplete format");
        if (spec.data[spec.n] == '%') {
            PHX_TRY(phx_bytes_append(&run->scratch, "%", 1));
            continue;
        }
        if (used == n) return phx_run_fail(run, "not enough arguments for format string");
        PHX_TRY(format_one(run, spec, spec.data[spec.n], &values[used++]));
    }
    if (used < n && !(n == 1 && values->type == PHX_TV_DICT)) {
        return phx_run_fail(run, "not all arguments converted during string formatting");
    }
    return phx_tv_take_scratch(run, start, out);
}
