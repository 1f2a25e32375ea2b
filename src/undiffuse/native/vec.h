/* Vectors as wide as the machine's registers, and exp() on them. */
#ifndef UNDIFFUSE_VEC_H
#define UNDIFFUSE_VEC_H
#include <stdint.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX__)
#define WIDTH 8
#else
#define WIDTH 4
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef float vec __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * WIDTH)));

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ivec){__VA_ARGS__})
#endif

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec splat(float x) { return x - (vec){0}; }
#define ALIGNED __attribute__((aligned(64)))
INLINE vec choose(ivec mask, vec a, vec b) { return (vec)(((ivec)a & mask) | ((ivec)b & ~mask)); }

/* The larger, or smaller, of a and b; b where either is NaN. */
#if defined(__AVX512F__)
INLINE vec larger(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vec smaller(vec a, vec b) { return (vec)_mm512_min_ps((__m512)a, (__m512)b); }
#elif defined(__AVX__)
INLINE vec larger(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vec smaller(vec a, vec b) { return (vec)_mm256_min_ps((__m256)a, (__m256)b); }
#else
INLINE vec larger(vec a, vec b) { return choose(a > b, a, b); }
INLINE vec smaller(vec a, vec b) { return choose(a < b, a, b); }
#endif

/* 1 / x for x >= 1, 0 beyond 2^126: where division is slow, a guess good to 14 bits and a step of Newton's. */
INLINE vec inverse(vec x) {
#if defined(__AVX512F__)
    vec y = (vec)_mm512_rcp14_ps((__m512)x);
    return y + y * (1.f - x * y);
#else
    return 1.f / x;
#endif
}

/* exp(x) = 2^k exp(r), r = x - k ln 2 in [-0.35, 0.35]; Taylor's polynomial of degree 6 is good to 2e-7 there.
   Outside [-87, 88] the result is that of the nearer end. NaN stays NaN. */
INLINE vec vexp(vec x) {
    vec y = smaller(splat(88.f), larger(splat(-87.f), x));
    vec magic = splat(12582912.f); /* 1.5 * 2^23: adding it rounds to an integer held in the low bits */
    vec shifted = y * 1.44269504f + magic;
    vec k = shifted - magic;
    vec r = y - k * 0.693359375f - k * -2.12194440e-4f;
    vec p = splat(1.f / 720.f);
    p = p * r + 1.f / 120.f;
    p = p * r + 1.f / 24.f;
    p = p * r + 1.f / 6.f;
    p = p * r + 0.5f;
    p = p * r + 1.f;
    p = p * r + 1.f;
    return (vec)((ivec)p + ((ivec)shifted << 23)); /* the bits of magic above the integer's are shifted out */
}

INLINE vec vsigmoid(vec x) { return inverse(1.f + vexp(-x)); }
#endif
