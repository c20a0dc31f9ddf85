#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/json.h"
#include "runtime/tokenizer/tokenizer_impl.h"

static enum phx_status no_memory(const char *file)
{
    return phx_fail(PHX_OUT_OF_MEMORY, "%s: no memory for the tokenizer", file);
}

static enum phx_status check_id(const char *file, const char *text, const json_t *value)
{
    json_int_t id = json_integer_value(value);
    if (json_is_integer(value) && id >= 0 && id <= PHX_MAX_TOKEN_ID) return PHX_OK;
    char found[PHX_JSON_TEXT_BYTES];
    return phx_fail(PHX_BAD_DATA, "%s: the id of the token \"%s\" is %s; it must be from 0 to %d",
                    file, text, value ? phx_json_text(value, found) : "missing", PHX_MAX_TOKEN_ID);
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

static enum phx_status parse_vocabulary(const char *file, json_t *vocabulary,
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
    t->texts = malloc(bytes + 1);
    if (!t->texts) return no_memory(file);
    PHX_TRY(phx_vocabulary_create(t->n_tokens, json_object_size(vocabulary), &t->vocabulary));
    char *next = t->texts;
    json_object_foreach(vocabulary, text, value)
    {
        int32_t id = (int32_t)json_integer_value(value);
        size_t n = strlen(text);
        if (t->vocabulary.tokens[id].data) {
            return phx_fail(PHX_BAD_DATA, PHX_SAME_ID, file, t->vocabulary.tokens[id].data, text,
                            id);
        }
        memcpy(next, text, n + 1);
        phx_vocabulary_add(&t->vocabulary, (struct phx_slice){next, n}, id);
        next += n + 1;
    }
    return PHX_OK;
}

static enum phx_status find_token(const char *file, const struct phx_vocabulary *vocabulary,
                                  const char *what, const char *text, size_t n, int32_t *out)
{
    *out = phx_vocabulary_find(vocabulary, text, n);
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
        PHX_TRY_GOTO(find_token(file, bpe->vocabulary, "a merge", left.data, left.n, &left_id),
                     done);
        PHX_TRY_GOTO(find_token(file, bpe->vocabulary, "a merge", right.data, right.n, &right_id),
                     done);
        PHX_TRY_GOTO(phx_bytes_append(&joined, left.data, left.n), done);
        PHX_TRY_GOTO(phx_bytes_append(&joined, right.data, right.n), done);
        PHX_TRY_GOTO(find_token(file, bpe->vocabulary, "a merge", joined.data, joined.n, &id),
                     done);
        phx_bpe_add_merge(bpe, left_id, right_id, (uint32_t)i, id);
    }
done:
    free(joined.data);
    return status;
}

/* Refuse what changes how BPE makes words. */
static enum phx_status check_bpe(const struct phx_json *model)
{
    const char *prefix = "", *suffix = "";
    double dropout = 0;
    PHX_TRY(phx_json_string(model, "continuing_subword_prefix", &prefix));
    PHX_TRY(phx_json_string(model, "end_of_word_suffix", &suffix));
    PHX_TRY(phx_json_real(model, "dropout", 0, 1, &dropout));
    if (*prefix || *suffix || dropout > 0) {
        return phx_fail(PHX_UNSUPPORTED, "%s: a BPE model with %s is not supported", model->file,
                        *prefix   ? "continuing_subword_prefix"
                        : *suffix ? "end_of_word_suffix"
                                  : "dropout");
    }
    return PHX_OK;
}

static enum phx_status parse_bpe(const struct phx_json *model, struct phx_tokenizer *t)
{
    const json_t *vocabulary = NULL, *merges = NULL;
    PHX_TRY(check_bpe(model));
    PHX_TRY(phx_json_require(model, "vocab"));
    PHX_TRY(phx_json_object(model, "vocab", &vocabulary));
    PHX_TRY(phx_json_require(model, "merges"));
    PHX_TRY(phx_json_array(model, "merges", &merges));
    PHX_TRY(parse_vocabulary(model->file, (json_t *)vocabulary, t));
    PHX_TRY(phx_bpe_create(&t->vocabulary, json_array_size(merges), &t->bpe));
    PHX_TRY(parse_merges(model->file, merges, &t->bpe));

    const char *unknown = NULL;
    bool byte_fallback = false;
    PHX_TRY(phx_json_bool(model, "fuse_unk", &t->bpe.fuse_unknown));
    PHX_TRY(phx_json_bool(model, "ignore_merges", &t->bpe.ignore_merges));
    PHX_TRY(phx_json_bool(model, "byte_fallback", &byte_fallback));
    PHX_TRY(phx_json_string(model, "unk_token", &unknown));
    if (unknown) {
        PHX_TRY(find_token(model->file, &t->vocabulary, "model.unk_token", unknown, strlen(unknown),
                           &t->bpe.unknown));
    }
    if (byte_fallback) phx_vocabulary_find_bytes(&t->vocabulary, t->bpe.byte_ids);
    return PHX_OK;
}

