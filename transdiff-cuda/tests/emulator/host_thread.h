#pragma once

// Declares a thread-local variable of the emulator itself. It is placed among the initialised variables: the uninitialised
// ones of the library are the kernels' `__shared__` variables, which launches fill.
#define HOST_THREAD __attribute__((section(".tdata"))) __thread
