#include "runtime/gguf_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"

enum {
    MAX_KEY_BYTES = 65535, /* of the specification */
    MAX_NAME_BYTES = 255,  /* of a tensor; the specification says 64 */
    MAX_DIMS = 4,          /* of the specification */
    MIN_KEY_BYTES = 8 + 4, /* that a key takes at least */
    MIN_TENSOR_BYTES = 8 + 4 + 4 + 8,
    DEFAULT_ALIGNMENT = 32,
    SHOWN = 80 /* bytes of a name in a message */
};

static const char magic[4] = {'G', 'G', 'U', 'F'};

/* ---- bytes ---- */

/* The types of tensors, numbered as in the file. Those without a name were taken out of the format;
 * those without a dtype are not computed with here. */
static const struct {
    const char *name;
    int dtype;
} tensor_types[] = {
    {"F32", PHX_F32},   {"F16", PHX_F16},   {"Q4_0", PHX_Q4_0}, {"Q4_1", PHX_Q4_1},
    {NULL, -1},         {NULL, -1},         {"Q5_0", PHX_Q5_0}, {"Q5_1", PHX_Q5_1},
    {"Q8_0", PHX_Q8_0}, {"Q8_1", -1},       {"Q2_K", -1},       {"Q3_K", -1},
    {"Q4_K", PHX_Q4_K}, {"Q5_K", PHX_Q5_K}, {"Q6_K", PHX_Q6_K}, {"Q8_K", -1},
    {"IQ2_XXS", -1},    {"IQ2_XS", -1},     {"IQ3_XXS", -1},    {"IQ1_S", -1},
    {"IQ4_NL", -1},     {"IQ3_S", -1},      {"IQ2_S", -1},      {"IQ4_XS", -1},
    {"I8", -1},         {"I16", -1},        {"I32", -1},        {"I64", -1},
    {"F64", -1},        {"IQ1_M", -1},      {"BF16", PHX_BF16}, {NULL, -1},
    {NULL, -1},         {NULL, -1},         {"TQ1_0", -1},      {"TQ2_0", -1},
    {NULL, -1},         {NULL, -1},         {NULL, -1},         {"MXFP4", -1},
};

static uint64_t unsigned_at(const unsigned char *data, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) value |= (uint64_t)data[i] << (8 * i);
    return value;
}

/* What is left to parse. */
struct cursor {
    const char *file;
    const unsigned char *at, *end;
};

static enum phx_status ends_early(const struct cursor *c, const char *what)
{
    return phx_fail(PHX_BAD_DATA, "%s ends within %s: it is damaged or not complete", c->file,
                    what);
}

static enum phx_status take(struct cursor *c, int bytes, const char *what, uint64_t *out)
{
    if (c->end - c->at < bytes) return ends_early(c, what);
    *out = unsigned_at(c->at, bytes);
    c->at += bytes;
    return PHX_OK;
}

static enum phx_status take_string(struct cursor *c, const char *what, struct phx_gguf_string *out)
{
    uint64_t length = 0;
    PHX_TRY(take(c, 8, what, &length));
    if (length > (uint64_t)(c->end - c->at)) {
        return phx_fail(PHX_BAD_DATA,
                        "%s says that %s has %" PRIu64 " bytes, but %td are left: it is damaged or "
                        "not complete",
                        c->file, what, length, c->end - c->at);
    }
    *out = (struct phx_gguf_string){(const char *)c->at, (size_t)length};
    c->at += length;
    return PHX_OK;
}

/* ---- keys ---- */

static int shown(struct phx_gguf_string text)
{
    return text.bytes < SHOWN ? (int)text.bytes : SHOWN;
}

static enum phx_status skip_elements(struct cursor *c, const struct phx_gguf_value *value)
{
    size_t left = (size_t)(c->end - c->at), each = (size_t)phx_gguf_type_bytes(value->type);
    if (value->count > left / (each ? each : 8)) {
        return phx_fail(PHX_BAD_DATA,
                        "%s: key %.*s has %" PRIu64
                        " values of type %s, but %zu bytes are left: it "
                        "is damaged or not complete",
                        c->file, shown(value->key), value->key.data, value->count,
                        phx_gguf_type_name(value->type), left);
    }
    if (each) {
        c->at += value->count * each;
        return PHX_OK;
    }
    char what[SHOWN + 40];
    snprintf(what, sizeof what, "a string of key %.*s", shown(value->key), value->key.data);
    for (uint64_t i = 0; i < value->count; i++) {
        struct phx_gguf_string text;
        PHX_TRY(take_string(c, what, &text));
    }
    return PHX_OK;
}

