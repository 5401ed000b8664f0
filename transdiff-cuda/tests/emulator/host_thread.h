#pragma once

// Declares what the emulator itself keeps for a host thread. It goes among the variables with initial values: the others
// of the library are the kernels' `__shared__` ones, which launches fill.
#define HOST_THREAD __attribute__((section(".tdata"))) __thread
