#include "runtime/tokenizer/steps.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"
#include "runtime/tokenizer/charsmap.h"

enum phx_status phx_text_create(const char *data, size_t n, struct phx_text *out)
{
    *out = (struct phx_text){0};
    enum phx_status status;
    PHX_TRY_GOTO(phx_matcher_create(&out->matcher), failed);
    PHX_TRY_GOTO(phx_bytes_append(&out->bytes, data, n), failed);
    PHX_TRY_GOTO(phx_text_put(out, (struct phx_piece){.n = n, .id = -1, .first = true}), failed);
    phx_text_take_pieces(out);
    return PHX_OK;
failed:
    phx_text_destroy(out);
    return status;
}

void phx_text_destroy(struct phx_text *text)
{
    free(text->bytes.data);
    free(text->pieces.data);
    free(text->spare_bytes.data);
    free(text->spare_pieces.data);
    phx_matcher_destroy(text->matcher);
    *text = (struct phx_text){0};
}

enum phx_status phx_text_put(struct phx_text *text, struct phx_piece piece)
{
    if (piece.id < 0 && piece.n == 0) return PHX_OK;
    PHX_TRY(PHX_RESERVE(&text->spare_pieces, 1));
    text->spare_pieces.data[text->spare_pieces.n++] = piece;
    return PHX_OK;
}

void phx_text_take_pieces(struct phx_text *text)
{
    struct phx_pieces old = text->pieces;
    text->pieces = text->spare_pieces;
    text->spare_pieces = old;
    text->spare_pieces.n = 0;
}

void phx_steps_destroy(struct phx_steps *steps)
{
    for (size_t i = 0; i < steps->n; i++) {
        phx_pattern_destroy(steps->data[i].pattern);
        free(steps->data[i].content);
        if (steps->data[i].rules) phx_spm_rules_destroy(steps->data[i].rules);
        free(steps->data[i].rules);
    }
    free(steps->data);
    *steps = (struct phx_steps){0};
}

/* The steps that rewrite a piece: data[0, piece->n) to the end of `out`, updating piece->first. */

static enum phx_status trim(const struct phx_step *step, const char *data, struct phx_piece *piece,
                            struct phx_bytes *out)
{
    size_t n = piece->n;
    size_t left = step->trim_left ? phx_utf8_before(phx_unicode_is_space, data, n) : 0;
    size_t right =
        step->trim_right ? phx_utf8_after(phx_unicode_is_space, data + left, n - left) : 0;
    if (left) piece->first = false;
    return phx_bytes_append(out, data + left, n - left - right);
}

static enum phx_status prepend(const struct phx_step *step, const char *data,
                               const struct phx_piece *piece, struct phx_bytes *out)
{
    size_t n = strlen(step->content);
    bool there = n <= piece->n && memcmp(data, step->content, n) == 0;
    if (!(step->unless_there && there) && !(step->first_only && !piece->first)) {
        PHX_TRY(phx_bytes_append(out, step->content, n));
    }
    return phx_bytes_append(out, data, piece->n);
}

static enum phx_status replace(const struct phx_step *step, struct phx_matcher *matcher,
                               const char *data, struct phx_piece *piece, struct phx_bytes *out)
{
    struct phx_match match = {0};
    size_t content_bytes = strlen(step->content), copied = 0;
    for (;;) {
        bool found;
        PHX_TRY(phx_pattern_next(step->pattern, matcher, data, piece->n, &match, &found));
        if (!found) break;
        PHX_TRY(phx_bytes_append(out, data + copied, match.start - copied));
        PHX_TRY(phx_bytes_append(out, step->content, content_bytes));
        copied = match.end;
        /* The library aligns what it puts in with the last character that it takes out. */
        if (match.start == 0 && match.end > 0) {
            piece->first &= content_bytes > 0 && match.end == phx_utf8_bytes(data);
        }
    }
    return phx_bytes_append(out, data + copied, piece->n - copied);
}

