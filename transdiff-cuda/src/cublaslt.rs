//! cuBLASLt, loaded at run time: products of row-major matrices with fused epilogues.
//!
//! The library is column-major. A row-major matrix [rows, cols] is, read as column-major, its transpose [cols, rows]
//! with the same leading dimension; so C = A B is computed as Cᵀ = Bᵀ Aᵀ, and the interface of this module is
//! row-major.

mod library;

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::fmt;
use std::ptr;

use library::{Algorithm, Functions, Handle, Heuristic, Status, values};
use parking_lot::Mutex;
use transdiff_core::{DType, Error, Result};

/// Bytes of workspace for a product: NVIDIA's recommendation for Hopper.
pub(crate) const WORKSPACE: usize = 32 << 20;

/// Alignment of matrices and vectors, and of the workspace, in bytes.
const ALIGNMENT: u32 = 16;
const WORKSPACE_ALIGNMENT: u64 = 256;

/// Epilogue: what is fused with a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Epilogue {
    None,
    /// Adds a bias per column.
    Bias,
    /// Adds a bias per column, then applies GELU in its tanh form.
    BiasGelu,
    /// Also computes the row sums of A: the bias gradient along with the weight gradient.
    RowSumsA,
    /// Also computes the column sums of B: the same for a column-major weight.
    ColumnSumsB,
}

impl Epilogue {
    /// Returns whether a status means that the library does not support the epilogue for a product. Which of two it
    /// returns depends on its version and on the function.
    fn is_unsupported(self, status: Status) -> bool {
        self != Self::None && matches!(status, values::INVALID_VALUE | values::NOT_SUPPORTED)
    }
}

/// A row-major matrix or its transpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Matrix {
    /// Rows and columns in memory, before the transpose.
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Elements between consecutive rows.
    pub(crate) stride: usize,
    /// Elements between consecutive matrices of a batch.
    pub(crate) batch_stride: usize,
    /// True if the operand is the transpose.
    pub(crate) transposed: bool,
}

impl Matrix {
    /// Contiguous [rows, cols].
    pub(crate) fn new(rows: usize, cols: usize) -> Self {
        Self { rows, cols, stride: cols.max(1), batch_stride: 0, transposed: false }
    }

    /// The transpose.
    pub(crate) fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }
}

/// A product C ← A B of `batch` pairs with `epilogue`: the key of the plan cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MatmulProblem {
    /// Type of A and B.
    pub(crate) dtype: DType,
    /// Type of C and of the epilogue's vector.
    pub(crate) result: DType,
    /// True if f32 operands may be rounded to TF32.
    pub(crate) tf32: bool,
    pub(crate) a: Matrix,
    pub(crate) b: Matrix,
    pub(crate) c: Matrix,
    pub(crate) batch: usize,
    pub(crate) epilogue: Epilogue,
}

/// Device addresses of the matrices and of the epilogue's vector, all multiples of 16, which algorithms are chosen for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) a: u64,
    pub(crate) b: u64,
    pub(crate) c: u64,
    pub(crate) vector: u64,
}

/// The library, with a cache of plans.
pub(crate) struct CublasLt {
    /// `None` for a product that the library does not support.
    plans: Mutex<HashMap<MatmulProblem, Option<MatmulPlan>>>,
    handle: Handle,
    functions: Functions,
}

// SAFETY: the library documents that a handle may be used by several threads at a time.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}

/// The algorithm for a product, and its descriptors. Creating these costs more than enqueueing the product.
#[derive(Clone, Copy)]
struct MatmulPlan {
    desc: Handle,
    /// Layouts of the library's A, B and C, which are our B, A and C.
    layouts: [Handle; 3],
    algorithm: Algorithm,
    workspace: usize,
}

impl CublasLt {
    /// Opens the library; fails with a message if there is none.
    pub(crate) fn load() -> Result<Self, String> {
        const NAMES: [&str; 2] = ["libcublasLt.so.13", "libcublasLt.so.12"];
        let mut reasons = Vec::new();
        for name in NAMES {
            // A version that fails to initialise is skipped too: the driver may be too old for the newer one.
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
            return Err(format!("{name}: {}", functions.message("cublasLtCreate", status)));
        }
        Ok(Self { plans: Mutex::default(), handle, functions })
    }

