//! The emulator: what it was asked, and what it is to answer. `tests/emulator/emulated_cuda.h` declares its functions.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{env, ptr};

use libloading::Library;

/// Set in the processes that [`alone`] starts.
const CHILD: &str = "EMULATED_CUDA_TEST";
const LIBRARY: &str = "libcuda.so.1";

/// What is made and what is given back, as the driver counts them.
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

/// The emulator. One test has it at a time.
pub struct Emulator {
    library: Library,
    _turn: MutexGuard<'static, ()>,
}

/// The emulator, as if nothing had been asked of it; `None`, with a word of it, where the driver is another or none.
pub fn emulator() -> Option<Emulator> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: a driver, which may be opened at any time.
    let library = match unsafe { Library::new(LIBRARY) } {
        Ok(library) => library,
        Err(error) => return skipped(&error.to_string()),
    };
    // SAFETY: whatever it is, it is not called.
    if unsafe { library.get::<*const c_void>(b"emulated_cuda_reset\0") }.is_err() {
        return skipped("the driver is not the emulator");
    }
    let emulator = Emulator { library, _turn: turn };
    emulator.reset();
    Some(emulator)
}

fn skipped<T>(reason: &str) -> Option<T> {
    println!("SKIPPED: {reason}");
    None
}

/// Whether this is the process of the test `name` alone. If not, it is run in such a process, whose environment `change`
/// has made.
pub fn alone(name: &str, change: impl FnOnce(&mut Command) -> &mut Command) -> bool {
    if env::var_os(CHILD).is_some() {
        return true;
    }
    if emulator().is_none() {
        return false;
    }
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", name]).env(CHILD, "1");
    change(&mut command);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{name}: {said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed") && !said.contains("SKIPPED"), "{name}: {said}");
    false
}

/// The file of the emulator.
pub fn file() -> PathBuf {
    let folders = env::var_os("LD_LIBRARY_PATH").unwrap();
    env::split_paths(&folders).map(|folder| folder.join(LIBRARY)).find(|file| file.exists()).unwrap()
}

/// See [`Emulator::context`].
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
    /// The `nth` call of `function` from now on, counted from 1, returns `code`.
    pub fn fail(&self, function: &str, nth: usize, code: u32) {
        let name = CString::new(function).unwrap();
        // SAFETY: the function has this signature.
        unsafe {
            let fail: libloading::Symbol<'_, unsafe extern "C" fn(*const c_char, c_int, c_uint)> =
                self.library.get(b"emulated_cuda_fail\0").unwrap();
            fail(name.as_ptr(), nth as c_int, code);
        }
    }

    /// How often `function` was called.
    pub fn count(&self, function: &str) -> usize {
        let name = CString::new(function).unwrap();
        // SAFETY: the function has this signature.
        unsafe {
            let count: libloading::Symbol<'_, unsafe extern "C" fn(*const c_char) -> u64> =
                self.library.get(b"emulated_cuda_count\0").unwrap();
            count(name.as_ptr()) as usize
        }
    }

    /// The launches, "NAME grid X Y Z block X Y Z shared BYTES".
    pub fn log(&self) -> Vec<String> {
        // SAFETY: the function has this signature, and writes as much as it is told that there is room for.
        let bytes = unsafe {
            let log: libloading::Symbol<'_, unsafe extern "C" fn(*mut c_char, usize) -> usize> =
                self.library.get(b"emulated_cuda_log\0").unwrap();
            let mut bytes = vec![0u8; log(ptr::null_mut(), 0)];
            log(bytes.as_mut_ptr().cast(), bytes.len());
            bytes
        };
        String::from_utf8_lossy(&bytes).trim_end_matches('\0').lines().map(str::to_owned).collect()
    }

    /// Forgets counts, launches and failures to come.
    pub fn reset(&self) {
        // SAFETY: the function has this signature.
        unsafe { self.library.get::<unsafe extern "C" fn()>(b"emulated_cuda_reset\0").unwrap()() };
    }

    /// Bytes of device memory in use.
    pub fn used(&self) -> usize {
        let (mut free, mut total) = (0usize, 0usize);
        // SAFETY: the function has this signature.
        let code = self.within(|| unsafe {
            let info: libloading::Symbol<'_, unsafe extern "C" fn(*mut usize, *mut usize) -> u32> =
                self.library.get(b"cuMemGetInfo_v2\0").unwrap();
            info(&mut free, &mut total)
        });
        assert_eq!(code, 0);
        total - free
    }

    /// The driver's code of waiting for its default stream: every stream takes part that was not made to block none.
    pub fn wait_for_default_stream(&self) -> u32 {
        // SAFETY: the function has this signature; null is the default stream.
        self.within(|| unsafe {
            let wait: libloading::Symbol<'_, unsafe extern "C" fn(*mut c_void) -> u32> =
                self.library.get(b"cuStreamSynchronize\0").unwrap();
            wait(ptr::null_mut())
        })
    }

    /// What `work` gives within the device's context.
    fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        let context = self.context();
        let mut left: *mut c_void = ptr::null_mut();
        // SAFETY: the functions take a context, and where to put it.
        unsafe {
            self.call(b"cuCtxPushCurrent_v2\0", context.context);
            let made = work();
            self.call(b"cuCtxPopCurrent_v2\0", ptr::from_mut(&mut left).cast());
            made
        }
    }

    /// The context that the calling thread is in, or null.
    pub fn current_context(&self) -> *mut c_void {
        let mut context: *mut c_void = ptr::null_mut();
        // SAFETY: the function takes where to put it.
        unsafe { self.call(b"cuCtxGetCurrent\0", ptr::from_mut(&mut context).cast()) };
        context
    }

    /// The device's context, which is there until this is dropped, whoever else lets go of it.
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

    /// Calls a function of one pointer, which succeeds.
    ///
    /// # Safety
    /// The function has this signature, and takes this argument.
    unsafe fn call(&self, name: &[u8], argument: *mut c_void) {
        // SAFETY: as the caller promises.
        unsafe {
            let function: libloading::Symbol<'_, unsafe extern "C" fn(*mut c_void) -> u32> =
                self.library.get(name).unwrap();
            assert_eq!(function(argument), 0);
        }
    }

    /// Checks that everything that was made since the last reset was given back. The call of `failed` made nothing.
    pub fn expect_nothing_left(&self, failed: &str, context: &str) {
        for [made, given_back] in PAIRS {
            let made = self.count(made) - usize::from(made == failed);
            assert_eq!(made, self.count(given_back), "{given_back}, {context}");
        }
        let graphs = self.count("cuStreamBeginCapture_v2") - usize::from(failed == "cuStreamBeginCapture_v2");
        assert_eq!(graphs, self.count("cuStreamEndCapture"), "captures, {context}");
    }
}
