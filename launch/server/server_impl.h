/// \file server_impl.h
/// What the files of the HTTP side share. Everything belongs to the server's thread, but for
/// what is atomic.
#ifndef PHX_LAUNCH_SERVER_SERVER_IMPL_H
#define PHX_LAUNCH_SERVER_SERVER_IMPL_H

#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>

#include "launch/server/problem.h"
#include "launch/server/reply.h"
#include "launch/server/server.h"
#include "runtime/tokenizer/buffer.h"

enum server_state { STATE_LOADING, STATE_READY, STATE_DRAINING, STATE_OVER };

struct phx_server {
    struct phx_server_parts parts;
    struct phx_server_options options;
    char url[128];
    int64_t started; /* seconds since 1970 */
    struct MHD_Daemon *daemon;
    pthread_t thread;
    bool has_thread;
    int poll_fd; /* epoll: the daemon, news, signals, the control pipe, sockets of the suspended */
    int signal_fd, control_fd; /* control: an eventfd that says to look at `over` */
    _Atomic int state, context;
    atomic_bool ending, ended;         /* somebody makes it STATE_OVER; the thread has ended */
    char sentence[PHX_SENTENCE_BYTES]; /* set before STATE_OVER; "": none */
    double drain_until_s;              /* 0: not draining, or what is left was cancelled */
    double over_until_s;
    int64_t n_requests;
    struct exchange *exchanges;
    struct connection *connections;
};

/* A socket. */
struct connection {
    struct phx_server *server;
    int fd;
    double since_s;            /* connected, or its last answer done */
    struct exchange *exchange; /* the request on it, or NULL */
    struct connection *next, **link;
};

/* A request, from its header to its answer's last byte, and to its job's end. */
struct exchange {
    struct phx_server *server;
    struct connection *connection; /* NULL: over */
    struct MHD_Connection *mhd;
    const struct route *route;
    char method[8], *path;
    double begun_s, answered_s; /* answered: all that is to be sent is known; 0: not yet */
    double sent_s;              /* of the last piece of a stream */
    struct phx_bytes body;
    bool too_large, received;
    size_t n_dropped;    /* bytes of a body that is too large */
    struct phx_job *job; /* NULL: none, or over */
    struct phx_reply *reply;
    int32_t n_ended; /* of the job's choices */
    bool suspended, gone;
    int status; /* of the answer; 0: none yet */
    size_t bytes_out;
    int64_t n_prompt;
    int32_t n_new;
    struct exchange *next, **link;
};

/* What a path does. Answers, or begins a job (then `job` is set). */
typedef enum MHD_Result handle(struct exchange *x);

struct route {
    const char *method, *path; /* a path that ends in / goes on */
    bool open;                 /* needs no key */
    bool stateless;            /* is answered while the model loads, too */
    handle *handle;
};

const struct route *phx_route_find(const char *method, const char *path,
                                   struct phx_problem *problem);

/* ---- answers: answer.c ---- */

enum MHD_Result phx_answer_text(struct exchange *x, int status, const char *type, const char *text,
                                size_t bytes);
/* Releases `object`; NULL: there was no memory. */
enum MHD_Result phx_answer_json(struct exchange *x, int status, json_t *object);
enum MHD_Result phx_answer_problem(struct exchange *x, const struct phx_problem *problem);
/* Whether the exchange comes with the key, if one is asked for. */
bool phx_answer_allowed(const struct exchange *x);
void phx_answer_log(const struct exchange *x);

/* ---- exchanges: exchange.c ---- */

enum MHD_Result phx_exchange_handle(void *server, struct MHD_Connection *mhd, const char *url,
                                    const char *method, const char *version, const char *data,
                                    size_t *data_bytes, void **context);
void phx_exchange_completed(void *server, struct MHD_Connection *mhd, void **context,
                            enum MHD_RequestTerminationCode code);
/* A job of the exchange's ask, whose prompts have ids; the ask is taken. */
enum MHD_Result phx_exchange_begin(struct exchange *x, struct phx_ask *ask);
void phx_exchange_news(struct exchange *x, struct phx_news *news);
/* Its client is no longer there. */
void phx_exchange_hang_up(struct exchange *x);
void phx_exchange_fail(struct exchange *x, const struct phx_problem *problem);
/* Free it, when neither libmicrohttpd nor the engine goes on. */
void phx_exchange_drop(struct exchange *x);
/* Time-outs and signs of life. */
void phx_exchange_tick(struct exchange *x, double now_s);

#endif
