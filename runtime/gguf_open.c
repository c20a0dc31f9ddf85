/* GGUF files on disks: mapped, and the parts of a model in several files put together. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/base/check.h"
#include "runtime/gguf_impl.h"

static enum phx_status create(const char *file, struct phx_gguf **out)
{
    struct phx_gguf *gguf = calloc(1, sizeof *gguf);
    if (!gguf) return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", file);
    gguf->file = file;
    *out = gguf;
    return PHX_OK;
}

void phx_gguf_destroy(struct phx_gguf *gguf)
{
    if (!gguf) return;
    for (size_t i = 0; i < gguf->n_parts; i++) phx_gguf_destroy(gguf->parts[i]);
    free(gguf->parts);
    phx_safetensors_free_header(gguf->tensors, gguf->n_tensors);
    free(gguf->values);
    if (gguf->address) munmap(gguf->address, gguf->bytes);
    free(gguf->path);
    free(gguf);
}

/* ---- one file ---- */

static enum phx_status map_file(struct phx_gguf *gguf)
{
    int fd = open(gguf->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not wait */
    if (fd < 0) {
        return phx_fail(errno == ENOENT ? PHX_NOT_FOUND : PHX_IO, "cannot open %s: %s", gguf->path,
                        strerror(errno));
    }
    enum phx_status status = PHX_OK;
    struct stat info;
    void *address = MAP_FAILED;
    if (fstat(fd, &info) != 0) {
        status = phx_fail(PHX_IO, "cannot read %s: %s", gguf->path, strerror(errno));
    } else if (!S_ISREG(info.st_mode) || info.st_size == 0) {
        status = phx_fail(PHX_BAD_DATA, "%s is not a regular file or empty", gguf->path);
    } else {
        address = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (address == MAP_FAILED)
            status = phx_fail(PHX_IO, "cannot map %s: %s%s", gguf->path, strerror(errno),
                              errno == ENOMEM ? " (does ulimit -v allow so many addresses?)" : "");
    }
    close(fd);
    if (status != PHX_OK) return status;
    gguf->address = address;
    gguf->bytes = (size_t)info.st_size;
    return PHX_OK;
}

/* Takes `path`. */
static enum phx_status open_file(char *path, struct phx_gguf **out)
{
    struct phx_gguf *gguf = NULL;
    enum phx_status status = create(path, &gguf);
    if (status != PHX_OK) {
        free(path);
        return status;
    }
    gguf->path = path;
    status = map_file(gguf);
    if (status == PHX_OK) status = phx_gguf_read(gguf, gguf->address, gguf->bytes);
    if (status != PHX_OK) {
        phx_gguf_destroy(gguf);
        return status;
    }
    *out = gguf;
    return PHX_OK;
}

/* ---- parts ---- */

/* Which of how many files of a model this is, from 0; 0 of 1 without the keys. */
static enum phx_status read_number(const struct phx_gguf *gguf, int64_t *number, int64_t *count)
{
    *number = 0;
    *count = 1;
    PHX_TRY(phx_gguf_int(gguf, "split.no", 0, UINT16_MAX, number));
    PHX_TRY(phx_gguf_int(gguf, "split.count", 0, UINT16_MAX, count));
    if (*count == 0) *count = 1;
    return PHX_OK;
}

/* The names of parts end in "-00001-of-00003.gguf". The path of another one, NULL when out of
 * memory. */
static enum phx_status name_part(const char *first, int64_t number, int64_t count, char **out)
{
    char end[64];
    snprintf(end, sizeof end, "-00001-of-%05" PRId64 ".gguf", count);
    size_t n = strlen(first), tail = strlen(end);
    if (n < tail || strcmp(first + n - tail, end) != 0)
        return phx_fail(PHX_BAD_DATA,
                        "%s is the first of %" PRId64
                        " files of a model, whose names end in %s and so on: give them their names "
                        "back",
                        first, count, end);
    if (asprintf(out, "%.*s-%05" PRId64 "-of-%05" PRId64 ".gguf", (int)(n - tail), first,
                 number + 1, count) < 0)
        return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", first);
    return PHX_OK;
}

/* The part's tensors, names and all, become the model's. */
static enum phx_status take_tensors(struct phx_gguf *gguf, struct phx_gguf *part)
{
    size_t n = gguf->n_tensors + part->n_tensors;
    struct phx_file_tensor *grown = realloc(gguf->tensors, (n + 1) * sizeof *grown);
    if (!grown) return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", part->file);
    memcpy(grown + gguf->n_tensors, part->tensors, part->n_tensors * sizeof *grown);
    gguf->tensors = grown;
    gguf->n_tensors = n;
    free(part->tensors);
    part->tensors = NULL;
    part->n_tensors = 0;
    return PHX_OK;
}

static enum phx_status add_part(struct phx_gguf *gguf, int64_t number, int64_t count)
{
    char *path = NULL;
    struct phx_gguf *part = NULL;
    int64_t own, all;
    PHX_TRY(name_part(gguf->path, number, count, &path));
    PHX_TRY(open_file(path, &part));
    gguf->parts[gguf->n_parts++] = part;
    PHX_TRY(read_number(part, &own, &all));
    if (own != number || all != count)
        return phx_fail(PHX_BAD_DATA,
                        "%s says that it is file %" PRId64 " of %" PRId64
                        " of a model, but %s needs file %" PRId64 " of %" PRId64 " there",
                        part->file, own + 1, all, gguf->file, number + 1, count);
    return take_tensors(gguf, part);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct phx_file_tensor *)a)->name,
                  ((const struct phx_file_tensor *)b)->name);
}

