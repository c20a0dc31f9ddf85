#include "runtime/template/value.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/template/template.h"
#include "runtime/tokenizer/unicode.h"

/* Bytes that are handled in the time of one step. */
enum { STEP_BYTES = 16 };

static enum phx_status fail(const struct phx_run *run, enum phx_status status, const char *format,
                            va_list args)
{
    char sentence[PHX_SENTENCE_BYTES];
    vsnprintf(sentence, sizeof sentence, format, args);
    return phx_fail(status, "%s line %d: %s", run->file, run->line, sentence);
}

enum phx_status phx_run_fail(const struct phx_run *run, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    enum phx_status status = fail(run, PHX_USAGE, format, args);
    va_end(args);
    return status;
}

enum phx_status phx_run_refuse(const struct phx_run *run, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    enum phx_status status = fail(run, PHX_UNSUPPORTED, format, args);
    va_end(args);
    return status;
}

enum phx_status phx_run_charge(struct phx_run *run, size_t items, size_t bytes)
{
    size_t steps = items + bytes / STEP_BYTES;
    if (steps > (size_t)run->steps_left) {
        run->steps_left = 0;
        return phx_run_refuse(run, "the template takes more than %d steps", PHX_TEMPLATE_STEPS);
    }
    run->steps_left -= (int64_t)steps;
    return PHX_OK;
}

const char *phx_tv_type_name(const struct phx_tv *value)
{
    switch (value->type) {
    case PHX_TV_MISSING:
    case PHX_TV_UNDEFINED:
        return "Undefined";
    case PHX_TV_NONE:
        return "NoneType";
    case PHX_TV_BOOL:
        return "bool";
    case PHX_TV_INT:
        return "int";
    case PHX_TV_FLOAT:
        return "float";
    case PHX_TV_STRING:
        return "str";
    case PHX_TV_LIST:
        return value->list->kind == PHX_TV_PLAIN   ? "list"
               : value->list->kind == PHX_TV_TUPLE ? "tuple"
               : value->list->kind == PHX_TV_VIEW  ? "dict view"
                                                   : "generator";
    case PHX_TV_DICT:
        return "dict";
    case PHX_TV_NAMESPACE:
        return "Namespace";
    case PHX_TV_CALLABLE:
        return "function";
    case PHX_TV_LOOP:
        return "LoopContext";
    }
    return "?";
}

bool phx_slice_is(struct phx_slice text, const char *wanted)
{
    return text.n == strlen(wanted) && memcmp(text.data, wanted, text.n) == 0;
}

enum phx_status phx_tv_new_list(struct phx_run *run, enum phx_tv_list_kind kind, size_t n,
                                struct phx_tv *out)
{
    PHX_TRY(phx_run_charge(run, n, 0));
    *out = (struct phx_tv){.type = PHX_TV_LIST};
    PHX_TRY(phx_arena_take(&run->arena, 1, sizeof *out->list, &out->list));
    out->list->kind = kind;
    out->list->n = n;
    return phx_arena_take(&run->arena, n, sizeof *out->list->items, &out->list->items);
}

enum phx_status phx_tv_new_dict(struct phx_run *run, enum phx_tv_type type, struct phx_tv *out)
{
    *out = (struct phx_tv){.type = type};
    return phx_arena_take(&run->arena, 1, sizeof *out->dict, &out->dict);
}

enum phx_status phx_tv_new_text(struct phx_run *run, const char *data, size_t n, struct phx_tv *out)
{
    char *copy;
    PHX_TRY(phx_run_charge(run, 0, n));
    PHX_TRY(phx_arena_take(&run->arena, n, 1, &copy));
    if (n) memcpy(copy, data, n);
    *out = PHX_TV_OF_TEXT(copy, n);
    return PHX_OK;
}

enum phx_status phx_tv_take_scratch(struct phx_run *run, size_t start, struct phx_tv *out)
{
    const char *text = run->scratch.n > start ? run->scratch.data + start : "";
    PHX_TRY(phx_tv_new_text(run, text, run->scratch.n - start, out));
    run->scratch.n = start;
    return PHX_OK;
}

static bool is_hashable(const struct phx_tv *key)
{
    if (key->type != PHX_TV_LIST) return key->type != PHX_TV_DICT;
    return key->list->kind != PHX_TV_PLAIN;
}

