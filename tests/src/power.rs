//! Power cuts, for real: a store on an ext4 image that the kernel shuts down in the middle of work.
//!
//! The shutdown drops whatever ext4 has not written, its journal included, and fails all further
//! calls: what a machine that loses its power would find on the disk. Root and a mount namespace of
//! its own are needed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use alknet_fs::{Durability, GcOptions, Options, Store, Task};
use serde::{Deserialize, Serialize};

use crate::worker::{End, Mode, Model, Op, Reply, Rng, Worker};
use crate::workload::{Depth, Fate, Pending, Workload, fsck};

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// An empty directory outside the image.
    pub dir: PathBuf,
    /// What the random work follows from.
    pub seed: u64,
    /// How many power cuts.
    pub cuts: u64,
    /// What the commits promise.
    pub durability: Durability,
}

/// What came of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Power cuts.
    pub cuts: u64,
    /// Operations that were acknowledged.
    pub acknowledged: u64,
    /// Cuts while an operation was under way.
    pub under_way: u64,
    /// Of these, how many had become durable nevertheless.
    pub done: u64,
    /// Sessions that were resumed with what they had synced.
    pub resumed: u64,
    /// Cuts that lost acknowledged operations: none but where durability is relaxed.
    pub losing_cuts: u64,
    /// Acknowledged operations that were lost.
    pub lost: u64,
}

/// The exit status of a process that cannot mount here.
pub const CANNOT_MOUNT: i32 = 77;

