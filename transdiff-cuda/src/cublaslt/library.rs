//! Bindings of cuBLASLt: functions, structs and values of the header of CUDA 12 and 13.

use std::ffi::{CStr, c_char, c_int, c_void};

use crate::shared_library::functions;

pub(super) type Handle = *mut c_void;
pub(super) type Status = c_int;

functions! {
    "cuBLASLt";
    status_string: "cublasLtGetStatusString" (Status) -> *const c_char;
    create: "cublasLtCreate" (*mut Handle) -> Status;
    destroy: "cublasLtDestroy" (Handle) -> Status;
    desc_create: "cublasLtMatmulDescCreate" (*mut Handle, c_int, c_int) -> Status;
    desc_destroy: "cublasLtMatmulDescDestroy" (Handle) -> Status;
    desc_set: "cublasLtMatmulDescSetAttribute" (Handle, c_int, *const c_void, usize) -> Status;
    layout_create: "cublasLtMatrixLayoutCreate" (*mut Handle, c_int, u64, u64, i64) -> Status;
    layout_destroy: "cublasLtMatrixLayoutDestroy" (Handle) -> Status;
    layout_set: "cublasLtMatrixLayoutSetAttribute" (Handle, c_int, *const c_void, usize) -> Status;
    preference_create: "cublasLtMatmulPreferenceCreate" (*mut Handle) -> Status;
    preference_destroy: "cublasLtMatmulPreferenceDestroy" (Handle) -> Status;
    preference_set: "cublasLtMatmulPreferenceSetAttribute" (Handle, c_int, *const c_void, usize) -> Status;
    heuristic: "cublasLtMatmulAlgoGetHeuristic" (
        Handle, Handle, Handle, Handle, Handle, Handle, Handle, c_int, *mut Heuristic, *mut c_int
    ) -> Status;
    matmul: "cublasLtMatmul" (
        Handle, Handle, *const c_void, u64, Handle, u64, Handle, *const c_void, u64, Handle, u64, Handle,
        *const Algorithm, u64, usize, *mut c_void
    ) -> Status;
}

/// `cublasLtMatmulAlgo_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Algorithm(pub(super) [u64; 8]);

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Heuristic {
    pub(super) algorithm: Algorithm,
    pub(super) workspace: usize,
    pub(super) state: Status,
    pub(super) waves: f32,
    pub(super) reserved: [c_int; 4],
}

pub(super) mod values {
    use std::ffi::c_int;

    pub(crate) const INVALID_VALUE: c_int = 7;
    pub(crate) const ARCH_MISMATCH: c_int = 8;
    pub(crate) const NOT_SUPPORTED: c_int = 15;
    pub(crate) const R_32F: c_int = 0;
    pub(crate) const R_16BF: c_int = 14;
    pub(crate) const COMPUTE_32F: c_int = 68;
    pub(crate) const COMPUTE_32F_FAST_TF32: c_int = 77;
    pub(crate) const TRANSPOSED: c_int = 1;
    pub(crate) const DESC_TRANS: [c_int; 2] = [3, 4];
    pub(crate) const DESC_EPILOGUE: c_int = 7;
    pub(crate) const DESC_BIAS: c_int = 8;
    pub(crate) const DESC_BIAS_TYPE: c_int = 26;
    pub(crate) const LAYOUT_BATCH: c_int = 5;
    pub(crate) const LAYOUT_BATCH_STRIDE: c_int = 6;
    pub(crate) const PREFERENCE_WORKSPACE: c_int = 1;
    pub(crate) const PREFERENCE_REDUCTION: c_int = 3;
    pub(crate) const PREFERENCE_ALIGNMENT: [c_int; 4] = [5, 6, 7, 8];
    pub(crate) const REDUCTION_COMPUTE_TYPE: u32 = 2;
    pub(crate) const EPILOGUE_BIAS: c_int = 4;
    pub(crate) const EPILOGUE_GELU_BIAS: c_int = 36;
    pub(crate) const EPILOGUE_BGRADA: c_int = 256;
    pub(crate) const EPILOGUE_BGRADB: c_int = 512;
}

impl Functions {
    /// Error message for a status of `what`.
    pub(super) fn message(&self, what: &str, status: Status) -> String {
        // SAFETY: the function takes any value and returns a static string.
        let text = unsafe { (self.status_string)(status) };
        if text.is_null() {
            return format!("{what}: cuBLASLt status {status}");
        }
        // SAFETY: as above.
        let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
        format!("{what}: cuBLASLt status {status}, {text}")
    }
}
