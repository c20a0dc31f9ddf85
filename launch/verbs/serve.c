#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/check.h"
#include "kernels/base/log.h"
#include "launch/mpi_launcher.h"
#include "launch/report.h"
#include "launch/server/loop.h"
#include "launch/server/server.h"
#include "launch/settings.h"
#include "launch/verbs/verbs.h"

enum { DEFAULT_SEQS = 64, KEY_BYTES = 1024, PEM_BYTES = 1 << 20 };

/* What rank 0 keeps of the server. */
struct service {
    const struct phx_options *options;
    struct phx_tokenizer *tokenizer;
    struct phx_chat *chat; /* NULL: the model has no template */
    struct phx_mailbox *mailbox;
    struct phx_server *server;
    char *api_key, *certificate, *key, *name;
    bool wrote_pid;
};

static enum phx_status read_text(const char *path, size_t limit, char **out)
{
    FILE *file = fopen(path, "r");
    if (file == NULL) return phx_fail(PHX_NOT_FOUND, "%s: %s", path, strerror(errno));
    char *text = malloc(limit + 1);
    size_t n = text != NULL ? fread(text, 1, limit + 1, file) : 0;
    bool failed = ferror(file);
    fclose(file);
    if (text == NULL || failed || n > limit) {
        free(text);
        return phx_fail(PHX_BAD_DATA, "%s: cannot be read, or is larger than %zu bytes", path,
                        limit);
    }
    text[n] = '\0';
    *out = text;
    return PHX_OK;
}

static enum phx_status read_key(struct service *v)
{
    const struct phx_options *o = v->options;
    if (o->api_key_file == NULL) {
        v->api_key = o->api_key != NULL ? strdup(o->api_key) : NULL;
        return PHX_OK;
    }
    PHX_TRY(read_text(o->api_key_file, KEY_BYTES, &v->api_key));
    v->api_key[strcspn(v->api_key, "\r\n")] = '\0';
    if (v->api_key[0] != '\0') return PHX_OK;
    return phx_fail(PHX_USAGE, "--api-key-file %s: its first line is empty", o->api_key_file);
}

