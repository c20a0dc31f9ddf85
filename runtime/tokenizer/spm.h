/// \file spm.h
/// A vocabulary of sentencepiece, wherever it was read, as a tokenizer. For the files of this
/// folder.
#ifndef PHX_RUNTIME_TOKENIZER_SPM_H
#define PHX_RUNTIME_TOKENIZER_SPM_H

#include "runtime/tokenizer/tokenizer_impl.h"

/// As sentencepiece_model.proto numbers them, and GGUF.
enum phx_spm_type {
    PHX_SPM_NORMAL = 1,
    PHX_SPM_UNKNOWN,
    PHX_SPM_CONTROL,
    PHX_SPM_USER_DEFINED,
    PHX_SPM_UNUSED,
    PHX_SPM_BYTE,
};

struct phx_spm_piece {
    struct phx_slice text; ///< not owned
    float score;
    enum phx_spm_type type;
};

struct phx_spm_pieces {
    struct phx_spm_piece *data; ///< by id
    size_t n, capacity;
};

struct phx_spm {
    const char *file; ///< for messages
    struct phx_spm_pieces pieces;
    bool unigram; ///< else BPE
    bool byte_fallback;
    bool prepends, appends, trims, escapes; ///< see struct phx_spm_rules
    bool cuts_all; ///< as llama.cpp: finds user-defined pieces in the text as it is written, and
                   ///< the unknown one, as if it were a control piece
    struct phx_slice charsmap;
    struct phx_slice unknown_surface; ///< what an unknown token decodes to
    int32_t unknown;                  ///< -1: none
    int32_t bos, eos;                 ///< what add_special adds; -1: nothing
};

/// The vocabulary and the added tokens of *tokenizer. PHX_BAD_DATA if pieces are broken or there
/// twice, PHX_UNSUPPORTED for a piece of an unknown type.
enum phx_status phx_spm_fill_pieces(const struct phx_spm *spm, struct phx_tokenizer *tokenizer);

/// Encoding and decoding are those of sentencepiece, except that control pieces are recognised in
/// the text, as special tokens are; what stands between two of them is normalized on its own.
/// PHX_BAD_DATA for a vocabulary that contradicts itself.
enum phx_status phx_tokenizer_from_spm(const struct phx_spm *spm, struct phx_tokenizer **out);

#endif
