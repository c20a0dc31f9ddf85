/// \file page.h
/// page.html, for a person with a browser. Made into bytes by the build.
#ifndef PHX_LAUNCH_SERVER_PAGE_H
#define PHX_LAUNCH_SERVER_PAGE_H

#include <stddef.h>

extern const unsigned char phx_page[];
extern const size_t phx_page_bytes;

#endif
