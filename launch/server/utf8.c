#include "launch/server/utf8.h"

/* Bytes of the character at text[0, n), n > 0; 0: it is none. Unicode 15, table 3-7. */
static size_t character(const unsigned char *text, size_t n)
{
    unsigned char first = text[0];
    unsigned char low = 0x80, high = 0xbf;
    size_t length = 1;
    if (first < 0x80) return first != 0;
    if (first < 0xc2 || first > 0xf4) return 0;
    if (first >= 0xe0) length = first >= 0xf0 ? 3 : 2;
    if (first == 0xe0) low = 0xa0;
    if (first == 0xed) high = 0x9f;
    if (first == 0xf0) low = 0x90;
    if (first == 0xf4) high = 0x8f;
    if (n < length + 1) return 0;
    for (size_t i = 1; i <= length; i++, low = 0x80, high = 0xbf)
        if (text[i] < low || text[i] > high) return 0;
    return length + 1;
}

size_t phx_utf8_valid_prefix(const char *text, size_t n)
{
    size_t at = 0;
    while (at < n) {
        size_t bytes = character((const unsigned char *)text + at, n - at);
        if (bytes == 0) break;
        at += bytes;
    }
    return at;
}
