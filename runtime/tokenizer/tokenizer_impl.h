/// \file tokenizer_impl.h
/// What is in a tokenizer. For the files of this folder.
///
/// Encoding: text -> cut at added tokens -> normalizer -> cut at normalized added tokens ->
/// pre-tokenizer -> the model on each piece -> template. Decoding: ids -> tokens' texts -> decoder.
#ifndef PHX_RUNTIME_TOKENIZER_TOKENIZER_IMPL_H
#define PHX_RUNTIME_TOKENIZER_TOKENIZER_IMPL_H

#include <jansson.h>

#include "runtime/tokenizer/added.h"
#include "runtime/tokenizer/bpe.h"
#include "runtime/tokenizer/decoder.h"
#include "runtime/tokenizer/steps.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/unigram.h"
#include "runtime/tokenizer/vocabulary.h"

struct phx_token {
    struct phx_slice text; ///< what the decoder gets; data is NULL where no token has this id
    bool special;
};

/// Immutable once parsed.
struct phx_tokenizer {
    char *texts; ///< of the model's tokens
    struct phx_vocabulary vocabulary;
    struct phx_bpe bpe;         ///< the model: one of these two is there
    struct phx_unigram unigram; ///< (has a vocabulary)
    struct phx_added *added;    ///< [n_added]
    size_t n_added;
    struct phx_added_set originals, normalized; ///< of added
    struct phx_token *tokens;                   ///< [n_tokens] by id, added tokens too
    int32_t n_tokens;
    struct phx_steps normalizer, pre_tokenizer;
    bool has_template;       ///< the file has one; else template is {-1}
    struct phx_ids template; ///< what add_special makes of a text: ids, and -1 for the text's own
    struct phx_decoder decoder;
};

/// Append what the components of `json` ask for; NULL and null ask for nothing. What is appended is
/// the caller's, also on failure. `file` is for messages.
enum phx_status phx_normalizer_parse(const char *file, const json_t *json, struct phx_steps *steps);
enum phx_status phx_pre_tokenizer_parse(const char *file, const json_t *json,
                                        struct phx_steps *steps);
enum phx_status phx_decoder_parse(const char *file, const json_t *json,
                                  struct phx_decoder *decoder);

/// Tables are indexed by id; the largest vocabularies have a million tokens.
enum { PHX_MAX_TOKEN_ID = (1 << 22) - 1 };

/// The sentence for two tokens with one id: file, both texts, id.
#define PHX_SAME_ID "%s: the tokens \"%s\" and \"%s\" have the same id %d"

/// The steps that are common to all formats, on a tokenizer whose added tokens, model and steps are
/// there. PHX_BAD_DATA if added tokens and vocabulary contradict each other.
enum phx_status phx_tokenizer_assemble(const char *file, struct phx_tokenizer *tokenizer);

/// The template: a text between two tokens; -1 for none.
enum phx_status phx_template_fill(int32_t bos, int32_t eos, struct phx_tokenizer *tokenizer);

/// A whole tokenizer.json.
enum phx_status phx_tokenizer_from_json(const char *file, const json_t *json,
                                        struct phx_tokenizer **out);

#endif
