//! The CUDA driver: the only module that names `cust`. It also makes the calls that `cust` does not wrap.
//!
//! Each device has one context, and one stream for all computation, so work is executed in the order in which it is
//! enqueued. Communication has a stream of its own.

mod context;
mod error;
mod graph;
mod stream;

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::ptr;

use cust::context::Context;
use cust::device::{Device, DeviceAttribute};
use cust::memory::LockedBuffer;
use cust::module::Module;
use cust::sys::{self, cudaError_enum as Code};
use parking_lot::Mutex;
use transdiff_core::{Error, Result};

use context::current_context;
use error::{check, describe, describe_code, from_code, from_cuda_error, to_result};

pub(crate) use context::ContextGuard;
pub(crate) use error::out_of_memory;
pub(crate) use graph::{Capture, ExecGraph};
pub(crate) use stream::{Event, Stream};

/// A fatbin, aligned for the driver, which reads it in words.
#[repr(C, align(16))]
struct Image<B: ?Sized>(B);

/// The fatbins of `kernels/`, by stem.
const MODULES: &[(&str, &Image<[u8]>)] = &include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// Bytes of dynamic shared memory that a kernel may use without opting in.
const DEFAULT_SHARED_MEMORY: u32 = 48 << 10;

unsafe extern "C" {
    fn transdiff_driver_absence() -> *const c_char;
    fn transdiff_driver_symbol(name: *const c_char) -> *mut c_void;
}

/// A kernel: its name and the module (the stem of its source) that has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    pub(crate) module: &'static str,
    pub(crate) name: &'static str,
}

/// Launch geometry: blocks, threads per block, and bytes of dynamic shared memory per block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaunchConfig {
    pub(crate) grid: [u32; 3],
    pub(crate) block: u32,
    pub(crate) shared: u32,
}

/// The argument of a kernel: a struct with the layout of the one in the kernel's source.
///
/// # Safety
/// The type is `repr(C)` and has the fields of the kernel's struct, in order.
pub(crate) unsafe trait Params: Copy {}

/// A loaded kernel.
struct Function {
    raw: sys::CUfunction,
    /// Largest dynamic shared memory that it was opted in to so far.
    shared: u32,
}

// SAFETY: a handle, which the driver accepts from any thread.
unsafe impl Send for Function {}

/// One GPU.
pub(crate) struct Driver {
    // In drop order: objects of the context come before it, and `drop_guard` keeps the context current meanwhile.
    functions: Mutex<HashMap<(&'static str, &'static str), Function>>,
    modules: HashMap<&'static str, Module>,
    stream: Stream,
    drop_guard: Option<ContextGuard>,
    context: Context,
    device: Device,
    name: String,
    multiprocessors: u32,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Driver").field(&self.name).finish()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.enter_until_dropped();
    }
}

impl Driver {
    /// Number of GPUs, or the reason why there is no driver.
    pub(crate) fn device_count() -> std::result::Result<u32, String> {
        // SAFETY: the function has no arguments; the string is static.
        let absence = unsafe { transdiff_driver_absence() };
        if !absence.is_null() {
            // SAFETY: not null, and static.
            let reason = unsafe { CStr::from_ptr(absence) }.to_string_lossy();
            return Err(format!("there is no CUDA driver: {reason}"));
        }
        cust::init(cust::CudaFlags::empty()).map_err(describe)?;
        Device::num_devices().map_err(describe)
    }

