#include "kernels/cpu/memory.h"

#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/device.h"

/* The names that the two versions of control groups have for the same things. */
struct names {
    const char *folder, *limit, *used;
    const char *active, *inactive; /* cached file pages, in memory.stat */
};

static const struct names version_1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                       "memory.usage_in_bytes", "total_active_file",
                                       "total_inactive_file"};
static const struct names version_2 = {"/sys/fs/cgroup", "memory.max", "memory.current",
                                       "active_file", "inactive_file"};

/* The number after `key` at the beginning of a line of folder/name; fallback where there is none.
 */
static size_t number_in(const char *folder, const char *name, const char *key, size_t fallback)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= PATH_MAX) return fallback;
    FILE *file = fopen(path, "re");
    if (file == NULL) return fallback;
    char line[256];
    size_t key_length = strlen(key), found = fallback;
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, key, key_length) != 0) continue;
        char *end;
        unsigned long long value = strtoull(line + key_length, &end, 10);
        if (end == line + key_length) continue;
        found = (size_t)value;
        break;
    }
    fclose(file);
    return found;
}

static void limit_by_group(const struct names *names, const char *folder, struct phx_memory *memory)
{
    size_t limit = number_in(folder, names->limit, "", SIZE_MAX);
    if (limit >= memory->total_bytes) return;
    size_t used = number_in(folder, names->used, "", 0);
    size_t cached = number_in(folder, "memory.stat", names->active, 0) +
                    number_in(folder, "memory.stat", names->inactive, 0);
    used = used > cached ? used - cached : 0;
    size_t free_bytes = limit > used ? limit - used : 0;
    memory->total_bytes = limit;
    memory->limited = true;
    if (free_bytes < memory->free_bytes) memory->free_bytes = free_bytes;
}

/* A group's limit holds below it too. Inside a container the path is often that of the host, and
 * only its beginning, the mount, exists. */
static void limit_by_groups(const struct names *names, const char *root, char *group,
                            struct phx_memory *memory)
{
    for (;;) {
        char folder[PATH_MAX];
        if (snprintf(folder, sizeof folder, "%s%s%s", root, names->folder, group) < PATH_MAX)
            limit_by_group(names, folder, memory);
        char *slash = strrchr(group, '/');
        if (slash == NULL) return;
        *slash = '\0';
    }
}

void phx_memory_read(const char *root, struct phx_memory *out)
{
    char path[PATH_MAX], line[PATH_MAX];
    snprintf(path, sizeof path, "%s/proc", root);
    out->total_bytes = number_in(path, "meminfo", "MemTotal:", SIZE_MAX / 1024) * 1024;
    out->free_bytes = number_in(path, "meminfo", "MemAvailable:", out->total_bytes / 1024) * 1024;
    out->limited = false;

    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "re");
    if (file == NULL) return;
    while (fgets(line, sizeof line, file) != NULL) { /* number:controllers:/group */
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(++controllers, ':') : NULL;
        if (group == NULL) continue;
        *group++ = '\0';
        if (*controllers == '\0')
            limit_by_groups(&version_2, root, group, out);
        else if (strstr(controllers, "memory") != NULL)
            limit_by_groups(&version_1, root, group, out);
    }
    fclose(file);
}

size_t phx_host_free_bytes(void)
{
    struct phx_memory memory;
    phx_memory_read("", &memory);
    return memory.free_bytes;
}
