#include "runtime/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/json.h"
#include "runtime/new_file.h"

/* Types of the format that no kernel computes with; their sizes are still checked. */
static const struct {
    const char *name;
    size_t bits;
} other_dtypes[] = {
    {"BOOL", 8},    {"I8", 8},      {"I16", 16},    {"I64", 64},    {"U32", 32},
    {"U64", 64},    {"F64", 64},    {"C64", 64},    {"F8_E4M3", 8}, {"F8_E5M2", 8},
    {"F8_E8M0", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4},
};

/* Bits of an element, 0 if this version of the format is not known here. */
static size_t dtype_bits(const char *name, int *out_dtype)
{
    *out_dtype = -1;
    for (int i = 0; i < PHX_DTYPE_COUNT; i++) {
        const struct phx_dtype_traits *traits = phx_dtype_traits((enum phx_dtype)i);
        if (traits->block_elements == 1 && strcmp(name, traits->name) == 0) {
            *out_dtype = i;
            return 8 * (size_t)traits->block_bytes;
        }
    }
    for (size_t i = 0; i < sizeof other_dtypes / sizeof *other_dtypes; i++)
        if (strcmp(name, other_dtypes[i].name) == 0) return other_dtypes[i].bits;
    return 0;
}

const char *phx_file_tensor_shape_text(const struct phx_file_tensor *tensor,
                                       char text[PHX_SHAPE_TEXT_BYTES])
{
    size_t used = (size_t)snprintf(text, PHX_SHAPE_TEXT_BYTES, "[");
    for (int i = 0; i < tensor->n_dims; i++) {
        used += (size_t)snprintf(text + used, PHX_SHAPE_TEXT_BYTES - used, "%s%" PRId64,
                                 i ? ", " : "", tensor->shape[i]);
    }
    snprintf(text + used, PHX_SHAPE_TEXT_BYTES - used, "]");
    return text;
}

static enum phx_status parse_shape(struct phx_file_tensor *t, const json_t *shape)
{
    if (!json_is_array(shape)) {
        return phx_fail(PHX_BAD_DATA, "%s: tensor %s has no shape [...]", t->file, t->name);
    }
    if (json_array_size(shape) > PHX_MAX_TENSOR_DIMS) {
        return phx_fail(PHX_BAD_DATA, "%s: tensor %s has %zu dimensions; at most %d would work",
                        t->file, t->name, json_array_size(shape), PHX_MAX_TENSOR_DIMS);
    }
    t->n_dims = (int)json_array_size(shape);
    for (int i = 0; i < t->n_dims; i++) {
        const json_t *value = json_array_get(shape, (size_t)i);
        if (!json_is_integer(value) || json_integer_value(value) < 0) {
            char text[PHX_JSON_TEXT_BYTES];
            return phx_fail(PHX_BAD_DATA,
                            "%s: tensor %s has a dimension of %s; it must be a whole number >= 0",
                            t->file, t->name, phx_json_text(value, text));
        }
        t->shape[i] = json_integer_value(value);
    }
    return PHX_OK;
}

/* The bytes that dtype and shape say, where the size of the dtype is known. */
static enum phx_status check_size(const struct phx_file_tensor *t, size_t bits)
{
    char text[PHX_SHAPE_TEXT_BYTES];
    if (bits == 0) return PHX_OK;
    size_t total_bits = bits;
    bool fits = true;
    for (int i = 0; i < t->n_dims; i++)
        fits &= !__builtin_mul_overflow(total_bits, (size_t)t->shape[i], &total_bits);
    if (!fits) {
        return phx_fail(PHX_BAD_DATA, "%s: tensor %s of shape %s is too large", t->file, t->name,
                        phx_file_tensor_shape_text(t, text));
    }
    size_t wanted = total_bits / 8 + (total_bits % 8 != 0);
    if (wanted != t->bytes) {
        return phx_fail(PHX_BAD_DATA, "%s: tensor %s has %zu bytes, but %s of shape %s takes %zu",
                        t->file, t->name, t->bytes, t->dtype_name,
                        phx_file_tensor_shape_text(t, text), wanted);
    }
    return PHX_OK;
}

static enum phx_status parse_offsets(struct phx_file_tensor *t, const json_t *offsets,
                                     size_t data_bytes)
{
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last)) {
        return phx_fail(PHX_BAD_DATA, "%s: tensor %s has no data_offsets [begin, end]", t->file,
                        t->name);
    }
    json_int_t begin = json_integer_value(first), end = json_integer_value(last);
    if (begin < 0 || end < begin || (uintmax_t)end > data_bytes) {
        return phx_fail(PHX_BAD_DATA,
                        "%s: tensor %s lies at data bytes %" PRIdMAX " to %" PRIdMAX
                        ", but the file has %zu bytes of data: it is damaged or not complete",
                        t->file, t->name, (intmax_t)begin, (intmax_t)end, data_bytes);
    }
    t->bytes = (size_t)(end - begin);
    t->data = (const void *)(uintptr_t)begin; /* NOLINT(performance-no-int-to-ptr) */
    return PHX_OK;
}

static enum phx_status parse_tensor(const char *file, const char *name, const json_t *entry,
                                    size_t data_bytes, struct phx_file_tensor *t)
{
    t->file = file;
    t->name = strdup(name);
    if (!t->name) return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", file);
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    if (!dtype) {
        return phx_fail(PHX_BAD_DATA, "%s: tensor %s has no dtype", file, name);
    }
    snprintf(t->dtype_name, sizeof t->dtype_name, "%s", dtype);
    size_t bits = dtype_bits(dtype, &t->dtype);
    PHX_TRY(parse_shape(t, json_object_get(entry, "shape")));
    PHX_TRY(parse_offsets(t, json_object_get(entry, "data_offsets"), data_bytes));
    return check_size(t, bits);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct phx_file_tensor *)a)->name,
                  ((const struct phx_file_tensor *)b)->name);
}

