//! Reading a branch, or a snapshot, at one point in time.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use alknet_fs_content::ContentReader;
use alknet_fs_core::chain::Chain;
use alknet_fs_core::event::glob_set;
use alknet_fs_core::store::{BranchId, ContentForm, ReadTxn, Version};
use alknet_fs_core::tree::{self, Follow, Walk};
use alknet_fs_core::{DirEntry, Entry, Error, ErrorKind, Hash, Node, Result, TreePath};
use hashlink::LruCache;
use parking_lot::Mutex;

use crate::content::{Fetching, Named, takes_part};
use crate::progress::Task;
use crate::reader::Reader;
use crate::store::{Inner, IntoPath};

/// A tree at one point in time: whatever is committed afterwards, a view shows the same.
///
/// Reading many things through one view is consistent, and faster than one call each. A view that
/// is held for long keeps the database's write-ahead log from shrinking, so drop it when done.
pub struct View {
    inner: Arc<Inner>,
    chain: Arc<Chain>,
    txn: Mutex<Box<dyn ReadTxn>>,
    /// What was resolved and listed before, which cannot change. Nothing where it is not worth it.
    seen: Option<Arc<Mutex<Seen>>>,
    /// Whether garbage collection waits for this view. A view that lives for one call goes without.
    pinned: bool,
    /// How contents that are not here are waited for, where that is not as usual.
    fetching: Option<Arc<Fetching>>,
}

/// How many paths and how many listings are remembered.
const SEEN_PATHS: usize = 4096;
const SEEN_LISTINGS: usize = 32;

/// The longest listing that is remembered.
const SEEN_LISTING_LEN: usize = 512;

/// What was found in a tree that stays the same.
pub(crate) struct Seen {
    /// Where a path leads, links followed.
    paths: LruCache<TreePath, (TreePath, Entry)>,
    listings: LruCache<TreePath, Vec<DirEntry>>,
}

impl Seen {
    pub(crate) fn new() -> Self {
        Self {
            paths: LruCache::new(SEEN_PATHS),
            listings: LruCache::new(SEEN_LISTINGS),
        }
    }
}

impl View {
    /// Opens a view. Garbage collection leaves alone what a pinned view shows; one that is not may
    /// miss a file that was collected since.
    pub(crate) fn open_at(
        inner: &Arc<Inner>,
        pinned: bool,
        fetching: Option<Arc<Fetching>>,
        chain: impl FnOnce(&dyn ReadTxn) -> Result<Arc<Chain>>,
    ) -> Result<Self> {
        if pinned {
            inner.keeper.pin_view()?;
        }
        let open = || {
            let txn = inner.tree.read()?;
            Ok((chain(&*txn)?, Mutex::new(txn)))
        };
        match open() {
            Ok((chain, txn)) => Ok(Self {
                inner: Arc::clone(inner),
                chain,
                txn,
                seen: pinned.then(|| Arc::new(Mutex::new(Seen::new()))),
                pinned,
                fetching,
            }),
            Err(e) => {
                if pinned {
                    inner.keeper.unpin_view();
                }
                Err(e)
            }
        }
    }

    /// Runs a call on a branch as it is now, and where a commit came in between, once more in a
    /// transaction: so mostly without the price of one, and with what earlier calls have seen.
    pub(crate) fn now<R>(
        inner: &Arc<Inner>,
        branch: BranchId,
        fetching: Option<&Arc<Fetching>>,
        call: impl Fn(&Self) -> Result<R>,
    ) -> Result<R> {
        let glance = Self::glance(inner, branch, fetching);
        if let Ok(Some((view, version))) = glance {
            let result = call(&view);
            let unchanged = view.with(|txn, _| txn.version()) == Some(version);
            match &result {
                // There is no use in waiting twice.
                Err(e) if e.is_content_unavailable() || e.is_cancelled() => return result,
                Err(e) if e.is_corrupt() => {}
                _ if unchanged => return result,
                _ => {}
            }
        }
        let view = |pinned| {
            let chain = |txn: &dyn ReadTxn| inner.chain(txn, branch);
            Self::open_at(inner, pinned, fetching.cloned(), chain)
        };
        match call(&view(false)?) {
            // Garbage collection may have removed a file meanwhile, which a pinned view keeps.
            Err(e) if e.is_corrupt() => call(&view(true)?),
            result => result,
        }
    }

