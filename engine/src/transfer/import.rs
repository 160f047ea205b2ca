//! Importing a directory of the operating system's filesystem.
//!
//! One thread walks the source, several read and hash files, and the calling thread commits batches;
//! where there can be no more threads, it does everything.
//! What was read is recorded per source directory (size, times, inode and hash of each file), so a
//! later import reads only files that may have changed since.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{io, thread};

use alknet_fs_content::Prepared;
use alknet_fs_core::edit::{Editor, PutMode, SetAttrs};
use alknet_fs_core::event::glob_set;
use alknet_fs_core::store::{Durability, ReadTxn};
use alknet_fs_core::tree::Follow;
use alknet_fs_core::{Entry, Error, ErrorKind, Hash, Result, Timestamp, TreePath};
use crossbeam_channel::{Receiver, SendError, Sender, bounded, unbounded};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::branch::Branch;
use crate::progress::{Progress, Task};
use crate::store::{Inner, IntoPath, now};
use crate::view::View;

use super::{spawn, workers};

/// How to import a directory.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    exclude: Vec<String>,
    delete: bool,
}

impl ImportOptions {
    /// Creates the default options: import everything, delete nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves out what matches a pattern, directories with all below them. Patterns are those of
    /// [`EventFilter::globs`](crate::EventFilter::globs), relative to the imported directory.
    #[must_use]
    pub fn exclude(mut self, pattern: impl Into<String>) -> Self {
        self.exclude.push(pattern.into());
        self
    }

    /// Sets whether entries that the source lacks are removed from the branch. What is excluded is
    /// neither imported nor removed.
    #[must_use]
    pub fn delete(mut self, delete: bool) -> Self {
        self.delete = delete;
        self
    }
}

/// Something that could not be imported, while the rest was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Where it is.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// What an import did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImportReport {
    /// Regular files in the source, those not counted that were left out.
    pub files: u64,
    /// Directories in the source, the imported one not counted.
    pub dirs: u64,
    /// Symbolic links in the source.
    pub symlinks: u64,
    /// Bytes in the source's regular files.
    pub bytes: u64,
    /// Entries that were already as in the source.
    pub unchanged: u64,
    /// Of these, regular files.
    pub unchanged_files: u64,
    /// Files whose bytes were read.
    pub files_read: u64,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Entries removed because the source lacks them.
    pub removed: u64,
    /// What was left out because it cannot be represented or read, or is the store itself.
    pub skipped: Vec<Skipped>,
}

/// What a commit holds at most, so that memory stays bounded and other writers get their turn.
const BATCH_CHANGES: usize = 1024;
const BATCH_BYTES: u64 = 8 << 20;

/// What a worker takes at a time at most, all from one directory: enough to make the hand-over cheap.
const PART_FILES: usize = 64;
const PART_BYTES: u64 = 2 << 20;

/// A file that changed this shortly before it was read may change again within one tick of the
/// filesystem's clock, unnoticed by its times; it is not recorded, and so read again next time.
const RACY: i64 = 100_000_000;

const RECORD_SCOPE: &str = "import";

/// What was known of a source file when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    name: String,
    stamp: Stamp,
    hash: Hash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp(u64, i64, i64, u64);

/// One step of the import, in an order in which directories precede what is in them.
enum Step {
    /// A directory was listed.
    Dir(DirListed),
    /// Files of one directory were read, or could not be.
    Files {
        dir: PathBuf,
        /// What was left out comes with the size it was counted with.
        reads: Vec<Result<FileRead, (Skipped, u64)>>,
        contents: Vec<Prepared>,
    },
    /// Something was left out.
    Skipped(Skipped),
    /// The walk, or a worker, failed.
    Failed(Error),
}

/// A directory's changes that need no reading, and how many files will follow.
struct DirListed {
    source: PathBuf,
    changes: Vec<Change>,
    known: Vec<Record>,
    reading: usize,
    unchanged: u64,
    unchanged_files: u64,
}

struct FileRead {
    change: Change,
    size: u64,
    record: Option<Record>,
}

/// A directory still to be walked: where it is, where it goes, its path below the imported one, and
/// what happens to it itself.
type Child = (PathBuf, TreePath, String, Change);

enum Change {
    None,
    Mkdir(TreePath, SetAttrs),
    SetAttrs(TreePath, SetAttrs),
    Symlink(TreePath, String, SetAttrs),
    /// A file of a known content, replacing what is there where `replace` says so.
    Put {
        path: TreePath,
        hash: Hash,
        size: u64,
        set: SetAttrs,
        unlink_first: bool,
        /// The source, where it was not read because the store held its content already.
        unread: Option<PathBuf>,
    },
    Remove(TreePath),
}