static enum phx_status take_value(struct cursor *c, struct phx_gguf_value *out)
{
    uint64_t type = 0, count = 1;
    PHX_TRY(take_string(c, "the name of a key", &out->key));
    if (out->key.bytes == 0 || out->key.bytes > MAX_KEY_BYTES) {
        return phx_fail(PHX_BAD_DATA, "%s: a key's name has %zu bytes; 1 to %d would work", c->file,
                        out->key.bytes, MAX_KEY_BYTES);
    }
    PHX_TRY(take(c, 4, "the type of a key", &type));
    out->is_array = type == PHX_GGUF_ARRAY;
    if (out->is_array) {
        PHX_TRY(take(c, 4, "the type of an array", &type));
        PHX_TRY(take(c, 8, "the length of an array", &count));
    }
    if (type >= PHX_GGUF_TYPE_COUNT || type == PHX_GGUF_ARRAY) {
        return phx_fail(PHX_BAD_DATA,
                        "%s: key %.*s has values of type %" PRIu64
                        ", which is unknown or an array in an array",
                        c->file, shown(out->key), out->key.data, type);
    }
    out->type = (enum phx_gguf_type)type;
    out->count = count;
    out->data = c->at;
    return skip_elements(c, out);
}

static int compare_strings(struct phx_gguf_string a, struct phx_gguf_string b)
{
    int order = memcmp(a.data, b.data, a.bytes < b.bytes ? a.bytes : b.bytes);
    return order ? order : (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

static int by_key(const void *a, const void *b)
{
    return compare_strings(((const struct phx_gguf_value *)a)->key,
                           ((const struct phx_gguf_value *)b)->key);
}

static enum phx_status parse_values(struct cursor *c, uint64_t n, struct phx_gguf *gguf)
{
    gguf->values = calloc(n + 1, sizeof *gguf->values);
    if (!gguf->values) return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", c->file);
    for (; gguf->n_values < n; gguf->n_values++)
        PHX_TRY(take_value(c, &gguf->values[gguf->n_values]));
    if (n > 0) qsort(gguf->values, n, sizeof *gguf->values, by_key);
    for (uint64_t i = 1; i < n; i++) {
        struct phx_gguf_string key = gguf->values[i].key;
        if (by_key(&gguf->values[i - 1], &gguf->values[i]) == 0) {
            return phx_fail(PHX_BAD_DATA, "%s: key %.*s is there twice", c->file, shown(key),
                            key.data);
        }
    }
    return PHX_OK;
}

const struct phx_gguf_value *phx_gguf_find(const struct phx_gguf *gguf, const char *key)
{
    if (gguf->n_values == 0) return NULL;
    struct phx_gguf_value wanted = {.key = {key, strlen(key)}};
    return bsearch(&wanted, gguf->values, gguf->n_values, sizeof wanted, by_key);
}

/* ---- tensors ---- */

static enum phx_status take_name(struct cursor *c, struct phx_file_tensor *t)
{
    struct phx_gguf_string name;
    PHX_TRY(take_string(c, "the name of a tensor", &name));
    if (name.bytes == 0 || name.bytes > MAX_NAME_BYTES || memchr(name.data, 0, name.bytes)) {
        return phx_fail(PHX_BAD_DATA,
                        "%s: a tensor's name has %zu bytes; 1 to %d without a zero would work",
                        c->file, name.bytes, MAX_NAME_BYTES);
    }
    t->file = c->file;
    t->name = phx_gguf_string_copy(name);
    return t->name ? PHX_OK : phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", c->file);
}

/* The file has the innermost dimension first. */
static enum phx_status take_shape(struct cursor *c, struct phx_file_tensor *t)
{
    uint64_t n_dims = 0, length = 0;
    PHX_TRY(take(c, 4, "the shape of a tensor", &n_dims));
    if (n_dims > MAX_DIMS) {
        return phx_fail(PHX_BAD_DATA,
                        "%s: tensor %.80s has %" PRIu64 " dimensions; at most %d would work",
                        c->file, t->name, n_dims, MAX_DIMS);
    }
    t->n_dims = (int)n_dims;
    for (int i = t->n_dims - 1; i >= 0; i--) {
        PHX_TRY(take(c, 8, "the shape of a tensor", &length));
        if (length == 0 || length > INT64_MAX) {
            return phx_fail(PHX_BAD_DATA, "%s: tensor %.80s has a dimension of %" PRIu64, c->file,
                            t->name, length);
        }
        t->shape[i] = (int64_t)length;
    }
    return PHX_OK;
}

static enum phx_status take_type(struct cursor *c, struct phx_file_tensor *t)
{
    uint64_t type = 0;
    PHX_TRY(take(c, 4, "the type of a tensor", &type));
    const char *name = NULL;
    t->dtype = -1;
    if (type < sizeof tensor_types / sizeof *tensor_types) {
        name = tensor_types[type].name;
        t->dtype = tensor_types[type].dtype;
    }
    if (t->dtype < 0) {
        return phx_fail(PHX_UNSUPPORTED,
                        "%s: tensor %.80s has the type %" PRIu64 " (%s); F32, F16, BF16, Q8_0, "
                        "Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K are supported",
                        c->file, t->name, type, name ? name : "unknown");
    }
    snprintf(t->dtype_name, sizeof t->dtype_name, "%s", name);
    return PHX_OK;
}

static enum phx_status find_size(struct phx_file_tensor *t)
{
    char text[PHX_SHAPE_TEXT_BYTES];
    const struct phx_dtype_traits *traits = phx_dtype_traits((enum phx_dtype)t->dtype);
    int64_t inner = t->n_dims > 0 ? t->shape[t->n_dims - 1] : 1;
    if (inner % traits->block_elements != 0) {
        return phx_fail(PHX_BAD_DATA,
                        "%s: tensor %.80s of shape %s and type %s has rows that are "
                        "no whole blocks of %d",
                        t->file, t->name, phx_file_tensor_shape_text(t, text), t->dtype_name,
                        traits->block_elements);
    }
    size_t bytes = (size_t)(inner / traits->block_elements);
    bool fits = !__builtin_mul_overflow(bytes, (size_t)traits->block_bytes, &bytes);
    for (int i = 0; i + 1 < t->n_dims; i++)
        fits &= !__builtin_mul_overflow(bytes, (size_t)t->shape[i], &bytes);
    if (!fits) {
        return phx_fail(PHX_BAD_DATA, "%s: tensor %.80s of shape %s is too large", t->file, t->name,
                        phx_file_tensor_shape_text(t, text));
    }
    t->bytes = bytes;
    return PHX_OK;
}

static enum phx_status take_tensor(struct cursor *c, uint64_t alignment, struct phx_file_tensor *t)
{
    uint64_t offset = 0;
    PHX_TRY(take_name(c, t));
    PHX_TRY(take_shape(c, t));
    PHX_TRY(take_type(c, t));
    PHX_TRY(take(c, 8, "the offset of a tensor", &offset));
    if (offset % alignment != 0) {
        return phx_fail(PHX_BAD_DATA,
                        "%s: tensor %.80s lies at data byte %" PRIu64 ", no multiple of %" PRIu64,
                        c->file, t->name, offset, alignment);
    }
    t->data = (const void *)(uintptr_t)offset; /* NOLINT(performance-no-int-to-ptr) */
    return find_size(t);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct phx_file_tensor *)a)->name,
                  ((const struct phx_file_tensor *)b)->name);
}

