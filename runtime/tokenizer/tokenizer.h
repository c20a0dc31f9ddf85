/// \file tokenizer.h
/// Text to ids and back: as the `tokenizers` library does it for a tokenizer.json, as sentencepiece
/// for a tokenizer.model, and as the model's own files for a vocabulary in a GGUF.
///
/// A tokenizer is immutable after creation; encode and decode may be called from several threads at
/// once.
#ifndef PHX_RUNTIME_TOKENIZER_TOKENIZER_H
#define PHX_RUNTIME_TOKENIZER_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"

struct phx_tokenizer;

/// From the text of a tokenizer.json; `name` is what errors call the file. A component that is not
/// known is named in the error (PHX_UNSUPPORTED); a file that contradicts itself is PHX_BAD_DATA.
enum phx_status phx_tokenizer_parse(const char *name, const char *json, size_t json_bytes,
                                    struct phx_tokenizer **out);

struct phx_spm_options {
    bool add_bos, add_eos; ///< the tokens that add_special adds, if the model has them
};
/// From the bytes of sentencepiece's tokenizer.model, of type UNIGRAM or BPE. Differs from
/// sentencepiece in that control pieces are recognised in the text: they cut it, and each part is
/// normalized on its own.
enum phx_status phx_tokenizer_parse_spm(const char *name, const char *data, size_t n,
                                        const struct phx_spm_options *options,
                                        struct phx_tokenizer **out);

struct phx_gguf;
/// From the metadata of a GGUF: tokenizer.ggml.model "llama" (pieces with scores, as sentencepiece)
/// or "gpt2" (merges at byte level, cut into words as tokenizer.ggml.pre says). Nothing of it is
/// needed afterwards. PHX_UNSUPPORTED names another model or pre.
enum phx_status phx_tokenizer_from_gguf(const struct phx_gguf *gguf, struct phx_tokenizer **out);

/// The model's: of a GGUF file, or of a folder: tokenizer.json, else tokenizer.model, to which
/// add_bos_token (if not said: true) and add_eos_token (false) of tokenizer_config.json belong.
/// PHX_NOT_FOUND if there is neither.
enum phx_status phx_tokenizer_load(const char *model, struct phx_tokenizer **out);
void phx_tokenizer_destroy(struct phx_tokenizer *tokenizer);

/// One more than the largest id.
int32_t phx_tokenizer_size(const struct phx_tokenizer *tokenizer);
/// The id of a token's exact text, special and added tokens included; -1 if there is none.
int32_t phx_tokenizer_id(const struct phx_tokenizer *tokenizer, const char *text);
bool phx_tokenizer_is_special(const struct phx_tokenizer *tokenizer, int32_t id);

/// Ids of `text`, which must be valid UTF-8 (PHX_USAGE with the offset otherwise). With
/// `add_special` the post-processor's tokens (BOS, ...) are added. Special tokens written out in
/// the text are recognised. *out_ids is malloc'd, the caller frees it; NULL-safe for zero ids.
enum phx_status phx_tokenizer_encode(const struct phx_tokenizer *tokenizer, const char *text,
                                     size_t text_bytes, bool add_special, int32_t **out_ids,
                                     size_t *out_n);

/// The text of ids, malloc'd and zero-terminated (it may hold zero bytes: *out_bytes counts). Ids
/// out of range are PHX_USAGE; one within it that is no token's gives nothing. Byte sequences that
/// are not UTF-8 become U+FFFD as the library does it.
enum phx_status phx_tokenizer_decode(const struct phx_tokenizer *tokenizer, const int32_t *ids,
                                     size_t n, bool skip_special, char **out_text,
                                     size_t *out_bytes);

/// The bytes that the token is in the middle of a text, malloc'd: also where they are no whole
/// characters. As phx_tokenizer_decode() otherwise, special tokens included.
enum phx_status phx_tokenizer_bytes(const struct phx_tokenizer *tokenizer, int32_t id,
                                    char **out_bytes, size_t *out_n);

/// Decodes one continuation id by id and hands out text that will not change any more: never half a
/// character. The concatenation of all pieces and the flush equals what decode gives for the whole
/// sequence minus what it gives for the prefix (from the first character that differs, where the
/// prefix ends within one). A run of byte-fallback tokens comes when it is over: one bad byte makes
/// U+FFFD of all of it.
struct phx_text_stream;
/// `prefix_ids` (copied; may be none) come before the continuation and are not handed out.
enum phx_status phx_text_stream_create(const struct phx_tokenizer *tokenizer,
                                       const int32_t *prefix_ids, size_t n_prefix,
                                       bool skip_special, struct phx_text_stream **out);
/// *out_text is valid until the next call; it may be empty.
enum phx_status phx_text_stream_push(struct phx_text_stream *stream, int32_t id,
                                     const char **out_text, size_t *out_bytes);
/// What is still held back (an incomplete character becomes U+FFFD).
enum phx_status phx_text_stream_flush(struct phx_text_stream *stream, const char **out_text,
                                      size_t *out_bytes);
void phx_text_stream_destroy(struct phx_text_stream *stream);

#endif
