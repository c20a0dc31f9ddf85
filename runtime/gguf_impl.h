/// \file gguf_impl.h
/// What the files of the GGUF reader share. Only they include this.
#ifndef PHX_RUNTIME_GGUF_IMPL_H
#define PHX_RUNTIME_GGUF_IMPL_H

#include "runtime/gguf.h"

struct phx_gguf {
    char *path;       ///< NULL: parsed from memory
    const char *file; ///< for messages
    void *address;    ///< of the mapping, NULL: somebody else's bytes
    size_t bytes;
    struct phx_gguf_value *values; ///< sorted by key
    size_t n_values;
    struct phx_file_tensor *tensors; ///< sorted by name, those of all parts
    size_t n_tensors;
    struct phx_gguf **parts; ///< the other files of a model in several; their tensors are here
    size_t n_parts;
};

/// Bytes of one file, which outlive `gguf`, into its values and tensors. It stays as far as it came
/// when that fails.
enum phx_status phx_gguf_read(struct phx_gguf *gguf, const void *bytes, size_t n_bytes);

#endif
