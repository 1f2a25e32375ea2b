/* A linear layer, float32, forward, made for many rows (positions of maps) of few features:

       y = x weight^T + bias + plus

   x is [rows][in], weight [out][in], y and plus [rows][out]; in and out are multiples of WIDTH. */
#include "kernels.h"
#include "product.h"

enum { PANEL = 2 * WIDTH, BLOCK = 48 };

static long at_most(long x, long most) { return x < most ? x : most; }

/* Rows j .. j + width of w [columns][depth], turned: side by side in the panel [depth][width]. */
static void pack(const float *w, long depth, long j, long width, float *panel) {
    turned(width, depth, w + j * depth, depth, panel, width, 1.f);
}

/* Has `n` floats brought near, to be read or written. */
INLINE void expect(const float *p, long n, const int write) {
    for (long i = 0; i < n; i += 16) {
        if (write) __builtin_prefetch(p + i, 1, 2);
        else __builtin_prefetch(p + i, 0, 2);
    }
}

/* bias and plus may be null; work: in * out floats. */
void linear_forward(const Linear *s, int threads, const float *x, const float *weight, const float *bias,
                    const float *plus, float *y, float *work) {
    long rows = s->rows, depth = s->in, columns = s->out;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (long j = 0; j < columns; j += PANEL)
            pack(weight, depth, j, at_most(PANEL, columns - j), work + j * depth);
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
