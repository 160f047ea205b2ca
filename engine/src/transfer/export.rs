//! Exporting a tree to the operating system's filesystem.

use std::fs::{self, File, FileTimes};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alknet_fs_content::ContentReader;
use alknet_fs_core::{Attrs, Entry, Error, ErrorKind, Hash, Node, Result, Timestamp, TreePath};
use crossbeam_channel::{Receiver, bounded};

use crate::progress::{Progress, Task};
use crate::store::IntoPath;
use crate::view::View;

use super::{spawn, workers};

/// How to export a tree.
#[derive(Debug, Clone, Default)]
pub struct ExportOptions {
    overwrite: bool,
    sync: bool,
}

impl ExportOptions {
    /// Creates the default options: into a new or empty directory, not waiting for the disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets whether the target may have entries: files of the same name are replaced, others stay.
    #[must_use]
    pub fn overwrite(mut self, overwrite: bool) -> Self {
        self.overwrite = overwrite;
        self
    }

    /// Sets whether the files are on disk, safe from a power cut, when the export returns.
    #[must_use]
    pub fn sync(mut self, sync: bool) -> Self {
        self.sync = sync;
        self
    }
}

/// What an export wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExportReport {
    /// Regular files.
    pub files: u64,
    /// Directories, the target not counted.
    pub dirs: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Bytes in the regular files.
    pub bytes: u64,
}

struct Job {
    path: PathBuf,
    hash: Hash,
    size: u64,
    attrs: Attrs,
}

impl View {
    /// Writes a directory of the tree, with modes, times and links (and owners, where the process
    /// may set them), into a directory of the operating system, which is made if it is missing. A
    /// single file is written into the directory under its own name.
    ///
    /// # Errors
    /// [`ErrorKind::NotEmpty`] where the target has entries and the options do not allow it;
    /// [`ErrorKind::Cancelled`]; [`ErrorKind::NoSpace`] and others of the operating system. What was
    /// written before the error stays.
    pub fn export(
        &self,
        from: impl IntoPath,
        target: impl AsRef<Path>,
        options: &ExportOptions,
        task: &Task,
    ) -> Result<ExportReport> {
        let from = from.into_path().map_err(|e| e.op("export"))?;
        let target = target.as_ref();
        let span = tracing::info_span!("export", from = %from, target = %target.display());
        let _entered = span.enter();
        let real = self.canonicalize(&from).map_err(|e| e.op("export"))?;
        let top = self.stat(&real)?;
        let fail = |e: io::Error| host(e, target);
        let fresh = match fs::read_dir(target) {
            Ok(mut items) => items.next().is_none(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(target).map_err(fail)?;
                true
            }
            Err(e) => return Err(fail(e)),
        };
        if !fresh && !options.overwrite {
            let detail = "the target directory is not empty";
            return Err(Error::with_detail(ErrorKind::NotEmpty, detail)
                .op("export")
                .path(target.display()));
        }
        let base = if top.is_dir() {
            real.clone()
        } else {
            real.parent().unwrap_or_else(TreePath::root)
        };
        let done = self.count_for_export(&real, &top, task);
        let done = done.map_err(|e| e.op("export"))?;
        let (jobs, queue) = bounded::<Job>(256);
        let mut report = ExportReport::default();
        let mut dirs = Vec::new();
        let listed = thread::scope(|scope| {
            let workers: Vec<_> = (0..workers())
                .map_while(|_| {
                    let queue = queue.clone();
                    let work = || self.write_files(queue, task, &done);
                    spawn(scope, "write", work).ok()
                })
                .collect();
            drop(queue);
            let mut block = Vec::new();
            // A copy of the listing of one directory at a time keeps the view free for the workers.
            let listed = self.list_for_export(&real, &top, &mut |path, entry| {
                task.cancel().check()?;
                let rest = path.strip_prefix(&base).unwrap_or_default();
                let here = target.join(rest);
                match &entry.node {
                    Node::Dir => {
                        report.dirs += 1;
                        make_dir(&here, fresh).map_err(|e| host(e, &here))?;
                        dirs.push((here, entry.attrs));
                    }
                    Node::Symlink { target } => {
                        report.symlinks += 1;
                        make_link(target, &here, fresh).map_err(|e| host(e, &here))?;
                        set_link_attrs(&here, &entry.attrs).map_err(|e| host(e, &here))?;
                    }
                    Node::File { hash, size } => {
                        report.files += 1;
                        report.bytes += size;
                        if !fresh {
                            clear_way(&here).map_err(|e| host(e, &here))?;
                        }
                        let job = Job {
                            path: here,
                            hash: *hash,
                            size: *size,
                            attrs: entry.attrs,
                        };
                        if workers.is_empty() {
                            return self.write_file(job, &mut block, task, &done);
                        }
                        // The queue is open as long as a worker lives; if all failed, so will the
                        // export.
                        if jobs.send(job).is_err() {
                            return Err(ErrorKind::Cancelled.into());
                        }
                    }
                }
                Ok(())
            });
            drop(jobs);
            let mut result = Ok(());
            for worker in workers {
                let ended = worker.join().unwrap_or_else(|_| Err(ErrorKind::Io.into()));
                result = result.and(ended);
            }
            result.and(listed)
        });
        listed.map_err(|e| e.op("export"))?;
        // Writing into a directory changes its times, so they are set last, the deepest first.
        for (path, attrs) in dirs.iter().rev() {
            set_attrs(&open_dir(path)?, attrs).map_err(|e| host(e, path))?;
        }
        if top.is_dir() {
            set_attrs(&open_dir(target)?, &top.attrs).map_err(fail)?;
        }
        if options.sync {
            sync_filesystem(target).map_err(fail)?;
        }
        Ok(report)
    }

