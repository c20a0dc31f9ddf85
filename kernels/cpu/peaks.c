#include "kernels/cpu/peaks.h"

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

double phx_peak_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Seconds of the fastest of at least five runs, over half a second: others may use the machine. */
static double best_seconds(struct phx_pool *pool, void (*body)(void *, int), void *user)
{
    double best = 1e30, start = phx_peak_seconds();
    for (int round = 0; round < 5 || phx_peak_seconds() - start < 0.5; round++) {
        double begin = phx_peak_seconds();
        phx_pool_run(pool, body, user);
        double seconds = phx_peak_seconds() - begin;
        if (seconds < best) best = seconds;
    }
    return best;
}

/* A result goes here, so that it had to be computed. */
static _Thread_local volatile float sink;

/* ---- reading ---- */

enum { MAX_THREADS = 4096, UNIT_BYTES = 256 };

struct reading {
    const char *from;
    size_t bytes;
    int n_threads;
    uint32_t sums[MAX_THREADS];
};

/* The part of a thread: whole units of 256 bytes. */
static const char *part_of(const struct reading *r, int thread, size_t *out_bytes)
{
    size_t units = r->bytes / UNIT_BYTES, n = (size_t)r->n_threads, t = (size_t)thread;
    size_t begin = units * t / n, end = units * (t + 1) / n;
    *out_bytes = (end - begin) * UNIT_BYTES;
    return r->from + begin * UNIT_BYTES;
}

static void read_portable(void *user, int thread)
{
    struct reading *r = user;
    size_t bytes;
    const uint64_t *from = (const uint64_t *)part_of(r, thread, &bytes);
    uint64_t sums[8] = {0};
    for (size_t i = 0; i < bytes / sizeof *from; i += 8)
        for (int j = 0; j < 8; j++) sums[j] ^= from[i + (size_t)j];
    for (int j = 1; j < 8; j++) sums[0] ^= sums[j];
    r->sums[thread] = (uint32_t)(sums[0] ^ sums[0] >> 32);
}

#ifdef __x86_64__
__attribute__((target("avx2"))) static void read_avx2(void *user, int thread)
{
    struct reading *r = user;
    size_t bytes;
    const char *from = part_of(r, thread, &bytes);
    __m256i sums[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                       _mm256_setzero_si256()};
    for (size_t i = 0; i < bytes; i += 128) {
        _mm_prefetch(from + i + 4096, _MM_HINT_T0);
        _mm_prefetch(from + i + 4096 + 64, _MM_HINT_T0);
        for (int j = 0; j < 4; j++) {
            const __m256i *at = (const __m256i *)(from + i + 32 * (size_t)j);
            sums[j] = _mm256_xor_si256(sums[j], _mm256_load_si256(at));
        }
    }
    for (int j = 1; j < 4; j++) sums[0] = _mm256_xor_si256(sums[0], sums[j]);
    uint32_t words[8];
    _mm256_storeu_si256((__m256i *)words, sums[0]);
    for (int j = 1; j < 8; j++) words[0] ^= words[j];
    r->sums[thread] = words[0];
}
#endif

static uint32_t read_with(struct phx_pool *pool, void (*body)(void *, int), const char *from,
                          size_t bytes)
{
    struct reading r = {.from = from, .bytes = bytes, .n_threads = phx_pool_size(pool)};
    uint32_t sum = 0;
    phx_pool_run(pool, body, &r);
    for (int t = 0; t < r.n_threads; t++) sum ^= r.sums[t];
    return sum;
}

uint32_t phx_peak_read_once(struct phx_pool *pool, const char *from, size_t bytes)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2")) return read_with(pool, read_avx2, from, bytes);
#endif
    return read_with(pool, read_portable, from, bytes);
}

/* A slice at a time, the next one in the next run: what is read has long left the caches. */
double phx_peak_read(struct phx_pool *pool)
{
    struct phx_memory memory;
    phx_memory_read("", &memory);
    long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    size_t slice = (size_t)phx_pool_size(pool) * slice_bytes, wanted = (size_t)1 << 30;
    if (cache > 0 && wanted < 3 * (size_t)cache) wanted = 3 * (size_t)cache;
    if (wanted > memory.free_bytes / 2) wanted = memory.free_bytes / 2;
    size_t bytes = wanted / slice * slice;
    char *buffer = bytes > 0 ? aligned_alloc(huge_page, bytes) : NULL;
    if (buffer == NULL) return 0.0;
    madvise(buffer, bytes, MADV_HUGEPAGE);
    memset(buffer, 1, bytes);
    double best = 1e30, start = phx_peak_seconds();
    do {
        for (size_t at = 0; at < bytes; at += slice) {
            double begin = phx_peak_seconds();
            sink = (float)phx_peak_read_once(pool, buffer + at, slice);
            double seconds = phx_peak_seconds() - begin;
            if (seconds < best) best = seconds;
        }
    } while (phx_peak_seconds() - start < 0.5);
    free(buffer);
    return (double)slice / best;
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
