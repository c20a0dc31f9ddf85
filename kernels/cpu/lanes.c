#include "kernels/cpu/lanes.h"

#include <stdbool.h>
#include <string.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "kernels/cpu/cpu.h"

#define INLINE static inline __attribute__((always_inline))

typedef uint8_t vector __attribute__((vector_size(16)));
typedef uint16_t vector_2 __attribute__((vector_size(16)));
typedef uint32_t vector_4 __attribute__((vector_size(16)));

/* The first, or last, halves of two vectors in turn. */
INLINE vector zip(int unit, vector a, vector b, bool last)
{
    if (unit == 4) {
        vector_4 x = (vector_4)a, y = (vector_4)b;
        return (vector)(last ? __builtin_shufflevector(x, y, 2, 6, 3, 7)
                             : __builtin_shufflevector(x, y, 0, 4, 1, 5));
    }
    if (unit == 2) {
        vector_2 x = (vector_2)a, y = (vector_2)b;
        return (vector)(last ? __builtin_shufflevector(x, y, 4, 12, 5, 13, 6, 14, 7, 15)
                             : __builtin_shufflevector(x, y, 0, 8, 1, 9, 2, 10, 3, 11));
    }
    return last ? __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14,
                                          30, 15, 31)
                : __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7,
                                          23);
}

/* As many rows as a vector has units, and so many units of each, transposed. */
INLINE void transpose(int unit, const char *from, size_t pitch, char *to)
{
    const int n = 16 / unit;
    vector a[16], b[16];
    for (int i = 0; i < n; i++) memcpy(&a[i], from + (size_t)i * pitch, sizeof a[i]);
    for (int done = 1; done < n; done *= 2) {
        for (int i = 0; i < n; i++) b[i] = zip(unit, a[i / 2], a[i / 2 + n / 2], i % 2 != 0);
        for (int i = 0; i < n; i++) a[i] = b[i];
    }
    for (int i = 0; i < n; i++) memcpy(to + i * PHX_CPU_PANEL * unit, &a[i], sizeof a[i]);
}

/* All lanes; how many units are done. */
INLINE int64_t write_all(int unit, const char *from, size_t pitch, int64_t n, char *to)
{
    const int step = 16 / unit;
    int64_t done = 0;
    for (; done + step <= n; done += step)
        for (int lane = 0; lane < PHX_CPU_PANEL; lane += step)
            transpose(unit, from + (size_t)lane * pitch + done * unit, pitch,
                      to + (done * PHX_CPU_PANEL + lane) * unit);
    return done;
}

INLINE void write_some(int unit, const char *from, size_t pitch, int64_t n, int lane, int lanes,
                       char *to)
{
    for (int l = 0; l < lanes; l++)
        for (int64_t u = 0; u < n; u++)
            memcpy(to + (u * PHX_CPU_PANEL + lane + l) * unit, from + (size_t)l * pitch + u * unit,
                   (size_t)unit);
}

INLINE void write_lanes(int unit, const char *from, size_t pitch, int64_t n, int lane, int lanes,
                        char *to)
{
    int64_t done = lanes == PHX_CPU_PANEL ? write_all(unit, from, pitch, n, to) : 0;
    write_some(unit, from + done * unit, pitch, n - done, lane, lanes,
               to + done * PHX_CPU_PANEL * unit);
}

void phx_cpu_lanes_write(int unit, const char *from, size_t pitch, int64_t n, int lane, int lanes,
                         char *to)
{
    if (unit == 4)
        write_lanes(4, from, pitch, n, lane, lanes, to);
    else if (unit == 2)
        write_lanes(2, from, pitch, n, lane, lanes, to);
    else
        write_lanes(1, from, pitch, n, lane, lanes, to);
}

void phx_cpu_copy_past_caches(char *to, const char *from, size_t bytes)
{
    size_t done = 0;
#ifdef __x86_64__
    for (; done + sizeof(__m128i) <= bytes; done += sizeof(__m128i))
        _mm_stream_si128((__m128i *)(to + done), _mm_loadu_si128((const __m128i *)(from + done)));
    _mm_sfence(); /* such stores are in no order with those that tell of them */
#endif
    memcpy(to + done, from + done, bytes - done);
}
