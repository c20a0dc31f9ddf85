/// \file nearest.h
/// The known name that comes nearest to what was typed. Pure.
#ifndef PHX_LAUNCH_NEAREST_H
#define PHX_LAUNCH_NEAREST_H

#include <stddef.h>

/// Begins as {0}.
struct phx_nearest {
    const char *name; ///< NULL: none is near
    size_t distance;
};

/// `typed` has `bytes` characters, `name` less than 64.
void phx_nearest_consider(struct phx_nearest *nearest, const char *typed, size_t bytes,
                          const char *name);

#endif
