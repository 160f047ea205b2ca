//! The async face: the same operations as futures.
//!
//! Each call runs the blocking one on tokio's blocking threads, so there is one implementation and
//! one behaviour. Dropping the future of long work ([`Branch::import`], [`Branch::export`],
//! [`Store::fsck`], [`Store::gc`]) cancels it, and of a call that waits for a content that is not here,
//! the wait; a short call that was started completes. Dropping a
//! [`Session`] that was not closed aborts it.
//!
//! ```
//! # fn main() -> alknet_fs::Result<()> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use alknet_fs::{Options, aio};
//! let store = aio::Store::memory(Options::new()).await?;
//! let main = store.branch("default", "main").await?;
//! main.write("/hello.txt", "hello").await?;
//! assert_eq!(main.read("/hello.txt").await?, b"hello");
//! # Ok(())
//! # })
//! # }
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use crate::{
    BranchInfo, Cancel, Closed, Cursor, Difference, DirEntry, Entry, Error, ErrorKind, Event,
    ExportOptions, ExportReport, Fetching, Follow, FsckOptions, FsckReport, GcOptions, GcReport,
    Hash, ImportOptions, ImportReport, OpenOptions, Options, PutMode, Result, SessionId,
    SessionInfo, SetAttrs, SnapshotRecord, Stats, Task, TreePath, TreeRef, WatchOptions,
};

/// Runs a blocking call on a thread made for it.
async fn run<R: Send + 'static>(call: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
    match spawn_blocking(call).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::with_detail(
                ErrorKind::Cancelled,
                "the runtime is shutting down",
            )),
        },
    }
}

/// Runs long work, and cancels it when the future is dropped.
async fn run_task<R: Send + 'static>(
    task: &Task,
    call: impl FnOnce(&Task) -> Result<R> + Send + 'static,
) -> Result<R> {
    struct CancelOnDrop(Option<Cancel>);
    impl Drop for CancelOnDrop {
        fn drop(&mut self) {
            if let Some(cancel) = self.0.take() {
                cancel.cancel();
            }
        }
    }
    let mut guard = CancelOnDrop(Some(task.cancel().clone()));
    let task = task.clone();
    let result = run(move || call(&task)).await;
    guard.0 = None;
    result
}

/// Writes async methods that pass owned arguments to the blocking method of the same name.
macro_rules! passed_on {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty $(=> $pass:expr)?),*) -> $out:ty;)*) => {$(
        $(#[$doc])*
        pub async fn $name(&self, $($arg: $type),*) -> Result<$out> {
            let inner = self.0.clone();
            $($(let $arg = $pass;)?)*
            run(move || inner.$name($($arg),*)).await
        }
    )*};
}

/// As [`crate::Store`], with futures.
#[derive(Debug, Clone)]
pub struct Store(crate::Store);

impl Store {
    /// As [`Options::create`].
    pub async fn create(path: impl Into<PathBuf>, options: Options) -> Result<Self> {
        let path = path.into();
        run(move || options.create(path)).await.map(Self)
    }

    /// As [`Options::open`].
    pub async fn open(path: impl Into<PathBuf>, options: Options) -> Result<Self> {
        let path = path.into();
        run(move || options.open(path)).await.map(Self)
    }

    /// As [`Options::open_or_create`].
    pub async fn open_or_create(path: impl Into<PathBuf>, options: Options) -> Result<Self> {
        let path = path.into();
        run(move || options.open_or_create(path)).await.map(Self)
    }

    /// As [`Options::memory`].
    pub async fn memory(options: Options) -> Result<Self> {
        run(move || options.memory()).await.map(Self)
    }

    /// Returns the blocking store.
    pub fn blocking(&self) -> &crate::Store {
        &self.0
    }

    /// Finds a branch of a bucket.
    pub async fn branch(&self, bucket: &str, branch: &str) -> Result<Branch> {
        let store = self.0.clone();
        let (bucket, branch) = (bucket.to_owned(), branch.to_owned());
        run(move || store.bucket(&bucket)?.branch(&branch))
            .await
            .map(Branch)
    }

