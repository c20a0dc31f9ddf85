#include "bench/peaks.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "kernels/cpu/memory.h"

enum {
    N_SUMS = 24,      /* enough to hide the latency of any instruction */
    N_SUMS_AVX2 = 12, /* what 16 registers have room for */
    STEPS = 1 << 18   /* of all sums, in a run: about a millisecond */
};
static const size_t huge_page = (size_t)2 << 20;
static const size_t slice_bytes = (size_t)16 << 20; /* of a thread, in a run: about a millisecond */

double phx_bench_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Seconds of the fastest of at least five runs, over half a second: others may use the machine. */
static double best_seconds(struct phx_pool *pool, void (*body)(void *, int), void *user)
{
    double best = 1e30, start = phx_bench_seconds();
    for (int round = 0; round < 5 || phx_bench_seconds() - start < 0.5; round++) {
        double begin = phx_bench_seconds();
        phx_pool_run(pool, body, user);
        double seconds = phx_bench_seconds() - begin;
        if (seconds < best) best = seconds;
    }
    return best;
}

/* A result goes here, so that it had to be computed. */
static _Thread_local volatile float sink;

/* ---- reading ---- */

/* Each thread has `share` bytes and reads a slice of them in a run, the next one in the next run:
 * what it reads has long left the caches. */
struct reading {
    const char *buffer;
    size_t share, slice;
    size_t offset; /* of this run's slice in each share */
};

static const char *slice_of(const struct reading *r, int thread)
{
    return r->buffer + (size_t)thread * r->share + r->offset;
}

static void read_portable(void *user, int thread)
{
    const struct reading *r = user;
    const uint64_t *from = (const uint64_t *)slice_of(r, thread);
    uint64_t sums[8] = {0};
    for (size_t i = 0; i < r->slice / sizeof *from; i += 8)
        for (int j = 0; j < 8; j++) sums[j] += from[i + (size_t)j];
    for (int j = 1; j < 8; j++) sums[0] += sums[j];
    sink = (float)sums[0];
}

#ifdef __x86_64__
__attribute__((target("avx2"))) static void read_avx2(void *user, int thread)
{
    const struct reading *r = user;
    const char *from = slice_of(r, thread);
    __m256i sums[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                       _mm256_setzero_si256()};
    for (size_t i = 0; i < r->slice; i += 128) {
        _mm_prefetch(from + i + 4096, _MM_HINT_T0);
        _mm_prefetch(from + i + 4096 + 64, _MM_HINT_T0);
        for (int j = 0; j < 4; j++) {
            const __m256i *at = (const __m256i *)(from + i + 32 * (size_t)j);
            sums[j] = _mm256_or_si256(sums[j], _mm256_load_si256(at));
        }
    }
    for (int j = 1; j < 4; j++) sums[0] = _mm256_or_si256(sums[0], sums[j]);
    sink = (float)_mm256_extract_epi32(sums[0], 0);
}
#endif

static double best_slice(struct phx_pool *pool, void (*body)(void *, int), struct reading *r)
{
    double best = 1e30, start = phx_bench_seconds();
    do {
        for (r->offset = 0; r->offset + r->slice <= r->share; r->offset += r->slice) {
            double begin = phx_bench_seconds();
            phx_pool_run(pool, body, r);
            double seconds = phx_bench_seconds() - begin;
            if (seconds < best) best = seconds;
        }
    } while (phx_bench_seconds() - start < 0.5);
    return best;
}

double phx_peak_read(struct phx_pool *pool)
{
    struct phx_memory memory;
    phx_memory_read("", &memory);
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    size_t n_threads = (size_t)phx_pool_size(pool), wanted = (size_t)1 << 30;
    if (cache > 0 && wanted < 3 * (size_t)cache) wanted = 3 * (size_t)cache;
    if (wanted > memory.free_bytes / 2) wanted = memory.free_bytes / 2;
    size_t share = wanted / n_threads / huge_page * huge_page;
    char *buffer = share > 0 ? aligned_alloc(huge_page, n_threads * share) : NULL;
    if (buffer == NULL) return 0.0;
    madvise(buffer, n_threads * share, MADV_HUGEPAGE);
    memset(buffer, 1, n_threads * share);
    struct reading reading = {buffer, share, share < slice_bytes ? share : slice_bytes, 0};
    double best = best_slice(pool, read_portable, &reading);
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2")) {
        double seconds = best_slice(pool, read_avx2, &reading);
        if (seconds < best) best = seconds;
    }
