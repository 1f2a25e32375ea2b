/* Group norm (Wu & He 2018) with an offset before it and SiLU after it: float32, channels last, one image at a time, so
   that the passes after the first read from cache.

       h = x + offset[b, c],   z = weight[b, c] (h - mean) rstd + bias[b, c],   out = silu(z) or z

   x and out are [batch][positions][channels], mean and rstd [batch][groups], offset may be null. `step` is 0 where
   weight and bias are the same for all images, else channels. channels is a multiple of WIDTH and at most MOST. */
#include <math.h>
#include "kernels.h"
#include "vec.h"

enum { MOST = 4096 };

/* centre[c] = mean of the channel's group - offset: what is subtracted from x. wide[c] gets the group's rstd. */
static void spread(const Shape *s, const float *offset, const float *mean, const float *rstd, float *centre,
                   float *wide) {
    int64_t d = s->channels / s->groups;
    for (int64_t g = 0; g < s->groups; g++)
        for (int64_t c = g * d; c < (g + 1) * d; c++) {
            centre[c] = mean[g] - (offset ? offset[c] : 0.f);
            wide[c] = rstd[g];
        }
}

/* out[group] = sum of values over its channels / (positions * channels per group) */
static void average(const Shape *s, const float *values, float *out) {
    int64_t d = s->channels / s->groups;
    for (int64_t g = 0; g < s->groups; g++) {
        double total = 0;
        for (int64_t c = g * d; c < (g + 1) * d; c++) total += values[c];
        out[g] = (float)(total / (double)(d * s->positions));
    }
}

static void zero(float *values, int64_t n) {
    for (int64_t i = 0; i < n; i++) values[i] = 0.f;
}

/* total[c] = sum over positions of x, or of (x - centre)^2, for `vectors` vectors of channels, held in registers. */
INLINE void column_sums(int vectors, int squares, int64_t n, int64_t C, const float *x, const float *centre,
                        float *total) {
    vec sum[4], middle[4];
    UNROLL for (int v = 0; v < vectors; v++) {
        sum[v] = splat(0.f);
        middle[v] = splat(0.f);
        if (squares) middle[v] = load(centre + v * WIDTH);
    }
    for (int64_t i = 0; i < n; i++)
        UNROLL for (int v = 0; v < vectors; v++) {
            vec h = load(x + i * C + v * WIDTH) - middle[v];
            if (squares) h *= h;
            sum[v] += h;
        }
    UNROLL for (int v = 0; v < vectors; v++) store(total + v * WIDTH, sum[v]);
}

INLINE void sums(int squares, int64_t n, int64_t C, const float *x, const float *centre, float *total) {
    int64_t c = 0;
    for (; c + 4 * WIDTH <= C; c += 4 * WIDTH) column_sums(4, squares, n, C, x + c, centre + c, total + c);
    for (; c + 2 * WIDTH <= C; c += 2 * WIDTH) column_sums(2, squares, n, C, x + c, centre + c, total + c);
    for (; c < C; c += WIDTH) column_sums(1, squares, n, C, x + c, centre + c, total + c);
}

static void forward_one(const Shape *s, const float *x, const float *offset, const float *weight, const float *bias,
                        float eps, float *out, float *mean, float *rstd) {
    int64_t n = s->positions, C = s->channels;
    float total[MOST] ALIGNED, centre[MOST] ALIGNED, scale[MOST] ALIGNED;
    sums(0, n, C, x, centre, total);
    if (offset)
        for (int64_t c = 0; c < C; c++) total[c] += (float)n * offset[c];
    average(s, total, mean);
    spread(s, offset, mean, rstd, centre, scale);
    sums(1, n, C, x, centre, total);
    average(s, total, rstd);
    for (int64_t g = 0; g < s->groups; g++) rstd[g] = 1.f / sqrtf(rstd[g] + eps);
    spread(s, offset, mean, rstd, centre, scale);
    for (int64_t c = 0; c < C; c++) scale[c] *= weight[c];
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < C; c += WIDTH) {
            vec z = (load(x + i * C + c) - load(centre + c)) * load(scale + c) + load(bias + c);
            if (s->silu) z *= vsigmoid(z);
            store(out + i * C + c, z);
        }
}

