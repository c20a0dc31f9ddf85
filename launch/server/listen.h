/// \file listen.h
/// A socket that listens.
#ifndef PHX_LAUNCH_SERVER_LISTEN_H
#define PHX_LAUNCH_SERVER_LISTEN_H

#include <stddef.h>

#include "kernels/base/status.h"

/// At the first address of `host` that can be had. `address` becomes "127.0.0.1:8080",
/// "[::1]:8080".
enum phx_status phx_listen(const char *host, int port, char *address, size_t address_bytes,
                           int *out_fd);

#endif
