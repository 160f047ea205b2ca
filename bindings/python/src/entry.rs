//! What calls return.

use alknet_fs::{
    Attrs, Difference as CoreDifference, Entry as CoreEntry, Hash, Kind, Node, Timestamp, TreePath,
};
use pyo3::prelude::*;
use pyo3::types::PyString;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::tree::Tree;

/// One file, directory or symbolic link, with the attributes of `os.stat_result` and its own.
#[pyclass(frozen, subclass, eq, module = "alknet_fs")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry(pub(crate) CoreEntry);

const NANOS: f64 = 1e9;

#[pymethods]
impl Entry {
    /// `"file"`, `"dir"` or `"symlink"`.
    #[getter]
    fn kind(&self) -> &'static str {
        self.0.kind().name()
    }

    /// The size in bytes: of a file its length, of a link its text's length, else 0.
    #[getter]
    fn size(&self) -> u64 {
        self.0.size()
    }

    /// The BLAKE3 hash of a file's bytes as 64 hexadecimal digits; `None` for anything else.
    #[getter]
    fn hash(&self) -> Option<String> {
        self.0.hash().map(|hash| hash.to_hex())
    }

    /// The text of a symbolic link; `None` for anything else.
    #[getter]
    fn target(&self) -> Option<&str> {
        self.0.target()
    }

    /// The permission bits, without the type of file that `st_mode` includes.
    #[getter]
    fn mode(&self) -> u32 {
        self.0.attrs.mode
    }

    /// The owner's user id.
    #[getter]
    fn uid(&self) -> u32 {
        self.0.attrs.uid
    }

    /// The owner's group id.
    #[getter]
    fn gid(&self) -> u32 {
        self.0.attrs.gid
    }

    /// When the content changed, in nanoseconds since 1970-01-01 UTC.
    #[getter]
    fn mtime_ns(&self) -> i64 {
        self.0.attrs.mtime.0
    }

    /// When the entry changed in any way, in nanoseconds since 1970-01-01 UTC.
    #[getter]
    fn ctime_ns(&self) -> i64 {
        self.0.attrs.ctime.0
    }

    /// Tells whether this is a directory.
    fn is_dir(&self) -> bool {
        self.0.is_dir()
    }

    /// Tells whether this is a regular file.
    fn is_file(&self) -> bool {
        self.0.is_file()
    }

    /// Tells whether this is a symbolic link.
    fn is_symlink(&self) -> bool {
        self.0.is_symlink()
    }

    /// The permission bits with the type of file, as `os.stat` gives it.
    #[getter]
    fn st_mode(&self) -> u32 {
        let kind = match self.0.kind() {
            Kind::File => 0o100_000,
            Kind::Dir => 0o040_000,
            Kind::Symlink => 0o120_000,
        };
        kind | self.0.attrs.mode
    }

    /// The size in bytes.
    #[getter]
    fn st_size(&self) -> u64 {
        self.0.size()
    }

    /// The owner's user id.
    #[getter]
    fn st_uid(&self) -> u32 {
        self.0.attrs.uid
    }

    /// The owner's group id.
    #[getter]
    fn st_gid(&self) -> u32 {
        self.0.attrs.gid
    }

    /// The number of hard links, which is always 1.
    #[getter]
    fn st_nlink(&self) -> u32 {
        1
    }

    /// When the content changed, in seconds.
    #[getter]
    fn st_mtime(&self) -> f64 {
        self.0.attrs.mtime.0 as f64 / NANOS
    }

    /// When the content changed, in nanoseconds.
    #[getter]
    fn st_mtime_ns(&self) -> i64 {
        self.0.attrs.mtime.0
    }

    /// When the entry changed, in seconds.
    #[getter]
    fn st_ctime(&self) -> f64 {
        self.0.attrs.ctime.0 as f64 / NANOS
    }

    /// When the entry changed, in nanoseconds.
    #[getter]
    fn st_ctime_ns(&self) -> i64 {
        self.0.attrs.ctime.0
    }

    /// The time of the last access is not kept: the time of the last change, in seconds.
    #[getter]
    fn st_atime(&self) -> f64 {
        self.0.attrs.mtime.0 as f64 / NANOS
    }

    /// The time of the last access is not kept: the time of the last change, in nanoseconds.
    #[getter]
    fn st_atime_ns(&self) -> i64 {
        self.0.attrs.mtime.0
    }

    fn __repr__(&self) -> String {
        let (kind, size, mode) = (self.kind(), self.size(), self.mode());
        format!("<Entry {kind} size={size} mode=0o{mode:o}>")
    }
}