#endif
    free(buffer);
    return (double)(n_threads * reading.slice) / best;
}

/* ---- arithmetic ---- */

/* Sums stay in registers only where the loop over them is unrolled, which one compiler must be
 * told. */
#ifdef __clang__
#define EACH_SUM(i, n) for (int i = 0; i < (n); i++)
#else
#define EACH_SUM(i, n) _Pragma("GCC unroll 32") for (int i = 0; i < (n); i++)
#endif

static void multiply_portable(void *user, int thread)
{
    float sums[N_SUMS] = {0}, factor = 0.999f;
    (void)user;
    (void)thread;
    for (int step = 0; step < STEPS; step++) EACH_SUM(i, N_SUMS) sums[i] = sums[i] * factor + 1.0f;
    for (int i = 1; i < N_SUMS; i++) sums[0] += sums[i];
    sink = sums[0];
}

#ifdef __x86_64__
__attribute__((target("avx2,fma"))) static void multiply_avx2(void *user, int thread)
{
    __m256 sums[N_SUMS_AVX2], factor = _mm256_set1_ps(0.999f), sum = factor;
    (void)user;
    (void)thread;
    EACH_SUM(i, N_SUMS_AVX2) sums[i] = _mm256_set1_ps((float)i);
    for (int step = 0; step < STEPS; step++)
        EACH_SUM(i, N_SUMS_AVX2) sums[i] = _mm256_fmadd_ps(sums[i], factor, factor);
    EACH_SUM(i, N_SUMS_AVX2) sum = _mm256_add_ps(sum, sums[i]);
    sink = _mm256_cvtss_f32(sum);
}

__attribute__((target("avx512f,avx512vl"))) static void multiply_avx512(void *user, int thread)
{
    __m512 sums[N_SUMS], factor = _mm512_set1_ps(0.999f), sum = factor;
    (void)user;
    (void)thread;
    EACH_SUM(i, N_SUMS) sums[i] = _mm512_set1_ps((float)i);
    for (int step = 0; step < STEPS; step++)
        EACH_SUM(i, N_SUMS) sums[i] = _mm512_fmadd_ps(sums[i], factor, factor);
    EACH_SUM(i, N_SUMS) sum = _mm512_add_ps(sum, sums[i]);
    sink = _mm512_cvtss_f32(sum);
}

__attribute__((target("avx512f,avx512vl,avx512bf16"))) static void dot_avx512(void *user,
                                                                              int thread)
{
    __m512 sums[N_SUMS], sum = _mm512_setzero_ps();
    __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    (void)user;
    (void)thread;
    EACH_SUM(i, N_SUMS) sums[i] = _mm512_set1_ps((float)i);
    for (int step = 0; step < STEPS; step++)
        EACH_SUM(i, N_SUMS) sums[i] = _mm512_dpbf16_ps(sums[i], ones, ones);
    EACH_SUM(i, N_SUMS) sum = _mm512_add_ps(sum, sums[i]);
    sink = _mm512_cvtss_f32(sum);
}
#endif

double phx_peak_f32(struct phx_pool *pool, enum phx_cpu_isa isa)
{
    void (*body)(void *, int) = multiply_portable;
    double per_step = 2.0 * N_SUMS;
#ifdef __x86_64__
    if (isa >= PHX_ISA_AVX512) {
        body = multiply_avx512;
        per_step = 2.0 * 16.0 * N_SUMS;
    } else if (isa >= PHX_ISA_AVX2) {
        body = multiply_avx2;
        per_step = 2.0 * 8.0 * N_SUMS_AVX2;
    }
#endif
    (void)isa;
    return per_step * STEPS * phx_pool_size(pool) / best_seconds(pool, body, NULL);
}

double phx_peak_bf16(struct phx_pool *pool, enum phx_cpu_isa isa)
{
#ifdef __x86_64__
    double per_step = 4.0 * 16.0 * N_SUMS;
    if (isa >= PHX_ISA_AVX512_BF16)
        return per_step * STEPS * phx_pool_size(pool) / best_seconds(pool, dot_avx512, NULL);
#endif
    (void)pool;
    (void)isa;
    return 0.0;
}
