//! Branches, and views of them and of snapshots.

use std::sync::Arc;

use alknet_fs::{
    Branch, Entry, Error, ErrorKind, ExportOptions, ImportOptions, PutMode, SetAttrs, View, Walk,
};
use napi::bindgen_prelude::{BigInt, Either, Float64ArraySlice, ToNapiValue, Uint8Array};
use napi_derive::napi;
use parking_lot::Mutex;

use crate::batch::BatchHandle;
use crate::bucket::{BranchFacts, BucketHandle};
use crate::bytes::{Given, check_size};
use crate::content::{ConflictInfo, FetchInfo, keeps, patience};
use crate::convert::{
    Attributes, Bytes, EntryInfo, Listing, NamedEntry, PathText, StatNumbers, follow, kind_number,
    length, put_mode, put_stat_numbers, stat_numbers,
};
use crate::file::{OpenFile, flags};
use crate::handle::{Handle, Held};
use crate::job::{Outcome, now, run, run_on, run_reading};
use crate::lane::Lane;
use crate::reader::ReaderHandle;
use crate::session::{SessionHandle, SessionInfo, SessionOptions};
use crate::task::TaskHandle;
use crate::waiting;

type Result<T> = std::result::Result<T, Error>;

/// What can be read: a branch as it is at each call, or a view, which never changes.
pub(crate) enum Source {
    Branch(Branch),
    View(Arc<View>),
}

impl Held for Source {
    const WAITS: bool = false;
}

impl From<Branch> for Source {
    fn from(branch: Branch) -> Self {
        Self::Branch(branch.fetching(&waiting::fetching(None)))
    }
}

impl From<View> for Source {
    fn from(view: View) -> Self {
        Self::View(Arc::new(view))
    }
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
    source: Handle<Source>,
}

impl Tree {
    pub(crate) fn new<T: Held>(near: &Handle<T>, source: Source) -> Self {
        let what = match source {
            Source::Branch(_) => "branch",
            Source::View(_) => "view",
        };
        Self {
            source: near.with(what, source),
        }
    }

    fn read_with<T: Send + ToNapiValue + 'static>(
        &self,
        later: bool,
        read: impl FnOnce(&Source) -> Result<T> + Send + 'static,
    ) -> napi::Result<Outcome<T>> {
        let source = self.source.clone();
        run(later, move || read(&*source.get()?))
    }

    fn write_with<T: Send + ToNapiValue + 'static>(
        &self,
        later: bool,
        write: impl FnOnce(&Branch) -> Result<T> + Send + 'static,
    ) -> napi::Result<Outcome<T>> {
        let source = self.source.clone();
        run_on(self.source.writes(), later, move || {
            write(source.get()?.branch()?)
        })
    }

    /// Goes through much of a tree.
    fn work_with<T: Send + ToNapiValue + 'static>(
        &self,
        later: bool,
        work: impl FnOnce(&Source) -> Result<T> + Send + 'static,
    ) -> napi::Result<Outcome<T>> {
        let source = self.source.clone();
        run_on(self.source.tasks(), later, move || work(&*source.get()?))
    }

    /// Makes something else that reads a content, on libuv's pool if on no lane.
    fn make<T: Held, R: From<Handle<T>> + Send + ToNapiValue + 'static>(
        &self,
        what: &'static str,
        lane: Option<&Lane>,
        later: bool,
        make: impl Fn(&Source) -> Result<T> + Send + 'static,
    ) -> napi::Result<Outcome<R>> {
        let source = self.source.clone();
        run_reading(lane, later, move || {
            let made = make(&*source.get()?)?;
            Ok(source.with(what, made).into())
        })
    }

    /// Changes what there is of a file, which has to be here for that.
    fn rewrite_with<T: Send + ToNapiValue + 'static>(
        &self,
        later: bool,
        write: impl Fn(&Branch) -> Result<T> + Send + 'static,
    ) -> napi::Result<Outcome<T>> {
        let source = self.source.clone();
        run_reading(Some(self.source.writes()), later, move || {
            write(source.get()?.branch()?)
        })
    }

    fn make_tree<T: Into<Source>>(
        &self,
        later: bool,
        make: impl FnOnce(&Branch) -> Result<T> + Send + 'static,
    ) -> napi::Result<Outcome<Tree>> {
        let source = self.source.clone();
        run_on(self.source.writes(), later, move || {
            let made = make(source.get()?.branch()?)?;
            Ok(Tree::new(&source, made.into()))
        })
    }
}

