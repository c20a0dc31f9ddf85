#include "launch/server/server.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "launch/server/listen.h"
#include "launch/server/server_impl.h"
#include "launch/server/signals.h"

enum {
    MAX_EVENTS = 64,
    TICK_MS = 500,
    FINISH_MS = 2000, /* for answers, when the engine has stopped */
    LAST_WORDS_MS = 500,
    AT_ONCE_MS = 500
};

/* ---- sockets ---- */

static void notice_connection(void *server, struct MHD_Connection *mhd, void **context,
                              enum MHD_ConnectionNotificationCode code)
{
    struct phx_server *s = server;
    struct connection *c = *context;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        if (c == NULL) return;
        *c->link = c->next;
        if (c->next != NULL) c->next->link = c->link;
        free(c);
        *context = NULL;
        return;
    }
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
    c = calloc(1, sizeof *c);
    *context = c; /* without memory its requests are refused */
    if (c == NULL || info == NULL) return;
    c->server = s;
    c->fd = info->connect_fd;
    c->since_s = phx_job_now();
    c->next = s->connections;
    c->link = &s->connections;
    if (c->next != NULL) c->next->link = &c->next;
    s->connections = c;
}

static void log_daemon(void *context, const char *format, va_list args)
{
    char text[512];
    (void)context;
    vsnprintf(text, sizeof text, format, args);
    text[strcspn(text, "\n")] = '\0';
    phx_log(PHX_LOG_DEBUG, "http: %s", text);
}

/* ---- the end ---- */

static void fail_all(struct phx_server *s, const char *sentence)
{
    struct phx_problem problem;
    phx_problem_set(&problem, 503, "server_stopping", NULL, "%s",
                    sentence[0] != '\0' ? sentence : "the server is being stopped");
    for (struct exchange *x = s->exchanges, *next; x != NULL; x = next) {
        next = x->next;
        phx_exchange_fail(x, &problem);
    }
}

static bool any_open(const struct phx_server *s)
{
    for (const struct exchange *x = s->exchanges; x != NULL; x = x->next)
        if (x->connection != NULL && x->received) return true;
    return false;
}

static void nap(void)
{
    struct timespec time = {.tv_nsec = 1000000};
    nanosleep(&time, NULL);
}

static void stop_listening(struct phx_server *s)
{
    MHD_socket fd = MHD_quiesce_daemon(s->daemon);
    if (fd != MHD_INVALID_SOCKET) close(fd);
}

/* What can be written within a moment is; then the process ends, and with it the job. */
__attribute__((noreturn)) static void end_at_once(struct phx_server *s, const char *sentence)
{
    fail_all(s, sentence);
    double until_s = phx_job_now() + 1e-3 * AT_ONCE_MS;
    while (any_open(s) && phx_job_now() < until_s) {
        MHD_run(s->daemon);
        nap();
    }
    _exit(1);
}

static void drain(struct phx_server *s)
{
    s->drain_until_s = phx_job_now() + s->options.shutdown_timeout_s;
    MHD_run(s->daemon); /* who has knocked is told, not cut off */
    stop_listening(s);
    fprintf(stderr,
            "phalanx: stopping: no new requests, %d s for those under way; a second signal "
            "ends it at once\n",
            s->options.shutdown_timeout_s);
    phx_mailbox_set_mode(s->parts.mailbox, PHX_SERVE_DRAIN);
}

static void read_signals(struct phx_server *s)
{
    struct phx_signal message;
    while (read(s->signal_fd, &message, sizeof message) == (ssize_t)sizeof message) {
        /* mpirun ends its ranks so: one of them has died, or the job is over. */
        if (s->options.under_mpirun && message.number == SIGTERM && message.sender == getppid())
            end_at_once(s, "mpirun ends the server: it was told to, or a rank has died");
        int state = STATE_READY; /* another thread may just end it */
        if (!atomic_compare_exchange_strong(&s->state, &state, STATE_DRAINING)) end_at_once(s, "");
        drain(s);
    }
}

/* ---- the thread ---- */

static void read_news(struct phx_server *s)
{
    struct phx_news *news;
    struct phx_job *job;
    while ((job = phx_mailbox_news(s->parts.mailbox, &news)) != NULL)
        phx_exchange_news(job->exchange, news);
}

