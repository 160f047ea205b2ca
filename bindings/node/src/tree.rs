//! Branches, and views of them and of snapshots.

use std::sync::Arc;

use alknet_fs::{Branch, Entry, Error, ErrorKind, PutMode, SetAttrs, View, Walk};
use napi::bindgen_prelude::Uint8Array;
use napi_derive::napi;

use crate::convert::{
    Attributes, Bytes, EntryInfo, Listing, StatNumbers, follow, kind_number, length, stat_numbers,
};
use crate::file::{OpenFile, flags};
use crate::job::{Kept, Outcome, run};

type Result<T> = std::result::Result<T, Error>;

/// What can be read: a branch as it is at each call, or a view, which never changes.
#[derive(Clone)]
enum Source {
    Branch(Branch),
    View(Arc<View>),
}

/// Calls the same method of a branch or of a view.
macro_rules! either {
    ($source:expr, $tree:ident => $call:expr) => {
        match $source {
            Source::Branch($tree) => $call,
            Source::View($tree) => $call,
        }
    };
}

impl Source {
    /// Returns what is at a path; a link at its end is followed where `links` says so.
    fn entry(&self, path: String, links: bool) -> Result<Entry> {
        match links {
            true => either!(self, tree => tree.stat(path)),
            false => either!(self, tree => tree.lstat(path)),
        }
    }

    /// Something that shows one state for as long as it takes to read several things.
    fn view(&self) -> Result<Arc<View>> {
        match self {
            Self::Branch(branch) => branch.view().map(Arc::new),
            Self::View(view) => Ok(Arc::clone(view)),
        }
    }

    fn branch(&self) -> Result<&Branch> {
        match self {
            Self::Branch(branch) => Ok(branch),
            Self::View(_) => Err(ErrorKind::ReadOnly.into()),
        }
    }
}

/// A tree of files.
#[napi]
pub struct Tree {
    source: Source,
}

impl From<Branch> for Tree {
    fn from(branch: Branch) -> Self {
        Self {
            source: Source::Branch(branch),
        }
    }
}

impl From<View> for Tree {
    fn from(view: View) -> Self {
        Self {
            source: Source::View(Arc::new(view)),
        }
    }
}

impl Tree {
    fn read_with<T: Send + napi::bindgen_prelude::ToNapiValue + 'static>(
        &self,
        later: bool,
        read: impl FnOnce(&Source) -> Result<T> + Send + 'static,
    ) -> napi::Result<Outcome<T>> {
        let source = self.source.clone();
        run(later, move || read(&source))
    }

    fn write_with<T: Send + napi::bindgen_prelude::ToNapiValue + 'static>(
        &self,
        later: bool,
        write: impl FnOnce(&Branch) -> Result<T> + Send + 'static,
    ) -> napi::Result<Outcome<T>> {
        self.read_with(later, move |source| write(source.branch()?))
    }
}

/// Reading.
#[napi]
impl Tree {
    /// The directory of the store; nothing for a store in memory.
    #[napi]
    pub fn home(&self) -> Option<String> {
        let path = either!(&self.source, tree => tree.store_path())?;
        Some(path.to_string_lossy().into_owned())
    }

    #[napi]
    pub fn stat(
        &self,
        path: String,
        links: bool,
        later: bool,
    ) -> napi::Result<Outcome<StatNumbers>> {
        self.read_with(later, move |source| {
            Ok(stat_numbers(&source.entry(path, links)?))
        })
    }

    #[napi]
    pub fn entry(
        &self,
        path: String,
        links: bool,
        later: bool,
    ) -> napi::Result<Outcome<EntryInfo>> {
        self.read_with(later, move |source| {
            Ok(EntryInfo::from(&source.entry(path, links)?))
        })
    }

    #[napi]
    pub fn exists(&self, path: String, later: bool) -> napi::Result<Outcome<bool>> {
        self.read_with(
            later,
            move |source| either!(source, tree => tree.exists(path)),
        )
    }

    #[napi]
    pub fn canonicalize(&self, path: String, later: bool) -> napi::Result<Outcome<String>> {
        self.read_with(later, move |source| {
            let path = either!(source, tree => tree.canonicalize(path))?;
            Ok(path.as_str().to_owned())
        })
    }

