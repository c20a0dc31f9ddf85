#include "runtime/template/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "kernels/base/check.h"
#include "runtime/tokenizer/unicode.h"

bool phx_tspace_is(uint32_t code)
{
    return phx_unicode_is_space(code) || (code >= 0x1c && code <= 0x1f);
}

static utf8proc_category_t category(uint32_t code)
{
    return utf8proc_category((utf8proc_int32_t)code);
}

bool phx_tcase_is_upper(uint32_t code)
{
    utf8proc_category_t c = category(code);
    return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LT ||
           (code >= 0x2160 && code <= 0x216f) || (code >= 0x24b6 && code <= 0x24cf);
}

bool phx_tcase_is_lower(uint32_t code)
{
    return category(code) == UTF8PROC_CATEGORY_LL || (code >= 0x2170 && code <= 0x217f) ||
           (code >= 0x24d0 && code <= 0x24e9) || code == 0xaa || code == 0xba;
}

bool phx_tcase_is_letter(uint32_t code)
{
    utf8proc_category_t c = category(code);
    return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LT ||
           c == UTF8PROC_CATEGORY_LM || c == UTF8PROC_CATEGORY_LO;
}

bool phx_tcase_is_decimal(uint32_t code)
{
    return category(code) == UTF8PROC_CATEGORY_ND;
}

static enum phx_status put_code(uint32_t code, struct phx_bytes *out)
{
    char text[4];
    return phx_bytes_append(out, text, phx_utf8_put(code, text));
}

/* Where a character becomes several in upper case, these are the upper case of what its case
 * folding, which is several too, consists of (SpecialCasing.txt). */
static enum phx_status put_expanded(enum phx_tcase to, uint32_t code, bool *expanded,
                                    struct phx_bytes *out)
{
    utf8proc_int32_t folded[4];
    int last = UTF8PROC_BOUNDCLASS_START;
    utf8proc_ssize_t n = 0;
    if (code >= 0x80 && category(code) != UTF8PROC_CATEGORY_LU) {
        n = utf8proc_decompose_char((utf8proc_int32_t)code, folded, 4, UTF8PROC_CASEFOLD, &last);
    }
    *expanded = n > 1 && n <= 4;
    for (utf8proc_ssize_t i = 0; *expanded && i < n; i++) {
        bool upper = to == PHX_TCASE_UPPER || i == 0;
        uint32_t part = (uint32_t)(upper ? utf8proc_toupper(folded[i]) : folded[i]);
        PHX_TRY(put_code(part, out));
    }
    return PHX_OK;
}

enum phx_status phx_tcase_put(enum phx_tcase to, uint32_t code, struct phx_bytes *out)
{
    bool expanded = false;
    if (to == PHX_TCASE_LOWER) {
        char text[4];
        return phx_unicode_lowercase(text, phx_utf8_put(code, text), out);
    }
    PHX_TRY(put_expanded(to, code, &expanded, out));
    if (expanded) return PHX_OK;
    utf8proc_int32_t c = (utf8proc_int32_t)code;
    return put_code((uint32_t)(to == PHX_TCASE_UPPER ? utf8proc_toupper(c) : utf8proc_totitle(c)),
                    out);
}

/* The shortest digits that read back as the value; an exponent from 16 digits or below 1e-4. */
size_t phx_tfloat_text(double value, char text[32])
{
    char digits[32];
    if (isnan(value)) return (size_t)snprintf(text, 32, "nan");
    if (isinf(value)) return (size_t)snprintf(text, 32, value < 0 ? "-inf" : "inf");
    int precision = 1;
    do {
        snprintf(digits, sizeof digits, "%.*e", precision - 1, value);
    } while (strtod(digits, NULL) != value && ++precision <= 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        char *e = strchr(digits, 'e');
        *e = '\0';
        return (size_t)snprintf(text, 32, "%se%c%02d", digits, exponent < 0 ? '-' : '+',
                                abs(exponent));
    }
    int decimals = precision - 1 - exponent;
    return (size_t)snprintf(text, 32, "%.*f", decimals < 1 ? 1 : decimals, value);
}

static bool is_printable(uint32_t code)
{
    switch (category(code)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return false;
    case UTF8PROC_CATEGORY_ZS:
        return code == ' ';
    default:
        return true;
    }
}

enum phx_status phx_trepr_put(const char *data, size_t n, struct phx_bytes *out)
{
    char quote = memchr(data, '\'', n) && !memchr(data, '"', n) ? '"' : '\'';
    PHX_TRY(phx_bytes_append(out, &quote, 1));
    for (size_t at = 0, bytes; at < n; at += bytes) {
        bytes = phx_utf8_bytes(data + at);
        uint32_t code = phx_utf8_get(data + at);
        const char *letter = code && code < 0x80 ? strchr("\nn\rr\tt\\\\", (int)code) : NULL;
        char text[16];
        int length = 0;
        if (code == (unsigned char)quote) {
            length = snprintf(text, sizeof text, "\\%c", quote);
        } else if (code == '\n' || code == '\r' || code == '\t' || code == '\\') {
            length = snprintf(text, sizeof text, "\\%c", letter[1]);
        } else if (!is_printable(code)) {
            length = code < 0x100     ? snprintf(text, sizeof text, "\\x%02x", code)
                     : code < 0x10000 ? snprintf(text, sizeof text, "\\u%04x", code)
                                      : snprintf(text, sizeof text, "\\U%08x", code);
        }
        PHX_TRY(length ? phx_bytes_append(out, text, (size_t)length)
                       : phx_bytes_append(out, data + at, bytes));
    }
    return phx_bytes_append(out, &quote, 1);
}

enum phx_status phx_tjson_put(const char *data, size_t n, bool ascii, struct phx_bytes *out)
{
    static const char letters[] = "\"\\\n\r\t\f\b", values[] = "\"\\nrtfb";
    PHX_TRY(phx_bytes_append(out, "\"", 1));
    for (size_t at = 0, bytes; at < n; at += bytes) {
        bytes = phx_utf8_bytes(data + at);
        uint32_t code = phx_utf8_get(data + at);
        const char *letter = code && code < 0x80 ? strchr(letters, (int)code) : NULL;
        char text[16];
        int length = 0;
        if (letter) {
            length = snprintf(text, sizeof text, "\\%c", values[letter - letters]);
        } else if (code < 0x20 || (ascii && code >= 0x80 && code < 0x10000)) {
            length = snprintf(text, sizeof text, "\\u%04x", code);
        } else if (ascii && code >= 0x10000) {
            length = snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xd7c0 + (code >> 10),
                              0xdc00 + (code & 0x3ff));
        }
        PHX_TRY(length ? phx_bytes_append(out, text, (size_t)length)
                       : phx_bytes_append(out, data + at, bytes));
    }
    return phx_bytes_append(out, "\"", 1);
}
