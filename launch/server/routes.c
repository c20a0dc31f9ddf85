#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "launch/server/fields.h"
#include "launch/server/page.h"
#include "launch/server/server_impl.h"

/* ---- about the server ---- */

static enum MHD_Result health(struct exchange *x)
{
    struct phx_server *s = x->server;
    int limit_s = s->options.watchdog_timeout_s;
    double stuck_s = phx_mailbox_stuck_s(s->parts.mailbox);
    if (s->state == STATE_LOADING)
        return phx_answer_json(
            x, 503,
            json_pack("{s:s, s:s}", "status", "loading", "reason", "the model is being loaded"));
    if (s->state != STATE_READY)
        return phx_answer_json(
            x, 503,
            json_pack("{s:s, s:s}", "status", "stopping", "reason", "the server is being stopped"));
    if (limit_s > 0 && stuck_s > limit_s)
        return phx_answer_json(x, 503,
                               json_pack("{s:s, s:s, s:f}", "status", "stuck", "reason",
                                         "there is work, and no step has ended for", "seconds",
                                         stuck_s));
    return phx_answer_json(x, 200, json_pack("{s:s}", "status", "ok"));
}

static enum MHD_Result page(struct exchange *x)
{
    return phx_answer_text(x, 200, "text/html; charset=utf-8", (const char *)phx_page,
                           phx_page_bytes);
}

static enum MHD_Result version(struct exchange *x)
{
    return phx_answer_json(x, 200, json_pack("{s:s}", "version", x->server->options.version));
}

static json_t *model_object(const struct phx_server *s)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:i}", "id", s->options.model_name, "object", "model",
                     "created", (json_int_t)s->started, "owned_by", "phalanx", "max_model_len",
                     (int)s->context);
}

static enum MHD_Result models(struct exchange *x)
{
    const char *name = x->path + strlen("/v1/models");
    struct phx_problem problem;
    if (name[0] == '/' && strcmp(name + 1, x->server->options.model_name) != 0) {
        phx_problem_set(&problem, 404, "model_not_found", "model",
                        "there is no model of that name here: this server has %s",
                        x->server->options.model_name);
        return phx_answer_problem(x, &problem);
    }
    if (name[0] == '/') return phx_answer_json(x, 200, model_object(x->server));
    return phx_answer_json(
        x, 200, json_pack("{s:s, s:[o]}", "object", "list", "data", model_object(x->server)));
}

static enum MHD_Result metrics(struct exchange *x)
{
    struct phx_metrics now;
    struct phx_bytes text = {0};
    enum MHD_Result result = MHD_NO;
    phx_mailbox_metrics(x->server->parts.mailbox, &now);
    if (phx_metrics_print(&now, x->server->options.model_name, &text) == PHX_OK)
        result =
            phx_answer_text(x, 200, "text/plain; version=0.0.4; charset=utf-8", text.data, text.n);
    else
        phx_fail_clear();
    free(text.data);
    return result;
}

/* ---- texts and ids ---- */

static bool encode(const struct phx_server *s, const char *field, const char *text, size_t bytes,
                   bool add_special, int32_t **ids, size_t *n, struct phx_problem *problem)
{
    enum phx_status status =
        phx_tokenizer_encode(s->parts.tokenizer, text, bytes, add_special, ids, n);
    return status == PHX_OK || phx_problem_take(problem, status, field);
}

static bool tokenized(const struct exchange *x, json_t *body, json_t **out,
                      struct phx_problem *problem)
{
    const char *field = phx_fields_get(body, "prompt") != NULL ? "prompt" : "content";
    const json_t *text = phx_fields_get(body, field);
    bool add_special = strcmp(field, "prompt") == 0; /* as the servers that call it so do it */
    int32_t *ids;
    size_t n;
    if (!phx_fields_bool(body, "add_special_tokens", &add_special, problem) ||
        !phx_fields_bool(body, "add_special", &add_special, problem))
        return false;
    if (!json_is_string(text))
        return phx_problem_set(problem, 400, NULL, "prompt", "prompt must be a string");
    if (!encode(x->server, field, json_string_value(text), json_string_length(text), add_special,
                &ids, &n, problem))
        return false;
    json_t *tokens = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(tokens, json_integer(ids[i]));
    free(ids);
    *out = json_pack("{s:I, s:i, s:o}", "count", (json_int_t)n, "max_model_len",
                     (int)x->server->context, "tokens", tokens);
    return true;
}

static bool detokenized(const struct exchange *x, json_t *body, json_t **out,
                        struct phx_problem *problem)
{
    const json_t *tokens = phx_fields_get(body, "tokens");
    int32_t *ids;
    size_t n, bytes;
    char *text;
    if (!json_is_array(tokens))
        return phx_problem_set(problem, 400, NULL, "tokens",
                               "tokens must be an array of token ids");
    if (!phx_fields_ids(tokens, "tokens", &ids, &n, problem)) return false;
    enum phx_status status =
        phx_tokenizer_decode(x->server->parts.tokenizer, ids, n, false, &text, &bytes);
    free(ids);
    if (status != PHX_OK) return phx_problem_take(problem, status, "tokens");
    /* "prompt" is what vLLM calls it, "content" what llama.cpp does. */
    *out = json_pack("{s:s%, s:s%}", "prompt", text, bytes, "content", text, bytes);
    free(text);
    return true;
}

static enum MHD_Result convert(struct exchange *x, bool (*how)(const struct exchange *, json_t *,
                                                               json_t **, struct phx_problem *))
{
    struct phx_problem problem;
    json_t *body = NULL, *answer = NULL;
    bool ok = phx_fields_parse(x->body.data, x->body.n, &body, &problem) &&
              how(x, body, &answer, &problem);
    json_decref(body);
    return ok ? phx_answer_json(x, 200, answer) : phx_answer_problem(x, &problem);
}

