#include "runtime/tokenizer/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/json.h"
#include "runtime/tokenizer/tokenizer_impl.h"

enum phx_status phx_tokenizer_parse(const char *name, const char *json, size_t json_bytes,
                                    struct phx_tokenizer **out)
{
    json_t *root;
    PHX_TRY(phx_json_parse(name, json, json_bytes, &root));
    enum phx_status status = phx_tokenizer_from_json(name, root, out);
    json_decref(root);
    return status;
}

enum phx_status phx_tokenizer_load(const char *directory, struct phx_tokenizer **out)
{
    char *path;
    json_t *root;
    if (asprintf(&path, "%s/tokenizer.json", directory) < 0) {
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the path of %s", directory);
    }
    enum phx_status status = phx_json_load(path, &root);
    if (status == PHX_OK) {
        status = phx_tokenizer_from_json(path, root, out);
        json_decref(root);
    }
    free(path);
    return status;
}

void phx_tokenizer_destroy(struct phx_tokenizer *tokenizer)
{
    if (!tokenizer) return;
    phx_added_set_destroy(&tokenizer->originals);
    phx_added_set_destroy(&tokenizer->normalized);
    for (size_t i = 0; i < tokenizer->n_added; i++) {
        free(tokenizer->added[i].content);
        free(tokenizer->added[i].match);
    }
    free(tokenizer->added);
    free(tokenizer->tokens);
    phx_bpe_destroy(&tokenizer->bpe);
    free(tokenizer->vocabulary);
    phx_steps_destroy(&tokenizer->normalizer);
    phx_steps_destroy(&tokenizer->pre_tokenizer);
    free(tokenizer->template.data);
    phx_decoder_destroy(&tokenizer->decoder);
    free(tokenizer);
}

int32_t phx_tokenizer_size(const struct phx_tokenizer *tokenizer)
{
    return tokenizer->n_tokens;
}

int32_t phx_tokenizer_id(const struct phx_tokenizer *tokenizer, const char *text)
{
    for (size_t i = 0; i < tokenizer->n_added; i++) {
        if (strcmp(tokenizer->added[i].content, text) == 0) return tokenizer->added[i].id;
    }
    return phx_bpe_find(&tokenizer->bpe, text, strlen(text));
}

bool phx_tokenizer_is_special(const struct phx_tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && id < tokenizer->n_tokens && tokenizer->tokens[id].special;
}

/* The ids of the text alone, without the template. */
static enum phx_status encode_text(const struct phx_tokenizer *t, const char *data, size_t n,
                                   struct phx_ids *ids)
{
    struct phx_text text;
    struct phx_bpe_scratch *scratch = NULL;
    enum phx_status status;
    PHX_TRY(phx_text_create(data, n, &text));
    PHX_TRY_GOTO(phx_added_set_split(&t->originals, &text), done);
    PHX_TRY_GOTO(phx_steps_run(&t->normalizer, &text), done);
    PHX_TRY_GOTO(phx_added_set_split(&t->normalized, &text), done);
    PHX_TRY_GOTO(phx_steps_run(&t->pre_tokenizer, &text), done);
    PHX_TRY_GOTO(phx_bpe_scratch_create(&scratch), done);
    for (size_t i = 0; i < text.pieces.n; i++) {
        const struct phx_piece *piece = &text.pieces.data[i];
        PHX_TRY_GOTO(piece->id >= 0 ? phx_ids_append(ids, piece->id)
                                    : phx_bpe_encode(&t->bpe, scratch,
                                                     text.bytes.data + piece->start, piece->n, ids),
                     done);
    }
done:
    phx_bpe_scratch_destroy(scratch);
    phx_text_destroy(&text);
    return status;
}

/* Lay the template around the ids, or only what it says about the text itself. */
static enum phx_status apply_template(const struct phx_ids *template, bool add_special,
                                      const struct phx_ids *ids, struct phx_ids *out)
{
    for (size_t i = 0; i < template->n; i++) {
        int32_t id = template->data[i];
        if (id >= 0) {
            if (add_special) PHX_TRY(phx_ids_append(out, id));
        } else if (ids->n) {
            PHX_TRY(PHX_RESERVE(out, ids->n));
            memcpy(out->data + out->n, ids->data, ids->n * sizeof *ids->data);
            out->n += ids->n;
        }
    }
    return PHX_OK;
}

enum phx_status phx_tokenizer_encode(const struct phx_tokenizer *tokenizer, const char *text,
                                     size_t text_bytes, bool add_special, int32_t **out_ids,
                                     size_t *out_n)
{
    size_t valid = phx_utf8_valid(text, text_bytes);
    if (valid < text_bytes) {
        return phx_fail(PHX_USAGE, "the text is not valid UTF-8: byte 0x%02x at offset %zu",
                        (unsigned char)text[valid], valid);
    }
    struct phx_ids ids = {0}, whole = {0};
    enum phx_status status;
    PHX_TRY_GOTO(encode_text(tokenizer, text, text_bytes, &ids), done);
    PHX_TRY_GOTO(apply_template(&tokenizer->template, add_special, &ids, &whole), done);
    *out_ids = whole.data;
    *out_n = whole.n;
    whole.data = NULL;
done:
    free(ids.data);
    free(whole.data);
    return status;
}
