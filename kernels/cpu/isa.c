#include "kernels/cpu/isa.h"

#include <stddef.h>
#include <string.h>

#include "kernels/base/check.h"

static const char *const names[] = {
    [PHX_ISA_PORTABLE] = "portable",
    [PHX_ISA_AVX2] = "avx2",
    [PHX_ISA_AVX512] = "avx512",
    [PHX_ISA_AVX512_BF16] = "avx512_bf16",
};

const char *phx_isa_name(enum phx_cpu_isa isa)
{
    PHX_ASSERT((unsigned)isa <= PHX_ISA_AVX512_BF16);
    return names[isa];
}

enum phx_cpu_isa phx_isa_best(void)
{
#ifdef __x86_64__
    __builtin_cpu_init();
    /* F16C came before AVX2, and some compilers cannot ask for it. */
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return PHX_ISA_PORTABLE;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return PHX_ISA_AVX2;
    return __builtin_cpu_supports("avx512bf16") ? PHX_ISA_AVX512_BF16 : PHX_ISA_AVX512;
#else
    return PHX_ISA_PORTABLE;
#endif
}

static enum phx_cpu_isa fastest(void)
{
    enum phx_cpu_isa best = phx_isa_best();
#ifdef __x86_64__
    /* One bf16 product in two cycles, two f32 ones in one (Granite Rapids, bench_products). */
    if (best == PHX_ISA_AVX512_BF16 && __builtin_cpu_is("intel")) return PHX_ISA_AVX512;
#endif
    return best;
}

enum phx_status phx_isa_choose(const char *name, enum phx_cpu_isa *out)
{
    if (name == NULL) {
        *out = fastest();
        return PHX_OK;
    }
    for (int isa = PHX_ISA_PORTABLE; isa <= PHX_ISA_AVX512_BF16; isa++) {
        if (strcmp(name, names[isa]) != 0) continue;
        if (isa > (int)phx_isa_best())
            return phx_fail(PHX_UNSUPPORTED,
                            "this processor has no %s: use %s or less, or let the program choose",
                            name, names[phx_isa_best()]);
        *out = (enum phx_cpu_isa)isa;
        return PHX_OK;
    }
    return phx_fail(PHX_USAGE,
                    "no instruction set is called '%s': use portable, avx2, avx512 or avx512_bf16",
                    name);
}
