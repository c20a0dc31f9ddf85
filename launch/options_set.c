#include "launch/options_set.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "kernels/base/check.h"
#include "kernels/ops.h"
#include "launch/int_range.h"
#include "runtime/tokenizer/unicode.h"

static void *field(const struct phx_option_target *to)
{
    return (char *)to->options + to->row->field;
}

bool phx_option_row_given(const struct phx_options *options, const struct phx_option_row *row)
{
    size_t bit = (size_t)(row - phx_option_rows);
    return options->given[bit / 64] >> bit % 64 & 1;
}

static enum phx_status must_be(const struct phx_option_target *to, const char *text,
                               const char *what)
{
    return phx_fail(PHX_USAGE, "%s %.100s: must be %s", to->flag, text, what);
}

static enum phx_status must_not_be_empty(const struct phx_option_target *to)
{
    return phx_fail(PHX_USAGE, "%s: must not be empty", to->flag);
}

static enum phx_status no_memory(void)
{
    return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the command line");
}

static enum phx_status out_of_range(const struct phx_option_target *to, const char *text,
                                    bool too_small)
{
    const struct phx_option_row *row = to->row;
    char what[128];
    if (isfinite(row->min) && isfinite(row->max) && row->max < INT32_MAX) {
        snprintf(what, sizeof what, "in %c%.15g, %.15g]", row->above_min ? '(' : '[', row->min,
                 row->max);
    } else if (too_small) {
        snprintf(what, sizeof what, row->above_min ? "more than %.15g" : "%.15g or more", row->min);
    } else {
        snprintf(what, sizeof what, "at most %.15g", row->max);
    }
    return must_be(to, text, what);
}

/// A whole number that fills `text` up to `end`.
static enum phx_status read_int(const struct phx_option_target *to, const char *text,
                                const char *end, int64_t *out)
{
    char *stop;
    errno = 0;
    long long value = strtoll(text, &stop, 10);
    if (text == end || stop != end || isspace((unsigned char)*text)) {
        return must_be(to, text, "a whole number");
    }
    if ((double)value < to->row->min || (errno == ERANGE && value < 0)) {
        return out_of_range(to, text, true);
    }
    if (errno == ERANGE && isinf(to->row->max)) return must_be(to, text, "less than 2^63");
    if ((double)value > to->row->max) return out_of_range(to, text, false);
    *out = value;
    return PHX_OK;
}

/// A finite decimal number that fills `text`.
static bool is_number(const char *text, double *out)
{
    char *stop;
    if (strspn(text, "0123456789+-.eE") != strlen(text)) return false;
    *out = strtod(text, &stop);
    return stop != text && *stop == '\0' && isfinite(*out);
}

static enum phx_status read_number(const struct phx_option_target *to, const char *text,
                                   double *out)
{
    const struct phx_option_row *row = to->row;
    double value;
    if (!is_number(text, &value)) return must_be(to, text, "a number");
    /* Such values go to the devices in single precision. */
    if (isinf((float)value) || (value != 0 && (float)value == 0))
        return must_be(to, text, "a number of single precision, 1.4e-45 to 3.4e38 in size");
    bool too_small = row->above_min ? value <= row->min : value < row->min;
    if (too_small || value > row->max) return out_of_range(to, text, too_small);
    *out = value;
    return PHX_OK;
}

static enum phx_status read_bool(const struct phx_option_target *to, const char *text, bool *out)
{
    static const char *const words[][2] = {
        {"", "1"}, {"0", "1"}, {"false", "true"}, {"off", "on"}, {"no", "yes"},
    };
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        for (int yes = 0; yes <= 1; yes++) {
            if (strcasecmp(text, words[i][yes]) != 0) continue;
            *out = yes;
            return PHX_OK;
        }
    }
    return must_be(to, text, "yes, on, true or 1, or no, off, false or 0");
}

static enum phx_status read_choice(const struct phx_option_target *to, const char *text, int *out)
{
    const char *const *choices = to->row->choices;
    char what[128] = "";
    size_t used = 0;
    for (int i = 0; i < PHX_OPTION_CHOICES && choices[i]; i++) {
        if (!strcmp(text, choices[i])) {
            *out = i;
            return PHX_OK;
        }
        bool last = i + 1 == PHX_OPTION_CHOICES || !choices[i + 1];
        const char *glue = i == 0 ? "" : last ? " or " : ", ";
        used += (size_t)snprintf(what + used, sizeof what - used, "%s%s", glue, choices[i]);
        PHX_ASSERT(used < sizeof what);
    }
    return must_be(to, text, what);
}

static enum phx_status read_ids(const struct phx_option_target *to, const char *text,
                                struct phx_id_list *out)
{
    size_t n = 1;
    for (const char *c = text; *c; c++) n += *c == ',';
    int32_t *items = malloc(n * sizeof *items);
    if (!items) return no_memory();
    free(out->items);
    *out = (struct phx_id_list){.items = items, .n = n};
    const char *rest = text;
    for (size_t i = 0; i < n; i++) {
        size_t length = strcspn(rest, ",");
        int64_t id;
        if (read_int(to, rest, rest + length, &id)) {
            return must_be(to, text, "token ids with commas between them, like 1,2,3");
        }
        items[i] = (int32_t)id;
        rest += length + 1;
    }
    return PHX_OK;
}