    /// As [`crate::Store::create_bucket`]; returns its branch `main`.
    pub async fn create_bucket(&self, name: &str) -> Result<Branch> {
        let (store, name) = (self.0.clone(), name.to_owned());
        run(move || store.create_bucket(&name)?.main())
            .await
            .map(Branch)
    }

    passed_on! {
        /// As [`crate::Store::buckets`].
        buckets() -> Vec<String>;
        /// As [`crate::Store::sessions`].
        sessions() -> Vec<SessionInfo>;
        /// As [`crate::Store::abort_session`].
        abort_session(id: SessionId, force: bool) -> ();
        /// As [`crate::Store::stats`].
        stats() -> Stats;
    }

    /// As [`crate::Store::resume_session`].
    pub async fn resume_session(&self, id: SessionId) -> Result<Session> {
        let store = self.0.clone();
        let session = run(move || store.resume_session(id)).await?;
        Ok(Session(Some(Arc::new(session))))
    }

    /// As [`crate::Store::fsck`].
    pub async fn fsck(&self, options: &FsckOptions, task: &Task) -> Result<FsckReport> {
        let (store, options) = (self.0.clone(), *options);
        run_task(task, move |task| store.fsck(&options, task)).await
    }

    /// As [`crate::Store::gc`].
    pub async fn gc(&self, options: &GcOptions, task: &Task) -> Result<GcReport> {
        let (store, options) = (self.0.clone(), options.clone());
        run_task(task, move |task| store.gc(&options, task)).await
    }

    /// As [`crate::Store::watch`].
    pub async fn watch(&self, options: &WatchOptions) -> Result<Watcher> {
        let (store, options) = (self.0.clone(), options.clone());
        let watcher = run(move || store.watch(&options)).await?;
        Ok(Watcher { watcher, seen: 0 })
    }
}

/// As [`crate::Branch`], with futures.
#[derive(Debug, Clone)]
pub struct Branch(crate::Branch);

impl Branch {
    /// Returns the blocking branch.
    pub fn blocking(&self) -> &crate::Branch {
        &self.0
    }

    passed_on! {
        /// As [`crate::Branch::info`].
        info() -> BranchInfo;
        /// As [`crate::Branch::snapshots`].
        snapshots() -> Vec<SnapshotRecord>;
        /// As [`crate::Branch::stat`].
        stat(path: &str => path.to_owned()) -> Entry;
        /// As [`crate::Branch::lstat`].
        lstat(path: &str => path.to_owned()) -> Entry;
        /// As [`crate::Branch::exists`].
        exists(path: &str => path.to_owned()) -> bool;
        /// As [`crate::Branch::read_link`].
        read_link(path: &str => path.to_owned()) -> String;
        /// As [`crate::Branch::list`].
        list(path: &str => path.to_owned()) -> Vec<DirEntry>;
        /// As [`crate::Branch::write`].
        write(path: &str => path.to_owned(), bytes: impl Into<Vec<u8>> => bytes.into()) -> ();
        /// As [`crate::Branch::mkdir`].
        mkdir(path: &str => path.to_owned()) -> ();
        /// As [`crate::Branch::mkdir_all`].
        mkdir_all(path: &str => path.to_owned()) -> ();
        /// As [`crate::Branch::remove`].
        remove(path: &str => path.to_owned()) -> ();
        /// As [`crate::Branch::remove_dir`].
        remove_dir(path: &str => path.to_owned()) -> ();
        /// As [`crate::Branch::remove_all`].
        remove_all(path: &str => path.to_owned()) -> u64;
        /// As [`crate::Branch::rename`].
        rename(from: &str => from.to_owned(), to: &str => to.to_owned()) -> ();
        /// As [`crate::Branch::copy`].
        copy(from: &str => from.to_owned(), to: &str => to.to_owned()) -> u64;
    }

