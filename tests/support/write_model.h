/// \file write_model.h
/// Small checkpoints in a temporary folder, whole or broken, for tests. What goes wrong here fails
/// the test at once.
#ifndef PHX_TESTS_SUPPORT_WRITE_MODEL_H
#define PHX_TESTS_SUPPORT_WRITE_MODEL_H

#include <stdbool.h>
#include <stddef.h>

#include "runtime/safetensors.h"

/// A new folder under $TMPDIR or /tmp; give it to test_folder_destroy.
char *test_folder_create(void);
/// Removes its files and the folder.
void test_folder_destroy(char *folder);

/// FOLDER/NAME with these bytes.
void test_file_write(const char *folder, const char *name, const void *data, size_t bytes);
void test_file_write_text(const char *folder, const char *name, const char *text);
/// The bytes of a file, then a NUL; free() it.
char *test_file_read(const char *path, size_t *out_bytes);

/// A safetensors file of any header, right or wrong: its length, the header, the data.
void test_safetensors_write(const char *folder, const char *name, const char *header,
                            const void *data, size_t data_bytes);

struct test_model {
    const char *config_json; ///< a config that phx_config_parse takes
    /// Called for each tensor that the model has; may change what is written (the name and the
    /// shape as a whole, the type); false leaves the tensor out. May be NULL.
    bool (*edit)(struct phx_tensor_to_write *tensor);
    const char *extra; ///< name of one more tensor, F32 [3], or NULL
    int n_files;       ///< above 1: that many shards and their index
    bool misaligned;   ///< the data begins at an odd address
};

/// FOLDER/config.json and the weights: for each tensor the values that phx_weights_dummy gives it,
/// in the type of the config, or of the edited tensor.
void test_model_write(const char *folder, const struct test_model *model);

#endif
