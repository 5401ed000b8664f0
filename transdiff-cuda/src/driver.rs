//! The CUDA driver: the one room that names `cust`, and makes the calls that `cust` has no wrapper for.
//!
//! One context and one stream: everything that is asked is done in the order of asking.

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
use cust::event::EventFlags;
use cust::memory::LockedBuffer;
use cust::module::Module;
use cust::sys::{self, cudaError_enum as Code};
use parking_lot::Mutex;
use transdiff_core::{Error, Result};

use context::current_context;
use error::{checked, described, explained, failed, refused, success};
use stream::{Moment, Stream};

pub(crate) use context::Entered;
pub(crate) use error::exhausted;
pub(crate) use graph::Graph;

/// A fatbin. The driver reads it as the words that it is made of.
#[repr(C, align(16))]
struct Image<B: ?Sized>(B);

/// The fatbins of `kernels/`, by stem.
const MODULES: &[(&str, &Image<[u8]>)] = &include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// Dynamic shared memory that every kernel may have without asking.
const SHARED_UNASKED: u32 = 48 << 10;

unsafe extern "C" {
    fn transdiff_driver_absence() -> *const c_char;
    fn transdiff_driver_symbol(name: *const c_char) -> *mut c_void;
}

/// A kernel: its name in the module of its stem.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    pub(crate) module: &'static str,
    pub(crate) name: &'static str,
}

/// How many blocks of how many threads run a kernel, and the bytes of dynamic shared memory of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch {
    pub(crate) grid: [u32; 3],
    pub(crate) block: u32,
    pub(crate) shared: u32,
}

/// What a kernel takes: a struct of the layout of the one in its source.
///
/// # Safety
/// The type is `repr(C)` and has the fields of the kernel's struct, in order.
pub(crate) unsafe trait Params: Copy {}

/// A kernel as the driver knows it.
struct Function {
    raw: sys::CUfunction,
    /// Dynamic shared memory that it was allowed so far.
    shared: u32,
}

// SAFETY: a handle, which the driver takes from any thread.
unsafe impl Send for Function {}

/// One GPU.
pub(crate) struct Driver {
    // In the order of dropping: what is of the context, in which the dropping thread is meanwhile, before the context.
    functions: Mutex<HashMap<(&'static str, &'static str), Function>>,
    modules: HashMap<&'static str, Module>,
    stream: Stream,
    leaving: Option<Entered>,
    context: Context,
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
        self.enter_for_good();
    }
}

