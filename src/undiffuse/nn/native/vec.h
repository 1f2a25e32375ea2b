/* Vectors as wide as the machine's registers, and exp() on them. */
#ifndef UNDIFFUSE_VEC_H
#define UNDIFFUSE_VEC_H
#include <stdint.h>

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
INLINE vec choose(ivec mask, vec a, vec b) { return (vec)(((ivec)a & mask) | ((ivec)b & ~mask)); }

/* exp(x) = 2^k exp(r), r = x - k ln 2 in [-0.35, 0.35]; Taylor's polynomial of degree 6 is good to 2e-7 there.
   Outside [-87, 88] the result is that of the nearer end. NaN stays NaN. */
INLINE vec vexp(vec x) {
    vec y = choose(x < splat(-87.f), splat(-87.f), x);
    y = choose(y > splat(88.f), splat(88.f), y);
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
    ivec bits = ((ivec)shifted - (ivec)magic) << 23;
    return (vec)((ivec)p + bits);
}

INLINE vec vsigmoid(vec x) { return 1.f / (1.f + vexp(-x)); }
#endif