static int by_data(const void *a, const void *b)
{
    uintptr_t da = (uintptr_t)((const struct phx_file_tensor *)a)->data;
    uintptr_t db = (uintptr_t)((const struct phx_file_tensor *)b)->data;
    return (da > db) - (da < db);
}

/* From offsets to addresses, all of them within `data` and apart. */
static enum phx_status place_tensors(struct phx_gguf *gguf, const unsigned char *data,
                                     size_t data_bytes)
{
    struct phx_file_tensor *t = gguf->tensors;
    size_t n = gguf->n_tensors;
    if (n > 0) qsort(t, n, sizeof *t, by_data);
    for (size_t i = 0; i < n; i++) {
        uintptr_t begin = (uintptr_t)t[i].data;
        if (begin > data_bytes || t[i].bytes > data_bytes - begin) {
            return phx_fail(
                PHX_BAD_DATA,
                "%s: tensor %.80s has %zu bytes from data byte %zu on, but the file has "
                "%zu bytes of data: it is damaged or not complete",
                gguf->file, t[i].name, t[i].bytes, (size_t)begin, data_bytes);
        }
        if (i + 1 < n && begin + t[i].bytes > (uintptr_t)t[i + 1].data) {
            return phx_fail(
                PHX_BAD_DATA,
                "%s: tensor %.80s ends at data byte %zu, but tensor %.80s begins at %zu",
                gguf->file, t[i].name, (size_t)(begin + t[i].bytes), t[i + 1].name,
                (size_t)(uintptr_t)t[i + 1].data);
        }
    }
    for (size_t i = 0; i < n; i++) t[i].data = data + (uintptr_t)t[i].data;
    if (n > 0) qsort(t, n, sizeof *t, by_name);
    for (size_t i = 1; i < n; i++) {
        if (strcmp(t[i - 1].name, t[i].name) == 0)
            return phx_fail(PHX_BAD_DATA, "%s: tensor %.80s is there twice", gguf->file, t[i].name);
    }
    return PHX_OK;
}

