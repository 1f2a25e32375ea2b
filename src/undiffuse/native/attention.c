/* Scaled dot-product attention (Vaswani et al. 2017, eq. 1), float32, forward and backward:

       S = Q K^T / sqrt(d),   P = softmax of S over keys,   O = P V

   qkv is [batch][n][3][heads][d], as one linear layer gives it; out is [batch][n][heads][d]. A block of queries lies
   along the vectors, so narrow heads cost no more than wide ones: matrices here are transposed, [key or feature][query].
   Only the scores of one block of queries exist at a time; backward computes them again from the saved log-sum-exp
   (Dao et al. 2022):

       dV = P^T dO,   dS = P . (dO V^T - sum over features of dO . O),   dQ = dS K / sqrt(d),   dK = dS^T Q / sqrt(d) */
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include "product.h"

enum { BLOCK = 2 * WIDTH }; /* queries */

typedef struct {
    int64_t batch, n, heads, d;
} Heads;

static long padded(long d) { return (d + WIDTH - 1) / WIDTH * WIDTH; }

/* Floats of scratch memory per thread. */
long attention_floats(const Heads *s, int backward) {
    long scores = s->n * BLOCK, block = s->d * BLOCK, rows = padded(s->d) * BLOCK;
    return backward ? 2 * scores + 3 * block + 2 * rows + 2 * s->n * padded(s->d) : scores + 2 * block;
}

static void zeros(float *p, long n) {
    for (long i = 0; i < n; i++) p[i] = 0.f;
}

/* BLOCK rows from `from`, of which `rows` exist: transposed to [d][BLOCK], zeros for the others. */
static void block_turned(long rows, long d, const float *from, long ld, float *to, float scale) {
    if (rows < BLOCK) zeros(to, d * BLOCK);
    turned(rows, d, from, ld, to, BLOCK, scale);
}

/* exp(x), and 0 where it is below 4e-18: too little to change a sum that holds the largest, 1, while products with the
   least of them would be subnormal numbers, which some CPUs are many times slower with. NaN stays NaN. */
INLINE vec weight_of(vec x) { return choose(x < splat(-40.f), splat(0.f), vexp(x)); }

/* S to exp(S - max over keys); its sum to total[BLOCK], max + log total to lse[rows]. */
static void softmax(long n, long rows, float *S, float *total, float *lse) {
    for (int v = 0; v < rows; v += WIDTH) {
        vec most = load(S + v), sum = splat(0.f);
        for (long j = 1; j < n; j++)
            most = larger(most, load(S + j * BLOCK + v));
        for (long j = 0; j < n; j++) {
            vec p = weight_of(load(S + j * BLOCK + v) - most);
            sum += p;
            store(S + j * BLOCK + v, p);
        }
        store(total + v, sum);
        for (int i = 0; i < WIDTH && v + i < rows; i++) lse[v + i] = most[i] + logf(sum[i]);
    }
}

static void forward_block(const Heads *s, const float *qkv, long first, float *out, float *lse, float *work) {
    long n = s->n, d = s->d, C = s->heads * d, R = 3 * C, rows = n - first < BLOCK ? n - first : BLOCK;
    long wide = padded(rows); /* the last block may be half empty */
    float *S = work, *Q = S + n * BLOCK, *O = Q + d * BLOCK, total[BLOCK] ALIGNED;
    block_turned(rows, d, qkv + first * R, R, Q, 1.f / sqrtf((float)d));
    product(n, wide, d, (Strided){qkv + C, R, 1}, Q, BLOCK, S, BLOCK, 0);
    softmax(n, rows, S, total, lse + first);
    product(d, wide, n, (Strided){qkv + 2 * C, 1, R}, S, BLOCK, O, BLOCK, 0);
    for (long e = 0; e < d; e++)
        for (int v = 0; v < wide; v += WIDTH) store(O + e * BLOCK + v, load(O + e * BLOCK + v) / load(total + v));
    turned(d, rows, O, BLOCK, out + first * C, C, 1.f);
}

void attention_forward(const Heads *s, int threads, const float *qkv, float *out, float *lse, float *work) {
    long n = s->n, d = s->d, C = s->heads * d, blocks = (n + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long unit = 0; unit < s->batch * s->heads * blocks; unit++) {
        long head = unit / blocks, b = head / s->heads, h = head % s->heads;
        forward_block(s, qkv + b * n * 3 * C + h * d, unit % blocks * BLOCK, out + b * n * C + h * d, lse + head * n,
                      work + omp_get_thread_num() * attention_floats(s, 0));
    }
}

