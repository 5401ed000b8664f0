//! Models and sessions that a forked child inherits: they generate there, and freeing them is quiet.
//!
//! A program of its own: the threads of a test harness would not exist in the child, and the harness would capture the
//! message of a panic.

mod common;

#[cfg(unix)]
fn main() {
    child_generates_and_frees_quietly(1);
    child_generates_and_frees_quietly(3);
}

#[cfg(not(unix))]
fn main() {
    println!("SKIPPED: only Unix has fork");
}

/// Forks after a generation with `threads` threads. The child has to end by itself, with exit code 0 and an empty stderr.
#[cfg(unix)]
fn child_generates_and_frees_quietly(threads: u32) {
    use std::io::Read;
    use std::os::fd::AsRawFd;

    use common::{GenerationRequest, Model, files, load_from_memory};
    use transcdiff::transcdiff_load_options;

    // Wide enough that threads share the work.
    let file = files::model_with(&wide(), |_, _| ());
    let load = || {
        let options = transcdiff_load_options { threads, ..load_from_memory(&file, None) };
        Model::load(&options).expect("the model loads")
    };
    let (model, request) = (load(), GenerationRequest::new(16, 3));
    let options = request.options(&model);
    let session = model.session();
    let expected = session.generate(&options).expect("the parent generates");

    let (mut from_child, stderr) = std::io::pipe().expect("a pipe");
    // SAFETY: the child ends with `_exit`; the parent's other threads are workers that wait for work and hold no lock of the
    // memory allocator.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        let generated = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            // SAFETY: plain system calls. The alarm ends a child that waits forever.
            unsafe {
                libc::alarm(60);
                libc::dup2(stderr.as_raw_fd(), libc::STDERR_FILENO);
            }
            let inherited = session.generate(&options);
            drop((session, model));
            let own = load();
            let loaded = own.session().generate(&options);
            [inherited, loaded].into_iter().all(|outputs| outputs.as_ref() == Ok(&expected))
        }));
        // SAFETY: ends the process without running destructors of the parent.
        unsafe { libc::_exit(i32::from(!generated.unwrap_or(false))) };
    }
    drop(stderr);
    let mut printed = String::new();
    from_child.read_to_string(&mut printed).expect("the child's stderr");
    let mut status = 0;
    // SAFETY: the child is ours and was not waited for.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!((status, &*printed), (0, ""), "wait status and stderr of the child, {threads} threads");
    assert_eq!(session.generate(&options).as_ref(), Ok(&expected), "the parent still generates");
}

#[cfg(unix)]
fn wide() -> transdiff::models::transdiff::TransDiffConfig {
    transdiff::models::transdiff::TransDiffConfig { width: 64, ..common::files::one_step() }
}