    /// Enqueues C ← A B with its epilogue on `stream`, with [`WORKSPACE`] bytes at `workspace`. Returns false if the
    /// library does not support it: not every epilogue is available for every type and layout.
    pub(crate) fn matmul(
        &self,
        op: &'static str,
        problem: &MatmulProblem,
        at: Addresses,
        workspace: u64,
        stream: *mut c_void,
    ) -> Result<bool> {
        debug_assert!(workspace.is_multiple_of(WORKSPACE_ALIGNMENT));
        let mut plans = self.plans.lock();
        let plan = match plans.get(problem) {
            Some(plan) => *plan,
            None => *plans.entry(*problem).or_insert(self.plan(op, problem)?),
        };
        let Some(plan) = plan else { return Ok(false) };
        if problem.epilogue != Epilogue::None {
            // The descriptor belongs to the cached plan: the lock is held until the product is enqueued.
            let set = self.functions.desc_set;
            self.set(op, set, plan.desc, values::DESC_BIAS, &at.vector)?;
        }
        let (one, zero) = (1.0f32, 0.0f32);
        let [b, a, c] = plan.layouts;
        // SAFETY: handles of this library, the caller's addresses, host scalars of the scale type.
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
        if problem.epilogue.is_unsupported(status) {
            plans.insert(*problem, None);
            self.discard(plan);
            return Ok(false);
        }
        self.check(op, "cublasLtMatmul", status).map(|()| true)
    }

    fn plan(&self, op: &'static str, problem: &MatmulProblem) -> Result<Option<MatmulPlan>> {
        let f = &self.functions;
        let data_type = |dtype| if dtype == DType::BF16 { values::R_16BF } else { values::R_32F };
        let (dtype, result) = (data_type(problem.dtype), data_type(problem.result));
        let compute = if problem.tf32 { values::COMPUTE_32F_FAST_TF32 } else { values::COMPUTE_32F };
        let mut descriptors =
            Descriptors { functions: f, desc: ptr::null_mut(), layouts: [ptr::null_mut(); 3] };
        // SAFETY: the pointer is valid.
        let status = unsafe { (f.desc_create)(&mut descriptors.desc, compute, values::R_32F) };
        self.check(op, "cublasLtMatmulDescCreate", status)?;
        for (matrix, attribute) in [problem.b, problem.a].iter().zip(values::DESC_TRANS) {
            if matrix.transposed {
                self.set(op, f.desc_set, descriptors.desc, attribute, &values::TRANSPOSED)?;
            }
        }
        let epilogue = match problem.epilogue {
            Epilogue::None => None,
            Epilogue::Bias => Some(values::EPILOGUE_BIAS),
            Epilogue::BiasGelu => Some(values::EPILOGUE_GELU_BIAS),
            Epilogue::RowSumsA => Some(values::EPILOGUE_BGRADB),
            Epilogue::ColumnSumsB => Some(values::EPILOGUE_BGRADA),
        };
        if let Some(epilogue) = epilogue {
            self.set(op, f.desc_set, descriptors.desc, values::DESC_EPILOGUE, &epilogue)?;
            self.set(op, f.desc_set, descriptors.desc, values::DESC_BIAS_TYPE, &result)?;
            // Not an address yet, but with its alignment, by which algorithms are chosen.
            self.set(op, f.desc_set, descriptors.desc, values::DESC_BIAS, &u64::from(ALIGNMENT))?;
        }
        let matrices = [(problem.b, dtype), (problem.a, dtype), (problem.c, result)];
        for (layout, (matrix, dtype)) in descriptors.layouts.iter_mut().zip(matrices) {
            let (rows, cols) = (matrix.cols as u64, matrix.rows as u64);
            // SAFETY: the pointer is valid.
            let status = unsafe { (f.layout_create)(layout, dtype, rows, cols, matrix.stride as i64) };
            self.check(op, "cublasLtMatrixLayoutCreate", status)?;
            self.set(op, f.layout_set, *layout, values::LAYOUT_BATCH, &(problem.batch as i32))?;
            self.set(op, f.layout_set, *layout, values::LAYOUT_BATCH_STRIDE, &(matrix.batch_stride as i64))?;
        }
        let Some(found) = self.heuristic(op, &descriptors, problem.epilogue)? else { return Ok(None) };
        let plan = MatmulPlan {
            desc: descriptors.desc,
            layouts: descriptors.layouts,
            algorithm: found.algorithm,
            workspace: found.workspace,
        };
        std::mem::forget(descriptors); // owned by the plan
        Ok(Some(plan))
    }

