#include "runtime/new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum phx_status phx_new_file_open(const char *path, struct phx_new_file *out)
{
    struct stat old;
    *out = (struct phx_new_file){.path = path, .fd = -1};
    /* A rename would put a file in place of a device, a pipe or a link. */
    if (lstat(path, &old) == 0 && !S_ISREG(old.st_mode))
        return phx_fail(PHX_USAGE, "cannot write %s: it is there and no regular file", path);
    if (asprintf(&out->temporary, "%s.tmpXXXXXX", path) < 0)
        return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", path);
    out->fd = mkostemp(out->temporary, O_CLOEXEC);
    if (out->fd >= 0) return PHX_OK;
    enum phx_status status =
        phx_fail(PHX_IO, "cannot make a file beside %s: %s", path, strerror(errno));
    free(out->temporary);
    return status;
}

void phx_new_file_write(struct phx_new_file *file, const void *data, size_t bytes)
{
    for (const char *at = data; bytes > 0 && file->error == 0;) {
        ssize_t n = write(file->fd, at, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            file->error = errno;
            return;
        }
        at += n;
        bytes -= (size_t)n;
    }
}

enum phx_status phx_new_file_finish(struct phx_new_file *file)
{
    if (file->error == 0 && fchmod(file->fd, 0644) != 0) file->error = errno;
    if (close(file->fd) != 0 && file->error == 0) file->error = errno;
    if (file->error == 0 && rename(file->temporary, file->path) != 0) file->error = errno;
    enum phx_status status = PHX_OK;
    if (file->error != 0) {
        unlink(file->temporary);
        status = phx_fail(PHX_IO, "cannot write %s: %s", file->path, strerror(file->error));
    }
    free(file->temporary);
    return status;
}

void phx_new_file_discard(struct phx_new_file *file)
{
    close(file->fd);
    unlink(file->temporary);
    free(file->temporary);
}
