/* Vocabularies in a GGUF: files of tokenizer.json and tokenizer.model, written here as GGUF, must
 * give the ids of their vectors; and the sentence for every file that is wrong or not supported. */
#include "tests/support/check.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/gguf.h"
#include "runtime/tokenizer/tokenizer_impl.h"

/* The metadata as it is written. */
struct metadata {
    struct phx_bytes bytes;
    uint64_t n;
};

static void put(struct phx_bytes *out, const void *data, size_t n)
{
    assert_ok(phx_bytes_append(out, data, n));
}

static void put_string(struct phx_bytes *out, const char *text)
{
    uint64_t n = strlen(text);
    put(out, &n, 8);
    put(out, text, n);
}

static void put_key(struct metadata *m, const char *key, uint32_t type)
{
    char name[64];
    snprintf(name, sizeof name, "tokenizer.ggml.%s", key);
    put_string(&m->bytes, name);
    put(&m->bytes, &type, 4);
    m->n++;
}

static void put_text(struct metadata *m, const char *key, const char *text)
{
    put_key(m, key, PHX_GGUF_STRING);
    put_string(&m->bytes, text);
}

static void put_bool(struct metadata *m, const char *key, bool value)
{
    put_key(m, key, PHX_GGUF_BOOL);
    put(&m->bytes, &(char){value}, 1);
}

static void put_id(struct metadata *m, const char *key, uint32_t id)
{
    put_key(m, key, PHX_GGUF_U32);
    put(&m->bytes, &id, 4);
}

/* n elements of a type, whose bytes follow. */
static void put_array(struct metadata *m, const char *key, uint32_t type, uint64_t n)
{
    put_key(m, key, PHX_GGUF_ARRAY);
    put(&m->bytes, &type, 4);
    put(&m->bytes, &n, 8);
}

/* Parse what was written, and end it. */
static enum phx_status finish(struct metadata *m, struct phx_tokenizer **out)
{
    struct phx_bytes file = {0};
    struct phx_gguf *gguf = NULL;
    put(&file, "GGUF\3\0\0\0\0\0\0\0\0\0\0\0", 16);
    put(&file, &m->n, 8);
    put(&file, m->bytes.data, m->bytes.n);
    enum phx_status status = phx_gguf_parse("x.gguf", file.data, file.n, &gguf);
    if (status == PHX_OK) status = phx_tokenizer_from_gguf(gguf, out);
    phx_gguf_destroy(gguf);
    free(file.data);
    free(m->bytes.data);
    *m = (struct metadata){0};
    return status;
}

/* Tokens and their types, as converters write them: 1 normal, 2 unknown, 3 control, 4 user-defined,
 * 5 unused, 6 byte. */
static void put_tokens(struct metadata *m, const struct phx_tokenizer *t, bool has_bytes)
{
    put_array(m, "tokens", PHX_GGUF_STRING, (uint64_t)t->n_tokens);
    int32_t *types = calloc((size_t)t->n_tokens, sizeof *types);
    for (int32_t id = 0; id < t->n_tokens; id++) {
        const char *text = id < t->vocabulary.n_ids ? t->vocabulary.tokens[id].data : NULL;
        types[id] = 1;
        for (size_t i = 0; i < t->n_added; i++) {
            if (t->added[i].id != id) continue;
            types[id] = t->added[i].special ? 3 : 4;
            text = t->added[i].content;
        }
        if (has_bytes && strncmp(text, "<0x", 3) == 0) types[id] = 6;
        if (has_bytes && strcmp(text, "<unk>") == 0) types[id] = 2;
        put_string(&m->bytes, text);
    }
    put_array(m, "token_type", PHX_GGUF_I32, (uint64_t)t->n_tokens);
    put(&m->bytes, types, (size_t)t->n_tokens * sizeof *types);
    free(types);
}

static void put_merges(struct metadata *m, const char *json_path)
{
    json_t *root = json_load_file(json_path, 0, NULL), *merge;
    const json_t *merges = json_object_get(json_object_get(root, "model"), "merges");
    size_t index;
    put_array(m, "merges", PHX_GGUF_STRING, json_array_size(merges));
    json_array_foreach(merges, index, merge)
    {
        char pair[256];
        snprintf(pair, sizeof pair, "%s %s", json_string_value(json_array_get(merge, 0)),
                 json_string_value(json_array_get(merge, 1)));
        put_string(&m->bytes, pair);
    }
    json_decref(root);
}

static void assert_ids(const struct phx_tokenizer *t, const char *name, const char *text,
                       size_t bytes, const json_t *expected, bool special)
{
    int32_t *ids = NULL;
    size_t n = 0;
    assert_ok(phx_tokenizer_encode(t, text, bytes, special, &ids, &n));
    bool same = json_array_size(expected) == n;
    for (size_t i = 0; same && i < n; i++) {
        same = json_integer_value(json_array_get(expected, i)) == ids[i];
    }
    if (!same) fail_msg("%s: other ids of \"%s\"", name, text);
    free(ids);
}