/// What an entry is pickled as: its node, and mode, uid, gid, mtime and ctime.
type Parts = (
    Kind,
    Option<(Hash, u64)>,
    Option<String>,
    (u32, u32, u32),
    (Timestamp, Timestamp),
);

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let CoreEntry { node, attrs } = &self.0;
        let (content, target) = match node {
            Node::File { hash, size } => (Some((*hash, *size)), None),
            Node::Dir => (None, None),
            Node::Symlink { target } => (None, Some(target.to_string())),
        };
        let owner = (attrs.mode, attrs.uid, attrs.gid);
        let parts: Parts = (
            self.0.kind(),
            content,
            target,
            owner,
            (attrs.mtime, attrs.ctime),
        );
        parts.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (kind, content, target, (mode, uid, gid), (mtime, ctime)) =
            Parts::deserialize(deserializer)?;
        let missing = || de::Error::custom("an entry is incomplete");
        let node = match kind {
            Kind::File => content.map(|(hash, size)| Node::File { hash, size }),
            Kind::Dir => Some(Node::Dir),
            Kind::Symlink => target.map(|target| Node::Symlink {
                target: target.into(),
            }),
        };
        let attrs = Attrs {
            mode,
            uid,
            gid,
            mtime,
            ctime,
        };
        Ok(Self(CoreEntry {
            node: node.ok_or_else(missing)?,
            attrs,
        }))
    }
}

/// One name in a directory, as `os.DirEntry`.
#[pyclass(frozen, module = "alknet_fs")]
#[derive(Debug)]
pub(crate) struct DirEntry {
    pub(crate) tree: Py<Tree>,
    pub(crate) path: String,
    /// Where the name begins in the path.
    pub(crate) name_at: usize,
    pub(crate) entry: CoreEntry,
}

impl DirEntry {
    fn followed(&self, py: Python<'_>, follow: bool) -> PyResult<CoreEntry> {
        match follow && self.entry.is_symlink() {
            true => self.tree.get().entry(py, &self.path),
            false => Ok(self.entry.clone()),
        }
    }

