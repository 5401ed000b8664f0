/* What tests ask of the emulator besides the driver's own functions. */
#ifndef EMULATED_CUDA_H
#define EMULATED_CUDA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The `nth` call of `function` from now (1: the next) returns `code`, and does nothing else but
 * that cuStreamEndCapture ends the capture. */
void emulated_cuda_fail(const char* function, int nth, unsigned code);
/* How often `function` was called since the start or the last reset. */
uint64_t emulated_cuda_count(const char* function);
/* How many kernels were launched, those of graphs included. */
uint64_t emulated_cuda_launches(void);
/* Writes a line for each of the last launches, "NAME grid X Y Z block X Y Z shared BYTES", and a final zero, as far as
 * `length` bytes go; returns how many there are. */
size_t emulated_cuda_log(char* out, size_t length);
/* Writes why the last launch or check failed, likewise. */
size_t emulated_cuda_error(char* out, size_t length);
/* Forgets counts, log, error, and failures to come. */
void emulated_cuda_reset(void);

#ifdef __cplusplus
}
#endif

#endif
