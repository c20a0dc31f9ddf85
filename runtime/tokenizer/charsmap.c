#include "runtime/tokenizer/charsmap.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "kernels/base/check.h"
#include "runtime/tokenizer/unicode.h"

#define ESCAPED_SPACE "\xe2\x96\x81"

/* Clusters of so many bytes or more are mapped character by character: the library's rule. */
enum { LONG_CLUSTER_BYTES = 6 };

static uint32_t read_u32(const char *data)
{
    const unsigned char *b = (const unsigned char *)data;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

enum phx_status phx_charsmap_create(const char *file, const char *data, size_t n,
                                    struct phx_charsmap *out)
{
    *out = (struct phx_charsmap){0};
    if (n == 0) return PHX_OK;
    size_t trie_bytes = n > 4 ? read_u32(data) : 0;
    if (n <= 4 || trie_bytes % 4 != 0 || trie_bytes >= n - 4) {
        return phx_fail(PHX_BAD_DATA,
                        "%s: precompiled_charsmap is broken: its trie has %zu bytes of %zu", file,
                        trie_bytes, n);
    }
    const char *texts = data + 4 + trie_bytes;
    out->n_units = trie_bytes / 4;
    out->texts_bytes = n - 4 - trie_bytes;
    if (texts[out->texts_bytes - 1] != '\0' ||
        phx_utf8_valid(texts, out->texts_bytes) != out->texts_bytes) {
        return phx_fail(PHX_BAD_DATA,
                        "%s: precompiled_charsmap is broken: its texts are no UTF-8 that ends with "
                        "a zero byte",
                        file);
    }
    out->units = malloc(trie_bytes + 1);
    out->texts = malloc(out->texts_bytes);
    if (!out->units || !out->texts) {
        phx_charsmap_destroy(out);
        return phx_fail(PHX_OUT_OF_MEMORY, "%s: no memory for precompiled_charsmap", file);
    }
    for (size_t i = 0; i < out->n_units; i++) out->units[i] = read_u32(data + 4 + 4 * i);
    memcpy(out->texts, texts, out->texts_bytes);
    return PHX_OK;
}

void phx_charsmap_destroy(struct phx_charsmap *map)
{
    free(map->units);
    free(map->texts);
    *map = (struct phx_charsmap){0};
}

enum phx_status phx_base64_decode(const char *file, const char *text, struct phx_bytes *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t n = strlen(text), padding = 0;
    while (padding < 2 && padding < n && text[n - 1 - padding] == '=') padding++;
    uint32_t bits = 0;
    for (size_t i = 0; i < n; i++) {
        const char *digit = i < n - padding ? strchr(digits, text[i]) : digits;
        if (!digit || n % 4 != 0) {
            return phx_fail(PHX_BAD_DATA, "%s: precompiled_charsmap is no base64", file);
        }
        bits = bits << 6 | (uint32_t)(digit - digits);
        if (i % 4 != 3) continue;
        const char bytes[3] = {(char)(bits >> 16), (char)(bits >> 8), (char)bits};
        PHX_TRY(phx_bytes_append(out, bytes, i + 1 < n ? 3 : 3 - padding));
    }
    return PHX_OK;
}

/* The fields of a unit, as darts-clone packs them. */
static size_t offset_of(uint32_t unit)
{
    return (size_t)(unit >> 10) << ((unit & (1u << 9)) >> 6);
}

static uint32_t label_of(uint32_t unit)
{
    return unit & (1u << 31 | 0xff);
}

/* Of the entries that data[0, n) begins with, the longest or the shortest: its bytes, 0 if there is
 * none, and what becomes of them. */
static enum phx_status look_up(const struct phx_charsmap *map, const char *data, size_t n,
                               bool longest, size_t *bytes, const char **text)
{
    *bytes = 0;
    if (map->n_units == 0) return PHX_OK;
    size_t at = offset_of(map->units[0]);
    for (size_t i = 0; i < n && data[i]; i++) {
        unsigned char byte = (unsigned char)data[i];
        at ^= byte;
        if (at >= map->n_units || label_of(map->units[at]) != byte) break;
        uint32_t unit = map->units[at];
        at ^= offset_of(unit);
        if (!(unit >> 8 & 1)) continue; /* no entry ends here */
        size_t value = at < map->n_units ? map->units[at] & 0x7fffffff : map->texts_bytes;
        bool splits_entry = i + 1 < n && (data[i + 1] & 0xc0) == 0x80;
        if (value >= map->texts_bytes || (map->texts[value] & 0xc0) == 0x80 || splits_entry) {
            return phx_fail(PHX_BAD_DATA, "the tokenizer's precompiled_charsmap is broken where "
                                          "it maps the text's characters");
        }
        *bytes = i + 1;
        *text = map->texts + value;
        if (!longest) break;
    }
    return PHX_OK;
}

static enum phx_status rewrite_unit(const struct phx_charsmap *map, const char *data, size_t n,
                                    struct phx_bytes *out, bool *mapped)
{
    size_t bytes;
    const char *text = NULL;
    PHX_TRY(look_up(map, data, n, false, &bytes, &text));
    *mapped = bytes > 0;
    return *mapped ? phx_bytes_append(out, text, strlen(text)) : PHX_OK;
}

static size_t cluster_bytes(const char *data, size_t n)
{
    utf8proc_int32_t state = 0;
    size_t at = phx_utf8_bytes(data);
    for (uint32_t before = phx_utf8_get(data); at < n;) {
        uint32_t code = phx_utf8_get(data + at);
        if (utf8proc_grapheme_break_stateful((utf8proc_int32_t)before, (utf8proc_int32_t)code,
                                             &state)) {
            break;
        }
        at += phx_utf8_bytes(data + at);
        before = code;
    }
    return at;
}

enum phx_status phx_charsmap_rewrite(const struct phx_charsmap *map, const char *data, size_t n,
                                     struct phx_bytes *out)
{
    for (size_t at = 0, end; at < n; at = end) {
        bool mapped = false;
        end = at + cluster_bytes(data + at, n - at);
        if (end - at < LONG_CLUSTER_BYTES) {
            PHX_TRY(rewrite_unit(map, data + at, end - at, out, &mapped));
        }
        for (size_t i = at, bytes; !mapped && i < end; i += bytes) {
            bool alone;
            bytes = phx_utf8_bytes(data + i);
            PHX_TRY(rewrite_unit(map, data + i, bytes, out, &alone));
            if (!alone) PHX_TRY(phx_bytes_append(out, data + i, bytes));
        }
    }
    return PHX_OK;
}

void phx_spm_rules_destroy(struct phx_spm_rules *rules)
{
    phx_charsmap_destroy(&rules->map);
    phx_added_set_destroy(&rules->symbols);
    *rules = (struct phx_spm_rules){0};
}

/* What data[0, n) begins with, its bytes, and what becomes of it. */
static enum phx_status next_unit(const struct phx_spm_rules *rules, const char *data, size_t n,
                                 size_t *bytes, struct phx_slice *text)
{
    const char *mapped = NULL;
    if (!phx_added_set_longest(&rules->symbols, data, n, bytes)) {
        PHX_TRY(look_up(&rules->map, data, n, true, bytes, &mapped));
        if (*bytes) {
            *text = (struct phx_slice){mapped, strlen(mapped)};
            return PHX_OK;
        }
        *bytes = phx_utf8_bytes(data);
    }
    *text = (struct phx_slice){data, *bytes};
    return PHX_OK;
}

static enum phx_status append_escaped(const struct phx_spm_rules *rules, struct phx_slice text,
                                      struct phx_bytes *out)
{
    for (size_t i = 0; i < text.n; i++) {
        bool escape = rules->escapes && text.data[i] == ' ';
        PHX_TRY(escape ? phx_bytes_append(out, ESCAPED_SPACE, strlen(ESCAPED_SPACE))
                       : phx_bytes_append(out, text.data + i, 1));
    }
    return PHX_OK;
}

enum phx_status phx_spm_normalize(const struct phx_spm_rules *rules, const char *data, size_t n,
                                  struct phx_bytes *out)
{
    static const struct phx_slice space = {" ", 1};
    const char *mark = rules->escapes ? ESCAPED_SPACE : " ";
    size_t mark_bytes = strlen(mark), start = out->n, bytes;
    bool after_space = rules->trims, any = false;
    for (size_t at = 0; at < n; at += bytes) {
        struct phx_slice text;
        PHX_TRY(next_unit(rules, data + at, n - at, &bytes, &text));
        if (!any && rules->trims && text.n == 1 && *text.data == ' ') continue;
        if (!any && rules->prepends) PHX_TRY(append_escaped(rules, space, out));
        any = true;
        while (after_space && text.n && *text.data == ' ') {
            text.data++;
            text.n--;
        }
        if (text.n == 0) continue;
        PHX_TRY(append_escaped(rules, text, out));
        after_space = rules->trims && text.data[text.n - 1] == ' ';
    }
    while (rules->trims && out->n - start >= mark_bytes &&
           memcmp(out->data + out->n - mark_bytes, mark, mark_bytes) == 0) {
        out->n -= mark_bytes;
    }
    return any && rules->appends ? append_escaped(rules, space, out) : PHX_OK;
}
