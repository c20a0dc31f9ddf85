/// \file unicode.h
/// UTF-8, character classes, normal forms, and the byte-level alphabet.
#ifndef PHX_RUNTIME_TOKENIZER_UNICODE_H
#define PHX_RUNTIME_TOKENIZER_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "runtime/tokenizer/buffer.h"

/// U+FFFD in UTF-8.
#define PHX_REPLACEMENT "\xef\xbf\xbd"

enum phx_utf8_unit {
    PHX_UTF8_CHARACTER,
    PHX_UTF8_BROKEN, ///< cannot begin a character, whatever follows
    PHX_UTF8_CUT,    ///< all of the input: the beginning of a character
};
/// The bytes of the first unit of data[0, n), n > 0, and what it is. Broken units are the maximal
/// subparts of the Unicode standard (3.9, "U+FFFD Substitution of Maximal Subparts").
size_t phx_utf8_unit(const char *data, size_t n, enum phx_utf8_unit *unit);
/// How many bytes at the start of data[0, n) are valid UTF-8.
size_t phx_utf8_valid(const char *data, size_t n);

/// From here on, text is valid UTF-8.

/// Bytes of the character that `data` begins with.
size_t phx_utf8_bytes(const char *data);
uint32_t phx_utf8_get(const char *data);
/// Bytes written.
size_t phx_utf8_put(uint32_t code, char out[4]);

/// Bytes of characters of a kind that data[0, n) begins or ends with.
size_t phx_utf8_before(bool (*is)(uint32_t code), const char *data, size_t n);
size_t phx_utf8_after(bool (*is)(uint32_t code), const char *data, size_t n);

/// White_Space.
bool phx_unicode_is_space(uint32_t code);
/// Letters, marks, decimal digits, connectors: Alphabetic, M, Nd, Pc and Join_Control.
bool phx_unicode_is_word(uint32_t code);
enum phx_form { PHX_NFC, PHX_NFD, PHX_NFKC, PHX_NFKD };
/// Append data[0, n) in a normal form, in time n log n.
enum phx_status phx_unicode_normalize(enum phx_form form, const char *data, size_t n,
                                      struct phx_bytes *out);
/// Append data[0, n) in lower case, character by character, without context.
enum phx_status phx_unicode_lowercase(const char *data, size_t n, struct phx_bytes *out);

/// GPT-2's alphabet: each byte is a printable character below U+0144.
/// Append each byte of data[0, n) as its character.
enum phx_status phx_bytes_to_characters(const char *data, size_t n, struct phx_bytes *out);
/// Append the bytes that the characters of data[0, n) stand for; data itself if one of them stands
/// for none.
enum phx_status phx_bytes_from_characters(const char *data, size_t n, struct phx_bytes *out);

#endif