static json_t *load_vectors(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/tokenizers/%s/vectors.json", PHX_TEST_DATA, name);
    return json_load_file(path, JSON_ALLOW_NUL, NULL);
}

/* bos: -1: the file has none. */
static struct phx_tokenizer *convert_json(const char *directory, const char *pre, int bos)
{
    char path[512];
    struct phx_tokenizer *t, *converted;
    struct metadata m = {0};
    assert_ok(phx_tokenizer_load(directory, &t));
    put_text(&m, "model", "gpt2");
    put_text(&m, "pre", pre);
    put_tokens(&m, t, false);
    snprintf(path, sizeof path, "%s/tokenizer.json", directory);
    put_merges(&m, path);
    put_bool(&m, "add_bos_token", bos >= 0);
    if (bos >= 0) put_id(&m, "bos_token_id", (uint32_t)bos);
    phx_tokenizer_destroy(t);
    assert_ok(finish(&m, &converted));
    return converted;
}

static void test_byte_level(void **state)
{
    (void)state;
    static const struct {
        const char *name, *pre;
        int bos;
        const char *strips; /* tokens that take white space with them: a GGUF cannot say so */
    } sets[] = {
        {"llama3-style", "llama-bpe", 0, NULL}, {"gpt2-style", "gpt-2", -1, NULL},
        {"gpt4o-style", "gpt-4o", -1, NULL},    {"qwen2-style", "qwen2", -1, NULL},
        {"granite-style", "refact", -1, NULL},  {"deepseek-style", "deepseek-v3", 0, "<|user|>"},
    };
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        char directory[512];
        snprintf(directory, sizeof directory, "%s/tokenizers/%s", PHX_TEST_DATA, sets[i].name);
        struct phx_tokenizer *t = convert_json(directory, sets[i].pre, sets[i].bos);
        json_t *vectors = load_vectors(sets[i].name), *vector;
        size_t index;
        json_array_foreach(vectors, index, vector)
        {
            const json_t *text = json_object_get(vector, "text");
            if (sets[i].strips && strstr(json_string_value(text), sets[i].strips)) continue;
            for (int special = 0; special < 2; special++) {
                assert_ids(t, sets[i].name, json_string_value(text), json_string_length(text),
                           json_object_get(vector, special ? "ids_with_special" : "ids"), special);
            }
        }
        json_decref(vectors);
        phx_tokenizer_destroy(t);
    }
}

/* The demo model: the same ids as its tokenizer.json, and the text again. */
static void test_demo_model(void **state)
{
    (void)state;
    char text[8192], *decoded = NULL;
    int32_t *ids = NULL, *again = NULL;
    size_t n = 0, n_again = 0, decoded_bytes = 0;
    FILE *file = fopen(PHX_MODELS "/demo/sample.txt", "rb");
    assert_non_null(file);
    size_t bytes = fread(text, 1, sizeof text, file);
    fclose(file);
    struct phx_tokenizer *json, *gguf = convert_json(PHX_MODELS "/demo", "llama-bpe", 0);
    assert_ok(phx_tokenizer_load(PHX_MODELS "/demo", &json));
    assert_int_equal(phx_tokenizer_size(gguf), phx_tokenizer_size(json));
    for (int32_t id = 0; id < phx_tokenizer_size(json); id++) {
        assert_int_equal(phx_tokenizer_is_special(gguf, id), phx_tokenizer_is_special(json, id));
    }
    assert_ok(phx_tokenizer_encode(json, text, bytes, true, &ids, &n));
    assert_ok(phx_tokenizer_encode(gguf, text, bytes, true, &again, &n_again));
    assert_int_equal(n, n_again);
    assert_memory_equal(ids, again, n * sizeof *ids);
    assert_ok(phx_tokenizer_decode(gguf, again, n, true, &decoded, &decoded_bytes));
    assert_int_equal(decoded_bytes, bytes);
    assert_memory_equal(decoded, text, bytes);
    free(ids);
    free(again);
    free(decoded);
    phx_tokenizer_destroy(json);
    phx_tokenizer_destroy(gguf);
}

/* A tokenizer.model as "llama". Texts with user-defined pieces are left out: llama.cpp, as we do
 * for a GGUF, puts a space before what follows them, sentencepiece does not. */
