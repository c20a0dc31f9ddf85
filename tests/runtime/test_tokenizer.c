/* The tokenizer against what the `tokenizers` library gives for whole files, in both directions,
 * whole and as a stream; words against a naive merge; long texts; and requests that are wrong. */
#include "tests/support/check.h"

#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/tokenizer/tokenizer_impl.h"

static const char *const vector_sets[] = {
    "llama2-style",        "llama3-style",        "gpt2-style",
    "gpt4o-style",         "qwen2-style",         "mistral-metaspace-style",
    "gemma3-style",        "granite-style",       "deepseek-style",
    "olmo2-style",         "gemma-unigram-style", "t5-unigram-style",
    "spm-bpe-llama",       "spm-bpe-suffix",      "spm-unigram-gemma",
    "spm-unigram-trimmed",
};
enum { N_SETS = sizeof vector_sets / sizeof *vector_sets, LEAST_VECTORS = 66, LLAMA2 = 0 };

static struct set {
    const char *name;
    json_t *vectors;
    struct phx_tokenizer *tokenizer;
} sets[N_SETS];

static int open_sets(void **state)
{
    (void)state;
    for (int i = 0; i < N_SETS; i++) {
        char path[512];
        struct set *set = &sets[i];
        set->name = vector_sets[i];
        snprintf(path, sizeof path, "%s/tokenizers/%s/vectors.json", PHX_TEST_DATA, set->name);
        set->vectors = json_load_file(path, JSON_ALLOW_NUL, NULL);
        *strrchr(path, '/') = '\0';
        assert_ok(phx_tokenizer_load(path, &set->tokenizer));
        assert_true(json_array_size(set->vectors) >= LEAST_VECTORS);
    }
    return 0;
}

static int close_sets(void **state)
{
    (void)state;
    for (int i = 0; i < N_SETS; i++) {
        json_decref(sets[i].vectors);
        phx_tokenizer_destroy(sets[i].tokenizer);
    }
    return 0;
}

static bool ids_are(const json_t *expected, const int32_t *ids, size_t n)
{
    bool same = json_array_size(expected) == n;
    for (size_t i = 0; same && i < n; i++) {
        same = json_integer_value(json_array_get(expected, i)) == ids[i];
    }
    return same;
}

static bool text_is(const json_t *expected, const char *text, size_t n)
{
    return json_string_length(expected) == n && memcmp(json_string_value(expected), text, n) == 0;
}

/* What a stream hands out piece by piece, each of whole characters, is `text`. */
static bool stream_is(const struct phx_tokenizer *tokenizer, const int32_t *ids, size_t n,
                      size_t n_prefix, bool skip_special, const char *text, size_t text_bytes)
{
    struct phx_text_stream *stream;
    const char *piece;
    size_t bytes, at = 0;
    bool same = true;
    assert_ok(phx_text_stream_create(tokenizer, ids, n_prefix, skip_special, &stream));
    for (size_t i = n_prefix; same && i <= n; i++) {
        assert_ok(i < n ? phx_text_stream_push(stream, ids[i], &piece, &bytes)
                        : phx_text_stream_flush(stream, &piece, &bytes));
        same = bytes <= text_bytes - at && memcmp(piece, text + at, bytes) == 0 &&
               phx_utf8_valid(piece, bytes) == bytes;
        at += bytes;
    }
    phx_text_stream_destroy(stream);
    return same && at == text_bytes;
}

/* The tokens' bytes, one after the other, are the text, but for spaces at its start. Where decoding
 * makes U+FFFD of them they are not. */
static bool bytes_are(const struct phx_tokenizer *tokenizer, const int32_t *ids, size_t n,
                      const char *text, size_t text_bytes)
{
    size_t at = 0;
    bool same = true;
    if (memmem(text, text_bytes, "\xef\xbf\xbd", 3) != NULL) return true;
    while (at < text_bytes && text[at] == ' ') at++;
    for (size_t i = 0, begun = 0; same && i < n; i++) {
        char *bytes;
        size_t n_bytes, skipped = 0;
        assert_ok(phx_tokenizer_bytes(tokenizer, ids[i], &bytes, &n_bytes));
        while (!begun && skipped < n_bytes && bytes[skipped] == ' ') skipped++;
        begun |= skipped < n_bytes;
        n_bytes -= skipped;
        same = n_bytes <= text_bytes - at && memcmp(bytes + skipped, text + at, n_bytes) == 0;
        at += n_bytes;
        free(bytes);
    }
    return same && at == text_bytes;
}