/* The pieces, which are ["text", score] in the order of their ids, as the vocabulary. */
static enum phx_status parse_piece_texts(const char *file, const json_t *pieces,
                                         struct phx_tokenizer *t)
{
    size_t n = json_array_size(pieces), bytes = 0;
    if (n > (size_t)PHX_MAX_TOKEN_ID + 1) {
        return phx_fail(PHX_BAD_DATA, "%s: model.vocab has %zu pieces; at most %d are supported",
                        file, n, PHX_MAX_TOKEN_ID + 1);
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *piece = json_array_get(pieces, i);
        const json_t *text = json_array_get(piece, 0);
        if (json_array_size(piece) != 2 || !json_is_string(text) ||
            !json_is_number(json_array_get(piece, 1))) {
            char found[PHX_JSON_TEXT_BYTES];
            return phx_fail(PHX_BAD_DATA, "%s: piece %zu is %s; it must be [\"text\", score]", file,
                            i, phx_json_text(piece, found));
        }
        bytes += json_string_length(text) + 1;
    }
    if ((int32_t)n > t->n_tokens) t->n_tokens = (int32_t)n;
    t->texts = malloc(bytes + 1);
    if (!t->texts) return no_memory(file);
    PHX_TRY(phx_vocabulary_create(t->n_tokens, n, &t->vocabulary));
    char *next = t->texts;
    for (size_t i = 0; i < n; i++) {
        const json_t *text = json_array_get(json_array_get(pieces, i), 0);
        size_t text_bytes = json_string_length(text);
        int32_t other = phx_vocabulary_find(&t->vocabulary, json_string_value(text), text_bytes);
        if (other >= 0) {
            return phx_fail(PHX_BAD_DATA, "%s: the pieces %d and %zu are both written \"%s\"", file,
                            other, i, json_string_value(text));
        }
        memcpy(next, json_string_value(text), text_bytes + 1);
        phx_vocabulary_add(&t->vocabulary, (struct phx_slice){next, text_bytes}, (int32_t)i);
        next += text_bytes + 1;
    }
    return PHX_OK;
}

static enum phx_status parse_unigram(const struct phx_json *model, struct phx_tokenizer *t)
{
    const json_t *pieces = NULL;
    int64_t unknown = -1;
    bool byte_fallback = false;
    PHX_TRY(phx_json_require(model, "vocab"));
    PHX_TRY(phx_json_array(model, "vocab", &pieces));
    PHX_TRY(parse_piece_texts(model->file, pieces, t));
    PHX_TRY(phx_unigram_create(&t->vocabulary, &t->unigram));
    PHX_TRY(phx_json_int(model, "unk_id", 0, (int64_t)json_array_size(pieces) - 1, &unknown));
    PHX_TRY(phx_json_bool(model, "byte_fallback", &byte_fallback));
    t->unigram.unknown = (int32_t)unknown;
    if (byte_fallback) phx_vocabulary_find_bytes(&t->vocabulary, t->unigram.byte_ids);
    double lowest = HUGE_VAL;
    for (size_t i = 0; i < json_array_size(pieces); i++) {
        double score = json_number_value(json_array_get(json_array_get(pieces, i), 1));
        PHX_TRY(phx_unigram_add(&t->unigram, (int32_t)i, score));
        if (score < lowest) lowest = score;
    }
    t->unigram.unknown_score = lowest - PHX_UNKNOWN_PENALTY;
    return PHX_OK;
}

static enum phx_status parse_model(const struct phx_json *json, struct phx_tokenizer *t)
{
    const json_t *object = NULL;
    const char *type = NULL;
    PHX_TRY(phx_json_require(json, "model"));
    PHX_TRY(phx_json_object(json, "model", &object));
    struct phx_json model = {json->file, "model.", object};
    PHX_TRY(phx_json_string(&model, "type", &type));
    /* Old files do not name it; they are told apart by what they hold, as by the library. */
    if (!type) type = json_is_array(phx_json_get(&model, "vocab")) ? "Unigram" : "BPE";
    if (strcmp(type, "BPE") == 0) return parse_bpe(&model, t);
    if (strcmp(type, "Unigram") == 0) return parse_unigram(&model, t);
    return phx_fail(PHX_UNSUPPORTED,
                    "%s: a model of type %s is not supported; known are BPE and Unigram",
                    model.file, type);
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
    PHX_TRY(phx_tokenizer_assemble(file, t));
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
