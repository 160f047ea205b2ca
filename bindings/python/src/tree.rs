//! Trees: branches, which change, and views, which do not.

use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use alknet_fs::{
    Branch as CoreBranch, BranchId, Entry as CoreEntry, Error, ErrorKind, ExportOptions,
    FileOptions, ImportOptions, Kind, OpenOptions, Result, View as CoreView, Walk,
};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

use crate::args::{DataArg, Offset, PathArg, attrs, follow, put_mode};
use crate::bucket::Bucket;
use crate::content::{Conflict, FetchReport, keep, timeout};
use crate::entry::{BranchInfo, DirEntry, Entry, Snapshot};
use crate::file::File;
use crate::handle::{Handle, Held, fill};
use crate::reader::Reader;
use crate::session::{Session, SessionInfo};
use crate::task::{Cancel, Follower};
use crate::upkeep::{ExportReport, ImportReport};
use crate::waiting;

/// What reads come from.
#[derive(Debug)]
enum Source {
    Branch(CoreBranch),
    /// Nothing once it is closed.
    View(RwLock<Option<Arc<CoreView>>>),
}

impl Source {
    fn opened(view: &RwLock<Option<Arc<CoreView>>>) -> Result<Arc<CoreView>> {
        let view = view.read().unwrap_or_else(|e| e.into_inner()).clone();
        view.ok_or_else(|| Error::with_detail(ErrorKind::BadHandle, "the view is closed"))
    }

    /// Gives a view that stays the same for several reads.
    fn view(&self) -> Result<Arc<CoreView>> {
        match self {
            Self::Branch(branch) => branch.view().map(Arc::new),
            Self::View(view) => Self::opened(view),
        }
    }
}

/// What branches and views have in common: reading.
#[pyclass(frozen, subclass, module = "alknet_fs._native")]
#[derive(Debug)]
pub(crate) struct Tree(Handle<Source>);

/// Calls a method that branches and views share.
macro_rules! read {
    ($self:ident, $py:ident, $name:ident($path:expr)) => {
        $self.0.run($py, |source| match source {
            Source::Branch(branch) => branch.$name($path),
            Source::View(view) => Source::opened(view)?.$name($path),
        })
    };
}

impl Tree {
    /// Makes what a view is made of.
    pub(crate) fn view<T: Held>(of: &Handle<T>, view: CoreView) -> PyClassInitializer<View> {
        let source = Source::View(RwLock::new(Some(Arc::new(view))));
        PyClassInitializer::from(Self(of.with(source))).add_subclass(View)
    }

    pub(crate) fn entry(&self, py: Python<'_>, path: &str) -> PyResult<CoreEntry> {
        read!(self, py, stat(path))
    }

    /// Tells whether there is such an entry at a path; not at a path that there cannot be.
    fn has(
        &self,
        py: Python<'_>,
        path: &PathArg<'_>,
        such: impl FnOnce(&CoreEntry) -> bool + Send,
    ) -> PyResult<bool> {
        self.0.run(py, |source| {
            let entry = match source {
                Source::Branch(branch) => branch.stat(path),
                Source::View(view) => Source::opened(view)?.stat(path),
            };
            match entry {
                Ok(entry) => Ok(such(&entry)),
                Err(e) => match e.kind() {
                    ErrorKind::NotFound
                    | ErrorKind::NotADirectory
                    | ErrorKind::TooManyLinks
                    | ErrorKind::InvalidPath
                    | ErrorKind::NameTooLong => Ok(false),
                    _ => Err(e),
                },
            }
        })
    }
}

#[pymethods]
impl Tree {
    /// Returns what is at a path; a link at its end is followed unless told otherwise.
    #[pyo3(signature = (path, *, follow_symlinks = true))]
    fn stat(&self, py: Python<'_>, path: PathArg<'_>, follow_symlinks: bool) -> PyResult<Entry> {
        match follow_symlinks {
            true => read!(self, py, stat(&path)).map(Entry),
            false => read!(self, py, lstat(&path)).map(Entry),
        }
    }

