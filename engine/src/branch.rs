//! A branch: reading it as it is now, and changing it.

use std::path::Path;
use std::sync::Arc;

use alknet_fs_core::branch;
use alknet_fs_core::edit::{Editor, PutMode, SetAttrs};
use alknet_fs_core::store::{BranchId, BucketId, SnapshotRecord};
use alknet_fs_core::tree::Follow;
use alknet_fs_core::{DirEntry, Entry, Error, ErrorKind, Result, TreePath};

use crate::batch::Batch;
use crate::bucket::{BranchInfo, Bucket, TreeRef, branch_info};
use crate::content::Fetching;
use crate::reader::Reader;
use crate::session::{OpenOptions, Session, SessionInfo};
use crate::store::{Inner, IntoPath};
use crate::view::View;

/// A branch of a bucket. The handle stays with the branch when it is renamed.
///
/// Each reading call sees the branch as it is at that moment; for several reads that belong
/// together, or many, open a [`View`]. Each writing call is one atomic, durable commit; for many
/// writes, use a [`Batch`].
#[derive(Clone)]
pub struct Branch {
    pub(crate) inner: Arc<Inner>,
    pub(crate) bucket: BucketId,
    pub(crate) id: BranchId,
    /// How contents that are not here are waited for, where that is not as usual.
    pub(crate) fetching: Option<Arc<Fetching>>,
}

impl Branch {
    /// Returns the branch's number.
    pub fn id(&self) -> BranchId {
        self.id
    }

    /// Returns the bucket.
    pub fn bucket(&self) -> Bucket {
        Bucket {
            inner: Arc::clone(&self.inner),
            id: self.bucket,
        }
    }

    /// Returns the store's directory, or nothing for a store in memory.
    pub fn store_path(&self) -> Option<&Path> {
        self.inner.path()
    }

    /// Returns a handle through which what is read waits in another way for contents that are not here.
    /// Sessions and files that are opened through it do so too.
    #[must_use]
    pub fn fetching(&self, fetching: &Fetching) -> Self {
        Self {
            fetching: Some(Arc::new(fetching.clone())),
            ..self.clone()
        }
    }

    /// Returns the branch's name, parent and age as they are now.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where the branch was deleted.
    pub fn info(&self) -> Result<BranchInfo> {
        let txn = self.inner.tree.read()?;
        let record = txn.branch(self.id)?.ok_or_else(|| {
            Error::with_detail(ErrorKind::NotFound, "the branch was deleted").op("open branch")
        })?;
        branch_info(&*txn, record)
    }

    /// Returns the branch's name as it is now.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where the branch was deleted.
    pub fn name(&self) -> Result<String> {
        Ok(self.info()?.name)
    }

    /// Gives the branch another name.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], [`ErrorKind::InvalidInput`].
    pub fn rename_to(&self, name: &str) -> Result<()> {
        let context = self.inner.context();
        let mut txn = self.inner.write()?;
        branch::rename_branch(&mut *txn, self.id, name, &context)
            .map_err(|e| e.op("rename branch"))?;
        txn.commit()
    }

    /// Opens a view: the branch as it is now, unaffected by what comes later.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where the branch was deleted.
    pub fn view(&self) -> Result<View> {
        View::open_at(&self.inner, true, self.fetching.clone(), |txn| {
            self.inner.chain(txn, self.id)
        })
    }

