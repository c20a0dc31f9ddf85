/// \file gguf_model.h
/// The model in a GGUF file, said as a Hugging Face checkpoint says it: a config.json and tensors
/// under that format's names. What the file's maker bakes in is told along, for the loader to undo.
/// A further architecture is a row of gguf_config.c, and rows of gguf_names.c for its tensors.
#ifndef PHX_RUNTIME_GGUF_MODEL_H
#define PHX_RUNTIME_GGUF_MODEL_H

#include "runtime/config.h"
#include "runtime/gguf.h"

/// An architecture: general.architecture of the file, model_type of a config.json.
struct phx_gguf_family {
    const char *architecture;
    const char *model_type;
    const char *windowed_type; ///< model_type if the file names a sliding window; NULL: the same
    bool interleaves;          ///< the rows of each head of q and k (phx_file_tensor.head_rows)
};

/// PHX_UNSUPPORTED lists the known ones.
enum phx_status phx_gguf_family(const struct phx_gguf *gguf, const struct phx_gguf_family **out);
/// Of a model_type, to write; PHX_UNSUPPORTED lists the known ones.
enum phx_status phx_gguf_family_of(const struct phx_config *config,
                                   const struct phx_gguf_family **out);

/// The hyper-parameters, parsed and checked as a config.json is (config.h).
enum phx_status phx_gguf_config(const struct phx_gguf *gguf, struct phx_config **out);
/// The same as the text of a config.json, to be freed; without rope_freqs, for which it has no
/// words.
enum phx_status phx_gguf_config_text(const struct phx_gguf *gguf, char **out);

/// All tensors, sorted by name and to be freed with phx_safetensors_free_header(): data in the
/// mapping; a tensor of stacked experts is one for each of them; rope_freqs, which is part of the
/// config, is left out; a tensor of an unknown name keeps it.
enum phx_status phx_gguf_model_tensors(const struct phx_gguf *gguf, struct phx_file_tensor **out,
                                       size_t *out_n);

enum { PHX_GGUF_NAME_BYTES = 96 };
/// The name in a GGUF of the tensor called `name` in a Hugging Face checkpoint, false if it has
/// none; *out_interleaved: whether its rows are a head's of q or k.
bool phx_gguf_name(const char *name, char out[PHX_GGUF_NAME_BYTES], bool *out_interleaved);

#endif
