/// \file options_set.h
/// The text of one option's value, or the sentence for one that is not taken. Only
/// launch/options*.c include this.
#ifndef PHX_LAUNCH_OPTIONS_SET_H
#define PHX_LAUNCH_OPTIONS_SET_H

#include "launch/options_table.h"

/// Where a value came from, for sentences, and where it goes.
struct phx_option_target {
    struct phx_options *options;
    const struct phx_option_row *row;
    const char *flag; ///< as the user wrote it
    int most;         ///< values that a list may come to hold
};

/// Reads `text` as the row says, checks it, and stores or adds it; names and texts are not copied.
/// PHX_USAGE with a sentence: the field may hold a part of it.
enum phx_status phx_option_set(const struct phx_option_target *to, const char *text);

/// It came from the command line or the environment.
bool phx_option_row_given(const struct phx_options *options, const struct phx_option_row *row);

#endif