static void tick(struct phx_server *s, double now_s)
{
    int timeout_s = s->options.request_timeout_s;
    for (struct exchange *x = s->exchanges, *next; x != NULL; x = next) {
        next = x->next;
        phx_exchange_tick(x, now_s);
    }
    /* Headers that do not come, or one byte at a time. */
    for (struct connection *c = s->connections; c != NULL; c = c->next)
        if (c->exchange == NULL && now_s - c->since_s > timeout_s) shutdown(c->fd, SHUT_RDWR);
}

/* Until the next tick, the end of draining, or what libmicrohttpd waits for. */
static int wait_ms(struct phx_server *s)
{
    MHD_UNSIGNED_LONG_LONG daemon_ms;
    double ms = TICK_MS, left_ms = 1e3 * (s->drain_until_s - phx_job_now());
    if (s->drain_until_s > 0 && left_ms < ms) ms = left_ms > 0 ? left_ms + 1 : 0;
    if (MHD_get_timeout(s->daemon, &daemon_ms) == MHD_YES && (double)daemon_ms < ms)
        ms = (double)daemon_ms;
    return (int)ms;
}

/* Draining has taken as long as it may: what is still under way is cancelled. */
static void end_draining(struct phx_server *s, double now_s)
{
    if (s->drain_until_s == 0 || now_s < s->drain_until_s) return;
    s->drain_until_s = 0;
    phx_mailbox_set_mode(s->parts.mailbox, PHX_SERVE_STOP);
}

static void notice_end(struct phx_server *s)
{
    if (s->state != STATE_OVER || s->over_until_s > 0) return;
    s->over_until_s = phx_job_now() + 1e-3 * FINISH_MS;
    stop_listening(s);
    read_news(s);
    fail_all(s, s->sentence);
}

static void *serve(void *server)
{
    struct phx_server *s = server;
    double ticked_s = phx_job_now();
    phx_log_rank_set(-1);
    for (;;) {
        struct epoll_event events[MAX_EVENTS];
        int n = epoll_wait(s->poll_fd, events, MAX_EVENTS, wait_ms(s));
        for (int i = 0; i < n; i++) {
            void *what = events[i].data.ptr;
            if (what == &s->signal_fd)
                read_signals(s);
            else if (what != s && what != &s->control_fd)
                phx_exchange_hang_up(what);
        }
        notice_end(s);
        read_news(s);
        double now_s = phx_job_now();
        end_draining(s, now_s);
        if (now_s - ticked_s > 1e-3 * TICK_MS) {
            tick(s, now_s);
            ticked_s = now_s;
        }
        MHD_run(s->daemon);
        if (s->over_until_s > 0 && (!any_open(s) || now_s > s->over_until_s)) break;
    }
    s->ended = true;
    return NULL;
}

/* ---- the beginning ---- */

static bool watch(struct phx_server *s, int fd, void *what)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = what};
    return epoll_ctl(s->poll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

static enum phx_status start_daemon(struct phx_server *s, int listen_fd)
{
    const struct phx_server_options *o = &s->options;
    bool tls = o->certificate != NULL;
    struct MHD_OptionItem options[] = {
        {MHD_OPTION_LISTEN_SOCKET, listen_fd, NULL},
        {MHD_OPTION_CONNECTION_LIMIT, o->max_connections, NULL},
        {MHD_OPTION_CONNECTION_TIMEOUT, o->request_timeout_s, NULL},
        {MHD_OPTION_CONNECTION_MEMORY_LIMIT, (intptr_t)o->max_header_bytes, NULL},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)phx_exchange_completed, s},
        {MHD_OPTION_NOTIFY_CONNECTION, (intptr_t)notice_connection, s},
        {MHD_OPTION_EXTERNAL_LOGGER, (intptr_t)log_daemon, NULL},
        {tls ? MHD_OPTION_HTTPS_MEM_CERT : MHD_OPTION_END, 0, (void *)o->certificate},
        {MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)o->key},
        {MHD_OPTION_END, 0, NULL},
    };
    unsigned flags = MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    if (tls) flags |= MHD_USE_TLS;
    s->daemon = MHD_start_daemon(flags, 0, NULL, NULL, phx_exchange_handle, s, MHD_OPTION_ARRAY,
                                 options, MHD_OPTION_END);
    if (s->daemon != NULL) return PHX_OK;
    close(listen_fd);
    return tls ? phx_fail(PHX_USAGE, "libmicrohttpd does not start: are --ssl-certfile and "
                                     "--ssl-keyfile a certificate and its key, in PEM?")
               : phx_fail(PHX_IO, "libmicrohttpd does not start: %s", strerror(errno));
}

