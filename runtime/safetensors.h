/// \file safetensors.h
/// Tensors in files: safetensors, single or sharded with model.safetensors.index.json.
///
/// Format: 8 bytes little-endian header length, a JSON object {name: {dtype, shape, data_offsets}},
/// then the data. Parsing (fuzzed) is apart from opening. Files are mapped read-only; data is never
/// copied here.
#ifndef PHX_RUNTIME_SAFETENSORS_H
#define PHX_RUNTIME_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/base/dtype.h"
#include "kernels/base/status.h"

enum { PHX_MAX_TENSOR_DIMS = 8 };

struct phx_file_tensor {
    char *name;
    char dtype_name[16]; ///< as in the file: "BF16", "I64", ...; for messages, cut short if longer
    int dtype;           ///< enum phx_dtype, or -1 for a type we have no use for
    int n_dims;
    int64_t shape[PHX_MAX_TENSOR_DIMS];
    /// 0, or the rows of a head, D, of a file that interleaves its halves: row h D + 2 i + j of the
    /// file is row h D + j D / 2 + i of the model.
    int64_t head_rows;
    size_t bytes;
    const void *data; ///< in the mapping
    const char *file; ///< path, for messages; whoever opened or parsed it owns the string
};

/// Where the model's row `row` lies in the file, of a vector its element.
static inline int64_t phx_file_tensor_row(const struct phx_file_tensor *tensor, int64_t row)
{
    int64_t head = tensor->head_rows, half = head / 2;
    if (head == 0) return row;
    int64_t in_head = row % head;
    return row - in_head + 2 * (in_head % half) + in_head / half;
}

enum { PHX_SHAPE_TEXT_BYTES = 192 };
/// "[2, 3]", for messages; returns `text`.
const char *phx_file_tensor_shape_text(const struct phx_file_tensor *tensor,
                                       char text[PHX_SHAPE_TEXT_BYTES]);

/// The header of one file as parsed, before any file exists. `data_bytes` is what follows the
/// header; every offset is checked against it, sizes against dtype x shape, ranges against each
/// other (no overlap). On success *out is an array of *out_n tensors sorted by name, `data` holding
/// the offset as a pointer from NULL; free with phx_safetensors_free_header. PHX_BAD_DATA names the
/// tensor and the numbers.
enum phx_status phx_safetensors_parse_header(const char *file, const char *json, size_t json_bytes,
                                             size_t data_bytes, struct phx_file_tensor **out,
                                             size_t *out_n);
void phx_safetensors_free_header(struct phx_file_tensor *tensors, size_t n);

struct phx_checkpoint;

/// DIR/model.safetensors, or the files of DIR/model.safetensors.index.json; or PATH if it is a
/// file: a GGUF if it begins as one, otherwise safetensors. The tensors of a GGUF have the names
/// of a Hugging Face checkpoint (gguf_model.h). Every tensor of every file is in it; one name in
/// two files, an index that names a file outside its folder or a tensor that is not where it says:
/// PHX_BAD_DATA. Tensors need not be aligned. A file that is shortened while it is mapped kills the
/// process.
enum phx_status phx_checkpoint_open(const char *path, struct phx_checkpoint **out);
void phx_checkpoint_destroy(struct phx_checkpoint *checkpoint);
/// As it was opened, for messages.
const char *phx_checkpoint_path(const struct phx_checkpoint *checkpoint);
/// What says the shapes of its tensors, for messages: "config.json", or "metadata" of a GGUF.
const char *phx_checkpoint_config_name(const struct phx_checkpoint *checkpoint);
/// NULL if there is none of this name.
const struct phx_file_tensor *phx_checkpoint_find(const struct phx_checkpoint *checkpoint,
                                                  const char *name);
size_t phx_checkpoint_count(const struct phx_checkpoint *checkpoint);
const struct phx_file_tensor *phx_checkpoint_at(const struct phx_checkpoint *checkpoint,
                                                size_t index);
/// The first byte of the file that the tensor is in.
const void *phx_checkpoint_mapping(const struct phx_checkpoint *checkpoint,
                                   const struct phx_file_tensor *tensor);
/// Bytes of all files.
size_t phx_checkpoint_bytes(const struct phx_checkpoint *checkpoint);

/// One tensor to write.
struct phx_tensor_to_write {
    const char *name;
    enum phx_dtype dtype;
    int n_dims;
    int64_t shape[PHX_MAX_TENSOR_DIMS];
    const void *data;
};
/// Whether phx_safetensors_write() could begin now; leaves nothing behind.
enum phx_status phx_safetensors_can_write(const char *path);
/// Write a safetensors file, through a temporary file beside it and a rename, so that PATH is never
/// half written.
enum phx_status phx_safetensors_write(const char *path, const struct phx_tensor_to_write *tensors,
                                      size_t n);

#endif
