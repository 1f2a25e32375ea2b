/* Winograd's tiles: where they lie in a map, and their transforms into the frequency domain. */
#ifndef UNDIFFUSE_TILES_H
#define UNDIFFUSE_TILES_H
#include <stdint.h>
#include <string.h>
#include "transforms.h"

enum { F = 36, NV = 2 }; /* frequencies of a tile; vectors side by side in the micro-kernels */

static long min(long x, long y) { return x < y ? x : y; }
static long div_up(long x, long y) { return (x + y - 1) / y; }

/* ---- geometry and workspace ---- */

typedef struct {
    long n, h, w, ty, tx, tiles;
} Map;

static Map make_map(long n, long h, long w) {
    Map g = {n, h, w, div_up(h, 4), div_up(w, 4), 0};
    g.tiles = n * g.ty * g.tx;
    return g;
}

/* The addresses of the size x size pixels of a tile that begins at (4 i - off, 4 j - off); `outside` for those out of
 * the map. */
INLINE void tile_pixels(const Map *g, long tile, const float *x, long c, const float *outside, int size, int off,
                        const float **p) {
    long image = tile / (g->ty * g->tx), rest = tile % (g->ty * g->tx), y0 = rest / g->tx * 4 - off,
         x0 = rest % g->tx * 4 - off, column[6];
    for (int j = 0; j < size; j++) column[j] = x0 + j >= 0 && x0 + j < g->w ? (x0 + j) * c : -1;
    UNROLL for (int i = 0; i < size; i++) {
        long yy = y0 + i, inside = yy >= 0 && yy < g->h;
        const float *row = x + (image * g->h + yy) * g->w * c;
        UNROLL for (int j = 0; j < size; j++) p[i * size + j] = inside && column[j] >= 0 ? row + column[j] : outside;
    }
}

/* Strides between frequencies have an odd number of cache lines: powers of two would fall on the same sets of the
 * caches. */
static long odd_lines(long floats) { return (div_up(floats, 16) | 1) * 16; }

static float *align64(float *p) { return (float *)(((uintptr_t)p + 63) & ~(uintptr_t)63); }

/* ---- tiles: V[f][vector of inputs][tile][lane] ---- */

/* B^T d B, or A d A^T where size is 4, of `count` tiles from `first` on, `stride` tiles being allotted in v. sum[c], if
 * not null: the tiles' pixels are added to it. */
INLINE void tiles_in(const Map *g, const float *x, long c, const float *zero, long first, long count, int size,
                     float *v, long vs, long stride, float *sum) {
    for (long t = 0; t < count; t++) {
        const float *p[36];
        tile_pixels(g, first + t, x, c, zero, size, size == 6, p);
        for (long k = 0; k < c; k += WIDTH) {
            vec d[6], m[36], o[6], total = splat(0.f);
            UNROLL for (int j = 0; j < size; j++) {
                UNROLL for (int i = 0; i < size; i++) d[i] = load(p[i * size + j] + k);
                if (sum) UNROLL for (int i = 0; i < size; i++) total += d[i];
                if (size == 6) mul_Bt(d, 1, m + j, 6);
                else mul_A(d, 1, m + j, 6);
            }
            if (sum) store(sum + k, load(sum + k) + total);
            UNROLL for (int i = 0; i < 6; i++) {
                if (size == 6) mul_Bt(m + 6 * i, 1, o, 1);
                else mul_A(m + 6 * i, 1, o, 1);
                UNROLL for (int j = 0; j < 6; j++) store(v + (6 * i + j) * vs + k * stride + t * WIDTH, o[j]);
            }
        }
    }
}
#endif
