#include "runtime/json.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/base/check.h"

/* A config or an index is far smaller; what is larger is some other file. */
enum { MAX_FILE_BYTES = 256 << 20 };

static enum phx_status checked_root(const char *file, json_t *root, const json_error_t *error,
                                    json_t **out)
{
    if (!root && *error->text == '\0') /* the parser says nothing when it gets no memory */
        return phx_fail(PHX_OUT_OF_MEMORY, "%s: out of memory", file);
    if (!root) {
        return phx_fail(PHX_BAD_DATA, "%s is not valid JSON: line %d, column %d: %s", file,
                        error->line, error->column, error->text);
    }
    if (!json_is_object(root)) {
        json_decref(root);
        return phx_fail(PHX_BAD_DATA, "%s must hold a JSON object {...}, not an array", file);
    }
    *out = root;
    return PHX_OK;
}

enum phx_status phx_json_parse(const char *file, const char *text, size_t bytes, json_t **out)
{
    json_error_t error;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    return checked_root(file, root, &error, out);
}

enum phx_status phx_json_load(const char *path, json_t **out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* opening a pipe must not wait */
    if (fd < 0) {
        return phx_fail(errno == ENOENT || errno == ENOTDIR ? PHX_NOT_FOUND : PHX_IO,
                        "cannot open %s: %s", path, strerror(errno));
    }
    enum phx_status status = PHX_OK;
    struct stat info;
    FILE *stream = NULL;
    if (fstat(fd, &info) != 0) {
        status = phx_fail(PHX_IO, "cannot read %s: %s", path, strerror(errno));
    } else if (!S_ISREG(info.st_mode)) {
        status = phx_fail(PHX_BAD_DATA, "%s is not a regular file", path);
    } else if (info.st_size > MAX_FILE_BYTES) {
        status =
            phx_fail(PHX_BAD_DATA, "%s has %" PRIdMAX " bytes; a JSON file here has at most %d",
                     path, (intmax_t)info.st_size, MAX_FILE_BYTES);
    } else if (!(stream = fdopen(fd, "r"))) {
        status = phx_fail(PHX_OUT_OF_MEMORY, "cannot read %s: %s", path, strerror(errno));
    }
    if (status != PHX_OK) {
        close(fd);
        return status;
    }
    json_error_t error;
    json_t *root = json_loadf(stream, JSON_REJECT_DUPLICATES, &error);
    fclose(stream);
    return checked_root(path, root, &error, out);
}

const char *phx_json_text(const json_t *value, char text[PHX_JSON_TEXT_BYTES])
{
    static const char more[] = "...";
    size_t room = PHX_JSON_TEXT_BYTES - 1;
    size_t length = json_dumpb(value, text, room, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    text[length < room ? length : room] = '\0';
    if (length > room) memcpy(text + PHX_JSON_TEXT_BYTES - sizeof more, more, sizeof more);
    return text;
}

const json_t *phx_json_get(const struct phx_json *json, const char *key)
{
    const json_t *value = json_object_get(json->object, key);
    return json_is_null(value) ? NULL : value;
}

enum phx_status phx_json_require(const struct phx_json *json, const char *key)
{
    if (phx_json_get(json, key)) return PHX_OK;
    return phx_fail(PHX_BAD_DATA, "%s: %s%s is missing", json->file, json->prefix, key);
}

__attribute__((format(printf, 4, 5))) static enum phx_status
refuse(const struct phx_json *json, const char *key, const json_t *value, const char *format, ...)
{
    char text[PHX_JSON_TEXT_BYTES], wanted[160];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(wanted, sizeof wanted, format, arguments);
    va_end(arguments);
    return phx_fail(PHX_BAD_DATA, "%s: %s%s is %s; it must be %s", json->file, json->prefix, key,
                    phx_json_text(value, text), wanted);
}

enum phx_status phx_json_int(const struct phx_json *json, const char *key, int64_t min, int64_t max,
                             int64_t *out)
{
    const json_t *value = phx_json_get(json, key);
    if (!value) return PHX_OK;
    json_int_t number = json_integer_value(value);
    if (!json_is_integer(value) || number < min || number > max) {
        return refuse(json, key, value, "a whole number from %" PRId64 " to %" PRId64, min, max);
    }
    *out = number;
    return PHX_OK;
}

enum phx_status phx_json_real(const struct phx_json *json, const char *key, double min, double max,
                              double *out)
{
    const json_t *value = phx_json_get(json, key);
    if (!value) return PHX_OK;
    double number = json_number_value(value);
    if (!json_is_number(value) || !(number >= min && number <= max)) {
        return refuse(json, key, value, "a number from %g to %g", min, max);
    }
    *out = number;
    return PHX_OK;
}

enum phx_status phx_json_bool(const struct phx_json *json, const char *key, bool *out)
{
    const json_t *value = phx_json_get(json, key);
    if (!value) return PHX_OK;
    if (!json_is_boolean(value)) return refuse(json, key, value, "true or false");
    *out = json_is_true(value);
    return PHX_OK;
}

enum phx_status phx_json_string(const struct phx_json *json, const char *key, const char **out)
{
    const json_t *value = phx_json_get(json, key);
    if (!value) return PHX_OK;
    if (!json_is_string(value)) return refuse(json, key, value, "a string");
    *out = json_string_value(value);
    return PHX_OK;
}

enum phx_status phx_json_object(const struct phx_json *json, const char *key, const json_t **out)
{
    const json_t *value = phx_json_get(json, key);
    if (!value) return PHX_OK;
    if (!json_is_object(value)) return refuse(json, key, value, "an object {...}");
    *out = value;
    return PHX_OK;
}

enum phx_status phx_json_array(const struct phx_json *json, const char *key, const json_t **out)
{
    const json_t *value = phx_json_get(json, key);
    if (!value) return PHX_OK;
    if (!json_is_array(value)) return refuse(json, key, value, "an array [...]");
    *out = value;
    return PHX_OK;
}