    /// Returns what is at a path; a link at its end is not followed.
    fn lstat(&self, py: Python<'_>, path: PathArg<'_>) -> PyResult<Entry> {
        read!(self, py, lstat(&path)).map(Entry)
    }

    /// Tells whether something is at a path, links followed.
    fn exists(&self, py: Python<'_>, path: PathArg<'_>) -> PyResult<bool> {
        self.has(py, &path, |_| true)
    }

    /// Tells whether a directory is at a path, links followed.
    fn is_dir(&self, py: Python<'_>, path: PathArg<'_>) -> PyResult<bool> {
        self.has(py, &path, |entry| entry.kind() == Kind::Dir)
    }

    /// Tells whether a regular file is at a path, links followed.
    fn is_file(&self, py: Python<'_>, path: PathArg<'_>) -> PyResult<bool> {
        self.has(py, &path, |entry| entry.kind() == Kind::File)
    }

    /// Returns the text of a symbolic link.
    fn readlink(&self, py: Python<'_>, path: PathArg<'_>) -> PyResult<String> {
        read!(self, py, read_link(&path))
    }

    /// Returns the path without links in it.
    fn realpath(&self, py: Python<'_>, path: PathArg<'_>) -> PyResult<String> {
        let path = self
            .0
            .run(py, |source| source.view()?.canonicalize(&path))?;
        Ok(path.as_str().to_owned())
    }

    /// Reads a whole file.
    fn read_bytes<'py>(&self, py: Python<'py>, path: PathArg<'_>) -> PyResult<Bound<'py, PyBytes>> {
        let reader = read!(self, py, reader(&path))?;
        let len = Offset(u64::MAX).within(reader.size());
        fill(py, len, move |buffer| reader.read_at(0, buffer))
    }

