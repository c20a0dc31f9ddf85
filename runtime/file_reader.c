#include "runtime/file_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "kernels/base/check.h"

/* A disk that reads 2 GB/s takes for so much as long as for finding another place. */
static const size_t skip_bytes = (size_t)64 << 10;

/* Of places and lengths that are read directly; a multiple of every disk's blocks. */
static const size_t direct_bytes = 4096;

struct open_file {
    const char *path; /* the checkpoint's string */
    int fd;
};

struct phx_file_reader {
    const struct phx_checkpoint *checkpoint;
    enum phx_load_mode mode; /* not AUTO */
    struct open_file *files;
    size_t n_files;
    char *buffer;
    size_t buffer_bytes, fetched_bytes;
};

/* ---- modes ---- */

/* Whose pages come over a network: numbers of statfs(2). */
static bool is_remote(const char *path)
{
    static const unsigned remote[] = {
        0x6969 /* NFS */,      0x517b /* SMB */,        0xfe534d42 /* SMB2 */,
        0xff534d42 /* CIFS */, 0xbd00bd0 /* Lustre */,  0x47504653 /* GPFS */,
        0xc36400 /* Ceph */,   0x5346414f /* AFS */,    0x65735546 /* FUSE */,
        0x1021997 /* 9P */,    0x19830326 /* BeeGFS */,
    };
    struct statfs info;
    if (statfs(path, &info) != 0) return false;
    for (size_t i = 0; i < sizeof remote / sizeof *remote; i++)
        if ((unsigned)info.f_type == remote[i]) return true;
    return false;
}

enum phx_status phx_file_reader_create(const struct phx_checkpoint *checkpoint,
                                       enum phx_load_mode mode, struct phx_file_reader **out)
{
    struct phx_file_reader *r = calloc(1, sizeof *r);
    if (!r) return phx_fail(PHX_OUT_OF_MEMORY, "no memory to read files");
    if (mode == PHX_LOAD_MODE_AUTO)
        mode = is_remote(phx_checkpoint_path(checkpoint)) ? PHX_LOAD_MODE_READ : PHX_LOAD_MODE_MMAP;
    r->checkpoint = checkpoint;
    r->mode = mode;
    *out = r;
    return PHX_OK;
}

void phx_file_reader_destroy(struct phx_file_reader *reader)
{
    if (!reader) return;
    for (size_t i = 0; i < reader->n_files; i++) close(reader->files[i].fd);
    free(reader->files);
    free(reader->buffer);
    free(reader);
}

size_t phx_file_reader_fetched(const struct phx_file_reader *reader)
{
    return reader->fetched_bytes;
}

size_t phx_file_row_fetch(const struct phx_file_rows *rows)
{
    size_t between = rows->pitch_bytes - rows->row_bytes;
    return between < skip_bytes ? rows->pitch_bytes : rows->row_bytes;
}

/* ---- pieces of a file ---- */

struct piece {
    const char *data; /* in the mapping */
    size_t bytes;
};

/* The rows are one piece, or one each. */
static int64_t n_pieces(const struct phx_file_rows *rows)
{
    return phx_file_row_fetch(rows) == rows->pitch_bytes ? 1 : rows->rows;
}

static struct piece piece_at(const struct phx_file_rows *rows, int64_t i)
{
    if (n_pieces(rows) > 1)
        return (struct piece){rows->data + (size_t)i * rows->pitch_bytes, rows->row_bytes};
    return (struct piece){rows->data,
                          (size_t)(rows->rows - 1) * rows->pitch_bytes + rows->row_bytes};
}

static void advise(struct piece piece, int advice)
{
    size_t into_page = (uintptr_t)piece.data % (size_t)sysconf(_SC_PAGESIZE);
    (void)madvise((char *)piece.data - into_page, into_page + piece.bytes, advice);
}

static enum phx_status open_file(struct phx_file_reader *r, const char *path, int *out)
{
    for (size_t i = 0; i < r->n_files; i++) {
        if (r->files[i].path != path) continue;
        *out = r->files[i].fd;
        return PHX_OK;
    }
    struct open_file *grown = realloc(r->files, (r->n_files + 1) * sizeof *grown);
    if (!grown) return phx_fail(PHX_OUT_OF_MEMORY, "no memory to read %s", path);
    r->files = grown;
    bool direct = r->mode == PHX_LOAD_MODE_DIRECT;
    int fd = open(path, O_RDONLY | O_CLOEXEC | (direct ? O_DIRECT : 0));
    if (fd < 0 && direct && errno == EINVAL)
        return phx_fail(PHX_UNSUPPORTED,
                        "%s lies on a file system that does not read directly; --load-mode read "
                        "would work",
                        path);
    if (fd < 0) return phx_fail(PHX_IO, "cannot open %s: %s", path, strerror(errno));
    r->files[r->n_files++] = (struct open_file){path, fd};
    *out = fd;
    return PHX_OK;
}

static off_t offset_of(const struct phx_file_reader *r, const struct phx_file_tensor *tensor,
                       const char *data)
{
    return (off_t)(data - (const char *)phx_checkpoint_mapping(r->checkpoint, tensor));
}

