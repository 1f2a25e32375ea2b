/* The gradient of a 3x3 convolution's weight, by equation (2) of winograd.c. */
#include <omp.h>
#include "tiles.h"

/* Registers of the micro-kernel: WR x NV vectors. */
#if defined(__AVX512F__)
enum { WR = 8 };
#else
enum { WR = 4 };
#endif

/* Sizes of chunks, tuned on a Zen 4 with 32 MB of L3 cache. */
enum { W_TILES = 192, W_BYTES = 6 << 20, W_BIG = 4 << 20 };

/* du[WR rows of outputs][nv vectors of inputs] (+)= sum over tiles of d[tile][row] * v[vector][tile][lane] */
INLINE void outer(const int nv, const float *d, const float *v, long stride, long count, float *du, long ci, int add) {
    vec acc[WR][NV];
    UNROLL for (int r = 0; r < WR; r++) UNROLL for (int l = 0; l < nv; l++) acc[r][l] = (vec){0};
    for (long t = 0; t < count; t++, d += WIDTH, v += WIDTH) {
        vec vl[NV];
        UNROLL for (int l = 0; l < nv; l++) vl[l] = load(v + l * stride * WIDTH);
        UNROLL for (int r = 0; r < WR; r++) UNROLL for (int l = 0; l < nv; l++) acc[r][l] += d[r] * vl[l];
    }
    UNROLL for (int r = 0; r < WR; r++) UNROLL for (int l = 0; l < nv; l++) {
        if (add) acc[r][l] += load(du + r * ci + l * WIDTH);
        store(du + r * ci + l * WIDTH, acc[r][l]);
    }
}

typedef struct {
    long t, chunks, vs, ds, us, zero, floats;
} WPlan;

static WPlan make_wplan(const Map *g, long ci, long co) {
    WPlan p;
    long more = F * 4 * ci * co > W_BIG ? 2 : 1; /* each chunk reads and writes all of dU */
    long t = min(more * W_TILES, more * W_BYTES / (F * 4 * (ci + co)));
    if (t < 32) t = 32;
    p.chunks = div_up(g->tiles, t);
    p.t = div_up(g->tiles, p.chunks);
    p.vs = odd_lines(ci * p.t);
    p.ds = odd_lines(co * p.t);
    p.us = odd_lines(ci * co);
    p.zero = odd_lines(ci > co ? ci : co);
    p.floats = F * (p.vs + p.ds + p.us) + p.zero + 16;
    return p;
}

long wino_wgrad_floats(long n, long h, long w, long ci, long co) {
    Map g = make_map(n, h, w);
    return make_wplan(&g, ci, co).floats;
}

/* dw[co][3][3][ci], the gradient (2) of the weight from x[n][h][w][ci] and dy[n][h][w][co]. Tiles are taken in chunks
 * that fit in the L3 cache; frequencies and output channels are divided among the threads, so that sums do not depend
 * on their number. */
void wino_wgrad(const float *x, const float *dy, float *dw, long n, long h, long w, long ci, long co, float *work,
                long threads) {
    Map g = make_map(n, h, w);
    WPlan p = make_wplan(&g, ci, co);
    float *v = align64(work), *d = v + F * p.vs, *du = d + F * p.ds, *zero = du + F * p.us;
    memset(zero, 0, p.zero * sizeof *zero);
#pragma omp parallel num_threads(threads)
    {
        long cv = ci / WIDTH, ov = co / WIDTH;
        for (long first = 0; first < g.tiles; first += p.t) {
            long count = min(p.t, g.tiles - first), me = omp_get_thread_num(), team = omp_get_num_threads();
            long t0 = count * me / team, t1 = count * (me + 1) / team;
            tiles_in(&g, x, ci, zero, first + t0, t1 - t0, 6, v + t0 * WIDTH, p.vs, p.t);
            tiles_in(&g, dy, co, zero, first + t0, t1 - t0, 4, d + t0 * WIDTH, p.ds, p.t);
#pragma omp barrier
#pragma omp for schedule(static)
            for (long item = 0; item < F * ov; item++) {
                long f = item / ov, o = item % ov;
                for (long k = 0; k < cv; k += NV)
                    for (int r = 0; r < WIDTH; r += WR) {
                        const float *dd = d + f * p.ds + o * p.t * WIDTH + r, *vv = v + f * p.vs + k * p.t * WIDTH;
                        float *out = du + f * p.us + (o * WIDTH + r) * ci + k * WIDTH;
                        if (cv - k >= NV) outer(NV, dd, vv, p.t, count, out, ci, first > 0);
                        else outer(1, dd, vv, p.t, count, out, ci, first > 0);
                    }
            }
        }
#pragma omp for schedule(static)
        for (long o = 0; o < co; o++)
            for (long k = 0; k < ci; k += WIDTH) {
                vec q[6], t[18], r[3];
                UNROLL for (int j = 0; j < 6; j++) {
                    UNROLL for (int i = 0; i < 6; i++) q[i] = load(du + (6 * i + j) * p.us + o * ci + k);
                    mul_Gt(q, 1, t + j, 6);
                }
                UNROLL for (int i = 0; i < 3; i++) {
                    mul_Gt(t + 6 * i, 1, r, 1);
                    UNROLL for (int j = 0; j < 3; j++) store(dw + (o * 9 + 3 * i + j) * ci + k, r[j]);
                }
            }
    }
}
