#include "runtime/tokenizer/decoder.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/tokenizer/unicode.h"

struct stage_state {
    struct phx_bytes held;  /* of the current token: text that cannot be passed on yet */
    struct phx_bytes bytes; /* byte level, byte fallback, pieces: bytes that are not text yet */
    int64_t n_stripped; /* strip: contents taken off the start of this token; -1: that is over */
    bool past_first;    /* metaspace, spaces: this is not the first token; pieces: nothing is
                           dropped any more */
};

struct phx_decoding {
    const struct phx_decoder *decoder;
    struct phx_matcher *matcher;
    struct phx_bytes *out;       /* of the current call */
    bool raw;                    /* bytes that are no text are passed on as they are */
    struct stage_state states[]; /* [decoder->n] */
};

/* A stage gets its tokens as pieces of text (feed), each ended (end_token), and the end of all
 * (end_all). It passes on the same to the next one; behind the last one is the output. */
static enum phx_status feed(struct phx_decoding *d, size_t stage, const char *text, size_t n);
static enum phx_status end_token(struct phx_decoding *d, size_t stage);

void phx_decoder_destroy(struct phx_decoder *decoder)
{
    for (size_t i = 0; i < decoder->n; i++) {
        phx_pattern_destroy(decoder->data[i].pattern);
        free(decoder->data[i].content);
    }
    free(decoder->data);
    *decoder = (struct phx_decoder){0};
}

enum phx_status phx_decoding_create(const struct phx_decoder *decoder, struct phx_decoding **out)
{
    struct phx_decoding *d = calloc(1, sizeof *d + decoder->n * sizeof *d->states);
    if (!d) return phx_fail(PHX_OUT_OF_MEMORY, "no memory to decode a text");
    d->decoder = decoder;
    enum phx_status status = phx_matcher_create(&d->matcher);
    if (status != PHX_OK) {
        free(d);
        return status;
    }
    *out = d;
    return PHX_OK;
}

/* What strips the ends of a text that was joined before it has its start behind it. */
void phx_decoding_begin_within(struct phx_decoding *decoding)
{
    bool joined = false;
    decoding->raw = true;
    for (size_t i = 0; i < decoding->decoder->n; i++) {
        enum phx_stage_kind kind = decoding->decoder->data[i].kind;
        decoding->states[i].past_first = true;
        decoding->states[i].n_stripped = joined ? -1 : 0;
        joined |= kind == PHX_STAGE_FUSE || kind == PHX_STAGE_BYTE_LEVEL;
    }
}

void phx_decoding_destroy(struct phx_decoding *decoding)
{
    if (!decoding) return;
    for (size_t i = 0; i < decoding->decoder->n; i++) {
        free(decoding->states[i].held.data);
        free(decoding->states[i].bytes.data);
    }
    phx_matcher_destroy(decoding->matcher);
    free(decoding);
}

/* Take n bytes off the front. */
static void drop(struct phx_bytes *bytes, size_t n)
{
    bytes->n -= n;
    if (n && bytes->n) memmove(bytes->data, bytes->data + n, bytes->n);
}

static enum phx_status feed_replacements(struct phx_decoding *d, size_t stage, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        PHX_TRY(feed(d, stage, PHX_REPLACEMENT, strlen(PHX_REPLACEMENT)));
    }
    return PHX_OK;
}

/* Leading bytes that are passed on as they are. */
static size_t valid_bytes(const struct phx_decoding *d, const char *text, size_t n)
{
    return d->raw ? n : phx_utf8_valid(text, n);
}

/* Pass on the bytes that have become text. The beginning of a character waits, unless all is over.
 * */
static enum phx_status feed_bytes(struct phx_decoding *d, size_t stage, bool over)
{
    struct phx_bytes *bytes = &d->states[stage].bytes;
    size_t at = 0;
    while (at < bytes->n) {
        const char *rest = bytes->data + at;
        size_t n = valid_bytes(d, rest, bytes->n - at);
        if (n == 0) {
            enum phx_utf8_unit unit;
            n = phx_utf8_unit(rest, bytes->n - at, &unit);
            if (unit == PHX_UTF8_CUT && !over) break;
            PHX_TRY(feed_replacements(d, stage + 1, 1));
        } else {
            PHX_TRY(feed(d, stage + 1, rest, n));
        }
        at += n;
    }
    drop(bytes, at);
    return PHX_OK;
}

