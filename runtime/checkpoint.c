#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/base/check.h"
#include "runtime/gguf_model.h"
#include "runtime/json.h"
#include "runtime/safetensors.h"

/* As in the format's reference implementation. */
enum { MAX_HEADER_BYTES = 100000000 };

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

struct mapped_file {
    char *path;
    void *address; /* NULL: not mapped */
    size_t bytes;
};

struct phx_checkpoint {
    char *path;            /* as it was opened */
    struct phx_gguf *gguf; /* or, if NULL, files */
    struct mapped_file *files;
    size_t n_files;
    struct phx_file_tensor *tensors; /* sorted by name */
    size_t n_tensors;
};

static enum phx_status out_of_memory(const char *path)
{
    return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", path);
}

/* Fills address and bytes of `file`. */
static enum phx_status map_file(struct mapped_file *file)
{
    int fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not wait */
    if (fd < 0) {
        return phx_fail(errno == ENOENT ? PHX_NOT_FOUND : PHX_IO, "cannot open %s: %s", file->path,
                        strerror(errno));
    }
    enum phx_status status = PHX_OK;
    struct stat info;
    void *address = MAP_FAILED;
    if (fstat(fd, &info) != 0) {
        status = phx_fail(PHX_IO, "cannot read %s: %s", file->path, strerror(errno));
    } else if (!S_ISREG(info.st_mode)) {
        status = phx_fail(PHX_BAD_DATA, "%s is not a regular file", file->path);
    } else if (info.st_size < 8) {
        status = phx_fail(PHX_BAD_DATA,
                          "%s has %" PRIdMAX " bytes; a safetensors file has at least 8: it is "
                          "not complete",
                          file->path, (intmax_t)info.st_size);
    } else {
        address = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (address == MAP_FAILED)
            status = phx_fail(PHX_IO, "cannot map %s: %s%s", file->path, strerror(errno),
                              errno == ENOMEM ? " (does ulimit -v allow so many addresses?)" : "");
    }
    close(fd);
    if (status != PHX_OK) return status;
    file->address = address;
    file->bytes = (size_t)info.st_size;
    return PHX_OK;
}

/* Parses the header of a mapped file and appends its tensors, unsorted. */
static enum phx_status add_tensors(struct phx_checkpoint *checkpoint,
                                   const struct mapped_file *file)
{
    const unsigned char *bytes = file->address;
    uint64_t length = 0;
    for (int i = 0; i < 8; i++) length |= (uint64_t)bytes[i] << (8 * i);
    if (length > file->bytes - 8 || length > MAX_HEADER_BYTES) {
        return phx_fail(PHX_BAD_DATA,
                        "%s says that its header has %" PRIu64 " bytes, but %zu follow and a "
                        "header has at most %d: it is damaged, not complete, or not a safetensors "
                        "file",
                        file->path, length, file->bytes - 8, MAX_HEADER_BYTES);
    }
    struct phx_file_tensor *tensors = NULL;
    size_t n = 0, data_bytes = file->bytes - 8 - length;
    PHX_TRY(phx_safetensors_parse_header(file->path, (const char *)bytes + 8, length, data_bytes,
                                         &tensors, &n));
    size_t total = checkpoint->n_tensors + n;
    struct phx_file_tensor *grown =
        realloc(checkpoint->tensors, (total + 1) * sizeof *checkpoint->tensors);
    if (!grown) {
        phx_safetensors_free_header(tensors, n);
        return out_of_memory(file->path);
    }
    const unsigned char *data = bytes + 8 + length;
    for (size_t i = 0; i < n; i++) {
        grown[checkpoint->n_tensors + i] = tensors[i];
        grown[checkpoint->n_tensors + i].data = data + (uintptr_t)tensors[i].data;
    }
    free(tensors); /* the names moved along */
    checkpoint->tensors = grown;
    checkpoint->n_tensors = total;
    return PHX_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct phx_file_tensor *)a)->name,
                  ((const struct phx_file_tensor *)b)->name);
}

static enum phx_status sort_tensors(struct phx_checkpoint *checkpoint)
{
    struct phx_file_tensor *t = checkpoint->tensors;
    if (checkpoint->n_tensors > 0) qsort(t, checkpoint->n_tensors, sizeof *t, by_name);
    for (size_t i = 1; i < checkpoint->n_tensors; i++) {
        if (strcmp(t[i - 1].name, t[i].name) == 0) {
            return phx_fail(PHX_BAD_DATA, "tensor %s is in both %s and %s", t[i].name,
                            t[i - 1].file, t[i].file);
        }
    }
    return PHX_OK;
}