    /// Opens a view that shows one state of the store for as long as it stays in that state.
    fn glance(
        inner: &Arc<Inner>,
        branch: BranchId,
        fetching: Option<&Arc<Fetching>>,
    ) -> Result<Option<(Self, Version)>> {
        let txn = inner.tree.glance()?;
        let Some(version) = txn.version() else {
            return Ok(None);
        };
        let (chain, seen) = inner.recent(&*txn, branch, version)?;
        let view = Self {
            inner: Arc::clone(inner),
            chain,
            txn: Mutex::new(txn),
            seen: Some(seen),
            pinned: false,
            fetching: fetching.cloned(),
        };
        Ok(Some((view, version)))
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    pub(crate) fn with<R>(&self, read: impl FnOnce(&dyn ReadTxn, &Chain) -> R) -> R {
        read(&**self.txn.lock(), &self.chain)
    }

    /// Sets how what is read through this view waits for contents that are not here.
    #[must_use]
    pub fn fetching(mut self, fetching: &Fetching) -> Self {
        self.fetching = Some(Arc::new(fetching.clone()));
        self
    }

    /// Returns the store's directory, or nothing for a store in memory.
    pub fn store_path(&self) -> Option<&Path> {
        self.inner.path()
    }

    /// Returns what is at a path; a link at its end is followed.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::NotADirectory`], [`ErrorKind::TooManyLinks`].
    pub fn stat(&self, path: impl IntoPath) -> Result<Entry> {
        let path = path.into_path()?;
        self.look(&path, Follow::Yes)
            .map_err(|e| e.op("stat").path(path))
    }

    /// Returns what is at a path; a link at its end is returned itself.
    ///
    /// # Errors
    /// As [`stat`](Self::stat).
    pub fn lstat(&self, path: impl IntoPath) -> Result<Entry> {
        let path = path.into_path()?;
        self.look(&path, Follow::No)
            .map_err(|e| e.op("lstat").path(path))
    }

    /// Tells whether something is at a path, links followed.
    ///
    /// # Errors
    /// Only those that say nothing about existence, such as [`ErrorKind::Io`].
    pub fn exists(&self, path: impl IntoPath) -> Result<bool> {
        match self.stat(path) {
            Ok(_) => Ok(true),
            Err(e) => match e.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::TooManyLinks => {
                    Ok(false)
                }
                _ => Err(e),
            },
        }
    }

    /// Returns the path with every symbolic link replaced by what it points to.
    ///
    /// # Errors
    /// As [`stat`](Self::stat).
    pub fn canonicalize(&self, path: impl IntoPath) -> Result<TreePath> {
        self.entry(path, Follow::Yes, "canonicalize")
            .map(|(path, _)| path)
    }

    /// Returns the text of a symbolic link.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] where the path is not a link, and as [`stat`](Self::stat).
    pub fn read_link(&self, path: impl IntoPath) -> Result<String> {
        let (path, entry) = self.entry(path, Follow::No, "readlink")?;
        entry.target().map(str::to_owned).ok_or_else(|| {
            Error::with_detail(ErrorKind::InvalidInput, "not a symbolic link")
                .op("readlink")
                .path(path)
        })
    }

    /// Lists a directory in the order of the names' bytes. Links are not followed.
    ///
    /// # Errors
    /// [`ErrorKind::NotADirectory`], and as [`stat`](Self::stat).
    pub fn list(&self, path: impl IntoPath) -> Result<Vec<DirEntry>> {
        let path = path.into_path()?;
        if let Some(seen) = &self.seen
            && let Some(listing) = seen.lock().listings.get(&path)
        {
            return Ok(listing.clone());
        }
        let list = || {
            let (real, entry) = self.resolve(&path, Follow::Yes)?;
            if !entry.is_dir() {
                return Err(Error::new(ErrorKind::NotADirectory));
            }
            self.with(|txn, chain| tree::list_visible_dir(txn, chain, &real))
        };
        match list() {
            Ok(listing) => {
                if let Some(seen) = &self.seen
                    && listing.len() <= SEEN_LISTING_LEN
                {
                    seen.lock().listings.insert(path, listing.clone());
                }
                Ok(listing)
            }
            Err(e) => Err(e.op("list").path(path)),
        }
    }

