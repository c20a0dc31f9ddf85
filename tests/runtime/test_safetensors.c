/* Tensors in files: headers, folders, shards; and the sentence for everything that is damaged. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <setjmp.h>

#include <cmocka.h>

#include "runtime/safetensors.h"
#include "tests/support/write_model.h"

static void expect_failure(const char *what, enum phx_status found, enum phx_status expected,
                           const char *const words[4])
{
    if (found != expected)
        fail_msg("%s: %s (%s)", what, phx_status_text(found), phx_fail_sentence());
    for (int i = 0; i < 4 && words[i]; i++)
        if (!strstr(phx_fail_sentence(), words[i]))
            fail_msg("%s: no \"%s\" in: %s", what, words[i], phx_fail_sentence());
}

/* ---- headers ---- */

static void headers_are_parsed(void **state)
{
    (void)state;
    static const char header[] =
        "{\"__metadata__\": {\"format\": \"pt\"},"
        "\"z\": {\"dtype\": \"BF16\", \"shape\": [2, 3], \"data_offsets\": [20, 32]},"
        "\"scalar\": {\"dtype\": \"F32\", \"shape\": [], \"data_offsets\": [16, 20]},"
        "\"empty\": {\"dtype\": \"F16\", \"shape\": [0, 7], \"data_offsets\": [16, 16]},"
        "\"ids\": {\"dtype\": \"I64\", \"shape\": [2], \"data_offsets\": [0, 16]},"
        "\"new\": {\"dtype\": \"F3_SOMETHING_LONG\", \"shape\": [5], \"data_offsets\": [32, 35]}}  "
        " ";
    struct phx_file_tensor *t;
    size_t n;
    if (phx_safetensors_parse_header("f", header, strlen(header), 35, &t, &n) != PHX_OK)
        fail_msg("%s", phx_fail_sentence());
    assert_int_equal(n, 5);
    const char *names[] = {"empty", "ids", "new", "scalar", "z"};
    for (int i = 0; i < 5; i++) assert_string_equal(t[i].name, names[i]);
    assert_int_equal(t[0].bytes, 0);
    assert_int_equal(t[0].shape[1], 7);
    assert_int_equal(t[1].dtype, -1);
    assert_string_equal(t[1].dtype_name, "I64");
    assert_int_equal(t[2].dtype, -1);
    assert_string_equal(t[2].dtype_name, "F3_SOMETHING_LO");
    assert_int_equal(t[3].n_dims, 0);
    assert_int_equal(t[3].bytes, 4);
    assert_int_equal(t[4].dtype, PHX_BF16);
    assert_int_equal(t[4].n_dims, 2);
    assert_int_equal((uintptr_t)t[4].data, 20);
    char text[PHX_SHAPE_TEXT_BYTES];
    assert_string_equal(phx_file_tensor_shape_text(&t[4], text), "[2, 3]");
    phx_safetensors_free_header(t, n);

    assert_int_equal(phx_safetensors_parse_header("f", "{}", 2, 0, &t, &n), PHX_OK);
    assert_int_equal(n, 0);
    phx_safetensors_free_header(t, n);
}

/* A tensor's entry, and one that is right. */
#define ENTRY(dtype, shape, offsets)                                                               \
    "{\"dtype\": " dtype ", \"shape\": " shape ", \"data_offsets\": " offsets "}"
#define GOOD ENTRY("\"F32\"", "[2]", "[0, 8]")

