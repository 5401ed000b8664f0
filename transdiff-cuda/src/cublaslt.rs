//! cuBLASLt, loaded at run time: products of row-major matrices with fused epilogues.
//!
//! The library is column-major. A row-major matrix [rows, cols] is, read as column-major, its transpose [cols, rows]
//! with the same leading dimension; so C = A B is computed as Cᵀ = Bᵀ Aᵀ, and the interface of this module is
//! row-major.

mod library;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
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
    /// Returns whether the epilogue is worth timing against separate kernels. A bias is one vector, which costs nothing.
    pub(crate) fn is_timed(self) -> bool {
        matches!(self, Self::BiasGelu | Self::RowSumsA | Self::ColumnSumsB)
    }
}

/// Returns whether a status means that the library refuses a product or an algorithm, and others may be tried: which of
/// these it returns depends on its version and on the function.
fn is_refusal(status: Status) -> bool {
    matches!(status, values::INVALID_VALUE | values::ARCH_MISMATCH | values::NOT_SUPPORTED)
}

/// Factor by which a fused product has to be slower than the unfused one to be replaced by it. Noise must not decide: results
/// differ, by rounding or, with GELU, by its tanh form.
const MARGIN: f32 = 1.25;

/// Algorithms that are asked for. The first that the library accepts is used.
const CANDIDATES: usize = 8;

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

impl fmt::Display for MatmulProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |m: &Matrix| format!("[{}, {}]{}", m.rows, m.cols, if m.transposed { "^T" } else { "" });
        write!(f, "{:?} of {} x {} in {}", self.epilogue, of(&self.a), of(&self.b), self.dtype)?;
        if self.batch > 1 { write!(f, ", {} times", self.batch) } else { Ok(()) }
    }
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
    plans: Mutex<HashMap<MatmulProblem, MatmulPlan>>,
    /// Milliseconds of fused and unfused products.
    times: Mutex<HashMap<MatmulProblem, [f32; 2]>>,
    handle: Handle,
    functions: Functions,
}

// SAFETY: the library documents that a handle may be used by several threads at a time.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}

/// The algorithms for a product, and its descriptors. Creating these costs more than enqueueing the product.
struct MatmulPlan {
    desc: Handle,
    /// Layouts of the library's A, B and C, which are our B, A and C.
    layouts: [Handle; 3],
    /// Algorithms that the library has not refused, the best last; empty if it does not support the product.
    algorithms: Vec<Heuristic>,
    /// Status of the last refusal.
    refusal: Option<Status>,
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
        Ok(Self { plans: Mutex::default(), times: Mutex::default(), handle, functions })
    }

    /// Returns whether a product is computed with its epilogue; `None` if that has not been timed.
    pub(crate) fn is_fused(&self, problem: &MatmulProblem) -> Option<bool> {
        self.times.lock().get(problem).map(|&times| is_fused(times))
    }

    /// Stores the milliseconds of a fused and of an unfused product; returns whether it is fused from now on.
    pub(crate) fn set_times(&self, problem: MatmulProblem, fused: f32, unfused: f32) -> bool {
        self.times.lock().insert(problem, [fused, unfused]);
        is_fused([fused, unfused])
    }

    /// Message of the last refusal of a product.
    pub(crate) fn refusal(&self, problem: &MatmulProblem) -> Option<String> {
        let refusal = self.plans.lock().get(problem)?.refusal?;
        Some(self.functions.message("the last refusal", refusal))
    }

    /// Descriptions of the products that are not fused because their epilogues are slower.
    pub(crate) fn unfused_products(&self) -> Vec<String> {
        let times = self.times.lock();
        let unfused = times.iter().filter(|&(_, &times)| !is_fused(times));
        let mut lines: Vec<String> = unfused
            .map(|(problem, [fused, unfused])| {
                format!("{problem}: {fused:.3} ms fused, {unfused:.3} ms unfused")
            })
            .collect();
        lines.sort();
        lines
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
        let plan = match plans.entry(*problem) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(self.plan(op, problem)?),
        };
        if problem.epilogue != Epilogue::None && !plan.algorithms.is_empty() {
            // The descriptor belongs to the cached plan: the lock is held until the product is enqueued.
            let set = self.functions.desc_set;
            self.set(op, set, plan.desc, values::DESC_BIAS, &at.vector)?;
        }
        let (one, zero) = (1.0f32, 0.0f32);
        let [b, a, c] = plan.layouts;
        while let Some(found) = plan.algorithms.last() {
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
                    &found.algorithm,
                    workspace,
                    found.workspace,
                    stream,
                )
            };
            if !is_refusal(status) {
                return self.check(op, "cublasLtMatmul", status).map(|()| true);
            }
            plan.algorithms.pop();
            plan.refusal = Some(status);
        }
        Ok(false)
    }

    fn plan(&self, op: &'static str, problem: &MatmulProblem) -> Result<MatmulPlan> {
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
        let (algorithms, refusal) = match self.algorithms(op, &descriptors)? {
            Ok(algorithms) => (algorithms, None),
            Err(refusal) => (Vec::new(), Some(refusal)),
        };
        let plan = MatmulPlan { desc: descriptors.desc, layouts: descriptors.layouts, algorithms, refusal };
        std::mem::forget(descriptors); // owned by the plan
        Ok(plan)
    }

    /// Algorithms for a product, the library's first choice last, or the status with which it refuses the product.
    fn algorithms(
        &self,
        op: &'static str,
        descriptors: &Descriptors<'_>,
    ) -> Result<Result<Vec<Heuristic>, Status>> {
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
            let (mut found, mut count) = ([empty; CANDIDATES], 0);
            let [lb, la, lc] = descriptors.layouts;
            // SAFETY: handles of this library, pointers to as many results as are asked for, and to their number.
            let status = unsafe {
                (f.heuristic)(
                    self.handle,
                    descriptors.desc,
                    lb,
                    la,
                    lc,
                    lc,
                    preference,
                    CANDIDATES as c_int,
                    found.as_mut_ptr(),
                    &mut count,
                )
            };
            if is_refusal(status) {
                return Ok(Err(status));
            }
            self.check(op, "cublasLtMatmulAlgoGetHeuristic", status)?;
            let found = found.into_iter().take(count.max(0) as usize).filter(|found| found.state == 0);
            Ok(Ok(found.rev().collect()))
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

/// Returns whether a product with these times is computed with its epilogue.
fn is_fused([fused, unfused]: [f32; 2]) -> bool {
    fused <= MARGIN * unfused
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        let plans = std::mem::take(self.plans.get_mut());
        plans.into_values().for_each(|plan| self.discard(plan));
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
