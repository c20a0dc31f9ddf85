/// \file text_input.h
/// Texts that the command line names: given, in files, or on standard input. Rank 0 only.
#ifndef PHX_LAUNCH_VERBS_TEXT_INPUT_H
#define PHX_LAUNCH_VERBS_TEXT_INPUT_H

#include <stddef.h>

#include "kernels/base/status.h"
#include "launch/options.h"

struct phx_texts {
    struct phx_text {
        char *text;
        size_t bytes;
    } * items;
    size_t n;
};

/// What -p, -f, --prompts or standard input give, in this order of preference. Text files lose
/// nothing, but a line of --prompts ends before its line break, and empty lines are left out; a
/// file of --prompts with bytes of 0 is refused as a whole. Errors name the file.
enum phx_status phx_texts_read(const struct phx_options *options, struct phx_texts *out);
void phx_texts_free(struct phx_texts *texts);

#endif
