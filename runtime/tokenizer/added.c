#include "runtime/tokenizer/added.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"

static int compare_matches(const void *a, const void *b)
{
    const struct phx_added *const *x = a, *const *y = b;
    return strcmp((*x)->match, (*y)->match); /* as unsigned bytes */
}

enum phx_status phx_added_set_create(const char *file, const struct phx_added *tokens, size_t n,
                                     bool normalized, struct phx_added_set *out)
{
    *out = (struct phx_added_set){.sorted = calloc(n + 1, sizeof(struct phx_added *))};
    if (!out->sorted) return phx_fail(PHX_OUT_OF_MEMORY, "%s: no memory for added tokens", file);
    for (size_t i = 0; i < n; i++) {
        if (tokens[i].normalized == normalized) out->sorted[out->n++] = &tokens[i];
    }
    qsort(out->sorted, out->n, sizeof(struct phx_added *), compare_matches);
    for (size_t i = 1; i < out->n; i++) {
        const struct phx_added *a = out->sorted[i - 1], *b = out->sorted[i];
        if (strcmp(a->match, b->match) != 0) continue;
        enum phx_status status =
            phx_fail(PHX_BAD_DATA, "%s: the added tokens %d and %d are both written \"%s\"", file,
                     a->id, b->id, a->match);
        phx_added_set_destroy(out);
        return status;
    }
    size_t at = 0;
    for (unsigned byte = 0; byte <= 256; byte++) {
        while (at < out->n && (unsigned char)out->sorted[at]->match[0] < byte) at++;
        out->first[byte] = at;
    }
    return PHX_OK;
}

void phx_added_set_destroy(struct phx_added_set *set)
{
    free(set->sorted);
    *set = (struct phx_added_set){0};
}

/* In sorted[low, high), which all begin with the same `depth` bytes, the first one whose next byte
 * is `byte` or a later one. */
static size_t narrow(const struct phx_added_set *set, size_t low, size_t high, size_t depth,
                     unsigned byte)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((unsigned char)set->sorted[middle]->match[depth] < byte) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

const struct phx_added *phx_added_set_longest(const struct phx_added_set *set, const char *data,
                                              size_t n, size_t *bytes)
{
    const struct phx_added *best = NULL;
    size_t low = 0, high = set->n;
    for (size_t depth = 0; depth < n && low < high; depth++) {
        unsigned byte = (unsigned char)data[depth];
        if (byte == 0) break; /* would look like the end of a token */
        if (depth == 0) {
            low = set->first[byte];
            high = set->first[byte + 1];
        } else {
            low = narrow(set, low, high, depth, byte);
            high = narrow(set, low, high, depth, byte + 1);
        }
        if (low < high && set->sorted[low]->match[depth + 1] == '\0') {
            best = set->sorted[low];
            *bytes = depth + 1;
        }
    }
    return best;
}

static bool is_word_at(const char *data)
{
    return phx_unicode_is_word(phx_utf8_get(data));
}

static bool is_alone(const char *data, size_t n, size_t start, size_t end)
{
    if (end < n && is_word_at(data + end)) return false;
    if (start == 0) return true;
    size_t before = start - 1;
    while (((unsigned char)data[before] & 0xc0) == 0x80) before--;
    return !is_word_at(data + before);
}

/* As the library: a match that is not alone is passed over whole; the white space that an rstrip
 * took is searched too, and what is found there counts only if something is left for it. */
static enum phx_status split_piece(const struct phx_added_set *set, struct phx_text *text,
                                   const struct phx_piece *piece)
{
    const char *data = text->bytes.data + piece->start;
    size_t done = 0, bytes = 1;
    for (size_t at = 0; at < piece->n; at += bytes) {
        const struct phx_added *token =
            phx_added_set_longest(set, data + at, piece->n - at, &bytes);
        if (!token) {
            bytes = 1;
            continue;
        }
        size_t start = at, end = at + bytes;
        if (token->single_word && !is_alone(data, piece->n, start, end)) continue;
        if (token->lstrip) {
            start -= phx_utf8_after(phx_unicode_is_space, data, start);
            if (start < done) start = done;
        }
        if (token->rstrip) end += phx_utf8_before(phx_unicode_is_space, data + end, piece->n - end);
        if (done < start) {
            PHX_TRY(phx_text_put(text, (struct phx_piece){piece->start + done, start - done, -1,
                                                          piece->first && done == 0}));
        }
        if (start < end) PHX_TRY(phx_text_put(text, (struct phx_piece){.id = token->id}));
        done = end;
    }
    return phx_text_put(text, (struct phx_piece){piece->start + done, piece->n - done, -1,
                                                 piece->first && done == 0});
}

enum phx_status phx_added_set_split(const struct phx_added_set *set, struct phx_text *text)
{
    if (set->n == 0) return PHX_OK;
    for (size_t i = 0; i < text->pieces.n; i++) {
        const struct phx_piece *piece = &text->pieces.data[i];
        if (piece->id >= 0) {
            PHX_TRY(phx_text_put(text, *piece));
        } else {
            PHX_TRY(split_piece(set, text, piece));
        }
    }
    phx_text_take_pieces(text);
    return PHX_OK;
}
