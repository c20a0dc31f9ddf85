/// \file lanes.h
/// Rows of a matrix into lanes: how a panel of a weight comes to be (cpu.h).
#ifndef PHX_KERNELS_CPU_LANES_H
#define PHX_KERNELS_CPU_LANES_H

#include <stddef.h>
#include <stdint.h>

/// Rows from + l pitch, l in [0, lanes), each of n units of 1, 2 or 4 bytes, to lanes lane + l of
/// 16: unit u of lane m goes to + (16 u + m) unit. Other lanes stay as they are.
void phx_cpu_lanes_write(int unit, const char *from, size_t pitch, int64_t n, int lane, int lanes,
                         char *to);

/// memcpy to what is not read again soon, past the caches: a store into them would first read what
/// it replaces. `to` is a multiple of 16.
void phx_cpu_copy_past_caches(char *to, const char *from, size_t bytes);

#endif