    /// The library's first choice of an algorithm; `None` if it has none.
    fn heuristic(
        &self,
        op: &'static str,
        descriptors: &Descriptors<'_>,
        epilogue: Epilogue,
    ) -> Result<Option<Heuristic>> {
        let f = &self.functions;
        let mut preference = ptr::null_mut();
        // SAFETY: the pointer is valid.
        let status = unsafe { (f.preference_create)(&mut preference) };
        self.check(op, "cublasLtMatmulPreferenceCreate", status)?;
        let query = || {
            self.set(op, f.preference_set, preference, values::PREFERENCE_WORKSPACE, &(WORKSPACE as u64))?;
            // Split-K partial sums are added in f32, never in the type of C.
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
            let [lb, la, lc] = descriptors.layouts;
            // SAFETY: handles of this library, pointers to one result.
            let status = unsafe {
                (f.heuristic)(
                    self.handle,
                    descriptors.desc,
                    lb,
                    la,
                    lc,
                    lc,
                    preference,
                    1,
                    &mut found,
                    &mut count,
                )
            };
            let unsupported = status == values::NOT_SUPPORTED || epilogue.is_unsupported(status);
            if unsupported || (status == 0 && (count < 1 || found.state != 0)) {
                return Ok(None);
            }
            self.check(op, "cublasLtMatmulAlgoGetHeuristic", status).map(|()| Some(found))
        };
        let found = query();
        // SAFETY: descriptors above, and not used again.
        unsafe { (f.preference_destroy)(preference) };
        found
    }

    fn discard(&self, plan: MatmulPlan) {
        drop(Descriptors { functions: &self.functions, desc: plan.desc, layouts: plan.layouts });
    }

    fn set<T>(
        &self,
        op: &'static str,
        setter: unsafe extern "C" fn(Handle, c_int, *const c_void, usize) -> Status,
        of: Handle,
        attribute: c_int,
        value: &T,
    ) -> Result<()> {
        // SAFETY: every caller passes a value of the attribute's type.
        let status = unsafe { setter(of, attribute, ptr::from_ref(value).cast(), size_of::<T>()) };
        self.check(op, "setting an attribute", status)
    }

    fn check(&self, op: &'static str, what: &str, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        Err(Error::Backend { op, message: self.functions.message(what, status) })
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        let plans = std::mem::take(self.plans.get_mut());
        plans.into_values().flatten().for_each(|plan| self.discard(plan));
        // SAFETY: descriptors by `open`, and not used again.
        unsafe { (self.functions.destroy)(self.handle) };
    }
}

impl fmt::Debug for CublasLt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CublasLt")
    }
}

/// Descriptors of a product, destroyed on drop.
struct Descriptors<'a> {
    functions: &'a Functions,
    desc: Handle,
    layouts: [Handle; 3],
}

impl Drop for Descriptors<'_> {
    fn drop(&mut self) {
        for layout in self.layouts.into_iter().filter(|layout| !layout.is_null()) {
            // SAFETY: descriptors by the library, and not used again.
            unsafe { (self.functions.layout_destroy)(layout) };
        }
        if !self.desc.is_null() {
            // SAFETY: as above.
            unsafe { (self.functions.desc_destroy)(self.desc) };
        }
    }
}
