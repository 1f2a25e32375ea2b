/* 3x3 convolution, stride 1, padding 1, float32, NHWC ("channels_last"), by Winograd's minimal filtering.
 *
 * F(4x4, 3x3) of A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks" (2015), eq. (8) and (12):
 *     Y = A^T [ (G g G^T) . (B^T d B) ] A                                                                        (1)
 * where g is a 3x3 filter, d a 6x6 input tile, Y the 4x4 output tile and . the elementwise product. Summed over the
 * input channels, the product is 36 independent matrix products (one per "frequency" f of the 6x6 tile), with 36/16
 * = 2.25 multiplications per output instead of 9. Being linear in d and in g, (1) gives the gradients by transposition:
 *     dL/dd:  the same convolution with the filters rotated by 180 degrees and input and output channels exchanged;
 *     dL/dg = G^T [ sum over tiles of (A dY A^T) . (B^T d B) ] G.                        (2), winograd_weight.c
 *
 * Vectors are GCC/Clang vector extensions, of the width of the target. Every number of channels must be a multiple of
 * it. Tiles are numbered over the whole batch; parts of a tile outside the image read zeros and write to a sink. */
#include <omp.h>
#include "kernels.h"
#include "tiles.h"

/* Registers of the micro-kernel: MR x NV vectors. */
#if defined(__AVX__) && !defined(__AVX512F__)
enum { MR = 6 };
#else
enum { MR = 12 };
#endif

/* Sizes of blocks, tuned on a Zen 4 with 1 MB of L2 cache per core and 32 MB of L3. */
enum { T_MAX = 48, V_BYTES = 300 << 10, FUSED_T = 128, FUSED_K = 64, FUSED_BYTES = 2 << 20 };

/* How a forward call is divided. The threads form a grid: `parts` of the tiles times `cuts` of the blocks of NV vectors
 * of output channels. The cuts of a part share its V, made `blocks` times of at most `t` tiles. Two ways: many tiles:
 * all of U is made once, and V of a part stays in the L2 cache; fused, for few tiles and filters that would fill the L2
 * cache: V is made once, and each block of U piece by piece of `kc` inputs where it is used, so that U as a whole is
 * never written to memory and read again. */
typedef struct {
    long fused, parts, cuts, blocks, t, kc, nb, us, vs, ms, u, zero, thread, floats;
} Plan;

static int fuses(const Map *g, long k, long c) { return F * 4 * k * c > FUSED_BYTES && g->tiles <= FUSED_T; }

static Plan make_plan(const Map *g, long k, long c, long threads, long fused) {
    Plan p = {.fused = fused, .cuts = 1, .nb = div_up(c, NV * WIDTH)};
    while (p.cuts * 2 <= p.nb && threads % (p.cuts * 2) == 0 && (p.fused || g->tiles * p.cuts / threads < 2 * MR))
        p.cuts *= 2;
    p.parts = threads / p.cuts;
    long most = div_up(g->tiles, p.parts), t = V_BYTES / (F * 4 * k) / MR * MR;
    t = p.fused ? FUSED_T : t < MR ? MR : t > T_MAX ? T_MAX : t;
    p.blocks = div_up(most, t);
    p.t = div_up(most, p.blocks);
    p.kc = p.fused ? min(k, FUSED_K) : k;
    p.us = odd_lines(p.kc * NV * WIDTH);
    p.vs = odd_lines(k * p.t);
    p.ms = odd_lines(NV * WIDTH * p.t);
    p.u = p.fused ? 0 : p.nb * F * p.us;
    p.zero = odd_lines(k > c ? k : c);
    p.thread = F * (p.fused * p.us + p.ms) + p.zero; /* of each thread: block of U if fused, M, sink */
    p.floats = p.zero + p.u + p.parts * F * p.vs + threads * p.thread + 16;
    return p;
}

/* ---- filters: U[block of outputs][f][k][lanes of outputs] ---- */

