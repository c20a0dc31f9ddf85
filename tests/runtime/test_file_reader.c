/* Rectangles of a file, read in every mode, are what is mapped; what was asked of the file is
 * counted. */
#include "tests/support/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/file_reader.h"

enum { ROWS = 5, COLS = 40000 }; /* of f32: gaps may be longer than those that are read over */

static char path[] = "tests-file-reader-XXXXXX";
static struct phx_checkpoint *checkpoint;

static int write_file(void **state)
{
    (void)state;
    float *values = calloc(ROWS * COLS, sizeof *values);
    for (int i = 0; i < ROWS * COLS; i++) values[i] = (float)i;
    const struct phx_tensor_to_write tensors[] = {
        {.name = "a", .dtype = PHX_F32, .n_dims = 1, .shape = {3}, .data = values},
        {.name = "b", .dtype = PHX_F32, .n_dims = 2, .shape = {ROWS, COLS}, .data = values}};
    int file = mkstemp(path);
    if (file < 0) return 1;
    close(file);
    enum phx_status status = phx_safetensors_write(path, tensors, 2);
    free(values);
    return status != PHX_OK || phx_checkpoint_open(path, &checkpoint) != PHX_OK;
}

static int remove_file(void **state)
{
    (void)state;
    phx_checkpoint_destroy(checkpoint);
    return unlink(path);
}

/* Columns [first, first + cols) of rows [row, row + rows). */
static struct phx_file_rows cut(int row, int rows, int first, int cols)
{
    const struct phx_file_tensor *b = phx_checkpoint_find(checkpoint, "b");
    return (struct phx_file_rows){.tensor = b,
                                  .data = (const char *)b->data +
                                          sizeof(float) * (size_t)(row * COLS + first),
                                  .pitch_bytes = sizeof(float) * COLS,
                                  .row_bytes = sizeof(float) * (size_t)cols,
                                  .rows = rows};
}

/* False where the file system does not read directly. */
static bool expect_read(enum phx_load_mode mode, const struct phx_file_rows *rows, size_t least,
                        size_t most)
{
    struct phx_file_reader *reader = NULL;
    const char *data = NULL;
    size_t pitch = 0;
    assert_ok(phx_file_reader_create(checkpoint, mode, &reader));
    phx_file_reader_ahead(reader, rows);
    enum phx_status status = phx_file_reader_get(reader, rows, &data, &pitch);
    if (mode == PHX_LOAD_MODE_DIRECT && status == PHX_UNSUPPORTED) {
        assert_non_null(strstr(phx_fail_sentence(), "--load-mode read"));
        phx_fail_clear();
        phx_file_reader_destroy(reader);
        return false;
    }
    assert_ok(status);
    for (int64_t r = 0; r < rows->rows; r++)
        assert_memory_equal(data + (size_t)r * pitch, rows->data + (size_t)r * rows->pitch_bytes,
                            rows->row_bytes);
    size_t fetched = phx_file_reader_fetched(reader);
    if (fetched < least || fetched > most)
        fail_msg("mode %d fetched %zu bytes, not %zu to %zu", (int)mode, fetched, least, most);
    phx_file_reader_done(reader, rows);
    phx_file_reader_destroy(reader);
    return true;
}

static void every_mode_reads_the_same(void **state)
{
    (void)state;
    const size_t row = sizeof(float) * COLS, block = 4096;
    struct phx_file_rows whole = cut(1, 3, 0, COLS), near = cut(0, 5, 7, COLS - 1000);
    struct phx_file_rows far = cut(1, 4, 12345, 777), last = cut(4, 1, COLS - 3, 3);
    const struct {
        struct phx_file_rows *rows;
        size_t bytes, n_pieces;
    } cases[] = {{&whole, 3 * row, 1},
                 {&near, 4 * row + near.row_bytes, 1},
                 {&far, 4 * far.row_bytes, 4},
                 {&last, last.row_bytes, 1}};
    bool direct = true;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t bytes = cases[i].bytes, blocks = 2 * block * cases[i].n_pieces;
        expect_read(PHX_LOAD_MODE_AUTO, cases[i].rows, bytes, bytes);
        expect_read(PHX_LOAD_MODE_MMAP, cases[i].rows, bytes, bytes);
        expect_read(PHX_LOAD_MODE_READ, cases[i].rows, bytes, bytes);
        direct = direct && expect_read(PHX_LOAD_MODE_DIRECT, cases[i].rows, bytes, bytes + blocks);
    }
    if (!direct) print_message("this folder's file system does not read directly\n");
    near.between = true; /* what lies between is read anyhow */
    expect_read(PHX_LOAD_MODE_MMAP, &near, 5 * near.row_bytes, 5 * near.row_bytes);
    expect_read(PHX_LOAD_MODE_READ, &near, 4 * row + near.row_bytes, 4 * row + near.row_bytes);
}

static void a_file_that_was_shortened_is_named(void **state)
{
    (void)state;
    struct phx_file_reader *reader = NULL;
    struct phx_file_rows rows = cut(1, 3, 0, COLS);
    const char *data = NULL;
    size_t pitch = 0;
    assert_int_equal(truncate(path, 5000), 0);
    assert_ok(phx_file_reader_create(checkpoint, PHX_LOAD_MODE_READ, &reader));
    assert_int_equal(phx_file_reader_get(reader, &rows, &data, &pitch), PHX_IO);
    assert_non_null(strstr(phx_fail_sentence(), path));
    assert_non_null(strstr(phx_fail_sentence(), "shortened"));
    phx_fail_clear();
    phx_file_reader_destroy(reader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_mode_reads_the_same),
        cmocka_unit_test(a_file_that_was_shortened_is_named),
    };
    return cmocka_run_group_tests(tests, write_file, remove_file);
}