    /// Visits everything below a directory, each directory before its entries, by name.
    ///
    /// The visitor must not read through this view.
    ///
    /// # Errors
    /// As [`stat`](Self::stat), and whatever the visitor returns.
    pub fn walk(
        &self,
        path: impl IntoPath,
        mut visit: impl FnMut(&TreePath, &Entry) -> Result<Walk>,
    ) -> Result<()> {
        let path = path.into_path()?;
        self.with(|txn, chain| tree::walk(txn, chain, &path, &mut visit))
            .map_err(|e| e.op("walk").path(path))
    }

    /// Returns the paths below a directory that match a pattern, relative to that directory.
    ///
    /// `*` and `?` stop at `/`, `**` does not; a pattern without a `/` matches names at any depth.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a malformed pattern, and as [`stat`](Self::stat).
    pub fn glob(&self, path: impl IntoPath, pattern: &str) -> Result<Vec<(TreePath, Entry)>> {
        let set = glob_set([pattern])?;
        let base = self.canonicalize(path)?;
        let mut out = Vec::new();
        self.walk(&base, |path, entry| {
            if path
                .strip_prefix(&base)
                .is_some_and(|rest| set.is_match(rest))
            {
                out.push((path.clone(), entry.clone()));
            }
            Ok(Walk::Continue)
        })?;
        Ok(out)
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// [`ErrorKind::IsADirectory`]; [`ErrorKind::ContentUnavailable`] where the content is not here and
    /// does not arrive in time, [`ErrorKind::Corrupt`] where it should be here; and as
    /// [`stat`](Self::stat).
    pub fn read(&self, path: impl IntoPath) -> Result<Vec<u8>> {
        let path = path.into_path()?;
        let read = || {
            let (hash, size) = self.file_at(&path)?;
            self.content(&hash, size)?.into_bytes()
        };
        read().map_err(|e: Error| e.op("read").path(path))
    }

    /// Opens a file for streaming reads. The reader stays valid after the view is dropped.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn open(&self, path: impl IntoPath) -> Result<Reader> {
        let path = path.into_path()?;
        let open = || {
            let (hash, size) = self.file_at(&path)?;
            self.content(&hash, size)
        };
        let content = open().map_err(|e| e.op("open").path(path))?;
        Ok(Reader::new(content))
    }

    pub(crate) fn open_entry(&self, path: &TreePath) -> Result<(TreePath, Entry, Reader)> {
        let (path, entry) = self.resolve(path, Follow::Yes)?;
        let Some(hash) = entry.hash() else {
            return Err(Error::new(ErrorKind::IsADirectory));
        };
        let content = self.content(&hash, entry.size())?;
        Ok((path, entry, Reader::new(content)))
    }

    /// Tells how the content of a file is kept; nothing where it is not here.
    ///
    /// # Errors
    /// [`ErrorKind::IsADirectory`], and as [`stat`](Self::stat).
    pub fn content_form(&self, path: impl IntoPath) -> Result<Option<ContentForm>> {
        let path = path.into_path()?;
        let form = || {
            let (hash, size) = self.file_at(&path)?;
            let found = self.with(|txn, _| self.inner.contents.find(txn, &hash))?;
            match found {
                Some(content) => Ok(Some(content.form())),
                None => self.away(&hash, size).map(|()| None),
            }
        };
        form().map_err(|e: Error| e.op("stat").path(path))
    }

    /// Makes sure that a content which was not found may be elsewhere.
    fn away(&self, hash: &Hash, size: u64) -> Result<()> {
        let bucket = self.chain.bucket();
        match self.with(|txn, _| takes_part(txn, bucket))? {
            true => Ok(()),
            // Says what is wrong.
            false => self.fetched(hash, size, None).map(drop),
        }
    }

