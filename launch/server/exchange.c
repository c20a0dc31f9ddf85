#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "kernels/base/check.h"
#include "launch/server/server_impl.h"

enum { PING_S = 15, WINDOW_BYTES = 32768, MAX_UNREAD_BYTES = 4 << 20 };

/* ---- suspended: libmicrohttpd has let go of the socket ---- */

static void suspend(struct exchange *x)
{
    PHX_ASSERT(!x->suspended);
    struct epoll_event event = {.events = EPOLLRDHUP, .data.ptr = x};
    epoll_ctl(x->server->poll_fd, EPOLL_CTL_ADD, x->connection->fd, &event);
    MHD_suspend_connection(x->mhd);
    x->suspended = true;
}

static void wake(struct exchange *x)
{
    if (!x->suspended) return;
    epoll_ctl(x->server->poll_fd, EPOLL_CTL_DEL, x->connection->fd, NULL);
    x->suspended = false;
    MHD_resume_connection(x->mhd);
}

/* ---- life ---- */

static struct exchange *create(struct phx_server *s, struct MHD_Connection *mhd, const char *method,
                               const char *url)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct exchange *x = calloc(1, sizeof *x);
    if (x == NULL || info == NULL || info->socket_context == NULL) {
        free(x);
        return NULL;
    }
    x->server = s;
    x->mhd = mhd;
    x->connection = info->socket_context;
    x->connection->exchange = x;
    x->path = strdup(url);
    strncpy(x->method, method, sizeof x->method - 1);
    x->begun_s = x->sent_s = phx_job_now();
    x->next = s->exchanges;
    x->link = &s->exchanges;
    if (x->next != NULL) x->next->link = &x->next;
    s->exchanges = x;
    return x;
}

/* When both its client and its job are done with. */
static void end(struct exchange *x)
{
    if (x->connection != NULL || x->job != NULL) return;
    *x->link = x->next;
    if (x->next != NULL) x->next->link = x->link;
    free(x->body.data);
    free(x->path);
    free(x);
}

static void end_job(struct exchange *x)
{
    phx_reply_destroy(x->reply);
    phx_job_destroy(x->job);
    x->reply = NULL;
    x->job = NULL;
}

void phx_exchange_drop(struct exchange *x)
{
    x->connection = NULL;
    end_job(x);
    end(x);
}

void phx_exchange_completed(void *server, struct MHD_Connection *mhd, void **context,
                            enum MHD_RequestTerminationCode code)
{
    (void)mhd;
    struct phx_server *s = server;
    struct exchange *x = *context;
    *context = NULL;
    if (x == NULL) return;
    if (code != MHD_REQUEST_TERMINATED_COMPLETED_OK) x->gone = true;
    phx_answer_log(x);
    x->connection->exchange = NULL;
    x->connection->since_s = phx_job_now();
    x->connection = NULL;
    if (x->job != NULL && x->n_ended < x->job->n_choices)
        phx_mailbox_cancel(s->parts.mailbox, x->job);
    else if (x->job != NULL)
        end_job(x);
    end(x);
}

/* ---- a job's answer ---- */

static ssize_t read_events(void *context, uint64_t position, char *to, size_t room)
{
    (void)position;
    struct exchange *x = context;
    if (x->gone) return MHD_CONTENT_READER_END_WITH_ERROR;
    const struct phx_bytes *events = phx_reply_events(x->reply);
    size_t n = events->n < room ? events->n : room;
    if (n > 0) {
        memcpy(to, events->data, n);
        phx_reply_sent(x->reply, n);
        x->bytes_out += n;
        x->sent_s = phx_job_now();
        return (ssize_t)n;
    }
    if (phx_reply_ended(x->reply)) return MHD_CONTENT_READER_END_OF_STREAM;
    suspend(x);
    return 0;
}

static enum MHD_Result answer_stream(struct exchange *x)
{
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, WINDOW_BYTES, read_events, x, NULL);
    if (response == NULL) return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream");
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
    MHD_add_response_header(response, "X-Accel-Buffering", "no");
    enum MHD_Result result = MHD_queue_response(x->mhd, 200, response);
    MHD_destroy_response(response);
    x->status = 200;
    return result;
}

