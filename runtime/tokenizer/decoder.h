/// \file decoder.h
/// Tokens back to text, one after the other: a chain of stages, each with as little state as it
/// needs.
///
/// What comes out never changes any more and is whole characters. Decoding a whole text is pushing
/// all its tokens, so the text of a stream is that of the whole by construction.
#ifndef PHX_RUNTIME_TOKENIZER_DECODER_H
#define PHX_RUNTIME_TOKENIZER_DECODER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "runtime/tokenizer/buffer.h"
#include "runtime/tokenizer/pattern.h"

enum phx_stage_kind {
    PHX_STAGE_BYTE_LEVEL,    ///< joins all tokens and takes their characters for bytes
    PHX_STAGE_BYTE_FALLBACK, ///< runs of <0xHH> to the text of the bytes, or one U+FFFD each
    PHX_STAGE_METASPACE, ///< content to a space, or to nothing in the first token if `drop_first`
    PHX_STAGE_REPLACE,   ///< pattern by content
    PHX_STAGE_FUSE,      ///< joins all tokens
    PHX_STAGE_STRIP,     ///< up to `start` and `stop` contents off the ends of each token
    PHX_STAGE_SPACES,    ///< a space between tokens
    PHX_STAGE_PIECES,    ///< as sentencepiece: U+2581 to a space, runs of <0xHH> to the text of the
                         ///< bytes if `bytes`; drop_first, drop_all
};

struct phx_stage {
    enum phx_stage_kind kind;
    char *content;               ///< owned
    struct phx_pattern *pattern; ///< owned
    int64_t start, stop;
    bool drop_first; ///< pieces: the U+2581 that the first token begins with
    bool drop_all;   ///< and also those of the next tokens, until there is text
    bool bytes;
};

/// Immutable once filled. Byte level, byte fallback, the replacement of an expression and pieces
/// need whole tokens: they may not come after what joins all tokens.
struct phx_decoder {
    struct phx_stage *data;
    size_t n, capacity;
};

void phx_decoder_destroy(struct phx_decoder *decoder);

/// Where the decoding of one text stands.
struct phx_decoding;
/// The decoder must outlive it.
enum phx_status phx_decoding_create(const struct phx_decoder *decoder, struct phx_decoding **out);
void phx_decoding_destroy(struct phx_decoding *decoding);
/// Before the first token: take it for one in the middle of a text, and pass on bytes as they are,
/// whether they are text or not.
void phx_decoding_begin_within(struct phx_decoding *decoding);
/// Append to `out` what the next token, valid UTF-8, makes certain.
enum phx_status phx_decoding_push(struct phx_decoding *decoding, const char *token, size_t n,
                                  struct phx_bytes *out);
/// Append what is still held back. Nothing may follow.
enum phx_status phx_decoding_finish(struct phx_decoding *decoding, struct phx_bytes *out);

#endif