static int by_offset(const void *a, const void *b)
{
    const struct phx_file_tensor *ta = a, *tb = b;
    uintptr_t begin_a = (uintptr_t)ta->data, begin_b = (uintptr_t)tb->data;
    if (begin_a != begin_b) return begin_a < begin_b ? -1 : 1;
    return (ta->bytes > tb->bytes) - (ta->bytes < tb->bytes); /* empty ones first */
}

/* Sorts by offset on the way. */
static enum phx_status check_overlap(struct phx_file_tensor *tensors, size_t n)
{
    if (n > 0) qsort(tensors, n, sizeof *tensors, by_offset);
    for (size_t i = 1; i < n; i++) {
        const struct phx_file_tensor *a = &tensors[i - 1], *b = &tensors[i];
        uintptr_t end = (uintptr_t)a->data + a->bytes, begin = (uintptr_t)b->data;
        if (end > begin) {
            return phx_fail(PHX_BAD_DATA,
                            "%s: tensor %s ends at data byte %zu, but tensor %s begins at %zu",
                            a->file, a->name, (size_t)end, b->name, (size_t)begin);
        }
    }
    return PHX_OK;
}

enum phx_status phx_safetensors_parse_header(const char *file, const char *json, size_t json_bytes,
                                             size_t data_bytes, struct phx_file_tensor **out,
                                             size_t *out_n)
{
    json_t *root = NULL;
    PHX_TRY(phx_json_parse(file, json, json_bytes, &root));
    enum phx_status status = PHX_OK;
    size_t n = 0, capacity = json_object_size(root);
    struct phx_file_tensor *tensors = calloc(capacity + 1, sizeof *tensors);
    if (!tensors) {
        status = phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", file);
        goto failed;
    }
    const char *name;
    json_t *entry;
    json_object_foreach(root, name, entry)
    {
        if (strcmp(name, "__metadata__") == 0) continue;
        PHX_TRY_GOTO(parse_tensor(file, name, entry, data_bytes, &tensors[n++]), failed);
    }
    PHX_TRY_GOTO(check_overlap(tensors, n), failed);
    if (n > 0) qsort(tensors, n, sizeof *tensors, by_name);
    json_decref(root);
    *out = tensors;
    *out_n = n;
    return PHX_OK;
failed:
    json_decref(root);
    phx_safetensors_free_header(tensors, n);
    return status;
}

void phx_safetensors_free_header(struct phx_file_tensor *tensors, size_t n)
{
    for (size_t i = 0; i < n; i++) free(tensors[i].name);
    free(tensors);
}

static size_t tensor_bytes(const struct phx_tensor_to_write *t)
{
    int64_t elements = 1;
    for (int i = 0; i < t->n_dims; i++) elements *= t->shape[i];
    return phx_dtype_bytes(t->dtype, elements);
}

/* The header's text, padded so that the data begins at a multiple of 8; free() it. NULL when out of
 * memory. */
static char *header_text(const struct phx_tensor_to_write *tensors, size_t n)
{
    json_t *root = json_object();
    size_t offset = 0;
    bool ok = root != NULL;
    for (size_t i = 0; ok && i < n; i++) {
        const struct phx_tensor_to_write *t = &tensors[i];
        PHX_ASSERT(t->n_dims >= 0 && t->n_dims <= PHX_MAX_TENSOR_DIMS);
        PHX_ASSERT(!json_object_get(root, t->name));
        size_t end = offset + tensor_bytes(t);
        json_t *entry =
            json_pack("{s:s, s:[], s:[I, I]}", "dtype", phx_dtype_traits(t->dtype)->name, "shape",
                      "data_offsets", (json_int_t)offset, (json_int_t)end);
        json_t *shape = json_object_get(entry, "shape");
        ok = entry != NULL;
        for (int d = 0; ok && d < t->n_dims; d++)
            ok = json_array_append_new(shape, json_integer(t->shape[d])) == 0;
        ok = json_object_set_new(root, t->name, entry) == 0 && ok;
        offset = end;
    }
    char *text = ok ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (!text) return NULL;
    size_t length = strlen(text), padded = (length + 7) / 8 * 8;
    char *grown = realloc(text, padded + 1);
    if (!grown) {
        free(text);
        return NULL;
    }
    memset(grown + length, ' ', padded - length);
    grown[padded] = '\0';
    return grown;
}

enum phx_status phx_safetensors_can_write(const char *path)
{
    struct phx_new_file file;
    PHX_TRY(phx_new_file_open(path, &file));
    phx_new_file_discard(&file);
    return PHX_OK;
}

enum phx_status phx_safetensors_write(const char *path, const struct phx_tensor_to_write *tensors,
                                      size_t n)
{
    struct phx_new_file file;
    char *header = header_text(tensors, n);
    if (!header) return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", path);
    enum phx_status status = phx_new_file_open(path, &file);
    if (status == PHX_OK) {
        uint64_t length = strlen(header);
        unsigned char prefix[8];
        for (int i = 0; i < 8; i++) prefix[i] = (unsigned char)(length >> (8 * i));
        phx_new_file_write(&file, prefix, sizeof prefix);
        phx_new_file_write(&file, header, length);
        for (size_t i = 0; i < n; i++)
            phx_new_file_write(&file, tensors[i].data, tensor_bytes(&tensors[i]));
        status = phx_new_file_finish(&file);
    }
    free(header);
    return status;
}