static enum MHD_Result answer_whole(struct exchange *x)
{
    struct phx_bytes body = {0};
    enum MHD_Result result = MHD_NO;
    if (phx_reply_body(x->reply, &body) == PHX_OK)
        result = phx_answer_text(x, 200, "application/json", body.data, body.n);
    else
        phx_fail_clear();
    free(body.data);
    return result;
}

/* Woken, or at once: answer, or wait on. */
static enum MHD_Result look(struct exchange *x)
{
    if (x->gone) return MHD_NO;
    const struct phx_problem *problem = phx_reply_problem(x->reply);
    if (problem->http != 0) return phx_answer_problem(x, problem);
    if (x->job->ask->stream && phx_reply_events(x->reply)->n > 0) return answer_stream(x);
    if (!x->job->ask->stream && phx_reply_ended(x->reply)) return answer_whole(x);
    suspend(x);
    return MHD_YES;
}

static enum MHD_Result no_memory(struct exchange *x)
{
    struct phx_problem problem;
    phx_problem_take(&problem, PHX_OUT_OF_MEMORY, NULL);
    return phx_answer_problem(x, &problem);
}

enum MHD_Result phx_exchange_begin(struct exchange *x, struct phx_ask *ask)
{
    struct phx_server *s = x->server;
    const struct phx_job_model model = {.tokenizer = s->parts.tokenizer,
                                        .vocab = s->parts.config->vocab,
                                        .context = s->context,
                                        .n_eos = s->parts.config->n_eos,
                                        .eos = s->parts.config->eos};
    struct phx_problem problem;
    if (s->state != STATE_READY) {
        phx_ask_destroy(ask);
        phx_problem_set(&problem, 503, "server_stopping", NULL, "the server is being stopped");
        return phx_answer_problem(x, &problem);
    }
    if (!phx_job_create(&model, ask, &x->job, &problem)) return phx_answer_problem(x, &problem);
    x->job->number = s->n_requests++;
    x->job->arrived_s = x->begun_s;
    x->job->exchange = x;
    x->n_prompt = x->job->n_prompt;
    if (phx_reply_create(x->job, s->options.model_name, &x->reply) != PHX_OK) {
        end_job(x);
        return no_memory(x);
    }
    phx_mailbox_send(s->parts.mailbox, x->job);
    return look(x);
}

/* libmicrohttpd sees the end of the socket, and completes the exchange. */
static void cut_off(struct exchange *x)
{
    shutdown(x->connection->fd, SHUT_RDWR);
    phx_exchange_hang_up(x);
}

void phx_exchange_news(struct exchange *x, struct phx_news *news)
{
    for (const struct phx_news *n = news; n != NULL; n = n->next) {
        x->n_ended += n->finish != PHX_FINISH_NONE;
        x->n_new +=
            n->id >= 0 && n->position >= x->job->choices[n->choice].request->options.n_prompt;
    }
    if (x->connection != NULL && !x->gone && phx_reply_add(x->reply, news) != PHX_OK) {
        struct phx_problem problem;
        phx_problem_take(&problem, PHX_OUT_OF_MEMORY, NULL);
        phx_exchange_fail(x, &problem);
    }
    phx_news_destroy(news);
    /* It asks for text, and does not read it. */
    if (x->connection != NULL && phx_reply_events(x->reply)->n > MAX_UNREAD_BYTES) cut_off(x);
    bool over = x->n_ended == x->job->n_choices;
    if (over && x->answered_s == 0) x->answered_s = phx_job_now();
    if (x->connection != NULL) {
        wake(x);
    } else if (over) {
        end_job(x);
        end(x);
    }
}

