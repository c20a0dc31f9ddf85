/// \file isa.h
/// Instruction sets that kernels have paths for, and what this machine has.
#ifndef PHX_KERNELS_CPU_ISA_H
#define PHX_KERNELS_CPU_ISA_H

#include "kernels/base/status.h"

/// Best last. AVX2 means AVX2, FMA and F16C; AVX512 means F, BW, VL and DQ on top of these.
enum phx_cpu_isa { PHX_ISA_PORTABLE, PHX_ISA_AVX2, PHX_ISA_AVX512, PHX_ISA_AVX512_BF16 };

/// "portable", "avx2", "avx512", "avx512_bf16".
const char *phx_isa_name(enum phx_cpu_isa isa);

/// The best that this machine and its operating system support.
enum phx_cpu_isa phx_isa_best(void);

/// The set called `name`; if `name` is NULL, the fastest: the best, but for the bf16 products of
/// Intel's processors, which do half as much in a second as f32 ones there. PHX_UNSUPPORTED if the
/// machine lacks the set, PHX_USAGE if there is none of that name.
enum phx_status phx_isa_choose(const char *name, enum phx_cpu_isa *out);

#endif
