/* Has OpenMP know of `count` threads. See threads.py. */
void gather_threads(int count) {
#pragma omp parallel num_threads(count)
    __asm__ volatile("");
}
