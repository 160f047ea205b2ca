//! Opening a store, and what all handles share.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alknet_fs_content::{Config, Contents, Files};
use alknet_fs_core::branch::{self, DEFAULT_BRANCH};
use alknet_fs_core::chain::Chain;
use alknet_fs_core::edit::{Context, Editor};
use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::store::{BucketId, ReadTxn, SessionId, Store as TreeStore, Version, WriteTxn};
use alknet_fs_core::{Error, ErrorKind, Result, Timestamp, TreePath};
use alknet_fs_sqlite::SqliteStore;
use hashlink::LruCache;
use parking_lot::Mutex;

use crate::bucket::Bucket;
use crate::content::held::Uses;
use crate::content::{self, ContentSource, Hub};
use crate::session::Keeper;
use crate::view::Seen;
use crate::watch::{WatchOptions, Watcher};
use crate::{BranchId, Durability, SessionInfo};

/// The bucket that [`Store::create`] makes.
pub const DEFAULT_BUCKET: &str = "default";

/// The number of the bucket that every store begins with.
const FIRST_BUCKET: BucketId = BucketId(1);

/// How to open a store.
///
/// ```
/// # fn main() -> alknet_fs::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("store");
/// let store = alknet_fs::Options::new().author("agent-7").create(&path)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    pub(crate) author: String,
    pub(crate) durability: Durability,
    pub(crate) busy_timeout: Duration,
    pub(crate) content: Config,
    files: Option<Arc<dyn Files>>,
}

impl Default for Options {
    fn default() -> Self {
        let set = |key: &&str| std::env::var(key).ok().filter(|name| !name.is_empty());
        let user = ["USER", "LOGNAME", "USERNAME"].iter().find_map(set);
        let known = || whoami::username().unwrap_or_else(|_| "unknown".to_owned());
        Self {
            author: user.unwrap_or_else(known),
            durability: Durability::Full,
            busy_timeout: Duration::from_secs(30),
            content: Config::default(),
            files: None,
        }
    }
}

impl Options {
    /// Creates the default options: the user's name as the author, full durability, a busy timeout
    /// of 30 seconds.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets who is named as the author of events and the owner of sessions.
    #[must_use]
    pub fn author(mut self, author: impl Into<String>) -> Self {
        self.author = author.into();
        self
    }

    /// Sets what a commit promises when it returns.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets how long a write waits for writers of other processes before it fails with
    /// [`ErrorKind::Busy`].
    #[must_use]
    pub fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Keeps large contents and staged writes in other files than those of the store's directory:
    /// for tests that let them fail.
    #[doc(hidden)]
    #[must_use]
    pub fn files(mut self, files: Arc<dyn Files>) -> Self {
        self.files = Some(files);
        self
    }

    /// Makes a store in a new or empty directory, with the bucket [`DEFAULT_BUCKET`].
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] where there is a store already.
    pub fn create(self, path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        let sqlite = SqliteStore::create(path, self.sqlite()).map_err(|e| e.op("mkfs"))?;
        let store = self.on_disk(path, sqlite)?;
        store.make_first_bucket()?;
        Ok(store)
    }

    /// Opens a store.
    ///
    /// # Errors
    /// [`ErrorKind::NotAStore`] with what is wrong and what to do about it.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        let sqlite = SqliteStore::open(path, self.sqlite()).map_err(|e| e.op("open store"))?;
        let store = self.on_disk(path, sqlite)?;
        store.make_first_bucket()?;
        Ok(store)
    }

    /// Opens a store, or makes it where the directory is missing or empty, or where its making was
    /// begun, be it by another process at this moment.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_or_create(self, path: impl AsRef<Path>) -> Result<Store> {
        let path = path.as_ref();
        if path.join("store.db").exists() {
            match self.clone().open(path) {
                Err(e) if e.kind() == ErrorKind::NotAStore => {
                    // With contents, its database was lost unless somebody has just made it.
                    if path.join("blobs").exists() {
                        return self.open(path);
                    }
                }
                result => return result,
            }
        }
        match self.clone().create(path) {
            // Somebody else made it in the meantime.
            Err(e) if e.is_already_exists() => self.open(path),
            result => result,
        }
    }

    /// Makes a store in memory, with the bucket [`DEFAULT_BUCKET`]; it is gone when the last handle
    /// is dropped.
    pub fn memory(self) -> Result<Store> {
        let contents = Contents::in_memory();
        let store = Store::new(self, Arc::new(MemoryStore::new()), None, contents);
        store.make_first_bucket()?;
        Ok(store)
    }

    fn sqlite(&self) -> alknet_fs_sqlite::Options {
        alknet_fs_sqlite::Options {
            busy_timeout: self.busy_timeout,
            ..alknet_fs_sqlite::Options::default()
        }
    }

    fn on_disk(self, path: &Path, sqlite: SqliteStore) -> Result<Store> {
        let contents = match &self.files {
            Some(files) => Contents::with_files(Arc::clone(files), self.content.clone()),
            None => Contents::open_store(path, self.content.clone())?,
        };
        let sqlite = Arc::new(sqlite);
        let disk = Disk {
            path: path.to_owned(),
            sqlite: Arc::clone(&sqlite),
        };
        Ok(Store::new(self, sqlite, Some(disk), contents))
    }
}

