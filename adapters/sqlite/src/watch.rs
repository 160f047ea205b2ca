//! Waking those who wait for commits, of this process and of others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use alknet_fs_core::{Error, ErrorKind, Result};
use honker_core::{UpdateWatcher, WatcherConfig};
use parking_lot::{Condvar, Mutex};

use crate::database::{Database, replaced};

/// Counts commits once somebody asks for them.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    watcher: Mutex<Option<UpdateWatcher>>,
    poll_interval: Duration,
    /// What the store opened. The watcher only knows the file that was there when it began.
    database: Database,
}

struct Shared {
    started: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    count: u64,
    stopped: bool,
}

impl Shared {
    fn bump(&self) {
        self.state.lock().count += 1;
        self.changed.notify_all();
    }

    fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// Lives in the watcher's thread, and tells the waiting when that ends.
struct EndOfThread(Arc<Shared>);

impl Drop for EndOfThread {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Watch {
    pub(crate) fn new(database: Database, poll_interval: Duration) -> Self {
        let shared = Shared {
            started: AtomicBool::new(false),
            state: Mutex::new(State {
                count: 1,
                stopped: false,
            }),
            changed: Condvar::new(),
        };
        Self {
            shared: Arc::new(shared),
            watcher: Mutex::new(None),
            poll_interval,
            database,
        }
    }

    /// Tells that this store object committed; the watcher would notice it up to one poll later.
    pub(crate) fn committed(&self) {
        if self.shared.started.load(Ordering::Acquire) {
            self.shared.bump();
        }
    }

    pub(crate) fn wait(&self, seen: u64, timeout: Duration) -> Result<u64> {
        self.start()?;
        let deadline = Instant::now().checked_add(timeout);
        let mut state = self.shared.state.lock();
        while state.count == seen && !state.stopped {
            match deadline {
                Some(deadline) => {
                    if self
                        .shared
                        .changed
                        .wait_until(&mut state, deadline)
                        .timed_out()
                    {
                        break;
                    }
                }
                None => self.shared.changed.wait(&mut state),
            }
        }
        if state.stopped {
            return Err(replaced());
        }
        Ok(state.count)
    }

    fn start(&self) -> Result<()> {
        let mut watcher = self.watcher.lock();
        if watcher.is_some() {
            return Ok(());
        }
        let config = WatcherConfig::default()
            .with_poll_interval(self.poll_interval)
            .map_err(|why| Error::with_detail(ErrorKind::InvalidInput, why))?;
        let path = self.database.path()?.to_owned();
        let end = EndOfThread(self.shared.clone());
        self.shared.started.store(true, Ordering::Release);
        // Returns once the thread has its baseline: every later commit is noticed.
        *watcher = Some(UpdateWatcher::spawn_with_config(
            path,
            move || end.0.bump(),
            config,
        ));
        self.database.path().inspect_err(|_| self.shared.stop())?;
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(watcher) = self.watcher.get_mut().take() {
            // Its connection has to close before the store's last one, which removes the WAL. A
            // thread that panicked has reported that itself.
            let _ = watcher.join();
        }
    }
}
