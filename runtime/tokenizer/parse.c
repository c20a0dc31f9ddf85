#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/json.h"
#include "runtime/tokenizer/tokenizer_impl.h"

/* Tables are indexed by id; the largest vocabularies have a million tokens. */
enum { MAX_ID = (1 << 22) - 1 };

static enum phx_status no_memory(const char *file)
{
    return phx_fail(PHX_OUT_OF_MEMORY, "%s: no memory for the tokenizer", file);
}

static enum phx_status check_id(const char *file, const char *text, const json_t *value)
{
    json_int_t id = json_integer_value(value);
    if (json_is_integer(value) && id >= 0 && id <= MAX_ID) return PHX_OK;
    char found[PHX_JSON_TEXT_BYTES];
    return phx_fail(PHX_BAD_DATA, "%s: the id of the token \"%s\" is %s; it must be from 0 to %d",
                    file, text, value ? phx_json_text(value, found) : "missing", MAX_ID);
}

static enum phx_status used_twice(const char *file, int32_t id, const char *a, const char *b)
{
    return phx_fail(PHX_BAD_DATA, "%s: the tokens \"%s\" and \"%s\" have the same id %d", file, a,
                    b, id);
}

static enum phx_status parse_added_token(const char *file, const json_t *value,
                                         struct phx_added *token)
{
    struct phx_json json = {file, "added_tokens: ", value};
    const char *content = NULL;
    if (!json_is_object(value)) {
        return phx_fail(PHX_BAD_DATA, "%s: added_tokens must hold objects {...}", file);
    }
    PHX_TRY(phx_json_require(&json, "content"));
    PHX_TRY(phx_json_string(&json, "content", &content));
    if (!*content) return phx_fail(PHX_BAD_DATA, "%s: an added token has no content", file);
    PHX_TRY(check_id(file, content, json_object_get(value, "id")));
    token->id = (int32_t)json_integer_value(json_object_get(value, "id"));
    PHX_TRY(phx_json_bool(&json, "single_word", &token->single_word));
    PHX_TRY(phx_json_bool(&json, "lstrip", &token->lstrip));
    PHX_TRY(phx_json_bool(&json, "rstrip", &token->rstrip));
    PHX_TRY(phx_json_bool(&json, "special", &token->special));
    token->normalized = !token->special;
    PHX_TRY(phx_json_bool(&json, "normalized", &token->normalized));
    token->content = strdup(content);
    return token->content ? PHX_OK : no_memory(file);
}

static enum phx_status parse_added(const char *file, const json_t *list, struct phx_tokenizer *t)
{
    t->added = calloc(json_array_size(list) + 1, sizeof *t->added);
    if (!t->added) return no_memory(file);
    for (size_t i = 0; i < json_array_size(list); i++) {
        t->n_added++; /* also if it fails half-way: what it owns is freed */
        PHX_TRY(parse_added_token(file, json_array_get(list, i), &t->added[i]));
        if (t->added[i].id >= t->n_tokens) t->n_tokens = t->added[i].id + 1;
    }
    return PHX_OK;
}

static enum phx_status parse_vocabulary(const char *file, json_t *vocabulary, size_t n_merges,
                                        struct phx_tokenizer *t)
{
    size_t bytes = 0;
    const char *text;
    json_t *value;
    json_object_foreach(vocabulary, text, value)
    {
        PHX_TRY(check_id(file, text, value));
        int32_t id = (int32_t)json_integer_value(value);
        if (id >= t->n_tokens) t->n_tokens = id + 1;
        bytes += strlen(text) + 1;
    }
    t->vocabulary = malloc(bytes + 1);
    if (!t->vocabulary) return no_memory(file);
    PHX_TRY(phx_bpe_create(t->n_tokens, json_object_size(vocabulary), n_merges, &t->bpe));
    char *next = t->vocabulary;
    json_object_foreach(vocabulary, text, value)
    {
        int32_t id = (int32_t)json_integer_value(value);
        size_t n = strlen(text);
        if (t->bpe.tokens[id].data) return used_twice(file, id, t->bpe.tokens[id].data, text);
        memcpy(next, text, n + 1);
        phx_bpe_add_token(&t->bpe, (struct phx_slice){next, n}, id);
        next += n + 1;
    }
    return PHX_OK;
}

static enum phx_status find_token(const char *file, const struct phx_bpe *bpe, const char *what,
                                  const char *text, size_t n, int32_t *out)
{
    *out = phx_bpe_find(bpe, text, n);
    if (*out >= 0) return PHX_OK;
    return phx_fail(PHX_BAD_DATA, "%s: %s names the token \"%.*s\", which is not in the vocabulary",
                    file, what, (int)n, text);
}

