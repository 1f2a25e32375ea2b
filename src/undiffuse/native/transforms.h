/* The one-dimensional transforms of Winograd's F(4, 3), on vectors; winograd.c says what they are for.

   A, B and G are the Toom-Cook matrices of the points {0, a, -a, b, -b, infinity}. Lavin and Gray (2015) take a = 1, b
   = 2; here a = 5/8, b = 3/2, which halves the rounding error (simulated in float32), with a^2, b^2, a^2 b^2 and a^2 +
   b^2 exact in binary. B^T rows: (x^2-a^2)(x^2-b^2); (x+-a) x (x^2-b^2); (x+-b) x (x^2-a^2); x (x^2-a^2)(x^2-b^2), as
   coefficients of x^i A^T columns: p^i for the five finite points, and e_3 G rows: (1, p, p^2) / prod_{q != p} (p - q),
   and (0, 0, 1) s and r are the strides of arguments and results. */
#ifndef UNDIFFUSE_TRANSFORMS_H
#define UNDIFFUSE_TRANSFORMS_H
#include <string.h>
#include "vec.h"

static const float a = 0.625f, b = 1.5f, a2 = 0.390625f, b2 = 2.25f, a2b2 = 0.87890625f, a2_b2 = 2.640625f;
#define N0 (1 / 0.87890625f) /* 1 / a^2 b^2, and so on: the denominators of G */
#define NA (1 / (2 * 0.390625f * (0.390625f - 2.25f)))
#define NB (1 / (2 * 2.25f * (2.25f - 0.390625f)))

INLINE void mul_Bt(const vec *d, int s, vec *o, int r) { /* 6 -> 6: input */
    vec d0 = d[0], d1 = d[s], d2 = d[2 * s], d3 = d[3 * s], d4 = d[4 * s], d5 = d[5 * s];
    vec ea = d4 - b2 * d2, oa = d3 - b2 * d1, eb = d4 - a2 * d2, ob = d3 - a2 * d1;
    o[0] = d4 - a2_b2 * d2 + a2b2 * d0;
    o[r] = ea + a * oa;
    o[2 * r] = ea - a * oa;
    o[3 * r] = eb + b * ob;
    o[4 * r] = eb - b * ob;
    o[5 * r] = d5 - a2_b2 * d3 + a2b2 * d1;
}

INLINE void mul_At(const vec *m, int s, vec *o, int r) { /* 6 -> 4: output */
    vec sa = m[s] + m[2 * s], da = m[s] - m[2 * s], sb = m[3 * s] + m[4 * s], db = m[3 * s] - m[4 * s];
    o[0] = m[0] + sa + sb;
    o[r] = a * da + b * db;
    o[2 * r] = a2 * sa + b2 * sb;
    o[3 * r] = a * a2 * da + b * b2 * db + m[5 * s];
}

INLINE void mul_A(const vec *y, int s, vec *o, int r) { /* 4 -> 6: gradient of the output */
    vec ea = y[0] + a2 * y[2 * s], oa = y[s] + a2 * y[3 * s], eb = y[0] + b2 * y[2 * s], ob = y[s] + b2 * y[3 * s];
    o[0] = y[0];
    o[r] = ea + a * oa;
    o[2 * r] = ea - a * oa;
    o[3 * r] = eb + b * ob;
    o[4 * r] = eb - b * ob;
    o[5 * r] = y[3 * s];
}

INLINE void mul_G(const vec *g, int s, vec *o, int r) { /* 3 -> 6: filter */
    vec ea = NA * g[0] + NA * a2 * g[2 * s], oa = NA * a * g[s], eb = NB * g[0] + NB * b2 * g[2 * s],
        ob = NB * b * g[s];
    o[0] = N0 * g[0];
    o[r] = ea + oa;
    o[2 * r] = ea - oa;
    o[3 * r] = eb + ob;
    o[4 * r] = eb - ob;
    o[5 * r] = g[2 * s];
}

INLINE void mul_Gt(const vec *u, int s, vec *o, int r) { /* 6 -> 3: gradient of the filter */
    vec sa = NA * (u[s] + u[2 * s]), da = NA * a * (u[s] - u[2 * s]);
    vec sb = NB * (u[3 * s] + u[4 * s]), db = NB * b * (u[3 * s] - u[4 * s]);
    o[0] = N0 * u[0] + sa + sb;
    o[r] = da + db;
    o[2 * r] = a2 * sa + b2 * sb + u[5 * s];
}

/* Transposes WIDTH x WIDTH floats: log2(WIDTH) perfect shuffles of the rows. */
INLINE void transpose(vec *m) {
    vec t[WIDTH];
    for (int stage = 1; stage < WIDTH; stage *= 2) {
        UNROLL for (int i = 0; i < WIDTH / 2; i++) {
#if __AVX512F__
            t[2 * i] = SHUFFLE(m[i], m[i + WIDTH / 2], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            t[2 * i + 1] =
                SHUFFLE(m[i], m[i + WIDTH / 2], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif __AVX__
            t[2 * i] = SHUFFLE(m[i], m[i + WIDTH / 2], 0, 8, 1, 9, 2, 10, 3, 11);
            t[2 * i + 1] = SHUFFLE(m[i], m[i + WIDTH / 2], 4, 12, 5, 13, 6, 14, 7, 15);
#else
            t[2 * i] = SHUFFLE(m[i], m[i + WIDTH / 2], 0, 4, 1, 5);
            t[2 * i + 1] = SHUFFLE(m[i], m[i + WIDTH / 2], 2, 6, 3, 7);
#endif
        }
        memcpy(m, t, sizeof t);
    }
}
#endif