/// Reading.
#[napi]
impl Tree {
    /// The directory of the store; nothing for a store in memory.
    #[napi]
    pub fn home(&self) -> napi::Result<Option<String>> {
        now(|| {
            let source = self.source.get()?;
            let path = either!(&*source, tree => tree.store_path());
            Ok(path.map(|path| path.to_string_lossy().into_owned()))
        })
    }

    #[napi]
    pub fn stat(
        &self,
        path: PathText,
        links: bool,
        later: bool,
    ) -> napi::Result<Outcome<StatNumbers>> {
        let path = path.into_string();
        self.read_with(later, move |source| {
            Ok(stat_numbers(&source.entry(path, links)?))
        })
    }

    /// As `stat`, on the calling thread, into numbers that are there already.
    #[napi]
    pub fn stat_into(
        &self,
        path: PathText,
        links: bool,
        mut numbers: Float64ArraySlice<'_>,
    ) -> napi::Result<()> {
        now(|| {
            let entry = self.source.get()?.entry(path.into_string(), links)?;
            // SAFETY: nothing of JavaScript runs before this call is over.
            put_stat_numbers(&entry, unsafe { numbers.as_mut() });
            Ok(())
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
    pub fn exists(&self, path: PathText, later: bool) -> napi::Result<Outcome<bool>> {
        let path = path.into_string();
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
    pub fn read(&self, path: PathText, later: bool) -> napi::Result<Outcome<Bytes>> {
        let path = path.into_string();
        let source = self.source.clone();
        run_reading(None, later, move || {
            let source = source.get()?;
            let reader = either!(&*source, tree => tree.open(&path))?;
            check_size(reader.size())?;
            reader.into_bytes().map(Bytes)
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
        let writes = bits & flags::CHANGING != 0;
        let lane = writes.then(|| self.source.writes());
        self.make("file", lane, later, move |source| match source {
            Source::Branch(branch) => branch.open_file(&path, &flags::options(bits, mode)),
            Source::View(_) if writes => {
                Err(Error::new(ErrorKind::ReadOnly).op("open").path(&path))
            }
            Source::View(view) => view.open_file(&path),
        })
    }

    #[napi]
    pub fn entries(&self, path: String, later: bool) -> napi::Result<Outcome<Vec<NamedEntry>>> {
        self.read_with(later, move |source| {
            let entries = either!(source, tree => tree.list(path))?;
            let named = entries.iter().map(|e| NamedEntry::new(&e.name, &e.entry));
            Ok(named.collect())
        })
    }

    /// Lists everything below a path, by whole paths.
    #[napi]
    pub fn walk(&self, path: String, later: bool) -> napi::Result<Outcome<Vec<NamedEntry>>> {
        self.read_with(later, move |source| {
            let mut found = Vec::new();
            source.view()?.walk(path, |path, entry| {
                found.push(NamedEntry::new(path.as_str(), entry));
                Ok(Walk::Continue)
            })?;
            Ok(found)
        })
    }

    #[napi]
    pub fn glob(
        &self,
        path: String,
        pattern: String,
        later: bool,
    ) -> napi::Result<Outcome<Vec<NamedEntry>>> {
        self.read_with(later, move |source| {
            let found = source.view()?.glob(path, &pattern)?;
            let named = found
                .iter()
                .map(|(path, e)| NamedEntry::new(path.as_str(), e));
            Ok(named.collect())
        })
    }

    #[napi]
    pub fn reader(&self, path: String, later: bool) -> napi::Result<Outcome<ReaderHandle>> {
        self.make(
            "reader",
            None,
            later,
            move |source| either!(source, tree => tree.open(&path)),
        )
    }

    /// Opens a content by its hash.
    #[napi]
    pub fn content(&self, hash: String, later: bool) -> napi::Result<Outcome<ReaderHandle>> {
        self.make("reader", None, later, move |source| {
            source.view()?.open_content(&hash.parse()?)
        })
    }

    #[napi]
    pub fn verify(&self, path: String, later: bool) -> napi::Result<Outcome<()>> {
        self.work_with(later, move |source| source.view()?.verify(path))
    }

    #[napi]
    pub fn tree_hash(&self, later: bool) -> napi::Result<Outcome<String>> {
        self.work_with(later, |source| Ok(source.view()?.tree_hash()?.to_hex()))
    }

    #[napi]
    pub fn export(
        &self,
        from: String,
        target: String,
        overwrite: bool,
        sync: bool,
        task: &TaskHandle,
        later: bool,
    ) -> napi::Result<Outcome<ExportInfo>> {
        let task = task.task();
        self.work_with(later, move |source| {
            let options = ExportOptions::new().overwrite(overwrite).sync(sync);
            let done = source.view()?.export(from, target, &options, &task)?;
            Ok(ExportInfo {
                files: done.files as f64,
                dirs: done.dirs as f64,
                symlinks: done.symlinks as f64,
                bytes: done.bytes as f64,
            })
        })
    }

    /// Lets go what is read.
    #[napi]
    pub fn close(&self) -> napi::Result<()> {
        now(|| {
            self.source.close();
            Ok(())
        })
    }
}

/// What an export wrote.
#[napi(object)]
pub struct ExportInfo {
    pub files: f64,
    pub dirs: f64,
    pub symlinks: f64,
    pub bytes: f64,
}

/// Something that could not be imported.
#[napi(object)]
pub struct SkippedInfo {
    pub path: String,
    pub reason: String,
}

/// What an import did.
#[napi(object)]
pub struct ImportInfo {
    pub files: f64,
    pub dirs: f64,
    pub symlinks: f64,
    pub bytes: f64,
    pub unchanged: f64,
    pub unchanged_files: f64,
    pub files_read: f64,
    pub bytes_read: f64,
    pub removed: f64,
    pub skipped: Vec<SkippedInfo>,
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
    ) -> napi::Result<Outcome<()>> {
        let data = Given::new(data, later);
        // One commit without a session, unless the mode is that of a new file only.
        let whole = flags::WRITE | flags::CREATE | flags::TRUNCATE;
        if bits == whole && mode.is_none() {
            return self.write_with(later, move |branch| branch.write(path, data.into_vec()));
        }
        if bits == whole | flags::EXCLUSIVE {
            return self.write_with(later, move |branch| {
                let set = SetAttrs {
                    mode,
                    ..SetAttrs::default()
                };
                branch.put(path, data.into_vec(), &set, PutMode::CreateNew)
            });
        }
        self.rewrite_with(later, move |branch| {
            let file = branch.open_file(&path, &flags::options(bits, mode))?;
            file.write(&data)?;
            file.close().map(drop)
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

    /// Writes a whole file with attributes.
    #[napi]
    pub fn put(
        &self,
        path: String,
        data: Uint8Array,
        attributes: Attributes,
        create: bool,
        replace: bool,
        later: bool,
    ) -> napi::Result<Outcome<()>> {
        let data = Given::new(data, later);
        self.write_with(later, move |branch| {
            let mode = put_mode(create, replace)?;
            branch.put(path, data.into_vec(), &attributes.set()?, mode)
        })
    }

    /// Makes a directory with attributes.
    #[napi]
    pub fn mkdir_with(
        &self,
        path: String,
        attributes: Attributes,
        later: bool,
    ) -> napi::Result<Outcome<()>> {
        self.write_with(later, move |branch| {
            branch.mkdir_with(path, &attributes.set()?)
        })
    }

    /// Makes a directory and those above it, all with attributes. Returns the first that was made.
    #[napi]
    pub fn mkdir_all_with(
        &self,
        path: String,
        attributes: Attributes,
        later: bool,
    ) -> napi::Result<Outcome<Option<String>>> {
        self.write_with(later, move |branch| {
            let first = branch.mkdir_all_with(path, &attributes.set()?)?;
            Ok(first.map(|path| path.as_str().to_owned()))
        })
    }

    /// Is refused: an entry has one path.
    #[napi]
    pub fn hard_link(
        &self,
        target: String,
        path: String,
        later: bool,
    ) -> napi::Result<Outcome<()>> {
        self.write_with(later, move |branch| branch.hard_link(target, path))
    }

    #[napi]
    pub fn import(
        &self,
        source: String,
        to: String,
        exclude: Vec<String>,
        delete: bool,
        task: &TaskHandle,
        later: bool,
    ) -> napi::Result<Outcome<ImportInfo>> {
        let task = task.task();
        self.work_with(later, move |tree| {
            let branch = tree.branch()?;
            let options = ImportOptions::new().delete(delete);
            let options = exclude.into_iter().fold(options, ImportOptions::exclude);
            let done = branch.import(source, to, &options, &task)?;
            let skipped = done.skipped.into_iter().map(|skipped| SkippedInfo {
                path: skipped.path.to_string_lossy().into_owned(),
                reason: skipped.reason,
            });
            Ok(ImportInfo {
                files: done.files as f64,
                dirs: done.dirs as f64,
                symlinks: done.symlinks as f64,
                bytes: done.bytes as f64,
                unchanged: done.unchanged as f64,
                unchanged_files: done.unchanged_files as f64,
                files_read: done.files_read as f64,
                bytes_read: done.bytes_read as f64,
                removed: done.removed as f64,
                skipped: skipped.collect(),
            })
        })
    }

    #[napi]
    pub fn batch(&self) -> napi::Result<BatchHandle> {
        now(|| {
            let batch = self.source.get()?.branch()?.batch();
            Ok(self.source.with("batch", Mutex::new(batch)).into())
        })
    }

    #[napi]
    pub fn open_session(
        &self,
        path: String,
        options: SessionOptions,
        later: bool,
    ) -> napi::Result<Outcome<SessionHandle>> {
        let lane = Some(self.source.writes());
        self.make("session", lane, later, move |source| {
            source
                .branch()?
                .open_session(&path, &options.clone().options()?)
        })
    }

    /// Lists the open sessions of the branch.
    #[napi]
    pub fn sessions(&self, later: bool) -> napi::Result<Outcome<Vec<SessionInfo>>> {
        self.read_with(later, |source| {
            let sessions = source.branch()?.sessions()?.into_iter();
            Ok(sessions.map(SessionInfo::from).collect())
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
    pub fn copy(
        &self,
        from: String,
        to: String,
        replace: bool,
        touch: bool,
        later: bool,
    ) -> napi::Result<Outcome<f64>> {
        self.write_with(later, move |branch| {
            let count = match (touch, replace) {
                (true, _) => branch.copy_touched(from, to, replace),
                (false, true) => branch.copy(from, to),
                (false, false) => branch.copy_new(from, to),
            };
            count.map(|count| count as f64)
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
        self.rewrite_with(later, move |branch| branch.truncate(&path, length(size)?))
    }
}

/// Contents that are elsewhere, and conflicts.
#[napi]
impl Tree {
    /// Gives the branch with another time that reads wait, in milliseconds.
    #[napi]
    pub fn fetching(&self, timeout: Option<f64>) -> napi::Result<Tree> {
        now(|| {
            let timeout = timeout.map(patience).transpose()?;
            let source = self.source.get()?;
            let branch = source.branch()?.fetching(&waiting::fetching(timeout));
            Ok(Self::new(&self.source, Source::Branch(branch)))
        })
    }

    #[napi]
    pub fn fetch(
        &self,
        path: String,
        task: &TaskHandle,
        later: bool,
    ) -> napi::Result<Outcome<FetchInfo>> {
        let (task, source) = (task.task(), self.source.clone());
        run_on(Lane::waiting(), later, move || {
            let report = source.get()?.view()?.fetch(path, &task)?;
            Ok(FetchInfo::from(report))
        })
    }

    #[napi]
    pub fn conflicts(&self, later: bool) -> napi::Result<Outcome<Vec<ConflictInfo>>> {
        self.read_with(later, |source| {
            let conflicts = source.branch()?.conflicts()?.into_iter();
            Ok(conflicts.map(ConflictInfo::from).collect())
        })
    }

    /// Keeps what is shown, both, or the other at a place.
    #[napi]
    pub fn resolve(
        &self,
        path: String,
        keep: Either<String, f64>,
        later: bool,
    ) -> napi::Result<Outcome<Vec<String>>> {
        let source = self.source.clone();
        run_reading(Some(self.source.writes()), later, move || {
            let done = source.get()?.branch()?.resolve(&path, keeps(&keep)?)?;
            let beside = done.beside.iter();
            Ok(beside.map(|path| path.as_str().to_owned()).collect())
        })
    }
}

/// What is known of a snapshot.
#[napi(object)]
pub struct SnapshotInfo {
    pub name: String,
    pub created: BigInt,
}

/// Branches and snapshots.
#[napi]
impl Tree {
    #[napi]
    pub fn name(&self) -> napi::Result<String> {
        now(|| self.source.get()?.branch()?.name())
    }

    #[napi]
    pub fn info(&self, later: bool) -> napi::Result<Outcome<BranchFacts>> {
        self.read_with(later, |source| {
            source.branch()?.info().map(BranchFacts::from)
        })
    }

    /// The bucket that the branch is in.
    #[napi]
    pub fn bucket(&self) -> napi::Result<BucketHandle> {
        now(|| {
            let bucket = self.source.get()?.branch()?.bucket();
            Ok(self.source.with("bucket", bucket).into())
        })
    }

    #[napi]
    pub fn fork(
        &self,
        snapshot: Option<String>,
        name: String,
        later: bool,
    ) -> napi::Result<Outcome<Tree>> {
        self.make_tree(later, move |branch| match snapshot {
            None => branch.fork(&name),
            Some(snapshot) => branch.fork_at(&snapshot, &name),
        })
    }

    #[napi]
    pub fn view(&self, snapshot: Option<String>, later: bool) -> napi::Result<Outcome<Tree>> {
        self.make_tree(later, move |branch| match snapshot {
            None => branch.view(),
            Some(snapshot) => branch.view_at(&snapshot),
        })
    }

    #[napi]
    pub fn snapshot(&self, name: String, later: bool) -> napi::Result<Outcome<()>> {
        self.write_with(later, move |branch| branch.snapshot(&name).map(drop))
    }

    #[napi]
    pub fn snapshots(&self, later: bool) -> napi::Result<Outcome<Vec<SnapshotInfo>>> {
        self.read_with(later, move |source| {
            let snapshots = source.branch()?.snapshots()?.into_iter();
            let snapshots = snapshots.map(|snapshot| SnapshotInfo {
                name: snapshot.name,
                created: snapshot.created.0.into(),
            });
            Ok(snapshots.collect())
        })
    }

    #[napi]
    pub fn rename_snapshot(
        &self,
        name: String,
        to: String,
        later: bool,
    ) -> napi::Result<Outcome<()>> {
        self.write_with(later, move |branch| branch.rename_snapshot(&name, &to))
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