/* A merge is ["a", "b"] or "a b". */
static enum phx_status split_merge(const char *file, const json_t *merge, struct phx_slice *left,
                                   struct phx_slice *right)
{
    const char *first = json_string_value(json_array_get(merge, 0));
    const char *second = json_string_value(json_array_get(merge, 1));
    const char *pair = json_string_value(merge);
    const char *space = pair ? strchr(pair, ' ') : NULL;
    if (json_array_size(merge) == 2 && first && second && *first && *second) {
        *left = (struct phx_slice){first, strlen(first)};
        *right = (struct phx_slice){second, strlen(second)};
        return PHX_OK;
    }
    if (space && space > pair && space[1] && !strchr(space + 1, ' ')) {
        *left = (struct phx_slice){pair, (size_t)(space - pair)};
        *right = (struct phx_slice){space + 1, strlen(space + 1)};
        return PHX_OK;
    }
    char found[PHX_JSON_TEXT_BYTES];
    return phx_fail(PHX_BAD_DATA, "%s: %s is no merge; it must be [\"a\", \"b\"] or \"a b\"", file,
                    phx_json_text(merge, found));
}

static enum phx_status parse_merges(const char *file, const json_t *merges, struct phx_bpe *bpe)
{
    struct phx_bytes joined = {0};
    enum phx_status status = PHX_OK;
    for (size_t i = 0; i < json_array_size(merges); i++) {
        const json_t *merge = json_array_get(merges, i);
        const char *text = json_string_value(merge);
        if (text && strncmp(text, "#version", strlen("#version")) == 0) continue;
        struct phx_slice left = {0}, right = {0};
        int32_t left_id, right_id, id;
        joined.n = 0;
        PHX_TRY_GOTO(split_merge(file, merge, &left, &right), done);
        PHX_TRY_GOTO(find_token(file, bpe, "a merge", left.data, left.n, &left_id), done);
        PHX_TRY_GOTO(find_token(file, bpe, "a merge", right.data, right.n, &right_id), done);
        PHX_TRY_GOTO(phx_bytes_append(&joined, left.data, left.n), done);
        PHX_TRY_GOTO(phx_bytes_append(&joined, right.data, right.n), done);
        PHX_TRY_GOTO(find_token(file, bpe, "a merge", joined.data, joined.n, &id), done);
        phx_bpe_add_merge(bpe, left_id, right_id, (uint32_t)i, id);
    }
done:
    free(joined.data);
    return status;
}

/* Refuse other models, and what changes how this one makes words. */
static enum phx_status check_model(const struct phx_json *model)
{
    const char *type = "BPE", *prefix = "", *suffix = "";
    double dropout = 0;
    PHX_TRY(phx_json_string(model, "type", &type));
    PHX_TRY(phx_json_string(model, "continuing_subword_prefix", &prefix));
    PHX_TRY(phx_json_string(model, "end_of_word_suffix", &suffix));
    PHX_TRY(phx_json_real(model, "dropout", 0, 1, &dropout));
    if (strcmp(type, "BPE") != 0) {
        return phx_fail(PHX_UNSUPPORTED, "%s: a model of type %s is not supported; known is BPE",
                        model->file, type);
    }
    if (*prefix || *suffix || dropout > 0) {
        return phx_fail(PHX_UNSUPPORTED, "%s: a BPE model with %s is not supported", model->file,
                        *prefix   ? "continuing_subword_prefix"
                        : *suffix ? "end_of_word_suffix"
                                  : "dropout");
    }
    return PHX_OK;
}

static enum phx_status parse_model(const struct phx_json *json, struct phx_tokenizer *t)
{
    const json_t *object = NULL, *vocabulary = NULL, *merges = NULL;
    PHX_TRY(phx_json_require(json, "model"));
    PHX_TRY(phx_json_object(json, "model", &object));
    struct phx_json model = {json->file, "model.", object};
    PHX_TRY(check_model(&model));
    PHX_TRY(phx_json_require(&model, "vocab"));
    PHX_TRY(phx_json_object(&model, "vocab", &vocabulary));
    PHX_TRY(phx_json_require(&model, "merges"));
    PHX_TRY(phx_json_array(&model, "merges", &merges));
    PHX_TRY(parse_vocabulary(json->file, (json_t *)vocabulary, json_array_size(merges), t));
    PHX_TRY(parse_merges(json->file, merges, &t->bpe));