    /// Opens a content by its hash, whatever path it has. One that lost in a [`Conflict`](crate::Conflict)
    /// of the bucket is waited for where it is not here, as a read of a path would.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where the store does not hold it, and it did not lose in a conflict;
    /// [`ErrorKind::ContentUnavailable`] where it did, and does not arrive in time.
    pub fn open_content(&self, hash: &Hash) -> Result<Reader> {
        if let Some(found) = self.find_content(hash)? {
            return Ok(Reader::new(found));
        }
        let Some((named, branch, path)) = self.lost(hash)? else {
            let detail = "the store holds no such content";
            return Err(Error::with_detail(ErrorKind::NotFound, detail).path(hash));
        };
        let fetching = self.fetching.as_deref().cloned().unwrap_or_default();
        let content = self.inner.fetched_lost(&named, (branch, &path), &fetching);
        let content = content.map_err(|e| e.op("open").path(&path))?;
        self.inner.used(hash);
        Ok(Reader::new(content))
    }

    /// Finds where a content lost in a conflict of the bucket that nobody has decided.
    fn lost(&self, hash: &Hash) -> Result<Option<(Named, BranchId, TreePath)>> {
        let bucket = self.chain.bucket();
        self.with(|txn, _| {
            let mut found = None;
            txn.conflict_contents(bucket, 0, &mut |lost| {
                if lost.hash == *hash {
                    let size = lost.size;
                    let named = Named {
                        bucket,
                        hash: *hash,
                        size,
                    };
                    found = Some((named, lost.branch, lost.path));
                }
                Ok(())
            })?;
            Ok(found)
        })
    }

    pub(crate) fn find_content(&self, hash: &Hash) -> Result<Option<ContentReader>> {
        let found = self.with(|txn, _| self.inner.contents.find_cached(txn, hash))?;
        if found.is_some() {
            self.inner.used(hash);
        }
        Ok(found)
    }

    /// Opens a content: the one place where all reads through a view meet those that are not here.
    pub(crate) fn content(&self, hash: &Hash, size: u64) -> Result<ContentReader> {
        match self.find_content(hash)? {
            Some(content) => Ok(content),
            None => self.fetched(hash, size, None),
        }
    }

    /// As [`content`](Self::content), within work that can be cancelled.
    pub(crate) fn content_for(&self, hash: &Hash, size: u64, task: &Task) -> Result<ContentReader> {
        match self.find_content(hash)? {
            Some(content) => Ok(content),
            None => self.fetched(hash, size, Some(task)),
        }
    }

    #[cold]
    fn fetched(&self, hash: &Hash, size: u64, within: Option<&Task>) -> Result<ContentReader> {
        let named = Named {
            bucket: self.chain.bucket(),
            hash: *hash,
            size,
        };
        let mut fetching = self.fetching.as_deref().cloned().unwrap_or_default();
        if let Some(task) = within {
            fetching.task = Task::new().cancel_with(task.cancel());
        }
        let content = self.inner.fetched(&named, &fetching)?;
        self.inner.used(hash);
        Ok(content)
    }

    /// Re-reads a file and checks every byte against its hash.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] naming what is wrong, and as [`read`](Self::read).
    pub fn verify(&self, path: impl IntoPath) -> Result<()> {
        let path = path.into_path()?;
        let verify = || {
            let (hash, size) = self.file_at(&path)?;
            let found = self.with(|txn, _| self.inner.contents.find(txn, &hash))?;
            let content = match found {
                Some(content) => content,
                None => self.fetched(&hash, size, None)?,
            };
            content.verify(&mut |_| ControlFlow::Continue(()))
        };
        verify().map_err(|e: Error| e.op("verify").path(path))
    }

    /// Hashes the whole tree: names, kinds, modes, contents and link texts, not times or owners.
    /// Two trees with equal hashes hold the same files.
    pub fn tree_hash(&self) -> Result<Hash> {
        self.with(tree::tree_hash)
    }

