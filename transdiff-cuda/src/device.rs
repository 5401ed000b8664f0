//! The backend's handle: a GPU, its memory, and kernel launches.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, ReentrantMutex, ReentrantMutexGuard};
use transdiff_core::backend::{View, ViewMut};
use transdiff_core::rng::Dropout;
use transdiff_core::{DType, Error, Result};

use crate::caching_allocator::{Arena, Block, CachingAllocator};
use crate::cublaslt::{CublasLt, WORKSPACE};
use crate::driver::{ContextGuard, Driver, ExecGraph, Kernel, LaunchConfig, Params, out_of_memory};
use crate::staging::Staging;

/// Input of an operation.
pub(crate) type In<'a> = View<'a, Cuda>;
/// Output of an operation.
pub(crate) type Out<'a> = ViewMut<'a, Cuda>;

/// Exclusive use of the device by one thread, with the device's context current.
pub(crate) struct LockGuard<'a> {
    // In drop order.
    _context: ContextGuard,
    _lock: ReentrantMutexGuard<'a, ()>,
}

/// The open devices by ordinal. A process has one stream and one allocator per device.
static DEVICES: Mutex<BTreeMap<u32, Weak<Inner>>> = Mutex::new(BTreeMap::new());

/// An NVIDIA GPU, of compute capability 8.0 or later. All handles of a GPU in a process share it, clones or not.
///
/// It computes in f32, and in bf16 with f32 accumulation. Operations are enqueued on one stream and executed in order;
/// [`sync`](transdiff_core::backend::Storage::sync) waits for them. Any number of threads may use a device; the CUDA
/// context that is current on a thread is left unchanged. Tensors of different GPUs cannot be combined.
#[derive(Clone)]
pub struct Cuda {
    pub(crate) device: Arc<Inner>,
    ordinal: u32,
    tf32: bool,
}

pub(crate) struct Inner {
    pub(crate) allocator: Arc<CachingAllocator>,
    /// Arena of the graph capture in progress.
    capture_arena: Mutex<Option<Arc<Arena>>>,
    pub(crate) staging: Mutex<Staging>,
    pub(crate) blas: CublasLt,
    /// Scratch memory of matrix products, which never overlap in time.
    pub(crate) workspace: u64,
    /// Held while work is enqueued, so that a capture contains only the work of its own thread.
    lock: ReentrantMutex<()>,
    pub(crate) driver: Driver,
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.device.driver.fmt(f)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A device that fails here has failed before, and the error was reported then. What can be freed is freed:
        // other code in the process may use the GPU.
        const OP: &str = "drop";
        self.driver.enter_until_dropped();
        let _ = self.driver.synchronize(OP);
        let _ = self.free_cached(OP);
        let _ = self.driver.free(OP, self.workspace);
    }
}

impl Inner {
    fn open(ordinal: u32) -> Result<Self> {
        let driver = Driver::open(ordinal)?;
        let _context = driver.enter("open")?;
        let unavailable = |reason| Error::Unavailable { device: format!("cuda:{ordinal}"), reason };
        let blas = CublasLt::load().map_err(unavailable)?;
        let staging = Mutex::new(Staging::new(&driver)?);
        let workspace =
            driver.alloc("open", WORKSPACE)?.ok_or_else(|| out_of_memory("open", Some(WORKSPACE)))?;
        let (allocator, capture_arena, lock) = (Arc::default(), Mutex::new(None), ReentrantMutex::new(()));
        Ok(Self { allocator, capture_arena, staging, blas, workspace, lock, driver })
    }

    /// Returns cached memory to the driver.
    fn trim(&self, op: &'static str) -> Result<()> {
        self.driver.synchronize(op)?;
        self.free_cached(op)
    }

    /// Frees all cached blocks. The first error is returned, after all have been tried.
    fn free_cached(&self, op: &'static str) -> Result<()> {
        let mut freed = Ok(());
        for block in self.allocator.drain() {
            freed = freed.and(self.driver.free(op, block.address));
        }
        freed
    }
}

impl Cuda {
    /// Opens GPU `ordinal`, counted from 0, or returns another handle if the process has opened it. It is closed with
    /// its last handle, tensor and graph.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if there is no driver, no cuBLASLt or no such GPU, with the loader's message;
    /// [`Error::OutOfMemory`] if the workspace cannot be allocated; [`Error::Backend`] if the device fails.
    pub fn new(ordinal: u32) -> Result<Self> {
        let mut devices = DEVICES.lock();
        let open = devices.get(&ordinal).and_then(Weak::upgrade);
        let device = match open {
            Some(device) => device,
            None => Arc::new(Inner::open(ordinal)?),
        };
        devices.insert(ordinal, Arc::downgrade(&device));
        Ok(Self { device, ordinal, tf32: false })
    }

    /// Number of GPUs that the driver shows to this process.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if there is no driver.
    pub fn count() -> Result<u32> {
        Driver::device_count().map_err(|reason| Error::Unavailable { device: "cuda".to_owned(), reason })
    }

