//! Crash injection: the command is killed before each of its file operations in turn. What is there afterwards loads, and
//! the same command, run again, ends as if there had been no kill.

// The system calls of other systems and architectures have other numbers and arguments.
#![cfg(all(target_os = "linux", target_env = "gnu", target_arch = "x86_64"))]

use std::collections::{BTreeMap, HashSet};
use std::ffi::{CStr, OsStr};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use libc::c_long;
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::caching::contents;
use crate::drawing::{cache, resume, tiles, train};
use crate::files::Folder;
use crate::process::{command, succeed};
use crate::runs::{copy, tensors};

/// End of a traced command.
#[derive(Debug, PartialEq)]
enum End {
    /// It was killed before the file operation.
    Killed,
    /// It exited with code 0 after fewer operations.
    Done,
}

/// Runs the command until it is about to begin file operation `number`, from 0, below `folder`, and kills it there.
///
/// Checks that every file is synced before it is renamed: after a failure of power, the new name never has less than the
/// whole contents.
fn kill_before(args: &[&str], folder: &Path, number: usize) -> End {
    let mut command = command();
    command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: asking to be traced is one system call.
    unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
    let leader = Pid::from_raw(command.spawn().unwrap().id() as i32);
    let mut operations = Operations::new(folder);
    // Of this thread's children only: other tests wait for theirs.
    let wait = || waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)).unwrap();
    assert_eq!(wait(), WaitStatus::Stopped(leader, Signal::SIGTRAP), "the start of the program");
    ptrace::setoptions(
        leader,
        Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL,
    )
    .unwrap();
    go_on(leader, None);
    loop {
        match wait() {
            WaitStatus::Exited(pid, code) if pid == leader => {
                assert_eq!(code, 0, "without a kill");
                return End::Done;
            }
            WaitStatus::Signaled(pid, signal, _) if pid == leader => {
                assert_eq!(signal, Signal::SIGKILL);
                return End::Killed;
            }
            WaitStatus::PtraceSyscall(thread) => {
                if operations.begin(thread) && operations.count > number {
                    nix::sys::signal::kill(leader, Signal::SIGKILL).unwrap();
                } else {
                    go_on(thread, None);
                }
            }
            WaitStatus::PtraceEvent(thread, ..) => go_on(thread, None),
            // A new thread begins stopped.
            WaitStatus::Stopped(thread, Signal::SIGSTOP) => go_on(thread, None),
            WaitStatus::Stopped(thread, signal) => go_on(thread, Some(signal)),
            _ => {}
        }
    }
}

/// Lets a thread run to the beginning or the end of its next system call.
fn go_on(thread: Pid, signal: Option<Signal>) {
    match ptrace::syscall(thread, signal) {
        // Another thread has ended the process.
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => panic!("{error}"),
    }
}

/// The file operations of a traced process below a folder: creating, writing, syncing, renaming and removing.
struct Operations {
    folder: PathBuf,
    count: usize,
    /// Files that were written to and not synced afterwards.
    unsynced: HashSet<PathBuf>,
}

impl Operations {
    fn new(folder: &Path) -> Self {
        Self { folder: folder.canonicalize().unwrap(), count: 0, unsynced: HashSet::new() }
    }

    /// Takes note of the system call at whose beginning or end `thread` is. Returns whether it begins a file operation.
    fn begin(&mut self, thread: Pid) -> bool {
        let Ok(info) = ptrace::syscall_info(thread) else { return false };
        if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            return false;
        }
        // SAFETY: the kind of stop was checked.
        let entry = unsafe { info.u.entry };
        let args = entry.args;
        let path = match entry.nr as c_long {
            libc::SYS_write | libc::SYS_writev | libc::SYS_pwrite64 => {
                let path = open_file(thread, args[0]);
                self.unsynced.extend(path.clone());
                path
            }
            libc::SYS_fsync | libc::SYS_fdatasync => {
                let path = open_file(thread, args[0]);
                path.as_ref().map(|path| self.unsynced.remove(path));
                path
            }
            libc::SYS_ftruncate | libc::SYS_fchmod | libc::SYS_fallocate => open_file(thread, args[0]),
            libc::SYS_openat if args[2] & libc::O_CREAT as u64 != 0 => Some(path_at(thread, args[1])),
            libc::SYS_open if args[1] & libc::O_CREAT as u64 != 0 => Some(path_at(thread, args[0])),
            libc::SYS_mkdirat | libc::SYS_unlinkat => Some(path_at(thread, args[1])),
            libc::SYS_mkdir | libc::SYS_unlink | libc::SYS_rmdir => Some(path_at(thread, args[0])),
            libc::SYS_rename => Some(self.renamed(path_at(thread, args[0]))),
            libc::SYS_renameat | libc::SYS_renameat2 => Some(self.renamed(path_at(thread, args[1]))),
            _ => None,
        };
        let ours = path.is_some_and(|path| path.starts_with(&self.folder));
        self.count += usize::from(ours);
        ours
    }

    fn renamed(&self, path: PathBuf) -> PathBuf {
        assert!(!self.unsynced.contains(&path), "{} takes its name before it is synced", path.display());
        path
    }
}

