// The part of cuBLASLt that the backend uses: descriptors, checks of support, and products (gemm.cpp).
#include <algorithm>
#include <cstring>

#include "driver.h"
#include "gemm.h"

namespace {

using gemm::Matrix;
using gemm::Problem;

enum Status : unsigned { kOk = 0, kNotInitialized = 1, kInvalidValue = 7, kExecutionFailed = 13, kNotSupported = 15 };

constexpr size_t kWorkspace = 32768;
constexpr int32_t kCompute32F = 68, kCompute32FTf32 = 77;
constexpr uint32_t kReductionInF32 = 2;
constexpr uint64_t kAlgorithm = 0x656d756c61746564;

struct Description {
    int32_t compute, scale, transpose_a = 0, transpose_b = 0;
    uint32_t epilogue = gemm::kDefault;
    uint64_t bias = 0;
    int32_t bias_type = -1;    // -1: that of D
};

struct Preference {
    uint32_t reductions = 7;   // all
    uint64_t workspace = 0;
    uint32_t alignment[4] = {256, 256, 256, 256};   // of A, B, C, D
};

// Algorithms that are found for a problem; all do the same.
constexpr int kAlgorithms = 2;

// An algorithm, valid only for the problem that it was found for.
struct Algorithm {
    uint64_t magic;
    uint64_t workspace;
    uint16_t alignment[4];
    uint64_t problem;
    uint64_t bias_alignment;
    uint64_t unused[3];
};
static_assert(sizeof(Algorithm) == 64, "the size is the library's");

struct Result {
    Algorithm algorithm;
    uint64_t workspace;
    unsigned state;
    float waves;
    int32_t unused[4];
};
static_assert(sizeof(Result) == 96, "the size is the library's");

driver::Handles<char> handles;
driver::Handles<Description> descriptions;
driver::Handles<Matrix> matrices;
driver::Handles<Preference> preferences;

template <typename T>
unsigned set(T& field, const void* value, size_t bytes) {
    if (value == nullptr || bytes != sizeof(T)) return kInvalidValue;
    std::memcpy(&field, value, sizeof(T));
    return kOk;
}

bool known(uint32_t epilogue) {
    for (uint32_t known : {1, 4, 36, 256, 512}) {
        if (epilogue == known) return true;
    }
    return false;
}

bool known_type(int32_t type) { return type == gemm::kF32 || type == gemm::kBf16; }

Problem problem_of(const Description& description, const Matrix& a, const Matrix& b, const Matrix& c, const Matrix& d) {
    Problem p;
    p.a = a, p.b = b, p.c = c, p.d = d;
    p.transpose_a = description.transpose_a == 1;
    p.transpose_b = description.transpose_b == 1;
    p.epilogue = description.epilogue;
    p.tf32 = description.compute == kCompute32FTf32;
    p.bias = description.bias;
    p.bias_type = description.bias_type < 0 ? d.type : description.bias_type;
    return p;
}

bool well_formed(const Matrix& matrix) {
    return matrix.leading > 0 && static_cast<uint64_t>(matrix.leading) >= matrix.rows && matrix.batch > 0;
}

unsigned check_shapes(const Problem& p) {
    for (const Matrix* matrix : {&p.a, &p.b, &p.c, &p.d}) {
        if (!well_formed(*matrix) || matrix->batch != p.d.batch) return kInvalidValue;
    }
    const uint64_t m = p.transpose_a ? p.a.columns : p.a.rows, n = p.transpose_b ? p.b.rows : p.b.columns;
    const uint64_t k = p.transpose_b ? p.b.columns : p.b.rows;
    if (m != p.m() || n != p.n() || k != p.k() || p.c.rows != m || p.c.columns != n) return kInvalidValue;
    return m == 0 || n == 0 || k == 0 ? kInvalidValue : kOk;
}

// The library's tables of supported types and epilogues.
unsigned check_support(const Description& description, const Problem& p) {
    if (description.compute != kCompute32F && description.compute != kCompute32FTf32) return kNotSupported;
    if (description.scale != gemm::kF32 || !known(p.epilogue)) return kNotSupported;
    if (p.a.type != p.b.type || p.c.type != p.d.type) return kNotSupported;
    if (p.a.type == gemm::kF32 && p.d.type == gemm::kBf16) return kNotSupported;
    if (description.compute == kCompute32FTf32 && p.a.type != gemm::kF32) return kNotSupported;
    if ((p.epilogue & gemm::kSumA && p.transpose_a) || (p.epilogue & gemm::kSumB && !p.transpose_b)) return kNotSupported;
    return (p.bias_length() > 0 ? p.bias_type == p.d.type : p.bias == 0) ? kOk : kInvalidValue;
}

unsigned check(const Description& description, const Problem& p) {
    const unsigned status = check_shapes(p);
    return status == kOk ? check_support(description, p) : status;
}

// Hash of a problem (FNV-1a).
uint64_t fingerprint(const Problem& p) {
    uint64_t hash = 0xcbf29ce484222325;
    const auto add = [&](uint64_t value) {
        for (int i = 0; i < 8; ++i) hash = (hash ^ (value >> 8 * i & 255)) * 0x100000001b3;
    };
    for (const Matrix* matrix : {&p.a, &p.b, &p.c, &p.d}) {
        for (uint64_t value : {uint64_t(matrix->type), matrix->rows, matrix->columns, uint64_t(matrix->leading),
                               uint64_t(matrix->batch), uint64_t(matrix->batch_stride)}) {
            add(value);
        }
    }
    for (uint64_t value : {uint64_t(p.transpose_a), uint64_t(p.transpose_b), uint64_t(p.epilogue)}) add(value);
    return hash;
}

// Returns whether the matrix, with its whole batch, lies in device memory.
bool on_device(const Matrix& matrix) {
    const int64_t last = matrix.offset(matrix.rows - 1, matrix.columns - 1) + (matrix.batch - 1) * matrix.batch_stride;
    return driver::on_device(matrix.address, static_cast<size_t>(last + 1) * gemm::bytes_of(matrix.type));
}

bool is_in_device_memory(const Problem& p) {
    if (!on_device(p.a) || !on_device(p.b) || !on_device(p.d) || (p.beta != 0.0f && !on_device(p.c))) return false;
    return driver::on_device(p.bias, p.bias_length() * gemm::bytes_of(p.bias_type));
}

bool aligned(const Problem& p, const Algorithm& algorithm) {
    const Matrix* all[] = {&p.a, &p.b, &p.c, &p.d};
    for (int i = 0; i < 4; ++i) {
        if (i == 2 && p.beta == 0.0f) continue;
        if (all[i]->address % algorithm.alignment[i] != 0) return false;
    }
    return true;
}

unsigned refuse(const char* reason) { return driver::failure(kInvalidValue, std::string("cublasLtMatmul: ") + reason); }

unsigned check_algorithm(const Problem& p, const Algorithm& algorithm, uintptr_t workspace, size_t bytes) {
    if (algorithm.magic != kAlgorithm || algorithm.problem != fingerprint(p)) {
        return refuse("the algorithm was found for another problem");
    }
    if (!aligned(p, algorithm)) return refuse("a matrix is less aligned than was declared when the algorithm was found");
    if (p.bias_length() > 0 && p.bias % algorithm.bias_alignment != 0) {
        return refuse("the bias is less aligned than its address was when the algorithm was found");
    }
    if (bytes < algorithm.workspace) return refuse("the workspace is smaller than the algorithm needs");
    if (algorithm.workspace > 0 && (workspace % 256 != 0 || !driver::on_device(workspace, algorithm.workspace))) {
        return refuse("the workspace is not aligned to 256 bytes, or not in memory of the device");
    }
    return kOk;
}

}  // namespace