struct Job {
    dir: PathBuf,
    name: String,
    path: TreePath,
    stamp: Stamp,
    set: SetAttrs,
    /// The file that the branch has there.
    old: Option<Entry>,
    unlink_first: bool,
}

#[derive(Default)]
struct Totals {
    files: AtomicU64,
    dirs: AtomicU64,
    symlinks: AtomicU64,
    bytes: AtomicU64,
}

impl Branch {
    /// Imports a directory, with modes, owners, times and symbolic links, at a path, which is made
    /// if it is missing.
    ///
    /// The import is committed in batches: after an error or a cancellation, what was committed
    /// before stays, and importing again continues from there. Sockets, devices and names that are
    /// not UTF-8 are left out and reported. The store's own directory is left out where it lies in
    /// the source.
    ///
    /// # Errors
    /// [`ErrorKind::NotADirectory`] or [`ErrorKind::NotFound`] for the source;
    /// [`ErrorKind::InvalidInput`] where the source lies in the store's own directory;
    /// [`ErrorKind::Cancelled`]; the store's own.
    pub fn import(
        &self,
        source: impl AsRef<Path>,
        to: impl IntoPath,
        options: &ImportOptions,
        task: &Task,
    ) -> Result<ImportReport> {
        let source = source.as_ref();
        let to = to.into_path().map_err(|e| e.op("import"))?;
        let span = tracing::info_span!("import", source = %source.display(), to = %to);
        let _entered = span.enter();
        let fail = |e: Error| e.op("import").path(source.display());
        let source = fs::canonicalize(source).map_err(|e| fail(e.into()))?;
        let meta = fs::metadata(&source).map_err(|e| fail(e.into()))?;
        if !meta.is_dir() {
            return Err(fail(ErrorKind::NotADirectory.into()));
        }
        let store = self.inner.disk.as_ref();
        let store = store.and_then(|disk| fs::canonicalize(&disk.path).ok());
        if store.as_ref().is_some_and(|own| source.starts_with(own)) {
            let detail = "the source is the store itself";
            return Err(fail(Error::with_detail(ErrorKind::InvalidInput, detail)));
        }
        let exclude = glob_set(&options.exclude).map_err(|e| e.op("import"))?;
        self.mkdir_all(&to)?;
        let to = self.view()?.canonicalize(&to)?;
        let totals = Totals::default();
        let (steps, received) = bounded::<Step>(64);
        let (jobs, queue) = bounded::<Vec<Job>>(16);
        let walk = Walker {
            view: self.view()?,
            store,
            exclude,
            delete: options.delete,
            totals: &totals,
            task,
            steps: steps.clone(),
            jobs,
        };
        let walker = Mutex::new(Some(walk));
        let mut committer = Committer::new(self, &totals, task);
        // When the committer returns early, its end of the channel closes; the walker's and the
        // workers' sends fail then, and they end.
        thread::scope(|scope| {
            let readers = (0..workers()).map_while(|_| {
                let (steps, queue) = (steps.clone(), queue.clone());
                spawn(scope, "read", || read_files(self, queue, steps, task)).ok()
            });
            let can_walk = readers.count() > 0
                && spawn(scope, "walk", || {
                    let walk = walker.lock().take();
                    if let Some(walk) = walk {
                        walk.run(&source, &to, &meta);
                    }
                })
                .is_ok();
            // Only the workers hold the other ends: when they are gone, so is the walker's reason to go on.
            drop((steps, queue));
            if can_walk {
                for step in received {
                    committer.accept(step)?;
                }
                return committer.finish();
            }
            match walker.lock().take() {
                Some(walk) => walk.import_alone(self, &source, &to, &meta, committer),
                None => committer.finish(),
            }
        })
        .map_err(|e| e.op("import"))
    }
}

/// Walks the source and compares it with what the branch has and what was recorded.
struct Walker<'a> {
    view: View,
    /// The store's own directory.
    store: Option<PathBuf>,
    exclude: globset::GlobSet,
    delete: bool,
    totals: &'a Totals,
    task: &'a Task,
    steps: Sender<Step>,
    jobs: Sender<Vec<Job>>,
}

/// What comparing one directory came to.
struct Compared {
    step: Step,
    jobs: Vec<Job>,
    children: Vec<Child>,
    skipped: Vec<Skipped>,
}

/// The receiver is gone: the import has failed already.
struct Stopped;

impl From<SendError<Step>> for Stopped {
    fn from(_: SendError<Step>) -> Self {
        Self
    }
}

