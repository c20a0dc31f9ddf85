#include "runtime/tokenizer/tokenizer.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/check.h"
#include "runtime/gguf.h"
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

static enum phx_status load_json(const char *path, struct phx_tokenizer **out)
{
    json_t *root;
    PHX_TRY(phx_json_load(path, &root));
    enum phx_status status = phx_tokenizer_from_json(path, root, out);
    json_decref(root);
    return status;
}

static enum phx_status read_file(const char *path, struct phx_bytes *out)
{
    FILE *file = fopen(path, "rb");
    if (!file) return phx_fail(PHX_IO, "%s: cannot be opened: %s", path, strerror(errno));
    enum phx_status status = PHX_OK;
    for (;;) {
        PHX_TRY_GOTO(PHX_RESERVE(out, 1 << 16), done);
        size_t n = fread(out->data + out->n, 1, 1 << 16, file);
        out->n += n;
        if (n == 0) break;
    }
    if (ferror(file)) status = phx_fail(PHX_IO, "%s: cannot be read: %s", path, strerror(errno));
done:
    fclose(file);
    return status;
}

/* What tokenizer_config.json, if it is there, says about the tokens around a text. */
static enum phx_status load_options(const char *path, struct phx_spm_options *options)
{
    json_t *root;
    if (access(path, F_OK) != 0) return PHX_OK;
    PHX_TRY(phx_json_load(path, &root));
    struct phx_json json = {path, "", root};
    enum phx_status status = phx_json_bool(&json, "add_bos_token", &options->add_bos);
    if (status == PHX_OK) status = phx_json_bool(&json, "add_eos_token", &options->add_eos);
    json_decref(root);
    return status;
}

static enum phx_status load_spm(const char *path, const char *config_path,
                                struct phx_tokenizer **out)
{
    struct phx_spm_options options = {.add_bos = true};
    struct phx_bytes bytes = {0};
    enum phx_status status = load_options(config_path, &options);
    if (status == PHX_OK) status = read_file(path, &bytes);
    if (status == PHX_OK) {
        status = phx_tokenizer_parse_spm(path, bytes.data, bytes.n, &options, out);
    }
    free(bytes.data);
    return status;
}

static enum phx_status load_gguf(const char *path, struct phx_tokenizer **out)
{
    struct phx_gguf *gguf;
    PHX_TRY(phx_gguf_open(path, &gguf));
    enum phx_status status = phx_tokenizer_from_gguf(gguf, out);
    phx_gguf_destroy(gguf);
    return status;
}

enum phx_status phx_tokenizer_load(const char *model, struct phx_tokenizer **out)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer.model",
                                        "tokenizer_config.json"};
    char paths[3][PATH_MAX];
    if (phx_gguf_is(model)) return load_gguf(model, out);
    for (int i = 0; i < 3; i++) {
        int n = snprintf(paths[i], sizeof paths[i], "%s/%s", model, names[i]);
        if (n >= (int)sizeof paths[i]) {
            return phx_fail(PHX_USAGE, "the path %s is too long: at most %d bytes", model,
                            PATH_MAX - 32);
        }
    }
    if (access(paths[0], F_OK) == 0) return load_json(paths[0], out);
    if (access(paths[1], F_OK) == 0) return load_spm(paths[1], paths[2], out);
    return phx_fail(PHX_NOT_FOUND, "%s: there is neither a tokenizer.json nor a tokenizer.model",
                    model);
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
    phx_unigram_destroy(&tokenizer->unigram);
    phx_vocabulary_destroy(&tokenizer->vocabulary);
    free(tokenizer->texts);
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
    return phx_vocabulary_find(&tokenizer->vocabulary, text, strlen(text));
}

bool phx_tokenizer_is_special(const struct phx_tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && id < tokenizer->n_tokens && tokenizer->tokens[id].special;
}

static enum phx_status run_steps(const struct phx_tokenizer *t, struct phx_text *text)
{
    PHX_TRY(phx_added_set_split(&t->originals, text));
    PHX_TRY(phx_steps_run(&t->normalizer, text));
    PHX_TRY(phx_added_set_split(&t->normalized, text));
    return phx_steps_run(&t->pre_tokenizer, text);
}

/* The ids of the text alone, without the template. */
static enum phx_status encode_text(const struct phx_tokenizer *t, const char *data, size_t n,
                                   struct phx_ids *ids)
{
    struct phx_text text;
    struct phx_bpe_scratch *words = NULL;
    struct phx_unigram_scratch places = {0};
    enum phx_status status;
    PHX_TRY(phx_text_create(data, n, &text));
    PHX_TRY_GOTO(run_steps(t, &text), done);
    PHX_TRY_GOTO(phx_bpe_scratch_create(&words), done);
    for (size_t i = 0; i < text.pieces.n; i++) {
        const struct phx_piece *piece = &text.pieces.data[i];
        const char *start = text.bytes.data + piece->start;
        if (piece->id >= 0) {
            PHX_TRY_GOTO(phx_ids_append(ids, piece->id), done);
        } else if (t->unigram.vocabulary) {
            PHX_TRY_GOTO(phx_unigram_encode(&t->unigram, &places, start, piece->n, ids), done);
        } else {
            PHX_TRY_GOTO(phx_bpe_encode(&t->bpe, words, start, piece->n, ids), done);
        }
    }
done:
    free(places.data);
    phx_bpe_scratch_destroy(words);
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
