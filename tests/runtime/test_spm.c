/* Models of sentencepiece written here, byte by byte: what its own vectors (test_tokenizer) cannot
 * show, and the sentence for every file that is wrong or not supported. */
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/tokenizer/spm.h"

static void put(struct phx_bytes *out, const char *data, size_t n)
{
    assert_ok(phx_bytes_append(out, data, n));
}

static void put_varint(struct phx_bytes *out, unsigned field, unsigned value)
{
    for (unsigned part[2] = {field << 3, value}, i = 0; i < 2; i++) {
        for (; part[i] > 127; part[i] >>= 7) put(out, &(char){(char)(part[i] | 128)}, 1);
        put(out, &(char){(char)part[i]}, 1);
    }
}

static void put_bytes(struct phx_bytes *out, unsigned field, const char *data, size_t n)
{
    struct phx_bytes head = {0};
    put_varint(&head, field, (unsigned)n);
    head.data[0] = (char)(head.data[0] | 2); /* no field of bytes has a number above 15 */
    put(out, head.data, head.n);
    put(out, data, n);
    free(head.data);
}

static void put_piece(struct phx_bytes *out, const char *text, size_t n, float score, unsigned type)
{
    struct phx_bytes piece = {0};
    char bits[5] = {2 << 3 | 5};
    memcpy(bits + 1, &score, 4);
    put_bytes(&piece, 1, text, n);
    put(&piece, bits, 5);
    put_varint(&piece, 3, type);
    put_bytes(out, 1, piece.data, piece.n);
    free(piece.data);
}

/* What a model is written from: pieces as "text score type" ended by |, _ for U+2581. */
struct recipe {
    const char *pieces;
    unsigned type; /* 1: Unigram, 2: BPE */
    bool prefix, trims, bytes;
};

static struct phx_bytes write_model(const struct recipe *recipe)
{
    struct phx_bytes out = {0}, trainer = {0}, normalizer = {0};
    for (const char *at = recipe->pieces; *at; at = strchr(at, '|') + 1) {
        char text[64], piece[64] = "";
        float score;
        unsigned type, n = 0;
        assert_int_equal(sscanf(at, "%63[^ ] %f %u", text, &score, &type), 3);
        for (const char *c = text; *c; c++) {
            n += (unsigned)snprintf(piece + n, sizeof piece - n, "%s",
                                    *c == '_' ? "\xe2\x96\x81" : (char[]){*c, '\0'});
        }
        put_piece(&out, piece, n, score, type);
    }
    for (unsigned byte = 0; recipe->bytes && byte < 256; byte++) {
        char text[8];
        put_piece(&out, text, (size_t)snprintf(text, sizeof text, "<0x%02X>", byte), 0, 6);
    }
    put_varint(&trainer, 3, recipe->type);
    put_varint(&trainer, 35, recipe->bytes);
    put_bytes(&out, 2, trainer.data, trainer.n);
    put_varint(&normalizer, 3, recipe->prefix);
    put_varint(&normalizer, 4, recipe->trims);
    put_bytes(&out, 3, normalizer.data, normalizer.n);
    free(trainer.data);
    free(normalizer.data);
    return out;
}

static const struct phx_spm_options with_bos = {.add_bos = true};

static enum phx_status parse(const struct recipe *recipe, struct phx_tokenizer **out)
{
    struct phx_bytes model = write_model(recipe);
    enum phx_status status =
        phx_tokenizer_parse_spm("x.model", model.data, model.n, &with_bos, out);
    free(model.data);
    return status;
}

#define HEAD "<unk> 0 2|<s> 0 3|</s> 0 3|"
#define LETTERS "_ -9 1|a -9 1|b -9 1|c -9 1|"

