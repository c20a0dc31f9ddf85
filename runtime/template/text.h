/// \file text.h
/// Python's texts of things: white space, cases, numbers, quotes.
#ifndef PHX_RUNTIME_TEMPLATE_TEXT_H
#define PHX_RUNTIME_TEMPLATE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/base/status.h"
#include "runtime/tokenizer/buffer.h"

/// str.isspace(): Unicode's white space and U+001C to U+001F.
bool phx_tspace_is(uint32_t code);

enum phx_tcase { PHX_TCASE_UPPER, PHX_TCASE_LOWER, PHX_TCASE_TITLE };
/// Append a character in another case, with all of Unicode's expansions, without context.
enum phx_status phx_tcase_put(enum phx_tcase to, uint32_t code, struct phx_bytes *out);
bool phx_tcase_is_upper(uint32_t code); ///< also title case
bool phx_tcase_is_lower(uint32_t code);
bool phx_tcase_is_letter(uint32_t code); ///< str.isalpha()
bool phx_tcase_is_decimal(uint32_t code);

/// repr() of a float; `text` of at least 32 bytes. Bytes written.
size_t phx_tfloat_text(double value, char text[32]);
/// Append repr() of a string.
enum phx_status phx_trepr_put(const char *data, size_t n, struct phx_bytes *out);
/// Append a string as JSON has it.
enum phx_status phx_tjson_put(const char *data, size_t n, bool ascii, struct phx_bytes *out);

#endif