    /// As [`crate::Branch::fetching`].
    #[must_use]
    pub fn fetching(&self, fetching: &Fetching) -> Self {
        Self(self.0.fetching(fetching))
    }

    /// As [`crate::Branch::read`]. Dropping the future ends the wait for a content that is not here.
    pub async fn read(&self, path: &str) -> Result<Vec<u8>> {
        self.waiting(path, |branch, path| branch.read(path)).await
    }

    /// Runs a call that may wait for a content, and ends that when the future is dropped.
    async fn waiting<R: Send + 'static>(
        &self,
        path: &str,
        call: impl FnOnce(&crate::Branch, String) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let (branch, path) = (self.0.clone(), path.to_owned());
        let mut fetching = branch.fetching.as_deref().cloned().unwrap_or_default();
        let dropped = Task::new();
        fetching.dropped = dropped.cancel().clone();
        run_task(&dropped, move |_| call(&branch.fetching(&fetching), path)).await
    }

    /// As [`crate::Branch::put`].
    pub async fn put(
        &self,
        path: &str,
        bytes: impl Into<Vec<u8>>,
        set: &SetAttrs,
        mode: PutMode,
    ) -> Result<()> {
        let (branch, path, bytes, set) = (self.0.clone(), path.to_owned(), bytes.into(), *set);
        run(move || branch.put(path, bytes, &set, mode)).await
    }

    /// As [`crate::Branch::symlink`].
    pub async fn symlink(&self, target: &str, path: &str) -> Result<()> {
        let (branch, target, path) = (self.0.clone(), target.to_owned(), path.to_owned());
        run(move || branch.symlink(&target, path)).await
    }

    /// As [`crate::Branch::set_attrs`].
    pub async fn set_attrs(&self, path: &str, set: &SetAttrs, follow: Follow) -> Result<()> {
        let (branch, path, set) = (self.0.clone(), path.to_owned(), *set);
        run(move || branch.set_attrs(path, &set, follow)).await
    }

    /// As [`crate::Branch::fork`].
    pub async fn fork(&self, name: &str) -> Result<Self> {
        let (branch, name) = (self.0.clone(), name.to_owned());
        run(move || branch.fork(&name)).await.map(Self)
    }

    /// As [`crate::Branch::fork_at`].
    pub async fn fork_at(&self, snapshot: &str, name: &str) -> Result<Self> {
        let (branch, snapshot, name) = (self.0.clone(), snapshot.to_owned(), name.to_owned());
        run(move || branch.fork_at(&snapshot, &name))
            .await
            .map(Self)
    }

    /// As [`crate::Branch::snapshot`].
    pub async fn snapshot(&self, name: &str) -> Result<SnapshotRecord> {
        let (branch, name) = (self.0.clone(), name.to_owned());
        run(move || branch.snapshot(&name)).await
    }

    /// As [`crate::Branch::restore`].
    pub async fn restore(&self, snapshot: &str) -> Result<()> {
        let (branch, snapshot) = (self.0.clone(), snapshot.to_owned());
        run(move || branch.restore(&snapshot)).await
    }

    /// As [`crate::Bucket::diff`].
    pub async fn diff(
        &self,
        from: &TreeRef,
        to: &TreeRef,
        under: &str,
    ) -> Result<Vec<(TreePath, Difference)>> {
        let (bucket, under) = (self.0.bucket(), under.to_owned());
        let (from, to) = (from.clone(), to.clone());
        run(move || bucket.diff(&from, &to, under)).await
    }

    /// Returns the branch's tree hash as it is now; see [`crate::View::tree_hash`].
    pub async fn tree_hash(&self) -> Result<Hash> {
        let branch = self.0.clone();
        run(move || branch.view()?.tree_hash()).await
    }

    /// As [`crate::Branch::open_session`].
    pub async fn open_session(&self, path: &str, options: &OpenOptions) -> Result<Session> {
        let options = options.clone();
        let open = move |branch: &crate::Branch, path| branch.open_session(path, &options);
        let session = self.waiting(path, open).await?;
        Ok(Session(Some(Arc::new(session))))
    }

    /// As [`crate::Branch::import`].
    pub async fn import(
        &self,
        source: impl Into<PathBuf>,
        to: &str,
        options: &ImportOptions,
        task: &Task,
    ) -> Result<ImportReport> {
        let (branch, source, to) = (self.0.clone(), source.into(), to.to_owned());
        let options = options.clone();
        run_task(task, move |task| branch.import(source, to, &options, task)).await
    }

    /// As [`crate::View::export`], of the branch as it is now.
    pub async fn export(
        &self,
        from: &str,
        target: impl Into<PathBuf>,
        options: &ExportOptions,
        task: &Task,
    ) -> Result<ExportReport> {
        let (branch, from, target) = (self.0.clone(), from.to_owned(), target.into());
        let options = options.clone();
        run_task(task, move |task| {
            branch.view()?.export(from, target, &options, task)
        })
        .await
    }
}