impl Driver {
    /// Opens GPU `ordinal`.
    pub(crate) fn open(ordinal: u32) -> Result<Self> {
        let unavailable = |reason: String| Error::Unavailable { device: format!("cuda:{ordinal}"), reason };
        // SAFETY: the function takes nothing; the string is static.
        let absence = unsafe { transdiff_driver_absence() };
        if !absence.is_null() {
            // SAFETY: not null, and static.
            let reason = unsafe { CStr::from_ptr(absence) }.to_string_lossy();
            return Err(unavailable(format!("there is no CUDA driver: {reason}")));
        }
        let words = |error| unavailable(described(error));
        cust::init(cust::CudaFlags::empty()).map_err(words)?;
        let count = Device::num_devices().map_err(words)?;
        if ordinal >= count {
            return Err(unavailable(format!("the CUDA driver has {count} devices, counted from 0")));
        }
        let device = Device::get_device(ordinal).map_err(words)?;
        let attribute = |attribute| device.get_attribute(attribute).map_err(words);
        let major = attribute(DeviceAttribute::ComputeCapabilityMajor)?;
        let minor = attribute(DeviceAttribute::ComputeCapabilityMinor)?;
        let name = device.name().map_err(words)?;
        if major < 8 {
            let needed = "this library needs compute capability 8.0 or later";
            return Err(unavailable(format!("{name} has compute capability {major}.{minor}: {needed}")));
        }
        let multiprocessors = attribute(DeviceAttribute::MultiprocessorCount)? as u32;
        let code = |code| unavailable(explained(code));
        let before = current_context().map_err(code)?;
        let context = Context::new(device).map_err(words)?;
        // `cust` has made it the thread's.
        // SAFETY: the thread's own context, or none.
        success(unsafe { sys::cuCtxSetCurrent(before) }).map_err(code)?;
        let _entered = Entered::new(&context).map_err(code)?;
        let stream = Stream::new().map_err(code)?;
        let load = |&(stem, Image(image)): &(&'static str, &Image<[u8]>)| {
            let module = Module::from_fatbin(image, &[])
                .map_err(|e| unavailable(format!("{stem}: {}", described(e))))?;
            Ok((stem, module))
        };
        let modules = MODULES.iter().map(load).collect::<Result<_>>()?;
        Ok(Self {
            functions: Mutex::default(),
            modules,
            stream,
            leaving: None,
            context,
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
        self.stream.0.cast()
    }

    /// Takes the calling thread to the device. All that follows is asked by a thread that is there.
    pub(crate) fn enter(&self, op: &'static str) -> Result<Entered> {
        Entered::new(&self.context).map_err(|code| refused(op, code))
    }

    /// The same until all of the driver but the context is dropped.
    pub(crate) fn enter_for_good(&mut self) {
        if self.leaving.is_none() {
            self.leaving = self.enter("drop").ok();
        }
    }

    /// `bytes` of device memory, or `None` if there is not so much.
    pub(crate) fn alloc(&self, op: &'static str, bytes: usize) -> Result<Option<u64>> {
        let mut address = 0;
        // SAFETY: the pointer is valid.
        match unsafe { sys::cuMemAlloc_v2(&mut address, bytes) } {
            Code::CUDA_ERROR_OUT_OF_MEMORY => Ok(None),
            code => checked(op, code).map(|()| Some(address)),
        }
    }

    /// Gives `alloc`'s memory back. Nothing that was asked of the device may still use it.
    pub(crate) fn free(&self, op: &'static str, address: u64) -> Result<()> {
        // SAFETY: an address from `alloc`, as the caller promises.
        checked(op, unsafe { sys::cuMemFree_v2(address) })
    }

    /// Pinned host memory.
    pub(crate) fn pinned(&self, op: &'static str, bytes: usize) -> Result<Pinned> {
        // SAFETY: bytes of any value are read as bytes alone after they were written.
        let memory = unsafe { LockedBuffer::uninitialized(bytes) }.map_err(|e| failed(op, e))?;
        // Pieces are waited for one after the other: sleeping would cost more than it saves.
        Ok(Pinned { memory, used: Moment::new(op, EventFlags::DISABLE_TIMING)? })
    }

    /// The moment at which all is done that was asked so far.
    pub(crate) fn now(&self, op: &'static str) -> Result<Moment> {
        let moment = Moment::new(op, Moment::SLEEPING)?;
        self.note(op, &moment)?;
        Ok(moment)
    }

    /// `moment` comes when all is done that was asked so far.
    fn note(&self, op: &'static str, moment: &Moment) -> Result<()> {
        // SAFETY: the handles are valid.
        checked(op, unsafe { sys::cuEventRecord(moment.0, self.stream.0) })
    }

    /// Begins to copy the first `bytes` of `from` to the device.
    pub(crate) fn upload(&self, op: &'static str, from: &Pinned, bytes: usize, to: u64) -> Result<()> {
        let source = from.memory.as_slice()[..bytes].as_ptr();
        // SAFETY: pinned memory, which `Pinned::bytes` does not hand out until the event has come.
        let code = unsafe { sys::cuMemcpyHtoDAsync_v2(to, source.cast(), bytes, self.stream.0) };
        checked(op, code)?;
        self.in_use(op, from)
    }

    /// Begins to copy `bytes` of the device into `to`.
    pub(crate) fn download(&self, op: &'static str, from: u64, bytes: usize, to: &mut Pinned) -> Result<()> {
        let target = to.memory.as_mut_slice()[..bytes].as_mut_ptr();
        // SAFETY: as in `upload`.
        let code = unsafe { sys::cuMemcpyDtoHAsync_v2(target.cast(), from, bytes, self.stream.0) };
        checked(op, code)?;
        self.in_use(op, to)
    }

    /// The device is done with `memory` when it has done all that it was asked for.
    fn in_use(&self, op: &'static str, memory: &Pinned) -> Result<()> {
        self.note(op, &memory.used).inspect_err(|_| {
            // The event will not tell when the copy is over, so it has to be now.
            let _ = self.synchronize(op);
        })
    }

    /// Copies bytes from one place of the device to another.
    pub(crate) fn copy(&self, op: &'static str, from: u64, to: u64, bytes: usize) -> Result<()> {
        // SAFETY: memory of the caller's.
        checked(op, unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.stream.0) })
    }

