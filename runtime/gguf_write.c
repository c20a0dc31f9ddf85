#include "runtime/gguf_write.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/gguf.h"
#include "runtime/new_file.h"

enum { ALIGNMENT = 32 };

/* Bytes that grow; once memory is out they grow no more. */
struct bytes {
    char *data;
    size_t n, capacity;
    bool failed;
};

struct phx_gguf_writer {
    char *path;
    struct phx_new_file file;
    bool is_open;
    struct bytes keys, tensors;
    uint64_t n_keys, n_tensors, n_written;
    size_t data_bytes; /* of the tensors so far, padding included */
};

static void put(struct bytes *b, const void *data, size_t n)
{
    if (b->capacity - b->n < n) {
        size_t capacity = 2 * (b->n + n);
        char *grown = realloc(b->data, capacity);
        b->failed = b->failed || !grown;
        if (!grown) return;
        b->data = grown;
        b->capacity = capacity;
    }
    memcpy(b->data + b->n, data, n);
    b->n += n;
}

static void put_number(struct bytes *b, uint64_t value, int n)
{
    unsigned char bytes[8];
    for (int i = 0; i < n; i++) bytes[i] = (unsigned char)(value >> (8 * i));
    put(b, bytes, (size_t)n);
}

static void put_text(struct bytes *b, const char *text, size_t bytes)
{
    put_number(b, bytes, 8);
    put(b, text, bytes);
}

static void put_key(struct phx_gguf_writer *w, const char *key, const char *prefix,
                    enum phx_gguf_type type)
{
    char text[128];
    const char *mark = strstr(key, "%s");
    int n = mark ? snprintf(text, sizeof text, "%.*s%s%s", (int)(mark - key), key, prefix, mark + 2)
                 : snprintf(text, sizeof text, "%s", key);
    PHX_ASSERT(n > 0 && (size_t)n < sizeof text && w->n_written == 0);
    put_text(&w->keys, text, (size_t)n);
    put_number(&w->keys, type, 4);
    w->n_keys++;
}

enum phx_status phx_gguf_writer_create(const char *path, struct phx_gguf_writer **out)
{
    struct phx_gguf_writer *w = calloc(1, sizeof *w);
    if (!w) return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", path);
    w->path = strdup(path);
    enum phx_status status = w->path ? phx_new_file_open(w->path, &w->file)
                                     : phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", path);
    w->is_open = status == PHX_OK;
    if (status != PHX_OK) {
        phx_gguf_writer_destroy(w);
        return status;
    }
    *out = w;
    return PHX_OK;
}

void phx_gguf_writer_destroy(struct phx_gguf_writer *writer)
{
    if (!writer) return;
    if (writer->is_open) phx_new_file_discard(&writer->file);
    free(writer->keys.data);
    free(writer->tensors.data);
    free(writer->path);
    free(writer);
}

void phx_gguf_write_u32(struct phx_gguf_writer *writer, const char *key, const char *prefix,
                        uint32_t value)
{
    put_key(writer, key, prefix, PHX_GGUF_U32);
    put_number(&writer->keys, value, 4);
}

void phx_gguf_write_f32(struct phx_gguf_writer *writer, const char *key, const char *prefix,
                        float value)
{
    put_key(writer, key, prefix, PHX_GGUF_F32);
    put_number(&writer->keys, phx_bits_from_f32(value), 4);
}

void phx_gguf_write_bool(struct phx_gguf_writer *writer, const char *key, const char *prefix,
                         bool value)
{
    put_key(writer, key, prefix, PHX_GGUF_BOOL);
    put_number(&writer->keys, value, 1);
}

void phx_gguf_write_bools(struct phx_gguf_writer *writer, const char *key, const char *prefix,
                          const bool *values, size_t n)
{
    put_key(writer, key, prefix, PHX_GGUF_ARRAY);
    put_number(&writer->keys, PHX_GGUF_BOOL, 4);
    put_number(&writer->keys, n, 8);
    for (size_t i = 0; i < n; i++) put_number(&writer->keys, values[i], 1);
}

void phx_gguf_write_text(struct phx_gguf_writer *writer, const char *key, const char *prefix,
                         const char *text, size_t bytes)
{
    put_key(writer, key, prefix, PHX_GGUF_STRING);
    put_text(&writer->keys, text, bytes);
}

static size_t padded(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* The type's number in a file. */
static uint32_t type_number(enum phx_dtype dtype)
{
    static const uint32_t numbers[PHX_DTYPE_COUNT] = {
        [PHX_F32] = 0,   [PHX_F16] = 1,   [PHX_Q4_0] = 2,  [PHX_Q4_1] = 3,
        [PHX_Q5_0] = 6,  [PHX_Q5_1] = 7,  [PHX_Q8_0] = 8,  [PHX_Q4_K] = 12,
        [PHX_Q5_K] = 13, [PHX_Q6_K] = 14, [PHX_BF16] = 30,
    };
    PHX_ASSERT(phx_dtype_traits(dtype)->is_weight);
    return numbers[dtype];
}

void phx_gguf_write_tensor(struct phx_gguf_writer *writer, const char *name, enum phx_dtype dtype,
                           int n_dims, const int64_t *shape)
{
    struct bytes *b = &writer->tensors;
    int64_t elements = 1;
    PHX_ASSERT(writer->n_written == 0 && n_dims >= 1 && n_dims <= 4);
    put_text(b, name, strlen(name));
    put_number(b, (uint64_t)n_dims, 4);
    for (int d = n_dims - 1; d >= 0; d--) {
        put_number(b, (uint64_t)shape[d], 8);
        elements *= shape[d];
    }
    put_number(b, type_number(dtype), 4);
    put_number(b, writer->data_bytes, 8);
    writer->data_bytes += padded(phx_dtype_bytes(dtype, elements));
    writer->n_tensors++;
}

static void pad(struct phx_gguf_writer *w, size_t bytes)
{
    static const char zeros[ALIGNMENT];
    phx_new_file_write(&w->file, zeros, padded(bytes) - bytes);
}

static void write_header(struct phx_gguf_writer *w)
{
    struct bytes head = {0};
    put(&head, "GGUF", 4);
    put_number(&head, 3, 4);
    put_number(&head, w->n_tensors, 8);
    put_number(&head, w->n_keys, 8);
    w->keys.failed = w->keys.failed || head.failed;
    phx_new_file_write(&w->file, head.data, head.n);
    phx_new_file_write(&w->file, w->keys.data, w->keys.n);
    phx_new_file_write(&w->file, w->tensors.data, w->tensors.n);
    pad(w, head.n + w->keys.n + w->tensors.n);
    free(head.data);
}

void phx_gguf_write_data(struct phx_gguf_writer *writer, const void *data, size_t bytes)
{
    PHX_ASSERT(writer->n_written < writer->n_tensors);
    if (writer->n_written++ == 0) write_header(writer);
    phx_new_file_write(&writer->file, data, bytes);
    pad(writer, bytes);
}

enum phx_status phx_gguf_writer_finish(struct phx_gguf_writer *writer)
{
    PHX_ASSERT(writer->n_written == writer->n_tensors);
    if (writer->keys.failed || writer->tensors.failed)
        return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", writer->path);
    writer->is_open = false;
    return phx_new_file_finish(&writer->file);
}
