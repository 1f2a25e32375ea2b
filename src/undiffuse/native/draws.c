/* Standard normals from many of NumPy's streams, by its own function (the C API of numpy.random), so that they are the
 * numbers of Generator.standard_normal(dtype=float32). */
#include <stdint.h>

#ifdef NUMPY
void random_standard_normal_fill_f(void *stream, intptr_t count, float *out);

/* out[i][each] from stream i, a bitgen_t; returns whether it could. */
int normals(void *const *streams, long count, long each, float *out, long threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < count; i++) random_standard_normal_fill_f(streams[i], each, out + i * each);
    return 1;
}
#else
int normals(void *const *streams, long count, long each, float *out, long threads) {
    (void)streams, (void)count, (void)each, (void)out, (void)threads;
    return 0;
}
#endif