    /// Opens GPU `ordinal`.
    pub(crate) fn open(ordinal: u32) -> Result<Self> {
        let unavailable = |reason: String| Error::Unavailable { device: format!("cuda:{ordinal}"), reason };
        let from_cust = |error| unavailable(describe(error));
        let count = Self::device_count().map_err(unavailable)?;
        if ordinal >= count {
            return Err(unavailable(format!("the CUDA driver has {count} devices, counted from 0")));
        }
        let device = Device::get_device(ordinal).map_err(from_cust)?;
        let attribute = |attribute| device.get_attribute(attribute).map_err(from_cust);
        let major = attribute(DeviceAttribute::ComputeCapabilityMajor)?;
        let minor = attribute(DeviceAttribute::ComputeCapabilityMinor)?;
        let name = device.name().map_err(from_cust)?;
        if major < 8 {
            let needed = "this library needs compute capability 8.0 or later";
            return Err(unavailable(format!("{name} has compute capability {major}.{minor}: {needed}")));
        }
        let multiprocessors = attribute(DeviceAttribute::MultiprocessorCount)? as u32;
        let from_driver = |code| unavailable(describe_code(code));
        let previous = current_context().map_err(from_driver)?;
        let context = Context::new(device).map_err(from_cust)?;
        // `cust` has made the new context current.
        // SAFETY: the context that was current before, or null.
        to_result(unsafe { sys::cuCtxSetCurrent(previous) }).map_err(from_driver)?;
        let _context = ContextGuard::new(&context).map_err(from_driver)?;
        let stream = Stream::new().map_err(from_driver)?;
        let load = |&(stem, Image(image)): &(&'static str, &Image<[u8]>)| {
            let module = Module::from_fatbin(image, &[])
                .map_err(|e| unavailable(format!("{stem}: {}", describe(e))))?;
            Ok((stem, module))
        };
        let modules = MODULES.iter().map(load).collect::<Result<_>>()?;
        Ok(Self {
            functions: Mutex::default(),
            modules,
            stream,
            drop_guard: None,
            context,
            device,
            name,
            multiprocessors,
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    pub(crate) fn raw_stream(&self) -> *mut c_void {
        self.stream.as_ptr()
    }

    /// Makes the device's context current on the calling thread, which every other method requires.
    pub(crate) fn enter(&self, op: &'static str) -> Result<ContextGuard> {
        ContextGuard::new(&self.context).map_err(|code| from_code(op, code))
    }

    /// Keeps the context current until everything of the driver but the context is dropped.
    pub(crate) fn enter_until_dropped(&mut self) {
        if self.drop_guard.is_none() {
            self.drop_guard = self.enter("drop").ok();
        }
    }

    /// Allocates `bytes` bytes of device memory; `None` if the device is out of memory.
    pub(crate) fn alloc(&self, op: &'static str, bytes: usize) -> Result<Option<u64>> {
        let mut address = 0;
        // SAFETY: the pointer is valid.
        match unsafe { sys::cuMemAlloc_v2(&mut address, bytes) } {
            Code::CUDA_ERROR_OUT_OF_MEMORY => Ok(None),
            code => check(op, code).map(|()| Some(address)),
        }
    }

    /// Frees memory of [`alloc`](Self::alloc). No enqueued work may still use it.
    pub(crate) fn free(&self, op: &'static str, address: u64) -> Result<()> {
        // SAFETY: an address from `alloc`, which is the caller's obligation.
        check(op, unsafe { sys::cuMemFree_v2(address) })
    }

    /// Allocates pinned host memory.
    pub(crate) fn pinned(&self, op: &'static str, bytes: usize) -> Result<PinnedBuffer> {
        // SAFETY: plain bytes, which are written before they are read.
        let memory = unsafe { LockedBuffer::uninitialized(bytes) }.map_err(|e| from_cuda_error(op, e))?;
        // Chunks are waited for one after the other: sleeping would cost more than it saves.
        Ok(PinnedBuffer { memory, last_use: Event::new(op, Event::SPINNING)? })
    }

    /// Records an event that completes with all work enqueued so far.
    pub(crate) fn record_event(&self, op: &'static str) -> Result<Event> {
        let event = Event::new(op, Event::BLOCKING_SYNC)?;
        self.stream.record(op, &event)?;
        Ok(event)
    }

    /// Milliseconds that the work which `work` enqueues takes: the shortest of three times after a first one.
    pub(crate) fn time(&self, op: &'static str, work: impl Fn() -> Result<()>) -> Result<f32> {
        const REPEATS: usize = 3;
        let [start, end] = [Event::new(op, Event::TIMED)?, Event::new(op, Event::TIMED)?];
        work()?;
        let mut shortest = f32::INFINITY;
        for _ in 0..REPEATS {
            self.stream.record(op, &start)?;
            work()?;
            self.stream.record(op, &end)?;
            end.wait(op)?;
            shortest = shortest.min(end.milliseconds_since(op, &start)?);
        }
        Ok(shortest)
    }

    /// Enqueues a copy of the first `bytes` bytes of `from` to the device.
    pub(crate) fn upload(&self, op: &'static str, from: &PinnedBuffer, bytes: usize, to: u64) -> Result<()> {
        let source = from.memory.as_slice()[..bytes].as_ptr();
        // SAFETY: pinned memory, which `PinnedBuffer::bytes` does not lend out until the event is complete.
        let code = unsafe { sys::cuMemcpyHtoDAsync_v2(to, source.cast(), bytes, self.stream.raw()) };
        check(op, code)?;
        self.record_use(op, from)
    }

    /// Enqueues a copy of `bytes` bytes of device memory to `to`.
    pub(crate) fn download(
        &self,
        op: &'static str,
        from: u64,
        bytes: usize,
        to: &mut PinnedBuffer,
    ) -> Result<()> {
        let target = to.memory.as_mut_slice()[..bytes].as_mut_ptr();
        // SAFETY: as in `upload`.
        let code = unsafe { sys::cuMemcpyDtoHAsync_v2(target.cast(), from, bytes, self.stream.raw()) };
        check(op, code)?;
        self.record_use(op, to)
    }

    /// Marks `memory` as used by all work enqueued so far.
    fn record_use(&self, op: &'static str, memory: &PinnedBuffer) -> Result<()> {
        self.stream.record(op, &memory.last_use).inspect_err(|_| {
            // Without the event the end of the copy is unknown later, so wait for it now.
            let _ = self.synchronize(op);
        })
    }

    /// Enqueues a copy within device memory.
    pub(crate) fn copy(&self, op: &'static str, from: u64, to: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's memory.
        check(op, unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.stream.raw()) })
    }

    /// Enqueues setting device memory to zero.
    pub(crate) fn zero(&self, op: &'static str, address: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller's memory.
        check(op, unsafe { sys::cuMemsetD8Async(address, 0, bytes, self.stream.raw()) })
    }

    /// The identity of the GPU, which no other GPU has.
    pub(crate) fn uuid(&self, op: &'static str) -> Result<[u8; 16]> {
        let mut uuid = sys::CUuuid::default();
        // SAFETY: the pointer and the device are valid.
        check(op, unsafe { sys::cuDeviceGetUuid_v2(&mut uuid, self.device.as_raw()) })?;
        Ok(uuid.bytes.map(|byte| byte as u8))
    }

    /// Creates a stream whose work is not ordered with the device's.
    pub(crate) fn new_stream(&self, op: &'static str) -> Result<Stream> {
        Stream::new().map_err(|code| from_code(op, code))
    }

    /// Lets work that is enqueued on `stream` from now on wait for all work enqueued on the device's stream so far.
    pub(crate) fn order_after_computation(&self, op: &'static str, stream: &Stream) -> Result<()> {
        let event = Event::new(op, Event::SPINNING)?;
        self.stream.record(op, &event)?;
        stream.wait_for(op, &event)
    }

    /// Waits until all enqueued work is done.
    pub(crate) fn synchronize(&self, op: &'static str) -> Result<()> {
        self.stream.synchronize(op)
    }

    /// Starts to capture work instead of executing it.
    pub(crate) fn begin_capture(&self, op: &'static str) -> Result<Capture<'_>> {
        Capture::begin(op, &self.stream)
    }

    /// Enqueues the work of a graph.
    pub(crate) fn launch_graph(&self, op: &'static str, graph: &ExecGraph) -> Result<()> {
        graph.launch(op, &self.stream)
    }

    /// Enqueues a launch of `kernel`.
    pub(crate) fn launch_kernel<P: Params>(
        &self,
        op: &'static str,
        kernel: Kernel,
        config: LaunchConfig,
        params: &P,
    ) -> Result<()> {
        let function = self.function(op, kernel, config.shared, size_of::<P>())?;
        let mut arguments = [ptr::from_ref(params).cast_mut().cast::<c_void>()];
        let [x, y, z] = config.grid;
        // SAFETY: the kernel takes one struct with the layout of `P`, as `Params` requires and `function` checks.
        let code = unsafe {
            sys::cuLaunchKernel(
                function,
                x,
                y,
                z,
                config.block,
                1,
                1,
                config.shared,
                self.stream.raw(),
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        check(op, code).map_err(|e| with_kernel_name(e, kernel))
    }

    fn function(
        &self,
        op: &'static str,
        kernel: Kernel,
        shared: u32,
        bytes: usize,
    ) -> Result<sys::CUfunction> {
        let mut functions = self.functions.lock();
        let function = match functions.get_mut(&(kernel.module, kernel.name)) {
            Some(function) => function,
            None => {
                let module = self.modules.get(kernel.module);
                let missing = || Error::Backend { op, message: format!("no module {}", kernel.module) };
                let found = module.ok_or_else(missing)?.get_function(kernel.name);
                let raw = found.map_err(|e| with_kernel_name(from_cuda_error(op, e), kernel))?.to_raw();
                check_params(raw, bytes)
                    .map_err(|message| with_kernel_name(Error::Backend { op, message }, kernel))?;
                functions
                    .entry((kernel.module, kernel.name))
                    .or_insert(Function { raw, shared: DEFAULT_SHARED_MEMORY })
            }
        };
        if shared > function.shared {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a handle of a module that lives as long as `self`.
            let code = unsafe { sys::cuFuncSetAttribute(function.raw, attribute, shared as i32) };
            check(op, code).map_err(|e| with_kernel_name(e, kernel))?;
            function.shared = shared;
        }
        Ok(function.raw)
    }
}

/// Adds the kernel's name to an error.
fn with_kernel_name(error: Error, kernel: Kernel) -> Error {
    match error {
        Error::Backend { op, message } => {
            Error::Backend { op, message: format!("kernel {}: {message}", kernel.name) }
        }
        other => other,
    }
}

/// Checks that a kernel takes one struct of `bytes` bytes, on drivers that can report it (12.4 and later).
fn check_params(function: sys::CUfunction, bytes: usize) -> Result<(), String> {
    type ParamInfo = unsafe extern "C" fn(sys::CUfunction, usize, *mut usize, *mut usize) -> u32;
    // SAFETY: the name is a string.
    let symbol = unsafe { transdiff_driver_symbol(c"cuFuncGetParamInfo".as_ptr()) };
    if symbol.is_null() {
        return Ok(());
    }
    // SAFETY: the signature of the driver's function of this name.
    let info: ParamInfo = unsafe { std::mem::transmute(symbol) };
    let (mut offset, mut size) = (0, 0);
    // SAFETY: the handle and the pointers are valid.
    let code = unsafe { info(function, 0, &mut offset, &mut size) };
    if code == 0 && (offset, size) != (0, bytes) {
        return Err(format!("expected {size} bytes of parameters at offset {offset}, got {bytes}"));
    }
    Ok(())
}

/// Pinned host memory, with an event of its last use by the device.
pub(crate) struct PinnedBuffer {
    memory: LockedBuffer<u8>,
    last_use: Event,
}

// SAFETY: the memory belongs to the whole process.
unsafe impl Send for PinnedBuffer {}

impl fmt::Debug for PinnedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PinnedBuffer").field(&self.memory.len()).finish()
    }
}

impl PinnedBuffer {
    /// Waits until the device is done with the memory, and returns it.
    pub(crate) fn bytes(&mut self, op: &'static str) -> Result<&mut [u8]> {
        self.last_use.wait(op)?;
        Ok(self.memory.as_mut_slice())
    }
}
