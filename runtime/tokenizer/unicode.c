#include "runtime/tokenizer/unicode.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "kernels/base/check.h"

size_t phx_utf8_unit(const char *data, size_t n, enum phx_utf8_unit *unit)
{
    unsigned char lead = (unsigned char)data[0];
    unsigned char low = 0x80, high = 0xbf; /* what the second byte may be */
    size_t bytes = 1;
    *unit = PHX_UTF8_CHARACTER;
    if (lead < 0x80) return 1;
    if (lead >= 0xc2 && lead <= 0xdf) {
        bytes = 2;
    } else if (lead >= 0xe0 && lead <= 0xef) {
        bytes = 3;
        if (lead == 0xe0) low = 0xa0;
        if (lead == 0xed) high = 0x9f;
    } else if (lead >= 0xf0 && lead <= 0xf4) {
        bytes = 4;
        if (lead == 0xf0) low = 0x90;
        if (lead == 0xf4) high = 0x8f;
    } else {
        *unit = PHX_UTF8_BROKEN;
        return 1;
    }
    for (size_t i = 1; i < bytes; i++) {
        if (i == n) {
            *unit = PHX_UTF8_CUT;
            return n;
        }
        unsigned char byte = (unsigned char)data[i];
        if (byte < low || byte > high) {
            *unit = PHX_UTF8_BROKEN;
            return i;
        }
        low = 0x80;
        high = 0xbf;
    }
    return bytes;
}

size_t phx_utf8_valid(const char *data, size_t n)
{
    size_t at = 0;
    while (at < n) {
        enum phx_utf8_unit unit;
        size_t bytes = phx_utf8_unit(data + at, n - at, &unit);
        if (unit != PHX_UTF8_CHARACTER) break;
        at += bytes;
    }
    return at;
}

size_t phx_utf8_bytes(const char *data)
{
    unsigned char lead = (unsigned char)data[0];
    return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

uint32_t phx_utf8_get(const char *data)
{
    static const unsigned char mask[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    size_t bytes = phx_utf8_bytes(data);
    uint32_t code = (unsigned char)data[0] & mask[bytes];
    for (size_t i = 1; i < bytes; i++) code = code << 6 | ((unsigned char)data[i] & 0x3fu);
    return code;
}

size_t phx_utf8_put(uint32_t code, char out[4])
{
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)code, (utf8proc_uint8_t *)out);
}

size_t phx_utf8_before(bool (*is)(uint32_t code), const char *data, size_t n)
{
    size_t at = 0;
    while (at < n && is(phx_utf8_get(data + at))) at += phx_utf8_bytes(data + at);
    return at;
}

size_t phx_utf8_after(bool (*is)(uint32_t code), const char *data, size_t n)
{
    size_t end = n;
    while (end > 0) {
        size_t at = end - 1;
        while (((unsigned char)data[at] & 0xc0) == 0x80) at--;
        if (!is(phx_utf8_get(data + at))) break;
        end = at;
    }
    return n - end;
}