INLINE void filter(const vec *g, int s, float *u, long us) { /* G g G^T of one vector of filters, taps s apart */
    vec t[18], o[6];
    UNROLL for (int j = 0; j < 3; j++) mul_G(g + j * s, 3 * s, t + j, 3);
    UNROLL for (int i = 0; i < 6; i++) {
        mul_G(t + 3 * i, 1, o, 1);
        UNROLL for (int j = 0; j < 6; j++) store(u + (6 * i + j) * us, o[j]);
    }
}

/* The filters of inputs k0 .. k0 + WIDTH and outputs c0 .. c0 + WIDTH, to u[f][input][lanes]. Weights lie as
 * [c][3][3][k]; transposed: as [k][3][3][c], and the taps in reverse order. */
static void filters(const float *w, long k, long c, long k0, long c0, int transposed, float *u, long us, long lanes) {
    vec g[9 * WIDTH];
    if (transposed) {
        for (long i = 0; i < WIDTH; i++) {
            for (int tap = 0; tap < 9; tap++) g[tap] = load(w + ((k0 + i) * 9 + 8 - tap) * c + c0);
            filter(g, 1, u + i * lanes, us);
        }
        return;
    }
    for (int tap = 0; tap < 9; tap++) {
        for (int i = 0; i < WIDTH; i++) g[tap * WIDTH + i] = load(w + ((c0 + i) * 9 + tap) * k + k0);
        transpose(g + tap * WIDTH);
    }
    for (int i = 0; i < WIDTH; i++) filter(g + i, WIDTH, u + i * lanes, us);
}

/* Those of inputs k0 .. k1 and block `block` of outputs. */
static void filter_block(const float *w, long k, long c, long k0, long k1, long block, int transposed, float *u,
                         long us) {
    long c0 = block * NV * WIDTH, lanes = min(NV * WIDTH, c - c0);
    for (long l = 0; l < lanes; l += WIDTH)
        for (long i = k0; i < k1; i += WIDTH)
            filters(w, k, c, i, c0 + l, transposed, u + (i - k0) * lanes + l, us, lanes);
}

/* Y = A^T m A + bias + plus for `nv` vectors of output channels from c0 on; m lies as [f][tile][lanes], plus as y. What
 * falls outside the map is read from the sink and written there. */
INLINE void tiles_out(const Map *g, float *y, long c, long c0, int nv, const float *bias, const float *plus,
                      float *sink, long first, long count, const float *m, long ms) {
    for (long t = 0; t < count; t++) {
        const float *p[16], *r[16];
        tile_pixels(g, first + t, y, c, sink, 4, 0, p);
        if (plus) tile_pixels(g, first + t, plus, c, sink, 4, 0, r);
        for (int l = 0; l < nv; l++) {
            const float *q = m + (t * nv + l) * WIDTH;
            long at = c0 + l * WIDTH;
            vec d[6], h[24], o[4], add = bias ? load(bias + at) : (vec){0};
            UNROLL for (int j = 0; j < 6; j++) {
                UNROLL for (int i = 0; i < 6; i++) d[i] = load(q + (6 * i + j) * ms);
                mul_At(d, 1, h + j, 6);
            }
            UNROLL for (int i = 0; i < 4; i++) {
                mul_At(h + 6 * i, 1, o, 1);
                UNROLL for (int j = 0; j < 4; j++) {
                    o[j] += add;
                    if (plus) o[j] += load(r[4 * i + j] + at);
                    store((float *)p[4 * i + j] + at, o[j]);
                }
            }
        }
    }
}

/* ---- matrix products ---- */