impl From<SendError<Vec<Job>>> for Stopped {
    fn from(_: SendError<Vec<Job>>) -> Self {
        Self
    }
}

impl Walker<'_> {
    fn run(&self, source: &Path, to: &TreePath, meta: &Metadata) {
        // A source may be large, and its directories deep: no recursion.
        let mut pending = vec![self.first(source, to, meta)];
        while let Some((source, to, rel, own)) = pending.pop() {
            match self.directory(&source, &to, &rel, own) {
                Ok(children) => pending.extend(children.into_iter().rev()),
                Err(Stopped) => return,
            }
        }
    }

    /// Imports on this thread alone, one directory after the other.
    fn import_alone(
        mut self,
        branch: &Branch,
        source: &Path,
        to: &TreePath,
        meta: &Metadata,
        mut committer: Committer<'_>,
    ) -> Result<ImportReport> {
        let (steps, received) = unbounded();
        let (jobs, queue) = unbounded();
        (self.steps, self.jobs) = (steps, jobs);
        let mut pending = vec![self.first(source, to, meta)];
        while let Some((source, to, rel, own)) = pending.pop() {
            // Where it stopped, the reason is among the steps.
            let children = self.directory(&source, &to, &rel, own).unwrap_or_default();
            pending.extend(children.into_iter().rev());
            for step in received.try_iter() {
                committer.accept(step)?;
            }
            for part in queue.try_iter() {
                committer.accept(read_part(branch, part, self.task)?)?;
            }
        }
        committer.finish()
    }

    fn first(&self, source: &Path, to: &TreePath, meta: &Metadata) -> Child {
        let set = attrs_of(meta);
        let same = matches!(self.view.lstat(to), Ok(entry) if has_attrs(&entry, &set));
        let first = if same {
            Change::None
        } else {
            Change::SetAttrs(to.clone(), set)
        };
        (source.to_owned(), to.clone(), String::new(), first)
    }

    fn directory(
        &self,
        source: &Path,
        to: &TreePath,
        rel: &str,
        own: Change,
    ) -> Result<Vec<Child>, Stopped> {
        match self.compare(source, to, rel, own) {
            Ok(Compared {
                step,
                jobs,
                children,
                skipped,
            }) => {
                for skipped in skipped {
                    self.steps.send(Step::Skipped(skipped))?;
                }
                self.steps.send(step)?;
                let mut part = Vec::new();
                let mut bytes = 0;
                for job in jobs {
                    bytes += job.stamp.0;
                    part.push(job);
                    if part.len() >= PART_FILES || bytes >= PART_BYTES {
                        self.jobs.send(std::mem::take(&mut part))?;
                        bytes = 0;
                    }
                }
                if !part.is_empty() {
                    self.jobs.send(part)?;
                }
                Ok(children)
            }
            Err(error) => {
                self.steps.send(Step::Failed(error))?;
                Err(Stopped)
            }
        }
    }

    fn compare(&self, source: &Path, to: &TreePath, rel: &str, own: Change) -> Result<Compared> {
        self.task.cancel().check()?;
        let mut skipped = Vec::new();
        let mut changes = vec![own];
        let mut known = Vec::new();
        let mut jobs = Vec::new();
        let mut children = Vec::new();
        let mut unchanged = 0;
        let mut unchanged_files = 0;
        // A directory that is yet to be made has nothing in it.
        let mut present: HashMap<Box<str>, Entry> = match self.view.list(to) {
            Ok(entries) => entries.into_iter().map(|e| (e.name, e.entry)).collect(),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                HashMap::new()
            }
            Err(e) => return Err(e),
        };
        let recorded = self.recorded(source)?;
        let mut names = Vec::new();
        let items = match fs::read_dir(source) {
            Ok(items) => items,
            // One that cannot be read is left out, and what the branch has there stays.
            Err(e) if !rel.is_empty() && is_passable(&e) => {
                skipped.push(Skipped {
                    path: source.to_owned(),
                    reason: Error::from(e).detail().to_owned(),
                });
                let step = Step::Dir(DirListed {
                    source: source.to_owned(),
                    changes,
                    known,
                    reading: 0,
                    unchanged,
                    unchanged_files,
                });
                return Ok(Compared {
                    step,
                    jobs,
                    children,
                    skipped,
                });
            }
            Err(e) => return Err(host(e, source)),
        };
        for item in items {
            let item = item.map_err(|e| host(e, source))?;
            match item.file_name().into_string() {
                Ok(name) => names.push(name),
                Err(_) => skipped.push(Skipped {
                    path: item.path(),
                    reason: "the name is not valid UTF-8".to_owned(),
                }),
            }
        }
        names.sort_unstable();
        for name in names {
            let inside = match rel {
                "" => name.clone(),
                rel => format!("{rel}/{name}"),
            };
            let here = source.join(&name);
            let old = present.remove(name.as_str());
            if self.exclude.is_match(&inside) {
                continue;
            }
            if self.store.as_ref() == Some(&here) {
                let reason = "it is the store itself".to_owned();
                skipped.push(Skipped { path: here, reason });
                continue;
            }
            let path = match to.join(&name) {
                Ok(path) => path,
                Err(e) => {
                    let reason = e.detail().to_owned();
                    skipped.push(Skipped { path: here, reason });
                    continue;
                }
            };
            let meta = match fs::symlink_metadata(&here) {
                Ok(meta) => meta,
                // It went away after it was listed.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) if is_passable(&e) => {
                    let reason = Error::from(e).detail().to_owned();
                    skipped.push(Skipped { path: here, reason });
                    continue;
                }
                Err(e) => return Err(host(e, &here)),
            };
            let set = attrs_of(&meta);
            let kind = meta.file_type();
            if kind.is_dir() {
                self.totals.dirs.fetch_add(1, Ordering::Relaxed);
                let own = match old {
                    Some(old) if old.is_dir() && has_attrs(&old, &set) => {
                        unchanged += 1;
                        Change::None
                    }
                    Some(old) if old.is_dir() => Change::SetAttrs(path.clone(), set),
                    Some(_) => {
                        changes.push(Change::Remove(path.clone()));
                        Change::Mkdir(path.clone(), set)
                    }
                    None => Change::Mkdir(path.clone(), set),
                };
                children.push((here, path, inside, own));
            } else if kind.is_symlink() {
                let text = match fs::read_link(&here) {
                    Ok(text) => text,
                    Err(e) if is_passable(&e) || e.kind() == io::ErrorKind::InvalidInput => {
                        let reason = "it changed while it was imported".to_owned();
                        skipped.push(Skipped { path: here, reason });
                        continue;
                    }
                    Err(e) => return Err(host(e, &here)),
                };
                let Some(text) = text.to_str() else {
                    let reason = "the link's text is not valid UTF-8".to_owned();
                    skipped.push(Skipped { path: here, reason });
                    continue;
                };
                self.totals.symlinks.fetch_add(1, Ordering::Relaxed);
                match old {
                    Some(old) if old.target() == Some(text) && has_attrs(&old, &set) => {
                        unchanged += 1;
                        continue;
                    }
                    Some(_) => changes.push(Change::Remove(path.clone())),
                    None => {}
                }
                changes.push(Change::Symlink(path, text.to_owned(), set));
            } else if kind.is_file() {
                self.totals.files.fetch_add(1, Ordering::Relaxed);
                self.totals.bytes.fetch_add(meta.len(), Ordering::Relaxed);
                let stamp = stamp_of(&meta);
                if old.as_ref().is_some_and(Entry::is_dir) {
                    changes.push(Change::Remove(path.clone()));
                }
                let unlink_first = old.as_ref().is_some_and(Entry::is_symlink);
                let old = old.filter(Entry::is_file);
                let record = recorded.get(&name).filter(|r| r.stamp == stamp);
                match record {
                    Some(record) if self.has_content(record.hash)? => {
                        let hash = record.hash;
                        known.push(record.clone());
                        match old {
                            Some(old) if old.hash() == Some(hash) && has_attrs(&old, &set) => {
                                unchanged += 1;
                                unchanged_files += 1;
                            }
                            Some(old) if old.hash() == Some(hash) => {
                                changes.push(Change::SetAttrs(path, set));
                            }
                            _ => changes.push(Change::Put {
                                path,
                                hash,
                                size: meta.len(),
                                set,
                                unlink_first,
                                unread: Some(here),
                            }),
                        }
                    }
                    _ => jobs.push(Job {
                        dir: source.to_owned(),
                        name,
                        path,
                        stamp,
                        set,
                        old,
                        unlink_first,
                    }),
                }
            } else {
                skipped.push(Skipped {
                    path: here,
                    reason: "neither a file, a directory nor a symbolic link".to_owned(),
                });
            }
        }
        if self.delete {
            let mut gone: Vec<_> = present.into_keys().collect();
            gone.sort_unstable();
            for name in gone {
                let inside = match rel {
                    "" => name.to_string(),
                    rel => format!("{rel}/{name}"),
                };
                if !self.exclude.is_match(&inside) {
                    changes.push(Change::Remove(to.join(&name)?));
                }
            }
        }
        let step = Step::Dir(DirListed {
            source: source.to_owned(),
            changes,
            known,
            reading: jobs.len(),
            unchanged,
            unchanged_files,
        });
        Ok(Compared {
            step,
            jobs,
            children,
            skipped,
        })
    }

    /// Tells whether the store still holds a recorded content.
    fn has_content(&self, hash: Hash) -> Result<bool> {
        self.view.with(|txn, _| txn.has_content(&hash))
    }

    fn recorded(&self, source: &Path) -> Result<HashMap<String, Record>> {
        let key = source.to_string_lossy();
        let value = self.view.with(|txn, _| txn.value(RECORD_SCOPE, &key))?;
        let records: Vec<Record> = value
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default();
        Ok(records.into_iter().map(|r| (r.name.clone(), r)).collect())
    }
}