API const char* cublasLtGetStatusString(unsigned status) {
    switch (status) {
        case kOk: return "CUBLAS_STATUS_SUCCESS";
        case kNotInitialized: return "CUBLAS_STATUS_NOT_INITIALIZED";
        case kInvalidValue: return "CUBLAS_STATUS_INVALID_VALUE";
        case kExecutionFailed: return "CUBLAS_STATUS_EXECUTION_FAILED";
        case kNotSupported: return "CUBLAS_STATUS_NOT_SUPPORTED";
        default: return "CUBLAS_STATUS_UNKNOWN";
    }
}

API unsigned cublasLtCreate(void** handle) {
    ENTER;
    if (driver::context_error()) return kNotInitialized;
    *handle = handles.add(std::make_unique<char>());
    return kOk;
}

API unsigned cublasLtDestroy(void* handle) {
    ENTER;
    return handles.remove(handle) ? kOk : kNotInitialized;
}

API unsigned cublasLtMatmulDescCreate(void** handle, int32_t compute, int32_t scale) {
    ENTER;
    auto description = std::make_unique<Description>();
    description->compute = compute;
    description->scale = scale;
    *handle = descriptions.add(std::move(description));
    return kOk;
}

API unsigned cublasLtMatmulDescDestroy(void* handle) {
    ENTER;
    return descriptions.remove(handle) ? kOk : kInvalidValue;
}

