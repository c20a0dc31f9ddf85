#include "launch/server/listen.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int try(const struct addrinfo *info)
{
    int on = 1;
    int fd = socket(info->ai_family, info->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, info->ai_addr, info->ai_addrlen) == 0 && listen(fd, 1024) == 0) return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static void describe(int fd, char *address, size_t bytes)
{
    struct sockaddr_storage own;
    socklen_t length = sizeof own;
    char host[NI_MAXHOST] = "?", port[NI_MAXSERV] = "?";
    if (getsockname(fd, (struct sockaddr *)&own, &length) == 0)
        getnameinfo((struct sockaddr *)&own, length, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(address, bytes, strchr(host, ':') != NULL ? "[%s]:%s" : "%s:%s", host, port);
}

enum phx_status phx_listen(const char *host, int port, char *address, size_t address_bytes,
                           int *out_fd)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found;
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    int code = getaddrinfo(host, service, &hints, &found);
    if (code != 0)
        return phx_fail(PHX_USAGE, "--host %s: no such address here: %s", host, gai_strerror(code));
    int fd = -1, error = 0;
    for (const struct addrinfo *info = found; info != NULL && fd < 0; info = info->ai_next) {
        fd = try(info);
        error = errno;
    }
    freeaddrinfo(found);
    if (fd < 0)
        return phx_fail(PHX_IO, "cannot listen at %s, port %d: %s%s", host, port, strerror(error),
                        error == EADDRINUSE ? "; choose another with --port" : "");
    describe(fd, address, address_bytes);
    *out_fd = fd;
    return PHX_OK;
}
