//! cuBLASLt, loaded at run time: matrix products of row-major matrices, with what is fused to them.
//!
//! The library is column-major. A row-major matrix [rows, cols] is, read as column-major, its transpose [cols, rows]
//! with the same leading dimension; so C = A B is asked for as Cᵀ = Bᵀ Aᵀ, and everything here speaks row-major.

mod library;

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::ptr;

use library::{Algorithm, Functions, Handle, Heuristic, Status, values};
use parking_lot::Mutex;
use transdiff_core::{DType, Error, Result};

/// Bytes of scratch memory that a product may use: what NVIDIA recommends for Hopper.
pub(crate) const WORKSPACE: usize = 32 << 20;

/// What addresses are multiples of, in bytes; and that of the scratch memory.
const ALIGNMENT: u32 = 16;
const WORKSPACE_ALIGNMENT: u64 = 256;

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

impl Epilogue {
    /// Whether a status says that the library has no such epilogue for a product. Which of two it is depends on the
    /// library's version and on who finds out.
    fn is_refused(self, status: Status) -> bool {
        self != Self::None && matches!(status, values::INVALID_VALUE | values::NOT_SUPPORTED)
    }
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

/// The library, and what it knows of the products that were asked for so far.
pub(crate) struct CublasLt {
    /// `None` for a product that the library cannot do.
    plans: Mutex<HashMap<Product, Option<Plan>>>,
    handle: Handle,
    functions: Functions,
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
            // One that does not start is like one that is not there: a driver may be too old for the later one.
            match Self::open(name) {
                Ok(library) => return Ok(library),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(format!("cuBLASLt, a part of the CUDA toolkit, cannot be loaded: {}", reasons.join("; ")))
    }

    fn open(name: &str) -> Result<Self, String> {
        let functions = Functions::open(name)?;
        let mut handle = ptr::null_mut();
        // SAFETY: the pointer is valid.
        let status = unsafe { (functions.create)(&mut handle) };
        if status != 0 {
            return Err(format!("{name}: {}", functions.words("cublasLtCreate", status)));
        }
        Ok(Self { plans: Mutex::default(), handle, functions })
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
        debug_assert!(workspace.is_multiple_of(WORKSPACE_ALIGNMENT));
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
        if product.epilogue.is_refused(status) {
            plans.insert(*product, None);
            self.discard(plan);
            return Ok(false);
        }
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
            // No address yet, but what the vector's will be a multiple of: algorithms are chosen by that.
            self.set(op, f.desc_set, made.desc, values::DESC_BIAS, &u64::from(ALIGNMENT))?;
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
        let Some(found) = self.heuristic(op, &made, product.epilogue)? else { return Ok(None) };
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
    fn heuristic(&self, op: &'static str, made: &Made<'_>, epilogue: Epilogue) -> Result<Option<Heuristic>> {
        let f = &self.functions;
        let mut preference = ptr::null_mut();
        // SAFETY: the pointer is valid.
        let status = unsafe { (f.preference_create)(&mut preference) };
        self.check(op, "cublasLtMatmulPreferenceCreate", status)?;
        let ask = || {
            self.set(op, f.preference_set, preference, values::PREFERENCE_WORKSPACE, &(WORKSPACE as u64))?;
            // Where several blocks share a sum, its parts are added in f32, never in the product's type.
            let reduction = values::REDUCTION_COMPUTE_TYPE;
            self.set(op, f.preference_set, preference, values::PREFERENCE_REDUCTION, &reduction)?;
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
            let refused = status == values::NOT_SUPPORTED || epilogue.is_refused(status);
            if refused || (status == 0 && (count < 1 || found.state != 0)) {
                return Ok(None);
            }
            self.check(op, "cublasLtMatmulAlgoGetHeuristic", status).map(|()| Some(found))
        };
        let found = ask();
        // SAFETY: made above, and not used again.
        unsafe { (f.preference_destroy)(preference) };
        found
    }

    fn discard(&self, plan: Plan) {
        drop(Made { functions: &self.functions, desc: plan.desc, layouts: plan.layouts });
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
        let plans = std::mem::take(self.plans.get_mut());
        plans.into_values().flatten().for_each(|plan| self.discard(plan));
        // SAFETY: made by `open`, and not used again.
        unsafe { (self.functions.destroy)(self.handle) };
    }
}

impl fmt::Debug for CublasLt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CublasLt")
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
