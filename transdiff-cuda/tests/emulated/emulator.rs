//! Interface to the emulator: call counts, launch log, injected failures. `tests/emulator/emulated_cuda.h` declares its
//! functions.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{env, ptr};

use libloading::Library;

/// Environment variable of the processes that tests start.
pub const CHILD: &str = "EMULATED_CUDA_TEST";
const LIBRARY: &str = "libcuda.so.1";

/// Functions that create and destroy objects, in pairs.
const PAIRS: [[&str; 2]; 9] = [
    ["cuMemAlloc_v2", "cuMemFree_v2"],
    ["cuMemAllocHost_v2", "cuMemFreeHost"],
    ["cuEventCreate", "cuEventDestroy_v2"],
    ["cuStreamCreate", "cuStreamDestroy_v2"],
    ["cuGraphInstantiateWithFlags", "cuGraphExecDestroy"],
    ["cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2"],
    ["cublasLtCreate", "cublasLtDestroy"],
    ["cublasLtMatmulDescCreate", "cublasLtMatmulDescDestroy"],
    ["cublasLtMatrixLayoutCreate", "cublasLtMatrixLayoutDestroy"],
];

/// The emulator, locked: one test uses it at a time.
pub struct Emulator {
    library: Library,
    _lock: MutexGuard<'static, ()>,
}

/// The emulator after a reset; prints SKIPPED and returns `None` if the driver is another or missing.
pub fn emulator() -> Option<Emulator> {
    static LOCK: Mutex<()> = Mutex::new(());
    let lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: a CUDA driver, which may be opened at any time.
    let library = match unsafe { Library::new(LIBRARY) } {
        Ok(library) => library,
        Err(error) => return skipped(&error.to_string()),
    };
    // SAFETY: the symbol is not called.
    if unsafe { library.get::<*const c_void>(b"emulated_cuda_reset\0") }.is_err() {
        return skipped("the driver is not the emulator");
    }
    let emulator = Emulator { library, _lock: lock };
    emulator.reset();
    Some(emulator)
}

pub fn skipped<T>(reason: &str) -> Option<T> {
    println!("SKIPPED: {reason}");
    None
}

/// Runs the test `name` in a process of its own, with an environment that `configure` sets. Returns true in that
/// process, and false in the parent once the child has passed.
pub fn in_own_process(name: &str, configure: impl FnOnce(&mut Command) -> &mut Command) -> bool {
    if env::var_os(CHILD).is_some() {
        return true;
    }
    if emulator().is_none() {
        return false;
    }
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", name]).env(CHILD, "1");
    configure(&mut command);
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{name}: {printed}{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("1 passed") && !printed.contains("SKIPPED"), "{name}: {printed}");
    false
}

/// Path of the emulator's library.
pub fn file() -> PathBuf {
    let folders = env::var_os("LD_LIBRARY_PATH").unwrap();
    env::split_paths(&folders).map(|folder| folder.join(LIBRARY)).find(|file| file.exists()).unwrap()
}

/// A reference to the device's context; see [`Emulator::context`].
pub struct Context<'a> {
    emulator: &'a Emulator,
    context: *mut c_void,
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // SAFETY: the function has this signature.
        unsafe {
            let release: libloading::Symbol<'_, unsafe extern "C" fn(c_int) -> u32> =
                self.emulator.library.get(b"cuDevicePrimaryCtxRelease_v2\0").unwrap();
            release(0);
        }
    }
}

impl Emulator {
    /// Makes the `nth` call of `function` from now on, counted from 1, return `code`.
    pub fn fail(&self, function: &str, nth: usize, code: u32) {
        let name = CString::new(function).unwrap();
        // SAFETY: the function has this signature.
        unsafe {
            let fail: libloading::Symbol<'_, unsafe extern "C" fn(*const c_char, c_int, c_uint)> =
                self.library.get(b"emulated_cuda_fail\0").unwrap();
            fail(name.as_ptr(), nth as c_int, code);
        }
    }

    /// Number of calls of `function` since the last reset.
    pub fn count(&self, function: &str) -> usize {
        let name = CString::new(function).unwrap();
        // SAFETY: the function has this signature.
        unsafe {
            let count: libloading::Symbol<'_, unsafe extern "C" fn(*const c_char) -> u64> =
                self.library.get(b"emulated_cuda_count\0").unwrap();
            count(name.as_ptr()) as usize
        }
    }