/// Reads and hashes files until there are no more jobs.
fn read_files(branch: &Branch, queue: Receiver<Vec<Job>>, steps: Sender<Step>, task: &Task) {
    for part in queue {
        let step = read_part(branch, part, task).unwrap_or_else(Step::Failed);
        if steps.send(step).is_err() {
            return;
        }
    }
}

fn read_part(branch: &Branch, part: Vec<Job>, task: &Task) -> Result<Step> {
    let dir = part.first().map(|job| job.dir.clone()).unwrap_or_default();
    let mut reads = Vec::with_capacity(part.len());
    let mut contents = Vec::with_capacity(part.len());
    for job in part {
        task.cancel().check()?;
        let len = job.stamp.0;
        reads.push(match read_file(branch, job)? {
            Ok((read, prepared)) => {
                contents.push(prepared);
                Ok(read)
            }
            Err(skipped) => Err((skipped, len)),
        });
    }
    // Here the disk is waited for beside the other worker and the committer.
    branch.inner.contents.sync(&mut contents)?;
    Ok(Step::Files {
        dir,
        reads,
        contents,
    })
}

fn read_file(branch: &Branch, job: Job) -> Result<Result<(FileRead, Prepared), Skipped>> {
    let Job {
        dir,
        name,
        path,
        mut stamp,
        mut set,
        old,
        unlink_first,
    } = job;
    let here = dir.join(&name);
    let mut read = || -> Result<(Prepared, bool)> {
        // A file that is written to while it is read is read once more, to get a version that was
        // once there as a whole; whether it was, cannot be known, so it is not recorded.
        let mut steady = false;
        let mut prepared = None;
        for _ in 0..2 {
            let (mut file, meta) = open_file(&here)?;
            (stamp, set) = (stamp_of(&meta), attrs_of(&meta));
            let contents = &branch.inner.contents;
            let content = contents.prepare_read(&mut file, Some(meta.len()), false)?;
            let after = file.metadata().map_err(|e| host(e, &here))?;
            steady = stamp_of(&after) == stamp && content.size() == meta.len();
            prepared = Some(content);
            if steady {
                break;
            }
        }
        let prepared = prepared.ok_or(ErrorKind::Io)?;
        Ok((prepared, steady))
    };
    Ok(match read() {
        Ok((prepared, steady)) => {
            let settled = steady && now().0 - stamp.2.max(stamp.1) > RACY;
            let (hash, size) = (prepared.hash(), prepared.size());
            let change = match old.filter(|old| old.hash() == Some(hash)) {
                Some(old) if has_attrs(&old, &set) => Change::None,
                Some(_) => Change::SetAttrs(path, set),
                None => Change::Put {
                    path,
                    hash,
                    size,
                    set,
                    unlink_first,
                    unread: None,
                },
            };
            let record = settled.then_some(Record { name, stamp, hash });
            let read = FileRead {
                change,
                size,
                record,
            };
            Ok((read, prepared))
        }
        Err(e) => Err(passable(e, &here)?),
    })
}

