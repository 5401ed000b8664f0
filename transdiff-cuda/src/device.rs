//! The backend's handle: a GPU, its memory, and how kernels are run on it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, ReentrantMutex, ReentrantMutexGuard};
use transdiff_core::backend::{View, ViewMut};
use transdiff_core::rng::Dropout;
use transdiff_core::{Error, Result};

use crate::cublaslt::{CublasLt, WORKSPACE};
use crate::driver::{Driver, Graph, Kernel, Launch, Params};
use crate::pool::{Arena, Block, Pool};
use crate::staging::Staging;

/// What an operation reads.
pub(crate) type In<'a> = View<'a, Cuda>;
/// What an operation writes.
pub(crate) type Out<'a> = ViewMut<'a, Cuda>;
/// The device is the holder's.
pub(crate) type Turn<'a> = ReentrantMutexGuard<'a, ()>;

/// An NVIDIA GPU, of compute capability 8.0 or later. Clones share it.
///
/// It computes in f32 and in bf16 with sums in f32. Operations are asked for in order and done in order, on one stream;
/// [`sync`](transdiff_core::backend::Storage::sync) waits for them. A device serves any number of threads.
#[derive(Clone)]
pub struct Cuda(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) pool: Arc<Pool>,
    /// The memory of the recording under way.
    recording: Mutex<Option<Arc<Arena>>>,
    pub(crate) staging: Mutex<Staging>,
    pub(crate) blas: CublasLt,
    /// Scratch memory of matrix products, which follow each other.
    pub(crate) workspace: u64,
    pub(crate) tf32: AtomicBool,
    /// Held while something is asked for, so that a recording holds what its own thread asks for alone.
    turn: ReentrantMutex<()>,
    pub(crate) driver: Driver,
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.driver.fmt(f)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A device that fails now has failed before, and whoever used it was told. What can be given back is: others in
        // the process may use the GPU.
        const OP: &str = "drop";
        let _ = self.driver.enter(OP);
        let _ = self.driver.synchronize(OP);
        let _ = self.free_unowned(OP);
        let _ = self.driver.free(OP, self.workspace);
    }
}

impl Inner {
    /// Gives what nobody owns back to the driver.
    fn trim(&self, op: &'static str) -> Result<()> {
        self.driver.synchronize(op)?;
        self.free_unowned(op)
    }

    /// The first error of many; all blocks are given back nevertheless.
    fn free_unowned(&self, op: &'static str) -> Result<()> {
        let mut freed = Ok(());
        for block in self.pool.drain() {
            freed = freed.and(self.driver.free(op, block.address));
        }
        freed
    }
}

impl Cuda {
    /// Opens GPU `ordinal`, counted from 0.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if there is no driver, no cuBLASLt or no such GPU, with the loader's own message.
    pub fn new(ordinal: u32) -> Result<Self> {
        let driver = Driver::open(ordinal)?;
        let unavailable = |reason| Error::Unavailable { device: format!("cuda:{ordinal}"), reason };
        let blas = CublasLt::load().map_err(unavailable)?;
        let staging = Mutex::new(Staging::new(&driver)?);
        let exhausted = || Error::OutOfMemory { op: "open", bytes: WORKSPACE, free: driver.free_bytes() };
        let workspace = driver.alloc("open", WORKSPACE)?.ok_or_else(exhausted)?;
        Ok(Self(Arc::new(Inner {
            pool: Arc::default(),
            recording: Mutex::new(None),
            staging,
            blas,
            workspace,
            tf32: AtomicBool::new(false),
            turn: ReentrantMutex::new(()),
            driver,
        })))
    }

    /// Whether products of f32 matrices may round their factors to 10 bits of mantissa (TF32), from now on: tensor cores
    /// compute with these, several times faster. Off at first.
    pub fn set_tf32(&self, allowed: bool) {
        self.0.tf32.store(allowed, Ordering::Relaxed);
    }

    /// Gives memory that no tensor uses back to the driver. (It is kept for the next tensors otherwise.)
    ///
    /// # Errors
    /// [`Error::Backend`] if the device has failed, or in work that is recorded.
    pub fn trim(&self) -> Result<()> {
        let _turn = self.turn_outside_recording("trim")?;
        self.0.trim("trim")
    }