static enum phx_status check_tensors(struct phx_gguf *gguf)
{
    struct phx_file_tensor *t = gguf->tensors;
    int64_t n = (int64_t)gguf->n_tensors, wanted = n;
    PHX_TRY(phx_gguf_int(gguf, "split.tensors.count", 0, INT32_MAX, &wanted));
    if (n != wanted)
        return phx_fail(PHX_BAD_DATA,
                        "%s and its other files have %" PRId64
                        " tensors, but by split.tensors.count "
                        "there are %" PRId64,
                        gguf->file, n, wanted);
    if (n > 0) qsort(t, (size_t)n, sizeof *t, by_name);
    for (int64_t i = 1; i < n; i++)
        if (strcmp(t[i - 1].name, t[i].name) == 0)
            return phx_fail(PHX_BAD_DATA, "tensor %.80s is in both %s and %s", t[i].name,
                            t[i - 1].file, t[i].file);
    return PHX_OK;
}

static enum phx_status add_parts(struct phx_gguf *gguf)
{
    int64_t number, count;
    PHX_TRY(read_number(gguf, &number, &count));
    if (count == 1) return PHX_OK;
    if (number != 0)
        return phx_fail(PHX_USAGE,
                        "%s is file %" PRId64 " of %" PRId64
                        " of a model; give the first, which names the others",
                        gguf->file, number + 1, count);
    gguf->parts = calloc((size_t)count, sizeof *gguf->parts);
    if (!gguf->parts) return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", gguf->file);
    for (int64_t i = 1; i < count; i++) PHX_TRY(add_part(gguf, i, count));
    return check_tensors(gguf);
}

/* ---- a model ---- */

enum phx_status phx_gguf_parse(const char *file, const void *bytes, size_t n_bytes,
                               struct phx_gguf **out)
{
    struct phx_gguf *gguf = NULL;
    PHX_TRY(create(file, &gguf));
    enum phx_status status = phx_gguf_read(gguf, bytes, n_bytes);
    if (status != PHX_OK) {
        phx_gguf_destroy(gguf);
        return status;
    }
    *out = gguf;
    return PHX_OK;
}

enum phx_status phx_gguf_open(const char *path, struct phx_gguf **out)
{
    struct phx_gguf *gguf = NULL;
    char *copy = strdup(path);
    if (!copy) return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", path);
    PHX_TRY(open_file(copy, &gguf));
    enum phx_status status = add_parts(gguf);
    if (status != PHX_OK) {
        phx_gguf_destroy(gguf);
        return status;
    }
    *out = gguf;
    return PHX_OK;
}

bool phx_gguf_is(const char *path)
{
    char begin[4];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return false;
    bool is = read(fd, begin, sizeof begin) == (ssize_t)sizeof begin &&
              memcmp(begin, "GGUF", sizeof begin) == 0;
    close(fd);
    return is;
}

const char *phx_gguf_path(const struct phx_gguf *gguf)
{
    return gguf->file;
}

const void *phx_gguf_mapping(const struct phx_gguf *gguf, const struct phx_file_tensor *tensor)
{
    if (tensor->file == gguf->file) return gguf->address;
    for (size_t i = 0; i < gguf->n_parts; i++)
        if (tensor->file == gguf->parts[i]->file) return gguf->parts[i]->address;
    phx_assert_failed("a tensor of this model", __FILE__, __LINE__);
}

size_t phx_gguf_bytes(const struct phx_gguf *gguf)
{
    size_t bytes = gguf->bytes;
    for (size_t i = 0; i < gguf->n_parts; i++) bytes += gguf->parts[i]->bytes;
    return bytes;
}
