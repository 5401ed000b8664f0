//! Matrix products on the device, with operands at any address.

use transdiff_core::{DType, Error, Result};

use crate::cublaslt::{Addresses, Epilogue, MatmulProblem, Matrix};
use crate::device::{Cuda, Memory, aligned};

/// Product C ← A B of `batch` pairs of matrices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gemm {
    /// Type of A and B.
    pub(crate) dtype: DType,
    /// Type of C.
    pub(crate) result: DType,
    pub(crate) a: Operand,
    pub(crate) b: Operand,
    /// Each row is contiguous.
    pub(crate) c: Operand,
    pub(crate) batch: usize,
}

/// A matrix and its address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand {
    pub(crate) matrix: Matrix,
    pub(crate) address: u64,
}

impl Operand {
    /// Contiguous matrix [rows, cols].
    pub(crate) fn new(address: u64, rows: usize, cols: usize) -> Self {
        Self { matrix: Matrix::new(rows, cols), address }
    }

    /// The transpose.
    pub(crate) fn t(self) -> Self {
        Self { matrix: self.matrix.t(), ..self }
    }

    /// Number of elements from the first to the last, inclusive.
    fn extent(&self, batch: usize) -> usize {
        let Matrix { rows, cols, stride, batch_stride, .. } = self.matrix;
        (batch - 1) * batch_stride + (rows - 1) * stride + cols
    }
}

impl Gemm {
    fn problem(&self, cuda: &Cuda, epilogue: Epilogue) -> MatmulProblem {
        MatmulProblem {
            dtype: self.dtype,
            result: self.result,
            tf32: self.dtype == DType::F32 && cuda.tf32(),
            a: self.a.matrix,
            b: self.b.matrix,
            c: self.c.matrix,
            batch: self.batch,
            epilogue,
        }
    }

    /// Enqueues the product with an epilogue and its vector (address and length), or calls `unfused`, which enqueues the product
    /// and other kernels that write the same outputs, if cuBLASLt does not support the epilogue for this product. An epilogue
    /// that does more than add a bias is timed against `unfused` when the product first occurs outside of a capture, because
    /// some are reported to be slower. No size may be 0.
    pub(crate) fn run_fused_or(
        &self,
        cuda: &Cuda,
        op: &'static str,
        epilogue: Epilogue,
        vector: (u64, usize),
        unfused: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let run = || self.run(cuda, op, epilogue, vector);
        if !epilogue.is_timed() {
            return if run()? { Ok(()) } else { unfused() };
        }
        // No other thread enqueues work while products are timed.
        let _guard = cuda.lock(op)?;
        let (problem, blas) = (self.problem(cuda, epilogue), &cuda.device.blas);
        let known = blas.is_fused(&problem);
        if known == Some(false) || !run()? {
            return unfused();
        }
        if known.is_some() || cuda.is_capturing() {
            return Ok(());
        }
        let driver = &cuda.device.driver;
        let fused = driver.time(op, || run().map(drop))?;
        let unfused = match driver.time(op, &unfused) {
            // There is no memory for what the other kernels store in between.
            Err(Error::OutOfMemory { .. }) => f32::INFINITY,
            milliseconds => milliseconds?,
        };
        // The kernels of `unfused` have overwritten the outputs.
        if blas.set_times(problem, fused, unfused) { run().map(drop) } else { Ok(()) }
    }

    /// Enqueues the product with an epilogue and its vector. Returns false, with nothing enqueued, if cuBLASLt does not support
    /// the epilogue for this product.
    fn run(&self, cuda: &Cuda, op: &'static str, epilogue: Epilogue, vector: (u64, usize)) -> Result<bool> {
        let bytes = |operand: &Operand, dtype: DType| operand.extent(self.batch) * dtype.size();
        // Algorithms are chosen for aligned addresses. A model's tensors are aligned; a view may begin anywhere.
        let reads_vector = matches!(epilogue, Epilogue::Bias | Epilogue::BiasGelu);
        // An aligned copy of C includes the gaps between its rows, which are copied back too.
        let c_has_gaps = self.c.matrix.stride != self.c.matrix.cols;
        let a = Aligned::new(cuda, op, self.a.address, bytes(&self.a, self.dtype), true)?;
        let b = Aligned::new(cuda, op, self.b.address, bytes(&self.b, self.dtype), true)?;
        let c = Aligned::new(cuda, op, self.c.address, bytes(&self.c, self.result), c_has_gaps)?;
        let v = Aligned::new(cuda, op, vector.0, vector.1 * self.result.size(), reads_vector)?;
        let problem = self.problem(cuda, epilogue);
        let at = Addresses { a: a.address(), b: b.address(), c: c.address(), vector: v.address() };
        let _guard = cuda.lock(op)?;
        let (driver, blas) = (&cuda.device.driver, &cuda.device.blas);
        if !blas.matmul(op, &problem, at, cuda.device.workspace, driver.raw_stream())? {
            return Ok(false);
        }
        c.copy_back(cuda, op)?;
        if !reads_vector {
            v.copy_back(cuda, op)?;
        }
        Ok(true)
    }

    /// Enqueues the product without an epilogue. No size may be 0.
    pub(crate) fn run_default(&self, cuda: &Cuda, op: &'static str) -> Result<()> {
        if self.run(cuda, op, Epilogue::None, (0, 0))? {
            return Ok(());
        }
        let [a, b] = [self.a.matrix, self.b.matrix];
        let refusal = cuda.device.blas.refusal(&self.problem(cuda, Epilogue::None));
        let message = format!(
            "cuBLASLt has no algorithm for {} products [{}, {}] x [{}, {}] in {}{}",
            self.batch,
            a.rows,
            a.cols,
            b.rows,
            b.cols,
            self.dtype,
            refusal.map(|refusal| format!(": {refusal}")).unwrap_or_default()
        );
        Err(Error::Backend { op, message })
    }
}

/// An operand at its own address, or an aligned copy of it.
struct Aligned {
    address: u64,
    bytes: usize,
    copy: Option<Memory>,
}

impl Aligned {
    fn new(cuda: &Cuda, op: &'static str, address: u64, bytes: usize, read: bool) -> Result<Self> {
        if aligned(&[address]) {
            return Ok(Self { address, bytes, copy: None });
        }
        let copy = cuda.scratch(op, bytes)?;
        if read {
            let _guard = cuda.lock(op)?;
            cuda.device.driver.copy(op, address, copy.address(), bytes)?;
        }
        Ok(Self { address, bytes, copy: Some(copy) })
    }

    fn address(&self) -> u64 {
        self.copy.as_ref().map_or(self.address, Memory::address)
    }

    fn copy_back(&self, cuda: &Cuda, op: &'static str) -> Result<()> {
        let Some(copy) = &self.copy else { return Ok(()) };
        cuda.device.driver.copy(op, copy.address(), self.address, self.bytes)
    }
}