    /// The device, for this thread alone until the guard is dropped.
    pub(crate) fn turn(&self, op: &'static str) -> Result<Turn<'_>> {
        let guard = self.0.turn.lock();
        self.0.driver.enter(op)?;
        Ok(guard)
    }

    /// The same for what waits for the device, which work that is noted for later cannot. The recording of another thread
    /// is over when the turn comes.
    pub(crate) fn turn_outside_recording(&self, op: &'static str) -> Result<Turn<'_>> {
        let guard = self.turn(op)?;
        if self.0.recording.lock().is_some() {
            let message = "work that is recorded cannot wait for the device".into();
            return Err(Error::Backend { op, message });
        }
        Ok(guard)
    }

    pub(crate) fn multiprocessors(&self) -> u32 {
        self.0.driver.multiprocessors()
    }

    /// Asks for a run of `kernel`; nothing if there is no block to run.
    pub(crate) fn launch<P: Params>(
        &self,
        op: &'static str,
        kernel: Kernel,
        size: Launch,
        params: &P,
    ) -> Result<()> {
        if size.grid.contains(&0) {
            return Ok(());
        }
        let _turn = self.turn(op)?;
        self.0.driver.launch(op, kernel, size, params)
    }

    /// Device memory of `bytes` bytes, which whoever asks next may have as soon as it is dropped.
    pub(crate) fn scratch(&self, op: &'static str, bytes: usize) -> Result<Memory> {
        let _turn = self.turn(op)?;
        let arena = self.0.recording.lock().clone();
        let rounded = Pool::rounded(bytes);
        let known =
            arena.as_ref().and_then(|arena| arena.take(rounded)).or_else(|| self.0.pool.take(rounded));
        let block = match known {
            Some(block) => block,
            None => self.fresh(op, rounded, arena.is_some())?,
        };
        Ok(Memory { block, arena, home: self.clone() })
    }

    /// A block that the driver gives, if need be after what nobody owns was given back.
    fn fresh(&self, op: &'static str, bytes: usize, recording: bool) -> Result<Block> {
        let driver = &self.0.driver;
        if let Some(address) = driver.alloc(op, bytes)? {
            return Ok(Block { address, bytes });
        }
        // What is noted for later cannot be waited for.
        if !recording {
            self.0.trim(op)?;
            if let Some(address) = driver.alloc(op, bytes)? {
                return Ok(Block { address, bytes });
            }
        }
        Err(Error::OutOfMemory { op, bytes, free: driver.free_bytes() })
    }

    /// Notes what `work` asks for instead of doing it.
    pub(crate) fn recorded(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Recording> {
        const OP: &str = "record";
        let _turn = self.turn_outside_recording(OP)?;
        let arena = Arena::new(&self.0.pool);
        let capture = self.0.driver.begin_capture(OP)?;
        let noting = Noting::new(&self.0.recording, &arena);
        work()?;
        drop(noting);
        Ok(Recording { graph: capture.end(OP)?, _memory: arena, home: self.clone() })
    }

    pub(crate) fn replayed(&self, recording: &Recording) -> Result<()> {
        const OP: &str = "replay";
        let _turn = self.turn_outside_recording(OP)?;
        self.0.driver.replay(OP, &recording.graph)
    }
}

/// While it is there, memory comes from the arena of a recording.
struct Noting<'a>(&'a Mutex<Option<Arc<Arena>>>);

impl<'a> Noting<'a> {
    fn new(recording: &'a Mutex<Option<Arc<Arena>>>, arena: &Arc<Arena>) -> Self {
        *recording.lock() = Some(Arc::clone(arena));
        Self(recording)
    }
}

impl Drop for Noting<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

/// Work of a GPU that was noted once, with the memory that it takes: a CUDA graph.
#[derive(Debug)]
pub struct Recording {
    graph: Graph,
    _memory: Arc<Arena>,
    /// The driver outlives the graph.
    home: Cuda,
}

impl Drop for Recording {
    fn drop(&mut self) {
        // Any thread may drop it. The graph of a device that has failed is gone with the device's context.
        let _ = self.home.0.driver.enter("drop");
    }
}

/// Device memory that somebody owns.
#[derive(Debug)]
pub(crate) struct Memory {
    block: Block,
    arena: Option<Arc<Arena>>,
    pub(crate) home: Cuda,
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
            Some(arena) => arena.give(block),
            None => self.home.0.pool.give(block),
        }
    }
}

/// Where the first element of a view is.
pub(crate) trait Address {
    /// The device address.
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

/// The address of what is optional; 0 for nothing.
pub(crate) fn address_of(view: Option<&impl Address>) -> u64 {
    view.map_or(0, Address::address)
}

/// Whether all addresses are multiples of 16 bytes, as vector accesses need.
pub(crate) fn aligned(addresses: &[u64]) -> bool {
    addresses.iter().all(|address| address % 16 == 0)
}

/// The struct `Dropout` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct DropoutParams {
    key: [u32; 2],
    counter: [u32; 3],
    threshold: u32,
    scale: f32,
    active: u32,
}

impl DropoutParams {
    pub(crate) fn new(dropout: Option<Dropout>) -> Self {
        let Some(dropout) = dropout else {
            return Self { key: [0; 2], counter: [0; 3], threshold: 0, scale: 1.0, active: 0 };
        };
        let key = dropout.key;
        Self {
            key: [key.seed as u32, (key.seed >> 32) as u32],
            counter: [key.index, key.step, key.purpose as u32],
            threshold: dropout.threshold(),
            scale: dropout.scale(),
            active: 1,
        }
    }
}
