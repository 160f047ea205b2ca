//! Threads for what may wait for long: libuv's pool has few, and all that a process reads, resolves
//! and encrypts goes through them.

use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use alknet_fs::Error;
use napi::Env;
use napi::bindgen_prelude::Object;
use napi_derive::napi;
use parking_lot::{Condvar, Mutex};

/// The most threads of a lane; as many as libuv has.
const THREADS: usize = 4;

/// The most threads that wait for contents.
const WAITING: usize = 256;

/// How long a thread waits for something to do.
const IDLE: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

/// A queue with threads that come with the jobs and go when there are none.
#[derive(Clone)]
pub(crate) struct Lane(Arc<Inner>);

struct Inner {
    most: usize,
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl Default for Lane {
    fn default() -> Self {
        Self::with(THREADS)
    }
}

impl Lane {
    fn with(most: usize) -> Self {
        Self(Arc::new(Inner {
            most,
            state: Mutex::default(),
            more: Condvar::new(),
        }))
    }

    /// The lane of what waits for contents that are elsewhere.
    pub(crate) fn waiting() -> &'static Self {
        static WAITS: LazyLock<Lane> = LazyLock::new(|| Lane::with(WAITING));
        &WAITS
    }

    /// The lane of what has no store yet.
    pub(crate) fn common() -> &'static Self {
        static COMMON: LazyLock<Lane> = LazyLock::new(Lane::default);
        &COMMON
    }

    /// Runs a job on a thread.
    ///
    /// # Errors
    /// Those of the operating system, which has no thread to give: the job was dropped.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let mut state = self.0.state.lock();
        state.jobs.push_back(Box::new(job));
        if state.idle >= state.jobs.len() {
            self.0.more.notify_one();
            return Ok(());
        }
        if state.threads == self.0.most {
            return Ok(());
        }
        let inner = Arc::clone(&self.0);
        let thread = thread::Builder::new().name("alkfs-lane".to_owned());
        match thread.spawn(move || inner.serve()) {
            Ok(_) => state.threads += 1,
            // Others take it when they have done with theirs.
            Err(_) if state.threads > 0 => {}
            Err(error) => {
                let job = state.jobs.pop_back();
                drop(state);
                drop(job);
                return Err(error.into());
            }
        }
        Ok(())
    }
}

impl Inner {
    fn serve(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // A job that panics has told those who wait for it; or a destructor has panicked.
                let _ = catch_unwind(AssertUnwindSafe(job));
                state = self.state.lock();
                continue;
            }
            state.idle += 1;
            let waited = self.more.wait_for(&mut state, IDLE);
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

thread_local! {
    static ENDING: Cell<bool> = const { Cell::new(false) };
}

/// Tells whether the JavaScript of this thread is over, and what it held is let go.
pub(crate) fn is_ending() -> bool {
    ENDING.try_with(Cell::get).unwrap_or(true)
}

/// Notes when the JavaScript of a thread is over.
#[cfg_attr(test, allow(dead_code))]
#[napi(module_exports)]
pub fn begin(_exports: Object<'_>, env: Env) -> napi::Result<()> {
    ENDING.set(false);
    env.add_env_cleanup_hook((), |()| ENDING.set(true))?;
    Ok(())
}