API unsigned cublasLtMatmulDescSetAttribute(void* handle, unsigned attribute, const void* value, size_t bytes) {
    ENTER;
    Description* description = descriptions.find(handle);
    if (description == nullptr) return kInvalidValue;
    switch (attribute) {
        case 3: return set(description->transpose_a, value, bytes);
        case 4: return set(description->transpose_b, value, bytes);
        case 7: return set(description->epilogue, value, bytes);
        case 8: return set(description->bias, value, bytes);
        case 26: return set(description->bias_type, value, bytes);
        default: return kInvalidValue;
    }
}

API unsigned cublasLtMatrixLayoutCreate(void** handle, int32_t type, uint64_t rows, uint64_t columns, int64_t leading) {
    ENTER;
    auto matrix = std::make_unique<Matrix>();
    matrix->type = type;
    matrix->rows = rows;
    matrix->columns = columns;
    matrix->leading = leading;
    if (!known_type(type)) return kNotSupported;
    *handle = matrices.add(std::move(matrix));
    return kOk;
}

API unsigned cublasLtMatrixLayoutDestroy(void* handle) {
    ENTER;
    return matrices.remove(handle) ? kOk : kInvalidValue;
}

API unsigned cublasLtMatrixLayoutSetAttribute(void* handle, unsigned attribute, const void* value, size_t bytes) {
    ENTER;
    Matrix* matrix = matrices.find(handle);
    if (matrix == nullptr) return kInvalidValue;
    switch (attribute) {
        case 5: return set(matrix->batch, value, bytes);
        case 6: return set(matrix->batch_stride, value, bytes);
        default: return kInvalidValue;
    }
}

API unsigned cublasLtMatmulPreferenceCreate(void** handle) {
    ENTER;
    *handle = preferences.add(std::make_unique<Preference>());
    return kOk;
}

API unsigned cublasLtMatmulPreferenceDestroy(void* handle) {
    ENTER;
    return preferences.remove(handle) ? kOk : kInvalidValue;
}

API unsigned cublasLtMatmulPreferenceSetAttribute(void* handle, unsigned attribute, const void* value, size_t bytes) {
    ENTER;
    Preference* preference = preferences.find(handle);
    if (preference == nullptr) return kInvalidValue;
    if (attribute == 1) return set(preference->workspace, value, bytes);
    if (attribute == 3) return set(preference->reductions, value, bytes);
    return attribute >= 5 && attribute <= 8 ? set(preference->alignment[attribute - 5], value, bytes) : kInvalidValue;
}