static const struct bad_header {
    const char *json;
    const char *words[4]; /* that the sentence must hold */
} bad_headers[] = {
    {"", {"w.st", "JSON"}},
    {"{\"a\": " GOOD, {"w.st", "JSON"}},
    {"[]", {"w.st", "object"}},
    {"{\"a\": " GOOD "} x", {"w.st", "JSON"}},
    {"{\"a\": " GOOD ", \"a\": " GOOD "}", {"w.st", "duplicate", "\"a\""}},
    {"{\"a\": 3}", {"w.st", "tensor a", "dtype"}},
    {"{\"a\": {}}", {"w.st", "tensor a", "dtype"}},
    {"{\"a\": " ENTRY("7", "[2]", "[0, 8]") "}", {"w.st", "tensor a", "dtype"}},
    {"{\"a\": {\"dtype\": \"F32\", \"data_offsets\": [0, 8]}}", {"w.st", "tensor a", "shape"}},
    {"{\"a\": " ENTRY("\"F32\"", "2", "[0, 8]") "}", {"w.st", "tensor a", "shape"}},
    {"{\"a\": " ENTRY("\"F32\"", "[-2]", "[0, 8]") "}", {"w.st", "tensor a", "-2"}},
    {"{\"a\": " ENTRY("\"F32\"", "[2.0]", "[0, 8]") "}", {"w.st", "tensor a", "2.0"}},
    {"{\"a\": " ENTRY("\"F32\"", "[1,1,1,1,1,1,1,1,2]", "[0, 8]") "}",
     {"w.st", "tensor a", "9 dimensions", "8"}},
    {"{\"a\": {\"dtype\": \"F32\", \"shape\": [2]}}", {"w.st", "tensor a", "data_offsets"}},
    {"{\"a\": " ENTRY("\"F32\"", "[2]", "[0]") "}", {"w.st", "tensor a", "data_offsets"}},
    {"{\"a\": " ENTRY("\"F32\"", "[2]", "[0, 8, 8]") "}", {"w.st", "tensor a", "data_offsets"}},
    {"{\"a\": " ENTRY("\"F32\"", "[2]", "[0, \"8\"]") "}", {"w.st", "tensor a", "data_offsets"}},
    {"{\"a\": " ENTRY("\"F32\"", "[2]", "[8, 0]") "}", {"w.st", "tensor a", "8 to 0"}},
    {"{\"a\": " ENTRY("\"F32\"", "[2]", "[-8, 0]") "}", {"w.st", "tensor a", "-8 to 0"}},
    {"{\"a\": " ENTRY("\"F32\"", "[2]", "[12, 20]") "}",
     {"w.st", "tensor a", "12 to 20", "16 bytes of data"}},
    {"{\"a\": " ENTRY("\"F32\"", "[2]", "[0, 18446744073709551615]") "}", {"w.st", "too big"}},
    {"{\"a\": " ENTRY("\"F32\"", "[2]", "[9223372036854775800, 9223372036854775807]") "}",
     {"w.st", "tensor a", "9223372036854775807"}},
    {"{\"a\": " ENTRY("\"F32\"", "[3]", "[0, 8]") "}",
     {"w.st", "tensor a has 8 bytes", "F32 of shape [3]", "12"}},
    {"{\"a\": " ENTRY("\"BF16\"", "[2, 3]", "[0, 8]") "}", {"w.st", "BF16 of shape [2, 3]", "12"}},
    {"{\"a\": " ENTRY("\"F32\"", "[]", "[0, 8]") "}", {"w.st", "F32 of shape []", "takes 4"}},
    {"{\"a\": " ENTRY("\"F4\"", "[3]", "[0, 1]") "}", {"w.st", "F4", "takes 2"}},
    {"{\"a\": " ENTRY("\"F32\"", "[4294967296, 4294967296]", "[0, 8]") "}",
     {"w.st", "tensor a", "[4294967296, 4294967296]", "too large"}},
    {"{\"a\": " ENTRY("\"F32\"", "[4611686018427387904, 4]", "[0, 0]") "}",
     {"w.st", "tensor a", "too large"}},
    {"{\"a\": " GOOD ", \"b\": " ENTRY("\"F32\"", "[2]", "[4, 12]") "}",
     {"w.st", "tensor a ends at data byte 8", "tensor b begins at 4"}},
    {"{\"a\": " GOOD ", \"b\": " GOOD "}", {"w.st", "tensor", "8", "begins at 0"}},
    {"{\"a\": " GOOD ", \"b\": " ENTRY("\"F32\"", "[0]", "[4, 4]") "}",
     {"w.st", "tensor a ends at data byte 8", "tensor b begins at 4"}},
};