    /// Returns the names in a directory, sorted.
    #[pyo3(signature = (path = None))]
    fn listdir<'py>(
        &self,
        py: Python<'py>,
        path: Option<PathArg<'_>>,
    ) -> PyResult<Bound<'py, PyList>> {
        let path = path.unwrap_or_default();
        let entries = read!(self, py, list(&path))?;
        PyList::new(py, entries.iter().map(|e| PyString::new(py, &e.name)))
    }

    fn _scandir(slf: &Bound<'_, Self>, path: PathArg<'_>) -> PyResult<Vec<DirEntry>> {
        let (this, py) = (slf.get(), slf.py());
        let entries = read!(this, py, list(&path))?;
        let dir = alknet_fs::IntoPath::into_path(&path).map_err(|e| crate::error::to_py(py, e))?;
        let dir = if dir.is_root() { "" } else { dir.as_str() };
        let entries = entries.into_iter().map(|found| DirEntry {
            tree: slf.clone().unbind(),
            path: format!("{dir}/{}", found.name),
            name_at: dir.len() + 1,
            entry: found.entry,
        });
        Ok(entries.collect())
    }

    /// Returns everything below a directory, each directory before its entries; of a file, itself.
    fn _find(slf: &Bound<'_, Self>, path: PathArg<'_>) -> PyResult<Vec<DirEntry>> {
        let found = slf.get().0.run(slf.py(), |source| {
            let mut found = Vec::new();
            source.view()?.walk(&path, |path, entry| {
                found.push((path.clone(), entry.clone()));
                Ok(Walk::Continue)
            })?;
            Ok(found)
        })?;
        let found = found.into_iter().map(|(path, entry)| DirEntry {
            tree: slf.clone().unbind(),
            name_at: path.as_str().rfind('/').map_or(0, |at| at + 1),
            path: path.as_str().to_owned(),
            entry,
        });
        Ok(found.collect())
    }

    /// Returns the paths below a directory that match a pattern, sorted as a walk meets them. `*`
    /// and `?` stop at `/`, `**` does not; a pattern without `/` matches names at any depth.
    #[pyo3(signature = (pattern, path = None))]
    fn glob(
        &self,
        py: Python<'_>,
        pattern: &str,
        path: Option<PathArg<'_>>,
    ) -> PyResult<Vec<String>> {
        let path = path.unwrap_or_default();
        let found = self
            .0
            .run(py, |source| source.view()?.glob(&path, pattern))?;
        let paths = found.iter().map(|(path, _)| path.as_str().to_owned());
        Ok(paths.collect())
    }

    /// Reads up to `size` bytes of a file from an offset, or all from there on.
    #[pyo3(signature = (path, offset, size = None))]
    fn read_range<'py>(
        &self,
        py: Python<'py>,
        path: PathArg<'_>,
        offset: Offset,
        size: Option<Offset>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let reader = read!(self, py, reader(&path))?;
        let left = reader.size().saturating_sub(offset.0);
        let len = size.unwrap_or(Offset(u64::MAX)).within(left);
        fill(py, len, move |buffer| reader.read_at(offset.0, buffer))
    }

    /// Opens the file at a path as it is now, for reads that no later change affects.
    fn open_reader(&self, py: Python<'_>, path: PathArg<'_>) -> PyResult<Reader> {
        let reader = read!(self, py, open(&path))?;
        Ok(Reader::new(&self.0, reader))
    }

    /// Opens a content by its BLAKE3 hash, 64 hexadecimal digits, whatever path it has.
    fn open_content(&self, py: Python<'_>, hash: &str) -> PyResult<Reader> {
        let open = |source: &Source| source.view()?.open_content(&hash.parse()?);
        Ok(Reader::new(&self.0, self.0.run(py, open)?))
    }

    /// Writes a directory of the tree, or a file, into a directory of the operating system, which
    /// is made if it is missing and must be empty unless `overwrite`. With `sync`, the files are
    /// safe from a power cut when this returns.
    #[pyo3(signature = (
        path, target, *, overwrite = false, sync = false, progress = None, cancel = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "they have names in Python")]
    fn export(
        &self,
        py: Python<'_>,
        path: PathArg<'_>,
        target: PathBuf,
        overwrite: bool,
        sync: bool,
        progress: Option<Py<PyAny>>,
        cancel: Option<Py<Cancel>>,
    ) -> PyResult<ExportReport> {
        let options = ExportOptions::new().overwrite(overwrite).sync(sync);
        let report = Follower { progress, cancel }.run(py, &self.0, |source, task| {
            source.view()?.export(&path, target, &options, task)
        })?;
        Ok(report.into())
    }

    /// Fetches what a path, or all below it, has of contents that are elsewhere. The progress counts
    /// contents, as `files`, and their bytes. What could not be fetched is in the report.
    #[pyo3(signature = (path = None, *, progress = None, cancel = None))]
    fn fetch(
        &self,
        py: Python<'_>,
        path: Option<PathArg<'_>>,
        progress: Option<Py<PyAny>>,
        cancel: Option<Py<Cancel>>,
    ) -> PyResult<FetchReport> {
        let path = path.unwrap_or_default();
        let report = Follower { progress, cancel }.run(py, &self.0, |source, task| {
            source.view()?.fetch(&path, task)
        })?;
        Ok(report.into())
    }

    /// Re-reads a file and checks every byte against its hash.
    fn verify(&self, py: Python<'_>, path: PathArg<'_>) -> PyResult<()> {
        self.0.run(py, |source| source.view()?.verify(&path))
    }

    /// Hashes the whole tree: names, kinds, modes, contents and link texts, not times or owners.
    fn tree_hash(&self, py: Python<'_>) -> PyResult<String> {
        self.0
            .run(py, |source| Ok(source.view()?.tree_hash()?.to_hex()))
    }
}

/// A branch or a snapshot as it was when the view was opened.
#[pyclass(frozen, subclass, extends = Tree, module = "alknet_fs._native")]
#[derive(Debug)]
pub(crate) struct View;