static void test_sentencepiece(void **state)
{
    (void)state;
    static const char name[] = "spm-bpe-llama";
    struct phx_tokenizer *model, *t;
    struct metadata m = {0};
    assert_ok(phx_tokenizer_load(PHX_TEST_DATA "/tokenizers/spm-bpe-llama", &model));
    put_text(&m, "model", "llama");
    put_text(&m, "pre", "default");
    put_tokens(&m, model, true);
    put_array(&m, "scores", PHX_GGUF_F32, (uint64_t)model->n_tokens);
    for (int32_t id = 0; id < model->n_tokens; id++) {
        uint32_t rank = model->bpe.ranks[id];
        float score = rank == PHX_NEVER_MERGED ? 0 : -(float)rank;
        put(&m.bytes, &score, 4);
    }
    put_id(&m, "unknown_token_id", 0);
    assert_ok(finish(&m, &t));

    json_t *vectors = load_vectors(name), *vector, *id;
    size_t index, place, n_compared = 0;
    json_array_foreach(vectors, index, vector)
    {
        const json_t *text = json_object_get(vector, "text");
        const json_t *ids = json_object_get(vector, "ids_with_special");
        bool user_defined = strstr(json_string_value(text), "<unk>") != NULL;
        json_array_foreach(ids, place, id)
        {
            for (size_t i = 0; i < model->n_added; i++) {
                user_defined |=
                    !model->added[i].special && model->added[i].id == json_integer_value(id);
            }
        }
        if (user_defined) continue;
        assert_ids(t, name, json_string_value(text), json_string_length(text), ids, true);
        n_compared++;
    }
    assert_true(n_compared > 60);
    json_decref(vectors);
    phx_tokenizer_destroy(model);
    phx_tokenizer_destroy(t);
}

/* A few tokens of `model`; "merges" as there are. */
static struct metadata small(const char *model, const char *pre, const char *merge)
{
    static const char *const tokens[] = {"a", "b", "ab", "<s>"};
    static const int32_t types[] = {1, 1, 1, 3};
    struct metadata m = {0};
    put_text(&m, "model", model);
    if (pre) put_text(&m, "pre", pre);
    put_array(&m, "tokens", PHX_GGUF_STRING, 4);
    for (int i = 0; i < 4; i++) put_string(&m.bytes, tokens[i]);
    put_array(&m, "token_type", PHX_GGUF_I32, 4);
    put(&m.bytes, types, sizeof types);
    if (merge) {
        put_array(&m, "merges", PHX_GGUF_STRING, 1);
        put_string(&m.bytes, merge);
    }
    return m;
}

static void assert_refused(struct metadata m, enum phx_status status, const char *sentence)
{
    struct phx_tokenizer *t;
    assert_fails(finish(&m, &t), status, sentence);
}

static void test_refusals(void **state)
{
    (void)state;
    struct phx_tokenizer *t;
    struct metadata m = small("gpt2", "gpt-2", "a b");
    assert_ok(finish(&m, &t));
    phx_tokenizer_destroy(t);

    assert_refused(small("bert", NULL, NULL), PHX_UNSUPPORTED, "model is \"bert\"");
    assert_refused(small("gpt2", NULL, NULL), PHX_BAD_DATA, "tokenizer.ggml.pre");
    assert_refused(small("gpt2", "default", "a b"), PHX_UNSUPPORTED, "pre is \"default\"");
    assert_refused(small("gpt2", "", "a b"), PHX_UNSUPPORTED, "pre is \"\"");
    assert_refused(small("gpt2", "gpt-2", NULL), PHX_BAD_DATA, "tokenizer.ggml.merges");
    assert_refused(small("gpt2", "gpt-2", "ab"), PHX_BAD_DATA, "merge 0 is broken");
    assert_refused(small("gpt2", "gpt-2", "a "), PHX_BAD_DATA, "merge 0 is broken");
    assert_refused(small("gpt2", "gpt-2", "a c"), PHX_BAD_DATA, "names the token \"c\"");
    assert_refused(small("gpt2", "gpt-2", "b a"), PHX_BAD_DATA, "names the token \"ba\"");
    assert_refused(small("llama", "default", NULL), PHX_BAD_DATA, "tokenizer.ggml.scores");

    m = small("gpt2", "gpt-2", "a b");
    put_id(&m, "bos_token_id", 4);
    assert_refused(m, PHX_BAD_DATA, "tokenizer.ggml.bos_token_id");
    m = small("llama", "default", NULL);
    put_array(&m, "scores", PHX_GGUF_F32, 1);
    put(&m.bytes, &(float){1}, 4);
    assert_refused(m, PHX_BAD_DATA, "scores has 1 elements, but there are 4 tokens");
    m = small("llama", "default", NULL);
    put_array(&m, "scores", PHX_GGUF_F32, 4);
    put(&m.bytes, (float[]){0, 0, 0, 0}, 16);
    put_bool(&m, "remove_extra_whitespaces", true);
    assert_refused(m, PHX_UNSUPPORTED, "remove_extra_whitespaces");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_byte_level),
        cmocka_unit_test(test_demo_model),
        cmocka_unit_test(test_sentencepiece),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
