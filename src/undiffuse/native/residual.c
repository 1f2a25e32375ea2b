/* A residual block (nn/blocks.py) forward, float32, channels last:

       a = silu(norm1(x)),   h = conv1(a),   b = silu(norm2(h + offset)),   out = conv2(b) + x, or + skip(x)

   `chunk` images at a time from beginning to end, so that a, h and b stay in cache; each thread takes its own chunks.
   x is [batch][height][width][in], or two maps of `left` and in - left channels, to be put side by side; out and h have
   `out` channels; all are multiples of WIDTH. offset [batch][out] may be null, as may skip_weight [out][in]: then in =
   out. norm2's weight and bias are `step` apart from image to image. */
#include <omp.h>
#include <string.h>
#include "kernels.h"

typedef struct {
    int64_t batch, height, width, left, in, out, groups1, groups2, step, chunk;
    float eps1, eps2;
    const float *norm1_weight, *norm1_bias, *conv1_weight, *conv1_bias, *offset, *norm2_weight, *norm2_bias,
        *conv2_weight, *conv2_bias, *skip_weight, *skip_bias;
} Residual;

static long larger(long x, long y) { return x > y ? x : y; }
static long lines(long floats) { return (floats + 15) / 16 * 16; }

/* A thread's scratch memory, in floats: two maps side by side, a (and then b), h, mean and 1 / std, the kernels' own. */
typedef struct {
    long x, a, h, moments, kernels, all;
} Scratch;

static Scratch scratch_of(const Residual *s) {
    long pixels = s->chunk * s->height * s->width;
    Linear skip = {pixels, s->in, s->out};
    Scratch f = {
        .x = s->left < s->in ? lines(pixels * s->in) : 0,
        .a = lines(pixels * larger(s->in, s->out)),
        .h = lines(pixels * s->out),
        .moments = lines(s->chunk * larger(s->groups1, s->groups2)),
        .kernels = larger(wino_apply_floats(s->chunk, s->height, s->width, s->in, s->out),
                          wino_apply_floats(s->chunk, s->height, s->width, s->out, s->out)),
    };
    if (s->skip_weight) f.kernels = larger(f.kernels, skip.in * skip.out);
    f.kernels = lines(f.kernels);
    f.all = f.x + f.a + f.h + 2 * f.moments + f.kernels;
    return f;
}

long residual_floats(const Residual *s, long threads) {
    return lines(wino_filters_floats(s->in, s->out)) + lines(wino_filters_floats(s->out, s->out)) +
           threads * scratch_of(s).all + 16;
}

/* to [rows][left + right] */
static void side_by_side(long rows, const float *x, long left, const float *y, long right, float *to) {
    for (long i = 0; i < rows; i++, to += left + right) {
        memcpy(to, x + i * left, left * sizeof *to);
        memcpy(to + left, y + i * right, right * sizeof *to);
    }
}

/* Images `first` to `first + n`; beside: the second map, or null. */
static void some(const Residual *s, const Scratch *f, const float *x, const float *beside, const float *u1,
                 const float *u2, float *out, long first, long n, float *joined) {
    float *a = joined + f->x, *h = a + f->a, *mean = h + f->h, *rstd = mean + f->moments, *work = rstd + f->moments;
    long positions = s->height * s->width, right = s->in - s->left;
    Shape norm1 = {n, positions, s->in, s->groups1, 0, 1}, norm2 = {n, positions, s->out, s->groups2, s->step, 1};
    x += first * positions * s->left, out += first * positions * s->out;
    if (beside) {
        side_by_side(n * positions, x, s->left, beside + first * positions * right, right, joined);
        x = joined;
    }
    norm_forward(&norm1, 1, x, 0, s->norm1_weight, s->norm1_bias, s->eps1, a, mean, rstd);
    wino_apply(a, u1, s->conv1_bias, 0, h, n, s->height, s->width, s->in, s->out, work);
    norm_forward(&norm2, 1, h, s->offset ? s->offset + first * s->out : 0, s->norm2_weight + first * s->step,
                 s->norm2_bias + first * s->step, s->eps2, a, mean, rstd);
    if (s->skip_weight) {
        Linear skip = {n * positions, s->in, s->out};
        linear_forward(&skip, 1, x, s->skip_weight, s->skip_bias, 0, out, work);
    }
    wino_apply(a, u2, s->conv2_bias, s->skip_weight ? out : x, out, n, s->height, s->width, s->out, s->out, work);
}

/* No image depends on the others or on the number of threads. beside: null where left = in. work: residual_floats(...)
   floats. */
void residual_forward(const Residual *s, int threads, const float *x, const float *beside, float *out, float *work) {
    Scratch f = scratch_of(s);
    float *u1 = (float *)(((uintptr_t)work + 63) & ~(uintptr_t)63), *u2 = u1 + lines(wino_filters_floats(s->in, s->out)),
          *rest = u2 + lines(wino_filters_floats(s->out, s->out));
#pragma omp parallel num_threads(threads)
    {
        wino_filters(s->conv1_weight, s->in, s->out, u1);
        wino_filters(s->conv2_weight, s->out, s->out, u2);
#pragma omp for schedule(static)
        for (long first = 0; first < s->batch; first += s->chunk)
            some(s, &f, x, beside, u1, u2, out, first, s->batch - first < s->chunk ? s->batch - first : s->chunk,
                 rest + omp_get_thread_num() * f.all);
    }
}