static enum MHD_Result tokenize(struct exchange *x)
{
    return convert(x, tokenized);
}

static enum MHD_Result detokenize(struct exchange *x)
{
    return convert(x, detokenized);
}

/* ---- text ---- */

static bool check_model(const struct phx_server *s, const struct phx_ask *ask,
                        struct phx_problem *problem)
{
    if (ask->model == NULL || strcmp(ask->model, s->options.model_name) == 0) return true;
    return phx_problem_set(problem, 404, "model_not_found", "model",
                           "there is no model of that name here: this server has %s",
                           s->options.model_name);
}

/* The text of a chat; malloc'd. */
static bool render(const struct phx_server *s, const struct phx_ask *ask, char **text,
                   size_t *bytes, struct phx_problem *problem)
{
    if (s->parts.chat == NULL)
        return phx_problem_set(problem, 400, NULL, "messages",
                               "this model has no chat template: the server's --chat-template FILE "
                               "gives it one, and /v1/completions needs none");
    enum phx_status status = phx_chat_render(s->parts.chat, ask->messages, ask->template_arguments,
                                             ask->add_generation_prompt, text, bytes);
    return status == PHX_OK || phx_problem_take(problem, status, "messages");
}

/* Of every prompt its ids. */
static bool encode_prompts(const struct phx_server *s, struct phx_ask *ask,
                           struct phx_problem *problem)
{
    for (size_t i = 0; i < ask->n_prompts; i++) {
        struct phx_ask_prompt *p = &ask->prompts[i];
        bool is_chat = ask->kind == PHX_ASK_CHAT;
        char *chat = NULL;
        size_t bytes = p->bytes;
        if (p->ids != NULL) continue;
        if (is_chat && !render(s, ask, &chat, &bytes, problem)) return false;
        bool ok = encode(s, is_chat ? "messages" : "prompt", is_chat ? chat : p->text, bytes,
                         ask->add_special_tokens, &p->ids, &p->n_ids, problem);
        free(chat);
        if (!ok) return false;
    }
    return true;
}

static enum MHD_Result generate(struct exchange *x, enum phx_ask_kind kind)
{
    struct phx_server *s = x->server;
    struct phx_problem problem;
    struct phx_ask *ask;
    if (!phx_ask_parse(kind, &s->parts.sampling, x->body.data, x->body.n, &ask, &problem))
        return phx_answer_problem(x, &problem);
    free(x->body.data);
    x->body = (struct phx_bytes){0};
    if (check_model(s, ask, &problem) && encode_prompts(s, ask, &problem))
        return phx_exchange_begin(x, ask);
    phx_ask_destroy(ask);
    return phx_answer_problem(x, &problem);
}

static enum MHD_Result completions(struct exchange *x)
{
    return generate(x, PHX_ASK_COMPLETION);
}

static enum MHD_Result chat_completions(struct exchange *x)
{
    return generate(x, PHX_ASK_CHAT);
}

static enum MHD_Result apply_template(struct exchange *x)
{
    const struct phx_server *s = x->server;
    struct phx_problem problem;
    struct phx_ask *ask;
    char *text;
    size_t bytes;
    if (!phx_ask_parse(PHX_ASK_CHAT, &s->parts.sampling, x->body.data, x->body.n, &ask, &problem))
        return phx_answer_problem(x, &problem);
    bool ok = render(s, ask, &text, &bytes, &problem);
    phx_ask_destroy(ask);
    if (!ok) return phx_answer_problem(x, &problem);
    enum MHD_Result result = phx_answer_json(x, 200, json_pack("{s:s%}", "prompt", text, bytes));
    free(text);
    return result;
}

/* ---- the table ---- */

static const struct route routes[] = {
    {"POST", "/v1/completions", .handle = completions},
    {"POST", "/v1/chat/completions", .handle = chat_completions},
    {"POST", "/apply-template", .stateless = true, .handle = apply_template},
    {"GET", "/v1/models", .stateless = true, .handle = models},
    {"GET", "/v1/models/", .stateless = true, .handle = models},
    {"POST", "/tokenize", .stateless = true, .handle = tokenize},
    {"POST", "/detokenize", .stateless = true, .handle = detokenize},
    {"GET", "/", .open = true, .stateless = true, .handle = page},
    {"GET", "/health", .open = true, .stateless = true, .handle = health},
    {"GET", "/metrics", .stateless = true, .handle = metrics},
    {"GET", "/version", .stateless = true, .handle = version},
};

static bool matches(const struct route *route, const char *path)
{
    size_t n = strlen(route->path);
    bool goes_on = n > 1 && route->path[n - 1] == '/';
    return goes_on ? strncmp(route->path, path, n) == 0 && path[n] != '\0'
                   : strcmp(route->path, path) == 0;
}

const struct route *phx_route_find(const char *method, const char *path,
                                   struct phx_problem *problem)
{
    const struct route *other = NULL;
    for (size_t i = 0; i < sizeof routes / sizeof routes[0]; i++) {
        if (!matches(&routes[i], path)) continue;
        /* Without a body in the answer, which libmicrohttpd sees to. */
        bool head = strcmp(method, "HEAD") == 0 && strcmp(routes[i].method, "GET") == 0;
        if (head || strcmp(routes[i].method, method) == 0) return &routes[i];
        other = &routes[i];
    }
    if (other != NULL)
        phx_problem_set(problem, 405, NULL, NULL, "%s takes %s only", other->path, other->method);
    else
        phx_problem_set(problem, 404, NULL, NULL,
                        "there is nothing here; text is made by POST to /v1/completions and "
                        "/v1/chat/completions");
    return NULL;
}