/// Makes what is left out of an error that concerns one file only.
fn passable(error: Error, path: &Path) -> Result<Skipped> {
    let reason = match error.kind() {
        ErrorKind::NotFound => "it went away while it was imported",
        ErrorKind::PermissionDenied | ErrorKind::Unsupported => error.detail(),
        _ => return Err(error.op("import").path(path.display())),
    };
    Ok(Skipped {
        path: path.to_owned(),
        reason: reason.to_owned(),
    })
}

/// Opens what was a regular file when it was listed, neither following a link nor waiting for a pipe
/// that may have taken its place since.
///
/// # Errors
/// [`ErrorKind::Unsupported`] where it is no regular file any more.
fn open_file(path: &Path) -> Result<(File, Metadata)> {
    let changed = || Error::with_detail(ErrorKind::Unsupported, "it is no regular file any more");
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.custom_flags(flags.bits().cast_signed());
    }
    let file = match options.open(path) {
        #[cfg(unix)]
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(changed());
        }
        opened => opened.map_err(|e| host(e, path))?,
    };
    let meta = file.metadata().map_err(|e| host(e, path))?;
    if meta.is_file() {
        Ok((file, meta))
    } else {
        Err(changed())
    }
}

/// Collects changes and commits them in batches.
struct Committer<'a> {
    branch: &'a Branch,
    totals: &'a Totals,
    task: &'a Task,
    report: ImportReport,
    changes: Vec<Change>,
    contents: Vec<Prepared>,
    content_bytes: u64,
    /// Directories whose files are not all read yet.
    reading: HashMap<PathBuf, (usize, Vec<Record>)>,
    /// Records of directories that are complete, to be stored with the next commit.
    complete: Vec<(PathBuf, Vec<Record>)>,
    /// Whether a directory was taken.
    began: bool,
    done: u64,
    done_bytes: u64,
}