static enum phx_status parse_tensors(struct cursor *c, uint64_t n, size_t n_bytes,
                                     struct phx_gguf *gguf)
{
    const unsigned char *begin = c->end - n_bytes;
    int64_t alignment = DEFAULT_ALIGNMENT;
    PHX_TRY(phx_gguf_int(gguf, "general.alignment", 8, 1 << 30, &alignment));
    if (alignment % 8 != 0) {
        return phx_fail(PHX_BAD_DATA, "%s: general.alignment is %" PRId64 ", no multiple of 8",
                        c->file, alignment);
    }
    gguf->tensors = calloc(n + 1, sizeof *gguf->tensors);
    if (!gguf->tensors) return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", c->file);
    while (gguf->n_tensors < n)
        PHX_TRY(take_tensor(c, (uint64_t)alignment, &gguf->tensors[gguf->n_tensors++]));
    size_t header = (size_t)(c->at - begin);
    size_t padded = (header + (size_t)alignment - 1) / (size_t)alignment * (size_t)alignment;
    if (n > 0 && padded > n_bytes) return ends_early(c, "the padding before its data");
    return place_tensors(gguf, begin + padded, n > 0 ? n_bytes - padded : 0);
}

/* ---- the file ---- */

static enum phx_status parse_header(struct cursor *c, uint64_t *n_tensors, uint64_t *n_values)
{
    uint64_t version = 0;
    if (c->end - c->at < (ptrdiff_t)sizeof magic || memcmp(c->at, magic, sizeof magic) != 0)
        return phx_fail(PHX_BAD_DATA, "%s does not begin with GGUF: it is no GGUF file", c->file);
    c->at += sizeof magic;
    PHX_TRY(take(c, 4, "its header", &version));
    if (version != 2 && version != 3) {
        bool swapped = version == 2u << 24 || version == 3u << 24;
        return phx_fail(PHX_UNSUPPORTED, "%s: GGUF version %" PRIu64 "%s; 2 and 3 are supported",
                        c->file, version, swapped ? " (a big-endian file)" : "");
    }
    PHX_TRY(take(c, 8, "its header", n_tensors));
    PHX_TRY(take(c, 8, "its header", n_values));
    size_t left = (size_t)(c->end - c->at);
    if (*n_tensors > left / MIN_TENSOR_BYTES || *n_values > left / MIN_KEY_BYTES) {
        return phx_fail(PHX_BAD_DATA,
                        "%s says that it has %" PRIu64 " tensors and %" PRIu64 " keys, but %zu "
                        "bytes follow: it is damaged or not complete",
                        c->file, *n_tensors, *n_values, left);
    }
    return PHX_OK;
}

enum phx_status phx_gguf_read(struct phx_gguf *gguf, const void *bytes, size_t n_bytes)
{
    struct cursor c = {gguf->file, bytes, (const unsigned char *)bytes + n_bytes};
    uint64_t n_tensors = 0, n_values = 0;
    gguf->bytes = n_bytes;
    PHX_TRY(parse_header(&c, &n_tensors, &n_values));
    PHX_TRY(parse_values(&c, n_values, gguf));
    return parse_tensors(&c, n_tensors, n_bytes, gguf);
}

size_t phx_gguf_tensor_count(const struct phx_gguf *gguf)
{
    return gguf->n_tensors;
}

const struct phx_file_tensor *phx_gguf_tensor_at(const struct phx_gguf *gguf, size_t index)
{
    PHX_ASSERT(index < gguf->n_tensors);
    return &gguf->tensors[index];
}

const struct phx_file_tensor *phx_gguf_tensor(const struct phx_gguf *gguf, const char *name)
{
    struct phx_file_tensor key = {.name = (char *)name};
    if (gguf->n_tensors == 0) return NULL;
    return bsearch(&key, gguf->tensors, gguf->n_tensors, sizeof key, by_name);
}