    /// Opens a view of one of the branch's snapshots.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn view_at(&self, snapshot: &str) -> Result<View> {
        View::open_at(&self.inner, true, self.fetching.clone(), |txn| {
            let chain = branch::chain_at(txn, self.id, Some(snapshot));
            chain.map(Arc::new).map_err(|e| e.op("open snapshot"))
        })
    }

    /// Forks a branch off this one: later writes to this branch show through in the fork where the
    /// fork has not overridden or removed them.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], [`ErrorKind::InvalidInput`].
    pub fn fork(&self, name: &str) -> Result<Self> {
        let from = TreeRef {
            branch: self.name()?,
            snapshot: None,
        };
        self.bucket().fork(&from, name)
    }

    /// Forks a branch off one of this branch's snapshots; it never changes under the fork.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::AlreadyExists`], [`ErrorKind::InvalidInput`].
    pub fn fork_at(&self, snapshot: &str, name: &str) -> Result<Self> {
        let from = TreeRef {
            branch: self.name()?,
            snapshot: Some(snapshot.to_owned()),
        };
        self.bucket().fork(&from, name)
    }

    /// Takes a snapshot of all that the branch shows now, inherited files included.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], [`ErrorKind::InvalidInput`].
    pub fn snapshot(&self, name: &str) -> Result<SnapshotRecord> {
        let context = self.inner.context();
        let mut txn = self.inner.write()?;
        let snapshot = branch::take_snapshot(&mut *txn, self.id, name, &context)
            .map_err(|e| e.op("snapshot"))?;
        txn.commit()?;
        Ok(snapshot)
    }

    /// Returns the branch's snapshots, from the oldest.
    pub fn snapshots(&self) -> Result<Vec<SnapshotRecord>> {
        self.inner.tree.read()?.snapshots(self.id)
    }

    /// Gives a snapshot another name, on all nodes. To watchers one snapshot goes, and another comes.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::AlreadyExists`], [`ErrorKind::InvalidInput`].
    pub fn rename_snapshot(&self, name: &str, new: &str) -> Result<()> {
        let context = self.inner.context();
        let mut txn = self.inner.write()?;
        branch::rename_snapshot(&mut *txn, self.id, name, new, &context)
            .map_err(|e| e.op("rename snapshot"))?;
        txn.commit()
    }

    /// Forgets a snapshot's name. Branches forked from it keep what they show.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn delete_snapshot(&self, name: &str) -> Result<()> {
        let context = self.inner.context();
        let mut txn = self.inner.write()?;
        branch::delete_snapshot(&mut *txn, self.id, name, &context)
            .map_err(|e| e.op("delete snapshot"))?;
        txn.commit()
    }

    /// Makes the branch look as it did at one of its snapshots. What it held since is no longer
    /// visible; take a snapshot first to keep it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn restore(&self, snapshot: &str) -> Result<()> {
        let context = self.inner.context();
        let mut txn = self.inner.write()?;
        branch::restore(&mut *txn, self.id, snapshot, &context).map_err(|e| e.op("restore"))?;
        txn.commit()
    }

    /// As [`View::stat`], now.
    pub fn stat(&self, path: impl IntoPath) -> Result<Entry> {
        self.now("stat", path, |view, path| view.stat(path))
    }

    /// As [`View::lstat`], now.
    pub fn lstat(&self, path: impl IntoPath) -> Result<Entry> {
        self.now("lstat", path, |view, path| view.lstat(path))
    }

    /// As [`View::exists`], now.
    pub fn exists(&self, path: impl IntoPath) -> Result<bool> {
        self.now("stat", path, |view, path| view.exists(path))
    }

    /// As [`View::canonicalize`], now.
    pub fn canonicalize(&self, path: impl IntoPath) -> Result<TreePath> {
        self.now("canonicalize", path, |view, path| view.canonicalize(path))
    }

    /// As [`View::read_link`], now.
    pub fn read_link(&self, path: impl IntoPath) -> Result<String> {
        self.now("readlink", path, |view, path| view.read_link(path))
    }

    /// As [`View::list`], now.
    pub fn list(&self, path: impl IntoPath) -> Result<Vec<DirEntry>> {
        self.now("list", path, |view, path| view.list(path))
    }

    /// As [`View::read`], now.
    pub fn read(&self, path: impl IntoPath) -> Result<Vec<u8>> {
        self.now("read", path, |view, path| view.read(path))
    }

    /// As [`View::open`], now.
    pub fn open(&self, path: impl IntoPath) -> Result<Reader> {
        self.now("open", path, |view, path| view.open(path))
    }

    fn now<R>(
        &self,
        op: &'static str,
        path: impl IntoPath,
        call: impl Fn(&View, &TreePath) -> Result<R>,
    ) -> Result<R> {
        let path = path.into_path().map_err(|e| e.op(op))?;
        View::now(&self.inner, self.id, self.fetching.as_ref(), |view| {
            call(view, &path)
        })
    }

    /// Opens a file, with where the path leads and what is there.
    pub(crate) fn open_entry(&self, path: &TreePath) -> Result<(TreePath, Entry, Reader)> {
        View::now(&self.inner, self.id, self.fetching.as_ref(), |view| {
            view.open_entry(path)
        })
    }

    /// Writes a whole file, creating or replacing it; a link at the end of the path is followed.
    /// Its directory must exist.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] or [`ErrorKind::NotADirectory`] for its directory,
    /// [`ErrorKind::IsADirectory`].
    pub fn write(&self, path: impl IntoPath, bytes: impl Into<Vec<u8>>) -> Result<()> {
        self.put(path, bytes, &SetAttrs::default(), PutMode::CreateOrReplace)
    }

    /// Writes a whole file with attributes, creating or replacing it as `mode` says.
    ///
    /// # Errors
    /// As [`write`](Self::write); [`ErrorKind::AlreadyExists`] or [`ErrorKind::NotFound`] as `mode`
    /// says.
    pub fn put(
        &self,
        path: impl IntoPath,
        bytes: impl Into<Vec<u8>>,
        set: &SetAttrs,
        mode: PutMode,
    ) -> Result<()> {
        let path = path.into_path().map_err(|e| e.op("write"))?;
        let prepared = self.inner.contents.prepare_bytes(bytes.into());
        let mut prepared = [prepared.map_err(|e| e.op("write").path(&path))?];
        self.inner.edit(self.id, None, |editor| {
            self.inner.commit_contents(editor, &mut prepared)?;
            let [prepared] = &prepared;
            let (hash, size) = (prepared.hash(), prepared.size());
            editor.put_file(&path, hash, size, set, mode).map(drop)
        })
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], [`ErrorKind::NotFound`] for its parent.
    pub fn mkdir(&self, path: impl IntoPath) -> Result<()> {
        self.mkdir_with(path, &SetAttrs::default())
    }

    /// Makes a directory with attributes.
    ///
    /// # Errors
    /// As [`mkdir`](Self::mkdir).
    pub fn mkdir_with(&self, path: impl IntoPath, set: &SetAttrs) -> Result<()> {
        self.edit_at("mkdir", path, |editor, path| editor.mkdir(path, set))
    }

    /// Makes a directory and those above it that are missing; does nothing where it exists.
    ///
    /// # Errors
    /// [`ErrorKind::NotADirectory`].
    pub fn mkdir_all(&self, path: impl IntoPath) -> Result<()> {
        self.mkdir_all_with(path, &SetAttrs::default()).map(drop)
    }

    /// Makes a directory and those above it that are missing, all with the same attributes. Returns
    /// the uppermost one that was made, if any was.
    ///
    /// # Errors
    /// As [`mkdir_all`](Self::mkdir_all).
    pub fn mkdir_all_with(&self, path: impl IntoPath, set: &SetAttrs) -> Result<Option<TreePath>> {
        self.edit_at("mkdir", path, |editor, path| editor.mkdir_all(path, set))
    }

    /// Makes a symbolic link at `path` that points to `target`, which need not exist.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], [`ErrorKind::NotFound`] for its directory.
    pub fn symlink(&self, target: &str, path: impl IntoPath) -> Result<()> {
        let set = SetAttrs::default();
        self.edit_at("symlink", path, |editor, path| {
            editor.symlink(path, target, &set)
        })
    }

    /// Refuses to make a hard link: an entry has one path. Contents are shared by their hash, so
    /// [`copy`](Self::copy) costs no space.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`], always.
    pub fn hard_link(&self, _target: impl IntoPath, path: impl IntoPath) -> Result<()> {
        let detail = "hard links are not offered; a copy shares its content and costs no space";
        Err(Error::with_detail(ErrorKind::Unsupported, detail)
            .op("link")
            .path(path.into_path()?))
    }

    /// Removes a file or a link.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::IsADirectory`].
    pub fn remove(&self, path: impl IntoPath) -> Result<()> {
        self.edit_at("unlink", path, |editor, path| editor.unlink(path))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::NotADirectory`], [`ErrorKind::NotEmpty`].
    pub fn remove_dir(&self, path: impl IntoPath) -> Result<()> {
        self.edit_at("rmdir", path, |editor, path| editor.rmdir(path))
    }

    /// Removes whatever is at a path, a directory with all below it. Returns how many entries.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn remove_all(&self, path: impl IntoPath) -> Result<u64> {
        self.edit_at("remove", path, |editor, path| editor.remove_all(path))
    }

    /// Renames a file, link or directory, atomically replacing what `to` was.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::IsADirectory`], [`ErrorKind::NotADirectory`],
    /// [`ErrorKind::NotEmpty`], [`ErrorKind::InvalidInput`] where `to` lies below `from`.
    pub fn rename(&self, from: impl IntoPath, to: impl IntoPath) -> Result<()> {
        let to = to.into_path().map_err(|e| e.op("rename"))?;
        self.edit_at("rename", from, |editor, from| {
            editor.rename(from, &to, true)
        })
    }

    /// Renames, but fails where `to` exists.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], and as [`rename`](Self::rename).
    pub fn rename_new(&self, from: impl IntoPath, to: impl IntoPath) -> Result<()> {
        let to = to.into_path().map_err(|e| e.op("rename"))?;
        self.edit_at("rename", from, |editor, from| {
            editor.rename(from, &to, false)
        })
    }

    /// Copies a file, link or directory with all below it; contents are shared. Returns how many
    /// entries were made. An existing file is replaced.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::AlreadyExists`] where `to` exists and one of the two
    /// is a directory; [`ErrorKind::InvalidInput`] where `to` lies below `from`.
    pub fn copy(&self, from: impl IntoPath, to: impl IntoPath) -> Result<u64> {
        let to = to.into_path().map_err(|e| e.op("copy"))?;
        self.edit_at("copy", from, |editor, from| editor.copy(from, &to, true))
    }

    /// Copies as [`copy`](Self::copy), but fails where `to` exists.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], and as [`copy`](Self::copy).
    pub fn copy_new(&self, from: impl IntoPath, to: impl IntoPath) -> Result<u64> {
        let to = to.into_path().map_err(|e| e.op("copy"))?;
        self.edit_at("copy", from, |editor, from| editor.copy(from, &to, false))
    }

    /// Copies as [`copy`](Self::copy) or, where `replace` does not say so, as
    /// [`copy_new`](Self::copy_new), with the time of the copy as the time of the last change of
    /// all that is copied: what programs expect that copy by reading and writing.
    ///
    /// # Errors
    /// Those of the two.
    ///
    /// ```
    /// use alknet_fs::Follow;
    /// use alknet_fs::{SetAttrs, Store, Timestamp};
    ///
    /// # fn main() -> alknet_fs::Result<()> {
    /// let main = Store::memory()?.bucket("default")?.main()?;
    /// main.write("/a", "data")?;
    /// let old = SetAttrs { mtime: Some(Timestamp(0)), ..SetAttrs::default() };
    /// main.set_attrs("/a", &old, Follow::Yes)?;
    /// main.copy("/a", "/b")?;
    /// assert_eq!(main.stat("/b")?.attrs.mtime, Timestamp(0));
    /// main.copy_touched("/a", "/b", true)?;
    /// assert!(main.stat("/b")?.attrs.mtime > Timestamp(0));
    /// assert!(main.copy_touched("/a", "/b", false).is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn copy_touched(
        &self,
        from: impl IntoPath,
        to: impl IntoPath,
        replace: bool,
    ) -> Result<u64> {
        let to = to.into_path().map_err(|e| e.op("copy"))?;
        self.edit_at("copy", from, |editor, from| {
            editor.copy_with(from, &to, replace, true)
        })
    }

    /// Changes attributes; a link at the end of the path is followed where `follow` says so.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::InvalidInput`] for a mode beyond `0o7777`.
    pub fn set_attrs(&self, path: impl IntoPath, set: &SetAttrs, follow: Follow) -> Result<()> {
        self.edit_at("set attributes", path, |editor, path| {
            editor.set_attrs(path, set, follow)
        })
    }

    /// Opens a file for writing. Nothing changes in the branch until the session is closed.
    ///
    /// # Errors
    /// As the [`OpenOptions`] say.
    pub fn open_session(&self, path: impl IntoPath, options: &OpenOptions) -> Result<Session> {
        let path = path.into_path().map_err(|e| e.op("open"))?;
        Session::open(self, &path, options).map_err(|e| e.op("open").path(path))
    }

    /// Returns the open write sessions of the branch, from the oldest.
    pub fn sessions(&self) -> Result<Vec<SessionInfo>> {
        self.inner.sessions(Some(self.id))
    }

    /// Begins a batch of changes that are committed together.
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
    }

    fn edit_at<R>(
        &self,
        op: &'static str,
        path: impl IntoPath,
        edit: impl FnOnce(&mut Editor<'_>, &TreePath) -> Result<R>,
    ) -> Result<R> {
        let path = path.into_path().map_err(|e| e.op(op))?;
        self.inner
            .edit(self.id, None, |editor| edit(editor, &path))
            .map_err(|e| e.op(op).path(path))
    }
}

impl std::fmt::Debug for Branch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Branch")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
