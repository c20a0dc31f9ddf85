#include "launch/model_path.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kernels/base/check.h"

static bool is_model(const char *directory)
{
    char path[PHX_PATH_BYTES];
    if (snprintf(path, sizeof path, "%s/config.json", directory) >= (int)sizeof path) return false;
    return access(path, R_OK) == 0;
}

/* The embedded model lies beside an installed binary, or in the source tree above a built one. */
static enum phx_status find_embedded(char directory[PHX_PATH_BYTES])
{
    char binary[PHX_PATH_BYTES];
    ssize_t n = readlink("/proc/self/exe", binary, sizeof binary - 1);
    if (n <= 0)
        return phx_fail(PHX_IO, "cannot tell where this program lies: give a model with -m");
    binary[n] = '\0';
    static const char *const places[] = {"share/phalanx/models/demo", "models/demo"};
    for (char *slash = strrchr(binary, '/'); slash != NULL; slash = strrchr(binary, '/')) {
        *slash = '\0';
        for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
            int length = snprintf(directory, PHX_PATH_BYTES, "%s/%s", binary, places[i]);
            if (length < PHX_PATH_BYTES && is_model(directory)) return PHX_OK;
        }
    }
    return phx_fail(PHX_NOT_FOUND,
                    "the embedded model is not beside this program: give a model with -m");
}

enum phx_status phx_model_path(const char *model, char out[PHX_PATH_BYTES])
{
    if (model == NULL) return find_embedded(out);
    if (snprintf(out, PHX_PATH_BYTES, "%s", model) >= PHX_PATH_BYTES)
        return phx_fail(PHX_USAGE, "the model's path is longer than %d bytes", PHX_PATH_BYTES - 1);
    return PHX_OK;
}