    fn list_for_export(
        &self,
        real: &TreePath,
        top: &Entry,
        visit: &mut dyn FnMut(&TreePath, &Entry) -> Result<()>,
    ) -> Result<()> {
        if !top.is_dir() {
            return visit(real, top);
        }
        let mut pending = vec![real.clone()];
        while let Some(dir) = pending.pop() {
            let first = pending.len();
            for item in self.list(&dir)? {
                let path = TreePath::from_stored(dir.as_str(), &item.name);
                visit(&path, &item.entry)?;
                if item.entry.is_dir() {
                    pending.push(path);
                }
            }
            pending[first..].reverse();
        }
        Ok(())
    }

    fn write_files(&self, queue: Receiver<Job>, task: &Task, done: &Done) -> Result<()> {
        let mut block = Vec::new();
        for job in queue {
            self.write_file(job, &mut block, task, done)?;
        }
        Ok(())
    }

    fn write_file(&self, job: Job, block: &mut Vec<u8>, task: &Task, done: &Done) -> Result<()> {
        let Job {
            path,
            hash,
            size,
            attrs,
        } = job;
        let content = self.content_for(&hash, size, task);
        let content = content.map_err(|e| e.path(path.display()))?;
        let file = create_file(&path).map_err(|e| host(e, &path))?;
        let filled = fill_file(file, &path, &content, &attrs, block, task, done);
        if filled.is_err() {
            // A part of a file must not pass for the whole.
            let _ = fs::remove_file(&path);
        }
        filled
    }
    /// Counts the files below a path, and their bytes, for whoever follows.
    fn count_for_export(&self, real: &TreePath, top: &Entry, task: &Task) -> Result<Done> {
        let mut done = Done::default();
        if task.is_followed() {
            self.list_for_export(real, top, &mut |_, entry| {
                task.cancel().check()?;
                if entry.is_file() {
                    done.total_files += 1;
                    done.total_bytes += entry.size();
                }
                Ok(())
            })?;
        }
        Ok(done)
    }
}

/// How far an export has come.
#[derive(Default)]
struct Done {
    files: AtomicU64,
    bytes: AtomicU64,
    total_files: u64,
    total_bytes: u64,
}

impl Done {
    fn add(&self, files: u64, bytes: u64) -> Progress {
        Progress {
            files: self.files.fetch_add(files, Ordering::Relaxed) + files,
            total_files: self.total_files,
            bytes: self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes,
            total_bytes: self.total_bytes,
        }
    }
}