    const char *unknown = NULL;
    bool byte_fallback = false;
    PHX_TRY(phx_json_bool(&model, "fuse_unk", &t->bpe.fuse_unknown));
    PHX_TRY(phx_json_bool(&model, "ignore_merges", &t->bpe.ignore_merges));
    PHX_TRY(phx_json_bool(&model, "byte_fallback", &byte_fallback));
    PHX_TRY(phx_json_string(&model, "unk_token", &unknown));
    if (unknown) {
        PHX_TRY(find_token(json->file, &t->bpe, "model.unk_token", unknown, strlen(unknown),
                           &t->bpe.unknown));
    }
    for (unsigned byte = 0; byte_fallback && byte < 256; byte++) {
        char text[8];
        int n = snprintf(text, sizeof text, "<0x%02X>", byte);
        t->bpe.byte_ids[byte] = phx_bpe_find(&t->bpe, text, (size_t)n);
    }
    return PHX_OK;
}

/* The content as the normalizer would leave it in a text. */
static enum phx_status normalize_content(const char *file, const struct phx_steps *normalizer,
                                         struct phx_added *token)
{
    struct phx_text text;
    enum phx_status status;
    PHX_TRY(phx_text_create(token->content, strlen(token->content), &text));
    PHX_TRY_GOTO(phx_steps_run(normalizer, &text), done);
    if (text.pieces.n == 0) {
        status =
            phx_fail(PHX_BAD_DATA, "%s: the normalizer leaves nothing of the added token \"%s\"",
                     file, token->content);
        goto done;
    }
    token->match = strndup(text.bytes.data, text.bytes.n);
    if (!token->match) status = no_memory(file);
done:
    phx_text_destroy(&text);
    return status;
}

/* What is searched for, and that the vocabulary agrees. `taken`: an added token has the id. */
static enum phx_status finish_added(const char *file, const struct phx_tokenizer *t, bool taken,
                                    struct phx_added *token)
{
    int32_t known = phx_bpe_find(&t->bpe, token->content, strlen(token->content));
    if (known >= 0 && known != token->id) {
        return phx_fail(PHX_BAD_DATA,
                        "%s: the added token \"%s\" has the id %d, but %d in the vocabulary", file,
                        token->content, token->id, known);
    }
    const char *other = t->tokens[token->id].text.data;
    if (taken || (other && known < 0)) return used_twice(file, token->id, other, token->content);
    if (token->normalized) return normalize_content(file, &t->normalizer, token);
    token->match = strdup(token->content);
    return token->match ? PHX_OK : no_memory(file);
}

/* The table by id: the model's tokens, and over them the added ones. */
static enum phx_status fill_tokens(const char *file, struct phx_tokenizer *t)
{
    t->tokens = calloc((size_t)t->n_tokens + 1, sizeof *t->tokens);
    bool *taken = calloc((size_t)t->n_tokens + 1, sizeof *taken);
    enum phx_status status = PHX_OK;
    if (!t->tokens || !taken) {
        status = no_memory(file);
        goto done;
    }
    for (int32_t id = 0; id < t->n_tokens; id++) t->tokens[id].text = t->bpe.tokens[id];
    for (size_t i = 0; i < t->n_added; i++) {
        struct phx_added *token = &t->added[i];
        PHX_TRY_GOTO(finish_added(file, t, taken[token->id], token), done);
        taken[token->id] = true;
        t->tokens[token->id].text = (struct phx_slice){token->match, strlen(token->match)};
        t->tokens[token->id].special = token->special;
    }
done:
    free(taken);
    return status;
}

static enum phx_status add_template_token(const struct phx_json *template, const json_t *specials,
                                          const char *name, struct phx_tokenizer *t)
{
    const json_t *special = name ? json_object_get(specials, name) : NULL;
    const json_t *ids = json_object_get(special, "ids");
    const json_t *texts = json_object_get(special, "tokens");
    if (!json_is_array(ids) || json_array_size(ids) != json_array_size(texts)) {
        return phx_fail(PHX_BAD_DATA,
                        "%s: the template names the special token \"%s\", but its special_tokens "
                        "have no ids and tokens for it",
                        template->file, name ? name : "");
    }
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const char *text = json_string_value(json_array_get(texts, i));
        json_int_t id = json_integer_value(json_array_get(ids, i));
        if (!json_is_integer(json_array_get(ids, i)) || !text || id < 0 ||
            phx_tokenizer_id(t, text) != id) {
            return phx_fail(PHX_BAD_DATA,
                            "%s: the template says that the token \"%s\" has the id "
                            "%" JSON_INTEGER_FORMAT ", but the vocabulary says %d",
                            template->file, text ? text : "", id,
                            text ? phx_tokenizer_id(t, text) : -1);
        }
        PHX_TRY(phx_ids_append(&t->template, (int32_t)id));
    }
    return PHX_OK;
}