static void bad_headers_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bad_headers / sizeof *bad_headers; i++) {
        struct phx_file_tensor *tensors = NULL;
        size_t n = 0;
        const char *json = bad_headers[i].json;
        enum phx_status status =
            phx_safetensors_parse_header("w.st", json, strlen(json), 16, &tensors, &n);
        expect_failure(json, status, PHX_BAD_DATA, bad_headers[i].words);
        assert_null(tensors);
    }
}

/* ---- files ---- */

static void write_then_read(void **state)
{
    (void)state;
    char *folder = test_folder_create(), path[512];
    snprintf(path, sizeof path, "%s/out.safetensors", folder);
    const float scalar = 2.5f;
    const int32_t ids[3] = {7, -8, 9};
    uint16_t halves[2 * 3] = {1, 2, 3, 4, 5, 6};
    const struct phx_tensor_to_write tensors[] = {
        {"scalar", PHX_F32, 0, {0}, &scalar},
        {"b \"quoted\"", PHX_BF16, 2, {2, 3}, halves},
        {"empty", PHX_F16, 2, {0, 5}, NULL},
        {"ids", PHX_I32, 1, {3}, ids},
    };
    for (int round = 0; round < 2; round++) { /* over an existing file as well */
        if (phx_safetensors_write(path, tensors, 4) != PHX_OK) fail_msg("%s", phx_fail_sentence());
    }
    struct phx_checkpoint *c;
    if (phx_checkpoint_open(path, &c) != PHX_OK) fail_msg("%s", phx_fail_sentence());
    assert_string_equal(phx_checkpoint_path(c), path);
    assert_int_equal(phx_checkpoint_count(c), 4);
    assert_null(phx_checkpoint_find(c, "b"));
    for (int i = 0; i < 4; i++) {
        const struct phx_tensor_to_write *w = &tensors[i];
        const struct phx_file_tensor *t = phx_checkpoint_find(c, w->name);
        assert_non_null(t);
        assert_int_equal(t->dtype, w->dtype);
        assert_int_equal(t->n_dims, w->n_dims);
        assert_memory_equal(t->shape, w->shape, sizeof t->shape);
        assert_string_equal(t->file, path);
        if (t->bytes > 0) assert_memory_equal(t->data, w->data, t->bytes);
    }
    size_t bytes;
    char *text = test_file_read(path, &bytes);
    assert_int_equal(phx_checkpoint_bytes(c), bytes);
    assert_int_equal(bytes - (4 + 12 + 0 + 12), (bytes - 28) / 8 * 8); /* data aligned to 8 */
    free(text);
    phx_checkpoint_destroy(c);

    assert_int_equal(phx_safetensors_write(path, NULL, 0), PHX_OK);
    assert_int_equal(phx_checkpoint_open(path, &c), PHX_OK);
    assert_int_equal(phx_checkpoint_count(c), 0);
    assert_null(phx_checkpoint_find(c, "scalar"));
    phx_checkpoint_destroy(c);

    snprintf(path, sizeof path, "%s/absent/out.safetensors", folder);
    expect_failure("write", phx_safetensors_write(path, tensors, 4), PHX_IO,
                   (const char *const[4]){path, "No such file"});
    /* Nothing replaces a folder or a link. */
    snprintf(path, sizeof path, "%s", folder);
    expect_failure("write", phx_safetensors_write(path, tensors, 4), PHX_USAGE,
                   (const char *const[4]){path, "no regular file"});
    snprintf(path, sizeof path, "%s/link.safetensors", folder);
    assert_int_equal(symlink("/nowhere", path), 0);
    expect_failure("write", phx_safetensors_write(path, tensors, 4), PHX_USAGE,
                   (const char *const[4]){path, "no regular file"});
    unlink(path);
    test_folder_destroy(folder);
}

