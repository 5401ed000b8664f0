//! Bindings of cuBLASLt: functions, structs and values of the header of CUDA 12 and 13.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::ManuallyDrop;

use libloading::Library;

pub(super) type Handle = *mut c_void;
pub(super) type Status = c_int;

macro_rules! functions {
    ($($field:ident: $symbol:literal ($($argument:ty),*);)*) => {
        /// Functions of an open library.
        pub(super) struct Functions {
            status_string: unsafe extern "C" fn(Status) -> *const c_char,
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> Status,)*
        }

        impl Functions {
            /// # Safety
            /// The library is cuBLASLt.
            unsafe fn find(library: &Library) -> Result<Self, libloading::Error> {
                // SAFETY: these are the signatures of the functions of these names.
                unsafe {
                    Ok(Self {
                        status_string: *library.get(c"cublasLtGetStatusString".to_bytes_with_nul())?,
                        $($field: *library.get(concat!($symbol, "\0").as_bytes())?,)*
                    })
                }
            }
        }
    };
}

functions! {
    create: "cublasLtCreate" (*mut Handle);
    destroy: "cublasLtDestroy" (Handle);
    desc_create: "cublasLtMatmulDescCreate" (*mut Handle, c_int, c_int);
    desc_destroy: "cublasLtMatmulDescDestroy" (Handle);
    desc_set: "cublasLtMatmulDescSetAttribute" (Handle, c_int, *const c_void, usize);
    layout_create: "cublasLtMatrixLayoutCreate" (*mut Handle, c_int, u64, u64, i64);
    layout_destroy: "cublasLtMatrixLayoutDestroy" (Handle);
    layout_set: "cublasLtMatrixLayoutSetAttribute" (Handle, c_int, *const c_void, usize);
    preference_create: "cublasLtMatmulPreferenceCreate" (*mut Handle);
    preference_destroy: "cublasLtMatmulPreferenceDestroy" (Handle);
    preference_set: "cublasLtMatmulPreferenceSetAttribute" (Handle, c_int, *const c_void, usize);
    heuristic: "cublasLtMatmulAlgoGetHeuristic" (
        Handle, Handle, Handle, Handle, Handle, Handle, Handle, c_int, *mut Heuristic, *mut c_int
    );
    matmul: "cublasLtMatmul" (
        Handle, Handle, *const c_void, u64, Handle, u64, Handle, *const c_void, u64, Handle, u64, Handle,
        *const Algorithm, u64, usize, *mut c_void
    );
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
    /// Opens the library `name`; fails with a message if there is none.
    pub(super) fn open(name: &str) -> Result<Self, String> {
        // SAFETY: NVIDIA's library, which may be opened at any time.
        let library = unsafe { Library::new(name) }.map_err(|e| e.to_string())?;
        // Never closed: callbacks that it registers for the end of threads would be left dangling, and opening it again
        // takes as long as the first time.
        let library = ManuallyDrop::new(library);
        // SAFETY: the library is cuBLASLt.
        unsafe { Self::find(&library) }.map_err(|e| format!("{name}: {e}"))
    }

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
