/// \file cgroup.h
/// What the control group of this process allows of the processors' time.
#ifndef PHX_LAUNCH_CGROUP_H
#define PHX_LAUNCH_CGROUP_H

/// Processors' worth of time: the least quota / period of the process's group and those around it,
/// of cgroup v2 (cpu.max) or v1 (cpu.cfs_quota_us); 0 if there is none. `root` stands before /proc
/// and /sys: "" but in tests.
double phx_cgroup_cpu_quota(const char *root);

#endif
