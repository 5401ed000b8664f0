//! The backend's handle: a GPU, its memory, and how kernels are run on it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, ReentrantMutex, ReentrantMutexGuard};
use transdiff_core::backend::{View, ViewMut};
use transdiff_core::rng::Dropout;
use transdiff_core::{Error, Result};

use crate::cublaslt::{CublasLt, WORKSPACE};
use crate::driver::{Driver, Entered, Graph, Kernel, Launch, Params, exhausted};
use crate::pool::{Arena, Block, Pool};
use crate::staging::Staging;

/// What an operation reads.
pub(crate) type In<'a> = View<'a, Cuda>;
/// What an operation writes.
pub(crate) type Out<'a> = ViewMut<'a, Cuda>;
/// The device is the holder's, whose thread is in its context.
pub(crate) struct Turn<'a> {
    // In the order of dropping.
    _entered: Entered,
    _lock: ReentrantMutexGuard<'a, ()>,
}

/// The devices that are open, by ordinal: what a process does on one of them is done in one order, with memory of one
/// pool.
static DEVICES: Mutex<BTreeMap<u32, Weak<Inner>>> = Mutex::new(BTreeMap::new());

/// An NVIDIA GPU, of compute capability 8.0 or later. All handles of a GPU in a process share it, clones or not.
///
/// It computes in f32 and in bf16 with sums in f32. Operations are asked for in order and done in order, on one stream;
/// [`sync`](transdiff_core::backend::Storage::sync) waits for them. A device serves any number of threads, and leaves
/// them in the CUDA context that they were in. Tensors of one GPU are not for operations with those of another.
#[derive(Clone)]
pub struct Cuda {
    pub(crate) device: Arc<Inner>,
    ordinal: u32,
    tf32: bool,
}

pub(crate) struct Inner {
    pub(crate) pool: Arc<Pool>,
    /// The memory of the recording under way.
    recording: Mutex<Option<Arc<Arena>>>,
    pub(crate) staging: Mutex<Staging>,
    pub(crate) blas: CublasLt,
    /// Scratch memory of matrix products, which follow each other.
    pub(crate) workspace: u64,
    /// Held while something is asked for, so that a recording holds what its own thread asks for alone.
    turn: ReentrantMutex<()>,
    pub(crate) driver: Driver,
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.device.driver.fmt(f)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A device that fails now has failed before, and whoever used it was told. What can be given back is: others in
        // the process may use the GPU.
        const OP: &str = "drop";
        self.driver.enter_for_good();
        let _ = self.driver.synchronize(OP);
        let _ = self.free_unowned(OP);
        let _ = self.driver.free(OP, self.workspace);
    }
}

impl Inner {
    fn open(ordinal: u32) -> Result<Self> {
        let driver = Driver::open(ordinal)?;
        let _entered = driver.enter("open")?;
        let unavailable = |reason| Error::Unavailable { device: format!("cuda:{ordinal}"), reason };
        let blas = CublasLt::load().map_err(unavailable)?;
        let staging = Mutex::new(Staging::new(&driver)?);
        let workspace = driver.alloc("open", WORKSPACE)?.ok_or_else(|| exhausted("open", Some(WORKSPACE)))?;
        let (pool, recording, turn) = (Arc::default(), Mutex::new(None), ReentrantMutex::new(()));
        Ok(Self { pool, recording, staging, blas, workspace, turn, driver })
    }

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
    /// GPU `ordinal`, counted from 0. It is opened if nobody in the process has it, and closed with the last handle,
    /// tensor and recording.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if there is no driver, no cuBLASLt or no such GPU, with the loader's own message;
    /// [`Error::OutOfMemory`] if there is no room for what every operation needs; [`Error::Backend`] if the device fails.
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

    /// The GPU's number, counted from 0.
    pub fn ordinal(&self) -> u32 {
        self.ordinal
    }

    /// The same GPU, and whether products of f32 matrices in this handle's tensors may round their factors to 10 bits of
    /// mantissa (TF32): tensor cores compute with these, several times faster. They may not by default.
    pub fn with_tf32(self, allowed: bool) -> Self {
        Self { tf32: allowed, ..self }
    }

    pub(crate) fn tf32(&self) -> bool {
        self.tf32
    }

