/* The gradient of a 3x3 convolution's weight, by equation (2) of winograd.c. */
#include <omp.h>
#include "tiles.h"

/* Registers of the micro-kernel: WR x NV vectors. */
#if defined(__AVX512F__)
enum { WR = 8 };
#else
enum { WR = 4 };
#endif

/* Sizes of chunks of tiles. Shared by all threads (tuned on a Zen 4 with 32 MB of L3 cache), or of each thread its own
 * (tuned on a Sapphire Rapids with 2 MB of L2 cache a core), where its sums fit the L2 cache beside them. */
enum { W_TILES = 192, W_BYTES = 6 << 20, W_BIG = 4 << 20 };
enum { OWN_BYTES = 600 << 10, OWN_BIG = 2 << 20, OWN_LEAST = 32 };

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
    long own, t, vs, ds, us, zero, part, floats;
} WPlan;

static WPlan make_wplan(const Map *g, long ci, long co, long threads) {
    WPlan p = {.own = F * 4 * ci * co <= OWN_BIG && g->tiles >= threads * OWN_LEAST};
    long tiles = p.own ? div_up(g->tiles, threads) : g->tiles;
    long more = F * 4 * ci * co > W_BIG ? 2 : 1; /* each chunk reads and writes all of dU */
    long t = p.own ? OWN_BYTES / (F * 4 * (ci + co)) : min(more * W_TILES, more * W_BYTES / (F * 4 * (ci + co)));
    p.t = div_up(tiles, div_up(tiles, t < 32 ? 32 : t));
    p.vs = odd_lines(ci * p.t);
    p.ds = odd_lines(co * p.t);
    p.us = odd_lines(ci * co);
    p.zero = odd_lines(ci > co ? ci : co);
    p.part = F * (p.vs + p.ds + p.us);
    p.floats = (p.own ? threads : 1) * p.part + (1 + threads) * p.zero + 16;
    return p;
}

long wino_wgrad_floats(long n, long h, long w, long ci, long co, long threads) {
    Map g = make_map(n, h, w);
    return make_wplan(&g, ci, co, threads).floats;
}

/* du[f][output][input], of `count` tiles, added to du if `add`: items `from` to `to` of all (f, vector of outputs). */
static void outers(const WPlan *p, const float *v, const float *d, float *du, long ci, long co, long count, long from,
                   long to, int add) {
    long cv = ci / WIDTH, ov = co / WIDTH;
    for (long item = from; item < to; item++) {
        long f = item / ov, o = item % ov;
        for (long k = 0; k < cv; k += NV)
            for (int r = 0; r < WIDTH; r += WR) {
                const float *dd = d + f * p->ds + o * p->t * WIDTH + r, *vv = v + f * p->vs + k * p->t * WIDTH;
                float *out = du + f * p->us + (o * WIDTH + r) * ci + k * WIDTH;
                if (cv - k >= NV) outer(NV, dd, vv, p->t, count, out, ci, add);
                else outer(1, dd, vv, p->t, count, out, ci, add);
            }
    }
}

/* dw[co][3][3][ci], the gradient (2) of the weight from x[n][h][w][ci] and dy[n][h][w][co], and db[co], that of the
 * bias. Either each thread has tiles of its own, whose sums are added in the end; or all share chunks of tiles, and
 * divide frequencies and output channels. work: wino_wgrad_floats(...) floats for at least as many threads. */
void wino_wgrad(const float *x, const float *dy, float *dw, float *db, long n, long h, long w, long ci, long co,
                float *work, long threads) {
    Map g = make_map(n, h, w);
    WPlan p = make_wplan(&g, ci, co, threads);
    float *zero = align64(work), *sums = zero + p.zero, *all = sums + threads * p.zero;
    memset(zero, 0, (1 + threads) * p.zero * sizeof *zero);
#pragma omp parallel num_threads(threads)
    {
        long me = omp_get_thread_num(), team = omp_get_num_threads(), parts = p.own ? team : 1;
        long part = p.own ? me : 0, cuts = team / parts, cut = p.own ? 0 : me, items = F * co / WIDTH;
        float *v = all + part * p.part, *d = v + F * p.vs, *du = d + F * p.ds;
        long begin = g.tiles * part / parts, end = g.tiles * (part + 1) / parts;
        for (long first = begin; first < end; first += p.t) {
            long count = min(p.t, end - first), t0 = count * cut / cuts, t1 = count * (cut + 1) / cuts;
            tiles_in(&g, x, ci, zero, first + t0, t1 - t0, 6, v + t0 * WIDTH, p.vs, p.t, 0);
            tiles_in(&g, dy, co, zero, first + t0, t1 - t0, 4, d + t0 * WIDTH, p.ds, p.t, sums + me * p.zero);
            if (cuts > 1) {
#pragma omp barrier
            }
            outers(&p, v, d, du, ci, co, count, items * cut / cuts, items * (cut + 1) / cuts, first > begin);
            if (cuts > 1) {
#pragma omp barrier
            }
        }
#pragma omp barrier
#pragma omp for schedule(static)
        for (long o = 0; o < co; o++)
            for (long k = 0; k < ci; k += WIDTH) {
                const float *u = all + F * (p.vs + p.ds) + o * ci + k;
                vec q[6], t[18], r[3];
                UNROLL for (int j = 0; j < 6; j++) {
                    UNROLL for (int i = 0; i < 6; i++) q[i] = load(u + (6 * i + j) * p.us);
                    for (long s = 1; s < parts; s++)
                        UNROLL for (int i = 0; i < 6; i++) q[i] += load(u + s * p.part + (6 * i + j) * p.us);
                    mul_Gt(q, 1, t + j, 6);
                }
                UNROLL for (int i = 0; i < 3; i++) {
                    mul_Gt(t + 6 * i, 1, r, 1);
                    UNROLL for (int j = 0; j < 3; j++) store(dw + (o * 9 + 3 * i + j) * ci + k, r[j]);
                }
            }
#pragma omp for schedule(static)
        for (long o = 0; o < co; o += WIDTH) {
            vec total = load(sums + o);
            for (long s = 1; s < team; s++) total += load(sums + s * p.zero + o);
            store(db + o, total);
        }
    }
}