enum phx_status phx_tv_dict_get(struct phx_run *run, const struct phx_tv_dict *dict,
                                const struct phx_tv *key, const struct phx_tv **out)
{
    *out = NULL;
    if (!is_hashable(key)) {
        return phx_run_fail(run, "unhashable type: '%s'", phx_tv_type_name(key));
    }
    PHX_TRY(phx_run_charge(run, dict->n / 4, 0));
    for (size_t i = 0; i < dict->n; i++) {
        const struct phx_tv *other = &dict->entries[i].key;
        bool equal;
        if (key->type == PHX_TV_STRING && other->type == PHX_TV_STRING) {
            equal = key->text.n == other->text.n &&
                    memcmp(key->text.data, other->text.data, key->text.n) == 0;
        } else {
            PHX_TRY(phx_tv_equal(run, key, other, &equal));
        }
        if (equal) {
            *out = &dict->entries[i].value;
            return PHX_OK;
        }
    }
    return PHX_OK;
}

static enum phx_status append_entry(struct phx_run *run, struct phx_tv_dict *dict,
                                    struct phx_tv key, struct phx_tv value)
{
    if (dict->n == dict->capacity) {
        struct phx_tv_entry *grown;
        size_t capacity = dict->n * 2 + 4;
        PHX_TRY(phx_arena_take(&run->arena, capacity, sizeof *grown, &grown));
        if (dict->n) memcpy(grown, dict->entries, dict->n * sizeof *grown);
        dict->entries = grown;
        dict->capacity = capacity;
    }
    dict->entries[dict->n++] = (struct phx_tv_entry){key, value};
    return PHX_OK;
}

enum phx_status phx_tv_dict_set(struct phx_run *run, struct phx_tv_dict *dict, struct phx_tv key,
                                struct phx_tv value)
{
    const struct phx_tv *there;
    PHX_TRY(phx_tv_dict_get(run, dict, &key, &there));
    if (!there) return append_entry(run, dict, key, value);
    for (size_t i = 0; i < dict->n; i++) {
        if (&dict->entries[i].value == there) dict->entries[i].value = value;
    }
    return PHX_OK;
}

static enum phx_status from_object(struct phx_run *run, const json_t *json, struct phx_tv *out)
{
    const char *key;
    json_t *value;
    PHX_TRY(phx_tv_new_dict(run, PHX_TV_DICT, out));
    json_object_foreach((json_t *)json, key, value)
    {
        struct phx_tv item;
        PHX_TRY(phx_tv_from_json(run, value, &item));
        PHX_TRY(append_entry(run, out->dict, PHX_TV_OF_TEXT(key, strlen(key)), item));
    }
    return PHX_OK;
}

enum phx_status phx_tv_from_json(struct phx_run *run, const json_t *json, struct phx_tv *out)
{
    PHX_TRY(phx_run_charge(run, 1, 0));
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        return from_object(run, json, out);
    case JSON_ARRAY:
        PHX_TRY(phx_tv_new_list(run, PHX_TV_PLAIN, json_array_size(json), out));
        for (size_t i = 0; i < out->list->n; i++) {
            PHX_TRY(phx_tv_from_json(run, json_array_get(json, i), &out->list->items[i]));
        }
        return PHX_OK;
    case JSON_STRING:
        *out = PHX_TV_OF_TEXT(json_string_value(json), json_string_length(json));
        return PHX_OK;
    case JSON_INTEGER:
        *out = PHX_TV_OF_INT(json_integer_value(json));
        return PHX_OK;
    case JSON_REAL:
        *out = PHX_TV_OF_FLOAT(json_real_value(json));
        return PHX_OK;
    case JSON_TRUE:
    case JSON_FALSE:
        *out = PHX_TV_OF_BOOL(json_is_true(json));
        return PHX_OK;
    case JSON_NULL:
        break;
    }
    *out = PHX_TV_OF_NONE;
    return PHX_OK;
}

