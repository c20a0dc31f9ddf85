#include "launch/verbs/json_line.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/base/check.h"

enum phx_status phx_json_line(json_t *object, FILE *file)
{
    char *line = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (line == NULL) return phx_fail(PHX_OUT_OF_MEMORY, "cannot write the result as JSON");
    int written = fprintf(file, "%s\n", line);
    free(line);
    if (written < 0 || fflush(file) != 0) return phx_fail(PHX_IO, "cannot write the result");
    return PHX_OK;
}

enum phx_status phx_json_file_open(const char *path, FILE **out)
{
    *out = NULL;
    if (path == NULL) return PHX_OK;
    *out = strcmp(path, "-") == 0 ? stdout : fopen(path, "w");
    if (*out == NULL) return phx_fail(PHX_IO, "--json %s: %s", path, strerror(errno));
    return PHX_OK;
}

enum phx_status phx_json_file_write(const char *path, FILE *file, json_t *object)
{
    errno = 0;
    enum phx_status status = phx_json_line(object, file);
    if (status == PHX_IO && file != stdout)
        return phx_fail(PHX_IO, "--json %s: %s", path, strerror(errno));
    return status;
}

void phx_json_file_close(FILE *file)
{
    if (file != NULL && file != stdout) fclose(file);
}

json_t *phx_json_ids(const int32_t *ids, size_t n)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(array, json_integer(ids[i]));
    return array;
}
