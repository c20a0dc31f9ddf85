#include "launch/verbs/text_input.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/check.h"

static enum phx_status add(struct phx_texts *texts, const char *text, size_t bytes)
{
    if (bytes == 0) return phx_fail(PHX_USAGE, "the text is empty: give at least one character");
    struct phx_text *items = realloc(texts->items, (texts->n + 1) * sizeof *items);
    char *own = malloc(bytes + 1);
    if (items != NULL) texts->items = items;
    if (items == NULL || own == NULL) {
        free(own);
        return phx_fail(PHX_OUT_OF_MEMORY, "no memory for a text of %zu bytes", bytes);
    }
    memcpy(own, text, bytes);
    own[bytes] = '\0';
    texts->items[texts->n++] = (struct phx_text){own, bytes};
    return PHX_OK;
}

static enum phx_status read_all(const char *path, char **out, size_t *out_bytes)
{
    bool is_stdin = strcmp(path, "-") == 0;
    const char *name = is_stdin ? "standard input" : path;
    FILE *file = is_stdin ? stdin : fopen(path, "rb");
    if (file == NULL)
        return phx_fail(errno == ENOENT ? PHX_NOT_FOUND : PHX_IO, "cannot read %s: %s", name,
                        strerror(errno));
    if (is_stdin && isatty(STDIN_FILENO))
        fprintf(stderr, "the text, and Ctrl-D on a line of its own after it:\n");
    char *text = NULL;
    size_t bytes = 0, capacity = 0, got = 0;
    enum phx_status status = PHX_OK;
    do {
        bytes += got;
        if (bytes == capacity) {
            capacity = capacity ? 2 * capacity : 65536;
            char *grown = realloc(text, capacity);
            if (grown == NULL) {
                status = phx_fail(PHX_OUT_OF_MEMORY, "no memory for the text of %s", name);
                goto done;
            }
            text = grown;
        }
        got = fread(text + bytes, 1, capacity - bytes, file);
    } while (got > 0);
    if (ferror(file)) status = phx_fail(PHX_IO, "cannot read %s: %s", name, strerror(errno));
done:
    if (!is_stdin) fclose(file);
    if (status != PHX_OK) {
        free(text);
        return status;
    }
    *out = text;
    *out_bytes = bytes;
    return PHX_OK;
}

static enum phx_status add_lines(struct phx_texts *texts, const char *text, size_t bytes)
{
    for (size_t begin = 0; begin < bytes;) {
        const char *newline = memchr(text + begin, '\n', bytes - begin);
        size_t end = newline ? (size_t)(newline - text) : bytes;
        size_t length = end - begin;
        if (length > 0 && text[end - 1] == '\r') length--;
        if (length > 0) PHX_TRY(add(texts, text + begin, length));
        begin = end + 1;
    }
    return PHX_OK;
}

enum phx_status phx_texts_read(const struct phx_options *options, struct phx_texts *out)
{
    memset(out, 0, sizeof *out);
    enum phx_status status = PHX_OK;
    for (size_t i = 0; i < options->prompts.n && status == PHX_OK; i++)
        status = add(out, options->prompts.items[i], strlen(options->prompts.items[i]));
    if (options->prompts.n == 0) {
        const char *lines = options->prompts_file;
        const char *path = lines ? lines : options->prompt_file ? options->prompt_file : "-";
        char *text = NULL;
        size_t bytes = 0;
        status = read_all(path, &text, &bytes);
        if (status == PHX_OK && lines && memchr(text, '\0', bytes) != NULL)
            status = phx_fail(PHX_USAGE, "%s is no text: it has bytes that are 0", lines);
        if (status == PHX_OK) status = lines ? add_lines(out, text, bytes) : add(out, text, bytes);
        free(text);
        if (status == PHX_OK && out->n == 0)
            status = phx_fail(PHX_USAGE, "%s has no line with a prompt", path);
    }
    if (status != PHX_OK) phx_texts_free(out);
    return status;
}

void phx_texts_free(struct phx_texts *texts)
{
    for (size_t i = 0; i < texts->n; i++) free(texts->items[i].text);
    free(texts->items);
    memset(texts, 0, sizeof *texts);
}