impl<'a> Committer<'a> {
    fn new(branch: &'a Branch, totals: &'a Totals, task: &'a Task) -> Self {
        Self {
            branch,
            totals,
            task,
            report: ImportReport::default(),
            changes: Vec::new(),
            contents: Vec::new(),
            content_bytes: 0,
            reading: HashMap::new(),
            complete: Vec::new(),
            began: false,
            done: 0,
            done_bytes: 0,
        }
    }

    /// Takes a step, and commits once there is enough to commit.
    fn accept(&mut self, step: Step) -> Result<()> {
        self.take(step)?;
        if self.changes.len() >= BATCH_CHANGES || self.content_bytes >= BATCH_BYTES {
            self.flush(Durability::Relaxed)?;
            self.task.step(self.progress())?;
        }
        Ok(())
    }

    /// Returns what is committed, as far as it is called right after a commit.
    fn progress(&self) -> Progress {
        let total = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let total_files =
            total(&self.totals.files) + total(&self.totals.dirs) + total(&self.totals.symlinks);
        Progress {
            files: self.done,
            total_files,
            bytes: self.done_bytes,
            total_bytes: 0,
        }
    }

    /// Takes a file out of the sums that was left out after all.
    fn leave_out(&mut self, skipped: Skipped, len: u64) {
        self.totals.files.fetch_sub(1, Ordering::Relaxed);
        self.totals.bytes.fetch_sub(len, Ordering::Relaxed);
        self.report.skipped.push(skipped);
    }

    fn finish(mut self) -> Result<ImportReport> {
        // The last commit takes those before it along.
        self.flush(self.branch.inner.options.durability)?;
        // Who cancels now comes too late.
        let _ = self.task.step(self.progress());
        let total = |n: &AtomicU64| n.load(Ordering::Relaxed);
        self.report.files = total(&self.totals.files);
        self.report.dirs = total(&self.totals.dirs);
        self.report.symlinks = total(&self.totals.symlinks);
        self.report.bytes = total(&self.totals.bytes);
        Ok(self.report)
    }

