/* A small matrix product and a transposition, for matrices that lie anywhere: no packing, any strides. */
#ifndef UNDIFFUSE_PRODUCT_H
#define UNDIFFUSE_PRODUCT_H
#include "transforms.h"
#include "vec.h"

/* Rows held in registers beside two vectors of columns. */
#if defined(__AVX512F__)
enum { ROWS = 8 };
#else
enum { ROWS = 6 };
#endif

/* A matrix whose element (i, j) lies at p[i * i_step + j * j_step]. */
typedef struct {
    const float *p;
    long i_step, j_step;
} Strided;

/* What a product is added to: rows `step` apart and one row for all; either may be null. */
typedef struct {
    const float *rows;
    long step;
    const float *bias;
} Start;

INLINE void product_tile(int rows, int vectors, long K, Strided a, const float *b, long ldb, float *c, long ldc,
                         Start s) {
    vec sum[ROWS][2];
    UNROLL for (int v = 0; v < vectors; v++) {
        vec bias = s.bias ? load(s.bias + v * WIDTH) : splat(0.f);
        UNROLL for (int i = 0; i < rows; i++) sum[i][v] = bias;
    }
    if (s.rows)
        UNROLL for (int i = 0; i < rows; i++)
            UNROLL for (int v = 0; v < vectors; v++) sum[i][v] += load(s.rows + i * s.step + v * WIDTH);
    for (long k = 0; k < K; k++) {
        vec right[2];
        UNROLL for (int v = 0; v < vectors; v++) right[v] = load(b + k * ldb + v * WIDTH);
        UNROLL for (int i = 0; i < rows; i++) {
            float left = a.p[i * a.i_step + k * a.j_step];
            UNROLL for (int v = 0; v < vectors; v++) sum[i][v] += left * right[v];
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int v = 0; v < vectors; v++) store(c + i * ldc + v * WIDTH, sum[i][v]);
}

INLINE void product_columns(int vectors, long M, long K, Strided a, const float *b, long ldb, float *c, long ldc,
                            Start s) {
    for (long i = 0, rows; i < M; i += rows) {
        rows = M - i >= ROWS ? ROWS : M - i >= ROWS / 2 ? ROWS / 2 : 1;
        if (rows == ROWS) product_tile(ROWS, vectors, K, a, b, ldb, c, ldc, s);
        else if (rows == ROWS / 2) product_tile(ROWS / 2, vectors, K, a, b, ldb, c, ldc, s);
        else product_tile(1, vectors, K, a, b, ldb, c, ldc, s);
        a.p += rows * a.i_step, c += rows * ldc;
        if (s.rows) s.rows += rows * s.step;
    }
}

/* c [M][N] = a [M][K] b [K][N] + s. N is a multiple of WIDTH. */
static void product_from(long M, long N, long K, Strided a, const float *b, long ldb, float *c, long ldc, Start s) {
    for (long j = 0; j < N; j += 2 * WIDTH) {
        Start t = {s.rows ? s.rows + j : 0, s.step, s.bias ? s.bias + j : 0};
        if (j + 2 * WIDTH <= N) product_columns(2, M, K, a, b + j, ldb, c + j, ldc, t);
        else product_columns(1, M, K, a, b + j, ldb, c + j, ldc, t);
    }
}

/* c [M][N] = a [M][K] b [K][N], added to c if `add`. N is a multiple of WIDTH. */
static void product(long M, long N, long K, Strided a, const float *b, long ldb, float *c, long ldc, int add) {
    product_from(M, N, K, a, b, ldb, c, ldc, (Start){add ? c : 0, ldc, 0});
}

/* to [columns][rows] = scale * from [rows][columns]^T */
static void turned(long rows, long columns, const float *from, long ld_from, float *to, long ld_to, float scale) {
    for (long i = 0; i < rows; i += WIDTH)
        for (long j = 0; j < columns; j += WIDTH) {
            if (i + WIDTH <= rows && j + WIDTH <= columns) {
                vec m[WIDTH];
                UNROLL for (int k = 0; k < WIDTH; k++) m[k] = scale * load(from + (i + k) * ld_from + j);
                transpose(m);
                UNROLL for (int k = 0; k < WIDTH; k++) store(to + (j + k) * ld_to + i, m[k]);
                continue;
            }
            for (long k = i; k < rows && k < i + WIDTH; k++)
                for (long l = j; l < columns && l < j + WIDTH; l++) to[l * ld_to + k] = scale * from[k * ld_from + l];
        }
}
#endif
