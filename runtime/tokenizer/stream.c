#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/tokenizer/tokenizer_impl.h"

struct phx_text_stream {
    const struct phx_tokenizer *tokenizer;
    struct phx_decoding *decoding;
    bool skip_special;
    struct phx_bytes text; /* what is being handed out */
    /* What the prefix alone would end in but the decoding still holds back. It belongs to the
     * prefix, unless the continuation makes something else of it. */
    struct phx_bytes owed;
};

static enum phx_status push(const struct phx_tokenizer *t, struct phx_decoding *decoding,
                            bool skip_special, int32_t id, struct phx_bytes *out)
{
    if (id < 0 || id >= t->n_tokens) {
        return phx_fail(PHX_USAGE, "the token id %d is out of range: it must be from 0 to %d", id,
                        t->n_tokens - 1);
    }
    const struct phx_token *token = &t->tokens[id];
    /* The library compares texts, and so keeps special tokens that the normalizer changes. */
    if (!token->text.data || (token->special && skip_special)) return PHX_OK;
    return phx_decoding_push(decoding, token->text.data, token->text.n, out);
}

static enum phx_status decode(const struct phx_tokenizer *tokenizer, const int32_t *ids, size_t n,
                              bool skip_special, bool within, char **out, size_t *out_n)
{
    struct phx_decoding *decoding = NULL;
    struct phx_bytes text = {0};
    enum phx_status status;
    PHX_TRY_GOTO(phx_decoding_create(&tokenizer->decoder, &decoding), done);
    if (within) phx_decoding_begin_within(decoding);
    for (size_t i = 0; i < n; i++) {
        PHX_TRY_GOTO(push(tokenizer, decoding, skip_special, ids[i], &text), done);
    }
    PHX_TRY_GOTO(phx_decoding_finish(decoding, &text), done);
    PHX_TRY_GOTO(phx_bytes_append(&text, "", 1), done);
    *out = text.data;
    *out_n = text.n - 1;
    text.data = NULL;
done:
    phx_decoding_destroy(decoding);
    free(text.data);
    return status;
}

enum phx_status phx_tokenizer_decode(const struct phx_tokenizer *tokenizer, const int32_t *ids,
                                     size_t n, bool skip_special, char **out_text,
                                     size_t *out_bytes)
{
    return decode(tokenizer, ids, n, skip_special, false, out_text, out_bytes);
}

enum phx_status phx_tokenizer_bytes(const struct phx_tokenizer *tokenizer, int32_t id,
                                    char **out_bytes, size_t *out_n)
{
    return decode(tokenizer, &id, 1, false, true, out_bytes, out_n);
}

static enum phx_status push_prefix(struct phx_text_stream *stream, const int32_t *ids, size_t n)
{
    char *whole;
    size_t bytes;
    for (size_t i = 0; i < n; i++) {
        PHX_TRY(
            push(stream->tokenizer, stream->decoding, stream->skip_special, ids[i], &stream->text));
    }
    PHX_TRY(phx_tokenizer_decode(stream->tokenizer, ids, n, stream->skip_special, &whole, &bytes));
    size_t certain = stream->text.n;
    enum phx_status status = phx_bytes_append(&stream->owed, whole + certain, bytes - certain);
    free(whole);
    return status;
}

enum phx_status phx_text_stream_create(const struct phx_tokenizer *tokenizer,
                                       const int32_t *prefix_ids, size_t n_prefix,
                                       bool skip_special, struct phx_text_stream **out)
{
    struct phx_text_stream *stream = calloc(1, sizeof *stream);
    if (!stream) return phx_fail(PHX_OUT_OF_MEMORY, "no memory to decode a text");
    stream->tokenizer = tokenizer;
    stream->skip_special = skip_special;
    enum phx_status status = phx_decoding_create(&tokenizer->decoder, &stream->decoding);
    if (status == PHX_OK && n_prefix) status = push_prefix(stream, prefix_ids, n_prefix);
    if (status != PHX_OK) {
        phx_text_stream_destroy(stream);
        return status;
    }
    *out = stream;
    return PHX_OK;
}

void phx_text_stream_destroy(struct phx_text_stream *stream)
{
    if (!stream) return;
    phx_decoding_destroy(stream->decoding);
    free(stream->text.data);
    free(stream->owed.data);
    free(stream);
}

/* Hand out the text, less the characters that are owed to the prefix. */
static void hand_out(struct phx_text_stream *stream, const char **out_text, size_t *out_bytes)
{
    const struct phx_bytes *text = &stream->text;
    struct phx_bytes *owed = &stream->owed;
    size_t most = text->n < owed->n ? text->n : owed->n, n = 0;
    while (n < most) {
        size_t bytes = phx_utf8_bytes(text->data + n);
        if (bytes > most - n || memcmp(text->data + n, owed->data + n, bytes) != 0) break;
        n += bytes;
    }
    bool differs = n < most;
    owed->n = differs ? 0 : owed->n - n;
    if (owed->n && n) memmove(owed->data, owed->data + n, owed->n);
    *out_bytes = text->n - n;
    *out_text = *out_bytes ? text->data + n : "";
}

enum phx_status phx_text_stream_push(struct phx_text_stream *stream, int32_t id,
                                     const char **out_text, size_t *out_bytes)
{
    stream->text.n = 0;
    PHX_TRY(push(stream->tokenizer, stream->decoding, stream->skip_special, id, &stream->text));
    hand_out(stream, out_text, out_bytes);
    return PHX_OK;
}

enum phx_status phx_text_stream_flush(struct phx_text_stream *stream, const char **out_text,
                                      size_t *out_bytes)
{
    stream->text.n = 0;
    PHX_TRY(phx_decoding_finish(stream->decoding, &stream->text));
    hand_out(stream, out_text, out_bytes);
    return PHX_OK;
}