/// A store: a directory with a database and content files, or memory. Clones share it.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

/// What only a store on disk has.
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    pub(crate) sqlite: Arc<SqliteStore>,
}

/// What calls have seen of a branch in one state of the store.
struct Recent {
    version: Version,
    chain: Arc<Chain>,
    seen: Arc<Mutex<Seen>>,
}

/// Of how many branches a store remembers what was seen.
const RECENT_BRANCHES: usize = 8;

/// What all handles of one store share.
pub(crate) struct Inner {
    pub(crate) tree: Arc<dyn TreeStore>,
    pub(crate) disk: Option<Disk>,
    pub(crate) contents: Contents,
    pub(crate) options: Options,
    pub(crate) keeper: Keeper,
    /// Who waits for contents that are not here.
    pub(crate) hub: Hub,
    /// Which contents were read lately.
    pub(crate) uses: Uses,
    chains: Mutex<HashMap<BranchId, Arc<Chain>>>,
    /// What was seen of the branches read last, each in one state of the store.
    recent: Mutex<LruCache<BranchId, Recent>>,
    uid: u32,
    gid: u32,
}

impl Store {
    fn new(
        options: Options,
        tree: Arc<dyn TreeStore>,
        disk: Option<Disk>,
        contents: Contents,
    ) -> Self {
        let (uid, gid) = process_owner();
        let keeper = Keeper::new(
            disk.as_ref().map(|disk| disk.path.join("locks")),
            options.busy_timeout,
        );
        Self {
            inner: Arc::new(Inner {
                tree,
                disk,
                contents,
                options,
                keeper,
                hub: Hub::default(),
                uses: Uses::default(),
                chains: Mutex::default(),
                recent: Mutex::new(LruCache::new(RECENT_BRANCHES)),
                uid,
                gid,
            }),
        }
    }