/* FOLDER/NAME, or NAME where the folder is NULL. */
static enum phx_status add_file(struct phx_checkpoint *checkpoint, const char *folder,
                                const char *name)
{
    struct mapped_file *grown =
        realloc(checkpoint->files, (checkpoint->n_files + 1) * sizeof *checkpoint->files);
    if (!grown) return out_of_memory(checkpoint->path);
    checkpoint->files = grown;
    struct mapped_file *file = &grown[checkpoint->n_files];
    *file = (struct mapped_file){0};
    if (asprintf(&file->path, "%s%s%s", folder ? folder : "", folder ? "/" : "", name) < 0)
        return out_of_memory(checkpoint->path);
    checkpoint->n_files++;
    PHX_TRY(map_file(file));
    return add_tensors(checkpoint, file);
}

/* A shard's name must stay inside the checkpoint's folder. */
static enum phx_status check_shard_name(const char *index_path, const char *tensor,
                                        const json_t *value)
{
    const char *name = json_string_value(value);
    if (name && *name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0)
        return PHX_OK;
    char text[PHX_JSON_TEXT_BYTES];
    return phx_fail(PHX_BAD_DATA,
                    "%s: weight_map puts tensor %s in %s; it must be the name of a file in the "
                    "same folder",
                    index_path, tensor, phx_json_text(value, text));
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Each file that the index names, once. */
static enum phx_status add_shards(struct phx_checkpoint *checkpoint, const char *index_path,
                                  const json_t *weight_map)
{
    const char **names = calloc(json_object_size(weight_map) + 1, sizeof *names);
    if (!names) return out_of_memory(index_path);
    enum phx_status status = PHX_OK;
    size_t n = 0;
    const char *tensor;
    json_t *value;
    json_object_foreach((json_t *)weight_map, tensor, value)
    {
        PHX_TRY_GOTO(check_shard_name(index_path, tensor, value), done);
        names[n++] = json_string_value(value);
    }
    if (n > 0) qsort(names, n, sizeof *names, by_text);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && strcmp(names[i - 1], names[i]) == 0) continue;
        PHX_TRY_GOTO(add_file(checkpoint, checkpoint->path, names[i]), done);
    }
    status = sort_tensors(checkpoint);
done:
    free(names);
    return status;
}

/* Every tensor of the index is in the file where the index says. */
static enum phx_status check_index(const struct phx_checkpoint *checkpoint, const char *index_path,
                                   const json_t *weight_map)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)weight_map, name, value)
    {
        const struct phx_file_tensor *tensor = phx_checkpoint_find(checkpoint, name);
        const char *wanted = json_string_value(value);
        if (!tensor) {
            return phx_fail(PHX_BAD_DATA, "%s puts tensor %s in %s, which does not have it",
                            index_path, name, wanted);
        }
        const char *found = strrchr(tensor->file, '/');
        if (strcmp(found + 1, wanted) != 0) {
            return phx_fail(PHX_BAD_DATA, "%s puts tensor %s in %s, but it is in %s", index_path,
                            name, wanted, found + 1);
        }
    }
    return PHX_OK;
}

static enum phx_status open_index(struct phx_checkpoint *checkpoint, const char *index_path)
{
    json_t *root = NULL;
    PHX_TRY(phx_json_load(index_path, &root));
    struct phx_json json = {index_path, "", root};
    const json_t *weight_map = NULL;
    enum phx_status status;
    PHX_TRY_GOTO(phx_json_require(&json, "weight_map"), done);
    PHX_TRY_GOTO(phx_json_object(&json, "weight_map", &weight_map), done);
    PHX_TRY_GOTO(add_shards(checkpoint, index_path, weight_map), done);
    status = check_index(checkpoint, index_path, weight_map);
done:
    json_decref(root);
    return status;
}