    /// Gives memory that no tensor uses back to the driver. (It is kept for the next tensors otherwise.)
    ///
    /// # Errors
    /// [`Error::Backend`] if the device has failed, or in work that is recorded.
    pub fn trim(&self) -> Result<()> {
        let _turn = self.turn_outside_recording("trim")?;
        self.device.trim("trim")
    }

    /// The device, for this thread alone until the guard is dropped.
    pub(crate) fn turn(&self, op: &'static str) -> Result<Turn<'_>> {
        let lock = self.device.turn.lock();
        Ok(Turn { _entered: self.device.driver.enter(op)?, _lock: lock })
    }

    /// Waits for everything that was asked so far, and lets others ask for more meanwhile.
    pub(crate) fn finish(&self, op: &'static str) -> Result<()> {
        let turn = self.turn_outside_recording(op)?;
        let now = self.device.driver.now(op)?;
        drop(turn);
        let _entered = self.device.driver.enter(op)?;
        now.wait(op)
    }

    /// The same for what waits for the device, which work that is noted for later cannot. The recording of another thread
    /// is over when the turn comes.
    pub(crate) fn turn_outside_recording(&self, op: &'static str) -> Result<Turn<'_>> {
        let guard = self.turn(op)?;
        if self.device.recording.lock().is_some() {
            let message = "work that is recorded cannot wait for the device".into();
            return Err(Error::Backend { op, message });
        }
        Ok(guard)
    }

    pub(crate) fn multiprocessors(&self) -> u32 {
        self.device.driver.multiprocessors()
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
        self.device.driver.launch(op, kernel, size, params)
    }

    /// Device memory of `bytes` bytes, which whoever asks next may have as soon as it is dropped.
    pub(crate) fn scratch(&self, op: &'static str, bytes: usize) -> Result<Memory> {
        let _turn = self.turn(op)?;
        let arena = self.device.recording.lock().clone();
        let rounded = Pool::rounded(bytes);
        let known =
            arena.as_ref().and_then(|arena| arena.take(rounded)).or_else(|| self.device.pool.take(rounded));
        let block = match known {
            Some(block) => block,
            None => self.fresh(op, rounded, arena.is_some())?,
        };
        Ok(Memory { block, arena, home: self.clone() })
    }

    /// A block that the driver gives, if need be after what nobody owns was given back.
    fn fresh(&self, op: &'static str, bytes: usize, recording: bool) -> Result<Block> {
        let driver = &self.device.driver;
        if let Some(address) = driver.alloc(op, bytes)? {
            return Ok(Block { address, bytes });
        }
        // What is noted for later cannot be waited for.
        if !recording {
            self.device.trim(op)?;
            if let Some(address) = driver.alloc(op, bytes)? {
                return Ok(Block { address, bytes });
            }
        }
        Err(exhausted(op, Some(bytes)))
    }

    /// Notes what `work` asks for instead of doing it, if need be after what nobody owns was given back.
    pub(crate) fn captured(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        const OP: &str = "record";
        let _turn = self.turn_outside_recording(OP)?;
        match self.noted(OP, work) {
            Err(Error::OutOfMemory { .. }) => {
                self.device.trim(OP)?;
                self.noted(OP, work)
            }
            noted => noted,
        }
    }

    fn noted(&self, op: &'static str, work: &mut dyn FnMut() -> Result<()>) -> Result<Graph> {
        let arena = Arena::new(&self.device.pool);
        let capture = self.device.driver.begin_capture(op)?;
        let noting = Noting::new(&self.device.recording, &arena);
        work()?;
        drop(noting);
        Ok(Graph { graph: Some(capture.end(op)?), _memory: arena, home: self.clone() })
    }

    pub(crate) fn launched(&self, recording: &Graph) -> Result<()> {
        const OP: &str = "replay";
        let graph = recording.graph.as_ref().expect("it is there until it is dropped");
        let entered = self.device.driver.enter(OP)?;
        // Others may use the device meanwhile.
        graph.wait(OP)?;
        drop(entered);
        let _turn = self.turn_outside_recording(OP)?;
        self.device.driver.replay(OP, graph)
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
pub struct Graph {
    /// None while it is dropped.
    graph: Option<Graph>,
    _memory: Arc<Arena>,
    /// The driver outlives the graph.
    home: Cuda,
}

impl Drop for Graph {
    fn drop(&mut self) {
        // Any thread may drop it. The graph of a device that has failed is gone with the device's context.
        let _entered = self.home.device.driver.enter("drop");
        self.graph = None;
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
            None => self.home.device.pool.give(block),
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