/* The name of the model's folder. */
static enum phx_status choose_name(struct service *v, const char *directory)
{
    const char *given = v->options->served_model_name;
    v->name = strdup(given != NULL ? given : directory);
    if (v->name == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the model's name");
    if (given != NULL) return PHX_OK;
    size_t n = strlen(v->name);
    while (n > 1 && v->name[n - 1] == '/') v->name[--n] = '\0';
    const char *last = strrchr(v->name, '/');
    if (last != NULL && last[1] != '\0') memmove(v->name, last + 1, strlen(last));
    return PHX_OK;
}

static float choose(float model, float plain)
{
    return isnan(model) ? plain : model;
}

static struct phx_sampling sampling_of(const struct phx_config *config)
{
    return (struct phx_sampling){.temperature = choose(config->temperature, 1),
                                 .top_p = choose(config->top_p, 1),
                                 .min_p = choose(config->min_p, 0),
                                 .top_k = config->top_k >= 0 ? config->top_k : 0,
                                 .repeat_penalty = choose(config->repeat_penalty, 1)};
}

static void say_defaults(const struct phx_sampling *s)
{
    fprintf(stderr,
            "phalanx: where a request says nothing: temperature %g, top_p %g, min_p %g, top_k %d, "
            "repetition_penalty %g\n",
            (double)s->temperature, (double)s->top_p, (double)s->min_p, s->top_k,
            (double)s->repeat_penalty);
}

static enum phx_status load_chat(struct service *v, const char *model)
{
    enum phx_status status =
        phx_chat_load(model, v->options->chat_template, v->tokenizer, &v->chat);
    if (status == PHX_OK) {
        fprintf(stderr, "phalanx: chats by the template of %s\n", phx_chat_source(v->chat));
        return PHX_OK;
    }
    if (v->options->chat_template != NULL) return status;
    /* Completions need none. */
    fprintf(stderr, "phalanx: no chats: %s\n", phx_fail_sentence());
    phx_fail_clear();
    return PHX_OK;
}

/* Rank 0, before the model is loaded: what can be refused, and the socket. */
static enum phx_status prepare(struct service *v, const struct phx_run *run)
{
    const struct phx_options *o = v->options;
    struct phx_server_parts parts = {.config = run->config, .sampling = sampling_of(run->config)};
    PHX_TRY(phx_tokenizer_load(run->directory, &v->tokenizer));
    PHX_TRY(load_chat(v, run->directory));
    PHX_TRY(read_key(v));
    if (o->ssl_certfile != NULL) {
        PHX_TRY(read_text(o->ssl_certfile, PEM_BYTES, &v->certificate));
        PHX_TRY(read_text(o->ssl_keyfile, PEM_BYTES, &v->key));
    }
    PHX_TRY(choose_name(v, run->directory));
    PHX_TRY(phx_mailbox_create(&v->mailbox));
    parts.mailbox = v->mailbox;
    parts.tokenizer = v->tokenizer;
    parts.chat = v->chat;
    struct phx_server_options options = {.host = o->host,
                                         .port = o->port,
                                         .model_name = v->name,
                                         .version = PHX_VERSION,
                                         .api_key = v->api_key,
                                         .certificate = v->certificate,
                                         .key = v->key,
                                         .max_connections = o->max_connections,
                                         .max_body_bytes = (size_t)o->max_body_mb << 20,
                                         .max_header_bytes = (size_t)o->max_header_kb << 10,
                                         .request_timeout_s = o->request_timeout,
                                         .shutdown_timeout_s = o->shutdown_timeout,
                                         .watchdog_timeout_s = o->watchdog_timeout,
                                         .json_log = o->log_format == PHX_LOG_JSON,
                                         .under_mpirun =
                                             phx_mpi_launcher_detect(getenv).program != NULL};
    PHX_TRY(phx_server_create(&parts, &options, &v->server));
    fprintf(stderr, "phalanx: %s at %s: loading\n", v->name, phx_server_url(v->server));
    say_defaults(&parts.sampling);
    return PHX_OK;
}

static enum phx_status write_pid(struct service *v)
{
    const char *path = v->options->pid_file;
    if (path == NULL) return PHX_OK;
    FILE *file = fopen(path, "w");
    bool ok = file != NULL && fprintf(file, "%ld\n", (long)getpid()) > 0;
    if (file != NULL) ok = fclose(file) == 0 && ok;
    if (!ok) return phx_fail(PHX_IO, "--pid-file %s: %s", path, strerror(errno));
    v->wrote_pid = true;
    return PHX_OK;
}

static void on_stall(void *server, const char *sentence)
{
    phx_server_last_words(server, sentence);
}

/* Rank 0: everything that follows. */
static enum phx_status lead(struct service *v, struct phx_run *run)
{
    phx_watchdog_on_stall(run->watchdog, on_stall, v->server);
    PHX_TRY(write_pid(v));
    phx_server_ready(v->server, phx_engine_max_tokens(run->engine));
    fprintf(stderr, "phalanx: %s at %s: ready, %d rank%s\n", v->name, phx_server_url(v->server),
            run->world->size, run->world->size == 1 ? "" : "s");
    return phx_server_loop(run->engine, v->mailbox);
}

static enum phx_status run_service(struct service *v, struct phx_run *run)
{
    const struct phx_options *o = v->options;
    bool leads = run->world->rank == 0;
    PHX_TRY(phx_world_agree(run->world, leads ? prepare(v, run) : PHX_OK));
    struct phx_run_needs needs = {.max_seqs = phx_options_given(o, "--max-num-seqs") ? o->max_seqs
                                                                                     : DEFAULT_SEQS,
                                  .max_rows = o->max_batched_tokens,
                                  .logits = true,
                                  .max_length = (int32_t)run->config->context,
                                  .total_tokens = o->kv_cache_tokens,
                                  .share_prefixes = !o->no_prefix_cache};
    PHX_TRY(phx_run_start(run, &needs));
    PHX_TRY(leads ? lead(v, run) : phx_engine_follow(run->engine));
    if (leads) phx_server_finish(v->server, NULL);
    phx_run_finish(run);
    return PHX_OK;
}

/* mpirun ends a job with SIGTERM to all ranks, and SIGKILL when the first of them is gone, or after
 * a second: rank 0, which tells its clients, is to be that one. */
static void end_later(int number)
{
    (void)number;
    alarm(1);
}

enum phx_status phx_verb_serve(struct phx_world *world, const struct phx_options *options)
{
    struct phx_placement *placement = NULL;
    struct phx_run_settings settings;
    struct phx_run *run = NULL;
    struct service v = {.options = options};
    /* mpirun passes it on to all ranks; rank 0 catches it. */
    signal(SIGUSR1, SIG_IGN);
    if (world->rank > 0) signal(SIGTERM, end_later);
    enum phx_status status = phx_settings_make(world, options, &placement, &settings);
    if (status == PHX_OK) status = phx_run_open(world, &settings, &run);
    if (status == PHX_OK) status = run_service(&v, run);
    if (status != PHX_OK) phx_server_finish(v.server, phx_fail_sentence());
    phx_run_destroy(run); /* no step touches a job from here on */
    phx_server_destroy(v.server);
    phx_mailbox_destroy(v.mailbox);
    phx_chat_destroy(v.chat);
    phx_tokenizer_destroy(v.tokenizer);
    if (v.wrote_pid) unlink(options->pid_file);
    free(v.api_key);
    free(v.certificate);
    free(v.key);
    free(v.name);
    phx_placement_destroy(placement);
    return status;
}