    fn is_kind(&self, py: Python<'_>, kind: Kind, follow: bool) -> PyResult<bool> {
        match self.followed(py, follow) {
            Ok(entry) => Ok(entry.kind() == kind),
            Err(e) if e.is_instance_of::<pyo3::exceptions::PyFileNotFoundError>(py) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

#[pymethods]
impl DirEntry {
    /// The name, without its directory.
    #[getter]
    fn name(&self) -> &str {
        &self.path[self.name_at..]
    }

    /// The whole path.
    #[getter]
    fn path(&self) -> &str {
        &self.path
    }

    /// What is there; a symbolic link at the end is followed unless told otherwise.
    #[pyo3(signature = (*, follow_symlinks = true))]
    fn stat(&self, py: Python<'_>, follow_symlinks: bool) -> PyResult<Entry> {
        self.followed(py, follow_symlinks).map(Entry)
    }

    /// Tells whether this is a directory, or a link to one.
    #[pyo3(signature = (*, follow_symlinks = true))]
    fn is_dir(&self, py: Python<'_>, follow_symlinks: bool) -> PyResult<bool> {
        self.is_kind(py, Kind::Dir, follow_symlinks)
    }

    /// Tells whether this is a regular file, or a link to one.
    #[pyo3(signature = (*, follow_symlinks = true))]
    fn is_file(&self, py: Python<'_>, follow_symlinks: bool) -> PyResult<bool> {
        self.is_kind(py, Kind::File, follow_symlinks)
    }

    /// Tells whether this is a symbolic link.
    fn is_symlink(&self) -> bool {
        self.entry.is_symlink()
    }

    fn __alkfs_path__(&self) -> &str {
        &self.path
    }

    fn __repr__<'py>(&self, py: Python<'py>) -> PyResult<String> {
        Ok(format!(
            "<DirEntry {}>",
            PyString::new(py, self.name()).repr()?
        ))
    }
}

/// What is known of a branch.
#[pyclass(frozen, get_all, eq, module = "alknet_fs")]
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BranchInfo {
    /// Its name.
    name: String,
    /// The branch it was forked from, if any.
    parent: Option<String>,
    /// Whether later writes to the parent show through.
    live: bool,
    /// The number of its snapshots.
    snapshots: usize,
    /// When it was made, in nanoseconds since 1970-01-01 UTC.
    created_ns: i64,
}

#[pymethods]
impl BranchInfo {
    fn __repr__(&self) -> String {
        let parent = self.parent.as_ref();
        let parent = parent.map(|p| format!(" from {p}")).unwrap_or_default();
        format!("<BranchInfo {}{parent}>", self.name)
    }
}

impl From<alknet_fs::BranchInfo> for BranchInfo {
    fn from(info: alknet_fs::BranchInfo) -> Self {
        Self {
            name: info.name,
            parent: info.parent,
            live: info.live,
            snapshots: info.snapshots,
            created_ns: info.created.0,
        }
    }
}

/// A named point in time of a branch.
#[pyclass(frozen, get_all, eq, module = "alknet_fs")]
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// Its name.
    name: String,
    /// When it was taken, in nanoseconds since 1970-01-01 UTC.
    created_ns: i64,
}

#[pymethods]
impl Snapshot {
    fn __repr__(&self) -> String {
        format!("<Snapshot {}>", self.name)
    }
}

impl From<alknet_fs::SnapshotRecord> for Snapshot {
    fn from(record: alknet_fs::SnapshotRecord) -> Self {
        Self {
            name: record.name,
            created_ns: record.created.0,
        }
    }
}

/// What a file that was closed committed.
#[pyclass(frozen, get_all, eq, module = "alknet_fs")]
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Closed {
    /// The path written, links resolved.
    path: String,
    /// The content's BLAKE3 hash as 64 hexadecimal digits.
    hash: String,
    /// The file's size in bytes.
    size: u64,
}

#[pymethods]
impl Closed {
    fn __repr__(&self) -> String {
        format!("<Closed {} size={}>", self.path, self.size)
    }
}

impl From<alknet_fs::Closed> for Closed {
    fn from(closed: alknet_fs::Closed) -> Self {
        Self {
            path: closed.path.as_str().to_owned(),
            hash: closed.hash.to_hex(),
            size: closed.size,
        }
    }
}

/// One path at which two trees differ.
#[pyclass(frozen, get_all, eq, module = "alknet_fs")]
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Difference {
    /// The path; of a renamed entry, where the second tree has it.
    path: String,
    /// `"added"`, `"deleted"`, `"modified"` or `"renamed"`.
    what: String,
    /// Where the first tree has a renamed entry.
    from_path: Option<String>,
    /// The first tree's entry.
    old: Option<Entry>,
    /// The second tree's entry.
    new: Option<Entry>,
}

#[pymethods]
impl Difference {
    fn __repr__(&self) -> String {
        format!("<Difference {} {}>", self.what, self.path)
    }
}

impl From<(TreePath, CoreDifference)> for Difference {
    fn from((path, difference): (TreePath, CoreDifference)) -> Self {
        let (what, from, old, new) = match difference {
            CoreDifference::Added { new } => ("added", None, None, Some(new)),
            CoreDifference::Deleted { old } => ("deleted", None, Some(old), None),
            CoreDifference::Modified { old, new } => ("modified", None, Some(old), Some(new)),
            CoreDifference::Renamed { from, old, new } => {
                ("renamed", Some(from), Some(old), Some(new))
            }
        };
        Self {
            path: path.as_str().to_owned(),
            what: what.to_owned(),
            from_path: from.map(|from| from.as_str().to_owned()),
            old: old.map(Entry),
            new: new.map(Entry),
        }
    }
}
