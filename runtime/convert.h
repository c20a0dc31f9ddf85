/// \file convert.h
/// Checkpoints from one format into another: a folder of safetensors into a GGUF file, and back.
#ifndef PHX_RUNTIME_CONVERT_H
#define PHX_RUNTIME_CONVERT_H

#include "kernels/base/dtype.h"
#include "kernels/base/status.h"
#include "runtime/config.h"
#include "runtime/safetensors.h"

/// What matrices become: PHX_DTYPE_COUNT: as they are (back from a GGUF, quantised ones bf16).
/// Vectors become f32 in a GGUF and stay what they are back. A matrix whose rows are no whole
/// blocks becomes f16 in place of a quantised type.
struct phx_convert_options {
    enum phx_dtype matrices; ///< f32, f16, bf16; into a GGUF also Q8_0 and Q4_0
};

/// `folder` holds config.json, safetensors, and perhaps tokenizer.json, which the GGUF takes along
/// as it is (tokenizer.huggingface.json), and a chat template (runtime/chat.h). The rows of each
/// head of q and k are interleaved and norms made whole where the architecture wants it, experts
/// stacked, factors of the rotation written as tensors. Routers become f32 where matrices change
/// their type. PHX_UNSUPPORTED names what a GGUF cannot say; sampling defaults of
/// generation_config.json are not taken along.
enum phx_status phx_convert_to_gguf(const char *folder, const char *file,
                                    const struct phx_convert_options *options);

/// Writes config.json, model.safetensors and, if the GGUF has one, tokenizer.json into `folder`,
/// which must be there; beside that a chat template in tokenizer_config.json. All of what changes
/// its type or order is in memory at once. rope_freqs become longrope of the same factors for all
/// lengths.
enum phx_status phx_convert_from_gguf(const char *file, const char *folder,
                                      const struct phx_convert_options *options);

#endif
