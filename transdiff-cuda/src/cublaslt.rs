//! cuBLASLt, loaded at run time: matrix products of row-major matrices, with what is fused to them.
//!
//! The library is column-major. A row-major matrix [rows, cols] is, read as column-major, its transpose [cols, rows]
//! with the same leading dimension; so C = A B is asked for as Cᵀ = Bᵀ Aᵀ, and everything here speaks row-major.
//!
//! Declarations and values: the cuBLASLt header of CUDA 12 and 13.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::ptr;

use libloading::Library;
use parking_lot::Mutex;
use transdiff_core::{DType, Error, Result};

/// Bytes of scratch memory that a product may use: what NVIDIA recommends for Hopper.
pub(crate) const WORKSPACE: usize = 32 << 20;

/// What addresses are multiples of, in bytes.
const ALIGNMENT: u32 = 16;

type Handle = *mut c_void;
type Status = c_int;

/// What is done to a product before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Epilogue {
    None,
    /// Adds a value to every column.
    Bias,
    /// GELU of the sum with a value for every column, in the form with the hyperbolic tangent.
    BiasGelu,
    /// Also sums the rows of the left factor, each to a number: the gradient of a bias beside that of its weight.
    SumLeft,
    /// Also sums the columns of the right factor: the same for a weight that lies the other way round.
    SumRight,
}

/// A row-major matrix or its transpose, of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Matrix {
    /// Rows and columns as they lie in memory.
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Elements from a row to the next.
    pub(crate) stride: usize,
    /// Elements from a matrix to the next in a batch.
    pub(crate) batch_stride: usize,
    /// Whether its transpose is meant.
    pub(crate) transposed: bool,
}

impl Matrix {
    /// [rows, cols] without gaps.
    pub(crate) fn new(rows: usize, cols: usize) -> Self {
        Self { rows, cols, stride: cols.max(1), batch_stride: 0, transposed: false }
    }

    /// Its transpose.
    pub(crate) fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }
}

/// A product C ← A B of `batch` pairs, with `epilogue`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Product {
    /// Of the factors.
    pub(crate) dtype: DType,
    /// Of the product and of the epilogue's vector.
    pub(crate) result: DType,
    /// Whether f32 may be rounded to 10 bits of mantissa on the way, which tensor cores want.
    pub(crate) tf32: bool,
    pub(crate) a: Matrix,
    pub(crate) b: Matrix,
    pub(crate) c: Matrix,
    pub(crate) batch: usize,
    pub(crate) epilogue: Epilogue,
}

/// Device addresses of a product's matrices, and of the vector of its epilogue, all multiples of 16: algorithms are
/// chosen for that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands {
    pub(crate) a: u64,
    pub(crate) b: u64,
    pub(crate) c: u64,
    pub(crate) vector: u64,
}