static const struct row {
    struct recipe recipe;
    const char *in, *ids, *decoded; /* with BOS, without special tokens */
} rows[] = {
    /* The higher score first; of equal ones the leftmost; the pair need not be made of tokens. */
    {{HEAD LETTERS "ab -1 1|bc -2 1|", .type = 2}, "abc", "1 7 6", "abc"},
    {{HEAD LETTERS "ab -2 1|bc -1 1|", .type = 2}, "abc", "1 4 8", "abc"},
    {{HEAD LETTERS "ab -1 1|bc -1 1|", .type = 2}, "abc", "1 7 6", "abc"},
    {{HEAD LETTERS "xy -1 1|xya -2 1|", .type = 2}, "xyaxa", "1 8 0 4", "xya \u2047 a"},
    /* A token of another type is not merged, a user-defined one is never split or joined. */
    {{HEAD LETTERS "ab -1 3|", .type = 2}, "cab", "1 6 7", "c"},
    {{HEAD LETTERS "ab -1 4|cab -1 1|", .type = 2}, "cab", "1 6 7", "cab"},
    {{HEAD LETTERS "ab -1 4|", .type = 2, .prefix = true}, "ab_ab", "1 3 7 0 7", "ab \u2047 ab"},
    /* Control pieces cut the text, and each part gets its prefix. */
    {{HEAD LETTERS, .type = 2, .prefix = true}, "a<s>b", "1 3 4 1 3 5", "a b"},
    {{HEAD LETTERS, .type = 2, .trims = true}, "  a   b <s> ", "1 4 3 5 1", "a b"},
    /* Unknown runs, and bytes instead of them. */
    {{HEAD LETTERS, .type = 2}, "axyzb", "1 4 0 5", "a \u2047 b"},
    {{HEAD LETTERS, .type = 1}, "axyzb", "1 4 0 5", "a \u2047 b"},
    {{HEAD "a -1 1|", .type = 2, .bytes = true}, "a\u00e9", "1 3 199 173", "a\u00e9"},
    {{HEAD "a -1 1|", .type = 1, .bytes = true}, "a\u00e9", "1 3 199 173", "a\u00e9"},
    {{HEAD "a -1 1|", .type = 1, .bytes = true}, "<0x41>a", "1 64 52 124 56 53 66 3", "<0x41>a"},
    /* The sum of scores decides; an unused piece is none; the unknown one is 10 below the lowest.
     */
    {{HEAD LETTERS "ab -18.5 1|", .type = 1}, "ab", "1 4 5", "ab"},
    {{HEAD LETTERS "ab -17.5 1|", .type = 1}, "ab", "1 7", "ab"},
    {{HEAD LETTERS "ab -1 5|", .type = 1}, "ab", "1 4 5", "ab"},
    {{HEAD LETTERS "xa -27.5 1|", .type = 1}, "xa", "1 7", "xa"},
    /* A user-defined piece has a tenth for each byte but the first. */
    {{HEAD LETTERS "ab 0 4|bc 0.05 1|", .type = 1}, "abc", "1 7 6", "abc"},
    {{HEAD LETTERS "ab 0 4|bc 0.15 1|", .type = 1}, "abc", "1 4 8", "abc"},
    /* Sums are counted anew from -100000 on: here floats are 1/128 apart. */
    {{HEAD LETTERS "x -70000 1|ab -18.001 1|", .type = 1}, "xxab", "1 7 7 4 5", "xxab"},
    {{HEAD LETTERS "abc -1 1|b -50 4|", .type = 1, .prefix = true}, "abc", "", ""},
};

static void encode(const struct phx_tokenizer *t, const char *text, char out[256])
{
    int32_t *ids = NULL;
    size_t n = 0;
    *out = '\0';
    assert_ok(phx_tokenizer_encode(t, text, strlen(text), true, &ids, &n));
    for (size_t i = 0, at = 0; i < n; i++) {
        at += (size_t)snprintf(out + at, 256 - at, "%s%d", i ? " " : "", ids[i]);
    }
    free(ids);
}

