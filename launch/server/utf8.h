/// \file utf8.h
/// Where text stops being text.
#ifndef PHX_LAUNCH_SERVER_UTF8_H
#define PHX_LAUNCH_SERVER_UTF8_H

#include <stddef.h>

/// Bytes of the longest prefix of text[0, n) that is whole UTF-8 and holds no zero byte.
size_t phx_utf8_valid_prefix(const char *text, size_t n);

#endif