    /// Sets bytes of the device to zero.
    pub(crate) fn zero(&self, op: &'static str, address: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: memory of the caller's.
        checked(op, unsafe { sys::cuMemsetD8Async(address, 0, bytes, self.stream.0) })
    }

    /// Waits until everything that was asked is done.
    pub(crate) fn synchronize(&self, op: &'static str) -> Result<()> {
        // SAFETY: the handle is valid.
        checked(op, unsafe { sys::cuStreamSynchronize(self.stream.0) })
    }

    /// Asks for a run of `kernel`.
    pub(crate) fn launch<P: Params>(
        &self,
        op: &'static str,
        kernel: Kernel,
        size: Launch,
        params: &P,
    ) -> Result<()> {
        let function = self.function(op, kernel, size.shared, size_of::<P>())?;
        let mut arguments = [ptr::from_ref(params).cast_mut().cast::<c_void>()];
        let [x, y, z] = size.grid;
        // SAFETY: the kernel takes one struct, of the layout of `P` as `Params` promises and `function` checks.
        let code = unsafe {
            sys::cuLaunchKernel(
                function,
                x,
                y,
                z,
                size.block,
                1,
                1,
                size.shared,
                self.stream.0,
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        checked(op, code).map_err(|e| named(e, kernel))
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
                let missing =
                    || Error::Backend { op, message: format!("there is no module {}", kernel.module) };
                let found = module.ok_or_else(missing)?.get_function(kernel.name);
                let raw = found.map_err(|e| named(failed(op, e), kernel))?.to_raw();
                check_params(raw, bytes).map_err(|message| named(Error::Backend { op, message }, kernel))?;
                functions
                    .entry((kernel.module, kernel.name))
                    .or_insert(Function { raw, shared: SHARED_UNASKED })
            }
        };
        if shared > function.shared {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the handle is the module's, which lives as long as `self`.
            let code = unsafe { sys::cuFuncSetAttribute(function.raw, attribute, shared as i32) };
            checked(op, code).map_err(|e| named(e, kernel))?;
            function.shared = shared;
        }
        Ok(function.raw)
    }
}

/// The error with the kernel's name.
fn named(error: Error, kernel: Kernel) -> Error {
    match error {
        Error::Backend { op, message } => {
            Error::Backend { op, message: format!("kernel {}: {message}", kernel.name) }
        }
        other => other,
    }
}

/// Where the driver can tell (from 12.4 on), whether a kernel takes one struct of `bytes` bytes.
fn check_params(function: sys::CUfunction, bytes: usize) -> Result<(), String> {
    type ParamInfo = unsafe extern "C" fn(sys::CUfunction, usize, *mut usize, *mut usize) -> u32;
    // SAFETY: the name is a string.
    let symbol = unsafe { transdiff_driver_symbol(c"cuFuncGetParamInfo".as_ptr()) };
    if symbol.is_null() {
        return Ok(());
    }
    // SAFETY: the driver's function of this name has this signature.
    let info: ParamInfo = unsafe { std::mem::transmute(symbol) };
    let (mut offset, mut size) = (0, 0);
    // SAFETY: the handle and the pointers are valid.
    let code = unsafe { info(function, 0, &mut offset, &mut size) };
    if code == 0 && (offset, size) != (0, bytes) {
        return Err(format!("takes {size} bytes at {offset}, and {bytes} are passed"));
    }
    Ok(())
}

/// Pinned host memory, and when the device was last done with it.
pub(crate) struct Pinned {
    memory: LockedBuffer<u8>,
    used: Moment,
}

// SAFETY: memory of the whole process.
unsafe impl Send for Pinned {}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pinned").field(&self.memory.len()).finish()
    }
}

impl Pinned {
    /// The memory, once the device is done with it.
    pub(crate) fn bytes(&mut self, op: &'static str) -> Result<&mut [u8]> {
        self.used.wait(op)?;
        Ok(self.memory.as_mut_slice())
    }
}