#[pymethods]
impl View {
    /// Makes another handle of the same view; closing one does not close the other.
    #[new]
    fn new(other: &Bound<'_, Self>) -> PyResult<PyClassInitializer<Self>> {
        let tree = other.as_super().get();
        let view = tree.0.run(other.py(), Source::view)?;
        let source = Source::View(RwLock::new(Some(view)));
        Ok(PyClassInitializer::from(Tree(tree.0.with(source))).add_subclass(Self))
    }

    /// Lets the view go. Closing again does nothing.
    fn close(slf: &Bound<'_, Self>) {
        slf.as_super().get().0.release(slf.py(), |source| {
            if let Source::View(view) = source {
                let view = view.write().unwrap_or_else(|e| e.into_inner()).take();
                drop(view);
            }
        });
    }

    fn _open_file(slf: &Bound<'_, Self>, path: PathArg<'_>) -> PyResult<File> {
        let tree = &slf.as_super().get().0;
        let file = tree.run(slf.py(), |source| source.view()?.open_file(&path))?;
        Ok(File(tree.with(file)))
    }
}

/// A branch.
#[pyclass(frozen, subclass, extends = Tree, module = "alknet_fs._native")]
#[derive(Debug)]
pub(crate) struct Branch {
    branch: Handle<CoreBranch>,
    /// Tells it from others, also when the store is closed.
    id: BranchId,
}

impl Branch {
    pub(crate) fn init<T: Held>(of: &Handle<T>, branch: &CoreBranch) -> PyClassInitializer<Self> {
        Self::fetching(of, branch, None)
    }

    /// Wraps a branch whose reads wait for contents, the bucket's time or another.
    fn fetching<T: Held>(
        of: &Handle<T>,
        branch: &CoreBranch,
        timeout: Option<Duration>,
    ) -> PyClassInitializer<Self> {
        let branch = branch.fetching(&waiting::fetching(timeout));
        let tree = Tree(of.with(Source::Branch(branch.clone())));
        PyClassInitializer::from(tree).add_subclass(Self {
            id: branch.id(),
            branch: of.with(branch),
        })
    }

    pub(crate) fn handle(&self) -> &Handle<CoreBranch> {
        &self.branch
    }
}

#[pymethods]
impl Branch {
    /// Makes another handle of the same branch.
    #[new]
    fn new(other: &Bound<'_, Self>) -> PyClassInitializer<Self> {
        let tree = Tree(other.as_super().get().0.clone());
        let other = other.get();
        PyClassInitializer::from(tree).add_subclass(Self {
            branch: other.branch.clone(),
            id: other.id,
        })
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Self>().is_ok_and(|other| {
            let other = other.get();
            self.branch.is_of(&other.branch) && self.id == other.id
        })
    }

    fn __hash__(&self) -> usize {
        self.branch.store_number() ^ self.id.0 as usize
    }

    /// The branch's name as it is now.
    #[getter]
    fn name(&self, py: Python<'_>) -> PyResult<String> {
        self.branch.run(py, CoreBranch::name)
    }

    /// Returns the branch's name, parent and age as they are now.
    fn info(&self, py: Python<'_>) -> PyResult<BranchInfo> {
        self.branch.run(py, CoreBranch::info).map(BranchInfo::from)
    }

    fn _fetching(&self, py: Python<'_>, seconds: Option<f64>) -> PyResult<Py<Self>> {
        let timeout = timeout(seconds)?;
        let branch = self.branch.run(py, |branch| Ok(branch.clone()))?;
        Py::new(py, Self::fetching(&self.branch, &branch, timeout))
    }

    /// Lists what nodes wrote to one path of the branch without knowing of each other, by path.
    fn conflicts(&self, py: Python<'_>) -> PyResult<Vec<Conflict>> {
        let conflicts = self.branch.run(py, CoreBranch::conflicts)?;
        Ok(conflicts.into_iter().map(Conflict::from).collect())
    }