    #[napi]
    pub fn read_link(&self, path: String, later: bool) -> napi::Result<Outcome<String>> {
        self.read_with(
            later,
            move |source| either!(source, tree => tree.read_link(path)),
        )
    }

    #[napi]
    pub fn read(&self, path: String, later: bool) -> napi::Result<Outcome<Bytes>> {
        self.read_with(later, move |source| {
            either!(source, tree => tree.read(path)).map(Bytes)
        })
    }

    #[napi]
    pub fn list(&self, path: String, later: bool) -> napi::Result<Outcome<Listing>> {
        self.read_with(later, move |source| {
            let entries = either!(source, tree => tree.list(path))?;
            let kinds = entries.iter().map(|e| kind_number(e.entry.kind()));
            Ok(Listing {
                kinds: kinds.collect(),
                names: entries.into_iter().map(|e| e.name.into()).collect(),
            })
        })
    }

    /// Lists everything below a directory, by paths relative to it.
    #[napi]
    pub fn list_all(&self, path: String, later: bool) -> napi::Result<Outcome<Listing>> {
        self.read_with(later, move |source| {
            let view = source.view()?;
            let base = view.canonicalize(&path)?;
            if !view.stat(&base)?.is_dir() {
                return Err(Error::new(ErrorKind::NotADirectory).op("list").path(path));
            }
            let mut names = Vec::new();
            let mut kinds = Vec::new();
            view.walk(&base, |path, entry| {
                if let Some(name) = path.strip_prefix(&base).filter(|name| !name.is_empty()) {
                    names.push(name.to_owned());
                    kinds.push(kind_number(entry.kind()));
                }
                Ok(Walk::Continue)
            })?;
            Ok(Listing { names, kinds })
        })
    }

    /// Opens a file; see [`flags`] for the bits.
    #[napi]
    pub fn open(
        &self,
        path: String,
        bits: u32,
        mode: Option<u32>,
        later: bool,
    ) -> napi::Result<Outcome<OpenFile>> {
        self.read_with(later, move |source| {
            let file = match source {
                Source::Branch(branch) => branch.open_file(path, &flags::options(bits, mode)),
                Source::View(_) if bits & flags::CHANGING != 0 => {
                    Err(Error::new(ErrorKind::ReadOnly).op("open").path(path))
                }
                Source::View(view) => view.open_file(path),
            };
            file.map(OpenFile::from)
        })
    }
}

/// Changing.
#[napi]
impl Tree {
    /// Writes a whole file, or appends to one, as the flags say.
    #[napi]
    pub fn write(
        &self,
        path: String,
        data: Uint8Array,
        bits: u32,
        mode: Option<u32>,
        later: bool,
    ) -> napi::Result<Outcome<Kept<()>>> {
        self.write_with(later, move |branch| {
            write(branch, &path, &data, bits, mode)?;
            Ok(Kept::new((), data))
        })
    }

    #[napi]
    pub fn mkdir(&self, path: String, mode: Option<u32>, later: bool) -> napi::Result<Outcome<()>> {
        self.write_with(later, move |branch| {
            let set = SetAttrs {
                mode,
                ..SetAttrs::default()
            };
            branch.mkdir_with(path, &set)
        })
    }

    /// Makes a directory and those above it. Returns the first that was made, if any was.
    #[napi]
    pub fn mkdir_all(
        &self,
        path: String,
        mode: Option<u32>,
        later: bool,
    ) -> napi::Result<Outcome<Option<String>>> {
        self.write_with(later, move |branch| {
            let set = SetAttrs {
                mode,
                ..SetAttrs::default()
            };
            let first = branch.mkdir_all_with(path, &set)?;
            Ok(first.map(|path| path.as_str().to_owned()))
        })
    }

    #[napi]
    pub fn symlink(&self, target: String, path: String, later: bool) -> napi::Result<Outcome<()>> {
        self.write_with(later, move |branch| branch.symlink(&target, path))
    }

    #[napi]
    pub fn remove(&self, path: String, later: bool) -> napi::Result<Outcome<()>> {
        self.write_with(later, move |branch| branch.remove(path))
    }

