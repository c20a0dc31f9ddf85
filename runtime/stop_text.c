#include "runtime/stop_text.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"

struct phx_stop_text {
    char **stops;
    size_t n_stops;
    char *text; /* [bytes], of which the first `shown` were handed out by the last call */
    size_t shown, bytes, capacity;
    bool stopped;
};

enum phx_status phx_stop_text_create(const char *const *stops, size_t n, struct phx_stop_text **out)
{
    for (size_t i = 0; i < n; i++)
        if (stops[i][0] == '\0') return phx_fail(PHX_USAGE, "a stop text must not be empty");
    struct phx_stop_text *t = calloc(1, sizeof *t);
    if (t != NULL) t->stops = calloc(n ? n : 1, sizeof *t->stops);
    bool ok = t != NULL && t->stops != NULL;
    for (size_t i = 0; ok && i < n; i++) {
        t->stops[i] = strdup(stops[i]);
        ok = t->stops[i] != NULL;
        t->n_stops = i + 1;
    }
    if (!ok) {
        phx_stop_text_destroy(t);
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for the stop texts");
    }
    *out = t;
    return PHX_OK;
}

void phx_stop_text_destroy(struct phx_stop_text *text)
{
    if (text == NULL) return;
    for (size_t i = 0; text->stops != NULL && i < text->n_stops; i++) free(text->stops[i]);
    free(text->stops);
    free(text->text);
    free(text);
}

static bool append(struct phx_stop_text *t, const char *piece, size_t bytes)
{
    if (t->text != NULL) memmove(t->text, t->text + t->shown, t->bytes - t->shown);
    t->bytes -= t->shown;
    t->shown = 0;
    if (t->text == NULL || t->bytes + bytes > t->capacity) {
        size_t capacity = 2 * (t->bytes + bytes) + 64;
        char *grown = realloc(t->text, capacity);
        if (grown == NULL) return false;
        t->text = grown;
        t->capacity = capacity;
    }
    memcpy(t->text + t->bytes, piece, bytes);
    t->bytes += bytes;
    return true;
}

static bool matches(const struct phx_stop_text *t, size_t at, bool whole)
{
    size_t left = t->bytes - at;
    for (size_t i = 0; i < t->n_stops; i++) {
        size_t length = strlen(t->stops[i]);
        if (length > left && whole) continue;
        if (memcmp(t->text + at, t->stops[i], length < left ? length : left) == 0) return true;
    }
    return false;
}

/* The first place where a stop string is complete; without one, where the text ends inside one. */
static size_t first_stop(const struct phx_stop_text *t, bool *complete)
{
    *complete = true;
    for (size_t at = 0; at < t->bytes; at++)
        if (matches(t, at, true)) return at;
    *complete = false;
    for (size_t at = 0; at < t->bytes; at++)
        if (matches(t, at, false)) return at;
    return t->bytes;
}

enum phx_status phx_stop_text_push(struct phx_stop_text *text, const char *piece, size_t bytes,
                                   const char **out_text, size_t *out_bytes, bool *out_stopped)
{
    PHX_ASSERT(!text->stopped);
    if (!append(text, piece, bytes))
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for %zu bytes of text", bytes);
    text->shown = first_stop(text, &text->stopped);
    *out_text = text->text;
    *out_bytes = text->shown;
    *out_stopped = text->stopped;
    return PHX_OK;
}

void phx_stop_text_flush(struct phx_stop_text *text, const char **out_text, size_t *out_bytes)
{
    *out_bytes = text->stopped ? 0 : text->bytes - text->shown;
    *out_text = *out_bytes ? text->text + text->shown : "";
    text->shown = text->bytes;
}
