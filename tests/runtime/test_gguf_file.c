/* Broken GGUF files: each with its sentence. */
#include "tests/support/check.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/gguf.h"
#include "runtime/gguf_model.h"

struct file {
    unsigned char bytes[1024];
    size_t n;
};

static void put(struct file *f, uint64_t value, int n)
{
    for (int i = 0; i < n; i++) f->bytes[f->n++] = (unsigned char)(value >> (8 * i));
}

static void put_text(struct file *f, const char *text)
{
    put(f, strlen(text), 8);
    memcpy(f->bytes + f->n, text, strlen(text));
    f->n += strlen(text);
}

static void put_tensor(struct file *f, const char *name, uint32_t type, uint64_t offset)
{
    put_text(f, name);
    put(f, 1, 4);
    put(f, 32, 8);
    put(f, type, 4);
    put(f, offset, 8);
}

/* Two tensors of 32 numbers and a key. */
struct recipe {
    const char *magic;
    uint32_t version;
    uint64_t n_tensors, n_keys;
    const char *architecture;
    uint32_t type;
    const char *second;
    uint64_t second_at;
    size_t cut;
    const char *says[2];
};

static void broken_files_are_refused(void **state)
{
    (void)state;
    static const struct recipe rows[] = {
        {"GGUF", 3, 2, 1, "llama", 0, "b", 128, 0, {NULL, NULL}},
        {"GGML", 3, 2, 1, "llama", 0, "b", 128, 0, {"does not begin with GGUF", ""}},
        {"GGUF", 1, 2, 1, "llama", 0, "b", 128, 0, {"version 1", "2 and 3"}},
        {"GGUF", 3u << 24, 2, 1, "llama", 0, "b", 128, 0, {"big-endian", ""}},
        {"GGUF", 3, 1ull << 60, 1, "llama", 0, "b", 128, 0, {"1152921504606846976 tensors", ""}},
        {"GGUF", 3, 2, 1ull << 60, "llama", 0, "b", 128, 0, {"1152921504606846976 keys", ""}},
        {"GGUF", 3, 2, 1, "llama", 10, "b", 128, 0, {"Q2_K", "are supported"}},
        {"GGUF", 3, 2, 1, "llama", 999, "b", 128, 0, {"type 999 (unknown)", "are supported"}},
        {"GGUF", 3, 2, 1, "llama", 12, "b", 128, 0, {"Q4_K", "no whole blocks of 256"}},
        {"GGUF", 3, 2, 1, "llama", 0, "a", 128, 0, {"tensor a", "twice"}},
        {"GGUF", 3, 2, 1, "llama", 0, "b", 64, 0, {"tensor a ends at data byte 128", "b begins"}},
        {"GGUF", 3, 2, 1, "llama", 0, "b", 129, 0, {"data byte 129", "multiple of 32"}},
        {"GGUF", 3, 2, 1, "llama", 0, "b", 1 << 20, 0, {"tensor b", "not complete"}},
        {"GGUF", 3, 2, 1, "llama", 0, "b", 128, 4, {"tensor b", "not complete"}},
        {"GGUF", 3, 2, 1, "mamba", 0, "b", 128, 0, {"mamba", "llama, qwen2, qwen3"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct recipe *r = &rows[i];
        struct file f = {.n = 0};
        struct phx_gguf *gguf = NULL;
        const struct phx_gguf_family *family = NULL;
        memcpy(f.bytes, r->magic, 4);
        f.n = 4;
        put(&f, r->version, 4);
        put(&f, r->n_tensors, 8);
        put(&f, r->n_keys, 8);
        put_text(&f, "general.architecture");
        put(&f, PHX_GGUF_STRING, 4);
        put_text(&f, r->architecture);
        put_tensor(&f, "a", r->type, 0);
        put_tensor(&f, r->second, 0, r->second_at);
        f.n = (f.n + 31) / 32 * 32 + 256 - r->cut;
        enum phx_status status = phx_gguf_parse("some.gguf", f.bytes, f.n, &gguf);
        if (status == PHX_OK) status = phx_gguf_family(gguf, &family);
        phx_gguf_destroy(gguf);
        if (!r->says[0]) {
            assert_int_equal(status, PHX_OK);
            continue;
        }
        const char *sentence = phx_fail_sentence();
        assert_true(status == PHX_BAD_DATA || status == PHX_UNSUPPORTED);
        if (!strstr(sentence, "some.gguf") || !strstr(sentence, r->says[0]) ||
            !strstr(sentence, r->says[1]))
            fail_msg("row %zu says: %s", i, sentence);
        for (size_t cut = 0; cut < f.n; cut++) /* anything shorter is refused, too */
            if (phx_gguf_parse("some.gguf", f.bytes, cut, &gguf) == PHX_OK) {
                assert_true(cut > 200);
                phx_gguf_destroy(gguf);
            }
        phx_fail_clear();
    }
}

/* A file with three keys and a tensor, and where its numbers are. */
enum place {
    KEY_NAME,
    KEY_TYPE,
    TEXT_LENGTH,
    ARRAY_TYPE,
    ARRAY_LENGTH,
    ALIGNMENT,
    TENSOR_NAME,
    N_DIMS,
    DIM,
    N_PLACES
};

static void write_file(struct file *f, size_t at[N_PLACES])
{
    f->n = 0;
    memcpy(f->bytes, "GGUF", 4);
    f->n = 4;
    put(f, 3, 4);
    put(f, 1, 8);
    put(f, 3, 8);
    at[KEY_NAME] = f->n;
    put_text(f, "general.architecture");
    at[KEY_TYPE] = f->n;
    put(f, PHX_GGUF_STRING, 4);
    at[TEXT_LENGTH] = f->n;
    put_text(f, "llama");
    put_text(f, "tokens");
    put(f, PHX_GGUF_ARRAY, 4);
    at[ARRAY_TYPE] = f->n;
    put(f, PHX_GGUF_STRING, 4);
    at[ARRAY_LENGTH] = f->n;
    put(f, 2, 8);
    put_text(f, "a");
    put_text(f, "b");
    put_text(f, "general.alignment");
    put(f, PHX_GGUF_U32, 4);
    at[ALIGNMENT] = f->n;
    put(f, 32, 4);
    at[TENSOR_NAME] = f->n;
    at[N_DIMS] = f->n + 8 + strlen("w");
    at[DIM] = at[N_DIMS] + 4;
    put_tensor(f, "w", 0, 0);
    f->n = (f->n + 31) / 32 * 32 + 128;
}

static void absurd_numbers_are_refused(void **state)
{
    (void)state;
    static const struct {
        enum place place;
        int bytes;
        uint64_t value;
        const char *says[2];
    } rows[] = {
        {KEY_NAME, 8, 0, {"a key's name has 0 bytes", ""}},
        {KEY_NAME, 8, 300, {"300 bytes", ""}},
        {KEY_NAME, 8, UINT64_MAX, {"18446744073709551615 bytes", "are left"}},
        {KEY_TYPE, 4, 99, {"general.architecture", "type 99, which is unknown"}},
        {TEXT_LENGTH, 8, 1ull << 62, {"4611686018427387904 bytes", "are left"}},
        {ARRAY_TYPE, 4, PHX_GGUF_ARRAY, {"tokens", "an array in an array"}},
        {ARRAY_LENGTH, 8, 1ull << 61, {"key tokens has 2305843009213693952 values", "are left"}},
        {ARRAY_LENGTH, 8, 3, {"the name of a key has", "are left"}},
        {ALIGNMENT, 4, 12, {"general.alignment is 12", "no multiple of 8"}},
        {ALIGNMENT, 4, 0, {"general.alignment", "0"}},
        {TENSOR_NAME, 8, 0, {"a tensor's name has 0 bytes", ""}},
        {TENSOR_NAME, 8, 1ull << 40, {"1099511627776 bytes", "are left"}},
        {N_DIMS, 4, 99, {"tensor w has 99 dimensions", "at most"}},
        {DIM, 8, 0, {"tensor w has a dimension of 0", ""}},
        {DIM, 8, UINT64_MAX, {"tensor w has a dimension of 18446744073709551615", ""}},
        {DIM, 8, 1ull << 60, {"tensor w", "4611686018427387904 bytes"}},
        {DIM, 8, 33, {"tensor w has 132 bytes", "not complete"}},
    };
    struct file f;
    size_t at[N_PLACES];
    struct phx_gguf *gguf = NULL;
    write_file(&f, at);
    assert_ok(phx_gguf_parse("some.gguf", f.bytes, f.n, &gguf));
    phx_gguf_destroy(gguf);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        write_file(&f, at);
        size_t n = f.n;
        f.n = at[rows[i].place];
        put(&f, rows[i].value, rows[i].bytes);
        assert_int_equal(phx_gguf_parse("some.gguf", f.bytes, n, &gguf), PHX_BAD_DATA);
        const char *sentence = phx_fail_sentence();
        if (!strstr(sentence, "some.gguf") || !strstr(sentence, rows[i].says[0]) ||
            !strstr(sentence, rows[i].says[1]))
            fail_msg("row %zu says: %s", i, sentence);
        phx_fail_clear();
    }
}

/* Cut anywhere, a file says that it ends too soon. */
static void a_cut_file_says_so(void **state)
{
    (void)state;
    struct file f;
    size_t at[N_PLACES];
    struct phx_gguf *gguf = NULL;
    write_file(&f, at);
    for (size_t n = 4; n < f.n; n++) {
        assert_int_equal(phx_gguf_parse("some.gguf", f.bytes, n, &gguf), PHX_BAD_DATA);
        if (!strstr(phx_fail_sentence(), "it is damaged or not complete"))
            fail_msg("%zu bytes: %s", n, phx_fail_sentence());
        phx_fail_clear();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(broken_files_are_refused),
        cmocka_unit_test(absurd_numbers_are_refused),
        cmocka_unit_test(a_cut_file_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
