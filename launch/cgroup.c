#include "launch/cgroup.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/// The first line of a file, without its end.
static bool read_line(const char *path, char *line, int bytes)
{
    FILE *file = fopen(path, "r");
    if (!file) return false;
    bool got = fgets(line, bytes, file) != NULL;
    fclose(file);
    if (got) line[strcspn(line, "\n")] = '\0';
    return got;
}

static double ratio(const char *quota, const char *period)
{
    double q = strtod(quota, NULL), p = strtod(period, NULL);
    return q > 0 && p > 0 ? q / p : 0; /* no limit: "max" in v2, -1 in v1 */
}

/// The quota that one directory of a hierarchy sets, 0: none.
static double quota_of(const char *directory, bool v2)
{
    char path[PATH_MAX + 32], quota[64], period[64];
    if (v2) {
        snprintf(path, sizeof path, "%s/cpu.max", directory);
        if (!read_line(path, quota, sizeof quota)) return 0;
        const char *blank = strchr(quota, ' ');
        return blank ? ratio(quota, blank + 1) : 0;
    }
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", directory);
    if (!read_line(path, quota, sizeof quota)) return 0;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", directory);
    return read_line(path, period, sizeof period) ? ratio(quota, period) : 0;
}

/// The least quota from `group` up to the mount. In a container the group's path may be the host's,
/// with the mount already at the container's own group: the parts that are not there set nothing.
static double least_quota(const char *mount, const char *group, bool v2)
{
    char directory[PATH_MAX];
    double least = 0;
    int length = snprintf(directory, sizeof directory, "%s%s", mount, group);
    if (length >= (int)sizeof directory) return 0;
    for (;;) {
        double quota = quota_of(directory, v2);
        if (quota > 0 && (least == 0 || quota < least)) least = quota;
        char *slash = strrchr(directory, '/');
        if (!slash || (size_t)(slash - directory) < strlen(mount)) return least;
        *slash = '\0';
    }
}

static bool has_word(const char *words, const char *word)
{
    size_t n = strlen(word);
    for (; *words; words += strcspn(words, ","), words += *words == ',') {
        if (strcspn(words, ",") == n && !strncmp(words, word, n)) return true;
    }
    return false;
}

double phx_cgroup_cpu_quota(const char *root)
{
    char path[PATH_MAX], line[PATH_MAX + 256];
    double least = 0;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    /* ID:CONTROLLERS:PATH; v2 has ID 0 and no controllers */
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *rest = line;
        const char *id = strsep(&rest, ":");
        const char *controllers = strsep(&rest, ":");
        if (!rest) continue;
        bool v2 = !strcmp(id, "0") && *controllers == '\0';
        if (!v2 && !has_word(controllers, "cpu")) continue;
        const char *group = strcmp(rest, "/") ? rest : "";
        static const char *const mounts[] = {"cpu", "cpu,cpuacct", "unified", ""};
        for (size_t i = 0; i < sizeof mounts / sizeof mounts[0]; i++) {
            snprintf(path, sizeof path, "%s/sys/fs/cgroup%s%s", root, *mounts[i] ? "/" : "",
                     mounts[i]);
            double quota = least_quota(path, group, v2);
            if (quota > 0 && (least == 0 || quota < least)) least = quota;
        }
    }
    fclose(file);
    return least;
}