static void fixtures_open(void **state)
{
    (void)state;
    struct phx_checkpoint *c;
    assert_int_equal(phx_checkpoint_open(PHX_TEST_DATA "/hf/llama3-12q4kv", &c), PHX_OK);
    assert_int_equal(phx_checkpoint_count(c), 3 + 3 * 9);
    assert_int_equal(phx_checkpoint_bytes(c), 147800 + 142448 + 129584 + 124016 + 130328 + 98424);
    for (size_t i = 1; i < phx_checkpoint_count(c); i++)
        assert_true(strcmp(phx_checkpoint_at(c, i - 1)->name, phx_checkpoint_at(c, i)->name) < 0);
    const struct phx_file_tensor *t = phx_checkpoint_find(c, "model.layers.2.mlp.up_proj.weight");
    assert_non_null(t);
    assert_int_equal(t->shape[0], 160);
    assert_non_null(strstr(t->file, "/model-0000"));
    phx_checkpoint_destroy(c);

    assert_int_equal(phx_checkpoint_open(PHX_TEST_DATA "/hf/qwen2-14q2kv/golden.safetensors", &c),
                     PHX_OK);
    t = phx_checkpoint_find(c, "input_ids");
    assert_int_equal(t->dtype, PHX_I32);
    assert_int_equal(t->bytes, 40 * 4);
    phx_checkpoint_destroy(c);
}

