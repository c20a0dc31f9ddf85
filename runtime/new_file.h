/// \file new_file.h
/// A file that appears whole: written under another name beside its own and then renamed.
#ifndef PHX_RUNTIME_NEW_FILE_H
#define PHX_RUNTIME_NEW_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/base/status.h"

struct phx_new_file {
    const char *path; ///< the caller's, who keeps it
    char *temporary;
    int fd;
    int error; ///< errno of the first write that failed
};

/// PHX_USAGE if something that is no regular file is there; PHX_IO.
enum phx_status phx_new_file_open(const char *path, struct phx_new_file *out);
/// A failure is told by phx_new_file_finish().
void phx_new_file_write(struct phx_new_file *file, const void *data, size_t bytes);
/// Puts the file in its place, or, with PHX_IO, removes what was written.
enum phx_status phx_new_file_finish(struct phx_new_file *file);
/// Instead of that: removes it.
void phx_new_file_discard(struct phx_new_file *file);

#endif