static enum phx_status rewrite(const struct phx_step *step, struct phx_text *text)
{
    text->spare_bytes.n = 0;
    for (size_t i = 0; i < text->pieces.n; i++) {
        struct phx_piece piece = text->pieces.data[i];
        if (piece.id < 0) {
            const char *data = text->bytes.data + piece.start;
            struct phx_bytes *out = &text->spare_bytes;
            size_t start = out->n;
            switch (step->kind) {
            case PHX_STEP_FORM:
                PHX_TRY(phx_unicode_normalize(step->form, data, piece.n, out));
                break;
            case PHX_STEP_LOWERCASE:
                PHX_TRY(phx_unicode_lowercase(data, piece.n, out));
                break;
            case PHX_STEP_TRIM:
                PHX_TRY(trim(step, data, &piece, out));
                break;
            case PHX_STEP_PREPEND:
                PHX_TRY(prepend(step, data, &piece, out));
                break;
            case PHX_STEP_REPLACE:
                PHX_TRY(replace(step, text->matcher, data, &piece, out));
                break;
            case PHX_STEP_CHARACTERS:
                PHX_TRY(phx_bytes_to_characters(data, piece.n, out));
                break;
            case PHX_STEP_MAP:
                PHX_TRY(phx_charsmap_rewrite(&step->rules->map, data, piece.n, out));
                break;
            case PHX_STEP_RULES:
                PHX_TRY(phx_spm_normalize(step->rules, data, piece.n, out));
                break;
            case PHX_STEP_SPLIT:
                PHX_ASSERT(!"a split rewrites nothing");
            }
            piece.start = start;
            piece.n = out->n - start;
        }
        PHX_TRY(phx_text_put(text, piece));
    }
    struct phx_bytes old = text->bytes;
    text->bytes = text->spare_bytes;
    text->spare_bytes = old;
    phx_text_take_pieces(text);
    return PHX_OK;
}

/* The parts of one piece, as they are joined. */
struct splitting {
    struct phx_text *text;
    const struct phx_piece *piece;
    enum phx_split behavior;
    bool any;          /* there is a part */
    size_t start, end; /* the last part, which may still grow */
    bool previous_match;
};

static enum phx_status put_part(const struct splitting *s)
{
    const struct phx_piece *piece = s->piece;
    struct phx_piece part = {piece->start + s->start, s->end - s->start, -1,
                             piece->first && s->start == 0};
    return phx_text_put(s->text, part);
}

static enum phx_status add_part(struct splitting *s, size_t start, size_t end, bool is_match)
{
    bool joins = false;
    switch (s->behavior) {
    case PHX_REMOVED:
        if (is_match) return PHX_OK;
        break;
    case PHX_ISOLATED:
        break;
    case PHX_WITH_PREVIOUS:
        joins = is_match && !s->previous_match;
        break;
    case PHX_WITH_NEXT:
        joins = !is_match && s->previous_match;
        break;
    case PHX_CONTIGUOUS:
        joins = is_match == s->previous_match;
        break;
    }
    s->previous_match = is_match;
    if (joins && s->any) {
        s->end = end;
        return PHX_OK;
    }
    if (s->any) PHX_TRY(put_part(s));
    s->any = true;
    s->start = start;
    s->end = end;
    return PHX_OK;
}

static enum phx_status split_piece(const struct phx_step *step, struct phx_text *text,
                                   const struct phx_piece *piece)
{
    const char *data = text->bytes.data + piece->start;
    struct splitting s = {.text = text, .piece = piece, .behavior = step->behavior};
    struct phx_match match = {0};
    size_t done = 0;
    for (;;) {
        bool found;
        PHX_TRY(phx_pattern_next(step->pattern, text->matcher, data, piece->n, &match, &found));
        if (!found) break;
        if (done < match.start) PHX_TRY(add_part(&s, done, match.start, step->invert));
        PHX_TRY(add_part(&s, match.start, match.end, !step->invert));
        done = match.end;
    }
    if (done < piece->n) PHX_TRY(add_part(&s, done, piece->n, step->invert));
    return s.any ? put_part(&s) : PHX_OK;
}

static enum phx_status split(const struct phx_step *step, struct phx_text *text)
{
    for (size_t i = 0; i < text->pieces.n; i++) {
        const struct phx_piece *piece = &text->pieces.data[i];
        if (piece->id >= 0) {
            PHX_TRY(phx_text_put(text, *piece));
        } else {
            PHX_TRY(split_piece(step, text, piece));
        }
    }
    phx_text_take_pieces(text);
    return PHX_OK;
}

enum phx_status phx_steps_run(const struct phx_steps *steps, struct phx_text *text)
{
    for (size_t i = 0; i < steps->n; i++) {
        const struct phx_step *step = &steps->data[i];
        PHX_TRY(step->kind == PHX_STEP_SPLIT ? split(step, text) : rewrite(step, text));
    }
    return PHX_OK;
}
