/* The values of a GGUF's keys, by type. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/gguf.h"

static const struct {
    const char *name;
    int bytes;
    bool is_int, is_number;
} types[PHX_GGUF_TYPE_COUNT] = {
    [PHX_GGUF_U8] = {"u8", 1, true, true},           [PHX_GGUF_I8] = {"i8", 1, true, true},
    [PHX_GGUF_U16] = {"u16", 2, true, true},         [PHX_GGUF_I16] = {"i16", 2, true, true},
    [PHX_GGUF_U32] = {"u32", 4, true, true},         [PHX_GGUF_I32] = {"i32", 4, true, true},
    [PHX_GGUF_F32] = {"f32", 4, false, true},        [PHX_GGUF_BOOL] = {"bool", 1, false, false},
    [PHX_GGUF_STRING] = {"string", 0, false, false}, [PHX_GGUF_ARRAY] = {"array", 0, false, false},
    [PHX_GGUF_U64] = {"u64", 8, true, true},         [PHX_GGUF_I64] = {"i64", 8, true, true},
    [PHX_GGUF_F64] = {"f64", 8, false, true},
};

const char *phx_gguf_type_name(enum phx_gguf_type type)
{
    PHX_ASSERT((unsigned)type < PHX_GGUF_TYPE_COUNT);
    return types[type].name;
}

int phx_gguf_type_bytes(enum phx_gguf_type type)
{
    PHX_ASSERT((unsigned)type < PHX_GGUF_TYPE_COUNT);
    return types[type].bytes;
}

static uint64_t bits_at(const unsigned char *data, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) value |= (uint64_t)data[i] << (8 * i);
    return value;
}

int64_t phx_gguf_int_at(const struct phx_gguf_value *value, uint64_t index)
{
    PHX_ASSERT(types[value->type].is_int && index < value->count);
    int bytes = types[value->type].bytes;
    uint64_t bits = bits_at(value->data + index * (uint64_t)bytes, bytes);
    switch (value->type) {
    case PHX_GGUF_I8:
        return (int8_t)bits;
    case PHX_GGUF_I16:
        return (int16_t)bits;
    case PHX_GGUF_I32:
        return (int32_t)bits;
    case PHX_GGUF_I64:
        return (int64_t)bits;
    default:
        return bits < INT64_MAX ? (int64_t)bits : INT64_MAX;
    }
}

double phx_gguf_real_at(const struct phx_gguf_value *value, uint64_t index)
{
    PHX_ASSERT(types[value->type].is_number && index < value->count);
    if (types[value->type].is_int) return (double)phx_gguf_int_at(value, index);
    int bytes = types[value->type].bytes;
    uint64_t bits = bits_at(value->data + index * (uint64_t)bytes, bytes);
    if (value->type == PHX_GGUF_F32) return (double)phx_f32_from_bits((uint32_t)bits);
    double real;
    memcpy(&real, &bits, sizeof real);
    return real;
}

struct phx_gguf_string phx_gguf_next_string(const unsigned char **at)
{
    struct phx_gguf_string text = {(const char *)*at + 8, (size_t)bits_at(*at, 8)};
    *at += 8 + text.bytes;
    return text;
}

char *phx_gguf_string_copy(struct phx_gguf_string text)
{
    return strndup(text.data, text.bytes);
}

bool phx_gguf_string_is(struct phx_gguf_string string, const char *text)
{
    return string.bytes == strlen(text) && memcmp(string.data, text, string.bytes) == 0;
}

/* ---- one key ---- */

static enum phx_status wrong_type(const struct phx_gguf *gguf, const char *key,
                                  const struct phx_gguf_value *value, const char *wanted)
{
    return phx_fail(PHX_BAD_DATA, "%s: key %s is %s%s; it must be %s", phx_gguf_path(gguf), key,
                    value->is_array ? "an array of " : "a ", types[value->type].name, wanted);
}