static void broken_files_are_refused(void **state)
{
    (void)state;
    char *folder = test_folder_create(), path[512];
    struct phx_checkpoint *c = NULL;
    const char *const name = "model.safetensors";
    expect_failure("empty folder", phx_checkpoint_open(folder, &c), PHX_NOT_FOUND,
                   (const char *const[4]){folder, "model.safetensors nor", "index.json"});
    snprintf(path, sizeof path, "%s/absent", folder);
    expect_failure("no folder", phx_checkpoint_open(path, &c), PHX_NOT_FOUND,
                   (const char *const[4]){path, "No such file"});

    test_file_write(folder, name, "", 0);
    expect_failure("no bytes", phx_checkpoint_open(folder, &c), PHX_BAD_DATA,
                   (const char *const[4]){name, "0 bytes", "at least 8"});
    test_file_write(folder, name, "\x02\0\0\0\0\0\0", 7);
    expect_failure("7 bytes", phx_checkpoint_open(folder, &c), PHX_BAD_DATA,
                   (const char *const[4]){name, "7 bytes"});
    test_file_write(folder, name, "\x02\0\0\0\0\0\0\0", 8);
    expect_failure("no header", phx_checkpoint_open(folder, &c), PHX_BAD_DATA,
                   (const char *const[4]){name, "header has 2 bytes", "0 follow"});
    test_file_write(folder, name, "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10);
    expect_failure("absurd length", phx_checkpoint_open(folder, &c), PHX_BAD_DATA,
                   (const char *const[4]){name, "18446744073709551615", "2 follow"});
    test_file_write(folder, name, "\0\0\0\0\0\0\0\0", 8);
    expect_failure("empty header", phx_checkpoint_open(folder, &c), PHX_BAD_DATA,
                   (const char *const[4]){name, "JSON"});
    test_file_write_text(folder, name, "version https://git-lfs.github.com/spec/v1\n");
    expect_failure("not a safetensors file", phx_checkpoint_open(folder, &c), PHX_BAD_DATA,
                   (const char *const[4]){name, "not a safetensors file"});

    /* Every shorter file is refused, wherever it is cut. */
    const float values[2] = {1, 2};
    test_safetensors_write(folder, name, "{\"a\": " GOOD "}", values, sizeof values);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(phx_checkpoint_open(folder, &c), PHX_OK);
    phx_checkpoint_destroy(c);
    c = NULL;
    size_t bytes;
    char *whole = test_file_read(path, &bytes);
    for (size_t cut = 0; cut < bytes; cut++) {
        test_file_write(folder, name, whole, cut);
        expect_failure("cut", phx_checkpoint_open(folder, &c), PHX_BAD_DATA,
                       (const char *const[4]){path});
    }
    assert_null(c);
    free(whole);
    test_folder_destroy(folder);
}

static void indexes_are_checked(void **state)
{
    (void)state;
    static const struct {
        const char *index;
        enum phx_status status;
        const char *words[4];
    } rows[] = {
        {"{", PHX_BAD_DATA, {"index.json", "JSON"}},
        {"{}", PHX_BAD_DATA, {"index.json", "weight_map", "missing"}},
        {"{\"weight_map\": []}", PHX_BAD_DATA, {"index.json", "weight_map", "object"}},
        {"{\"weight_map\": {\"a\": 3}}", PHX_BAD_DATA, {"index.json", "tensor a", "3"}},
        {"{\"weight_map\": {\"a\": \"../x\"}}", PHX_BAD_DATA, {"tensor a", "../x", "same folder"}},
        {"{\"weight_map\": {\"a\": \"/etc/passwd\"}}", PHX_BAD_DATA, {"tensor a", "/etc/passwd"}},
        {"{\"weight_map\": {\"a\": \"sub/x\"}}", PHX_BAD_DATA, {"tensor a", "sub/x"}},
        {"{\"weight_map\": {\"a\": \"..\"}}", PHX_BAD_DATA, {"tensor a", "\"..\""}},
        {"{\"weight_map\": {\"a\": \"\"}}", PHX_BAD_DATA, {"tensor a", "\"\""}},
        {"{\"weight_map\": {\"a\": \"1.st\", \"z\": \"9.st\"}}",
         PHX_NOT_FOUND,
         {"9.st", "No such"}},
        {"{\"weight_map\": {\"a\": \"1.st\", \"z\": \"1.st\"}}",
         PHX_BAD_DATA,
         {"index.json", "tensor z", "1.st", "does not have"}},
        {"{\"weight_map\": {\"a\": \"2.st\", \"b\": \"1.st\"}}",
         PHX_BAD_DATA,
         {"index.json", "tensor", "but it is in"}},
        {"{\"weight_map\": {\"a\": \"1.st\", \"a2\": \"3.st\"}}",
         PHX_BAD_DATA,
         {"tensor a is in both", "1.st", "3.st"}},
        {"{\"weight_map\": {\"a\": \"1.st\", \"a\": \"2.st\"}}", PHX_BAD_DATA, {"duplicate"}},
        {"{\"weight_map\": {\"a\": \"folder\"}}", PHX_BAD_DATA, {"folder", "regular file"}},
    };
    char *folder = test_folder_create(), path[512];
    const float values[2] = {1, 2};
    test_safetensors_write(folder, "1.st", "{\"a\": " GOOD "}", values, sizeof values);
    test_safetensors_write(folder, "2.st", "{\"b\": " GOOD "}", values, sizeof values);
    test_safetensors_write(folder, "3.st", "{\"a\": " GOOD "}", values, sizeof values);
    snprintf(path, sizeof path, "%s/folder", folder);
    assert_int_equal(mkdir(path, 0777), 0);
    struct phx_checkpoint *c = NULL;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        test_file_write_text(folder, "model.safetensors.index.json", rows[i].index);
        expect_failure(rows[i].index, phx_checkpoint_open(folder, &c), rows[i].status,
                       rows[i].words);
        assert_null(c);
    }
    test_file_write_text(folder, "model.safetensors.index.json",
                         "{\"weight_map\": {\"b\": \"2.st\", \"a\": \"1.st\"}, \"metadata\": 1}");
    assert_int_equal(phx_checkpoint_open(folder, &c), PHX_OK);
    assert_int_equal(phx_checkpoint_count(c), 2);
    phx_checkpoint_destroy(c);
    test_folder_destroy(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_are_parsed),       cmocka_unit_test(bad_headers_are_refused),
        cmocka_unit_test(write_then_read),          cmocka_unit_test(fixtures_open),
        cmocka_unit_test(broken_files_are_refused), cmocka_unit_test(indexes_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
