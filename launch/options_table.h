/// \file options_table.h
/// The tables behind options.h; only launch/options*.c include this.
#ifndef PHX_LAUNCH_OPTIONS_TABLE_H
#define PHX_LAUNCH_OPTIONS_TABLE_H

#include "launch/options.h"

/// What an option's text becomes, and the type of its field.
enum phx_value_kind {
    PHX_VALUE_FLAG,   ///< bool; no value, or =yes, =no
    PHX_VALUE_INT,    ///< int32_t
    PHX_VALUE_LONG,   ///< int64_t
    PHX_VALUE_NUMBER, ///< double
    PHX_VALUE_CHOICE, ///< int: index into `choices`
    PHX_VALUE_NAME,   ///< const char *, not empty
    PHX_VALUE_TEXTS,  ///< struct phx_text_list; each time adds one, not empty
    PHX_VALUE_IDS,    ///< struct phx_id_list; the last time counts
    PHX_VALUE_BIASES, ///< struct phx_bias_list; each time adds one
    PHX_VALUE_INTS,   ///< struct phx_int_list: 1,2,8-64*2; each time adds to what was given before
    PHX_VALUE_PAIRS,  ///< struct phx_pair_list: 512,128; each time adds one
};

/// Headings of the help page, in its order.
enum phx_option_group {
    PHX_GROUP_MODEL,
    PHX_GROUP_TEXT,
    PHX_GROUP_LENGTH,
    PHX_GROUP_SAMPLING,
    PHX_GROUP_OUTPUT,
    PHX_GROUP_SERVER,
    PHX_GROUP_MACHINE,
    PHX_GROUP_COUNT
};

enum { PHX_OPTION_NAMES = 3, PHX_OPTION_CHOICES = 6 };

struct phx_option_row {
    const char *names[PHX_OPTION_NAMES]; ///< with their dashes, the one that help shows first
    const char *env;                     ///< variable that gives it too; NULL: none
    enum phx_value_kind kind;
    size_t field;         ///< offset in struct phx_options
    const char *fallback; ///< default, as typed; NULL: all bits zero
    double min, max;      ///< of INT, LONG, NUMBER, and of each id; -+INFINITY: none
    bool above_min;       ///< min itself is out of range
    const char *choices[PHX_OPTION_CHOICES]; ///< of CHOICE; of NAME if it must be one of them
    unsigned verbs;                          ///< bit set of enum phx_verb
    enum phx_option_group group;
    const char *value; ///< what help calls the value
    const char *help;
};

extern const struct phx_option_row phx_option_rows[];
extern const size_t phx_n_option_rows;

struct phx_verb_row {
    const char *name;
    const char *summary; ///< what it does, for the overview
    const char *usage;   ///< example command lines and remarks; NULL: takes no options
};

extern const struct phx_verb_row phx_verb_rows[PHX_VERB_COUNT];

static inline bool phx_option_taken(const struct phx_option_row *row, enum phx_verb verb)
{
    return row->verbs >> verb & 1;
}

/// The row that has this name (of `bytes` characters), NULL if none.
const struct phx_option_row *phx_option_find(const char *name, size_t bytes);

#endif