    fn take(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Failed(error) => return Err(error),
            Step::Skipped(skipped) => self.report.skipped.push(skipped),
            Step::Dir(DirListed {
                source,
                changes,
                known,
                reading,
                unchanged,
                unchanged_files,
            }) => {
                self.report.unchanged += unchanged;
                self.report.unchanged_files += unchanged_files;
                self.done += unchanged;
                // The first is the imported directory itself, which is not counted.
                let before = self.done;
                let own = usize::from(!std::mem::replace(&mut self.began, true));
                let mut changes = changes.into_iter();
                for change in changes.by_ref().take(own) {
                    self.push(change);
                    self.done = before;
                }
                for change in changes {
                    self.push(change);
                }
                if reading == 0 {
                    self.complete.push((source, known));
                } else {
                    self.reading.insert(source, (reading, known));
                }
            }
            Step::Files {
                dir,
                reads,
                contents,
            } => {
                let count = reads.len();
                self.contents.extend(contents);
                let mut records = Vec::with_capacity(count);
                for read in reads {
                    match read {
                        Ok(read) => {
                            self.report.files_read += 1;
                            self.report.bytes_read += read.size;
                            self.content_bytes += read.size;
                            self.done_bytes += read.size;
                            if matches!(read.change, Change::None) {
                                self.report.unchanged += 1;
                                self.report.unchanged_files += 1;
                                self.done += 1;
                            }
                            self.push(read.change);
                            records.extend(read.record);
                        }
                        Err((skipped, len)) => self.leave_out(skipped, len),
                    }
                }
                if let Some((left, known)) = self.reading.get_mut(&dir) {
                    *left -= count;
                    known.extend(records);
                    if *left == 0
                        && let Some((_, records)) = self.reading.remove(&dir)
                    {
                        self.complete.push((dir, records));
                    }
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, change: Change) {
        // What is removed is none of the source's entries.
        self.done += u64::from(!matches!(change, Change::None | Change::Remove(_)));
        if !matches!(change, Change::None) {
            self.changes.push(change);
        }
    }

    fn flush(&mut self, durability: Durability) -> Result<()> {
        let inner = &self.branch.inner;
        let mut contents = std::mem::take(&mut self.contents);
        self.content_bytes = 0;
        let mut txn = loop {
            let txn = inner.tree.write(durability)?;
            let mut collected = Vec::new();
            for (at, change) in self.changes.iter().enumerate() {
                if change.is_collected(&*txn)? {
                    collected.push(at);
                }
            }
            if collected.is_empty() {
                break txn;
            }
            // Others go on writing while files are read.
            drop(txn);
            for at in collected {
                match self.changes[at].read(inner)? {
                    Ok(prepared) => contents.push(prepared),
                    Err(skipped) => {
                        let gone = std::mem::replace(&mut self.changes[at], Change::None);
                        let len = match gone {
                            Change::Put { size, .. } => size,
                            _ => 0,
                        };
                        self.done -= 1;
                        self.leave_out(skipped, len);
                    }
                }
            }
        };
        let chain = inner.chain(&*txn, self.branch.id)?;
        let mut editor = Editor::new(&mut *txn, &chain, inner.context());
        inner.commit_contents(&mut editor, &mut contents)?;
        for change in self.changes.drain(..) {
            if let Change::Remove(_) = &change {
                self.report.removed += 1;
            }
            change.apply(&mut editor)?;
        }
        editor.finish(None)?;
        for (dir, records) in self.complete.drain(..) {
            let value =
                serde_json::to_vec(&records).map_err(|e| Error::new(ErrorKind::Io).source(e))?;
            let value = (!records.is_empty()).then_some(value);
            txn.set_value(RECORD_SCOPE, &dir.to_string_lossy(), value.as_deref())?;
        }
        txn.commit()
    }
}

impl Change {
    /// Tells whether the content that was there when the import looked was collected as garbage
    /// since.
    fn is_collected(&self, txn: &dyn ReadTxn) -> Result<bool> {
        match self {
            Self::Put {
                hash,
                unread: Some(_),
                ..
            } => Ok(!txn.has_content(hash)?),
            _ => Ok(false),
        }
    }

    /// Reads a file after all.
    fn read(&mut self, inner: &Inner) -> Result<Result<Prepared, Skipped>> {
        let Self::Put {
            hash, size, unread, ..
        } = self
        else {
            return Err(ErrorKind::InvalidInput.into());
        };
        let here = unread.take().ok_or(ErrorKind::InvalidInput)?;
        let read = open_file(&here).and_then(|(mut file, _)| {
            let contents = &inner.contents;
            contents.prepare_read(&mut file, Some(*size), true)
        });
        match read {
            Ok(prepared) => {
                (*hash, *size) = (prepared.hash(), prepared.size());
                Ok(Ok(prepared))
            }
            Err(e) => passable(e, &here).map(Err),
        }
    }

    fn apply(self, editor: &mut Editor<'_>) -> Result<()> {
        match self {
            Self::None => Ok(()),
            // Others may write to the branch meanwhile: what is there already as it shall be, or is
            // gone already, is no failure.
            Self::Mkdir(path, set) => match editor.mkdir(&path, &set) {
                Err(e) if e.is_already_exists() => editor.set_attrs(&path, &set, Follow::No),
                result => result,
            },
            Self::SetAttrs(path, set) => or_gone(editor.set_attrs(&path, &set, Follow::No)),
            Self::Symlink(path, text, set) => match editor.symlink(&path, &text, &set) {
                Err(e) if e.is_already_exists() => {
                    editor.remove_all(&path)?;
                    editor.symlink(&path, &text, &set)
                }
                result => result,
            },
            Self::Remove(path) => or_gone(editor.remove_all(&path).map(drop)),
            Self::Put {
                path,
                hash,
                size,
                set,
                unlink_first,
                unread: _,
            } => {
                if unlink_first {
                    or_gone(editor.unlink(&path))?;
                }
                let mode = PutMode::CreateOrReplace;
                editor.put_file(&path, hash, size, &set, mode).map(drop)
            }
        }
    }
}

/// Takes what is not there to be removed or changed any more for done.
fn or_gone(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.is_not_found() => Ok(()),
        result => result,
    }
}

/// Tells whether an error concerns one entry of the source only, not the import.
fn is_passable(error: &io::Error) -> bool {
    use io::ErrorKind as Os;
    matches!(
        error.kind(),
        Os::NotFound | Os::PermissionDenied | Os::NotADirectory
    )
}

fn has_attrs(entry: &Entry, set: &SetAttrs) -> bool {
    let a = &entry.attrs;
    *set == SetAttrs {
        mode: Some(a.mode),
        uid: Some(a.uid),
        gid: Some(a.gid),
        mtime: Some(a.mtime),
    }
}

fn host(error: io::Error, path: &Path) -> Error {
    Error::from(error).op("import").path(path.display())
}

#[cfg(unix)]
fn attrs_of(meta: &Metadata) -> SetAttrs {
    use std::os::unix::fs::MetadataExt;
    SetAttrs {
        mode: Some(meta.mode() & alknet_fs_core::edit::MODE_MASK),
        uid: Some(meta.uid()),
        gid: Some(meta.gid()),
        mtime: Some(Timestamp(nanos(meta.mtime(), meta.mtime_nsec()))),
    }
}

#[cfg(unix)]
fn stamp_of(meta: &Metadata) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    Stamp(
        meta.len(),
        nanos(meta.mtime(), meta.mtime_nsec()),
        nanos(meta.ctime(), meta.ctime_nsec()),
        meta.ino(),
    )
}

