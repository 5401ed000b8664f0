/* Lazy loading of the CUDA driver.
 *
 * Every cu* function that cust links to is defined here and forwarded to libcuda.so.1, which is opened at the first call.
 * Programs and libraries that link this crate do not depend on libcuda, so that one library file serves machines with and
 * without a driver. Without one, every call returns CUDA_ERROR_STUB_LIBRARY (34), and transdiff_driver_absence() returns
 * the reason. */
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
/* The driver's code of the last call of this thread, and the function that the driver lacks. */
static _Thread_local unsigned last_code;
static _Thread_local const char *last_missing;

static void open_library(void) {
    library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library) return;
    const char *reason = dlerror();
    snprintf(absence, sizeof absence, "%s", reason ? reason : "libcuda.so.1 cannot be opened");
}

/* The loader's message if there is no driver; NULL if there is one. */
const char *transdiff_driver_absence(void) {
    pthread_once(&opened, open_library);
    return library ? NULL : absence;
}

/* A function of the driver, or NULL. For functions that cust does not declare. */
void *transdiff_driver_symbol(const char *name) {
    pthread_once(&opened, open_library);
    return library ? dlsym(library, name) : NULL;
}

/* The driver's code of the last call of this thread: cust only has the codes of CUDA 11.4. */
unsigned transdiff_driver_code(void) { return last_code; }

/* The function that was missing in the last call of this thread; NULL if it was found. */
const char *transdiff_driver_missing(void) { return last_missing; }

/* Maps unlisted codes to UNKNOWN: cust's codes are a Rust enum, for which an unlisted value is undefined behaviour. */
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
    static const char *const message = "there is no CUDA driver";
    /* The Display of cust's errors panics unless cuGetErrorString succeeds. */
    if (strncmp(name, "cuGetError", 10) == 0) {
        *(const char **)text = message;
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
