/// \file gguf.h
/// The reader of GGUF files, versions 2 and 3, little-endian: one file with a model's metadata
/// (key, value) and its tensors.
///
/// Format: "GGUF", version u32, number of tensors u64, number of keys u64; then each key: a string,
/// a type u32 and the value; then each tensor: name, number of dimensions u32, lengths u64 (the
/// innermost first), type u32, offset u64; then, from the next multiple of general.alignment (32 if
/// absent), the data, each tensor at a multiple of it. A string is its length u64 and its bytes.
/// Source: the specification in the GGML project's docs/gguf.md.
///
/// Parsing (fuzzed) is apart from opening; a file is mapped and its data never copied.
#ifndef PHX_RUNTIME_GGUF_H
#define PHX_RUNTIME_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "runtime/safetensors.h"

/// Numbered as in the file.
enum phx_gguf_type {
    PHX_GGUF_U8,
    PHX_GGUF_I8,
    PHX_GGUF_U16,
    PHX_GGUF_I16,
    PHX_GGUF_U32,
    PHX_GGUF_I32,
    PHX_GGUF_F32,
    PHX_GGUF_BOOL,
    PHX_GGUF_STRING,
    PHX_GGUF_ARRAY,
    PHX_GGUF_U64,
    PHX_GGUF_I64,
    PHX_GGUF_F64,
    PHX_GGUF_TYPE_COUNT
};

const char *phx_gguf_type_name(enum phx_gguf_type type);
/// Of an element; 0 for strings and arrays, where they vary.
int phx_gguf_type_bytes(enum phx_gguf_type type);

/// Bytes of the file: neither ended by a zero nor free of them, and not checked to be UTF-8.
struct phx_gguf_string {
    const char *data;
    size_t bytes;
};

struct phx_gguf_value {
    struct phx_gguf_string key;
    enum phx_gguf_type type; ///< of the value, never ARRAY: of an array its elements'
    bool is_array;
    uint64_t count;            ///< elements of an array; 1 else
    const unsigned char *data; ///< the first element as it is in the file
};

struct phx_gguf;

/// True if the file at `path` can be read and begins as a GGUF does; false also for a folder.
bool phx_gguf_is(const char *path);

/// Parse `bytes` of a file that `file` names in messages; both stay the caller's and must outlive
/// *out. PHX_BAD_DATA or PHX_UNSUPPORTED names the key or the tensor and what is wrong: every
/// length, count and offset is checked against the bytes that are there; no key and no tensor is
/// there twice; tensors do not overlap.
enum phx_status phx_gguf_parse(const char *file, const void *bytes, size_t n_bytes,
                               struct phx_gguf **out);
/// Map the file and parse it, and the others of a model in several (NAME-00001-of-00003.gguf): all
/// keys are in the first, and tensors in any. A file that is shortened while it is mapped kills the
/// process.
enum phx_status phx_gguf_open(const char *path, struct phx_gguf **out);
void phx_gguf_destroy(struct phx_gguf *gguf);
/// As it was opened, for messages.
const char *phx_gguf_path(const struct phx_gguf *gguf);

/// NULL if there is no such key.
const struct phx_gguf_value *phx_gguf_find(const struct phx_gguf *gguf, const char *key);

/// The value of a key. Without the key, *out stays as it is: PHX_OK. Another type, or a number out
/// of [min, max]: PHX_BAD_DATA with a sentence. A whole number may have any integer type in the
/// file, a real one any number's; a boolean is 0 or 1.
enum phx_status phx_gguf_int(const struct phx_gguf *gguf, const char *key, int64_t min, int64_t max,
                             int64_t *out);
enum phx_status phx_gguf_real(const struct phx_gguf *gguf, const char *key, double min, double max,
                              double *out);
enum phx_status phx_gguf_bool(const struct phx_gguf *gguf, const char *key, bool *out);
enum phx_status phx_gguf_text(const struct phx_gguf *gguf, const char *key,
                              struct phx_gguf_string *out);
/// An array whose elements are strings / integers / numbers of any type. Absent: *out stays.
enum phx_status phx_gguf_strings(const struct phx_gguf *gguf, const char *key,
                                 const struct phx_gguf_value **out);
enum phx_status phx_gguf_ints(const struct phx_gguf *gguf, const char *key,
                              const struct phx_gguf_value **out);
enum phx_status phx_gguf_reals(const struct phx_gguf *gguf, const char *key,
                               const struct phx_gguf_value **out);
/// PHX_BAD_DATA if the key is missing.
enum phx_status phx_gguf_require(const struct phx_gguf *gguf, const char *key);

/// Element `index` < count of a value of an integer type (a u64 above 2^63 - 1 becomes that), or of
/// any number's.
int64_t phx_gguf_int_at(const struct phx_gguf_value *value, uint64_t index);
double phx_gguf_real_at(const struct phx_gguf_value *value, uint64_t index);
/// A walk over strings: start with *at = value->data, call at most `count` times.
struct phx_gguf_string phx_gguf_next_string(const unsigned char **at);
/// The text as a C string to be freed; NULL when out of memory. Ends at a zero byte in it.
char *phx_gguf_string_copy(struct phx_gguf_string text);
/// True if the string has just these bytes.
bool phx_gguf_string_is(struct phx_gguf_string string, const char *text);

/// The tensors as in the file, sorted by name; shapes outermost first, as everywhere in this
/// program: a matrix is [rows, cols]. They belong to `gguf`.
size_t phx_gguf_tensor_count(const struct phx_gguf *gguf);
const struct phx_file_tensor *phx_gguf_tensor_at(const struct phx_gguf *gguf, size_t index);
/// NULL if there is none of this name.
const struct phx_file_tensor *phx_gguf_tensor(const struct phx_gguf *gguf, const char *name);
/// The first byte of the file that the tensor is in, of a model that was opened.
const void *phx_gguf_mapping(const struct phx_gguf *gguf, const struct phx_file_tensor *tensor);
/// Of all its files.
size_t phx_gguf_bytes(const struct phx_gguf *gguf);

#endif