bool phx_unicode_is_space(uint32_t code)
{
    return (code >= 0x9 && code <= 0xd) || code == 0x20 || code == 0x85 || code == 0xa0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
           code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

bool phx_unicode_is_word(uint32_t code)
{
    switch (utf8proc_category((utf8proc_int32_t)code)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    case UTF8PROC_CATEGORY_CF: /* Join_Control */
        return code == 0x200c || code == 0x200d;
    case UTF8PROC_CATEGORY_SO: /* letters in circles and squares are Alphabetic */
        return (code >= 0x24b6 && code <= 0x24e9) || (code >= 0x1f130 && code <= 0x1f149) ||
               (code >= 0x1f150 && code <= 0x1f169) || (code >= 0x1f170 && code <= 0x1f189);
    default:
        return false;
    }
}

/* ---- normal forms ---- */

/* The library's tables are Unicode 9's: what came later stands for itself, in no class. Those of
 * Unicode 10 to 15.1 that have a class, a decomposition or a composition. */
static bool is_newer(utf8proc_int32_t code)
{
    static const struct {
        utf8proc_int32_t first, last;
    } ranges[] = {
        {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
        {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0xece, 0xece},
        {0x1715, 0x1715},   {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},   {0x32ff, 0x32ff},
        {0xa7f2, 0xa7f4},   {0xa82c, 0xa82c},   {0xab69, 0xab69},   {0x10781, 0x10785},
        {0x10787, 0x107b0}, {0x107b2, 0x107ba}, {0x10d24, 0x10d27}, {0x10eab, 0x10eac},
        {0x10efd, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070},
        {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a}, {0x11930, 0x11930},
        {0x11935, 0x11935}, {0x11938, 0x11938}, {0x1193d, 0x1193e}, {0x11943, 0x11943},
        {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99},
        {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42},
        {0x16ff0, 0x16ff1}, {0x1e030, 0x1e06d}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136},
        {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef}, {0x1f16c, 0x1f16c},
        {0x1fbf0, 0x1fbf9},
    };
    size_t low = 0, high = sizeof ranges / sizeof *ranges;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code > ranges[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < sizeof ranges / sizeof *ranges && code >= ranges[low].first;
}

struct codes {
    utf8proc_int32_t *data;
    size_t n, capacity;
};

static enum phx_status decompose(const char *data, size_t n, utf8proc_option_t options,
                                 struct codes *out)
{
    enum { MOST = 32 }; /* the longest decomposition has 18 */
    for (size_t at = 0; at < n; at += phx_utf8_bytes(data + at)) {
        PHX_TRY(PHX_RESERVE(out, MOST));
        utf8proc_int32_t code = (utf8proc_int32_t)phx_utf8_get(data + at);
        int boundary = 0;
        utf8proc_ssize_t count =
            utf8proc_decompose_char(code, out->data + out->n, MOST, options, &boundary);
        PHX_ASSERT(count >= 1 && count <= MOST);
        if (is_newer(code)) {
            out->data[out->n] = code;
            count = 1;
        }
        out->n += (size_t)count;
    }
    return PHX_OK;
}

static int compare_keys(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int combining_class(utf8proc_int32_t code)
{
    return is_newer(code) ? 0 : utf8proc_get_property(code)->combining_class;
}

/* Sort a run of combining marks by class, keeping the order within a class. utf8proc's own
 * reordering takes quadratic time on a long run. */
static enum phx_status sort_marks(utf8proc_int32_t *marks, size_t n)
{
    uint64_t *keys = malloc(n * sizeof *keys);
    if (!keys) return phx_fail(PHX_OUT_OF_MEMORY, "no memory to normalize %zu marks", n);
    for (size_t i = 0; i < n; i++) {
        keys[i] =
            (uint64_t)combining_class(marks[i]) << 56 | (uint64_t)i << 21 | (uint64_t)marks[i];
    }
    qsort(keys, n, sizeof *keys, compare_keys);
    for (size_t i = 0; i < n; i++) marks[i] = (utf8proc_int32_t)(keys[i] & 0x1fffff);
    free(keys);
    return PHX_OK;
}

static enum phx_status order_marks(struct codes *codes)
{
    size_t start = 0; /* of the run of marks */
    int previous = 0;
    bool sorted = true;
    for (size_t i = 0; i <= codes->n; i++) {
        int class = i < codes->n ? combining_class(codes->data[i]) : 0;
        if (class == 0) {
            if (!sorted) PHX_TRY(sort_marks(codes->data + start, i - start));
            start = i + 1;
            sorted = true;
        } else if (class < previous) {
            sorted = false;
        }
        previous = class;
    }
    return PHX_OK;
}

/* Newer characters compose with none, and none does across them. */
static void compose(struct codes *codes, utf8proc_option_t options)
{
    size_t kept = 0;
    for (size_t start = 0, end; start < codes->n; start = end + 1) {
        utf8proc_int32_t *part = codes->data + start;
        for (end = start; end < codes->n && !is_newer(codes->data[end]);) end++;
        utf8proc_ssize_t count =
            utf8proc_normalize_utf32(part, (utf8proc_ssize_t)(end - start), options);
        PHX_ASSERT(count >= 0);
        memmove(codes->data + kept, part, (size_t)count * sizeof *part);
        kept += (size_t)count;
        if (end < codes->n) codes->data[kept++] = codes->data[end];
    }
    codes->n = kept;
}

enum phx_status phx_unicode_normalize(enum phx_form form, const char *data, size_t n,
                                      struct phx_bytes *out)
{
    bool ascii = true;
    for (size_t i = 0; i < n && ascii; i++) ascii = (unsigned char)data[i] < 0x80;
    if (ascii) return phx_bytes_append(out, data, n);

    bool composes = form == PHX_NFC || form == PHX_NFKC;
    int options = UTF8PROC_STABLE | (composes ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE);
    if (form == PHX_NFKC || form == PHX_NFKD) options |= UTF8PROC_COMPAT;
    struct codes codes = {0};
    enum phx_status status;
    PHX_TRY_GOTO(decompose(data, n, (utf8proc_option_t)options, &codes), done);
    PHX_TRY_GOTO(order_marks(&codes), done);
    if (composes) compose(&codes, (utf8proc_option_t)options);
    PHX_TRY_GOTO(PHX_RESERVE(out, 4 * codes.n), done);
    for (size_t i = 0; i < codes.n; i++) {
        out->n += phx_utf8_put((uint32_t)codes.data[i], out->data + out->n);
    }
done:
    free(codes.data);
    return status;
}

enum phx_status phx_unicode_lowercase(const char *data, size_t n, struct phx_bytes *out)
{
    for (size_t at = 0; at < n; at += phx_utf8_bytes(data + at)) {
        uint32_t code = phx_utf8_get(data + at);
        PHX_TRY(PHX_RESERVE(out, 4));
        if (code == 0x130) { /* I with a dot: the only one whose lower case is two characters */
            PHX_TRY(phx_bytes_append(out, "i\xcc\x87", 3));
        } else {
            code = (uint32_t)utf8proc_tolower((utf8proc_int32_t)code);
            out->n += phx_utf8_put(code, out->data + out->n);
        }
    }
    return PHX_OK;
}

/* Bytes that are printable in Latin-1 stand for themselves, the others for U+0100 onwards. */
static bool stands_for_itself(unsigned byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
}

/* Of the 68 others, in order: 0 to 32 are the first 33, 127 to 160 the next 34, 173 the last. */
static uint32_t character_of(unsigned byte)
{
    if (stands_for_itself(byte)) return byte;
    return 0x100 + (byte <= 0x20 ? byte : byte <= 0xa0 ? byte - 0x7f + 33 : 67);
}

static int byte_of(uint32_t code)
{
    if (code < 0x100) return stands_for_itself(code) ? (int)code : -1;
    uint32_t rank = code - 0x100;
    return rank < 33 ? (int)rank : rank < 67 ? (int)(rank - 33 + 0x7f) : rank == 67 ? 0xad : -1;
}

enum phx_status phx_bytes_to_characters(const char *data, size_t n, struct phx_bytes *out)
{
    if (n == 0) return PHX_OK;
    PHX_TRY(PHX_RESERVE(out, 2 * n));
    char *to = out->data + out->n;
    for (size_t i = 0; i < n; i++) {
        uint32_t code = character_of((unsigned char)data[i]);
        if (code < 0x80) {
            *to++ = (char)code;
        } else {
            *to++ = (char)(0xc0 | code >> 6);
            *to++ = (char)(0x80 | (code & 0x3f));
        }
    }
    out->n = (size_t)(to - out->data);
    return PHX_OK;
}

enum phx_status phx_bytes_from_characters(const char *data, size_t n, struct phx_bytes *out)
{
    PHX_TRY(PHX_RESERVE(out, n));
    size_t before = out->n;
    for (size_t at = 0; at < n; at += phx_utf8_bytes(data + at)) {
        int byte = byte_of(phx_utf8_get(data + at));
        if (byte < 0) {
            out->n = before;
            return phx_bytes_append(out, data, n);
        }
        out->data[out->n++] = (char)byte;
    }
    return PHX_OK;
}
