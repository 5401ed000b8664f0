// A kernel with a race in shared memory, named like our kernels and loaded like them, by the driver from a fat binary. It
// shows that racecheck with the filter of run.sh checks kernels of this kind.
//
//     nvcc -fatbin -arch=native -o planted_race.fatbin planted_race.cu
//     nvcc -o planted_race planted_race.cu -ldl
//     compute-sanitizer --tool racecheck planted_race planted_race.fatbin
#include <cuda.h>
#include <dlfcn.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

constexpr int THREADS = 64;

extern "C" __global__ void planted_race_f32(float *out) {
    __shared__ float values[THREADS];
    values[threadIdx.x] = threadIdx.x;
    // Written by a thread of another warp, without a barrier.
    out[threadIdx.x] = values[THREADS - 1 - threadIdx.x];
}

// Exits with an error unless the call of a driver function succeeds.
#define CALL(function, ...)                                                             \
    do {                                                                                \
        auto call = reinterpret_cast<decltype(&function)>(dlsym(driver, #function));    \
        const int code = call ? call(__VA_ARGS__) : CUDA_ERROR_NOT_FOUND;               \
        if (code) return std::fprintf(stderr, #function ": error %d\n", code), 1;       \
    } while (false)

int main(int count, char **arguments) {
    std::ifstream file(count == 2 ? arguments[1] : "", std::ios::binary);
    const std::string image{std::istreambuf_iterator<char>(file), {}};
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (image.empty() || !driver) return std::fprintf(stderr, "expected a fat binary and a CUDA driver\n"), 1;
    CUdevice device;
    CUcontext context;
    CUmodule module;
    CUfunction kernel;
    CUdeviceptr out;
    CALL(cuInit, 0);
    CALL(cuDeviceGet, &device, 0);
    CALL(cuDevicePrimaryCtxRetain, &context, device);
    CALL(cuCtxSetCurrent, context);
    CALL(cuModuleLoadDataEx, &module, image.data(), 0, nullptr, nullptr);
    CALL(cuModuleGetFunction, &kernel, module, "planted_race_f32");
    CALL(cuMemAlloc_v2, &out, THREADS * sizeof(float));
    void *parameters[] = {&out};
    CALL(cuLaunchKernel, kernel, 1, 1, 1, THREADS, 1, 1, 0, nullptr, parameters, nullptr);
    CALL(cuCtxSynchronize);
    return 0;
}