/// Path of an open file of a stopped thread.
fn open_file(thread: Pid, descriptor: u64) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{thread}/fd/{descriptor}")).ok()
}

/// The path in the memory of a stopped thread.
fn path_at(thread: Pid, address: u64) -> PathBuf {
    let mut bytes = [0; libc::PATH_MAX as usize];
    let memory = File::open(format!("/proc/{thread}/mem")).unwrap();
    // The last pages may be fewer than a longest path.
    let read = memory.read_at(&mut bytes, address).unwrap();
    let path = CStr::from_bytes_until_nul(&bytes[..read]).unwrap();
    PathBuf::from(OsStr::from_bytes(path.to_bytes()))
}

/// Runs `args` on a copy of `before`, killed before each file operation in turn, then without a kill. `check` looks at what
/// a kill leaves, and at what the run after it leaves.
fn inject(folder: &Folder, before: &str, args: &[&str], check: impl Fn(&str, bool)) -> usize {
    let path = folder.path("killed");
    for number in 0.. {
        if fs::exists(&path).unwrap() {
            fs::remove_dir_all(&path).unwrap();
        }
        copy(&folder.path(before), &path);
        let end = kill_before(args, Path::new(&path), number);
        if end == End::Done {
            return number;
        }
        check(&path, false);
        succeed(args);
        check(&path, true);
    }
    unreachable!("a command ends")
}

/// Every weight file of a run, which must load, without its metadata: times differ.
fn weights(run: &str) -> BTreeMap<String, BTreeMap<String, Vec<u8>>> {
    let names = fs::read_dir(run).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names = names.filter(|name| name.ends_with(".safetensors"));
    names.map(|name| (name.clone(), tensors(&format!("{run}/{name}")))).collect()
}

#[test]
fn a_kill_at_any_file_operation_of_a_checkpoint_leaves_a_run_that_goes_on() {
    let folder = Folder::new();
    let (data, begun) = (tiles(&folder, "pictures", &["a", "b"], 4), folder.path("begun"));
    let settings = ["data.codec=patch:4", "data.size=16", "train.checkpoint_every=1", "train.report_every=1"];
    succeed(&train(&data, &begun, "1", &[&settings[..], &["train.keep_last=1"]].concat()));
    let whole = folder.path("whole");
    copy(&begun, &whole);
    succeed(&[&resume(&whole, &[])[..], &["--steps", "2"]].concat());
    let (first, last) = (weights(&begun), weights(&whole));
    let killed = folder.path("killed");
    let args = [&resume(&killed, &[])[..], &["--steps", "2"]].concat();
    let count = inject(&folder, "begun", &args, |run, done| {
        let files = weights(run);
        if done {
            assert!(files == last, "{:?}", folder.names("killed"));
            return;
        }
        for (name, tensors) in &files {
            assert!([&first, &last].iter().any(|files| files.get(name) == Some(tensors)), "{name}");
        }
        assert!(files.keys().any(|name| name.starts_with("checkpoint-")), "{:?}", folder.names("killed"));
    });
    assert!(count >= 10, "{count} file operations");
}

#[test]
fn a_kill_at_any_file_operation_of_a_cache_leaves_one_that_is_finished_later() {
    let folder = Folder::new();
    let (data, whole) = (tiles(&folder, "pictures", &["a", "b"], 4), folder.path("whole"));
    succeed(&cache(&data, "16", &whole));
    let complete = contents(&folder, "whole");
    fs::create_dir(folder.path("begun")).unwrap();
    let killed = folder.path("killed");
    let count = inject(&folder, "begun", &cache(&data, "16", &killed), |_, done| {
        let files = contents(&folder, "killed");
        if done {
            assert!(files == complete, "{:?}", files.keys());
            return;
        }
        // Whatever has its name is whole.
        let named = files.iter().filter(|(name, _)| !name.starts_with(".writing-"));
        named.for_each(|(name, bytes)| assert!(complete.get(name) == Some(bytes), "{name}"));
    });
    assert!(count >= 10, "{count} file operations");
}