    /// Ordinal of the GPU, counted from 0.
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// Allows or forbids TF32 for matrix products of f32 tensors of this handle. With TF32, operands are rounded to 10
    /// bits of mantissa, and tensor cores compute the product several times faster. Off by default.
    pub fn with_tf32(self, allowed: bool) -> Self {
        Self { tf32: allowed, ..self }
    }

    pub(crate) fn tf32(&self) -> bool {
        self.tf32
    }

    /// Returns cached memory, which no tensor uses, to the driver. Without this it is kept for later tensors.
    ///
    /// # Errors
    /// [`Error::Backend`] if the device has failed, or during a graph capture.
    pub fn trim(&self) -> Result<()> {
        let _guard = self.lock_outside_capture("trim")?;
        self.device.trim("trim")
    }

    /// Locks the device for this thread until the guard is dropped.
    pub(crate) fn lock(&self, op: &'static str) -> Result<LockGuard<'_>> {
        let lock = self.device.lock.lock();
        Ok(LockGuard { _context: self.device.driver.enter(op)?, _lock: lock })
    }

    /// Waits for all work enqueued so far. Other threads may enqueue more meanwhile.
    pub(crate) fn synchronize(&self, op: &'static str) -> Result<()> {
        // Dropped after the event, which needs it.
        let _context = self.device.driver.enter(op)?;
        let guard = self.lock_outside_capture(op)?;
        let event = self.device.driver.record_event(op)?;
        drop(guard);
        event.wait(op)
    }

    /// Locks the device for an operation that waits for it, which is an error during a capture. A capture of another
    /// thread has ended when the lock is acquired.
    pub(crate) fn lock_outside_capture(&self, op: &'static str) -> Result<LockGuard<'_>> {
        let guard = self.lock(op)?;
        if self.is_capturing() {
            let message = "it waits for the device, which is not possible during a graph capture".into();
            return Err(Error::Backend { op, message });
        }
        Ok(guard)
    }

    /// Products that are not fused with GELU or a bias gradient because that took more than 1.25 times as long, with both times:
    /// one line each. They are timed when a shape first occurs outside of a graph capture. Results of two processes are bitwise
    /// identical if these lists have the same products, whatever their times.
    pub fn unfused_products(&self) -> Vec<String> {
        self.device.blas.unfused_products()
    }

    /// Returns whether a graph is being captured.
    pub(crate) fn is_capturing(&self) -> bool {
        self.device.capture_arena.lock().is_some()
    }

    pub(crate) fn multiprocessors(&self) -> u32 {
        self.device.driver.multiprocessors()
    }

    /// Enqueues a launch of `kernel`; an empty grid launches nothing.
    pub(crate) fn launch_kernel<P: Params>(
        &self,
        op: &'static str,
        kernel: Kernel,
        config: LaunchConfig,
        params: &P,
    ) -> Result<()> {
        if config.grid.contains(&0) {
            return Ok(());
        }
        let _guard = self.lock(op)?;
        self.device.driver.launch_kernel(op, kernel, config, params)
    }

    /// Allocates `bytes` bytes of device memory, which return to the cache when dropped.
    pub(crate) fn scratch(&self, op: &'static str, bytes: usize) -> Result<Memory> {
        let _guard = self.lock(op)?;
        let arena = self.device.capture_arena.lock().clone();
        let size = CachingAllocator::block_size(bytes);
        let cached = arena.as_ref().and_then(|arena| arena.alloc(size));
        let block = match cached.or_else(|| self.device.allocator.alloc(size)) {
            Some(block) => block,
            None => self.alloc_from_driver(op, size, arena.is_some())?,
        };
        Ok(Memory { block, arena, cuda: self.clone() })
    }

    /// Allocates a block from the driver; if it is out of memory, once more after returning cached memory to it.
    fn alloc_from_driver(&self, op: &'static str, bytes: usize, capturing: bool) -> Result<Block> {
        let driver = &self.device.driver;
        if let Some(address) = driver.alloc(op, bytes)? {
            return Ok(Block { address, bytes });
        }
        // Trimming waits for the device, which is not possible during a capture.
        if !capturing {
            self.device.trim(op)?;
            if let Some(address) = driver.alloc(op, bytes)? {
                return Ok(Block { address, bytes });
            }
        }
        Err(out_of_memory(op, Some(bytes)))
    }

    /// Captures the work that `work` enqueues; if memory runs out, once more after returning cached memory to the
    /// driver.
    pub(crate) fn capture_graph(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        const OP: &str = "capture";
        let _guard = self.lock_outside_capture(OP)?;
        match self.try_capture(OP, work) {
            Err(Error::OutOfMemory { .. }) => {
                self.device.trim(OP)?;
                self.try_capture(OP, work)
            }
            result => result,
        }
    }

    fn try_capture(&self, op: &'static str, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        let arena = Arena::new(&self.device.allocator);
        let capture = self.device.driver.begin_capture(op)?;
        let scope = CaptureScope::new(&self.device.capture_arena, &arena);
        work()?;
        drop(scope);
        Ok(Graph { exec: Some(capture.end(op)?), _memory: arena, cuda: self.clone() })
    }

    pub(crate) fn launch_graph(&self, graph: &Graph) -> Result<()> {
        const OP: &str = "launch";
        let exec = graph.exec.as_ref().expect("present until dropped");
        let context = self.device.driver.enter(OP)?;
        // Without the lock: other threads may use the device meanwhile.
        exec.wait(OP)?;
        drop(context);
        let _guard = self.lock_outside_capture(OP)?;
        self.device.driver.launch_graph(OP, exec)
    }
}

/// While it lives, memory is allocated from the arena of a graph.
struct CaptureScope<'a>(&'a Mutex<Option<Arc<Arena>>>);

impl<'a> CaptureScope<'a> {
    fn new(current: &'a Mutex<Option<Arc<Arena>>>, arena: &Arc<Arena>) -> Self {
        *current.lock() = Some(Arc::clone(arena));
        Self(current)
    }
}

impl Drop for CaptureScope<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

/// A CUDA graph: captured work of a GPU, and the memory that it uses.
#[derive(Debug)]
pub struct Graph {
    /// `None` while being dropped.
    exec: Option<ExecGraph>,
    _memory: Arc<Arena>,
    /// Keeps the driver alive longer than the graph.
    cuda: Cuda,
}

impl Drop for Graph {
    fn drop(&mut self) {
        // Any thread may drop it. The graph of a failed device is gone with the device's context.
        let _context = self.cuda.device.driver.enter("drop");
        self.exec = None;
    }
}

/// An allocation of device memory.
#[derive(Debug)]
pub(crate) struct Memory {
    block: Block,
    arena: Option<Arc<Arena>>,
    pub(crate) cuda: Cuda,
}

impl Memory {
    pub(crate) fn address(&self) -> u64 {
        self.block.address
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let block = Block { ..self.block };
        match &self.arena {
            Some(arena) => arena.free(block),
            None => self.cuda.device.allocator.free(block),
        }
    }
}

/// Device address of a view's first element.
pub(crate) trait Address {
    /// Returns the device address.
    fn address(&self) -> u64;
}

impl Address for In<'_> {
    fn address(&self) -> u64 {
        self.buffer.address() + (self.layout.offset() * self.dtype.size()) as u64
    }
}