    /// Launches since the last reset, "NAME grid X Y Z block X Y Z shared BYTES".
    pub fn log(&self) -> Vec<String> {
        // SAFETY: the function has this signature, and writes at most the given number of bytes.
        let bytes = unsafe {
            let log: libloading::Symbol<'_, unsafe extern "C" fn(*mut c_char, usize) -> usize> =
                self.library.get(b"emulated_cuda_log\0").unwrap();
            let mut bytes = vec![0u8; log(ptr::null_mut(), 0)];
            log(bytes.as_mut_ptr().cast(), bytes.len());
            bytes
        };
        String::from_utf8_lossy(&bytes).trim_end_matches('\0').lines().map(str::to_owned).collect()
    }

    /// Clears counts, launches and pending failures.
    pub fn reset(&self) {
        // SAFETY: the function has this signature.
        unsafe { self.library.get::<unsafe extern "C" fn()>(b"emulated_cuda_reset\0").unwrap()() };
    }

    /// Bytes of device memory in use.
    pub fn used(&self) -> usize {
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: the function has this signature.
        let code = self.in_context(|| unsafe {
            let info: libloading::Symbol<'_, unsafe extern "C" fn(*mut usize, *mut usize) -> u32> =
                self.library.get(b"cuMemGetInfo_v2\0").unwrap();
            info(&mut free, &mut total)
        });
        assert_eq!(code, 0);
        total - free
    }

    /// Synchronises the default stream, which waits for every stream that is not non-blocking; returns the driver's
    /// code.
    pub fn wait_for_default_stream(&self) -> u32 {
        // SAFETY: the function has this signature; null is the default stream.
        self.in_context(|| unsafe {
            let wait: libloading::Symbol<'_, unsafe extern "C" fn(*mut c_void) -> u32> =
                self.library.get(b"cuStreamSynchronize\0").unwrap();
            wait(ptr::null_mut())
        })
    }

    /// Calls `work` with the device's context current.
    fn in_context<T>(&self, work: impl FnOnce() -> T) -> T {
        let context = self.context();
        let mut popped: *mut c_void = ptr::null_mut();
        // SAFETY: the functions take a context, and a pointer to one.
        unsafe {
            self.call(b"cuCtxPushCurrent_v2\0", context.context);
            let result = work();
            self.call(b"cuCtxPopCurrent_v2\0", ptr::from_mut(&mut popped).cast());
            result
        }
    }

    /// The current context of the calling thread, or null.
    pub fn current_context(&self) -> *mut c_void {
        let mut context: *mut c_void = ptr::null_mut();
        // SAFETY: the function takes a pointer to a context.
        unsafe { self.call(b"cuCtxGetCurrent\0", ptr::from_mut(&mut context).cast()) };
        context
    }

    /// Retains the device's context until the result is dropped.
    pub fn context(&self) -> Context<'_> {
        let mut context = ptr::null_mut();
        // SAFETY: the functions have these signatures.
        unsafe {
            let init: libloading::Symbol<'_, unsafe extern "C" fn(u32) -> u32> =
                self.library.get(b"cuInit\0").unwrap();
            assert_eq!(init(0), 0);
            let retain: libloading::Symbol<'_, unsafe extern "C" fn(*mut *mut c_void, c_int) -> u32> =
                self.library.get(b"cuDevicePrimaryCtxRetain\0").unwrap();
            assert_eq!(retain(&mut context, 0), 0);
        }
        Context { emulator: self, context }
    }

    /// Calls a function of one pointer and checks that it succeeds.
    ///
    /// # Safety
    /// The function has this signature, and takes this argument.
    unsafe fn call(&self, name: &[u8], argument: *mut c_void) {
        // SAFETY: the caller's obligation.
        unsafe {
            let function: libloading::Symbol<'_, unsafe extern "C" fn(*mut c_void) -> u32> =
                self.library.get(name).unwrap();
            assert_eq!(function(argument), 0);
        }
    }

    /// Checks that every object created since the last reset was destroyed. `failed` is the function whose call failed,
    /// and created nothing.
    pub fn assert_no_leaks(&self, failed: &str, context: &str) {
        for [create, destroy] in PAIRS {
            let created = self.count(create) - usize::from(create == failed);
            assert_eq!(created, self.count(destroy), "{destroy}, {context}");
        }
        let graphs = self.count("cuStreamBeginCapture_v2") - usize::from(failed == "cuStreamBeginCapture_v2");
        assert_eq!(graphs, self.count("cuStreamEndCapture"), "captures, {context}");
    }
}