/* m[rows][nv vectors] (+)= sum over k of v[k / WIDTH][row][k % WIDTH] * u[k][nv vectors] */
INLINE void product(const int rows, const int nv, const float *v, long stride, const float *u, long k, float *m,
                    int add) {
    vec acc[MR][NV];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int l = 0; l < nv; l++) acc[r][l] = (vec){0};
    for (; k > 0; k -= WIDTH, v += stride * WIDTH)
        for (int j = 0; j < WIDTH; j++, u += nv * WIDTH) {
            vec ul[NV];
            UNROLL for (int l = 0; l < nv; l++) ul[l] = load(u + l * WIDTH);
            UNROLL for (int r = 0; r < rows; r++) UNROLL for (int l = 0; l < nv; l++) acc[r][l] +=
                v[r * WIDTH + j] * ul[l];
        }
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int l = 0; l < nv; l++) {
        if (add) acc[r][l] += load(m + (r * nv + l) * WIDTH);
        store(m + (r * nv + l) * WIDTH, acc[r][l]);
    }
}

#define CASE(n)                                                                                                        \
    case n:                                                                                                            \
        if (nv == NV) product(n, NV, v, stride, u, k, m, add);                                                         \
        else product(n, 1, v, stride, u, k, m, add);                                                                   \
        break;
static void products(int rows, int nv, const float *v, long stride, const float *u, long k, float *m, int add) {
    switch (rows) {
        CASE(1)
        CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if __AVX512F__ || !__AVX__
            CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
    }
}

/* ---- entry points ---- */

int wino_vector(void) { return WIDTH; }

int wino_fuses(long n, long h, long w, long k, long c) {
    Map g = make_map(n, h, w);
    return fuses(&g, k, c);
}

long wino_conv_floats(long n, long h, long w, long k, long c, long threads) {
    Map g = make_map(n, h, w);
    long most = 0;
    for (; threads > 0; threads--) {
        long floats = make_plan(&g, k, c, threads, fuses(&g, k, c)).floats;
        most = floats > most ? floats : most;
    }
    return most;
}

/* What is convolved: maps x of k channels to maps y of c. */
typedef struct {
    const float *x, *weight, *bias, *plus;
    float *y;
    long k, c;
    int transposed;
} Call;

/* One thread's part of a plan, U being whole unless the plan is fused. */
static void convolve(const Map *g, const Plan *p, const Call *a, const float *zero, const float *all_u, float *all_v,
                     float *rest, long me) {
    long part = me / p->cuts, cut = me % p->cuts, k = a->k, c = a->c;
    long t0 = g->tiles * part / p->parts, tiles = g->tiles * (part + 1) / p->parts - t0;
    float *v = all_v + part * F * p->vs, *m = rest + me * p->thread, *own_u = m + F * p->ms,
          *sink = own_u + p->fused * F * p->us;
    for (long i = 0; i < p->blocks; i++) {
        long first = t0 + tiles * i / p->blocks, count = t0 + tiles * (i + 1) / p->blocks - first,
             groups = div_up(count, MR);
        long from = count * cut / p->cuts, to = count * (cut + 1) / p->cuts;
        if (p->cuts > 1 && i > 0) {
#pragma omp barrier
        }
        tiles_in(g, a->x, k, zero, first + from, to - from, 6, v + from * WIDTH, p->vs, p->t, 0);
        if (p->cuts > 1) {
#pragma omp barrier
        }
        for (long block = p->nb * cut / p->cuts; block < p->nb * (cut + 1) / p->cuts; block++) {
            int nv = (int)min(NV, c / WIDTH - block * NV);
            for (long k0 = 0; k0 < k; k0 += p->kc) {
                long depth = min(p->kc, k - k0);
                const float *u = p->fused ? own_u : all_u + block * F * p->us;
                if (p->fused) filter_block(a->weight, k, c, k0, k0 + depth, block, a->transposed, own_u, p->us);
                for (int f = 0; f < F; f++)
                    for (long j = 0; j < groups; j++) {
                        long r0 = count * j / groups, r1 = count * (j + 1) / groups;
                        products((int)(r1 - r0), nv, v + f * p->vs + k0 * p->t + r0 * WIDTH, p->t, u + f * p->us, depth,
                                 m + f * p->ms + r0 * nv * WIDTH, k0 > 0);
                    }
            }
            long c0 = block * NV * WIDTH;
            if (a->plus) tiles_out(g, a->y, c, c0, nv, a->bias, a->plus, sink, first, count, m, p->ms);
            else tiles_out(g, a->y, c, c0, nv, a->bias, 0, sink, first, count, m, p->ms);
        }
    }
}