bool phx_tv_truth(const struct phx_tv *value)
{
    switch (value->type) {
    case PHX_TV_BOOL:
        return value->truth;
    case PHX_TV_INT:
        return value->integer != 0;
    case PHX_TV_FLOAT:
        return value->real != 0;
    case PHX_TV_STRING:
        return value->text.n > 0;
    case PHX_TV_LIST:
        return value->list->n > 0 || value->list->kind == PHX_TV_GENERATOR;
    case PHX_TV_DICT:
        return value->dict->n > 0;
    case PHX_TV_LOOP:
    case PHX_TV_NAMESPACE:
    case PHX_TV_CALLABLE:
        return true;
    case PHX_TV_MISSING:
    case PHX_TV_UNDEFINED:
    case PHX_TV_NONE:
        break;
    }
    return false;
}

bool phx_tv_is_number(const struct phx_tv *value)
{
    return value->type == PHX_TV_INT || value->type == PHX_TV_FLOAT || value->type == PHX_TV_BOOL;
}

double phx_tv_real(const struct phx_tv *number)
{
    return number->type == PHX_TV_FLOAT ? number->real
           : number->type == PHX_TV_INT ? (double)number->integer
                                        : number->truth;
}

static int64_t whole(const struct phx_tv *number)
{
    return number->type == PHX_TV_INT ? number->integer : number->truth;
}

static int order_numbers(const struct phx_tv *a, const struct phx_tv *b)
{
    if (a->type == PHX_TV_FLOAT || b->type == PHX_TV_FLOAT) {
        double x = phx_tv_real(a), y = phx_tv_real(b);
        return (x > y) - (x < y);
    }
    return (whole(a) > whole(b)) - (whole(a) < whole(b));
}

static enum phx_status equal_lists(struct phx_run *run, const struct phx_tv_list *a,
                                   const struct phx_tv_list *b, bool *out)
{
    *out = a == b || (a->kind == b->kind && a->kind < PHX_TV_VIEW && a->n == b->n);
    for (size_t i = 0; a != b && *out && i < a->n; i++) {
        PHX_TRY(phx_tv_equal(run, &a->items[i], &b->items[i], out));
    }
    return PHX_OK;
}

static enum phx_status equal_dicts(struct phx_run *run, const struct phx_tv_dict *a,
                                   const struct phx_tv_dict *b, bool *out)
{
    *out = a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++) {
        const struct phx_tv *other;
        PHX_TRY(phx_tv_dict_get(run, b, &a->entries[i].key, &other));
        *out = other != NULL;
        if (other) PHX_TRY(phx_tv_equal(run, &a->entries[i].value, other, out));
    }
    return PHX_OK;
}

enum phx_status phx_tv_equal(struct phx_run *run, const struct phx_tv *a, const struct phx_tv *b,
                             bool *out)
{
    *out = false;
    PHX_TRY(phx_run_charge(run, 1, 0));
    if (phx_tv_is_number(a) && phx_tv_is_number(b)) {
        bool nan = (a->type == PHX_TV_FLOAT && isnan(a->real)) ||
                   (b->type == PHX_TV_FLOAT && isnan(b->real));
        *out = !nan && order_numbers(a, b) == 0;
        return PHX_OK;
    }
    if (a->type != b->type) return PHX_OK;
    switch (a->type) {
    case PHX_TV_STRING:
        *out = a->text.n == b->text.n && memcmp(a->text.data, b->text.data, a->text.n) == 0;
        return phx_run_charge(run, 0, *out ? a->text.n : 0);
    case PHX_TV_LIST:
        return equal_lists(run, a->list, b->list, out);
    case PHX_TV_DICT:
        return equal_dicts(run, a->dict, b->dict, out);
    case PHX_TV_NAMESPACE:
        *out = a->dict == b->dict;
        return PHX_OK;
    case PHX_TV_CALLABLE:
        *out = a->callable == b->callable;
        return PHX_OK;
    case PHX_TV_LOOP:
        *out = a->loop == b->loop;
        return PHX_OK;
    default: /* undefined, none */
        *out = true;
        return PHX_OK;
    }
}

