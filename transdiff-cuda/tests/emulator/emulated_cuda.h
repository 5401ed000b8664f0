/* Controls of the emulator for tests. */
#ifndef EMULATED_CUDA_H
#define EMULATED_CUDA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Makes the `nth` call of `function` from now (1: the next) return `code` without any other effect, except that
 * cuStreamEndCapture ends the capture. */
void emulated_cuda_fail(const char* function, int nth, unsigned code);
/* Number of calls of `function` since the start or the last reset. */
uint64_t emulated_cuda_count(const char* function);
/* Number of kernel launches, including those of graphs. */
uint64_t emulated_cuda_launches(void);
/* Writes one line per launch, "NAME grid X Y Z block X Y Z shared BYTES", and a final zero, truncated to `length` bytes;
 * returns the full length. */
size_t emulated_cuda_log(char* out, size_t length);
/* Writes the reason of the last failed launch or check, likewise. */
size_t emulated_cuda_error(char* out, size_t length);
/* Clears counts, log, error and pending failures. */
void emulated_cuda_reset(void);

#ifdef __cplusplus
}
#endif

#endif