/* d_weight and d_bias [channels] are this image's share; d_offset may be null. */
static void backward_one(const Shape *s, const float *x, const float *offset, const float *weight, const float *bias,
                         const float *mean, const float *rstd, const float *g, float *dx, float *d_weight,
                         float *d_bias, float *d_offset) {
    int64_t n = s->positions, C = s->channels, d = C / s->groups;
    float centre[MOST] ALIGNED, wide[MOST] ALIGNED, scale[MOST] ALIGNED, drift[MOST] ALIGNED, slope[MOST] ALIGNED,
        level[MOST] ALIGNED, mean_g[MOST], mean_gh[MOST];
    spread(s, offset, mean, rstd, centre, wide);
    for (int64_t c = 0; c < C; c++) scale[c] = weight[c] * wide[c];
    zero(d_weight, C), zero(d_bias, C), zero(drift, C);
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < C; c += WIDTH) {
            vec h = load(x + i * C + c) - load(centre + c), gz = load(g + i * C + c);
            if (s->silu) { /* silu'(z) = p (1 + z (1 - p)), p = sigmoid(z) */
                vec z = h * load(scale + c) + load(bias + c), p = vsigmoid(z);
                gz *= p * (1.f + z * (1.f - p));
            }
            store(dx + i * C + c, gz);
            store(d_bias + c, load(d_bias + c) + gz);
            store(d_weight + c, load(d_weight + c) + gz * h);
            store(drift + c, load(drift + c) + h);
        }
    /* dx = rstd (weight gz - mean(weight gz) - normed mean(weight gz normed)), means over the group */
    for (int64_t c = 0; c < C; c++) {
        d_weight[c] *= wide[c];
        slope[c] = weight[c] * d_weight[c];
        level[c] = weight[c] * d_bias[c];
    }
    average(s, level, mean_g), average(s, slope, mean_gh);
    for (int64_t j = 0; j < s->groups; j++)
        for (int64_t c = j * d; c < (j + 1) * d; c++) {
            level[c] = -mean_g[j] * wide[c];
            slope[c] = -mean_gh[j] * wide[c] * wide[c];
            if (d_offset) d_offset[c] = scale[c] * d_bias[c] + slope[c] * drift[c] + (float)n * level[c];
        }
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < C; c += WIDTH) {
            vec h = load(x + i * C + c) - load(centre + c);
            store(dx + i * C + c, load(dx + i * C + c) * load(scale + c) + h * load(slope + c) + load(level + c));
        }
}

void norm_forward(const Shape *s, int threads, const float *x, const float *offset, const float *weight,
                  const float *bias, float eps, float *out, float *mean, float *rstd) {
    int64_t size = s->positions * s->channels, C = s->channels;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t b = 0; b < s->batch; b++)
        forward_one(s, x + b * size, offset ? offset + b * C : 0, weight + b * s->step, bias + b * s->step, eps,
                    out + b * size, mean + b * s->groups, rstd + b * s->groups);
}

void norm_backward(const Shape *s, int threads, const float *x, const float *offset, const float *weight,
                   const float *bias, const float *mean, const float *rstd, const float *g, float *dx, float *d_weight,
                   float *d_bias, float *d_offset) {
    int64_t size = s->positions * s->channels, C = s->channels;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t b = 0; b < s->batch; b++)
        backward_one(s, x + b * size, offset ? offset + b * C : 0, weight + b * s->step, bias + b * s->step,
                     mean + b * s->groups, rstd + b * s->groups, g + b * size, dx + b * size, d_weight + b * C,
                     d_bias + b * C, d_offset ? d_offset + b * C : 0);
}