/* "" if one vector comes out right in both directions, else which part of it does not. */
static const char *check_vector(const struct phx_tokenizer *t, const json_t *vector)
{
    const json_t *text = json_object_get(vector, "text");
    const char *wrong = "";
    for (int special = 0; special < 2; special++) {
        int32_t *ids = NULL;
        size_t n = 0, bytes = 0;
        char *decoded = NULL;
        assert_ok(phx_tokenizer_encode(t, json_string_value(text), json_string_length(text),
                                       special, &ids, &n));
        assert_ok(phx_tokenizer_decode(t, ids, n, special, &decoded, &bytes));
        if (!ids_are(json_object_get(vector, special ? "ids_with_special" : "ids"), ids, n)) {
            wrong = special ? "ids_with_special" : "ids";
        } else if (!text_is(json_object_get(vector, special ? "decoded_skip_special" : "decoded"),
                            decoded, bytes)) {
            wrong = special ? "decoded_skip_special" : "decoded";
        } else if (!stream_is(t, ids, n, 0, special, decoded, bytes)) {
            wrong = "stream";
        } else if (!special && !bytes_are(t, ids, n, decoded, bytes)) {
            wrong = "bytes";
        }
        free(ids);
        free(decoded);
    }
    return wrong;
}

static void test_vectors(void **state)
{
    (void)state;
    for (int i = 0; i < N_SETS; i++) {
        for (size_t j = 0; j < json_array_size(sets[i].vectors); j++) {
            const char *wrong = check_vector(sets[i].tokenizer, json_array_get(sets[i].vectors, j));
            if (*wrong) fail_msg("%s, vector %zu: %s", sets[i].name, j, wrong);
        }
    }
}

static void *check_all_vectors(void *failures)
{
    for (int i = 0; i < N_SETS; i++) {
        for (size_t j = 0; j < json_array_size(sets[i].vectors); j++) {
            *(int *)failures +=
                *check_vector(sets[i].tokenizer, json_array_get(sets[i].vectors, j)) != '\0';
        }
    }
    return NULL;
}

static void test_several_threads(void **state)
{
    (void)state;
    enum { N = 3 };
    pthread_t threads[N];
    int failures[N] = {0};
    for (int i = 0; i < N; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, check_all_vectors, &failures[i]), 0);
    }
    for (int i = 0; i < N; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(failures[i], 0);
    }
}

static void test_demo_model(void **state)
{
    (void)state;
    struct phx_tokenizer *t;
    json_t *golden = json_load_file(PHX_MODELS "/demo/golden.json", 0, NULL);
    assert_ok(phx_tokenizer_load(PHX_MODELS "/demo", &t));
    assert_int_equal(phx_tokenizer_size(t), 2048);
    assert_int_equal(phx_tokenizer_id(t, "<|end_of_text|>"), 1);
    assert_int_equal(phx_tokenizer_id(t, "no such token"), -1);
    assert_true(phx_tokenizer_is_special(t, 1) && !phx_tokenizer_is_special(t, 2));
    assert_false(phx_tokenizer_is_special(t, -1) || phx_tokenizer_is_special(t, 2048));

    const char *prompt;
    json_t *expected;
    json_object_foreach(json_object_get(golden, "prompts"), prompt, expected)
    {
        int32_t *ids = NULL;
        size_t n = 0;
        assert_ok(phx_tokenizer_encode(t, prompt, strlen(prompt), true, &ids, &n));
        assert_true(ids_are(json_object_get(expected, "prompt_ids"), ids, n));
        free(ids);
    }
    char text[8192], *decoded = NULL;
    FILE *file = fopen(PHX_MODELS "/demo/sample.txt", "rb");
    assert_non_null(file);
    size_t bytes = fread(text, 1, sizeof text, file), decoded_bytes = 0, n = 0;
    int32_t *ids = NULL;
    assert_ok(phx_tokenizer_encode(t, text, bytes, false, &ids, &n));
    assert_int_equal(n, 2112);
    assert_ok(phx_tokenizer_decode(t, ids, n, false, &decoded, &decoded_bytes));
    assert_int_equal(decoded_bytes, bytes);
    assert_memory_equal(decoded, text, bytes);
    assert_true(stream_is(t, ids, n, 0, false, text, bytes));
    fclose(file);
    free(ids);
    free(decoded);
    json_decref(golden);
    phx_tokenizer_destroy(t);
}