/// Writes a content and its attributes to a file just made.
fn fill_file(
    mut file: File,
    path: &Path,
    content: &ContentReader,
    attrs: &Attrs,
    block: &mut Vec<u8>,
    task: &Task,
    done: &Done,
) -> Result<()> {
    const BLOCK: usize = 1 << 20;
    let fail = |e: io::Error| host(e, path);
    block.resize(BLOCK.min(content.size() as usize), 0);
    let mut at = 0;
    while at < content.size() {
        let n = content.read_at(at, block)?;
        if n == 0 {
            let detail = "the content ends before its size";
            return Err(Error::with_detail(ErrorKind::Corrupt, detail).path(content.hash()));
        }
        file.write_all(&block[..n]).map_err(fail)?;
        at += n as u64;
        task.step(done.add(0, n as u64))?;
    }
    set_attrs(&file, attrs).map_err(fail)?;
    task.step(done.add(1, 0))
}

fn host(error: io::Error, path: &Path) -> Error {
    Error::from(error).op("export").path(path.display())
}

/// Removes what is not a directory, so that nothing is written through a link that was there.
fn clear_way(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(_) => fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

fn make_dir(path: &Path, fresh: bool) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && !fresh => {
            if fs::symlink_metadata(path)?.is_dir() {
                return Ok(());
            }
            fs::remove_file(path)?;
            fs::create_dir(path)
        }
        result => result,
    }
}

fn make_link(text: &str, path: &Path, fresh: bool) -> io::Result<()> {
    if !fresh {
        clear_way(path)?;
    }
    #[cfg(unix)]
    return std::os::unix::fs::symlink(text, path);
    #[cfg(windows)]
    return std::os::windows::fs::symlink_file(text, path);
    #[cfg(not(any(unix, windows)))]
    return Err(io::ErrorKind::Unsupported.into());
}

fn create_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // Nobody else reads the file before its own mode is set.
        options.mode(0o600);
    }
    options.open(path)
}

#[cfg(unix)]
fn open_dir(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| host(e, path))
}

#[cfg(windows)]
fn open_dir(path: &Path) -> Result<File> {
    use std::os::windows::fs::OpenOptionsExt;
    // FILE_FLAG_BACKUP_SEMANTICS, without which Windows opens no directories.
    let mut options = File::options();
    options.write(true).custom_flags(0x0200_0000);
    options.open(path).map_err(|e| host(e, path))
}

fn system_time(Timestamp(nanos): Timestamp) -> SystemTime {
    if nanos >= 0 {
        UNIX_EPOCH + Duration::from_nanos(nanos.unsigned_abs())
    } else {
        UNIX_EPOCH - Duration::from_nanos(nanos.unsigned_abs())
    }
}

/// Tells whether an owner is to be set, and the process may: not even what this process made is
/// always its own, in a directory that hands its group down.
#[cfg(unix)]
fn needs_owner(meta: &fs::Metadata, attrs: &Attrs) -> bool {
    use std::os::unix::fs::MetadataExt;
    rustix::process::geteuid().is_root() && (meta.uid(), meta.gid()) != (attrs.uid, attrs.gid)
}

fn set_attrs(file: &File, attrs: &Attrs) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        if needs_owner(&file.metadata()?, attrs) {
            std::os::unix::fs::fchown(file, Some(attrs.uid), Some(attrs.gid))?;
        }
        file.set_permissions(fs::Permissions::from_mode(attrs.mode))?;
    }
    let time = system_time(attrs.mtime);
    file.set_times(FileTimes::new().set_accessed(time).set_modified(time))
}

#[cfg(unix)]
fn set_link_attrs(path: &Path, attrs: &Attrs) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    if needs_owner(&fs::symlink_metadata(path)?, attrs) {
        std::os::unix::fs::lchown(path, Some(attrs.uid), Some(attrs.gid))?;
    }
    let time = Timespec {
        tv_sec: attrs.mtime.0.div_euclid(1_000_000_000),
        tv_nsec: attrs.mtime.0.rem_euclid(1_000_000_000) as _,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

#[cfg(not(unix))]
fn set_link_attrs(_path: &Path, _attrs: &Attrs) -> io::Result<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
fn sync_filesystem(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}

#[cfg(all(unix, not(target_os = "linux")))]
fn sync_filesystem(_path: &Path) -> io::Result<()> {
    rustix::fs::sync();
    Ok(())
}

#[cfg(not(unix))]
fn sync_filesystem(path: &Path) -> io::Result<()> {
    for item in fs::read_dir(path)? {
        let path = item?.path();
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_dir() {
            sync_filesystem(&path)?;
        } else if meta.is_file() {
            File::options().write(true).open(&path)?.sync_all()?;
        }
    }
    Ok(())
}
