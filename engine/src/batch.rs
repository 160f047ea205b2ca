//! Many changes, one commit.

use alknet_fs_content::Prepared;
use alknet_fs_core::edit::{Editor, PutMode, SetAttrs};
use alknet_fs_core::tree::Follow;
use alknet_fs_core::{Result, TreePath};

use crate::branch::Branch;
use crate::store::{Inner, IntoPath};

/// Collects changes of one branch and commits them together: all of them become visible at once,
/// or none does. Dropping a batch drops its changes.
///
/// ```
/// # fn main() -> alknet_fs::Result<()> {
/// # let store = alknet_fs::Store::memory()?;
/// # let main = store.bucket("default")?.main()?;
/// let mut batch = main.batch();
/// batch.mkdir("/src")?;
/// batch.write("/src/a.rs", "fn a() {}")?;
/// batch.write("/src/b.rs", "fn b() {}")?;
/// batch.commit()?;
/// assert_eq!(main.list("/src")?.len(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Batch {
    branch: Branch,
    changes: Vec<BatchChange>,
    contents: Vec<Prepared>,
    bytes: u64,
}

#[derive(Debug)]
enum BatchChange {
    Put(TreePath, alknet_fs_core::Hash, u64, SetAttrs, PutMode),
    Mkdir(TreePath, SetAttrs),
    MkdirAll(TreePath, SetAttrs),
    Symlink(TreePath, String, SetAttrs),
    Unlink(TreePath),
    Rmdir(TreePath),
    RemoveAll(TreePath),
    Rename(TreePath, TreePath),
    Copy(TreePath, TreePath),
    SetAttrs(TreePath, SetAttrs, Follow),
}

impl Batch {
    pub(crate) fn new(branch: Branch) -> Self {
        Self {
            branch,
            changes: Vec::new(),
            contents: Vec::new(),
            bytes: 0,
        }
    }

    /// Returns the number of changes collected so far.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Tells whether nothing was collected.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Returns the number of content bytes collected so far. Small contents are held in memory
    /// until the commit; large ones are on disk already.
    pub fn content_bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes a whole file, creating or replacing it.
    ///
    /// # Errors
    /// Only those of the path and of staging the bytes; the rest come with [`commit`](Self::commit).
    pub fn write(&mut self, path: impl IntoPath, bytes: impl Into<Vec<u8>>) -> Result<()> {
        self.put(path, bytes, &SetAttrs::default(), PutMode::CreateOrReplace)
    }

