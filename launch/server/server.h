/// \file server.h
/// The HTTP side of a server: a thread of its own that listens, reads requests, gives those for
/// text to the engine through the mailbox, and writes what comes of them.
///
/// It knows HTTP and JSON, and no rank. Everything that libmicrohttpd does is done in this thread,
/// in whose loop it is one of the descriptors; so are the sockets of those who wait for text, which
/// libmicrohttpd has let go of (suspended): one that hangs up is noticed at once.
#ifndef PHX_LAUNCH_SERVER_SERVER_H
#define PHX_LAUNCH_SERVER_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "launch/server/mailbox.h"
#include "runtime/chat.h"
#include "runtime/config.h"
#include "runtime/tokenizer/tokenizer.h"

struct phx_server;

/// All outlive the server.
struct phx_server_options {
    const char *host; ///< address or name to listen at
    int port;         ///< 0: any
    const char *model_name, *version;
    const char *api_key;           ///< NULL: nobody is asked for one
    const char *certificate, *key; ///< PEM texts; NULL: plain HTTP
    int max_connections;
    size_t max_body_bytes, max_header_bytes;
    int request_timeout_s;  ///< a request must have come, and an answer been taken, within it
    int shutdown_timeout_s; ///< draining takes no longer
    int watchdog_timeout_s; ///< work without a step for so long is not healthy; 0: always is
    bool json_log;
    bool under_mpirun; ///< a SIGTERM of the parent means that the job is over
};

struct phx_server_parts {
    struct phx_mailbox *mailbox;
    const struct phx_tokenizer *tokenizer;
    const struct phx_chat *chat; ///< NULL: the model has no template
    const struct phx_config *config;
    struct phx_sampling sampling; ///< where a request says nothing
};

/// Begin to listen: PHX_USAGE or PHX_IO with a sentence if the address cannot be had. Until
/// phx_server_ready() everything but /health and what needs no engine is answered with 503.
/// SIGTERM, SIGINT and SIGUSR1 are the server's from here on: the first drains it, the second ends
/// the process at once.
enum phx_status phx_server_create(const struct phx_server_parts *parts,
                                  const struct phx_server_options *options,
                                  struct phx_server **out);
/// Where it listens, like "http://127.0.0.1:8080".
const char *phx_server_url(const struct phx_server *server);
/// Requests for text are taken from here on; none has more tokens than `context`.
void phx_server_ready(struct phx_server *server, int32_t context);
/// The engine has stopped: whoever still waits is told `sentence` (NULL: that the server stops),
/// answers under way are written, the thread ends.
void phx_server_finish(struct phx_server *server, const char *sentence);
/// From any thread, where the process is about to end and the engine's thread cannot help: whoever
/// still waits is told `sentence`. Returns when they have been, or after half a second.
void phx_server_last_words(struct phx_server *server, const char *sentence);
/// After phx_server_finish(), or at once: open connections are dropped.
void phx_server_destroy(struct phx_server *server);

#endif