static enum phx_status add_text(const struct phx_option_target *to, const char *text,
                                struct phx_text_list *list)
{
    if (*text == '\0') return must_not_be_empty(to);
    size_t valid = phx_utf8_valid(text, strlen(text));
    if (text[valid] != '\0') {
        return phx_fail(PHX_USAGE, "%s: is not valid UTF-8: byte 0x%02x at offset %zu", to->flag,
                        (unsigned char)text[valid], valid);
    }
    if (!list->items) list->items = calloc((size_t)to->most, sizeof *list->items);
    if (!list->items) return no_memory();
    list->items[list->n++] = text;
    return PHX_OK;
}

/// ID(+|-)VALUE, as llama.cpp has it.
static enum phx_status add_bias(const struct phx_option_target *to, const char *text,
                                struct phx_bias_list *list)
{
    static const char form[] = "a token id, + or -, and a number or -inf, like 29-1.5";
    int64_t id;
    double value;
    size_t digits = strspn(text, "0123456789");
    const char *sign = text + digits;
    if (digits == 0 || (*sign != '+' && *sign != '-')) return must_be(to, text, form);
    PHX_TRY(read_int(to, text, sign, &id));
    if (!strcmp(sign, "-inf")) {
        value = -INFINITY;
    } else if (!is_number(sign, &value) || isinf((float)value)) {
        return must_be(to, text, form);
    }
    for (size_t i = 0; i < list->n; i++) {
        if (list->items[i].id == id) return must_be(to, text, "the only bias of its token");
    }
    if (list->n == PHX_MAX_BIAS) {
        return phx_fail(PHX_USAGE, "%s: given more than %d times", to->flag, PHX_MAX_BIAS);
    }
    if (!list->items) list->items = calloc((size_t)to->most, sizeof *list->items);
    if (!list->items) return no_memory();
    list->items[list->n++] = (struct phx_logit_bias){.id = (int32_t)id, .value = (float)value};
    return PHX_OK;
}

enum { MAX_INTS = 1024 }; /* in a list */

static enum phx_status add_range(const struct phx_option_target *to,
                                 const struct phx_int_range *range, struct phx_int_list *list)
{
    char number[32];
    for (int64_t i = range->first; i <= range->last; i = phx_int_range_next(range, i)) {
        snprintf(number, sizeof number, "%lld", (long long)i);
        if ((double)i < to->row->min || (double)i > to->row->max)
            return out_of_range(to, number, (double)i < to->row->min);
        if (list->n == MAX_INTS)
            return phx_fail(PHX_USAGE, "%s: more than %d numbers", to->flag, MAX_INTS);
        if (!list->items) list->items = calloc(MAX_INTS, sizeof *list->items);
        if (!list->items) return no_memory();
        list->items[list->n++] = (int32_t)i;
    }
    return PHX_OK;
}

static enum phx_status add_ints(const struct phx_option_target *to, const char *text,
                                struct phx_int_list *list)
{
    if (!phx_option_row_given(to->options, to->row)) list->n = 0; /* the defaults */
    for (const char *at = text;; at++) {
        struct phx_int_range range;
        size_t bytes = strcspn(at, ",");
        if (!phx_int_range_read(at, bytes, &range))
            return must_be(to, text,
                           "numbers and ranges with commas between them, like 1,2,8-64*2");
        if (!phx_int_range_rises(&range))
            return must_be(to, text, "ranges that rise to their ends");
        PHX_TRY(add_range(to, &range, list));
        at += bytes;
        if (*at == '\0') return PHX_OK;
    }
}

static enum phx_status add_pair(const struct phx_option_target *to, const char *text,
                                struct phx_pair_list *list)
{
    const char *comma = strchr(text, ',');
    int64_t first, second;
    if (comma == NULL) return must_be(to, text, "two numbers, like 512,128");
    PHX_TRY(read_int(to, text, comma, &first));
    PHX_TRY(read_int(to, comma + 1, comma + strlen(comma), &second));
    if (!list->items) list->items = calloc((size_t)to->most, sizeof *list->items);
    if (!list->items) return no_memory();
    list->items[list->n++] = (struct phx_int_pair){(int32_t)first, (int32_t)second};
    return PHX_OK;
}

enum phx_status phx_option_set(const struct phx_option_target *to, const char *text)
{
    int64_t whole = 0;
    int index;
    switch (to->row->kind) {
    case PHX_VALUE_FLAG:
        return read_bool(to, text, field(to));
    case PHX_VALUE_NUMBER:
        return read_number(to, text, field(to));
    case PHX_VALUE_CHOICE:
        return read_choice(to, text, field(to));
    case PHX_VALUE_TEXTS:
        return add_text(to, text, field(to));
    case PHX_VALUE_IDS:
        return read_ids(to, text, field(to));
    case PHX_VALUE_BIASES:
        return add_bias(to, text, field(to));
    case PHX_VALUE_INTS:
        return add_ints(to, text, field(to));
    case PHX_VALUE_PAIRS:
        return add_pair(to, text, field(to));
    case PHX_VALUE_INT:
        PHX_TRY(read_int(to, text, text + strlen(text), &whole));
        *(int32_t *)field(to) = (int32_t)whole;
        return PHX_OK;
    case PHX_VALUE_LONG:
        return read_int(to, text, text + strlen(text), field(to));
    case PHX_VALUE_NAME:
        if (*text == '\0') return must_not_be_empty(to);
        if (to->row->choices[0]) PHX_TRY(read_choice(to, text, &index));
        *(const char **)field(to) = text;
        return PHX_OK;
    }
    PHX_ASSERT(!"a kind of value without a reader");
    return PHX_OK;
}
