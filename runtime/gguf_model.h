/// \file gguf_model.h
/// The model in a GGUF file, said as a Hugging Face checkpoint says it: a config.json and tensors
/// under that format's names. What the file's maker bakes in is told along, for the loader to undo.
/// A further architecture is a row of gguf_config.c, and rows of gguf_names.c for its tensors.
#ifndef PHX_RUNTIME_GGUF_MODEL_H
#define PHX_RUNTIME_GGUF_MODEL_H

#include "runtime/config.h"
#include "runtime/gguf.h"
#include "runtime/gguf_write.h"
#include "runtime/weights.h"

/// An architecture: general.architecture of the file, model_type of a config.json.
struct phx_gguf_family {
    const char *architecture;
    const char *model_type;
    const char *windowed_type; ///< model_type if the file names a sliding window; NULL: the same
    const char *experts_type;  ///< if it has experts; NULL: the same
    int32_t window_pattern;    ///< without a key, all layers but each so-manieth have the window;
                               ///< 0: all have it
    int32_t layers_by_width;   ///< models of so many layers scale scores by hidden / heads
    bool interleaves;          ///< the rows of each head of q and k (phx_file_tensor.head_rows)
    bool qkv_bias;             ///< always
    bool normalizes_choice;    ///< of experts, without a key
    float norm_offset;         ///< in the norms of the file; a config.json has it added
};

/// PHX_UNSUPPORTED lists the known ones.
enum phx_status phx_gguf_family(const struct phx_gguf *gguf, const struct phx_gguf_family **out);
/// Of a model_type, to write; PHX_UNSUPPORTED lists the known ones.
enum phx_status phx_gguf_family_of(const struct phx_config *config,
                                   const struct phx_gguf_family **out);

/// The hyper-parameters, parsed and checked as a config.json is (config.h); norms get no offset.
enum phx_status phx_gguf_config(const struct phx_gguf *gguf, struct phx_config **out);
/// The same as the text of a config.json, to be freed, of a model whose matrices are in a float
/// type; PHX_DTYPE_COUNT: what fits the file's. rope_freqs become longrope with the same factors
/// for all lengths. Its norms are without the family's offset.
enum phx_status phx_gguf_config_text(const struct phx_gguf *gguf, enum phx_dtype matrices,
                                     char **out);

/// The keys of `config`, for a file of its own. PHX_UNSUPPORTED names what a GGUF cannot say;
/// `folder` is where the model comes from.
enum phx_status phx_gguf_write_config(struct phx_gguf_writer *writer, const char *folder,
                                      const struct phx_gguf_family *family,
                                      const struct phx_config *config);

/// What a rotation divides its frequencies by, as tensors of a GGUF.
struct phx_gguf_factors {
    int n;                ///< tensors
    const char *names[2]; ///< rope_freqs; or rope_factors_short and rope_factors_long
    int32_t count;        ///< numbers in each: R/2
    float *values[2];     ///< owned
};
/// Of llama3 and longrope; else none.
enum phx_status phx_gguf_factors_create(const struct phx_config *config,
                                        struct phx_gguf_factors *out);
void phx_gguf_factors_free(struct phx_gguf_factors *factors);

/// All tensors, sorted by name and to be freed with phx_safetensors_free_header(): data in the
/// mapping; a tensor of stacked experts is one for each of them; factors of the rotation, which are
/// part of the config, are left out; a tensor of an unknown name keeps it.
enum phx_status phx_gguf_model_tensors(const struct phx_gguf *gguf, struct phx_file_tensor **out,
                                       size_t *out_n);

/// Where a tensor of a Hugging Face checkpoint is in a GGUF.
struct phx_gguf_place {
    char name[PHX_WEIGHT_NAME_BYTES];
    bool heads;     ///< its rows are those of heads of q or k
    bool stacked;   ///< with those of the other experts, one below the other
    bool is_vector; ///< a matrix of one row in the checkpoint, a vector in the GGUF
    bool is_router; ///< small, and rounding it sends tokens elsewhere: never quantised
    int64_t layer, expert;
};
/// False if it has none.
bool phx_gguf_place(const struct phx_config *config, const char *name, struct phx_gguf_place *out);
/// What the checkpoint calls the like of `name`, which has a place that is stacked, of `expert`.
void phx_gguf_expert_name(const struct phx_config *config, const char *name, int64_t expert,
                          char out[PHX_WEIGHT_NAME_BYTES]);

#endif
