/* Kernels that others are made of. */
#ifndef UNDIFFUSE_KERNELS_H
#define UNDIFFUSE_KERNELS_H
#include <stdint.h>

typedef struct {
    int64_t batch, positions, channels, groups, step;
    int32_t silu;
} Shape; /* groupnorm.c */

typedef struct {
    int64_t rows, in, out;
} Linear; /* linear.c */

void norm_forward(const Shape *s, int threads, const float *x, const float *offset, const float *weight,
                  const float *bias, float eps, float *out, float *mean, float *rstd);

void linear_forward(const Linear *s, int threads, const float *x, const float *weight, const float *bias,
                    const float *plus, float *y, float *work);

long wino_filters_floats(long k, long c);
void wino_filters(const float *weight, long k, long c, float *u);
long wino_apply_floats(long n, long h, long w, long k, long c);
void wino_apply(const float *x, const float *u, const float *bias, const float *plus, float *y, long n, long h, long w,
                long k, long c, float *work);
#endif
