//! Staying sound in the child of a `fork`.
//!
//! SQLite keeps a table of the files that this process has open, with the locks that it holds on
//! them. A child inherits the table but not the locks, as POSIX has it, and a connection that it
//! opens would rely on locks that nobody holds: two processes would write at once. So in a child
//! every file seems to be on another device to SQLite, which then does not find it in the table and
//! locks it anew. The table is keyed by what `fstat` says, and
//! [SQLite lets its system calls be replaced](https://sqlite.org/c3ref/vfs.html).
//!
//! What was open before the fork belongs to the parent, and must not be used or dropped in the
//! child.

#![allow(
    unsafe_code,
    reason = "fork, and what SQLite offers for it, are C interfaces"
)]

use std::cell::Cell;
use std::ffi::{c_char, c_int};
use std::fs::File;
use std::mem::transmute;
use std::ops::Deref;
use std::os::fd::{AsRawFd as _, RawFd};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rusqlite::ffi;

/// How many forks lie between this process and the first one that used a store.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// The file system layer of SQLite.
static VFS: AtomicPtr<ffi::sqlite3_vfs> = AtomicPtr::new(ptr::null_mut());

/// SQLite's locks that are shared by all connections. A child that inherited one while another
/// thread of its parent held it would wait for ever.
const MUTEXES: [c_int; 7] = [
    ffi::SQLITE_MUTEX_STATIC_MAIN,
    ffi::SQLITE_MUTEX_STATIC_MEM,
    ffi::SQLITE_MUTEX_STATIC_OPEN,
    ffi::SQLITE_MUTEX_STATIC_PRNG,
    ffi::SQLITE_MUTEX_STATIC_LRU,
    ffi::SQLITE_MUTEX_STATIC_PMEM,
    ffi::SQLITE_MUTEX_STATIC_VFS1,
];

/// The longest that a fork waits for other threads to leave SQLite's shared locks, which they hold
/// for microseconds.
const PATIENCE: Duration = Duration::from_secs(1);

thread_local! {
    /// Whether this thread, which is about to fork, holds [`MUTEXES`].
    static HOLDS: Cell<bool> = const { Cell::new(false) };
}

/// What threads of one process share, and no child with its parent: a thread that holds one of
/// these locks is not there in a child.
#[derive(Default)]
struct Process {
    creating: Mutex<()>,
    /// The open files whose locks this process takes with `flock`. Such a lock belongs to all
    /// processes that inherited the file, and outlives the one that took it.
    lock_files: Mutex<Vec<RawFd>>,
}

static PROCESS: AtomicPtr<Process> = AtomicPtr::new(ptr::null_mut());

/// Makes a value that stays as long as the process.
fn new_process() -> *mut Process {
    Box::leak(Box::default())
}

fn process() -> &'static Process {
    expect();
    // SAFETY: `expect` has set it, and what it is set to stays.
    unsafe { &*PROCESS.load(Ordering::Acquire) }
}

/// Waits until no other thread of this process creates or opens a store.
pub(crate) fn creating() -> MutexGuard<'static, ()> {
    process().creating.lock()
}

/// A file to lock, which a child of a fork has no part in.
pub(crate) struct LockFile(File);

impl LockFile {
    pub(crate) fn new(file: File) -> Self {
        process().lock_files.lock().push(file.as_raw_fd());
        Self(file)
    }
}

impl Deref for LockFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        let fd = self.0.as_raw_fd();
        process().lock_files.lock().retain(|known| *known != fd);
    }
}

/// Prepares this process for forks; whoever opens a store comes here first.
fn expect() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        PROCESS.store(new_process(), Ordering::Release);
        // SAFETY: a name that is nothing asks for the default; SQLite initialises itself, and the
        // result lives as long as the process.
        VFS.store(
            unsafe { ffi::sqlite3_vfs_find(ptr::null()) },
            Ordering::Release,
        );
        // SAFETY: the functions live as long as the process.
        unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after_in_child)) };
    });
}

fn mutexes() -> impl DoubleEndedIterator<Item = *mut ffi::sqlite3_mutex> {
    // SAFETY: these numbers name mutexes that live as long as the process.
    let mutexes = MUTEXES.map(|id| unsafe { ffi::sqlite3_mutex_alloc(id) });
    mutexes.into_iter()
}

/// Takes all of [`MUTEXES`], or none.
fn take() -> bool {
    // SAFETY, here and below: the mutexes are those of SQLite, and only what this thread took is
    // left.
    let taken = mutexes().take_while(|m| unsafe { ffi::sqlite3_mutex_try(*m) } == ffi::SQLITE_OK);
    let taken = taken.count();
    if taken < MUTEXES.len() {
        leave(taken);
    }
    taken == MUTEXES.len()
}

fn leave(taken: usize) {
    for mutex in mutexes().take(taken) {
        unsafe { ffi::sqlite3_mutex_leave(mutex) };
    }
}

extern "C" fn before() {
    let deadline = Instant::now() + PATIENCE;
    // All anew where one is taken: the order in which other threads lock them is not known.
    while !take() {
        if Instant::now() >= deadline {
            return;
        }
        thread::sleep(Duration::from_micros(50));
    }
    HOLDS.set(true);
}

extern "C" fn after() {
    if HOLDS.take() {
        leave(MUTEXES.len());
    }
}

extern "C" fn after_in_child() {
    after();
    FORKS.fetch_add(1, Ordering::Relaxed);
    let vfs = VFS.load(Ordering::Acquire);
    // SAFETY: SQLite does not change what it returned, and no other thread is here to use it. The
    // functions have the types of those they replace.
    unsafe {
        if let Some(set) = (*vfs).xSetSystemCall {
            type Fstat = unsafe extern "C" fn(c_int, *mut libc::stat) -> c_int;
            type Stat = unsafe extern "C" fn(*const c_char, *mut libc::stat) -> c_int;
            type Any = unsafe extern "C" fn();
            set(vfs, c"fstat".as_ptr(), Some(transmute::<Fstat, Any>(fstat)));
            set(vfs, c"stat".as_ptr(), Some(transmute::<Stat, Any>(stat)));
        }
    }
    let parent = PROCESS.swap(new_process(), Ordering::AcqRel);
    // SAFETY: what it was set to stays. Where a thread that is not here has the lock, the files stay
    // with this process until it ends.
    let Some(files) = (unsafe { (*parent).lock_files.try_lock() }) else {
        return;
    };
    // SAFETY: the paths are text that ends with a zero. The numbers stay those of open files,
    // because the objects that hold them still exist.
    unsafe {
        let nothing = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        if nothing >= 0 {
            for fd in files.iter() {
                libc::dup2(nothing, *fd);
            }
            libc::close(nothing);
        }
    }
}

/// Gives a file another device in every generation of processes.
unsafe fn elsewhere(result: c_int, stat: *mut libc::stat) -> c_int {
    if result == 0 {
        let shift = libc::dev_t::BITS - 16;
        let mark = (FORKS.load(Ordering::Relaxed) & 0xffff) as libc::dev_t;
        // SAFETY: the caller's, filled by the system.
        unsafe { (*stat).st_dev ^= mark << shift };
    }
    result
}

unsafe extern "C" fn fstat(fd: c_int, stat: *mut libc::stat) -> c_int {
    // SAFETY: as SQLite's own call.
    unsafe { elsewhere(libc::fstat(fd, stat), stat) }
}

unsafe extern "C" fn stat(path: *const c_char, stat: *mut libc::stat) -> c_int {
    // SAFETY: as SQLite's own call.
    unsafe { elsewhere(libc::stat(path, stat), stat) }
}
