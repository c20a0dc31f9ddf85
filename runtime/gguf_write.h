/// \file gguf_write.h
/// A GGUF file, version 3, being written: first its keys, then what its tensors will be, then their
/// data in the same order. Through phx_new_file, so that it is never half there.
#ifndef PHX_RUNTIME_GGUF_WRITE_H
#define PHX_RUNTIME_GGUF_WRITE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/base/dtype.h"
#include "kernels/base/status.h"

struct phx_gguf_writer;

enum phx_status phx_gguf_writer_create(const char *path, struct phx_gguf_writer **out);
/// Without phx_gguf_writer_finish() nothing is left behind.
void phx_gguf_writer_destroy(struct phx_gguf_writer *writer);

/// Each key once. `key` may hold one %s for `prefix`.
void phx_gguf_write_u32(struct phx_gguf_writer *writer, const char *key, const char *prefix,
                        uint32_t value);
void phx_gguf_write_f32(struct phx_gguf_writer *writer, const char *key, const char *prefix,
                        float value);
void phx_gguf_write_bool(struct phx_gguf_writer *writer, const char *key, const char *prefix,
                         bool value);
/// An array of `n`.
void phx_gguf_write_bools(struct phx_gguf_writer *writer, const char *key, const char *prefix,
                          const bool *values, size_t n);
void phx_gguf_write_text(struct phx_gguf_writer *writer, const char *key, const char *prefix,
                         const char *text, size_t bytes);

/// A tensor, its shape outermost first; `dtype` one that weights may have.
void phx_gguf_write_tensor(struct phx_gguf_writer *writer, const char *name, enum phx_dtype dtype,
                           int n_dims, const int64_t *shape);
/// The whole data of the next tensor. The first call ends the header.
void phx_gguf_write_data(struct phx_gguf_writer *writer, const void *data, size_t bytes);
/// After the data of all tensors. What failed before is told here.
enum phx_status phx_gguf_writer_finish(struct phx_gguf_writer *writer);

#endif