void phx_exchange_fail(struct exchange *x, const struct phx_problem *problem)
{
    if (x->job == NULL || x->connection == NULL || phx_reply_ended(x->reply)) return;
    phx_reply_fail(x->reply, problem);
    phx_mailbox_cancel(x->server->parts.mailbox, x->job);
    if (x->answered_s == 0) x->answered_s = phx_job_now();
    wake(x);
}

void phx_exchange_hang_up(struct exchange *x)
{
    if (x->connection == NULL || x->gone) return;
    x->gone = true;
    if (x->job != NULL && x->n_ended < x->job->n_choices)
        phx_mailbox_cancel(x->server->parts.mailbox, x->job);
    wake(x);
}

static void ping(struct exchange *x, double now_s)
{
    x->sent_s = now_s;
    if (phx_reply_ping(x->reply) == PHX_OK) wake(x);
    phx_fail_clear();
}

void phx_exchange_tick(struct exchange *x, double now_s)
{
    int timeout_s = x->server->options.request_timeout_s;
    if (x->connection == NULL) return;
    bool slow = !x->received && now_s - x->begun_s > timeout_s;
    bool unread = x->answered_s > 0 && now_s - x->answered_s > timeout_s;
    if (slow || unread)
        cut_off(x);
    else if (x->suspended && x->job->ask->stream && now_s - x->sent_s > PING_S)
        ping(x, now_s);
}

/* ---- requests ---- */

static enum MHD_Result take_body(struct exchange *x, const char *data, size_t *bytes)
{
    size_t limit = x->server->options.max_body_bytes;
    /* What is too large is read on for a while, so that its sender comes to read the answer. */
    x->too_large = x->too_large || x->body.n + *bytes > limit;
    if (x->too_large) {
        x->n_dropped += *bytes;
        if (x->n_dropped > 4 * limit) return MHD_NO;
    } else if (phx_bytes_append(&x->body, data, *bytes) != PHX_OK) {
        phx_fail_clear();
        return MHD_NO;
    }
    *bytes = 0;
    return MHD_YES;
}

/* What can be refused by the header alone. */
static bool check_header(struct exchange *x, struct phx_problem *problem)
{
    struct phx_server *s = x->server;
    const char *length =
        MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
    if (x->path == NULL)
        return phx_problem_set(problem, 503, NULL, NULL, "no memory for the request");
    x->route = phx_route_find(x->method, x->path, problem);
    if (x->route == NULL) return false;
    if (!x->route->open && !phx_answer_allowed(x))
        return phx_problem_set(problem, 401, "invalid_api_key", NULL,
                               "this server asks for its API key: send \"Authorization: Bearer "
                               "KEY\"");
    if (length != NULL && strtoull(length, NULL, 10) > s->options.max_body_bytes)
        return phx_problem_set(problem, 413, NULL, NULL,
                               "the body has %s bytes: this server takes at most %zu", length,
                               s->options.max_body_bytes);
    if (x->route->stateless || s->state == STATE_READY) return true;
    if (s->state == STATE_LOADING)
        return phx_problem_set(problem, 503, NULL, NULL,
                               "the model is being loaded: try again later");
    return phx_problem_set(problem, 503, "server_stopping", NULL, "the server is being stopped");
}

enum MHD_Result phx_exchange_handle(void *server, struct MHD_Connection *mhd, const char *url,
                                    const char *method, const char *version, const char *data,
                                    size_t *data_bytes, void **context)
{
    (void)version;
    struct exchange *x = *context;
    struct phx_problem problem;
    if (x == NULL) {
        x = create(server, mhd, method, url);
        if (x == NULL) return MHD_NO;
        *context = x;
        return check_header(x, &problem) ? MHD_YES : phx_answer_problem(x, &problem);
    }
    if (x->job != NULL) return look(x);
    if (*data_bytes > 0) return take_body(x, data, data_bytes);
    x->received = true;
    if (!x->too_large) return x->route->handle(x);
    phx_problem_set(&problem, 413, NULL, NULL,
                    "the body is larger than the %zu bytes that this "
                    "server takes",
                    x->server->options.max_body_bytes);
    return phx_answer_problem(x, &problem);
}