/// As [`crate::Session`], with futures.
#[derive(Debug)]
pub struct Session(Option<Arc<crate::Session>>);

impl Session {
    fn inner(&self) -> Result<Arc<crate::Session>> {
        self.0
            .clone()
            .ok_or_else(|| Error::with_detail(ErrorKind::BadHandle, "the session is closed"))
    }

    /// As [`crate::Session::id`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] after [`abort`](Self::abort).
    pub fn id(&self) -> Result<SessionId> {
        Ok(self.inner()?.id())
    }

    /// As [`crate::Session::write_at`].
    pub async fn write_at(&self, offset: u64, bytes: impl Into<Vec<u8>>) -> Result<()> {
        let (session, bytes) = (self.inner()?, bytes.into());
        run(move || session.write_at(offset, &bytes)).await
    }

    /// As [`crate::Session::truncate`].
    pub async fn truncate(&self, size: u64) -> Result<()> {
        let session = self.inner()?;
        run(move || session.truncate(size)).await
    }

    /// Reads up to `len` bytes at an offset; fewer only at the end of the file.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let session = self.inner()?;
        run(move || {
            let mut bytes = vec![0; len];
            let n = session.read_at(offset, &mut bytes)?;
            bytes.truncate(n);
            Ok(bytes)
        })
        .await
    }

    /// As [`crate::Session::sync`].
    pub async fn sync(&self) -> Result<()> {
        let session = self.inner()?;
        run(move || session.sync()).await
    }

    /// As [`crate::Session::close`].
    pub async fn close(&self) -> Result<Closed> {
        let session = self.inner()?;
        run(move || session.close()).await
    }

    /// As [`crate::Session::abort`].
    pub async fn abort(mut self) -> Result<()> {
        let session = self.inner()?;
        self.0 = None;
        run(move || session.abort()).await
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The last handle aborts an unfinished session, which waits for the disk: not on a thread
        // of the runtime, if there still is one.
        if let (Some(session), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn_blocking(move || drop(session));
        }
    }
}

/// As [`crate::Watcher`], with futures.
#[derive(Debug)]
pub struct Watcher {
    watcher: crate::Watcher,
    seen: u64,
}

/// How long a dropped future's thread may go on waiting.
const WAIT: Duration = Duration::from_millis(500);

impl Watcher {
    /// Waits for the next event, for as long as it takes. Dropping the future loses no event.
    ///
    /// # Errors
    /// As [`crate::Watcher::next_timeout`].
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.watcher.next_ready()? {
                return Ok(event);
            }
            // Only the waiting goes to another thread: the watcher stays with its owner.
            let (store, seen) = (self.watcher.store(), self.seen);
            self.seen = run(move || store.wait_for_commit(seen, WAIT)).await?;
        }
    }

    /// As [`crate::Watcher::cursor`].
    pub fn cursor(&self) -> Cursor {
        self.watcher.cursor()
    }
}