static void decode(const struct phx_tokenizer *t, const char *ids, char out[256])
{
    int32_t list[64];
    size_t n = 0, bytes = 0;
    char *text = NULL;
    for (const char *at = ids; *at; at += strspn(at, " ")) {
        list[n++] = (int32_t)strtol(at, (char **)&at, 10);
    }
    assert_ok(phx_tokenizer_decode(t, list, n, true, &text, &bytes));
    snprintf(out, 256, "%s", text);
    free(text);
}

static void test_rows(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct row *row = &rows[i];
        struct phx_tokenizer *t;
        char ids[256], text[256];
        if (!*row->ids) {
            assert_fails(parse(&row->recipe, &t), PHX_BAD_DATA, "5 and 8 are both written \"b\"");
            continue;
        }
        assert_ok(parse(&row->recipe, &t));
        encode(t, row->in, ids);
        decode(t, ids, text);
        if (strcmp(ids, row->ids) != 0 || strcmp(text, row->decoded) != 0) {
            fail_msg("row %zu: \"%s\" gives %s and \"%s\", expected %s and \"%s\"", i, row->in, ids,
                     text, row->ids, row->decoded);
        }
        phx_tokenizer_destroy(t);
    }
}

/* Bytes that are no text, and the spaces at the start. Ids: 3 is U+2581, 4 is a, 5 + b a byte. */
static void test_decoding(void **state)
{
    (void)state;
    static const struct {
        bool prefix, trims;
        const char *ids, *text;
    } cases[] = {
        {false, false, "233 194 165 4", "\u4f60a"},
        {false, false, "233 194 4", "\ufffd\ufffda"},
        {false, false, "233 194", "\ufffd\ufffd"},
        {false, false, "200 233 194 165 70", "\ufffd\u4f60A"},
        {false, false, "3 3 4", "  a"},
        {true, false, "3 3 4", " a"},
        {true, true, "3 3 4", "a"},
        {true, true, "1 3 4 3 4", "a a"},
        {true, false, "70 3 4", "A a"},
        {true, false, "0 3 4", " \u2047  a"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct recipe recipe = {HEAD "_ -9 1|a -9 1|", 2, cases[i].prefix, cases[i].trims, true};
        struct phx_tokenizer *t;
        char text[256];
        assert_ok(parse(&recipe, &t));
        decode(t, cases[i].ids, text);
        assert_string_equal(text, cases[i].text);
        phx_tokenizer_destroy(t);
    }
}

static void test_loading(void **state)
{
    (void)state;
    static const struct recipe recipe = {HEAD LETTERS, .type = 2};
    char directory[] = "/tmp/phx_spm_XXXXXX", path[64], config[64], ids[256];
    struct phx_tokenizer *t;
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/tokenizer.model", directory);
    snprintf(config, sizeof config, "%s/tokenizer_config.json", directory);
    struct phx_bytes model = write_model(&recipe);
    FILE *file = fopen(path, "wb");
    assert_int_equal(fwrite(model.data, 1, model.n, file), model.n);
    fclose(file);
    free(model.data);
    assert_ok(phx_tokenizer_load(directory, &t));
    encode(t, "a", ids);
    assert_string_equal(ids, "1 4");
    assert_true(phx_tokenizer_is_special(t, 1) && !phx_tokenizer_is_special(t, 4));
    assert_int_equal(phx_tokenizer_id(t, "</s>"), 2);
    phx_tokenizer_destroy(t);

    file = fopen(config, "wb");
    fputs("{\"add_bos_token\": false, \"add_eos_token\": true}", file);
    fclose(file);
    assert_ok(phx_tokenizer_load(directory, &t));
    encode(t, "a", ids);
    assert_string_equal(ids, "4 2");
    phx_tokenizer_destroy(t);
    unlink(path);
    unlink(config);
    assert_fails(phx_tokenizer_load(directory, &t), PHX_NOT_FOUND, "neither a tokenizer.json nor");
    rmdir(directory);
}

static const struct {
    struct recipe recipe;
    enum phx_status status;
    const char *text;
} refusals[] = {
    {{"", .type = 1}, PHX_BAD_DATA, "neither an unknown piece nor byte pieces"},
    {{LETTERS, .type = 1}, PHX_BAD_DATA, "neither an unknown piece nor byte pieces"},
    {{HEAD "z 0 2|", .type = 1}, PHX_BAD_DATA, "the pieces 0 and 3 are both the unknown one"},
    {{HEAD "a -1 1|a -2 1|", .type = 2}, PHX_BAD_DATA, "the pieces 3 and 4 are both written \"a\""},
    {{HEAD "a -1 7|", .type = 2}, PHX_UNSUPPORTED, "piece 3, \"a\", has the unknown type 7"},
    {{HEAD "a nan 1|", .type = 2}, PHX_BAD_DATA, "the score of piece 3, \"a\", is not finite"},
    {{HEAD "a -1 5|", .type = 2}, PHX_UNSUPPORTED, "piece 3, \"a\", is unused"},
    {{HEAD "\xff -1 1|", .type = 2}, PHX_BAD_DATA, "piece 3 is broken"},
    {{HEAD LETTERS, .type = 3},
     PHX_UNSUPPORTED,
     "type WORD is not supported; known are UNIGRAM and BPE"},
    {{HEAD LETTERS, .type = 77}, PHX_UNSUPPORTED, "a number unknown"},
};

static void test_refusals(void **state)
{
    (void)state;
    struct phx_tokenizer *t;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        assert_fails(parse(&refusals[i].recipe, &t), refusals[i].status, refusals[i].text);
    }
    static const struct recipe good = {HEAD LETTERS, .type = 2};
    static const struct {
        const char *data;
        size_t n;
        enum phx_status status;
        const char *text;
    } tails[] = {
        {"\x12\x05\xa0\x02\x01\x08", 6, PHX_BAD_DATA, "ends within a field"},
        {"\x12\x03\xa0\x82\x82", 5, PHX_BAD_DATA, "ends within a field"},
        {"\x12\x03\x98\x02\x01", 5, PHX_BAD_DATA, "falls back to bytes, but <0x00> is missing"},
        {"\x12\x04\xe2\x02\x01\xff", 6, PHX_BAD_DATA, "unk_surface is not valid UTF-8"},
        {"\x0a\x00", 2, PHX_BAD_DATA, "piece 7 is empty"},
        {"\x0a\x05\x0a\x03\x61\x00\x62", 7, PHX_BAD_DATA, "piece 7 is broken"},
        {"\x08\x01", 2, PHX_BAD_DATA, "a part of the model has the wire type 0; it must be 2"},
        {"\x0b", 1, PHX_BAD_DATA, "wire type 3"},
        {"\x00\x00", 2, PHX_BAD_DATA, "the number 0"},
        {"\x2a\x03\x12\x01x", 5, PHX_UNSUPPORTED, "denormalizer_spec"},
        {"\x1a\x05\x12\x03xyz", 7, PHX_BAD_DATA, "its trie has 0 bytes of 3"},
        {"\x1a\x08\x12\x06\x08\x00\x00\x00zz", 10, PHX_BAD_DATA, "its trie has 8 bytes of 6"},
        {"\x1a\x08\x12\x06\x00\x00\x00\x00zz", 10, PHX_BAD_DATA, "its texts are no UTF-8"},
    };
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        struct phx_bytes model = write_model(&good);
        put(&model, tails[i].data, tails[i].n);
        assert_fails(phx_tokenizer_parse_spm("x.model", model.data, model.n, &with_bos, &t),
                     tails[i].status, tails[i].text);
        free(model.data);
    }
    assert_fails(phx_tokenizer_parse_spm("x.model", "{\"model\": 1}", 12, &with_bos, &t),
                 PHX_BAD_DATA, "x.model: it is no protocol buffer");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_decoding),
        cmocka_unit_test(test_loading),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
