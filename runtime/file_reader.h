/// \file file_reader.h
/// Rectangles out of the files of a checkpoint: in their mappings, or read into a buffer.
#ifndef PHX_RUNTIME_FILE_READER_H
#define PHX_RUNTIME_FILE_READER_H

#include <stdbool.h>

#include "runtime/safetensors.h"

enum phx_load_mode {
    PHX_LOAD_MODE_AUTO,  ///< MMAP; READ from a network's file system
    PHX_LOAD_MODE_MMAP,  ///< copied out of the page cache where it lies, asked for ahead
    PHX_LOAD_MODE_READ,  ///< read in large pieces, asked for ahead
    PHX_LOAD_MODE_DIRECT ///< read past the page cache
};

/// Rows of a tensor's data, or parts of them. Not aligned to anything.
struct phx_file_rows {
    const struct phx_file_tensor *tensor;
    const char *data; ///< the first row, in the mapping
    size_t pitch_bytes, row_bytes;
    int64_t rows;
    bool between; ///< what lies between the rows are others of this rank's
};

/// What is asked of the file for each row: all of it, if what lies between is so short that reading
/// on is faster than skipping it.
size_t phx_file_row_fetch(const struct phx_file_rows *rows);

struct phx_file_reader;

/// The checkpoint must outlive the reader.
enum phx_status phx_file_reader_create(const struct phx_checkpoint *checkpoint,
                                       enum phx_load_mode mode, struct phx_file_reader **out);
void phx_file_reader_destroy(struct phx_file_reader *reader);

/// Asks the system to have the rows ready. A refusal changes nothing.
void phx_file_reader_ahead(struct phx_file_reader *reader, const struct phx_file_rows *rows);
/// The rows, valid until the next call; the first is at *out, the others *out_pitch apart. PHX_IO
/// names the file; PHX_UNSUPPORTED where it cannot be read directly.
enum phx_status phx_file_reader_get(struct phx_file_reader *reader,
                                    const struct phx_file_rows *rows, const char **out,
                                    size_t *out_pitch);
/// They are needed no more: memory that they took, but for the page cache, is given back.
void phx_file_reader_done(struct phx_file_reader *reader, const struct phx_file_rows *rows);

/// Bytes asked of the files so far, those between rows included.
size_t phx_file_reader_fetched(const struct phx_file_reader *reader);

#endif