/* TemplateProcessing, of which only the template for a single text matters. */
static enum phx_status parse_template(const struct phx_json *json, struct phx_tokenizer *t)
{
    const json_t *pieces = NULL, *specials = NULL;
    PHX_TRY(phx_json_require(json, "single"));
    PHX_TRY(phx_json_array(json, "single", &pieces));
    PHX_TRY(phx_json_object(json, "special_tokens", &specials));
    if (t->has_template) {
        return phx_fail(PHX_UNSUPPORTED, "%s: more than one TemplateProcessing is not supported",
                        json->file);
    }
    t->has_template = true;
    for (size_t i = 0; i < json_array_size(pieces); i++) {
        const json_t *piece = json_array_get(pieces, i);
        const json_t *token = json_object_get(piece, "SpecialToken");
        const json_t *sequence = json_object_get(piece, "Sequence");
        const char *token_name = json_string_value(json_object_get(token, "id"));
        const char *sequence_name = json_string_value(json_object_get(sequence, "id"));
        if (token) {
            PHX_TRY(add_template_token(json, specials, token_name, t));
        } else if (sequence_name && strcmp(sequence_name, "A") == 0) {
            PHX_TRY(phx_ids_append(&t->template, -1));
        } else {
            char found[PHX_JSON_TEXT_BYTES];
            return phx_fail(PHX_BAD_DATA,
                            "%s: the template for one text holds %s; it must hold a SpecialToken "
                            "or the Sequence A",
                            json->file, phx_json_text(piece, found));
        }
    }
    return PHX_OK;
}

static enum phx_status parse_post_processor(const char *file, const json_t *value,
                                            struct phx_tokenizer *t)
{
    struct phx_json json = {file, "post_processor.", value};
    const char *type = NULL;
    if (!value || json_is_null(value)) return PHX_OK;
    PHX_TRY(phx_json_require(&json, "type"));
    PHX_TRY(phx_json_string(&json, "type", &type));
    if (strcmp(type, "TemplateProcessing") == 0) return parse_template(&json, t);
    if (strcmp(type, "ByteLevel") == 0) return PHX_OK; /* only moves offsets */
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = NULL;
        PHX_TRY(phx_json_require(&json, "processors"));
        PHX_TRY(phx_json_array(&json, "processors", &list));
        for (size_t i = 0; i < json_array_size(list); i++) {
            PHX_TRY(parse_post_processor(file, json_array_get(list, i), t));
        }
        return PHX_OK;
    }
    return phx_fail(PHX_UNSUPPORTED,
                    "%s: a post_processor of type %s is not supported; known are Sequence, "
                    "TemplateProcessing, ByteLevel",
                    file, type);
}

static enum phx_status parse_all(const struct phx_json *json, struct phx_tokenizer *t)
{
    const char *file = json->file, *version = "1.0";
    const json_t *added = NULL;
    PHX_TRY(phx_json_string(json, "version", &version));
    if (strcmp(version, "1.0") != 0) {
        return phx_fail(PHX_UNSUPPORTED, "%s: version \"%s\" is not supported; known is 1.0", file,
                        version);
    }
    PHX_TRY(phx_json_array(json, "added_tokens", &added));
    PHX_TRY(parse_added(file, added, t));
    PHX_TRY(parse_model(json, t));
    PHX_TRY(phx_normalizer_parse(file, phx_json_get(json, "normalizer"), &t->normalizer));
    PHX_TRY(phx_pre_tokenizer_parse(file, phx_json_get(json, "pre_tokenizer"), &t->pre_tokenizer));
    PHX_TRY(phx_decoder_parse(file, phx_json_get(json, "decoder"), &t->decoder));
    PHX_TRY(fill_tokens(file, t));
    PHX_TRY(phx_added_set_create(file, t->added, t->n_added, false, &t->originals));
    PHX_TRY(phx_added_set_create(file, t->added, t->n_added, true, &t->normalized));
    PHX_TRY(parse_post_processor(file, phx_json_get(json, "post_processor"), t));
    return t->has_template ? PHX_OK : phx_ids_append(&t->template, -1);
}

enum phx_status phx_tokenizer_from_json(const char *file, const json_t *json,
                                        struct phx_tokenizer **out)
{
    struct phx_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return no_memory(file);
    enum phx_status status = parse_all(&(struct phx_json){file, "", json}, t);
    if (status != PHX_OK) {
        phx_tokenizer_destroy(t);
        return status;
    }
    *out = t;
    return PHX_OK;
}
