/// \file memory.h
/// How much memory this process may take: the machine's, or less where a control group limits it.
#ifndef PHX_KERNELS_CPU_MEMORY_H
#define PHX_KERNELS_CPU_MEMORY_H

#include <stdbool.h>
#include <stddef.h>

struct phx_memory {
    size_t total_bytes;
    size_t free_bytes; ///< what can be taken now, caches that the system would give up included
    bool limited;      ///< total_bytes is a control group's limit
};

/// From <root>/proc/meminfo and the control groups (versions 1 and 2) under <root>/sys/fs/cgroup;
/// root is "" except in tests. What cannot be read counts as unlimited.
void phx_memory_read(const char *root, struct phx_memory *out);

#endif