impl Address for Out<'_> {
    fn address(&self) -> u64 {
        self.buffer.address() + (self.layout.offset() * self.dtype.size()) as u64
    }
}

/// Address of an optional view; 0 if absent.
pub(crate) fn address_of(view: Option<&impl Address>) -> u64 {
    view.map_or(0, Address::address)
}

/// Alignment and width of vector accesses, in bytes.
const VECTOR: usize = 16;

/// Number of elements in a vector of 16 bytes.
pub(crate) fn lanes(dtype: DType) -> usize {
    VECTOR / dtype.size()
}

/// Returns whether all addresses are multiples of 16 bytes, as vector accesses require.
pub(crate) fn aligned(addresses: &[u64]) -> bool {
    addresses.iter().all(|address| address.is_multiple_of(VECTOR as u64))
}

/// Returns whether rows of `width` elements at these addresses, with these strides between them, can be accessed in
/// vectors of `lanes` elements.
pub(crate) fn vectorizable(addresses: &[u64], width: usize, strides: &[u64], lanes: usize) -> bool {
    aligned(addresses)
        && width.is_multiple_of(lanes)
        && strides.iter().all(|stride| stride.is_multiple_of(lanes as u64))
}

/// Converts a size to the 32 bits that kernels take.
pub(crate) fn size_u32(op: &'static str, n: usize) -> Result<u32> {
    match i32::try_from(n) {
        Ok(n) => Ok(n as u32),
        Err(_) => Err(Error::Backend { op, message: format!("expected a size below 2^31, got {n}") }),
    }
}

/// `Dropout` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct DropoutParams {
    key: [u32; 2],
    counter: [u32; 3],
    threshold: u32,
    scale: f32,
    active: u32,
    per_sample: u32,
}

impl DropoutParams {
    /// Parameters for a tensor of `parts` parts (rows of a mask, groups or Philox blocks), of which each sample has equally many.
    pub(crate) fn new(op: &'static str, dropout: Option<Dropout>, parts: usize) -> Result<Self> {
        let Some(dropout) = dropout else {
            let per_sample = 1;
            return Ok(Self {
                key: [0; 2],
                counter: [0; 3],
                threshold: 0,
                scale: 1.0,
                active: 0,
                per_sample,
            });
        };
        let key = dropout.key;
        Ok(Self {
            key: [key.seed as u32, (key.seed >> 32) as u32],
            counter: [key.index, key.step, key.purpose as u32],
            threshold: dropout.threshold(),
            scale: dropout.scale(),
            active: 1,
            per_sample: size_u32(op, parts / dropout.samples)?.max(1),
        })
    }
}