    /// Makes a store with the default [`Options`].
    ///
    /// # Errors
    /// As [`Options::create`].
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().create(path)
    }

    /// Opens a store with the default [`Options`].
    ///
    /// # Errors
    /// As [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(path)
    }

    /// Makes a store in memory with the default [`Options`].
    pub fn memory() -> Result<Self> {
        Options::new().memory()
    }

    /// Returns the store's directory, or nothing for a store in memory.
    pub fn path(&self) -> Option<&Path> {
        self.inner.path()
    }

    /// Finds a bucket by its name. The handle stays with the bucket when it is renamed.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn bucket(&self, name: &str) -> Result<Bucket> {
        let record = branch::bucket(&*self.inner.tree.read()?, name);
        Ok(self.bucket_handle(record.map_err(|e| e.op("open bucket"))?.id))
    }

    /// Returns the names of all buckets, sorted.
    pub fn buckets(&self) -> Result<Vec<String>> {
        let buckets = self.inner.tree.read()?.buckets()?;
        Ok(buckets.into_iter().map(|b| b.name).collect())
    }

    /// Makes a bucket with an empty branch `main`.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`]; [`ErrorKind::InvalidInput`] for the name.
    pub fn create_bucket(&self, name: &str) -> Result<Bucket> {
        let context = self.inner.context();
        let mut txn = self.inner.write()?;
        let (bucket, _) =
            branch::create_bucket(&mut *txn, name, &context).map_err(|e| e.op("create bucket"))?;
        txn.commit()?;
        Ok(self.bucket_handle(bucket.id))
    }

    /// Makes the bucket [`DEFAULT_BUCKET`] where there never was any: in a new store, and in one
    /// whose maker did not get so far, or has not yet.
    fn make_first_bucket(&self) -> Result<()> {
        let txn = self.inner.tree.read()?;
        if txn.bucket_named(DEFAULT_BUCKET)?.is_some() || !txn.buckets()?.is_empty() {
            return Ok(());
        }
        drop(txn);
        let mut txn = self.inner.write()?;
        match branch::create_bucket(&mut *txn, DEFAULT_BUCKET, &self.inner.context()) {
            // Numbers are not used twice: with another one, all buckets were deleted.
            Ok((bucket, _)) if bucket.id == FIRST_BUCKET => txn.commit(),
            Err(e) if !e.is_already_exists() => Err(e.op("create bucket")),
            _ => Ok(()),
        }
    }

    /// Gives a bucket another name.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::AlreadyExists`], [`ErrorKind::InvalidInput`].
    pub fn rename_bucket(&self, name: &str, new: &str) -> Result<()> {
        let mut txn = self.inner.write()?;
        let rename = |txn: &mut dyn WriteTxn| {
            let id = branch::bucket(txn, name)?.id;
            branch::rename_bucket(txn, id, new)
        };
        rename(&mut *txn).map_err(|e| e.op("rename bucket"))?;
        txn.commit()
    }

    /// Deletes a bucket with all its branches, snapshots, sessions and events. What was joined of it is left.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn delete_bucket(&self, name: &str) -> Result<()> {
        let mut txn = self.inner.write()?;
        let id = branch::bucket(&*txn, name)
            .map_err(|e| e.op("delete bucket"))?
            .id;
        txn.remove_bucket(id)?;
        content::forget(&mut *txn, id)?;
        #[cfg(feature = "sync")]
        crate::node::forget_shared(&mut *txn, id)?;
        txn.commit()?;
        self.inner
            .chains
            .lock()
            .retain(|_, chain| chain.bucket() != id);
        Ok(())
    }

    /// Returns all open write sessions, from the oldest.
    pub fn sessions(&self) -> Result<Vec<SessionInfo>> {
        self.inner.sessions(None)
    }

    /// Throws away an open write session with its staged bytes, whoever opened it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Locked`] where the session is being used by a living
    /// process and `force` is false.
    pub fn abort_session(&self, id: SessionId, force: bool) -> Result<()> {
        self.inner.abort_session(id, force)
    }

    /// Watches for events.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown bucket.
    pub fn watch(&self, options: &WatchOptions) -> Result<Watcher> {
        Watcher::new(Arc::clone(&self.inner), options)
    }

    /// Sets who is asked, in this process, for contents that are not here; nobody asks for more than
    /// reads need. To fetch in the background and for other processes too, the process that runs the
    /// node calls [`serve_contents`](Self::serve_contents) instead.
    pub fn set_content_source(&self, source: Option<Arc<dyn ContentSource>>) {
        self.inner.hub.set_source(source);
    }

    pub(crate) fn bucket_handle(&self, id: BucketId) -> Bucket {
        Bucket {
            inner: Arc::clone(&self.inner),
            id,
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// The store's directory, or nothing for a store in memory.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.disk.as_ref().map(|disk| disk.path.as_path())
    }

    /// Begins a write transaction of the store's durability.
    pub(crate) fn write(&self) -> Result<Box<dyn WriteTxn>> {
        self.tree.write(self.options.durability)
    }

    /// Returns who changes the tree, and when: now.
    pub(crate) fn context(&self) -> Context {
        Context {
            now: now(),
            author: self.options.author.clone(),
            uid: self.uid,
            gid: self.gid,
        }
    }

    /// Returns the chain of a branch as a transaction sees it, from the cache if it still holds.
    pub(crate) fn chain(&self, txn: &dyn ReadTxn, id: BranchId) -> Result<Arc<Chain>> {
        let cached = self.chains.lock().get(&id).cloned();
        if let Some(chain) = cached {
            let bucket = txn.bucket(chain.bucket())?;
            if bucket.is_some_and(|bucket| bucket.generation == chain.generation()) {
                return Ok(chain);
            }
        }
        let chain = Arc::new(Chain::load(txn, id, None)?);
        self.chains.lock().insert(id, Arc::clone(&chain));
        Ok(chain)
    }

    /// Returns the chain of a branch in one state of the store, and what was seen of it in that
    /// state: whoever uses or adds to it must find the store still in that state afterwards.
    pub(crate) fn recent(
        &self,
        txn: &dyn ReadTxn,
        id: BranchId,
        version: Version,
    ) -> Result<(Arc<Chain>, Arc<Mutex<Seen>>)> {
        if let Some(recent) = self.recent.lock().get(&id)
            && recent.version == version
        {
            return Ok((Arc::clone(&recent.chain), Arc::clone(&recent.seen)));
        }
        let chain = self.chain(txn, id)?;
        let seen = Arc::new(Mutex::new(Seen::new()));
        let recent = Recent {
            version,
            chain: Arc::clone(&chain),
            seen: Arc::clone(&seen),
        };
        self.recent.lock().insert(id, recent);
        Ok((chain, seen))
    }

    pub(crate) fn forget_chain(&self, id: BranchId) {
        self.chains.lock().remove(&id);
        self.recent.lock().remove(&id);
    }

    /// Edits a branch in one transaction and commits it; an error undoes everything.
    pub(crate) fn edit<R>(
        &self,
        id: BranchId,
        session: Option<SessionId>,
        edit: impl FnOnce(&mut Editor<'_>) -> Result<R>,
    ) -> Result<R> {
        let span = tracing::debug_span!("edit", branch = id.0);
        let _entered = span.enter();
        let mut txn = self.write()?;
        let chain = self.chain(&*txn, id)?;
        let mut editor = Editor::new(&mut *txn, &chain, self.context());
        let result = edit(&mut editor)?;
        editor.finish(session)?;
        tracing::debug_span!("commit").in_scope(|| txn.commit())?;
        Ok(result)
    }
}

/// The default branch of a bucket, for handles that name none.
impl Bucket {
    /// Opens the branch that every new bucket has, `main`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where it was renamed or deleted.
    pub fn main(&self) -> Result<crate::Branch> {
        self.branch(DEFAULT_BRANCH)
    }
}

/// Returns the present time.
pub(crate) fn now() -> Timestamp {
    let now = SystemTime::now();
    let nanos = match now.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(e) => i64::try_from(e.duration().as_nanos()).map_or(i64::MIN, |n| -n),
    };
    Timestamp(nanos)
}

