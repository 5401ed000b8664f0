// Peak of this CPU in multiplications and additions per second, for each number format that it has vector instructions for.
//
//   cc -O2 -pthread benches/peer/peak.c -o target/peak && target/peak [THREADS]
//
// Prints one JSON line per format with THREADS threads (default 1), a product and its addition counted as two operations:
//   f32    fused multiply-add (AVX-512, or AVX2 with FMA)
//   bf16   dot product of pairs, sums in f32 (AVX-512 BF16)
//   int8   dot product of quadruples, sums in 32 bits (AVX-512 VNNI)
// AMX tiles are not measured. Prints nothing on other processors.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#ifndef __x86_64__
int main(void) { return 0; }
#else

enum { ITERATIONS = 20000000, ACCUMULATORS = 12, ROUNDS = 3, MOST_THREADS = 1024 };

// Adds the product of registers 12 and 13 to register N; R is zmm or ymm.
#define SUM(INSTRUCTION, R, N) INSTRUCTION " %%" R "12, %%" R "13, %%" R N "\n\t"

// Twelve independent sums: more than latency times instructions per cycle, so that none waits for another.
#define SUMS(I, R)                                                                                      \
    SUM(I, R, "0") SUM(I, R, "1") SUM(I, R, "2") SUM(I, R, "3") SUM(I, R, "4") SUM(I, R, "5")           \
    SUM(I, R, "6") SUM(I, R, "7") SUM(I, R, "8") SUM(I, R, "9") SUM(I, R, "10") SUM(I, R, "11")

// A thread's work. The operands' bits are normal numbers in every format: subnormal ones may be slower.
#define KERNEL(NAME, INSTRUCTION, R)                                                                    \
    static void *NAME(void *unused) {                                                                   \
        const unsigned bits = 0x3f803f80;                                                               \
        long left = ITERATIONS;                                                                         \
        __asm__ volatile("vmovd %1, %%xmm12\n\t"                                                        \
                         "vpbroadcastd %%xmm12, %%" R "12\n\t"                                          \
                         "vpbroadcastd %%xmm12, %%" R "13\n\t"                                          \
                         "1:\n\t"                                                                       \
                         SUMS(INSTRUCTION, R)                                                           \
                         "dec %0\n\t"                                                                   \
                         "jnz 1b\n\t"                                                                   \
                         "vzeroupper"                                                                   \
                         : "+r"(left)                                                                   \
                         : "r"(bits)                                                                    \
                         : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",        \
                           "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13");                         \
        return unused;                                                                                  \
    }

KERNEL(f32_avx512, "vfmadd231ps", "zmm")
KERNEL(f32_avx2, "vfmadd231ps", "ymm")
KERNEL(bf16_avx512, "vdpbf16ps", "zmm")
KERNEL(int8_avx512, "vpdpbusd", "zmm")

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

// Time of `threads` threads that start together, until the last one ends.
static double timed(void *(*kernel)(void *), int threads) {
    pthread_t started[MOST_THREADS];
    const double begin = seconds();
    for (int i = 0; i < threads; i++) {
        if (pthread_create(&started[i], NULL, kernel, NULL) != 0) {
            fprintf(stderr, "thread %d of %d could not be started\n", i + 1, threads);
            exit(1);
        }
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(started[i], NULL);
    }
    return seconds() - begin;
}

// Prints the best of several rounds; `operations` are those of an instruction.
static void report(const char *what, void *(*kernel)(void *), int operations, int threads) {
    double best = timed(kernel, threads);
    for (int round = 1; round < ROUNDS; round++) {
        const double time = timed(kernel, threads);
        best = time < best ? time : best;
    }
    const double all = (double)operations * ACCUMULATORS * ITERATIONS * threads;
    printf("{\"what\":\"%s\",\"threads\":%d,\"gop_s\":%.1f}\n", what, threads, all / best * 1e-9);
}

int main(int count, char **arguments) {
    const int threads = count > 1 ? atoi(arguments[1]) : 1;
    if (threads < 1 || threads > MOST_THREADS) {
        fprintf(stderr, "expected 1 to %d threads, got %s\n", MOST_THREADS, arguments[1]);
        return 1;
    }
    if (__builtin_cpu_supports("avx512f")) {
        report("f32", f32_avx512, 32, threads);
    } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        report("f32", f32_avx2, 16, threads);
    }
    if (__builtin_cpu_supports("avx512bf16")) {
        report("bf16", bf16_avx512, 64, threads);
    }
    if (__builtin_cpu_supports("avx512vnni")) {
        report("int8", int8_avx512, 128, threads);
    }
    return 0;
}
#endif