    /// Writes a whole file with attributes, creating or replacing it as `mode` says.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn put(
        &mut self,
        path: impl IntoPath,
        bytes: impl Into<Vec<u8>>,
        set: &SetAttrs,
        mode: PutMode,
    ) -> Result<()> {
        let path = path.into_path().map_err(|e| e.op("write"))?;
        let prepared = self.branch.inner.contents.prepare_bytes(bytes.into());
        let prepared = prepared.map_err(|e| e.op("write").path(&path))?;
        self.put_prepared(path, prepared, set, mode);
        Ok(())
    }

    pub(crate) fn put_prepared(
        &mut self,
        path: TreePath,
        prepared: Prepared,
        set: &SetAttrs,
        mode: PutMode,
    ) {
        let (hash, size) = (prepared.hash(), prepared.size());
        self.bytes += size;
        self.contents.push(prepared);
        self.changes
            .push(BatchChange::Put(path, hash, size, *set, mode));
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// Only those of the path.
    pub fn mkdir(&mut self, path: impl IntoPath) -> Result<()> {
        self.mkdir_with(path, &SetAttrs::default())
    }

    /// Makes a directory with attributes.
    ///
    /// # Errors
    /// Only those of the path.
    pub fn mkdir_with(&mut self, path: impl IntoPath, set: &SetAttrs) -> Result<()> {
        self.push(path, |path| BatchChange::Mkdir(path, *set))
    }

    /// Makes a directory and those above it that are missing.
    ///
    /// # Errors
    /// Only those of the path.
    pub fn mkdir_all(&mut self, path: impl IntoPath) -> Result<()> {
        self.push(path, |path| {
            BatchChange::MkdirAll(path, SetAttrs::default())
        })
    }

    /// Makes a symbolic link at `path` that points to `target`.
    ///
    /// # Errors
    /// Only those of the path.
    pub fn symlink(&mut self, target: &str, path: impl IntoPath) -> Result<()> {
        self.symlink_with(target, path, &SetAttrs::default())
    }

    /// Makes a symbolic link with attributes.
    ///
    /// # Errors
    /// Only those of the path.
    pub fn symlink_with(
        &mut self,
        target: &str,
        path: impl IntoPath,
        set: &SetAttrs,
    ) -> Result<()> {
        self.push(path, |path| {
            BatchChange::Symlink(path, target.to_owned(), *set)
        })
    }

    /// Removes a file or a link.
    ///
    /// # Errors
    /// Only those of the path.
    pub fn remove(&mut self, path: impl IntoPath) -> Result<()> {
        self.push(path, BatchChange::Unlink)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Only those of the path.
    pub fn remove_dir(&mut self, path: impl IntoPath) -> Result<()> {
        self.push(path, BatchChange::Rmdir)
    }

    /// Removes whatever is at a path, a directory with all below it.
    ///
    /// # Errors
    /// Only those of the path.
    pub fn remove_all(&mut self, path: impl IntoPath) -> Result<()> {
        self.push(path, BatchChange::RemoveAll)
    }

    /// Renames a file, link or directory, replacing what `to` was.
    ///
    /// # Errors
    /// Only those of the paths.
    pub fn rename(&mut self, from: impl IntoPath, to: impl IntoPath) -> Result<()> {
        let to = to.into_path()?;
        self.push(from, |from| BatchChange::Rename(from, to))
    }

    /// Copies a file, link or directory with all below it, replacing an existing file.
    ///
    /// # Errors
    /// Only those of the paths.
    pub fn copy(&mut self, from: impl IntoPath, to: impl IntoPath) -> Result<()> {
        let to = to.into_path()?;
        self.push(from, |from| BatchChange::Copy(from, to))
    }

    /// Changes attributes.
    ///
    /// # Errors
    /// Only those of the path.
    pub fn set_attrs(&mut self, path: impl IntoPath, set: &SetAttrs, follow: Follow) -> Result<()> {
        self.push(path, |path| BatchChange::SetAttrs(path, *set, follow))
    }

    /// Commits all changes in the order they were collected.
    ///
    /// # Errors
    /// The first change's that fails; nothing is changed then.
    pub fn commit(self) -> Result<()> {
        let Self {
            branch,
            changes,
            mut contents,
            ..
        } = self;
        branch.inner.edit(branch.id, None, |editor| {
            branch.inner.commit_contents(editor, &mut contents)?;
            changes
                .into_iter()
                .try_for_each(|change| change.apply(editor))
        })
    }

    fn push(
        &mut self,
        path: impl IntoPath,
        change: impl FnOnce(TreePath) -> BatchChange,
    ) -> Result<()> {
        self.changes.push(change(path.into_path()?));
        Ok(())
    }
}

impl BatchChange {
    fn apply(self, editor: &mut Editor<'_>) -> Result<()> {
        match self {
            Self::Put(path, hash, size, set, mode) => {
                editor.put_file(&path, hash, size, &set, mode).map(drop)
            }
            Self::Mkdir(path, set) => editor.mkdir(&path, &set),
            Self::MkdirAll(path, set) => editor.mkdir_all(&path, &set).map(drop),
            Self::Symlink(path, text, set) => editor.symlink(&path, &text, &set),
            Self::Unlink(path) => editor.unlink(&path),
            Self::Rmdir(path) => editor.rmdir(&path),
            Self::RemoveAll(path) => editor.remove_all(&path).map(drop),
            Self::Rename(from, to) => editor.rename(&from, &to, true),
            Self::Copy(from, to) => editor.copy(&from, &to, true).map(drop),
            Self::SetAttrs(path, set, follow) => editor.set_attrs(&path, &set, follow),
        }
    }
}

impl Inner {
    /// Adds prepared contents in the editor's transaction.
    pub(crate) fn commit_contents(
        &self,
        editor: &mut Editor<'_>,
        contents: &mut [Prepared],
    ) -> Result<()> {
        let now = editor.context().now;
        self.contents.commit(editor.txn(), contents, now)
    }
}