struct naive_symbol {
    char text[64];
};

/* Merging by rescanning the whole word for the pair with the lowest rank, from the file's text. */
static size_t merge_naively(const json_t *ranks, struct naive_symbol *symbols, size_t n)
{
    for (;;) {
        size_t best = n;
        json_int_t best_rank = 0;
        char pair[2 * sizeof symbols->text];
        for (size_t i = 0; i + 1 < n; i++) {
            int bytes = snprintf(pair, sizeof pair, "%s %s", symbols[i].text, symbols[i + 1].text);
            assert_in_range(bytes, 0, sizeof pair - 1);
            const json_t *rank = json_object_get(ranks, pair);
            if (rank && (best == n || json_integer_value(rank) < best_rank)) {
                best = i;
                best_rank = json_integer_value(rank);
            }
        }
        if (best == n) return n;
        snprintf(pair, sizeof pair, "%s%s", symbols[best].text, symbols[best + 1].text);
        assert_true(strlen(pair) < sizeof symbols->text);
        memcpy(symbols[best].text, pair, sizeof symbols->text);
        n--;
        for (size_t i = best + 1; i < n; i++) symbols[i] = symbols[i + 1];
    }
}

static void test_merging_against_a_naive_one(void **state)
{
    (void)state;
    static const char path[] = PHX_TEST_DATA "/tokenizers/llama2-style/tokenizer.json";
    static const char letters[] = "etaoinshrdlucmfwypvbgk";
    json_t *root = json_load_file(path, 0, NULL), *ranks = json_object(), *merge;
    const json_t *model = json_object_get(root, "model");
    const struct phx_bpe *bpe = &sets[LLAMA2].tokenizer->bpe;
    size_t index;
    json_array_foreach(json_object_get(model, "merges"), index, merge)
    {
        char pair[128];
        snprintf(pair, sizeof pair, "%s %s", json_string_value(json_array_get(merge, 0)),
                 json_string_value(json_array_get(merge, 1)));
        json_object_set_new(ranks, pair, json_integer((json_int_t)index));
    }
    uint32_t random = 1;
    for (int word = 0; word < 500; word++) {
        char text[40];
        struct naive_symbol symbols[40] = {{{0}}};
        struct phx_bpe_scratch *scratch;
        struct phx_ids ids = {0};
        size_t n = 1 + (size_t)word % 40;
        for (size_t i = 0; i < n; i++) {
            random = random * 1664525 + 1013904223;
            text[i] = symbols[i].text[0] = letters[(random >> 16) % (1 + (unsigned)word % 22)];
        }
        assert_ok(phx_bpe_scratch_create(&scratch));
        assert_ok(phx_bpe_encode(bpe, scratch, text, n, &ids));
        n = merge_naively(ranks, symbols, n);
        assert_int_equal(ids.n, n);
        for (size_t i = 0; i < n; i++) {
            const json_t *id = json_object_get(json_object_get(model, "vocab"), symbols[i].text);
            assert_int_equal(ids.data[i], json_integer_value(id));
        }
        phx_bpe_scratch_destroy(scratch);
        free(ids.data);
    }
    json_decref(ranks);
    json_decref(root);
}