enum phx_status phx_gguf_require(const struct phx_gguf *gguf, const char *key)
{
    if (phx_gguf_find(gguf, key)) return PHX_OK;
    return phx_fail(PHX_BAD_DATA, "%s has no key %s", phx_gguf_path(gguf), key);
}

enum phx_status phx_gguf_int(const struct phx_gguf *gguf, const char *key, int64_t min, int64_t max,
                             int64_t *out)
{
    const struct phx_gguf_value *value = phx_gguf_find(gguf, key);
    if (!value) return PHX_OK;
    if (value->is_array || !types[value->type].is_int)
        return wrong_type(gguf, key, value, "a whole number");
    int64_t number = phx_gguf_int_at(value, 0);
    if (number < min || number > max) {
        return phx_fail(PHX_BAD_DATA,
                        "%s: key %s is %" PRId64 "; it must be from %" PRId64 " to %" PRId64,
                        phx_gguf_path(gguf), key, number, min, max);
    }
    *out = number;
    return PHX_OK;
}

enum phx_status phx_gguf_real(const struct phx_gguf *gguf, const char *key, double min, double max,
                              double *out)
{
    const struct phx_gguf_value *value = phx_gguf_find(gguf, key);
    if (!value) return PHX_OK;
    if (value->is_array || !types[value->type].is_number)
        return wrong_type(gguf, key, value, "a number");
    double number = phx_gguf_real_at(value, 0);
    if (!(number >= min && number <= max)) {
        return phx_fail(PHX_BAD_DATA, "%s: key %s is %g; it must be from %g to %g",
                        phx_gguf_path(gguf), key, number, min, max);
    }
    *out = number;
    return PHX_OK;
}

enum phx_status phx_gguf_bool(const struct phx_gguf *gguf, const char *key, bool *out)
{
    const struct phx_gguf_value *value = phx_gguf_find(gguf, key);
    if (!value) return PHX_OK;
    if (value->is_array || value->type != PHX_GGUF_BOOL)
        return wrong_type(gguf, key, value, "true or false");
    if (*value->data > 1) {
        return phx_fail(PHX_BAD_DATA, "%s: key %s is neither true nor false", phx_gguf_path(gguf),
                        key);
    }
    *out = *value->data != 0;
    return PHX_OK;
}

enum phx_status phx_gguf_text(const struct phx_gguf *gguf, const char *key,
                              struct phx_gguf_string *out)
{
    const struct phx_gguf_value *value = phx_gguf_find(gguf, key);
    if (!value) return PHX_OK;
    if (value->is_array || value->type != PHX_GGUF_STRING)
        return wrong_type(gguf, key, value, "a string");
    const unsigned char *at = value->data;
    *out = phx_gguf_next_string(&at);
    return PHX_OK;
}

enum phx_status phx_gguf_strings(const struct phx_gguf *gguf, const char *key,
                                 const struct phx_gguf_value **out)
{
    const struct phx_gguf_value *value = phx_gguf_find(gguf, key);
    if (!value) return PHX_OK;
    if (!value->is_array || value->type != PHX_GGUF_STRING)
        return wrong_type(gguf, key, value, "an array of strings");
    *out = value;
    return PHX_OK;
}

enum phx_status phx_gguf_ints(const struct phx_gguf *gguf, const char *key,
                              const struct phx_gguf_value **out)
{
    const struct phx_gguf_value *value = phx_gguf_find(gguf, key);
    if (!value) return PHX_OK;
    if (!value->is_array || !types[value->type].is_int)
        return wrong_type(gguf, key, value, "an array of whole numbers");
    *out = value;
    return PHX_OK;
}

enum phx_status phx_gguf_reals(const struct phx_gguf *gguf, const char *key,
                               const struct phx_gguf_value **out)
{
    const struct phx_gguf_value *value = phx_gguf_find(gguf, key);
    if (!value) return PHX_OK;
    if (!value->is_array || !types[value->type].is_number)
        return wrong_type(gguf, key, value, "an array of numbers");
    *out = value;
    return PHX_OK;
}