#[cfg(unix)]
fn nanos(seconds: i64, nanos: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(not(unix))]
fn attrs_of(meta: &Metadata) -> SetAttrs {
    let mode = match (meta.is_dir(), meta.permissions().readonly()) {
        (true, _) => 0o755,
        (false, true) => 0o444,
        (false, false) => 0o644,
    };
    SetAttrs {
        mode: Some(mode),
        uid: Some(0),
        gid: Some(0),
        mtime: Some(modified(meta)),
    }
}

#[cfg(not(unix))]
fn stamp_of(meta: &Metadata) -> Stamp {
    let Timestamp(mtime) = modified(meta);
    Stamp(meta.len(), mtime, mtime, 0)
}

#[cfg(not(unix))]
fn modified(meta: &Metadata) -> Timestamp {
    let since = meta
        .modified()
        .ok()
        .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    Timestamp(since.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::store::Store;

    fn put(path: &str, source: &Path, hash: Hash) -> Change {
        Change::Put {
            path: TreePath::parse(path).unwrap(),
            hash,
            size: 1,
            set: SetAttrs::default(),
            unlink_first: false,
            unread: Some(source.to_owned()),
        }
    }

    #[test]
    fn others_write_while_a_collected_file_is_read_again() {
        const SIZE: usize = 128 << 20;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path().join("store")).unwrap();
        let main = store.create_bucket("b").unwrap().main().unwrap();
        let source = dir.path().join("large");
        fs::write(&source, vec![7; SIZE]).unwrap();
        let totals = Totals::default();
        totals.files.store(2, Ordering::Relaxed);
        totals.bytes.store(2, Ordering::Relaxed);
        let task = Task::new();
        let mut committer = Committer::new(&main, &totals, &task);
        committer.push(put("/large", &source, Hash::of(b"collected")));
        committer.push(put("/gone", &dir.path().join("gone"), Hash::of(b"too")));
        thread::scope(|scope| {
            scope.spawn(|| committer.flush(Durability::Full).unwrap());
            let staged = || {
                let items = fs::read_dir(dir.path().join("store/staging")).unwrap();
                let metas = items.filter_map(|item| item.unwrap().metadata().ok());
                metas.map(|meta| meta.len()).max()
            };
            let deadline = Instant::now() + std::time::Duration::from_secs(60);
            while staged().is_none() {
                assert!(Instant::now() < deadline, "nothing is read");
                thread::yield_now();
            }
            drop(store.inner.tree.write(Durability::Relaxed).unwrap());
            let read = staged();
            assert!(
                read.is_some_and(|len| len < SIZE as u64),
                "a writer had to wait: {read:?}"
            );
        });
        assert_eq!(main.stat("/large").unwrap().size(), SIZE as u64);
        assert!(!main.exists("/gone").unwrap());
        let skipped = &committer.report.skipped;
        assert_eq!(skipped.len(), 1, "{skipped:?}");
        assert_eq!(skipped[0].path, dir.path().join("gone"));
        assert_eq!(totals.files.load(Ordering::Relaxed), 1);
    }
}
