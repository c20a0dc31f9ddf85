#include "tests/launch/command_line.h"

#include <string.h>

#include "tests/support/check.h"

void command_line_split(const char *line, struct command_line *out)
{
    assert_true(strlen(line) < sizeof out->text);
    strcpy(out->text, line);
    out->argv[0] = "phalanx";
    out->argc = 1;
    for (char *rest = out->text; rest;) {
        assert_true(out->argc < MAX_ARGS - 1);
        out->argv[out->argc++] = strsep(&rest, "|");
    }
    out->argv[out->argc] = NULL;
}

char *no_environment(const char *name)
{
    (void)name;
    return NULL;
}
