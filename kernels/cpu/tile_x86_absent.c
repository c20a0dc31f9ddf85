/* On other processors phx_isa_best() is portable, and nothing asks for these. */
#include "kernels/base/check.h"
#include "kernels/cpu/tile.h"

const struct phx_tile *phx_tiles_avx2(enum phx_tile_kind kind)
{
    (void)kind;
    phx_assert_failed("an x86 processor", __FILE__, __LINE__);
}

const struct phx_tile *phx_tiles_avx512(enum phx_tile_kind kind)
{
    return phx_tiles_avx2(kind);
}

const struct phx_tile *phx_tiles_avx512_bf16(enum phx_tile_kind kind)
{
    return phx_tiles_avx2(kind);
}

const struct phx_block_code *phx_blocks_avx2(enum phx_dtype dtype)
{
    (void)dtype;
    phx_assert_failed("an x86 processor", __FILE__, __LINE__);
}

const struct phx_block_code *phx_blocks_avx512(enum phx_dtype dtype)
{
    return phx_blocks_avx2(dtype);
}

void phx_gate_avx2(enum phx_activation activation, const float *z, const float *up, int64_t n,
                   float *out)
{
    (void)activation, (void)z, (void)up, (void)n, (void)out;
    phx_assert_failed("an x86 processor", __FILE__, __LINE__);
}

void phx_gate_avx512(enum phx_activation activation, const float *z, const float *up, int64_t n,
                     float *out)
{
    (void)activation, (void)z, (void)up, (void)n, (void)out;
    phx_assert_failed("an x86 processor", __FILE__, __LINE__);
}