/* All of U, by the threads of the region that calls it together. */
static void all_filters(const float *weight, long k, long c, int transposed, float *u, const Plan *p) {
    long kv = k / WIDTH;
#pragma omp for schedule(static)
    for (long i = 0; i < p->nb * kv; i++) {
        long block = i / kv, k0 = i % kv * WIDTH, lanes = min(NV * WIDTH, c - block * NV * WIDTH);
        filter_block(weight, k, c, k0, k0 + WIDTH, block, transposed, u + block * F * p->us + k0 * lanes, p->us);
    }
}

/* y[n][h][w][c] = x[n][h][w][k] * weight (+ bias + plus, which may be null). transposed: weight is that of the opposite
 * direction, and y the gradient of its input. The answer depends on nothing but the arguments (and, by rounding, the
 * number of threads). work: wino_conv_floats(...) floats for at least as many threads. */
void wino_conv(const float *x, const float *weight, const float *bias, const float *plus, float *y, long n, long h,
               long w, long k, long c, int transposed, float *work, long threads) {
    Map g = make_map(n, h, w);
    Call call = {x, weight, bias, plus, y, k, c, transposed};
    Plan p;
    float *zero = align64(work);
#pragma omp parallel num_threads(threads)
    {
#pragma omp single
        { /* for as many threads as there are: fewer than asked for inside another region, or by a limit */
            p = make_plan(&g, k, c, omp_get_num_threads(), fuses(&g, k, c));
            memset(zero, 0, p.zero * sizeof *zero);
        }
        float *all_u = zero + p.zero, *all_v = all_u + p.u, *rest = all_v + p.parts * F * p.vs;
        if (!p.fused) all_filters(weight, k, c, transposed, all_u, &p);
        convolve(&g, &p, &call, zero, all_u, all_v, rest, omp_get_thread_num());
    }
}

/* ---- in two steps, for residual.c: U once, then the convolution of some maps by one thread ---- */

static Plan lone_plan(const Map *g, long k, long c) { return make_plan(g, k, c, 1, 0); }

long wino_filters_floats(long k, long c) {
    Map g = make_map(1, 4, 4);
    return lone_plan(&g, k, c).u;
}

/* By the threads of the region that calls it together. */
void wino_filters(const float *weight, long k, long c, float *u) {
    Map g = make_map(1, 4, 4);
    Plan p = lone_plan(&g, k, c);
    all_filters(weight, k, c, 0, u, &p);
}

/* For up to n maps: fewer may be cut into larger blocks. */
long wino_apply_floats(long n, long h, long w, long k, long c) {
    long most = 0;
    for (; n > 0; n--) {
        Map g = make_map(n, h, w);
        Plan p = lone_plan(&g, k, c);
        long floats = p.floats - p.u;
        most = floats > most ? floats : most;
    }
    return most;
}

/* wino_conv of one thread, with U made; y may be plus. work: wino_apply_floats(...) floats. */
void wino_apply(const float *x, const float *u, const float *bias, const float *plus, float *y, long n, long h, long w,
                long k, long c, float *work) {
    Map g = make_map(n, h, w);
    Plan p = lone_plan(&g, k, c);
    Call call = {x, 0, bias, plus, y, k, c, 0};
    float *zero = align64(work), *v = zero + p.zero;
    memset(zero, 0, p.zero * sizeof *zero);
    convolve(&g, &p, &call, zero, u, v, v + F * p.vs, 0);
}
