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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(broken_files_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