macro_rules! functions {
    ($($field:ident: $symbol:literal ($($argument:ty),*);)*) => {
        struct Functions {
            status_string: unsafe extern "C" fn(Status) -> *const c_char,
            $($field: unsafe extern "C" fn($($argument),*) -> Status,)*
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
struct Algorithm([u64; 8]);

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Heuristic {
    algorithm: Algorithm,
    workspace: usize,
    state: Status,
    waves: f32,
    reserved: [c_int; 4],
}

mod values {
    use std::ffi::c_int;

    pub(super) const NOT_SUPPORTED: c_int = 15;
    pub(super) const R_32F: c_int = 0;
    pub(super) const R_16BF: c_int = 14;
    pub(super) const COMPUTE_32F: c_int = 68;
    pub(super) const COMPUTE_32F_FAST_TF32: c_int = 77;
    pub(super) const TRANSPOSED: c_int = 1;
    pub(super) const DESC_TRANS: [c_int; 2] = [3, 4];
    pub(super) const DESC_EPILOGUE: c_int = 7;
    pub(super) const DESC_BIAS: c_int = 8;
    pub(super) const DESC_BIAS_TYPE: c_int = 26;
    pub(super) const LAYOUT_BATCH: c_int = 5;
    pub(super) const LAYOUT_BATCH_STRIDE: c_int = 6;
    pub(super) const PREFERENCE_WORKSPACE: c_int = 1;
    pub(super) const PREFERENCE_ALIGNMENT: [c_int; 4] = [5, 6, 7, 8];
    pub(super) const EPILOGUE_BIAS: c_int = 4;
    pub(super) const EPILOGUE_GELU_BIAS: c_int = 36;
    pub(super) const EPILOGUE_SUM_A: c_int = 256;
    pub(super) const EPILOGUE_SUM_B: c_int = 512;
}

/// The library, and what it knows of the products that were asked for so far.
pub(crate) struct CublasLt {
    /// `None` for a product that the library cannot do.
    plans: Mutex<HashMap<Product, Option<Plan>>>,
    handle: Handle,
    functions: Functions,
    // Last: the functions are its.
    _library: Library,
}

// SAFETY: the handle may be used by several threads at a time, as the library documents.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}

/// What the library chose for a product. Descriptors are kept: making them costs more than asking for a product.
#[derive(Clone, Copy)]
struct Plan {
    desc: Handle,
    /// Layouts of the library's A, B and C: ours of B, A and C.
    layouts: [Handle; 3],
    algorithm: Algorithm,
    workspace: usize,
}

impl CublasLt {
    /// Opens the library. The reason in words if there is none.
    pub(crate) fn load() -> Result<Self, String> {
        const NAMES: [&str; 2] = ["libcublasLt.so.13", "libcublasLt.so.12"];
        let mut reasons = Vec::new();
        for name in NAMES {
            // SAFETY: NVIDIA's library, which may be opened at any time.
            match unsafe { Library::new(name) } {
                Ok(library) => return Self::open(library).map_err(|reason| format!("{name}: {reason}")),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(format!("cuBLASLt, a part of the CUDA toolkit, cannot be loaded: {}", reasons.join("; ")))
    }

    fn open(library: Library) -> Result<Self, String> {
        // SAFETY: the library is cuBLASLt.
        let functions = unsafe { Functions::find(&library) }.map_err(|e| e.to_string())?;
        let mut handle = ptr::null_mut();
        // SAFETY: the pointer is valid.
        let status = unsafe { (functions.create)(&mut handle) };
        if status != 0 {
            return Err(functions.words("cublasLtCreate", status));
        }
        Ok(Self { plans: Mutex::default(), handle, functions, _library: library })
    }

    /// C ← A B and its epilogue, on the stream `stream`, with [`WORKSPACE`] bytes at `workspace`. False if the library
    /// cannot do it: not every epilogue goes with every type and layout.
    pub(crate) fn matmul(
        &self,
        op: &'static str,
        product: &Product,
        at: Operands,
        workspace: u64,
        stream: *mut c_void,
    ) -> Result<bool> {
        let mut plans = self.plans.lock();
        let plan = match plans.get(product) {
            Some(plan) => *plan,
            None => *plans.entry(*product).or_insert(self.plan(op, product)?),
        };
        let Some(plan) = plan else { return Ok(false) };
        if product.epilogue != Epilogue::None {
            // The descriptor is the plan's: it changes under the lock that is held until the product is asked for.
            let set = self.functions.desc_set;
            self.set(op, set, plan.desc, values::DESC_BIAS, &at.vector)?;
        }
        let (one, zero) = (1.0f32, 0.0f32);
        let [b, a, c] = plan.layouts;
        // SAFETY: handles of this library, addresses of the caller's, host scalars of the scale type.
        let status = unsafe {
            (self.functions.matmul)(
                self.handle,
                plan.desc,
                ptr::from_ref(&one).cast(),
                at.b,
                b,
                at.a,
                a,
                ptr::from_ref(&zero).cast(),
                at.c,
                c,
                at.c,
                c,
                &plan.algorithm,
                workspace,
                plan.workspace,
                stream,
            )
        };
        self.check(op, "cublasLtMatmul", status).map(|()| true)
    }

    fn plan(&self, op: &'static str, product: &Product) -> Result<Option<Plan>> {
        let f = &self.functions;
        let of = |dtype| if dtype == DType::BF16 { values::R_16BF } else { values::R_32F };
        let (dtype, result) = (of(product.dtype), of(product.result));
        let compute = if product.tf32 { values::COMPUTE_32F_FAST_TF32 } else { values::COMPUTE_32F };
        let mut made = Made { functions: f, desc: ptr::null_mut(), layouts: [ptr::null_mut(); 3] };
        // SAFETY: the pointer is valid.
        let status = unsafe { (f.desc_create)(&mut made.desc, compute, values::R_32F) };
        self.check(op, "cublasLtMatmulDescCreate", status)?;
        for (matrix, attribute) in [product.b, product.a].iter().zip(values::DESC_TRANS) {
            if matrix.transposed {
                self.set(op, f.desc_set, made.desc, attribute, &values::TRANSPOSED)?;
            }
        }
        let epilogue = match product.epilogue {
            Epilogue::None => None,
            Epilogue::Bias => Some(values::EPILOGUE_BIAS),
            Epilogue::BiasGelu => Some(values::EPILOGUE_GELU_BIAS),
            Epilogue::SumLeft => Some(values::EPILOGUE_SUM_B),
            Epilogue::SumRight => Some(values::EPILOGUE_SUM_A),
        };
        if let Some(epilogue) = epilogue {
            self.set(op, f.desc_set, made.desc, values::DESC_EPILOGUE, &epilogue)?;
            self.set(op, f.desc_set, made.desc, values::DESC_BIAS_TYPE, &result)?;
        }
        let matrices = [(product.b, dtype), (product.a, dtype), (product.c, result)];
        for (layout, (matrix, dtype)) in made.layouts.iter_mut().zip(matrices) {
            let (rows, cols) = (matrix.cols as u64, matrix.rows as u64);
            // SAFETY: the pointer is valid.
            let status = unsafe { (f.layout_create)(layout, dtype, rows, cols, matrix.stride as i64) };
            self.check(op, "cublasLtMatrixLayoutCreate", status)?;
            self.set(op, f.layout_set, *layout, values::LAYOUT_BATCH, &(product.batch as i32))?;
            self.set(op, f.layout_set, *layout, values::LAYOUT_BATCH_STRIDE, &(matrix.batch_stride as i64))?;
        }
        let Some(found) = self.heuristic(op, &made)? else { return Ok(None) };
        let plan = Plan {
            desc: made.desc,
            layouts: made.layouts,
            algorithm: found.algorithm,
            workspace: found.workspace,
        };
        std::mem::forget(made); // they are the plan's now
        Ok(Some(plan))
    }

    /// The library's first choice; `None` if it has none.
    fn heuristic(&self, op: &'static str, made: &Made<'_>) -> Result<Option<Heuristic>> {
        let f = &self.functions;
        let mut preference = ptr::null_mut();
        // SAFETY: the pointer is valid.
        let status = unsafe { (f.preference_create)(&mut preference) };
        self.check(op, "cublasLtMatmulPreferenceCreate", status)?;
        let ask = || {
            self.set(op, f.preference_set, preference, values::PREFERENCE_WORKSPACE, &(WORKSPACE as u64))?;
            for attribute in values::PREFERENCE_ALIGNMENT {
                self.set(op, f.preference_set, preference, attribute, &ALIGNMENT)?;
            }
            let empty = Heuristic {
                algorithm: Algorithm([0; 8]),
                workspace: 0,
                state: 0,
                waves: 0.0,
                reserved: [0; 4],
            };
            let (mut found, mut count) = (empty, 0);
            let [lb, la, lc] = made.layouts;
            // SAFETY: handles of this library, pointers to one result.
            let status = unsafe {
                (f.heuristic)(self.handle, made.desc, lb, la, lc, lc, preference, 1, &mut found, &mut count)
            };
            if status == values::NOT_SUPPORTED || (status == 0 && (count < 1 || found.state != 0)) {
                return Ok(None);
            }
            self.check(op, "cublasLtMatmulAlgoGetHeuristic", status).map(|()| Some(found))
        };
        let found = ask();
        // SAFETY: made above, and not used again.
        unsafe { (f.preference_destroy)(preference) };
        found
    }

    fn set<T>(
        &self,
        op: &'static str,
        setter: unsafe extern "C" fn(Handle, c_int, *const c_void, usize) -> Status,
        of: Handle,
        attribute: c_int,
        value: &T,
    ) -> Result<()> {
        // SAFETY: the value is of the type that the attribute has, as every caller sees to.
        let status = unsafe { setter(of, attribute, ptr::from_ref(value).cast(), size_of::<T>()) };
        self.check(op, "setting an attribute", status)
    }

    fn check(&self, op: &'static str, what: &str, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        Err(Error::Backend { op, message: self.functions.words(what, status) })
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        for plan in self.plans.get_mut().drain().filter_map(|(_, plan)| plan) {
            drop(Made { functions: &self.functions, desc: plan.desc, layouts: plan.layouts });
        }
        // SAFETY: made by `open`, and not used again.
        unsafe { (self.functions.destroy)(self.handle) };
    }
}

impl fmt::Debug for CublasLt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CublasLt")
    }
}

impl Functions {
    fn words(&self, what: &str, status: Status) -> String {
        // SAFETY: the function takes any number and returns a static string.
        let words = unsafe { (self.status_string)(status) };
        if words.is_null() {
            return format!("{what}: cuBLASLt status {status}");
        }
        // SAFETY: as above.
        let words = unsafe { CStr::from_ptr(words) }.to_string_lossy();
        format!("{what}: cuBLASLt status {status}, {words}")
    }
}

/// Descriptors, destroyed when they are dropped.
struct Made<'a> {
    functions: &'a Functions,
    desc: Handle,
    layouts: [Handle; 3],
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        for layout in self.layouts.into_iter().filter(|layout| !layout.is_null()) {
            // SAFETY: made by the library, and not used again.
            unsafe { (self.functions.layout_destroy)(layout) };
        }
        if !self.desc.is_null() {
            // SAFETY: as above.
            unsafe { (self.functions.desc_destroy)(self.desc) };
        }
    }
}
