/// The help pages, made from the tables.
#include <string.h>

#include "kernels/base/check.h"
#include "launch/options_table.h"

enum { HELP_COLUMN = 28, HELP_WIDTH = 80 };

static const char *const headings[PHX_GROUP_COUNT] = {
    [PHX_GROUP_MODEL] = "Model",       [PHX_GROUP_TEXT] = "Text",     [PHX_GROUP_LENGTH] = "Length",
    [PHX_GROUP_SAMPLING] = "Sampling", [PHX_GROUP_OUTPUT] = "Output", [PHX_GROUP_SERVER] = "Server",
    [PHX_GROUP_MACHINE] = "Machine",
};

const char *phx_verb_name(enum phx_verb verb)
{
    PHX_ASSERT(verb < PHX_VERB_COUNT);
    return phx_verb_rows[verb].name;
}

/// `text` broken between words; the cursor stands at HELP_COLUMN.
static void print_wrapped(FILE *stream, const char *text)
{
    int column = HELP_COLUMN;
    while (*text) {
        int word = (int)strcspn(text, " ");
        if (column > HELP_COLUMN && column + 1 + word > HELP_WIDTH) {
            fprintf(stream, "\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        }
        column += fprintf(stream, "%s%.*s", column > HELP_COLUMN ? " " : "", word, text);
        text += word + (text[word] == ' ');
    }
    fputc('\n', stream);
}

static void print_option(FILE *stream, const struct phx_option_row *row)
{
    char left[128] = "  ";
    size_t used = 2;
    for (int i = 0; i < PHX_OPTION_NAMES && row->names[i]; i++) {
        used +=
            (size_t)snprintf(left + used, sizeof left - used, "%s%s", i ? ", " : "", row->names[i]);
    }
    if (row->value) used += (size_t)snprintf(left + used, sizeof left - used, " %s", row->value);
    PHX_ASSERT(used < sizeof left);
    /* two blanks at least between the columns */
    if (used + 2 > HELP_COLUMN) {
        fprintf(stream, "%s\n%*s", left, HELP_COLUMN, "");
    } else {
        fprintf(stream, "%-*s", HELP_COLUMN, left);
    }

    char right[512];
    int n = snprintf(right, sizeof right, "%s", row->help);
    if (row->kind == PHX_VALUE_CHOICE) {
        for (int i = 0; i < PHX_OPTION_CHOICES && row->choices[i]; i++) {
            n += snprintf(right + n, sizeof right - (size_t)n, "%s%s", i ? "|" : " (",
                          row->choices[i]);
        }
        n += snprintf(right + n, sizeof right - (size_t)n, ", default %s)", row->fallback);
    } else if (row->fallback) {
        n += snprintf(right + n, sizeof right - (size_t)n, " (default %s)", row->fallback);
    }
    PHX_ASSERT(n > 0 && (size_t)n < sizeof right);
    print_wrapped(stream, right);
}

static void print_variable(FILE *stream, const struct phx_option_row *row)
{
    char like[128];
    snprintf(like, sizeof like, "as %s, unless it is 0, no, off, false or empty", row->names[1]);
    fprintf(stream, "  %-*s", HELP_COLUMN - 2, row->env);
    print_wrapped(stream, row->kind == PHX_VALUE_FLAG ? like : row->help);
}

static void print_overview(FILE *stream)
{
    fputs("phalanx runs decoder language models on one rank or several: mpirun starts the ranks,\n"
          "and each holds whole groups of attention heads.\n\n"
          "  phalanx VERB [OPTIONS]\n"
          "  mpirun -np N --bind-to none phalanx VERB [OPTIONS]\n\n",
          stream);
    for (enum phx_verb verb = 0; verb < PHX_VERB_COUNT; verb++) {
        fprintf(stream, "  %-12s%s\n", phx_verb_rows[verb].name, phx_verb_rows[verb].summary);
    }
    fputs("\nEnvironment:\n", stream);
    for (size_t i = 0; i < phx_n_option_rows; i++) {
        if (phx_option_rows[i].env) print_variable(stream, &phx_option_rows[i]);
    }
}

void phx_options_help(FILE *stream, enum phx_verb about)
{
    const struct phx_verb_row *verb = &phx_verb_rows[about];
    if (!verb->usage) {
        print_overview(stream);
        return;
    }
    fprintf(stream, "phalanx %s: %s\n\n%s", verb->name, verb->summary, verb->usage);
    for (int group = 0; group < PHX_GROUP_COUNT; group++) {
        bool first = true;
        for (size_t i = 0; i < phx_n_option_rows; i++) {
            const struct phx_option_row *row = &phx_option_rows[i];
            bool shown = row->names[0] && phx_option_taken(row, about);
            if (!shown || (int)row->group != group) continue;
            if (first) fprintf(stream, "\n%s:\n", headings[group]);
            first = false;
            print_option(stream, row);
        }
    }
}