static enum phx_status start(struct phx_server *s)
{
    char address[100];
    int listen_fd;
    s->poll_fd = epoll_create1(EPOLL_CLOEXEC);
    s->control_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->poll_fd < 0 || s->control_fd < 0)
        return phx_fail(PHX_IO, "the system gives no epoll or eventfd: %s", strerror(errno));
    PHX_TRY(phx_signals_catch(&s->signal_fd));
    PHX_TRY(phx_listen(s->options.host, s->options.port, address, sizeof address, &listen_fd));
    PHX_TRY(start_daemon(s, listen_fd));
    snprintf(s->url, sizeof s->url, "http%s://%s", s->options.certificate != NULL ? "s" : "",
             address);
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    if (info == NULL || !watch(s, info->epoll_fd, s) ||
        !watch(s, phx_mailbox_fd(s->parts.mailbox), s) || !watch(s, s->signal_fd, &s->signal_fd) ||
        !watch(s, s->control_fd, &s->control_fd))
        return phx_fail(PHX_IO, "the system does not watch the server's descriptors: %s",
                        strerror(errno));
    int code = pthread_create(&s->thread, NULL, serve, s);
    if (code != 0) return phx_fail(PHX_IO, "the system gives no thread: %s", strerror(code));
    s->has_thread = true;
    phx_signals_leave(); /* that thread takes them, whatever this one hangs in */
    return PHX_OK;
}

enum phx_status phx_server_create(const struct phx_server_parts *parts,
                                  const struct phx_server_options *options, struct phx_server **out)
{
    struct phx_server *s = calloc(1, sizeof *s);
    if (s == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the server");
    s->parts = *parts;
    s->options = *options;
    s->started = (int64_t)time(NULL);
    s->poll_fd = s->control_fd = s->signal_fd = -1;
    enum phx_status status = start(s);
    if (status != PHX_OK) {
        phx_server_destroy(s);
        return status;
    }
    *out = s;
    return PHX_OK;
}

const char *phx_server_url(const struct phx_server *server)
{
    return server->url;
}

void phx_server_ready(struct phx_server *server, int32_t context)
{
    server->context = context;
    server->state = STATE_READY;
}

/* Tell the thread to end; the first to do so says why. */
static void end(struct phx_server *s, const char *sentence)
{
    static const uint64_t one = 1;
    if (atomic_exchange(&s->ending, true)) return;
    if (sentence != NULL) snprintf(s->sentence, sizeof s->sentence, "%s", sentence);
    s->state = STATE_OVER;
    ssize_t n = write(s->control_fd, &one, sizeof one);
    PHX_ASSERT(n == (ssize_t)sizeof one);
}

void phx_server_finish(struct phx_server *server, const char *sentence)
{
    if (server == NULL || !server->has_thread) return;
    end(server, sentence);
    pthread_join(server->thread, NULL);
    server->has_thread = false;
}

void phx_server_last_words(struct phx_server *server, const char *sentence)
{
    double until_s = phx_job_now() + 1e-3 * LAST_WORDS_MS;
    end(server, sentence);
    while (!server->ended && phx_job_now() < until_s) nap();
}

void phx_server_destroy(struct phx_server *server)
{
    struct phx_server *s = server;
    if (s == NULL) return;
    phx_server_finish(s, NULL);
    for (struct exchange *x = s->exchanges; x != NULL; x = x->next)
        phx_exchange_hang_up(x); /* libmicrohttpd does not stop with suspended connections */
    if (s->daemon != NULL) MHD_run(s->daemon);
    if (s->daemon != NULL) MHD_stop_daemon(s->daemon);
    while (s->exchanges != NULL) phx_exchange_drop(s->exchanges);
    if (s->poll_fd >= 0) close(s->poll_fd);
    if (s->control_fd >= 0) close(s->control_fd);
    free(s);
}