static enum phx_status open_folder(struct phx_checkpoint *checkpoint)
{
    const char *folder = checkpoint->path;
    char *single = NULL, *index_path = NULL;
    enum phx_status status;
    if (asprintf(&single, "%s/%s", folder, single_name) < 0) single = NULL;
    if (asprintf(&index_path, "%s/%s", folder, index_name) < 0) index_path = NULL;
    if (!single || !index_path) {
        status = out_of_memory(folder);
    } else if (access(single, F_OK) == 0) {
        status = add_file(checkpoint, folder, single_name);
    } else if (access(index_path, F_OK) == 0) {
        status = open_index(checkpoint, index_path);
    } else {
        status =
            phx_fail(PHX_NOT_FOUND, "%s has neither %s nor %s", folder, single_name, index_name);
    }
    free(single);
    free(index_path);
    return status;
}

static enum phx_status open_gguf(struct phx_checkpoint *checkpoint)
{
    PHX_TRY(phx_gguf_open(checkpoint->path, &checkpoint->gguf));
    return phx_gguf_model_tensors(checkpoint->gguf, &checkpoint->tensors, &checkpoint->n_tensors);
}

enum phx_status phx_checkpoint_open(const char *path, struct phx_checkpoint **out)
{
    struct stat info;
    if (stat(path, &info) != 0) {
        return phx_fail(errno == ENOENT || errno == ENOTDIR ? PHX_NOT_FOUND : PHX_IO,
                        "cannot open %s: %s", path, strerror(errno));
    }
    struct phx_checkpoint *checkpoint = calloc(1, sizeof *checkpoint);
    if (!checkpoint) return out_of_memory(path);
    enum phx_status status;
    checkpoint->path = strdup(path);
    if (!checkpoint->path) {
        status = out_of_memory(path);
    } else if (S_ISDIR(info.st_mode)) {
        status = open_folder(checkpoint);
    } else if (phx_gguf_is(path)) {
        status = open_gguf(checkpoint);
    } else {
        status = add_file(checkpoint, NULL, path);
    }
    if (status != PHX_OK) {
        phx_checkpoint_destroy(checkpoint);
        return status;
    }
    *out = checkpoint;
    return PHX_OK;
}

void phx_checkpoint_destroy(struct phx_checkpoint *checkpoint)
{
    if (!checkpoint) return;
    phx_safetensors_free_header(checkpoint->tensors, checkpoint->n_tensors);
    for (size_t i = 0; i < checkpoint->n_files; i++) {
        struct mapped_file *file = &checkpoint->files[i];
        if (file->address) munmap(file->address, file->bytes);
        free(file->path);
    }
    phx_gguf_destroy(checkpoint->gguf);
    free(checkpoint->files);
    free(checkpoint->path);
    free(checkpoint);
}

const struct phx_file_tensor *phx_checkpoint_find(const struct phx_checkpoint *checkpoint,
                                                  const char *name)
{
    if (checkpoint->n_tensors == 0) return NULL;
    struct phx_file_tensor key = {.name = (char *)name};
    return bsearch(&key, checkpoint->tensors, checkpoint->n_tensors, sizeof key, by_name);
}

const char *phx_checkpoint_path(const struct phx_checkpoint *checkpoint)
{
    return checkpoint->path;
}

const char *phx_checkpoint_config_name(const struct phx_checkpoint *checkpoint)
{
    return checkpoint->gguf ? "metadata" : "config.json";
}

size_t phx_checkpoint_count(const struct phx_checkpoint *checkpoint)
{
    return checkpoint->n_tensors;
}

const struct phx_file_tensor *phx_checkpoint_at(const struct phx_checkpoint *checkpoint,
                                                size_t index)
{
    PHX_ASSERT(index < checkpoint->n_tensors);
    return &checkpoint->tensors[index];
}

const void *phx_checkpoint_mapping(const struct phx_checkpoint *checkpoint,
                                   const struct phx_file_tensor *tensor)
{
    if (checkpoint->gguf) return phx_gguf_mapping(checkpoint->gguf, tensor);
    for (size_t i = 0; i < checkpoint->n_files; i++)
        if (checkpoint->files[i].path == tensor->file) return checkpoint->files[i].address;
    phx_assert_failed("a tensor of this checkpoint", __FILE__, __LINE__);
}

size_t phx_checkpoint_bytes(const struct phx_checkpoint *checkpoint)
{
    size_t bytes = checkpoint->gguf ? phx_gguf_bytes(checkpoint->gguf) : 0;
    for (size_t i = 0; i < checkpoint->n_files; i++) bytes += checkpoint->files[i].bytes;
    return bytes;
}