/* As sentencepiece: the characters among the bytes, and a U+FFFD for each byte of none. */
static enum phx_status feed_run(struct phx_decoding *d, size_t stage, bool over)
{
    struct phx_bytes *bytes = &d->states[stage].bytes;
    size_t at = 0;
    while (at < bytes->n) {
        const char *rest = bytes->data + at;
        size_t n = valid_bytes(d, rest, bytes->n - at);
        enum phx_utf8_unit unit = PHX_UTF8_CHARACTER;
        if (n == 0) phx_utf8_unit(rest, bytes->n - at, &unit);
        if (unit == PHX_UTF8_CUT && !over) break;
        PHX_TRY(n ? feed(d, stage + 1, rest, n) : feed_replacements(d, stage + 1, 1));
        at += n ? n : 1;
    }
    if (at) d->states[stage].past_first = true;
    drop(bytes, at);
    return PHX_OK;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* The value of <0xHH>; -1 for another token. */
static int fallback_byte(const struct phx_bytes *token)
{
    const char *text = token->data;
    if (token->n != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* A run of byte tokens is over: one token if all of it is UTF-8, else a U+FFFD for each. */
static enum phx_status end_run(struct phx_decoding *d, size_t stage)
{
    struct phx_bytes *run = &d->states[stage].bytes;
    if (run->n == 0) return PHX_OK;
    if (valid_bytes(d, run->data, run->n) == run->n) {
        PHX_TRY(feed(d, stage + 1, run->data, run->n));
        PHX_TRY(end_token(d, stage + 1));
    } else {
        for (size_t i = 0; i < run->n; i++) {
            PHX_TRY(feed_replacements(d, stage + 1, 1));
            PHX_TRY(end_token(d, stage + 1));
        }
    }
    run->n = 0;
    return PHX_OK;
}

static enum phx_status end_fallback_token(struct phx_decoding *d, size_t stage)
{
    struct stage_state *state = &d->states[stage];
    int byte = fallback_byte(&state->held);
    if (byte >= 0) {
        state->held.n = 0;
        return phx_bytes_append(&state->bytes, &(char){(char)byte}, 1);
    }
    PHX_TRY(end_run(d, stage));
    PHX_TRY(feed(d, stage + 1, state->held.data, state->held.n));
    state->held.n = 0;
    return end_token(d, stage + 1);
}

/* Replace in the text held; with `over` to its end, else as far as what follows cannot matter. */
static enum phx_status replace(struct phx_decoding *d, size_t stage, bool over)
{
    const struct phx_stage *s = &d->decoder->data[stage];
    struct phx_bytes *held = &d->states[stage].held;
    struct phx_match match = {0};
    size_t done = 0;
    if (d->raw && phx_utf8_valid(held->data, held->n) < held->n) { /* no text to match in */
        PHX_TRY(feed(d, stage + 1, held->data, held->n));
        held->n = 0;
        return PHX_OK;
    }
    while (held->n) {
        bool found;
        PHX_TRY(phx_pattern_next(s->pattern, d->matcher, held->data, held->n, &match, &found));
        if (!found) break;
        PHX_TRY(feed(d, stage + 1, held->data + done, match.start - done));
        PHX_TRY(feed(d, stage + 1, s->content, strlen(s->content)));
        done = match.end;
    }
    size_t kept = 0; /* bytes at the end that a literal may begin with */
    if (!over) {
        const char *literal = phx_pattern_literal(s->pattern);
        kept = strlen(literal) - 1;
        if (kept > held->n - done) kept = held->n - done;
        while (kept && memcmp(held->data + held->n - kept, literal, kept) != 0) kept--;
    }
    size_t n = held->n - kept - done;
    if (n) PHX_TRY(feed(d, stage + 1, held->data + done, n));
    drop(held, done + n);
    return PHX_OK;
}

static enum phx_status metaspace(struct phx_decoding *d, size_t stage, const char *text, size_t n)
{
    const struct phx_stage *s = &d->decoder->data[stage];
    size_t content_bytes = strlen(s->content), done = 0;
    bool drops = s->drop_first && !d->states[stage].past_first;
    for (;;) {
        const char *hit = phx_bytes_find(text + done, n - done, s->content, content_bytes);
        size_t at = hit ? (size_t)(hit - text) : n;
        PHX_TRY(feed(d, stage + 1, text + done, at - done));
        if (!hit) return PHX_OK;
        if (!drops) PHX_TRY(feed(d, stage + 1, " ", 1));
        done = at + content_bytes;
    }
}

static enum phx_status end_piece(struct phx_decoding *d, size_t stage)
{
    const struct phx_stage *s = &d->decoder->data[stage];
    struct stage_state *state = &d->states[stage];
    size_t mark_bytes = strlen(s->content), done = 0;
    int byte = s->bytes ? fallback_byte(&state->held) : -1;
    if (byte >= 0) {
        state->held.n = 0;
        PHX_TRY(phx_bytes_append(&state->bytes, &(char){(char)byte}, 1));
        return feed_run(d, stage, false);
    }
    PHX_TRY(feed_run(d, stage, true));
    const char *text = state->held.data;
    size_t n = state->held.n;
    if (s->drop_first && !state->past_first && n >= mark_bytes &&
        memcmp(text, s->content, mark_bytes) == 0) {
        done = mark_bytes;
        state->past_first = !s->drop_all;
    }
    if (n > done) state->past_first = true;
    while (done < n) {
        const char *hit = phx_bytes_find(text + done, n - done, s->content, mark_bytes);
        size_t at = hit ? (size_t)(hit - text) : n;
        PHX_TRY(feed(d, stage + 1, text + done, at - done));
        if (hit) PHX_TRY(feed(d, stage + 1, " ", 1));
        done = hit ? at + mark_bytes : n;
    }
    state->held.n = 0;
    return end_token(d, stage + 1);
}

static enum phx_status strip(struct phx_decoding *d, size_t stage, const char *text, size_t n)
{
    const struct phx_stage *s = &d->decoder->data[stage];
    struct stage_state *state = &d->states[stage];
    size_t content_bytes = strlen(s->content);
    while (n && state->n_stripped >= 0) {
        bool strips = state->n_stripped < s->start && n >= content_bytes &&
                      memcmp(text, s->content, content_bytes) == 0;
        state->n_stripped = strips ? state->n_stripped + 1 : -1;
        if (strips) {
            text += content_bytes;
            n -= content_bytes;
        }
    }
    /* The contents at the end, up to `stop` of them, may be the token's last. */
    struct phx_bytes *held = &state->held;
    PHX_TRY(phx_bytes_append(held, text, n));
    size_t kept = 0;
    for (int64_t i = 0; i < s->stop && held->n - kept >= content_bytes; i++) {
        const char *last = held->data + held->n - kept - content_bytes;
        if (memcmp(last, s->content, content_bytes) != 0) break;
        kept += content_bytes;
    }
    size_t certain = held->n - kept;
    if (certain) PHX_TRY(feed(d, stage + 1, held->data, certain));
    drop(held, certain);
    return PHX_OK;
}

static enum phx_status feed(struct phx_decoding *d, size_t stage, const char *text, size_t n)
{
    if (stage == d->decoder->n) return phx_bytes_append(d->out, text, n);
    const struct phx_stage *s = &d->decoder->data[stage];
    struct stage_state *state = &d->states[stage];
    if (n == 0 && s->kind != PHX_STAGE_SPACES) return PHX_OK;
    switch (s->kind) {
    case PHX_STAGE_BYTE_LEVEL:
    case PHX_STAGE_BYTE_FALLBACK:
    case PHX_STAGE_PIECES:
        return phx_bytes_append(&state->held, text, n);
    case PHX_STAGE_REPLACE:
        PHX_TRY(phx_bytes_append(&state->held, text, n));
        return phx_pattern_literal(s->pattern) ? replace(d, stage, false) : PHX_OK;
    case PHX_STAGE_METASPACE:
        return metaspace(d, stage, text, n);
    case PHX_STAGE_STRIP:
        return strip(d, stage, text, n);
    case PHX_STAGE_SPACES: /* the only stage: a token comes as one text */
        if (state->past_first) PHX_TRY(feed(d, stage + 1, " ", 1));
        return feed(d, stage + 1, text, n);
    case PHX_STAGE_FUSE:
        break;
    }
    return feed(d, stage + 1, text, n);
}

static enum phx_status end_token(struct phx_decoding *d, size_t stage)
{
    if (stage == d->decoder->n) return PHX_OK;
    struct stage_state *state = &d->states[stage];
    switch (d->decoder->data[stage].kind) {
    case PHX_STAGE_BYTE_LEVEL:
        PHX_TRY(phx_bytes_from_characters(state->held.data, state->held.n, &state->bytes));
        state->held.n = 0;
        return feed_bytes(d, stage, false);
    case PHX_STAGE_BYTE_FALLBACK:
        return end_fallback_token(d, stage);
    case PHX_STAGE_PIECES:
        return end_piece(d, stage);
    case PHX_STAGE_REPLACE:
        PHX_TRY(replace(d, stage, true));
        break;
    case PHX_STAGE_METASPACE:
    case PHX_STAGE_SPACES:
        state->past_first = true;
        break;
    case PHX_STAGE_STRIP:
        state->held.n = 0;
        state->n_stripped = 0;
        break;
    case PHX_STAGE_FUSE:
        return PHX_OK;
    }
    return end_token(d, stage + 1);
}

static enum phx_status end_all(struct phx_decoding *d, size_t stage)
{
    switch (d->decoder->data[stage].kind) {
    case PHX_STAGE_BYTE_LEVEL:
        PHX_TRY(feed_bytes(d, stage, true));
        return end_token(d, stage + 1);
    case PHX_STAGE_BYTE_FALLBACK:
        return end_run(d, stage);
    case PHX_STAGE_PIECES:
        return feed_run(d, stage, true);
    case PHX_STAGE_FUSE:
        return end_token(d, stage + 1);
    case PHX_STAGE_REPLACE:
    case PHX_STAGE_METASPACE:
    case PHX_STAGE_STRIP:
    case PHX_STAGE_SPACES:
        break;
    }
    return PHX_OK;
}

enum phx_status phx_decoding_push(struct phx_decoding *decoding, const char *token, size_t n,
                                  struct phx_bytes *out)
{
    decoding->out = out;
    PHX_TRY(feed(decoding, 0, token, n));
    return end_token(decoding, 0);
}

enum phx_status phx_decoding_finish(struct phx_decoding *decoding, struct phx_bytes *out)
{
    decoding->out = out;
    for (size_t i = 0; i < decoding->decoder->n; i++) PHX_TRY(end_all(decoding, i));
    return PHX_OK;
}