enum phx_status phx_tv_order(struct phx_run *run, const struct phx_tv *a, const struct phx_tv *b,
                             int *out)
{
    PHX_TRY(phx_run_charge(run, 1, 0));
    if (phx_tv_is_number(a) && phx_tv_is_number(b)) {
        *out = order_numbers(a, b);
        return PHX_OK;
    }
    if (a->type == PHX_TV_STRING && b->type == PHX_TV_STRING) {
        size_t n = a->text.n < b->text.n ? a->text.n : b->text.n;
        int order = memcmp(a->text.data, b->text.data, n); /* UTF-8 sorts as its characters do */
        *out =
            order ? (order > 0) - (order < 0) : (a->text.n > b->text.n) - (a->text.n < b->text.n);
        return phx_run_charge(run, 0, n);
    }
    if (a->type == PHX_TV_LIST && b->type == PHX_TV_LIST && a->list->kind == b->list->kind &&
        a->list->kind < PHX_TV_VIEW) {
        *out = 0;
        for (size_t i = 0; i < a->list->n && i < b->list->n; i++) {
            bool equal;
            PHX_TRY(phx_tv_equal(run, &a->list->items[i], &b->list->items[i], &equal));
            if (!equal) return phx_tv_order(run, &a->list->items[i], &b->list->items[i], out);
        }
        *out = (a->list->n > b->list->n) - (a->list->n < b->list->n);
        return PHX_OK;
    }
    const struct phx_tv *undefined = a->type == PHX_TV_UNDEFINED ? a : b;
    if (undefined->type == PHX_TV_UNDEFINED) {
        return phx_run_fail(run, "'%.*s' is undefined", (int)undefined->text.n,
                            undefined->text.data);
    }
    return phx_run_fail(run, "'%s' and '%s' cannot be put in order", phx_tv_type_name(a),
                        phx_tv_type_name(b));
}

size_t phx_tv_characters(struct phx_slice text)
{
    size_t n = 0;
    for (size_t i = 0; i < text.n; i++) n += (text.data[i] & 0xc0) != 0x80;
    return n;
}

enum phx_status phx_tv_length(struct phx_run *run, const struct phx_tv *value, int64_t *out)
{
    *out = 0;
    if (value->type == PHX_TV_UNDEFINED) return PHX_OK;
    if (value->type == PHX_TV_STRING) {
        *out = (int64_t)phx_tv_characters(value->text);
        return phx_run_charge(run, 0, value->text.n);
    }
    if (value->type == PHX_TV_LIST && value->list->kind != PHX_TV_GENERATOR) {
        *out = (int64_t)value->list->n;
        return PHX_OK;
    }
    if (value->type == PHX_TV_DICT) {
        *out = (int64_t)value->dict->n;
        return PHX_OK;
    }
    return phx_run_fail(run, "object of type '%s' has no len()", phx_tv_type_name(value));
}

static enum phx_status iterate_text(struct phx_run *run, struct phx_slice text, struct phx_tv *out)
{
    PHX_TRY(phx_tv_new_list(run, PHX_TV_PLAIN, phx_tv_characters(text), out));
    for (size_t i = 0, at = 0; i < out->list->n; i++) {
        size_t bytes = phx_utf8_bytes(text.data + at);
        out->list->items[i] = PHX_TV_OF_TEXT(text.data + at, bytes);
        at += bytes;
    }
    return PHX_OK;
}

enum phx_status phx_tv_iterate(struct phx_run *run, const struct phx_tv *value,
                               struct phx_tv_list **out)
{
    struct phx_tv items;
    switch (value->type) {
    case PHX_TV_UNDEFINED:
        PHX_TRY(phx_tv_new_list(run, PHX_TV_PLAIN, 0, &items));
        break;
    case PHX_TV_STRING:
        PHX_TRY(iterate_text(run, value->text, &items));
        break;
    case PHX_TV_LIST:
        items = *value;
        if (items.list->consumed) PHX_TRY(phx_tv_new_list(run, PHX_TV_PLAIN, 0, &items));
        if (items.list->kind == PHX_TV_GENERATOR) items.list->consumed = true;
        break;
    case PHX_TV_DICT:
        PHX_TRY(phx_tv_new_list(run, PHX_TV_PLAIN, value->dict->n, &items));
        for (size_t i = 0; i < value->dict->n; i++) {
            items.list->items[i] = value->dict->entries[i].key;
        }
        break;
    default:
        return phx_run_fail(run, "'%s' object is not iterable", phx_tv_type_name(value));
    }
    *out = items.list;
    return PHX_OK;
}
