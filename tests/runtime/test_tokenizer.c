/* The tokenizer against what the `tokenizers` library gives: whole files with their vectors, and
 * each component alone; and its refusals. */
#include "tests/support/check.h"

#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/tokenizer/tokenizer_impl.h"

static const char *const vector_sets[] = {
    "llama2-style", "llama3-style", "gpt2-style",
    "gpt4o-style",  "qwen2-style",  "mistral-metaspace-style",
};
enum { N_SETS = sizeof vector_sets / sizeof *vector_sets, N_VECTORS = 66, LLAMA2 = 0 };

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
        assert_int_equal(json_array_size(set->vectors), N_VECTORS);
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
        for (size_t j = 0; j < N_VECTORS; j++) {
            const char *wrong = check_vector(sets[i].tokenizer, json_array_get(sets[i].vectors, j));
            if (*wrong) fail_msg("%s, vector %zu: %s", sets[i].name, j, wrong);
        }
    }
}

static void *check_all_vectors(void *failures)
{
    for (int i = 0; i < N_SETS; i++) {
        for (size_t j = 0; j < N_VECTORS; j++) {
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
            snprintf(pair, sizeof pair, "%s %s", symbols[i].text, symbols[i + 1].text);
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

/* Words, runs and rows of marks of a megabyte: only their time is tested, by the test's own limit.
 */
static void test_long_texts(void **state)
{
    (void)state;
    static const char *const units[] = {"e",  "\xcc\x81\xcc\x96", " ", "the ",
                                        "\n", "\xf0\x9f\x98\x80", "'"};
    enum { BYTES = 1 << 18 };
    char *text = malloc(BYTES + 8);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        size_t unit_bytes = strlen(units[u]), bytes = BYTES / unit_bytes * unit_bytes;
        for (size_t at = 0; at < bytes; at += unit_bytes) memcpy(text + at, units[u], unit_bytes);
        for (int i = 0; i < N_SETS; i++) {
            int32_t *ids = NULL;
            size_t n = 0;
            assert_ok(phx_tokenizer_encode(sets[i].tokenizer, text, bytes, false, &ids, &n));
            assert_true(n > 0);
            free(ids);
        }
    }
    free(text);
}

/* In the tables below ` stands for a quote, and a \ of an expression need not be doubled again. */
static json_t *parse_fragment(const char *fragment)
{
    char json[4096];
    size_t n = 0;
    for (const char *c = fragment ? fragment : "null"; *c; c++) {
        assert_true(n + 2 < sizeof json);
        if (*c == '\\') json[n++] = '\\';
        json[n++] = *c == '`' ? '"' : *c;
    }
    json_error_t error;
    json_t *value = json_loadb(json, n, JSON_DECODE_ANY, &error);
    if (!value) fail_msg("%.*s: %s", (int)n, json, error.text);
    return value;
}

#define SPLIT(regex, behavior)                                                                     \
    "{`type`:`Split`,`pattern`:{`Regex`:`" regex "`},`behavior`:`" behavior "`,`invert`:false}"
#define DASH(behavior, invert)                                                                     \
    "{`type`:`Split`,`pattern`:{`String`:`-`},`behavior`:`" behavior "`,`invert`:" invert "}"
#define BYTE_LEVEL(prefix, regex)                                                                  \
    "{`type`:`ByteLevel`,`add_prefix_space`:" prefix ",`use_regex`:" regex "}"
#define METASPACE(scheme, split)                                                                   \
    "{`type`:`Metaspace`,`replacement`:`▁`,`prepend_scheme`:`" scheme "`,`split`:" split "}"
#define LITERAL(old, new) "{`type`:`Replace`,`pattern`:{`String`:`" old "`},`content`:`" new "`}"
#define REGEX(old, new) "{`type`:`Replace`,`pattern`:{`Regex`:`" old "`},`content`:`" new "`}"
#define PLAIN(type) "{`type`:`" type "`}"
#define LIST(key, items) "{`type`:`Sequence`,`" key "`:[" items "]}"
#define LEADING "{`type`:`Strip`,`content`:` `,`start`:1,`stop`:0}"
#define STRIP "{`type`:`Strip`,`content`:`_`,`start`:2,`stop`:1}"

struct row {
    const char *component, *in, *out; /* `|` between pieces */
};

static const struct row normalizers[] = {
    {PLAIN("NFC"), "e\xcc\x81 가\xcc\x96\xcc\x81", "é 가\xcc\x96\xcc\x81"},
    {PLAIN("NFD"), "éṩ가", "e\xcc\x81s\xcc\xa3\xcc\x87가"},
    {PLAIN("NFKC"), "ﬁ①Å", "fi1Å"},
    {PLAIN("NFKD"), "ﬁ½é",
     "fi1\xe2\x81\x84"
     "2e\xcc\x81"},
    {PLAIN("NFD"), "a\xcc\x81\xcc\x96\xcc\x81\xcc\x96", "a\xcc\x96\xcc\x96\xcc\x81\xcc\x81"},
    {PLAIN("Lowercase"), "ÀΣİẞ", "àσi\xcc\x87ß"},
    {"{`type`:`Strip`,`strip_left`:true,`strip_right`:false}", "\xe3\x80\x80 a b \n", "a b \n"},
    {"{`type`:`Strip`,`strip_left`:false,`strip_right`:true}", "\xe3\x80\x80 a b\xc2\xa0\n",
     "\xe3\x80\x80 a b"},
    {"{`type`:`Prepend`,`prepend`:`▁`}", "ab", "▁ab"},
    {"{`type`:`Prepend`,`prepend`:`▁`}", "", ""},
    {LITERAL("aa", "b"), "aaaaac", "bbac"},
    {REGEX("\\s+", " "),
     "a\t\n b\xe1\xa0\x8e \xe2\x80\xa8"
     "c",
     "a b\xe1\xa0\x8e c"},
    {REGEX("x*", "-"), "axxb", "-a-b-"},
    {PLAIN("ByteLevel"), "é \x7f", "Ã\xc2\xa9Ġġ"},
    {LIST("normalizers", "{`type`:`Prepend`,`prepend`:`▁`}"
                         "," LITERAL(" ", "▁") "," PLAIN("Lowercase")),
     "Hello World", "▁hello▁world"},
};

static const struct row pre_tokenizers[] = {
    {BYTE_LEVEL("false", "true"), "I'm 12  ok?\n", "I|'m|Ġ12|Ġ|Ġok|?|Ċ"},
    {BYTE_LEVEL("true", "false"), "a é", "ĠaĠÃ\xc2\xa9"},
    {BYTE_LEVEL("true", "true"), " a b", "Ġa|Ġb"},
    {METASPACE("always", "true"), "Hey  you", "▁Hey|▁|▁you"},
    {METASPACE("first", "false"), "Hey  you", "▁Hey▁▁you"},
    {METASPACE("never", "true"), "Hey  you", "Hey|▁|▁you"},
    {"{`type`:`Metaspace`,`replacement`:`▁`,`prepend_scheme`:`always`}", " Hey", "▁Hey"},
    {LIST("pretokenizers",
          SPLIT("\\d+",
                "Isolated") ","
                            "{`type`:`Metaspace`,`replacement`:`▁`,`prepend_scheme`:`first`}"),
     "Hey 3 you", "▁Hey|▁|3|▁you"},
    {DASH("Removed", "false"), "the-final--countdown-", "the|final|countdown"},
    {DASH("Removed", "true"), "the-final--countdown-", "-|-|-|-"},
    {DASH("Isolated", "false"), "the-final--countdown-", "the|-|final|-|-|countdown|-"},
    {DASH("Isolated", "true"), "the-final--countdown-", "the|-|final|-|-|countdown|-"},
    {DASH("MergedWithPrevious", "false"), "the-final--countdown-", "the-|final-|-|countdown-"},
    {DASH("MergedWithPrevious", "true"), "the-final--countdown-", "the|-final|-|-countdown|-"},
    {DASH("MergedWithNext", "false"), "the-final--countdown-", "the|-final|-|-countdown|-"},
    {DASH("MergedWithNext", "true"), "the-final--countdown-", "the-|final-|-|countdown-"},
    {DASH("Contiguous", "false"), "the-final--countdown-", "the|-|final|--|countdown|-"},
    {DASH("Contiguous", "true"), "the-final--countdown-", "the|-|final|--|countdown|-"},
    {SPLIT("\\s", "Removed"),
     "a\xe1\xa0\x8e"
     "b c\xc2\x85"
     "d",
     "a\xe1\xa0\x8e"
     "b|c|d"},
    {SPLIT("[^\\S\\n]+", "Removed"),
     "a \xe1\xa0\x8e\n\xe2\x80\x83"
     "b",
     "a|\xe1\xa0\x8e\n|b"},
    {SPLIT("\\w+", "Isolated"), "a_½²1①", "a_½²1|①"},
    {SPLIT("[\\w]+", "Isolated"), "a_½²1①", "a_|½²|1|①"},
    {SPLIT("\\W", "Removed"), "a½-b", "a½|b"},
    {SPLIT("[a-f]{,2}g", "Isolated"), "abcgg", "a|bcg|g"},
    {SPLIT("\\h+", "Isolated"), "xyzface1", "xyz|face1"},
    {SPLIT("\\u0062|\\x{63}", "Isolated"), "abcd", "a|b|c|d"},
    {SPLIT("\\p{Han}+", "Isolated"), "漢字、かな", "漢字|、かな"},
    {SPLIT("\\v", "Isolated"), "a\x0b\nb", "a|\x0b|\nb"},
    {SPLIT("^.", "Isolated"), "ab\ncd", "a|b\n|c|d"},
    {SPLIT(".$", "Isolated"), "ab\ncd\n", "a|b|\nc|d|\n"},
    {SPLIT("x*", "Isolated"), "axxb", "a|xx|b"},
    {SPLIT("(?i:'s|'t)", "Isolated"), "it'S isn'T 'ſ", "it|'S| isn|'T| |'ſ"},
    {SPLIT("(?<=[a-z])(?=[A-Z])", "Removed"), "camelCaseX", "camel|Case|X"},
    {SPLIT("[^\\r\\n\\p{L}]?+\\p{L}++", "Isolated"), "a b?cd", "a| b|?cd"},
    {"{`type`:`Split`,`pattern`:{`String`:`a.`},`behavior`:`Isolated`,`invert`:false}", "aba.b",
     "ab|a.|b"},
    {"{`type`:`Digits`,`individual_digits`:true}", "a12²b", "a|1|2|²|b"},
    {"{`type`:`Digits`,`individual_digits`:false}", "a12²b", "a|12²|b"},
    {"{`type`:`Punctuation`,`behavior`:`Isolated`}", "a$b…!c", "a|$|b|…|!|c"},
    {"{`type`:`Punctuation`,`behavior`:`Contiguous`}", "a$b…!c", "a|$|b|…!|c"},
    {PLAIN("Whitespace"),
     "a-b½ \xe1\xa0\x8e"
     "c",
     "a|-|b|½|\xe1\xa0\x8e|c"},
    {PLAIN("WhitespaceSplit"), "a\xe1\xa0\x8e b\xe3\x80\x80 c", "a\xe1\xa0\x8e|b|c"},
    {LIST("pretokenizers", "{`type`:`Digits`,`individual_digits`:true}"
                           "," BYTE_LEVEL("false", "true")),
     "v10 é", "v|1|0|ĠÃ\xc2\xa9"},
};

/* `out` is what each token makes certain, and the flush at its end. */
static const struct row decoders[] = {
    {PLAIN("ByteLevel"), "ĠH|Ã|\xc2\xa9|!|你|Ã|a|ð|Ł",
     " H||é|!|你||\xef\xbf\xbd"
     "a|||\xef\xbf\xbd"},
    {NULL, "a||b", "a| | b|"},
    {LIST("decoders", ""), "a|b", "a|b|"},
    {LIST("decoders", LITERAL("▁", " ") "," PLAIN("ByteFallback") "," PLAIN("Fuse") "," LEADING),
     "▁▁Hey|▁|<0xF0>|<0x9F>|<0x98>|<0x80>|▁x", " Hey| |||||😀 x|"},
    {PLAIN("ByteFallback"), "<0xE4>|<0xBD>|a|<0xC3>|<0xA9>|<0xG1>|<0xff>|<0x0a>",
     "||\xef\xbf\xbd\xef\xbf\xbd"
     "a|||é<0xG1>|||\xef\xbf\xbd\xef\xbf\xbd"},
    {METASPACE("always", "true"), "▁a▁b|▁c▁", "ab| c |"},
    {METASPACE("never", "true"), "▁a▁b|▁c▁", " a b| c |"},
    {LIST("decoders", STRIP "," PLAIN("Fuse")), "___a__|b_|__c", "_a_|b|c|"},
    {LIST("decoders", PLAIN("Fuse") "," STRIP), "_|__a|_|_b|_|_", "|_a||__b||_|"},
    {LIST("decoders", PLAIN("Fuse") "," LITERAL("aab", "X")), "a|aa|b|a|a", "|a|X|||aa"},
    {REGEX("[ab]+", "X"), "ca|ab|", "cX|X||"},
    {LIST("decoders", PLAIN("ByteLevel") "," LEADING), "ĠaĠ|Ġb", "a | b|"},
};

static void check_pieces(const struct row *row, const struct phx_text *text)
{
    char got[512] = "";
    for (size_t i = 0; i < text->pieces.n; i++) {
        const struct phx_piece *piece = &text->pieces.data[i];
        size_t n = strlen(got);
        snprintf(got + n, sizeof got - n, "%s%.*s", i ? "|" : "", (int)piece->n,
                 text->bytes.data + piece->start);
    }
    if (strcmp(got, row->out) != 0) {
        fail_msg("%s of \"%s\": \"%s\", expected \"%s\"", row->component, row->in, got, row->out);
    }
}

static void run_steps(const struct row *rows, size_t n,
                      enum phx_status (*parse)(const char *, const json_t *, struct phx_steps *))
{
    for (size_t i = 0; i < n; i++) {
        struct phx_steps steps = {0};
        struct phx_text text;
        json_t *json = parse_fragment(rows[i].component);
        assert_ok(parse("test", json, &steps));
        assert_ok(phx_text_create(rows[i].in, strlen(rows[i].in), &text));
        assert_ok(phx_steps_run(&steps, &text));
        check_pieces(&rows[i], &text);
        phx_text_destroy(&text);
        phx_steps_destroy(&steps);
        json_decref(json);
    }
}

static void test_normalizers(void **state)
{
    (void)state;
    run_steps(normalizers, sizeof normalizers / sizeof *normalizers, phx_normalizer_parse);
}

static void test_pre_tokenizers(void **state)
{
    (void)state;
    run_steps(pre_tokenizers, sizeof pre_tokenizers / sizeof *pre_tokenizers,
              phx_pre_tokenizer_parse);
}

static void test_decoders(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof decoders / sizeof *decoders; i++) {
        const struct row *row = &decoders[i];
        struct phx_decoder decoder = {0};
        struct phx_decoding *decoding;
        struct phx_bytes out = {0};
        json_t *json = parse_fragment(row->component);
        assert_ok(phx_decoder_parse("test", json, &decoder));
        assert_ok(phx_decoding_create(&decoder, &decoding));
        for (const char *token = row->in; token; token = strchr(token, '|')) {
            token += *token == '|';
            assert_ok(phx_decoding_push(decoding, token, strcspn(token, "|"), &out));
            assert_ok(phx_bytes_append(&out, "|", 1));
        }
        assert_ok(phx_decoding_finish(decoding, &out));
        if (out.n != strlen(row->out) || memcmp(out.data, row->out, out.n) != 0) {
            fail_msg("%s of \"%s\": \"%.*s\", expected \"%s\"", row->component, row->in, (int)out.n,
                     out.data, row->out);
        }
        free(out.data);
        phx_decoding_destroy(decoding);
        phx_decoder_destroy(&decoder);
        json_decref(json);
    }
}

#define VOCAB "`a`:0,`b`:1,` `:2,`<`:3,`x`:4,`>`:5,`é`:6,`?`:7"
#define MODEL(more) "`model`:{`type`:`BPE`,`vocab`:{" VOCAB "}," more "}"
#define ADDED(id, content, flags)                                                                  \
    "{`id`:" id ",`content`:`" content "`,`special`:false,`normalized`:" flags "}"

static enum phx_status parse_tokenizer(const char *fragment, struct phx_tokenizer **out)
{
    json_t *json = parse_fragment(fragment);
    char *text = json_dumps(json, 0);
    enum phx_status status = phx_tokenizer_parse("test", text, strlen(text), out);
    free(text);
    json_decref(json);
    return status;
}

/* <x> is token 9 and has the flags; <x>> is token 10. */
static void test_added_tokens(void **state)
{
    (void)state;
    static const struct {
        const char *flags, *text, *ids;
    } rows[] = {
        {"false", "a<x> b<x>>", "0 9 2 1 10"},
        {"false,`single_word`:true", "<x> a<x> <x>b <x><x>", "9 2 0 3 4 5 2 3 4 5 1 2 9 9"},
        {"false,`single_word`:true", "<x>_ <x>\u200d <x>½", "3 4 5 7 2 3 4 5 7 2 9 7"},
        {"false,`lstrip`:true", "a  <x> b", "0 9 2 1"},
        {"false,`rstrip`:true", "a <x>  b", "0 2 9 1"},
        {"false,`lstrip`:true,`rstrip`:true", "a\u3000<x>\n<x>b", "0 9 9 1"},
        {"true", "A<X>b", "0 9 1"},
        {"true,`single_word`:true", "é<X> <x>é <x>", "6 3 4 5 2 3 4 5 6 2 9"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct phx_tokenizer *t;
        int32_t *ids = NULL;
        size_t n = 0;
        char json[1024], got[128] = "";
        snprintf(json, sizeof json,
                 "{`added_tokens`:[" ADDED("9", "<x>", "%s") "," ADDED(
                     "10", "<x>>", "false") "],"
                                            "`normalizer`:" PLAIN("Lowercase") "," MODEL(
                                                "`unk_token`:`?`,`merges`:[]") "}",
                 rows[i].flags);
        assert_ok(parse_tokenizer(json, &t));
        assert_ok(phx_tokenizer_encode(t, rows[i].text, strlen(rows[i].text), true, &ids, &n));
        for (size_t k = 0; k < n; k++) {
            size_t at = strlen(got);
            snprintf(got + at, sizeof got - at, "%s%d", k ? " " : "", ids[k]);
        }
        if (strcmp(got, rows[i].ids) != 0) {
            fail_msg("%s: \"%s\" gives %s, expected %s", rows[i].flags, rows[i].text, got,
                     rows[i].ids);
        }
        free(ids);
        phx_tokenizer_destroy(t);
    }
}

#define WITH(component) "{" component "," MODEL("`merges`:[]") "}"
#define PATTERN(regex) WITH("`pre_tokenizer`:" SPLIT(regex, "Isolated"))
#define TEMPLATE(single, ids)                                                                      \
    WITH("`post_processor`:{`type`:`TemplateProcessing`,`single`:[" single "],`pair`:[],"          \
         "`special_tokens`:{`?`:{`id`:`?`,`ids`:" ids ",`tokens`:[`?`]}}}")
#define SPECIAL(name) "{`SpecialToken`:{`id`:`" name "`,`type_id`:0}}"

static const struct {
    const char *json;
    enum phx_status status;
    const char *text;
} refusals[] = {
    {"{}", PHX_BAD_DATA, "test: model is missing"},
    {"{`model`:[]}", PHX_BAD_DATA, "it must be an object"},
    {"{`model`:{`vocab`:{}}}", PHX_BAD_DATA, "model.merges is missing"},
    {"{`model`:{`type`:`Unigram`}}", PHX_UNSUPPORTED, "Unigram"},
    {"{`model`:{`dropout`:0.1}}", PHX_UNSUPPORTED, "dropout"},
    {"{`model`:{`end_of_word_suffix`:`</w>`}}", PHX_UNSUPPORTED, "end_of_word_suffix"},
    {WITH("`version`:`2.0`"), PHX_UNSUPPORTED, "2.0"},
    {"{`model`:{`vocab`:{`a`:-1},`merges`:[]}}", PHX_BAD_DATA, "`a` is -1"},
    {"{`model`:{`vocab`:{`a`:99999999},`merges`:[]}}", PHX_BAD_DATA, "from 0 to 16777215"},
    {"{`model`:{`vocab`:{`a`:1.5},`merges`:[]}}", PHX_BAD_DATA, "is 1.5"},
    {"{`model`:{`vocab`:{`a`:1,`b`:1},`merges`:[]}}", PHX_BAD_DATA, "`a` and `b` have the same id"},
    {"{" MODEL("`merges`:[`a z`]") "}", PHX_BAD_DATA, "names the token `z`"},
    {"{" MODEL("`merges`:[[`a`,`b`]]") "}", PHX_BAD_DATA, "names the token `ab`"},
    {"{" MODEL("`merges`:[`a b c`]") "}", PHX_BAD_DATA, "`a b c` is no merge"},
    {"{" MODEL("`merges`:[[`a`]]") "}", PHX_BAD_DATA, "is no merge"},
    {"{" MODEL("`merges`:[],`unk_token`:`<unk>`") "}", PHX_BAD_DATA, "names the token `<unk>`"},
    {WITH("`added_tokens`:[3]"), PHX_BAD_DATA, "must hold objects"},
    {WITH("`added_tokens`:[{`id`:9}]"), PHX_BAD_DATA, "content is missing"},
    {WITH("`added_tokens`:[{`content`:`z`}]"), PHX_BAD_DATA, "id of the token `z` is missing"},
    {WITH("`added_tokens`:[" ADDED("9", "a", "false") "]"), PHX_BAD_DATA, "but 0 in the vocab"},
    {WITH("`added_tokens`:[" ADDED("0", "z", "false") "]"), PHX_BAD_DATA, "`a` and `z` have the"},
    {WITH("`added_tokens`:[" ADDED("9", "y", "false") "," ADDED("9", "z", "true") "]"),
     PHX_BAD_DATA, "have the same id 9"},
    {WITH("`added_tokens`:[" ADDED("9", "z", "false") "," ADDED("8", "z", "false") "]"),
     PHX_BAD_DATA, "are both written `z`"},
    {WITH("`normalizer`:" LITERAL("z", "") ",`added_tokens`:[" ADDED("9", "z", "true") "]"),
     PHX_BAD_DATA, "leaves nothing"},
    {WITH("`normalizer`:" PLAIN("Precompiled")), PHX_UNSUPPORTED, "type Precompiled"},
    {WITH("`pre_tokenizer`:" PLAIN("BertPreTokenizer")), PHX_UNSUPPORTED, "type BertPreTokenizer"},
    {WITH("`decoder`:" LIST("decoders", PLAIN("CTC"))), PHX_UNSUPPORTED, "decoder of type CTC"},
    {WITH("`post_processor`:" PLAIN("RobertaProcessing")), PHX_UNSUPPORTED, "RobertaProcessing"},
    {WITH("`normalizer`:3"), PHX_BAD_DATA, "normalizer is 3"},
    {WITH("`normalizer`:{}"), PHX_BAD_DATA, "normalizer.type is missing"},
    {WITH("`normalizer`:" PLAIN("Prepend")), PHX_BAD_DATA,
     "normalizer Prepend: prepend is missing"},
    {WITH("`pre_tokenizer`:" DASH("Merged", "false")), PHX_UNSUPPORTED, "`Merged`"},
    {WITH("`pre_tokenizer`:" METASPACE("last", "true")), PHX_UNSUPPORTED, "`last`"},
    {WITH("`decoder`:{`type`:`Strip`,`content`:`ab`,`start`:1,`stop`:0}"), PHX_BAD_DATA,
     "must be one character"},
    {WITH("`decoder`:" LIST("decoders", PLAIN("Fuse") "," PLAIN("ByteFallback"))), PHX_UNSUPPORTED,
     "ByteFallback after one that joins"},
    {TEMPLATE(SPECIAL("z"), "[7]"), PHX_BAD_DATA, "names the special token `z`"},
    {TEMPLATE(SPECIAL("?"), "[6]"), PHX_BAD_DATA, "has the id 6, but the vocabulary says 7"},
    {TEMPLATE("{`Sequence`:{`id`:`B`,`type_id`:0}}", "[7]"), PHX_BAD_DATA, "the Sequence A"},
    {PATTERN("a("), PHX_UNSUPPORTED, "does not compile"},
    {PATTERN("[a[b]]"), PHX_UNSUPPORTED, "a set within a set"},
    {PATTERN("[a&&b]"), PHX_UNSUPPORTED, "uses &&"},
    {PATTERN("[\\W]"), PHX_UNSUPPORTED, "uses \\W"},
    {PATTERN("\\bcat"), PHX_UNSUPPORTED, "uses \\b"},
    {PATTERN("\\x80"), PHX_UNSUPPORTED, "uses \\x"},
    {PATTERN("a(?i)b"), PHX_UNSUPPORTED, "uses (?i"},
    {PATTERN("a{2}+"), PHX_UNSUPPORTED, "uses {2}+"},
};

static void test_refusals(void **state)
{
    (void)state;
    struct phx_tokenizer *t;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        char text[128];
        snprintf(text, sizeof text, "%s", refusals[i].text);
        for (char *c = text; *c; c++) *c = *c == '`' ? '"' : *c;
        assert_fails(parse_tokenizer(refusals[i].json, &t), refusals[i].status, text);
    }
    assert_fails(phx_tokenizer_parse("x.json", "{\"model\":", 9, &t), PHX_BAD_DATA, "x.json");
    assert_fails(phx_tokenizer_parse("x.json", "{\"a\":1,\"a\":2}", 13, &t), PHX_BAD_DATA,
                 "duplicate");
    assert_fails(phx_tokenizer_load(PHX_TEST_DATA "/nowhere", &t), PHX_NOT_FOUND, "tokenizer.json");
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
        cmocka_unit_test(test_vectors),        cmocka_unit_test(test_several_threads),
        cmocka_unit_test(test_demo_model),     cmocka_unit_test(test_merging_against_a_naive_one),
        cmocka_unit_test(test_long_texts),     cmocka_unit_test(test_normalizers),
        cmocka_unit_test(test_pre_tokenizers), cmocka_unit_test(test_decoders),
        cmocka_unit_test(test_added_tokens),   cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_wrong_requests), cmocka_unit_test(test_stream_after_a_prefix),
    };
    return cmocka_run_group_tests(tests, open_sets, close_sets);
}
