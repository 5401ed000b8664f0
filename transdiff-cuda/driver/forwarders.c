/* The CUDA driver, found at the first call instead of at the start of the program.
 *
 * Every cu* function that cust links to is defined here and handed on to libcuda.so.1, which is opened at the first
 * call. Nothing that links this crate has libcuda among what it needs, so that one library file serves machines with
 * and without a driver. Without one, every call returns CUDA_ERROR_STUB_LIBRARY (34), and
 * transdiff_driver_absence() says why. */
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "codes.inc"

enum { NOT_FOUND = 500, STUB_LIBRARY = 34, UNKNOWN = 999 };

/* CUipcEventHandle and CUipcMemHandle, which are passed by value. */
typedef struct {
    char bytes[64];
} H64;

static void *library;
static char absence[512];
static pthread_once_t opened = PTHREAD_ONCE_INIT;
/* The last code of this thread as the driver gave it, and the function that the driver is without. */
static _Thread_local unsigned last_code;
static _Thread_local const char *last_missing;

static void open_library(void) {
    library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library) return;
    const char *reason = dlerror();
    snprintf(absence, sizeof absence, "%s", reason ? reason : "libcuda.so.1 cannot be opened");
}

/* Why there is no driver, in the loader's words; NULL if there is one. */
const char *transdiff_driver_absence(void) {
    pthread_once(&opened, open_library);
    return library ? NULL : absence;
}

/* A function of the driver, or NULL: the way to those that cust does not know. */
void *transdiff_driver_symbol(const char *name) {
    pthread_once(&opened, open_library);
    return library ? dlsym(library, name) : NULL;
}

/* The last code of this thread as the driver gave it: cust knows those of CUDA 11.4 alone. */
unsigned transdiff_driver_code(void) { return last_code; }

/* The function that the last call of this thread did not find; NULL if it found it. */
const char *transdiff_driver_missing(void) { return last_missing; }

/* cust's codes are a Rust enum: a value that it does not list would be undefined behaviour. */
static unsigned known(unsigned code) {
    last_code = code;
    last_missing = NULL;
#define C(c) case c:
    switch (code) {
        KNOWN_CODES(C) return code;
        default: return UNKNOWN;
    }
#undef C
}

static unsigned absent(const char *name, void *text) {
    static const char *const words = "the CUDA driver is not there";
    /* cust's errors can be displayed only if this function succeeds. */
    if (strncmp(name, "cuGetError", 10) == 0) {
        *(const char **)text = words;
        return 0;
    }
    last_missing = name;
    return last_code = library ? NOT_FOUND : STUB_LIBRARY;
}

#define F(name, parameters, arguments, text)                                  \
    unsigned name parameters {                                                \
        static unsigned(*_Atomic found) parameters;                           \
        unsigned(*function) parameters = found;                               \
        if (!function) {                                                      \
            function = (unsigned(*) parameters)transdiff_driver_symbol(#name); \
            if (!function) return absent(#name, (void *)(text));              \
            found = function;                                                 \
        }                                                                     \
        return known(function arguments);                                     \
    }
#include "functions.inc"