    #[napi]
    pub fn remove_dir(&self, path: String, later: bool) -> napi::Result<Outcome<()>> {
        self.write_with(later, move |branch| branch.remove_dir(path))
    }

    #[napi]
    pub fn remove_all(&self, path: String, later: bool) -> napi::Result<Outcome<f64>> {
        self.write_with(later, move |branch| {
            branch.remove_all(path).map(|count| count as f64)
        })
    }

    #[napi]
    pub fn rename(
        &self,
        from: String,
        to: String,
        replace: bool,
        later: bool,
    ) -> napi::Result<Outcome<()>> {
        self.write_with(later, move |branch| match replace {
            true => branch.rename(from, to),
            false => branch.rename_new(from, to),
        })
    }

    #[napi]
    pub fn copy(&self, from: String, to: String, later: bool) -> napi::Result<Outcome<f64>> {
        self.write_with(later, move |branch| {
            branch.copy(from, to).map(|count| count as f64)
        })
    }

    #[napi]
    pub fn set_attributes(
        &self,
        path: String,
        attributes: Attributes,
        links: bool,
        later: bool,
    ) -> napi::Result<Outcome<()>> {
        self.write_with(later, move |branch| {
            branch.set_attrs(path, &attributes.set()?, follow(links))
        })
    }

    #[napi]
    pub fn truncate(&self, path: String, size: f64, later: bool) -> napi::Result<Outcome<()>> {
        self.write_with(later, move |branch| branch.truncate(path, length(size)?))
    }
}

/// Branches and snapshots.
#[napi]
impl Tree {
    #[napi]
    pub fn name(&self) -> napi::Result<String> {
        self.source
            .branch()
            .and_then(Branch::name)
            .map_err(crate::job::raised)
    }

    #[napi]
    pub fn fork(
        &self,
        snapshot: Option<String>,
        name: String,
        later: bool,
    ) -> napi::Result<Outcome<Tree>> {
        self.write_with(later, move |branch| {
            let fork = match snapshot {
                None => branch.fork(&name),
                Some(snapshot) => branch.fork_at(&snapshot, &name),
            };
            fork.map(Tree::from)
        })
    }

    #[napi]
    pub fn view(&self, snapshot: Option<String>, later: bool) -> napi::Result<Outcome<Tree>> {
        self.write_with(later, move |branch| {
            let view = match snapshot {
                None => branch.view(),
                Some(snapshot) => branch.view_at(&snapshot),
            };
            view.map(Tree::from)
        })
    }

    #[napi]
    pub fn snapshot(&self, name: String, later: bool) -> napi::Result<Outcome<()>> {
        self.write_with(later, move |branch| branch.snapshot(&name).map(drop))
    }

    #[napi]
    pub fn snapshots(&self, later: bool) -> napi::Result<Outcome<Vec<String>>> {
        self.write_with(later, move |branch| {
            let snapshots = branch.snapshots()?;
            Ok(snapshots.into_iter().map(|s| s.name).collect())
        })
    }

    #[napi]
    pub fn delete_snapshot(&self, name: String, later: bool) -> napi::Result<Outcome<()>> {
        self.write_with(later, move |branch| branch.delete_snapshot(&name))
    }

    #[napi]
    pub fn restore(&self, snapshot: String, later: bool) -> napi::Result<Outcome<()>> {
        self.write_with(later, move |branch| branch.restore(&snapshot))
    }

    #[napi]
    pub fn rename_to(&self, name: String, later: bool) -> napi::Result<Outcome<()>> {
        self.write_with(later, move |branch| branch.rename_to(&name))
    }
}

fn write(branch: &Branch, path: &str, data: &[u8], bits: u32, mode: Option<u32>) -> Result<()> {
    // One commit without a session, unless the mode is that of a new file only.
    let whole = flags::WRITE | flags::CREATE | flags::TRUNCATE;
    if bits == whole && mode.is_none() {
        return branch.write(path, data);
    }
    if bits == whole | flags::EXCLUSIVE {
        let set = SetAttrs {
            mode,
            ..SetAttrs::default()
        };
        return branch.put(path, data, &set, PutMode::CreateNew);
    }
    let file = branch.open_file(path, &flags::options(bits, mode))?;
    file.write(data)?;
    file.close().map(drop)
}
