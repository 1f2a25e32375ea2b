/* A linear layer, float32, forward and backward, made for many rows (positions of maps) of few features:

       y = x weight^T + bias + plus,   dx = g weight,   dweight = g^T x,   dbias = sum over rows of g

   x is [rows][in], weight [out][in], y, plus and g [rows][out]; in and out are multiples of WIDTH. */
#include "kernels.h"
#include "product.h"

enum { PANEL = 2 * WIDTH, BLOCK = 48, CHUNK = 2048, PIECE = 128 };

static long at_most(long x, long most) { return x < most ? x : most; }

static long chunks_of(const Linear *s) { return (s->rows + CHUNK - 1) / CHUNK; }

/* Floats of scratch memory. */
long linear_floats(const Linear *s, int backward) {
    return backward ? chunks_of(s) * (s->in + 1) * s->out : s->in * s->out;
}

/* Columns j .. j + width of the matrix [depth][columns] at w (turn: of the transpose of [columns][depth]) side by
   side. */
static void pack(const float *w, long depth, long columns, int turn, long j, long width, float *panel) {
    if (turn) {
        turned(width, depth, w + j * depth, depth, panel, width, 1.f);
        return;
    }
    for (long k = 0; k < depth; k++)
        for (long v = 0; v < width; v += WIDTH) store(panel + k * width + v, load(w + k * columns + j + v));
}

/* Has `n` floats brought near, to be read or written. */
INLINE void expect(const float *p, long n, const int write) {
    for (long i = 0; i < n; i += 16) {
        if (write) __builtin_prefetch(p + i, 1, 2);
        else __builtin_prefetch(p + i, 0, 2);
    }
}

/* y [rows][columns] = x [rows][depth] w + bias + plus; w as in pack. */
static void multiply(long rows, long columns, long depth, int threads, const float *x, const float *w, int turn,
                     const float *bias, const float *plus, float *y, float *work) {
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (long j = 0; j < columns; j += PANEL)
            pack(w, depth, columns, turn, j, at_most(PANEL, columns - j), work + j * depth);
#pragma omp for schedule(static)
        for (long i = 0; i < rows; i += BLOCK) {
            long count = at_most(BLOCK, rows - i);
            expect(x + (i + count) * depth, at_most(BLOCK, rows - i - count) * depth, 0);
            expect(y + i * columns, count * columns, 1);
            for (long j = 0; j < columns; j += PANEL) {
                long width = at_most(PANEL, columns - j), at = i * columns + j;
                Start start = {plus ? plus + at : 0, columns, bias ? bias + j : 0};
                product_from(count, width, depth, (Strided){x + i * depth, depth, 1}, work + j * depth, width, y + at,
                             columns, start);
            }
        }
    }
}

/* bias and plus may be null. */
void linear_forward(const Linear *s, int threads, const float *x, const float *weight, const float *bias,
                    const float *plus, float *y, float *work) {
    multiply(s->rows, s->out, s->in, threads, x, weight, 1, bias, plus, y, work);
}

void linear_backward_input(const Linear *s, int threads, const float *weight, const float *g, float *dx, float *work) {
    multiply(s->rows, s->in, s->out, threads, g, weight, 0, 0, 0, dx, work);
}

/* total[width] = sum of `rows` rows, added to total if `add`. */
static void sum_rows(long rows, long width, const float *g, long ld, float *total, int add) {
    for (long v = 0; v < width; v += WIDTH) {
        vec sum = add ? load(total + v) : splat(0.f);
        for (long i = 0; i < rows; i++) sum += load(g + i * ld + v);
        store(total + v, sum);
    }
}

/* out[n] = sum over the chunks' shares; `threads` of them call this together. */
static void gather(long chunks, long n, const float *shares, float *out) {
#pragma omp for schedule(static)
    for (long i = 0; i < n; i += WIDTH) {
        vec sum = load(shares + i);
        for (long c = 1; c < chunks; c++) sum += load(shares + c * n + i);
        store(out + i, sum);
    }
}

/* Rows are summed in chunks of a size that does not depend on the number of threads, and neither does the result. */
void linear_backward_weight(const Linear *s, int threads, const float *x, const float *g, float *dweight, float *dbias,
                            float *work) {
    long in = s->in, out = s->out, chunks = chunks_of(s), panels = (out + PANEL - 1) / PANEL;
    float *of_bias = work + chunks * out * in;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (long item = 0; item < chunks * panels; item++) {
            long c = item / panels, j = item % panels * PANEL, width = at_most(PANEL, out - j);
            long first = s->rows * c / chunks, end = s->rows * (c + 1) / chunks;
            for (long i = first; i < end; i += PIECE) {
                long rows = at_most(PIECE, end - i);
                product(width, in, rows, (Strided){g + i * out + j, 1, out}, x + i * in, in,
                        work + (c * out + j) * in, in, i > first);
                sum_rows(rows, width, g + i * out + j, out, of_bias + c * out + j, i > first);
            }
        }
        gather(chunks, out * in, work, dweight);
        gather(chunks, out, of_bias, dbias);
    }
}
