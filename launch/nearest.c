#include "launch/nearest.h"

#include <stdbool.h>
#include <string.h>

#include "kernels/base/check.h"

/* Levenshtein distance between the first n characters of a and all of b. */
static size_t distance(const char *a, size_t n, const char *b)
{
    size_t row[64];
    size_t m = strlen(b);
    PHX_ASSERT(m < 64);
    for (size_t j = 0; j <= m; j++) row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
            size_t other = 1 + (row[j] < row[j - 1] ? row[j] : row[j - 1]);
            diagonal = row[j];
            row[j] = replaced < other ? replaced : other;
        }
    }
    return row[m];
}

void phx_nearest_consider(struct phx_nearest *nearest, const char *typed, size_t bytes,
                          const char *name)
{
    if (bytes > 40) return; /* no misspelt name, but some text */
    bool begins = bytes >= 4 && !strncmp(name, typed, bytes);
    size_t d = begins ? 1 : distance(typed, bytes, name);
    if (d > bytes / 3 || (nearest->name && d >= nearest->distance)) return;
    *nearest = (struct phx_nearest){.name = name, .distance = d};
}
