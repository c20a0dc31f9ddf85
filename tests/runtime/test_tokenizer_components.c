/* Each component of a tokenizer.json alone against what the `tokenizers` library gives (0.23), and
 * the sentence for every file that is wrong or not supported. */
#include "tests/support/check.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/tokenizer/tokenizer_impl.h"

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
#define PAIR(key, a, b) LIST(key, a "," b)
#define DIGITS(each) "{`type`:`Digits`,`individual_digits`:" each "}"
#define PUNCTUATION(behavior) "{`type`:`Punctuation`,`behavior`:`" behavior "`}"
#define STRIP "{`type`:`Strip`,`content`:`_`,`start`:2,`stop`:1}"

struct row {
    const char *component, *in, *out; /* `|` between pieces */
};

static const struct row normalizers[] = {
    {PLAIN("NFC"), "e\u0301 가\u0316\u0301", "é 가\u0316\u0301"},
    {PLAIN("NFD"), "éṩ가", "e\u0301s\u0323\u0307가"},
    {PLAIN("NFKC"), "ﬁ①\u212b", "fi1\u00c5"},
    {PLAIN("NFKD"), "ﬁ½é", "fi1\u20442e\u0301"},
    {PLAIN("NFD"), "a\u0301\u0316\u0301\u0316", "a\u0316\u0316\u0301\u0301"},
    {PLAIN("Lowercase"), "ÀΣİẞ", "àσi\u0307ß"},
    {"{`type`:`Strip`,`strip_left`:true,`strip_right`:false}", "\u3000 a b \n", "a b \n"},
    {"{`type`:`Strip`,`strip_left`:false,`strip_right`:true}", "\u3000 a b\u00a0\n", "\u3000 a b"},
    {"{`type`:`Prepend`,`prepend`:`▁`}", "ab", "▁ab"},
    {"{`type`:`Prepend`,`prepend`:`▁`}", "", ""},
    {LITERAL("aa", "b"), "aaaaac", "bbac"},
    {REGEX("\\s+", " "), "a\t\n b\u180e \u2028c", "a b\u180e c"},
    {REGEX("x*", "-"), "axxb", "-a-b-"},
    {PLAIN("ByteLevel"), "é \x7f", "Ã\u00a9Ġġ"},
    {PAIR("normalizers", LITERAL(" ", "▁"), PLAIN("Lowercase")), "Hello World", "hello▁world"},
};

static const struct row pre_tokenizers[] = {
    {BYTE_LEVEL("false", "true"), "I'm 12  ok?\n", "I|'m|Ġ12|Ġ|Ġok|?|Ċ"},
    {BYTE_LEVEL("true", "false"), "a é", "ĠaĠÃ\u00a9"},
    {BYTE_LEVEL("true", "true"), " a b", "Ġa|Ġb"},
    {METASPACE("always", "true"), "Hey  you", "▁Hey|▁|▁you"},
    {METASPACE("first", "false"), "Hey  you", "▁Hey▁▁you"},
    {METASPACE("never", "true"), "Hey  you", "Hey|▁|▁you"},
    {"{`type`:`Metaspace`,`replacement`:`▁`,`prepend_scheme`:`always`}", " Hey", "▁Hey"},
    {PAIR("pretokenizers", SPLIT("\\d+", "Isolated"), METASPACE("first", "true")), "Hey 3 you",
     "▁Hey|▁|3|▁you"},
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
    {SPLIT("\\s", "Removed"), "a\u180eb c\xc2\x85-", "a\u180eb|c|-"},
    {SPLIT("[^\\S\\n]+", "Removed"), "a \u180e\n\u2003b", "a|\u180e\n|b"},
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
    {DIGITS("true"), "a12²b", "a|1|2|²|b"},
    {DIGITS("false"), "a12²b", "a|12²|b"},
    {PUNCTUATION("Isolated"), "a$b…!c", "a|$|b|…|!|c"},
    {PUNCTUATION("Contiguous"), "a$b…!c", "a|$|b|…!|c"},
    {PLAIN("Whitespace"), "a-b½ \u180ec", "a|-|b|½|\u180e|c"},
    {PLAIN("WhitespaceSplit"), "a\u180e b\u3000 c", "a\u180e|b|c"},
    {PAIR("pretokenizers", DIGITS("true"), BYTE_LEVEL("false", "true")), "v10 é", "v|1|0|ĠÃ\u00a9"},
};

