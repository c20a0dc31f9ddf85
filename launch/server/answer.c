#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/base/log.h"
#include "launch/server/server_impl.h"

static enum MHD_Result queue(struct exchange *x, int status, const char *type,
                             struct MHD_Response *response)
{
    if (response == NULL) return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (strncmp(type, "text/html", 9) == 0) /* nothing from elsewhere, and nobody frames it */
        MHD_add_response_header(response, "Content-Security-Policy",
                                "default-src 'none'; script-src 'unsafe-inline'; style-src "
                                "'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'");
    if (status == 401) MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    if (status == 405) MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, POST");
    /* The rest of what was sent is not a request. */
    if (!x->received || x->server->state >= STATE_DRAINING)
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    enum MHD_Result result = MHD_queue_response(x->mhd, (unsigned)status, response);
    MHD_destroy_response(response);
    x->status = status;
    x->answered_s = phx_job_now();
    return result;
}

enum MHD_Result phx_answer_text(struct exchange *x, int status, const char *type, const char *text,
                                size_t bytes)
{
    x->bytes_out = bytes;
    return queue(x, status, type,
                 MHD_create_response_from_buffer(bytes, (void *)text, MHD_RESPMEM_MUST_COPY));
}

enum MHD_Result phx_answer_json(struct exchange *x, int status, json_t *object)
{
    char *text = object != NULL ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (text == NULL) return MHD_NO;
    enum MHD_Result result = phx_answer_text(x, status, "application/json", text, strlen(text));
    free(text);
    return result;
}

enum MHD_Result phx_answer_problem(struct exchange *x, const struct phx_problem *problem)
{
    return phx_answer_json(x, problem->http, phx_problem_json(problem));
}

/* In a time that depends on the lengths only. */
static bool same(const char *given, const char *wanted)
{
    size_t n_given = strlen(given), n_wanted = strlen(wanted);
    volatile unsigned char differ = n_given != n_wanted;
    for (size_t i = 0; i < n_given; i++)
        differ = (unsigned char)(differ | (given[i] ^ wanted[n_wanted > 0 ? i % n_wanted : 0]));
    return differ == 0;
}

bool phx_answer_allowed(const struct exchange *x)
{
    static const char scheme[] = "Bearer ";
    const char *key = x->server->options.api_key;
    if (key == NULL) return true;
    const char *given =
        MHD_lookup_connection_value(x->mhd, MHD_HEADER_KIND, MHD_HTTP_HEADER_AUTHORIZATION);
    if (given == NULL || strncasecmp(given, scheme, sizeof scheme - 1) != 0) return false;
    given += sizeof scheme - 1;
    while (*given == ' ') given++;
    return same(given, key);
}

/* ---- the access log ---- */

static void client_of(const struct exchange *x, char *text, size_t bytes)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(x->mhd, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    snprintf(text, bytes, "-");
    if (info == NULL || info->client_addr == NULL) return;
    const struct sockaddr *address = info->client_addr;
    if (address->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)address)->sin_addr, text,
                  (socklen_t)bytes);
    else if (address->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)address)->sin6_addr, text,
                  (socklen_t)bytes);
}

void phx_answer_log(const struct exchange *x)
{
    char client[INET6_ADDRSTRLEN], when[32], path[200], line[512];
    double seconds = phx_job_now() - x->begun_s;
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &utc);
    client_of(x, client, sizeof client);
    /* What a client chose to send must not look like another line, or like JSON. */
    snprintf(path, sizeof path, "%s", x->path != NULL ? x->path : "-");
    for (char *c = path; *c != '\0'; c++)
        if (*c < ' ' || *c > '~' || *c == '"' || *c == '\\') *c = '?';
    const char *gone = x->gone ? "true" : "false";
    if (x->server->options.json_log)
        snprintf(line, sizeof line,
                 "{\"time\":\"%s\",\"client\":\"%s\",\"method\":\"%s\",\"path\":\"%s\","
                 "\"status\":%d,\"bytes\":%zu,\"seconds\":%.6f,\"prompt_tokens\":%lld,"
                 "\"completion_tokens\":%d,\"client_gone\":%s}\n",
                 when, client, x->method, path, x->status, x->bytes_out, seconds,
                 (long long)x->n_prompt, x->n_new, gone);
    else
        snprintf(line, sizeof line, "%s %s \"%s %s\" %d %zu bytes %.3f s %lld+%d tokens%s\n", when,
                 client, x->method, path, x->status, x->bytes_out, seconds, (long long)x->n_prompt,
                 x->n_new, x->gone ? ", client gone" : "");
    fputs(line, stderr);
}