#[cfg(unix)]
fn process_owner() -> (u32, u32) {
    (
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    )
}

#[cfg(not(unix))]
fn process_owner() -> (u32, u32) {
    (0, 0)
}

/// Whatever names a path inside a tree.
pub trait IntoPath {
    /// Turns it into a valid path.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidPath`], [`ErrorKind::NameTooLong`].
    fn into_path(self) -> Result<TreePath>;
}

impl IntoPath for TreePath {
    fn into_path(self) -> Result<TreePath> {
        Ok(self)
    }
}

impl IntoPath for &TreePath {
    fn into_path(self) -> Result<TreePath> {
        Ok(self.clone())
    }
}

impl IntoPath for &str {
    fn into_path(self) -> Result<TreePath> {
        TreePath::parse(self)
    }
}

impl IntoPath for &String {
    fn into_path(self) -> Result<TreePath> {
        TreePath::parse(self)
    }
}

impl IntoPath for String {
    fn into_path(self) -> Result<TreePath> {
        TreePath::parse(&self)
    }
}

impl IntoPath for &[u8] {
    fn into_path(self) -> Result<TreePath> {
        TreePath::from_bytes(self)
    }
}

/// Makes the error for a session that another living process works on.
pub(crate) fn locked(detail: String) -> Error {
    Error::with_detail(ErrorKind::Locked, detail)
}