/* `out` is what each token makes certain, and the flush at its end. */
static const struct row decoders[] = {
    {PLAIN("ByteLevel"), "ĠH|Ã|\u00a9|!|你|Ã|a|ð|Ł", " H||é|!|你||\ufffda|||\ufffd"},
    {NULL, "a||b", "a| | b|"},
    {LIST("decoders", ""), "a|b", "a|b|"},
    {LIST("decoders", LITERAL("▁", " ") "," PLAIN("ByteFallback") "," PLAIN("Fuse") "," LEADING),
     "▁▁Hey|▁|<0xF0>|<0x9F>|<0x98>|<0x80>|▁x", " Hey| |||||😀 x|"},
    {PLAIN("ByteFallback"), "<0xE4>|<0xBD>|a|<0xC3>|<0xA9>|<0xG1>|<0xff>|<0x0a>",
     "||\ufffd\ufffda|||é<0xG1>|||\ufffd\ufffd"},
    {METASPACE("always", "true"), "▁a▁b|▁c▁", "ab| c |"},
    {METASPACE("never", "true"), "▁a▁b|▁c▁", " a b| c |"},
    {PAIR("decoders", STRIP, PLAIN("Fuse")), "___a__|b_|__c", "_a_|b|c|"},
    {PAIR("decoders", PLAIN("Fuse"), STRIP), "_|__a|_|_b|_|_", "|_a||__b||_|"},
    {PAIR("decoders", PLAIN("Fuse"), LITERAL("aab", "X")), "a|aa|b|a|a", "|a|X|||aa"},
    {PAIR("decoders", PLAIN("Fuse"), LITERAL("aab", "X")), "a|c|ab|b", "|ac|ab|b|"},
    {REGEX("[ab]+", "X"), "ca|ab|", "cX|X||"},
    {PAIR("decoders", PLAIN("ByteLevel"), LEADING), "ĠaĠ|Ġb", "a | b|"},
};