    fn _resolve(&self, py: Python<'_>, path: PathArg<'_>, how: &str) -> PyResult<Vec<String>> {
        let done = self
            .branch
            .run(py, |branch| branch.resolve(&path, keep(how)?))?;
        let beside = done.beside.iter();
        Ok(beside.map(|path| path.as_str().to_owned()).collect())
    }

    /// Gives the branch another name.
    fn rename_to(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        self.branch.run(py, |branch| branch.rename_to(name))
    }

    fn _view(&self, py: Python<'_>, snapshot: Option<&str>) -> PyResult<Py<View>> {
        let view = self.branch.run(py, |branch| match snapshot {
            None => branch.view(),
            Some(snapshot) => branch.view_at(snapshot),
        })?;
        Py::new(py, Tree::view(&self.branch, view))
    }

    fn _fork(&self, py: Python<'_>, name: &str, snapshot: Option<&str>) -> PyResult<Py<Self>> {
        let fork = self.branch.run(py, |branch| match snapshot {
            None => branch.fork(name),
            Some(snapshot) => branch.fork_at(snapshot, name),
        })?;
        Py::new(py, Self::init(&self.branch, &fork))
    }

    /// Takes a snapshot of all that the branch shows now, inherited files included.
    fn snapshot(&self, py: Python<'_>, name: &str) -> PyResult<Snapshot> {
        self.branch
            .run(py, |branch| branch.snapshot(name))
            .map(Snapshot::from)
    }

    /// Returns the branch's snapshots, from the oldest.
    fn snapshots(&self, py: Python<'_>) -> PyResult<Vec<Snapshot>> {
        let snapshots = self.branch.run(py, CoreBranch::snapshots)?;
        Ok(snapshots.into_iter().map(Snapshot::from).collect())
    }

    /// Gives a snapshot another name, on all nodes. To watchers one snapshot goes, and another comes.
    fn rename_snapshot(&self, py: Python<'_>, name: &str, new: &str) -> PyResult<()> {
        self.branch
            .run(py, |branch| branch.rename_snapshot(name, new))
    }

    /// Forgets a snapshot's name. Branches forked from it keep what they show.
    fn delete_snapshot(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        self.branch.run(py, |branch| branch.delete_snapshot(name))
    }

    /// Makes the branch look as it did at one of its snapshots.
    fn restore(&self, py: Python<'_>, snapshot: &str) -> PyResult<()> {
        self.branch.run(py, |branch| branch.restore(snapshot))
    }