/* S and dP to P and dS: P = exp(S - lse), dS = P (dP - D). */
static void score_gradient(long n, long rows, const float *lse, const float *D, float *S, float *dP) {
    for (long j = 0; j < n * BLOCK; j += BLOCK)
        for (int v = 0; v < rows; v += WIDTH) {
            vec p = weight_of(load(S + j + v) - load(lse + v));
            store(S + j + v, p);
            store(dP + j + v, p * (load(dP + j + v) - load(D + v)));
        }
}

/* A block's rows as they are, [BLOCK][padded(d)], zeros in the margins. */
static void block_copied(long rows, long d, const float *from, long ld, float *to, float scale) {
    zeros(to, padded(d) * BLOCK);
    for (long i = 0; i < rows; i++)
        for (long e = 0; e < d; e++) to[i * padded(d) + e] = scale * from[i * ld + e];
}

typedef struct {
    float *S, *dP, *Qt, *dOt, *dQt, *Q, *dO, *dK, *dV;
} Scratch;

static Scratch divided(const Heads *s, float *work) {
    long scores = s->n * BLOCK, block = s->d * BLOCK, rows = padded(s->d) * BLOCK;
    Scratch m = {.S = work, .dP = work + scores, .Qt = work + 2 * scores};
    m.dOt = m.Qt + block, m.dQt = m.dOt + block, m.Q = m.dQt + block, m.dO = m.Q + rows, m.dK = m.dO + rows;
    m.dV = m.dK + s->n * padded(s->d);
    return m;
}

/* One block of queries: its dQ, and its share of dK and dV. g, out: the head's [n][..] with row step C. */
static void backward_block(const Heads *s, const Scratch *m, long first, const float *qkv, const float *g,
                           const float *out, const float *lse, float *dqkv) {
    long n = s->n, d = s->d, C = s->heads * d, R = 3 * C, P = padded(d);
    long rows = n - first < BLOCK ? n - first : BLOCK, wide = padded(rows);
    float scale = 1.f / sqrtf((float)d), D[BLOCK] ALIGNED = {0}, level[BLOCK] ALIGNED = {0};
    for (long i = 0; i < rows; i++) {
        level[i] = lse[first + i];
        for (long e = 0; e < d; e++) D[i] += g[(first + i) * C + e] * out[(first + i) * C + e];
    }
    block_turned(rows, d, qkv + first * R, R, m->Qt, scale);
    block_turned(rows, d, g + first * C, C, m->dOt, 1.f);
    block_copied(rows, d, qkv + first * R, R, m->Q, scale);
    block_copied(rows, d, g + first * C, C, m->dO, 1.f);
    product(n, wide, d, (Strided){qkv + C, R, 1}, m->Qt, BLOCK, m->S, BLOCK, 0);
    product(n, wide, d, (Strided){qkv + 2 * C, R, 1}, m->dOt, BLOCK, m->dP, BLOCK, 0);
    score_gradient(n, rows, level, D, m->S, m->dP);
    product(d, wide, n, (Strided){qkv + C, 1, R}, m->dP, BLOCK, m->dQt, BLOCK, 0);
    product(n, P, rows, (Strided){m->S, BLOCK, 1}, m->dO, P, m->dV, P, first > 0);
    product(n, P, rows, (Strided){m->dP, BLOCK, 1}, m->Q, P, m->dK, P, first > 0);
    turned(d, rows, m->dQt, BLOCK, dqkv + first * R, R, scale);
}

void attention_backward(const Heads *s, int threads, const float *qkv, const float *g, const float *out,
                        const float *lse, float *dqkv, float *work) {
    long n = s->n, d = s->d, C = s->heads * d, R = 3 * C, P = padded(d);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long head = 0; head < s->batch * s->heads; head++) {
        long in = head / s->heads * n * R + head % s->heads * d, at = head / s->heads * n * C + head % s->heads * d;
        Scratch m = divided(s, work + omp_get_thread_num() * attention_floats(s, 1));
        for (long first = 0; first < n; first += BLOCK)
            backward_block(s, &m, first, qkv + in, g + at, out + at, lse + head * n, dqkv + in);
        for (long i = 0; i < n; i++)
            for (long e = 0; e < d; e++) {
                dqkv[in + i * R + C + e] = m.dK[i * P + e];
                dqkv[in + i * R + 2 * C + e] = m.dV[i * P + e];
            }
    }
}
