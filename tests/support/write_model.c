#include "tests/support/write_model.h"

#include <dirent.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <setjmp.h>

#include <cmocka.h>

#include "runtime/config.h"
#include "runtime/weights.h"

static void path_of(char path[512], const char *folder, const char *name)
{
    assert_true(snprintf(path, 512, "%s/%s", folder, name) < 512);
}

char *test_folder_create(void)
{
    char folder[256];
    const char *parent = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/phalanx-test-XXXXXX", parent ? parent : "/tmp");
    assert_non_null(mkdtemp(folder));
    return strdup(folder);
}

void test_folder_destroy(char *folder)
{
    char path[512];
    DIR *entries = opendir(folder);
    assert_non_null(entries);
    for (struct dirent *entry; (entry = readdir(entries));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        path_of(path, folder, entry->d_name);
        assert_int_equal(remove(path), 0);
    }
    closedir(entries);
    assert_int_equal(rmdir(folder), 0);
    free(folder);
}

void test_file_write(const char *folder, const char *name, const void *data, size_t bytes)
{
    char path[512];
    path_of(path, folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

void test_file_write_text(const char *folder, const char *name, const char *text)
{
    test_file_write(folder, name, text, strlen(text));
}

char *test_file_read(const char *path, size_t *out_bytes)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    long bytes = ftell(file);
    assert_true(bytes >= 0);
    rewind(file);
    char *text = malloc((size_t)bytes + 1);
    assert_non_null(text);
    assert_int_equal(fread(text, 1, (size_t)bytes, file), bytes);
    text[bytes] = '\0';
    fclose(file);
    *out_bytes = (size_t)bytes;
    return text;
}

void test_safetensors_write(const char *folder, const char *name, const char *header,
                            const void *data, size_t data_bytes)
{
    char path[512], prefix[8];
    size_t length = strlen(header);
    for (int i = 0; i < 8; i++) prefix[i] = (char)((uint64_t)length >> (8 * i));
    path_of(path, folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(prefix, 1, sizeof prefix, file), sizeof prefix);
    assert_int_equal(fwrite(header, 1, length, file), length);
    assert_int_equal(fwrite(data, 1, data_bytes, file), data_bytes);
    assert_int_equal(fclose(file), 0);
}

/* One byte more of header moves all data by one. */
static void misalign(const char *folder, const char *name)
{
    char path[512];
    size_t bytes;
    path_of(path, folder, name);
    char *old = test_file_read(path, &bytes);
    size_t length = 0;
    for (int i = 0; i < 8; i++) length |= (size_t)(unsigned char)old[i] << (8 * i);
    char *header = NULL;
    assert_true(asprintf(&header, "%.*s ", (int)length, old + 8) > 0);
    test_safetensors_write(folder, name, header, old + 8 + length, bytes - 8 - length);
    free(header);
    free(old);
}

/* The tensors to write, and what they point to. */
struct tensor_list {
    struct phx_tensor_to_write *tensors;
    size_t n;
};

static void add(struct tensor_list *list, const struct phx_tensor_to_write *tensor)
{
    list->tensors = realloc(list->tensors, (list->n + 1) * sizeof *list->tensors);
    assert_non_null(list->tensors);
    list->tensors[list->n] = *tensor;
    list->tensors[list->n].name = strdup(tensor->name);
    list->n++;
}

static void *dummy_values(const struct phx_dummy *dummy, enum phx_dtype dtype, int64_t rows,
                          int64_t cols)
{
    size_t size = phx_dtype_bytes(dtype, 1);
    char *values = malloc(phx_dtype_bytes(dtype, rows * cols) + 1);
    assert_non_null(values);
    for (int64_t r = 0; r < rows; r++) {
        uint32_t key = phx_dummy_row_key(dummy->key, r);
        for (int64_t c = 0; c < cols; c++) {
            float value = dummy->center + dummy->scale * phx_dummy_unit(key, (uint32_t)c);
            uint16_t half = dtype == PHX_BF16 ? phx_bf16_from_f32(value) : phx_f16_from_f32(value);
            const void *from = dtype == PHX_F32 ? (const void *)&value : (const void *)&half;
            memcpy(values + (size_t)(r * cols + c) * size, from, size);
        }
    }
    return values;
}

static int64_t length_of(const struct phx_shard_plan *plan, int32_t layer, enum phx_dim dim)
{
    return phx_shard_plan_full(plan, layer, dim);
}

static void add_row(struct tensor_list *list, const struct test_model *model,
                    const struct phx_config *config, const struct phx_shard_plan *plan,
                    const struct phx_weight_row *row, int32_t layer, int32_t expert)
{
    char name[PHX_WEIGHT_NAME_BYTES];
    phx_weight_name(row->name, layer, expert, name);
    int64_t rows = length_of(plan, layer, row->row_dim),
            cols = length_of(plan, layer, row->col_dim);
    bool vector = row->slot >= PHX_SLOT_MATRIX_COUNT;
    struct phx_tensor_to_write tensor = {
        .name = name,
        .dtype = config->dtype,
        .n_dims = vector ? 1 : 2,
        .shape = {vector ? cols : rows, vector ? 0 : cols},
    };
    if (model->edit && !model->edit(&tensor)) return;
    struct phx_dummy dummy = phx_weight_row_dummy(row, layer, expert, cols);
    int64_t new_rows = tensor.n_dims > 1 ? tensor.shape[0] : 1;
    int64_t new_cols = tensor.n_dims > 1 ? tensor.shape[1] : tensor.shape[0];
    tensor.data = dummy_values(&dummy, tensor.dtype, new_rows, new_cols);
    add(list, &tensor);
}

static void write_files(const char *folder, const struct test_model *model,
                        const struct tensor_list *list)
{
    int n_files = model->n_files > 1 ? model->n_files : 1;
    char path[512], file[64] = "model.safetensors", *index = NULL;
    size_t index_bytes = 0;
    FILE *index_file = open_memstream(&index, &index_bytes);
    assert_non_null(index_file);
    fputs("{\"metadata\": {}, \"weight_map\": {", index_file);
    for (int f = 0; f < n_files; f++) {
        size_t begin = list->n * (size_t)f / (size_t)n_files;
        size_t end = list->n * (size_t)(f + 1) / (size_t)n_files;
        if (n_files > 1)
            snprintf(file, sizeof file, "model-%05d-of-%05d.safetensors", f + 1, n_files);
        path_of(path, folder, file);
        assert_int_equal(phx_safetensors_write(path, list->tensors + begin, end - begin), PHX_OK);
        if (model->misaligned) misalign(folder, file);
        for (size_t i = begin; i < end; i++)
            fprintf(index_file, "%s\"%s\": \"%s\"", i ? ", " : "", list->tensors[i].name, file);
    }
    fputs("}}", index_file);
    fclose(index_file);
    if (n_files > 1) test_file_write_text(folder, "model.safetensors.index.json", index);
    free(index);
}

void test_model_write(const char *folder, const struct test_model *model)
{
    struct phx_config *config;
    struct phx_shard_plan *plan;
    assert_int_equal(phx_config_parse("config.json", model->config_json, strlen(model->config_json),
                                      NULL, 0, &config),
                     PHX_OK);
    struct phx_layer_shape *layers = calloc((size_t)config->n_layers, sizeof *layers);
    assert_non_null(layers);
    struct phx_model_shape shape = phx_config_shape(config, layers);
    assert_int_equal(phx_shard_plan_create(&shape, 1, 0, &plan), PHX_OK);

    struct tensor_list list = {0};
    size_t n_rows;
    const struct phx_weight_row *rows = phx_weight_rows(config, &n_rows);
    for (size_t i = 0; i < n_rows; i++) {
        for (int32_t layer = 0; layer < (rows[i].per_layer ? config->n_layers : 1); layer++) {
            if (!phx_weight_row_wanted(&rows[i], config, layer)) continue;
            int32_t n = rows[i].per_expert ? config->layers[layer].shape.n_experts : 1;
            for (int32_t expert = 0; expert < n; expert++)
                add_row(&list, model, config, plan, &rows[i], layer, expert);
        }
    }
    if (model->extra) {
        struct phx_tensor_to_write extra = {model->extra, PHX_F32, 1, {3}, calloc(3, 4)};
        add(&list, &extra);
    }
    test_file_write_text(folder, "config.json", model->config_json);
    write_files(folder, model, &list);
    for (size_t i = 0; i < list.n; i++) {
        free((char *)list.tensors[i].name);
        free((void *)list.tensors[i].data);
    }
    free(list.tensors);
    free(layers);
    phx_shard_plan_destroy(plan);
    phx_config_destroy(config);
}