    /// Writes a whole file in one durable commit and returns its size. Fails where there is one
    /// unless `replace`, and where there is none unless `create`.
    #[pyo3(signature = (
        path, data, *, create = true, replace = true, mode = None, uid = None, gid = None, mtime_ns = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "they have names in Python")]
    fn write_bytes(
        &self,
        py: Python<'_>,
        path: PathArg<'_>,
        data: DataArg<'_>,
        create: bool,
        replace: bool,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        mtime_ns: Option<i64>,
    ) -> PyResult<usize> {
        let put = put_mode(create, replace)?;
        let set = attrs(mode, uid, gid, mtime_ns);
        let size = data.len();
        self.branch
            .run(py, |branch| branch.put(&path, data, &set, put))?;
        Ok(size)
    }

    /// Makes a directory.
    #[pyo3(signature = (path, mode = None, *, uid = None, gid = None, mtime_ns = None))]
    fn mkdir(
        &self,
        py: Python<'_>,
        path: PathArg<'_>,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        mtime_ns: Option<i64>,
    ) -> PyResult<()> {
        let set = attrs(mode, uid, gid, mtime_ns);
        self.branch.run(py, |branch| branch.mkdir_with(&path, &set))
    }

    /// Makes a directory and those above it that are missing, in one commit. Where it exists, does
    /// nothing if `exist_ok`, and fails otherwise.
    #[pyo3(signature = (path, mode = None, exist_ok = false))]
    fn makedirs(
        &self,
        py: Python<'_>,
        path: PathArg<'_>,
        mode: Option<u32>,
        exist_ok: bool,
    ) -> PyResult<()> {
        self.branch.run(py, |branch| {
            let path = alknet_fs::IntoPath::into_path(&path).map_err(|e| e.op("mkdir"))?;
            if exist_ok && mode.is_none() {
                return branch.mkdir_all(&path);
            }
            let mut batch = branch.batch();
            if let Some(parent) = path.parent() {
                batch.mkdir_all(&parent)?;
            }
            batch.mkdir_with(&path, &attrs(mode, None, None, None))?;
            match batch.commit() {
                Err(e) if exist_ok && e.is_already_exists() => branch.mkdir_all(&path),
                result => result,
            }
        })
    }

    /// Makes a symbolic link at `path` that points to `target`, which need not exist.
    fn symlink(&self, py: Python<'_>, target: PathArg<'_>, path: PathArg<'_>) -> PyResult<()> {
        self.branch
            .run(py, |branch| branch.symlink(target.target()?, &path))
    }

    /// Refuses to make a hard link: an entry has one path, and a copy costs no space.
    fn link(&self, py: Python<'_>, source: PathArg<'_>, path: PathArg<'_>) -> PyResult<()> {
        self.branch
            .run(py, |branch| branch.hard_link(&source, &path))
    }

    /// Removes a file or a link.
    fn remove(&self, py: Python<'_>, path: PathArg<'_>) -> PyResult<()> {
        self.branch.run(py, |branch| branch.remove(&path))
    }

    /// Removes a file or a link, as `remove`.
    fn unlink(&self, py: Python<'_>, path: PathArg<'_>) -> PyResult<()> {
        self.remove(py, path)
    }

    /// Removes an empty directory.
    fn rmdir(&self, py: Python<'_>, path: PathArg<'_>) -> PyResult<()> {
        self.branch.run(py, |branch| branch.remove_dir(&path))
    }

    /// Removes whatever is at a path, a directory with all below it, in one commit. Returns how
    /// many entries.
    fn rmtree(&self, py: Python<'_>, path: PathArg<'_>) -> PyResult<u64> {
        self.branch.run(py, |branch| branch.remove_all(&path))
    }

    /// Renames a file, link or directory, atomically replacing what `to` was unless told otherwise.
    #[pyo3(signature = (src, dst, *, replace = true))]
    fn rename(
        &self,
        py: Python<'_>,
        src: PathArg<'_>,
        dst: PathArg<'_>,
        replace: bool,
    ) -> PyResult<()> {
        self.branch.run(py, |branch| match replace {
            true => branch.rename(&src, &dst),
            false => branch.rename_new(&src, &dst),
        })
    }

    /// Renames, replacing what `dst` was, as `rename`.
    fn replace(&self, py: Python<'_>, src: PathArg<'_>, dst: PathArg<'_>) -> PyResult<()> {
        self.rename(py, src, dst, true)
    }

    /// Copies a file, link or directory with all below it; contents are shared. Returns how many
    /// entries were made.
    fn copy(&self, py: Python<'_>, src: PathArg<'_>, dst: PathArg<'_>) -> PyResult<u64> {
        self.branch.run(py, |branch| branch.copy(&src, &dst))
    }

    /// Changes attributes; what is `None` stays.
    #[pyo3(signature = (
        path, *, mode = None, uid = None, gid = None, mtime_ns = None, follow_symlinks = true
    ))]
    #[expect(clippy::too_many_arguments, reason = "they have names in Python")]
    fn set_attrs(
        &self,
        py: Python<'_>,
        path: PathArg<'_>,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        mtime_ns: Option<i64>,
        follow_symlinks: bool,
    ) -> PyResult<()> {
        let set = attrs(mode, uid, gid, mtime_ns);
        let follow = follow(follow_symlinks);
        self.branch
            .run(py, |branch| branch.set_attrs(&path, &set, follow))
    }

    /// Cuts a file, or extends it with zeros.
    fn truncate(&self, py: Python<'_>, path: PathArg<'_>, length: Offset) -> PyResult<()> {
        self.branch
            .run(py, |branch| branch.truncate(&path, length.0))
    }

    /// Copies a directory of the operating system, with modes, owners, times and links, to a path,
    /// which is made if it is missing. What matches one of the patterns `exclude` is left out; with
    /// `delete`, entries that the source lacks are removed.
    ///
    /// It commits in batches: after an error, what was committed stays, and another import goes on
    /// from there.
    #[pyo3(signature = (
        source, path = None, *, exclude = None, delete = false, progress = None, cancel = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "they have names in Python")]
    fn import_(
        &self,
        py: Python<'_>,
        source: PathBuf,
        path: Option<PathArg<'_>>,
        exclude: Option<Vec<String>>,
        delete: bool,
        progress: Option<Py<PyAny>>,
        cancel: Option<Py<Cancel>>,
    ) -> PyResult<ImportReport> {
        let path = path.unwrap_or_default();
        let options = ImportOptions::new().delete(delete);
        let exclude = exclude.unwrap_or_default().into_iter();
        let options = exclude.fold(options, ImportOptions::exclude);
        let report = Follower { progress, cancel }.run(py, &self.branch, |branch, task| {
            branch.import(source, &path, &options, task)
        })?;
        Ok(report.into())
    }

    /// Lists the open write sessions of the branch, from the oldest.
    fn sessions(&self, py: Python<'_>) -> PyResult<Vec<SessionInfo>> {
        let sessions = self.branch.run(py, CoreBranch::sessions)?;
        Ok(sessions.into_iter().map(SessionInfo::from).collect())
    }

    fn _bucket(&self, py: Python<'_>) -> PyResult<Bucket> {
        let bucket = self.branch.run(py, |branch| Ok(branch.bucket()))?;
        Ok(Bucket::new(&self.branch, bucket))
    }

    #[pyo3(signature = (path, *, create, create_new, truncate, exclusive, owner, mode))]
    #[expect(clippy::too_many_arguments, reason = "they have names in Python")]
    fn _open_session(
        &self,
        py: Python<'_>,
        path: PathArg<'_>,
        create: bool,
        create_new: bool,
        truncate: bool,
        exclusive: bool,
        owner: Option<String>,
        mode: Option<u32>,
    ) -> PyResult<Session> {
        let mut options = OpenOptions::new()
            .create(create)
            .create_new(create_new)
            .truncate(truncate)
            .exclusive(exclusive);
        if let Some(owner) = owner {
            options = options.owner(owner);
        }
        if let Some(mode) = mode {
            options = options.mode(mode);
        }
        let open = |branch: &CoreBranch| branch.open_session(&path, &options);
        Ok(Session::new(&self.branch, self.branch.run(py, open)?))
    }

    #[pyo3(signature = (
        path, *, read = false, write = false, append = false, create = false, create_new = false,
        truncate = false, exclusive = false, owner = None, mode = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "they have names in Python")]
    fn _open_file(
        &self,
        py: Python<'_>,
        path: PathArg<'_>,
        read: bool,
        write: bool,
        append: bool,
        create: bool,
        create_new: bool,
        truncate: bool,
        exclusive: bool,
        owner: Option<String>,
        mode: Option<u32>,
    ) -> PyResult<File> {
        let mut options = FileOptions::new()
            .read(read)
            .write(write)
            .append(append)
            .create(create)
            .create_new(create_new)
            .truncate(truncate)
            .exclusive(exclusive);
        if let Some(owner) = owner {
            options = options.owner(owner);
        }
        if let Some(mode) = mode {
            options = options.mode(mode);
        }
        let file = self
            .branch
            .run(py, |branch| branch.open_file(&path, &options))?;
        Ok(File(self.branch.with(file)))
    }
}