/* A token in the middle of a text, as bytes. */
static const struct row within[] = {
    {PLAIN("ByteLevel"), "ĠH", " H|"},
    {PLAIN("ByteLevel"), "Ł", "\x9f|"},
    {NULL, "a", " a|"},
    {LIST("decoders", LITERAL("▁", " ") "," PLAIN("ByteFallback") "," PLAIN("Fuse") "," LEADING),
     "▁Hey", " Hey|"},
    {LIST("decoders", LITERAL("▁", " ") "," PLAIN("ByteFallback") "," PLAIN("Fuse") "," LEADING),
     "<0x98>", "|\x98"},
    {METASPACE("always", "true"), "▁a▁b", " a b|"},
    {PAIR("decoders", PLAIN("ByteFallback"), REGEX("[ab]+", "X")), "ca", "cX|"},
    {PAIR("decoders", PLAIN("ByteFallback"), REGEX("[ab]+", "X")), "<0xE4>", "|\xe4"},
    {PAIR("decoders", PLAIN("ByteFallback"), LITERAL("aab", "X")), "<0xE4>", "|\xe4"},
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

static void run_decoders(const struct row *rows, size_t n, bool begin_within)
{
    for (size_t i = 0; i < n; i++) {
        const struct row *row = &rows[i];
        struct phx_decoder decoder = {0};
        struct phx_decoding *decoding;
        struct phx_bytes out = {0};
        json_t *json = parse_fragment(row->component);
        assert_ok(phx_decoder_parse("test", json, &decoder));
        assert_ok(phx_decoding_create(&decoder, &decoding));
        if (begin_within) phx_decoding_begin_within(decoding);
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

#define WITH(component) "{" component "," MODEL("`merges`:[]") "}"
#define PATTERN(regex) WITH("`pre_tokenizer`:" SPLIT(regex, "Isolated"))
#define TEMPLATE(single, ids)                                                                      \
    WITH("`post_processor`:{`type`:`TemplateProcessing`,`single`:[" single "],`pair`:[],"          \
         "`special_tokens`:{`?`:{`id`:`?`,`ids`:" ids ",`tokens`:[`?`]}}}")
#define SPECIAL(name) "{`SpecialToken`:{`id`:`" name "`,`type_id`:0}}"

/* <x> is token 9 and has the flags; <x>> is token 10. */
#define TWO_ADDED(flags)                                                                           \
    "{`added_tokens`:[" ADDED("9", "<x>", flags) "," ADDED(                                        \
        "10", "<x>>",                                                                              \
        "false") "],"                                                                              \
                 "`normalizer`:" PLAIN("Lowercase") "," MODEL("`unk_token`:`?`,`merges`:[]") "}"
#define BPE(options)                                                                               \
    "{`model`:{`vocab`:{`a`:0,`b`:1,`ab`:2,`aa`:3,`?`:4,`<0xC3>`:5,`<0xA9>`:6,`aab`:7}," options   \
    "}}"
#define UNIGRAM(pieces, options) "{`model`:{`type`:`Unigram`,`vocab`:[" pieces "]" options "}}"
#define PIECES "[`?`,0],[`a`,-3],[`b`,-3],[`ab`,-5],[`<0xC3>`,0],[`<0xA9>`,0],[`x?`,-50]"
#define TEXT "{`Sequence`:{`id`:`A`,`type_id`:0}}"

static const struct row files[] = {
    {TWO_ADDED("false"), "a<x> b<x>>", "0 9 2 1 10"},
    {TWO_ADDED("false,`single_word`:true"), "<x> a<x> <x>b <x><x>", "9 2 0 3 4 5 2 3 4 5 1 2 9 9"},
    {TWO_ADDED("false,`single_word`:true"), "<x>_ <x>\u200d <x>½", "3 4 5 7 2 3 4 5 7 2 9 7"},
    {TWO_ADDED("false,`lstrip`:true"), "a  <x> b", "0 9 2 1"},
    {TWO_ADDED("false,`rstrip`:true"), "a <x>  b", "0 2 9 1"},
    {TWO_ADDED("false,`lstrip`:true,`rstrip`:true"), "a\u3000<x>\n<x>b", "0 9 9 1"},
    {TWO_ADDED("true"), "A<X>b", "0 9 1"},
    {TWO_ADDED("true,`single_word`:true"), "é<X> <x>é <x>", "6 3 4 5 2 3 4 5 6 2 9"},
    {BPE("`merges`:[]"), "azzb", "0 1"},
    {BPE("`merges`:[],`unk_token`:`?`"), "azzb", "0 4 4 1"},
    {BPE("`merges`:[],`unk_token`:`?`,`fuse_unk`:true"), "azzb", "0 4 1"},
    {BPE("`merges`:[],`unk_token`:`?`,`byte_fallback`:true"), "azéb", "0 5 6 4 1"},
    {BPE("`merges`:[],`ignore_merges`:false"), "ab", "0 1"},
    {BPE("`merges`:[],`ignore_merges`:true"), "ab", "2"},
    {BPE("`merges`:[`a b`,`a a`]"), "aab", "0 2"},
    {BPE("`merges`:[`a a`,`a b`]"), "aab", "3 1"},
    {BPE("`merges`:[[`a`,`a`]]"), "aaaaa", "3 3 0"},
    {BPE("`merges`:[`#version: 0.2`,`a a`,`aa b`,`a b`]"), "aabab", "7 2"},
    {UNIGRAM(PIECES, ",`unk_id`:0"), "aabzz", "1 3 0"},
    {UNIGRAM(PIECES, ",`unk_id`:0"), "z?z a", "0 1"},
    {UNIGRAM(PIECES, ",`unk_id`:0,`byte_fallback`:true"), "éaz?", "4 5 1 0"},
    {UNIGRAM(PIECES, ",`unk_id`:0"), "x?", "6"},
    {UNIGRAM("[`a`,-1],[`aa`,-2],[`aaa`,-3]", ""), "aaaa", "0 2"},
    {TEMPLATE(SPECIAL("?") "," TEXT "," SPECIAL("?"), "[7]"), "a", "7 0 7"},
    {TEMPLATE(TEXT "," SPECIAL("?") "," TEXT, "[7]"), "ab", "0 1 7 0 1"},
};

static void test_files(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        const struct row *row = &files[i];
        struct phx_tokenizer *t;
        int32_t *ids = NULL;
        size_t n = 0;
        char got[128] = "";
        assert_ok(parse_tokenizer(row->component, &t));
        assert_ok(phx_tokenizer_encode(t, row->in, strlen(row->in), true, &ids, &n));
        for (size_t k = 0; k < n; k++) {
            size_t at = strlen(got);
            snprintf(got + at, sizeof got - at, "%s%d", k ? " " : "", ids[k]);
        }
        if (strcmp(got, row->out) != 0) {
            fail_msg("%s: \"%s\" gives %s, expected %s", row->component, row->in, got, row->out);
        }
        free(ids);
        phx_tokenizer_destroy(t);
    }
}

/* What a prefix ends in and the decoder still holds back is not handed out, over several pushes. */
static void test_stream_owes_to_its_prefix(void **state)
{
    (void)state;
    struct phx_tokenizer *t;
    struct phx_text_stream *stream;
    const int32_t prefix[] = {0, 0};
    const char *text;
    size_t n;
    assert_ok(parse_tokenizer(
        WITH("`decoder`:" PAIR("decoders", PLAIN("Fuse"), LITERAL("aab", "X"))), &t));
    assert_ok(phx_text_stream_create(t, prefix, 2, false, &stream)); /* "aa", both held back */
    assert_ok(phx_text_stream_push(stream, 0, &text, &n));           /* one a is certain: owed */
    assert_int_equal(n, 0);
    assert_ok(phx_text_stream_push(stream, 4, &text, &n)); /* of "aax", one a is owed */
    assert_int_equal(n, 2);
    assert_memory_equal(text, "ax", 2);
    phx_text_stream_destroy(stream);
    assert_ok(phx_text_stream_create(t, prefix, 2, false, &stream));
    assert_ok(phx_text_stream_push(stream, 1, &text, &n)); /* "aa" has become "X" */
    assert_int_equal(n, 1);
    assert_memory_equal(text, "X", 1);
    phx_text_stream_destroy(stream);
    phx_tokenizer_destroy(t);
}

static const struct {
    const char *json;
    enum phx_status status;
    const char *text;
} refusals[] = {
    {"{}", PHX_BAD_DATA, "test: model is missing"},
    {"{`model`:[]}", PHX_BAD_DATA, "it must be an object"},
    {"{`model`:{`vocab`:{}}}", PHX_BAD_DATA, "model.merges is missing"},
    {"{`model`:{`type`:`WordPiece`}}", PHX_UNSUPPORTED, "WordPiece"},
    {"{`model`:{`type`:`BPE`,`dropout`:0.1}}", PHX_UNSUPPORTED, "dropout"},
    {"{`model`:{`end_of_word_suffix`:`</w>`}}", PHX_UNSUPPORTED, "end_of_word_suffix"},
    {UNIGRAM("[`a`,-1],[`b`]", ""), PHX_BAD_DATA, "piece 1 is [`b`]; it must be [`text`, score]"},
    {UNIGRAM("[`a`,-1],[`a`,-2]", ""), PHX_BAD_DATA, "the pieces 0 and 1 are both written `a`"},
    {UNIGRAM("[`a`,-1]", ",`unk_id`:1"), PHX_BAD_DATA, "model.unk_id is 1"},
    {"{`model`:{`type`:`Unigram`}}", PHX_BAD_DATA, "model.vocab is missing"},
    {WITH("`normalizer`:{`type`:`Precompiled`,`precompiled_charsmap`:`a*==`}"), PHX_BAD_DATA,
     "precompiled_charsmap is no base64"},
    {WITH("`normalizer`:{`type`:`Precompiled`,`precompiled_charsmap`:`AAAA`}"), PHX_BAD_DATA,
     "its trie has 0 bytes of 3"},
    {WITH("`version`:`2.0`"), PHX_UNSUPPORTED, "2.0"},
    {"{`model`:{`vocab`:{`a`:-1},`merges`:[]}}", PHX_BAD_DATA, "`a` is -1"},
    {"{`model`:{`vocab`:{`a`:99999999},`merges`:[]}}", PHX_BAD_DATA, "from 0 to 4194303"},
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
    {WITH("`normalizer`:" PLAIN("StripAccents")), PHX_UNSUPPORTED, "type StripAccents"},
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
    {WITH("`decoder`:" PAIR("decoders", PLAIN("Fuse"), PLAIN("ByteFallback"))), PHX_UNSUPPORTED,
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

static void test_decoders(void **state)
{
    (void)state;
    run_decoders(decoders, sizeof decoders / sizeof *decoders, false);
    run_decoders(within, sizeof within / sizeof *within, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_normalizers),
        cmocka_unit_test(test_pre_tokenizers),
        cmocka_unit_test(test_decoders),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_stream_owes_to_its_prefix),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