API unsigned cublasLtMatmulAlgoGetHeuristic(void* handle, void* description_handle, void* a_handle, void* b_handle,
                                            void* c_handle, void* d_handle, void* preference_handle, int requested,
                                            Result* results, int* found) {
    ENTER;
    const Description* description = descriptions.find(description_handle);
    const Matrix *a = matrices.find(a_handle), *b = matrices.find(b_handle);
    const Matrix *c = matrices.find(c_handle), *d = matrices.find(d_handle);
    const Preference* preference = preferences.find(preference_handle);
    if (handles.find(handle) == nullptr) return kNotInitialized;
    if (!description || !a || !b || !c || !d || !preference || requested < 1 || !results || !found) return kInvalidValue;
    *found = 0;
    const Problem problem = problem_of(*description, *a, *b, *c, *d);
    if (const unsigned status = check(*description, problem)) return status;
    if (d->type == gemm::kBf16 && (preference->reductions & ~kReductionInF32) != 0) return kNotSupported;
    const Matrix* all[] = {a, b, c, d};
    Result result{};
    result.algorithm.magic = kAlgorithm;
    result.algorithm.workspace = result.workspace = std::min<uint64_t>(preference->workspace, kWorkspace);
    result.algorithm.problem = fingerprint(problem);
    // The alignment of the bias is that of its address; a null address counts as 256.
    result.algorithm.bias_alignment = problem.bias == 0 ? 256 : problem.bias & -problem.bias;
    result.waves = 1.0f;
    for (int i = 0; i < 4; ++i) {
        const uint32_t alignment = preference->alignment[i];
        if (alignment < gemm::bytes_of(all[i]->type) || (alignment & (alignment - 1)) != 0) return kNotSupported;
        result.algorithm.alignment[i] = static_cast<uint16_t>(std::min(alignment, 256u));
    }
    *found = std::min(requested, kAlgorithms);
    std::fill(results, results + *found, result);
    return kOk;
}

API unsigned cublasLtMatmul(void* handle, void* description_handle, const float* alpha, const void* a, void* a_handle,
                            const void* b, void* b_handle, const float* beta, const void* c, void* c_handle, void* d,
                            void* d_handle, const Algorithm* algorithm, void* workspace, size_t workspace_bytes,
                            driver::StreamHandle stream) {
    ENTER;
    if (handles.find(handle) == nullptr || driver::context_error()) return kNotInitialized;
    const Description* description = descriptions.find(description_handle);
    const Matrix *as = matrices.find(a_handle), *bs = matrices.find(b_handle);
    const Matrix *cs = matrices.find(c_handle), *ds = matrices.find(d_handle);
    if (!description || !as || !bs || !cs || !ds || !alpha || !beta) return kInvalidValue;
    Problem problem = problem_of(*description, *as, *bs, *cs, *ds);
    if (const unsigned status = check(*description, problem)) return status;
    problem.a.address = reinterpret_cast<uintptr_t>(a);
    problem.b.address = reinterpret_cast<uintptr_t>(b);
    problem.c.address = reinterpret_cast<uintptr_t>(c);
    problem.d.address = reinterpret_cast<uintptr_t>(d);
    problem.alpha = *alpha;
    problem.beta = *beta;
    if (!is_in_device_memory(problem)) return refuse("a matrix or vector is not all in memory of the device");
    size_t scratch = 0;
    if (algorithm != nullptr) {
        if (const unsigned status = check_algorithm(problem, *algorithm, reinterpret_cast<uintptr_t>(workspace), workspace_bytes)) {
            return status;
        }
        scratch = algorithm->workspace;
    }
    if (description->epilogue != gemm::kDefault) driver::clock() += 1000 * driver::setting("EMULATED_CUBLASLT_EPILOGUE", 0);
    const unsigned code = driver::submit(stream, [=] {
        if (scratch > 0) std::memset(workspace, 0xFF, scratch);
        gemm::run(problem);
        return unsigned{kOk};
    });
    return code == driver::kSuccess ? kOk : driver::failure(kExecutionFailed, "cublasLtMatmul: " + std::to_string(code));
}
