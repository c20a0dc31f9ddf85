/// \file random.h
/// Counter-based random numbers: functions of their arguments alone, the same bits on every
/// backend.
#ifndef PHX_KERNELS_BASE_RANDOM_H
#define PHX_KERNELS_BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#define PHX_HOST_DEVICE __host__ __device__
#else
#define PHX_HOST_DEVICE
#endif

/// A bijective mix of 64 bits (the finaliser of SplitMix64, Steele et al. 2014).
PHX_HOST_DEVICE static inline uint64_t phx_mix64(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ull;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/// A bijective mix of 32 bits (Wellons 2018, "lowbias32").
PHX_HOST_DEVICE static inline uint32_t phx_mix32(uint32_t x)
{
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
}

/// A key for a sampled position: the request's seed, its choice index, the position it fills.
PHX_HOST_DEVICE static inline uint64_t phx_sample_key(uint64_t seed, int32_t choice,
                                                      int32_t position)
{
    uint64_t where = ((uint64_t)(uint32_t)choice << 32) | (uint32_t)position;
    return phx_mix64(phx_mix64(seed + 0x9e3779b97f4a7c15ull) ^ phx_mix64(where + 1));
}

/// Uniform in (0, 1), never its ends: (23 random bits + 1/2) / 2^23, exact in f32, for global token
/// id `token`.
PHX_HOST_DEVICE static inline float phx_sample_uniform(uint64_t key, int32_t token)
{
    uint32_t bits = (uint32_t)(phx_mix64(key + 0x9e3779b97f4a7c15ull * (uint32_t)token) >> 41);
    return ((float)bits + 0.5f) * 1.1920928955078125e-7f;
}

/// How to make a dummy tensor: value(row, col) = center + scale * s, with s uniform over the 2^16
/// multiples of 2^-15 in [-1, 1). Indices are those of the whole tensor, so any cut gives the same
/// bits.
struct phx_dummy {
    uint64_t key; ///< of the tensor's name, phx_dummy_key()
    float center; ///< 1 for norm weights, else 0
    float scale;  ///< half the width of the distribution; its variance is scale^2 / 3
};

/// FNV-1a of a name, mixed.
static inline uint64_t phx_dummy_key(const char *name)
{
    uint64_t hash = 0xcbf29ce484222325ull;
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 0x100000001b3ull;
    return phx_mix64(hash);
}

PHX_HOST_DEVICE static inline uint32_t phx_dummy_row_key(uint64_t key, int64_t row)
{
    return (uint32_t)(phx_mix64(key + 0x9e3779b97f4a7c15ull * (uint64_t)row) >> 32);
}

/// The value before it is rounded to the tensor's type. One multiply and one add, each rounded: a
/// backend must not fuse them.
PHX_HOST_DEVICE static inline float phx_dummy_unit(uint32_t row_key, uint32_t col)
{
    int32_t bits = (int32_t)(phx_mix32(row_key ^ (col * 0x9e3779b1u)) >> 16) - 32768;
    return (float)bits * 3.0517578125e-5f;
}

#endif
