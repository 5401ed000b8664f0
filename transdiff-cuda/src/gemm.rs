//! Matrix products on the device, at any address.

use transdiff_core::{DType, Error, Result};

use crate::cublaslt::{Epilogue, Matrix, Operands, Product};
use crate::device::{Cuda, Memory, aligned};

/// C ← A B of `batch` pairs of matrices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gemm {
    /// Of the factors.
    pub(crate) dtype: DType,
    /// Of the product.
    pub(crate) result: DType,
    pub(crate) a: Factor,
    pub(crate) b: Factor,
    /// Rows without gaps in them.
    pub(crate) c: Factor,
    pub(crate) batch: usize,
}

/// A matrix and where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factor {
    pub(crate) matrix: Matrix,
    pub(crate) address: u64,
}

impl Factor {
    /// A matrix [rows, cols] without gaps.
    pub(crate) fn new(address: u64, rows: usize, cols: usize) -> Self {
        Self { matrix: Matrix::new(rows, cols), address }
    }

    /// Its transpose.
    pub(crate) fn t(self) -> Self {
        Self { matrix: self.matrix.t(), ..self }
    }

    /// Elements from the first to behind the last.
    fn extent(&self, batch: usize) -> usize {
        let Matrix { rows, cols, stride, batch_stride, .. } = self.matrix;
        (batch - 1) * batch_stride + (rows - 1) * stride + cols
    }
}

impl Gemm {
    /// The product, with the vector of the epilogue: its address and its length. False if cuBLASLt has no such epilogue
    /// for it; then nothing was done. No size is 0.
    pub(crate) fn run(
        &self,
        cuda: &Cuda,
        op: &'static str,
        epilogue: Epilogue,
        vector: (u64, usize),
    ) -> Result<bool> {
        let bytes = |factor: &Factor, dtype: DType| factor.extent(self.batch) * dtype.size();
        // Algorithms are chosen for aligned addresses. Those of a model's tensors are; a view may begin anywhere.
        let reads_vector = matches!(epilogue, Epilogue::Bias | Epilogue::BiasGelu);
        // What is between the rows of the product comes back with them.
        let c_has_gaps = self.c.matrix.stride != self.c.matrix.cols;
        let a = Aligned::new(cuda, op, self.a.address, bytes(&self.a, self.dtype), true)?;
        let b = Aligned::new(cuda, op, self.b.address, bytes(&self.b, self.dtype), true)?;
        let c = Aligned::new(cuda, op, self.c.address, bytes(&self.c, self.result), c_has_gaps)?;
        let v = Aligned::new(cuda, op, vector.0, vector.1 * self.result.size(), reads_vector)?;
        let product = Product {
            dtype: self.dtype,
            result: self.result,
            tf32: self.dtype == DType::F32 && cuda.tf32(),
            a: self.a.matrix,
            b: self.b.matrix,
            c: self.c.matrix,
            batch: self.batch,
            epilogue,
        };
        let at = Operands { a: a.address(), b: b.address(), c: c.address(), vector: v.address() };
        let _turn = cuda.turn(op)?;
        let (driver, blas) = (&cuda.device.driver, &cuda.device.blas);
        if !blas.matmul(op, &product, at, cuda.device.workspace, driver.raw_stream())? {
            return Ok(false);
        }
        c.put_back(cuda, op)?;
        if !reads_vector {
            v.put_back(cuda, op)?;
        }
        Ok(true)
    }

    /// The product alone.
    pub(crate) fn plain(&self, cuda: &Cuda, op: &'static str) -> Result<()> {
        if self.run(cuda, op, Epilogue::None, (0, 0))? {
            return Ok(());
        }
        Err(Error::Backend { op, message: format!("cuBLASLt has no algorithm for {self:?}") })
    }
}

/// Memory at its own address, or a stand-in at an aligned one.
struct Aligned {
    address: u64,
    bytes: usize,
    stand_in: Option<Memory>,
}

impl Aligned {
    fn new(cuda: &Cuda, op: &'static str, address: u64, bytes: usize, read: bool) -> Result<Self> {
        if aligned(&[address]) {
            return Ok(Self { address, bytes, stand_in: None });
        }
        let stand_in = cuda.scratch(op, bytes)?;
        if read {
            let _turn = cuda.turn(op)?;
            cuda.device.driver.copy(op, address, stand_in.address(), bytes)?;
        }
        Ok(Self { address, bytes, stand_in: Some(stand_in) })
    }

    fn address(&self) -> u64 {
        self.stand_in.as_ref().map_or(self.address, Memory::address)
    }

    fn put_back(&self, cuda: &Cuda, op: &'static str) -> Result<()> {
        let Some(stand_in) = &self.stand_in else { return Ok(()) };
        cuda.device.driver.copy(op, stand_in.address(), self.address, self.bytes)
    }
}