void phx_file_reader_ahead(struct phx_file_reader *reader, const struct phx_file_rows *rows)
{
    int fd = -1;
    if (reader->mode == PHX_LOAD_MODE_DIRECT) return;
    if (reader->mode == PHX_LOAD_MODE_READ &&
        open_file(reader, rows->tensor->file, &fd) != PHX_OK) {
        phx_fail_clear(); /* told when it is read */
        return;
    }
    for (int64_t i = 0; i < n_pieces(rows); i++) {
        struct piece piece = piece_at(rows, i);
        if (fd < 0)
            advise(piece, MADV_WILLNEED);
        else
            (void)posix_fadvise(fd, offset_of(reader, rows->tensor, piece.data), (off_t)piece.bytes,
                                POSIX_FADV_WILLNEED);
    }
}

void phx_file_reader_done(struct phx_file_reader *reader, const struct phx_file_rows *rows)
{
    size_t bytes = (size_t)(rows->rows - 1) * rows->pitch_bytes + rows->row_bytes;
    if (reader->mode == PHX_LOAD_MODE_MMAP)
        advise((struct piece){rows->data, bytes}, MADV_DONTNEED);
}

/* ---- reading ---- */

static size_t down(size_t bytes)
{
    return bytes / direct_bytes * direct_bytes;
}

static enum phx_status make_room(struct phx_file_reader *r, size_t bytes)
{
    if (bytes <= r->buffer_bytes) return PHX_OK;
    free(r->buffer);
    r->buffer_bytes = down(bytes + direct_bytes - 1);
    r->buffer = aligned_alloc(direct_bytes, r->buffer_bytes);
    if (r->buffer) return PHX_OK;
    r->buffer_bytes = 0;
    return phx_fail(PHX_OUT_OF_MEMORY, "no memory for %zu bytes of a file", bytes);
}

/* At least `wanted` bytes of the `bytes` from `offset` on: a file may end within its last block. */
static enum phx_status read_fully(const char *path, int fd, size_t offset, size_t bytes,
                                  size_t wanted, char *to)
{
    size_t done = 0;
    while (done < wanted) {
        ssize_t n = pread(fd, to + done, bytes - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return phx_fail(errno == EINVAL ? PHX_UNSUPPORTED : PHX_IO, "cannot read %s: %s%s",
                            path, strerror(errno),
                            errno == EINVAL ? "; --load-mode read would work" : "");
        if (n == 0)
            return phx_fail(PHX_IO, "%s ends at byte %zu: it was shortened while it was read", path,
                            offset + done);
        done += (size_t)n;
    }
    return PHX_OK;
}

/* One piece into `to`, which has room for whole blocks around it; where it begins there. */
static enum phx_status read_piece(struct phx_file_reader *r, const struct phx_file_tensor *tensor,
                                  struct piece piece, char *to, size_t *out_begin)
{
    int fd = -1;
    PHX_TRY(open_file(r, tensor->file, &fd));
    size_t offset = (size_t)offset_of(r, tensor, piece.data), begin = offset;
    size_t end = offset + piece.bytes;
    if (r->mode == PHX_LOAD_MODE_DIRECT) {
        begin = down(offset);
        end = down(end + direct_bytes - 1);
    }
    *out_begin = offset - begin;
    r->fetched_bytes += end - begin;
    return read_fully(tensor->file, fd, begin, end - begin, *out_begin + piece.bytes, to);
}

/* Pieces of a row each close ranks: whole blocks around them make them lie unevenly at first. */
static enum phx_status read_rows(struct phx_file_reader *r, const struct phx_file_rows *rows,
                                 const char **out, size_t *out_pitch)
{
    int64_t n = n_pieces(rows);
    size_t room = piece_at(rows, 0).bytes + 2 * direct_bytes, begin = 0;
    room = down(room + direct_bytes - 1);
    PHX_TRY(make_room(r, (size_t)n * room));
    for (int64_t i = 0; i < n; i++) {
        char *to = r->buffer + (size_t)i * room;
        PHX_TRY(read_piece(r, rows->tensor, piece_at(rows, i), to, &begin));
        if (n > 1) memmove(r->buffer + (size_t)i * rows->row_bytes, to + begin, rows->row_bytes);
    }
    *out = n > 1 ? r->buffer : r->buffer + begin;
    *out_pitch = n > 1 ? rows->row_bytes : rows->pitch_bytes;
    return PHX_OK;
}

enum phx_status phx_file_reader_get(struct phx_file_reader *reader,
                                    const struct phx_file_rows *rows, const char **out,
                                    size_t *out_pitch)
{
    if (reader->mode != PHX_LOAD_MODE_MMAP) return read_rows(reader, rows, out, out_pitch);
    bool all = n_pieces(rows) == 1 && !rows->between;
    reader->fetched_bytes += all ? piece_at(rows, 0).bytes : (size_t)rows->rows * rows->row_bytes;
    *out = rows->data;
    *out_pitch = rows->pitch_bytes;
    return PHX_OK;
}