    fn entry(
        &self,
        path: impl IntoPath,
        follow: Follow,
        op: &'static str,
    ) -> Result<(TreePath, Entry)> {
        let path = path.into_path()?;
        self.resolve(&path, follow).map_err(|e| e.op(op).path(path))
    }

    /// Resolves a path to what is there, and not to where it leads.
    fn look(&self, path: &TreePath, follow: Follow) -> Result<Entry> {
        match self.remembered(path, follow, |_, entry| entry.clone()) {
            Some(entry) => Ok(entry),
            None => self.resolve_anew(path, follow).map(|(_, entry)| entry),
        }
    }

    fn resolve(&self, path: &TreePath, follow: Follow) -> Result<(TreePath, Entry)> {
        match self.remembered(path, follow, both) {
            Some(resolved) => Ok(resolved),
            None => self.resolve_anew(path, follow),
        }
    }

    fn resolve_anew(&self, path: &TreePath, follow: Follow) -> Result<(TreePath, Entry)> {
        if self.seen.is_some()
            && self.chain.may_hide_rows()
            && let Some(resolved) = self.resolve_in_parent(path)?
        {
            self.remember(path, &resolved);
            return Ok(resolved);
        }
        let resolved = self.with(|txn, chain| tree::resolve(txn, chain, path, follow))?;
        self.remember(path, &resolved);
        Ok(resolved)
    }

    fn remember(&self, path: &TreePath, resolved: &(TreePath, Entry)) {
        // A link at the end, not followed, is not where the path leads.
        if let Some(seen) = &self.seen
            && !resolved.1.is_symlink()
        {
            let resolved = resolved.clone();
            seen.lock().paths.insert(path.clone(), resolved);
        }
    }

    /// Uses what was resolved before.
    fn remembered<R>(
        &self,
        path: &TreePath,
        follow: Follow,
        seen: impl FnOnce(&TreePath, &Entry) -> R,
    ) -> Option<R> {
        let mut all = self.seen.as_ref()?.lock();
        let (real, entry) = all.paths.get(path)?;
        // Another path is where a link leads, perhaps one at the end.
        (follow == Follow::Yes || real == path).then(|| seen(real, entry))
    }

    /// Resolves a path in the directory that its parent leads to, which is mostly remembered.
    /// Whatever is not that simple is for [`tree::resolve`]: links, and names that are not there.
    fn resolve_in_parent(&self, path: &TreePath) -> Result<Option<(TreePath, Entry)>> {
        let Some(parent) = path.parent() else {
            return Ok(None);
        };
        let (dir, entry) = match self.remembered(&parent, Follow::Yes, both) {
            Some(resolved) => resolved,
            None => {
                let resolve = |txn: &dyn ReadTxn, chain: &Chain| {
                    tree::resolve(txn, chain, &parent, Follow::Yes)
                };
                let Ok(resolved) = self.with(resolve) else {
                    return Ok(None);
                };
                self.remember(&parent, &resolved);
                resolved
            }
        };
        if !entry.is_dir() {
            return Ok(None);
        }
        let name = path.name();
        let look =
            |txn: &dyn ReadTxn, chain: &Chain| tree::lookup_in_visible_dir(txn, chain, &dir, name);
        let found = self.with(look)?.filter(|entry| !entry.is_symlink());
        found.map(|entry| Ok((dir.join(name)?, entry))).transpose()
    }

    fn file_at(&self, path: &TreePath) -> Result<(Hash, u64)> {
        match self.look(path, Follow::Yes)?.node {
            Node::File { hash, size } => Ok((hash, size)),
            _ => Err(Error::new(ErrorKind::IsADirectory)),
        }
    }
}

fn both(path: &TreePath, entry: &Entry) -> (TreePath, Entry) {
    (path.clone(), entry.clone())
}

impl Drop for View {
    fn drop(&mut self) {
        if self.pinned {
            self.inner.keeper.unpin_view();
        }
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("chain", &self.chain)
            .finish_non_exhaustive()
    }
}
