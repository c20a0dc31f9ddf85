/* A line of a test's table as the arguments of a program. */
#ifndef PHX_TESTS_LAUNCH_COMMAND_LINE_H
#define PHX_TESTS_LAUNCH_COMMAND_LINE_H

enum { MAX_ARGS = 48 };

struct command_line {
    char text[512];
    char *argv[MAX_ARGS];
    int argc;
};

/* "generate|-p|a b" into argv, after the program's name. Options made of it point into `out`. */
void command_line_split(const char *line, struct command_line *out);

/* A getenv() without variables. */
char *no_environment(const char *name);

#endif