/// Drops what a filesystem has not written, and fails all further calls.
///
/// # Errors
/// The kernel's.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "the kernel offers this call only")]
fn shut_down(mount: &File) -> std::io::Result<()> {
    use rustix::ioctl::{Setter, ioctl};
    /// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)`.
    const SHUTDOWN: rustix::ioctl::Opcode = 0x8004_587d;
    /// `EXT4_GOING_FLAGS_NOLOGFLUSH`.
    const NO_LOG_FLUSH: u32 = 2;
    // SAFETY: the kernel reads one `u32` through the pointer that this call is given.
    unsafe { ioctl(mount, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) }?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn shut_down(_mount: &File) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Result<(), String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|e| format!("{program}: {e}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

struct Disk {
    image: PathBuf,
    mount: PathBuf,
    boot_id: PathBuf,
    boots: u64,
}

impl Disk {
    fn make(dir: &Path) -> Result<Self, String> {
        let disk = Self {
            image: dir.join("image"),
            mount: dir.join("mount"),
            boot_id: dir.join("boot_id"),
            boots: 0,
        };
        let image = File::create(&disk.image).unwrap();
        image.set_len(1 << 30).unwrap();
        fs::create_dir(&disk.mount).unwrap();
        run(
            "mkfs.ext4",
            &[OsStr::new("-q"), "-F".as_ref(), disk.image.as_ref()],
        )?;
        Ok(disk)
    }

    /// Mounts the image. The machine has started anew since the last time, as far as programs can
    /// tell that were started after this.
    fn mount(&mut self) -> Result<(), String> {
        const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
        if self.boots > 0 {
            run("umount", &[BOOT_ID])?;
        }
        self.boots += 1;
        fs::write(&self.boot_id, format!("boot {}\n", self.boots)).unwrap();
        run(
            "mount",
            &[
                "--bind".as_ref(),
                self.boot_id.as_os_str(),
                BOOT_ID.as_ref(),
            ],
        )?;
        let (image, mount) = (self.image.as_os_str(), self.mount.as_os_str());
        run("mount", &["-o".as_ref(), "loop".as_ref(), image, mount])
    }

    fn unmount(&self) {
        // The kernel may need a moment to end the calls of a process that was killed.
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Err(e) = run("umount", &[&self.mount]) {
            assert!(Instant::now() < deadline, "{e}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // After a failure; the namespace takes the mounts along in any case.
        let _ = run("umount", &[&self.mount]);
    }
}

/// Cuts the power as often as planned.
///
/// # Errors
/// Why nothing can be mounted here.
///
/// # Panics
/// Where the store is not as promised.
pub fn cut(plan: &Plan, worker: &Path) -> Result<Report, String> {
    let mut disk = Disk::make(&plan.dir)?;
    disk.mount()?;
    let probe = File::open(&disk.mount).unwrap();
    shut_down(&probe).map_err(|e| format!("ext4 cannot be shut down: {e}"))?;
    drop(probe);
    disk.unmount();
    disk.mount()?;
    let sources = plan.dir.join("sources");
    fs::create_dir(&sources).unwrap();
    let path = disk.mount.join("store");
    drop(Store::create(&path).unwrap());
    let mut work = Workload::new(plan.seed, &sources, false);
    work.imports = plan.durability == Durability::Full;
    let mut timing = Rng::new(plan.seed ^ 0xcafe);
    let mut report = Report::default();
    let mode = Mode {
        durability: plan.durability,
        ..Mode::default()
    };
    for n in 0..plan.cuts {
        let mut child = Worker::start(&mut Command::new(worker), &path, mode);
        assert_eq!(child.reply(), Some(Reply::Ready));
        let sessions = work.sessions.len() as u64;
        work.end_sessions(&mut child, None);
        report.resumed += sessions;
        let mut history = vec![work.model.clone()];
        let handle = File::open(&disk.mount).unwrap();
        let pending = if n % 2 == 0 {
            let delay = Duration::from_micros(timing.below(400_000));
            let power_off = work.power_off.clone();
            let timer = std::thread::spawn(move || {
                std::thread::sleep(delay);
                power_off.store(true, Ordering::SeqCst);
                shut_down(&handle).unwrap();
            });
            let pending = work_on(&mut work, &mut child, &mut history, None);
            timer.join().unwrap();
            pending
        } else {
            // Right after an acknowledgement nothing else has had the time to flush anything.
            let ops = 1 + timing.below(8);
            let last = Last::ALL[(n / 2) as usize % Last::ALL.len()];
            let pending = work_on(&mut work, &mut child, &mut history, Some((ops, last)));
            assert!(pending.is_none(), "{pending:?}");
            shut_down(&handle).unwrap();
            drop(handle);
            None
        };
        child.end();
        work.power_off.store(false, Ordering::SeqCst);
        disk.unmount();
        disk.mount()?;
        report.cuts += 1;
        report.under_way += u64::from(pending.is_some());
        let store = Options::new().open(&path).unwrap();
        match plan.durability {
            Durability::Full => {
                let fate = work.check(&store, pending.as_ref(), Depth::Full);
                report.done += u64::from(fate == Fate::Done);
            }
            Durability::Relaxed => {
                let lost = check_relaxed(&mut work, &store, &mut history, pending.as_ref());
                report.losing_cuts += u64::from(lost > 0);
                report.lost += lost;
            }
        }
        if n % 16 == 15 {
            let gc = GcOptions::new().grace(Duration::ZERO);
            store.gc(&gc, &Task::new()).unwrap();
            let wrong = work.model.differences(&store);
            assert!(wrong.is_empty(), "after garbage collection: {wrong:#?}");
            fsck(&store, Depth::Full);
        }
    }
    report.acknowledged = work.acknowledged;
    Ok(report)
}

/// What a round ends with, so that every way to commit is the last one before a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Any,
    Import,
    Session,
    Batch,
    Rename,
    Put,
    Snapshot,
}

impl Last {
    const ALL: &[Self] = &[
        Self::Import,
        Self::Session,
        Self::Batch,
        Self::Import,
        Self::Rename,
        Self::Put,
        Self::Snapshot,
        Self::Any,
    ];

    fn fits(self, op: &Op) -> bool {
        match self {
            Self::Any => true,
            // One with more than a commit's worth in its last file.
            Self::Import => matches!(op, Op::Import { files, .. }
                if files.last().is_some_and(|(_, bytes)| bytes.len > 8 << 20)),
            Self::Session => matches!(
                op,
                Op::Session {
                    end: End::Close,
                    ..
                }
            ),
            Self::Batch => matches!(op, Op::Batch { .. }),
            Self::Rename => matches!(op, Op::Rename { .. }),
            Self::Put => matches!(op, Op::Put { .. }),
            Self::Snapshot => matches!(op, Op::Snapshot { .. } | Op::Fork { .. }),
        }
    }
}

/// Works until the power goes, or until some operations are done.
fn work_on(
    work: &mut Workload,
    worker: &mut Worker,
    history: &mut Vec<Model>,
    until: Option<(u64, Last)>,
) -> Option<Pending> {
    let mut done = 0;
    loop {
        let op = match work.model.branches["main"].own.is_empty() {
            true => work.first(),
            false => work.next_op(),
        };
        let ends = until.is_some_and(|(ops, last)| {
            done >= ops && (last.fits(&op) || (last == Last::Import && !work.imports))
        });
        if until.is_some_and(|(ops, _)| done > ops + 60) {
            return None;
        }
        // Large imports come rarely by themselves; the wait for one must not do all the work.
        if until.is_some_and(|(ops, _)| done >= ops) && !ends {
            done += 1;
            continue;
        }
        let pending = work.step(worker, op);
        if pending.is_some() {
            return pending;
        }
        history.push(work.model.clone());
        done += 1;
        if ends {
            return None;
        }
    }
}

/// After a cut with relaxed durability the latest commits may be gone, whole and in order. Returns
/// how many.
fn check_relaxed(
    work: &mut Workload,
    store: &Store,
    history: &mut Vec<Model>,
    pending: Option<&Pending>,
) -> u64 {
    fsck(store, Depth::Full);
    let acknowledged = history.len();
    if let Some(pending) = pending {
        let mut after = work.model.clone();
        after.apply(&pending.op);
        history.push(after);
    }
    let found = history
        .iter()
        .rposition(|model| model.differences(store).is_empty());
    let Some(found) = found else {
        let wrong = work.model.differences(store);
        panic!("the store is at no point of its history; from the last: {wrong:#?}");
    };
    work.forget(store, history[found].clone());
    (acknowledged - 1).saturating_sub(found) as u64
}