/* One word, one row of marks or spaces: what is tested is their time, by the test's own limit. */
static void test_long_texts(void **state)
{
    (void)state;
    static const char *const units[] = {"e",         "\xcc\x81\xcc\x96", " ", "the ", "\n", "A",
                                        "A\xd7\x90", "\xf0\x9f\x98\x80", "'"};
    enum { BYTES = 1 << 18 };
    char *text = malloc(BYTES + 8);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        size_t unit_bytes = strlen(units[u]), bytes = BYTES / unit_bytes * unit_bytes;
        for (size_t at = 0; at < bytes; at += unit_bytes) memcpy(text + at, units[u], unit_bytes);
        for (int i = 0; i < N_SETS; i++) {
            int32_t *ids = NULL;
            size_t n = 0;
            assert_ok(phx_tokenizer_encode(sets[i].tokenizer, text, bytes, false, &ids, &n));
            bool white = *units[u] == ' ' || *units[u] == '\n'; /* some trim it */
            assert_true(n > 0 || white);
            free(ids);
        }
    }
    free(text);
}

static void test_wrong_requests(void **state)
{
    (void)state;
    static const struct {
        const char *text, *sentence;
    } broken[] = {
        {"abc\xff", "byte 0xff at offset 3"},
        {"\x80", "offset 0"},
        {"a\xc0\xaf", "offset 1"},
        {"é\xe2\x82", "offset 2"},
        {"\xed\xa0\x80", "offset 0"},
        {"ab\xf4\x90\x80\x80", "offset 2"},
    };
    const struct phx_tokenizer *t = sets[0].tokenizer;
    struct phx_text_stream *stream;
    int32_t *ids = NULL;
    size_t n = 0, bytes = 0;
    char *decoded = NULL;
    const char *piece;
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        const char *text = broken[i].text;
        assert_fails(phx_tokenizer_encode(t, text, strlen(text), false, &ids, &n), PHX_USAGE,
                     broken[i].sentence);
    }
    for (int i = 0; i < 2; i++) {
        const int32_t wrong[] = {0, i ? -1 : phx_tokenizer_size(t)};
        assert_fails(phx_tokenizer_decode(t, wrong, 2, false, &decoded, &bytes), PHX_USAGE,
                     "from 0 to 1399");
        assert_fails(phx_text_stream_create(t, wrong, 2, false, &stream), PHX_USAGE,
                     "out of range");
        assert_ok(phx_text_stream_create(t, wrong, 1, false, &stream));
        assert_fails(phx_text_stream_push(stream, wrong[1], &piece, &bytes), PHX_USAGE,
                     "out of range");
        phx_text_stream_destroy(stream);
    }
}

/* The prefix is not handed out, but what it began is finished. */
static void test_stream_after_a_prefix(void **state)
{
    (void)state;
    static const char text[] = "  Hello \xf0\x9f\x98\x80\xe4\xbd\xa0 na\xc3\xafve";
    for (int i = 0; i < N_SETS; i++) {
        const struct phx_tokenizer *t = sets[i].tokenizer;
        int32_t *ids = NULL;
        char *whole = NULL, *prefix = NULL;
        size_t n = 0, bytes = 0, prefix_bytes = 0;
        assert_ok(phx_tokenizer_encode(t, text, strlen(text), true, &ids, &n));
        assert_ok(phx_tokenizer_decode(t, ids, n, true, &whole, &bytes));
        for (size_t k = 0; k <= n; k++) {
            assert_ok(phx_tokenizer_decode(t, ids, k, true, &prefix, &prefix_bytes));
            size_t common = 0; /* without what the flush of the prefix made up */
            while (common < prefix_bytes && prefix[common] == whole[common]) common++;
            while (common && ((unsigned char)whole[common] & 0xc0) == 0x80) common--;
            if (!stream_is(t, ids, n, k, true, whole + common, bytes - common)) {
                fail_msg("%s after %zu ids", sets[i].name, k);
            }
            free(prefix);
        }
        free(ids);
        free(whole);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_several_threads),
        cmocka_unit_test(test_demo_model),
        cmocka_unit_test(test_merging_against_a_naive_one),
        cmocka_unit_test(test_long_texts),
        cmocka_unit_test(test_wrong_requests),
        cmocka_unit_test(test_stream_after_a_prefix),
    };
    return cmocka_run_group_tests(tests, open_sets, close_sets);
}
