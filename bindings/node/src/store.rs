//! Stores and their upkeep.

use alknet_fs::{
    Durability, Error, ErrorKind, FsckOptions, FsckReport, GcOptions, GcReport, Options, SessionId,
    Stats, Store,
};
use napi::bindgen_prelude::{BigInt, Function, ToNapiValue};
use napi_derive::napi;

use crate::bucket::BucketHandle;
use crate::convert::{milliseconds, whole};
use crate::handle::Handle;
use crate::job::{Outcome, now, run, run_on};
use crate::lane::Lane;
use crate::session::{SessionHandle, SessionInfo};
use crate::task::TaskHandle;
use crate::watch::{Delivery, WatchHandle, WatchOptions};

type Result<T> = std::result::Result<T, Error>;

/// How to open a store.
#[napi(object)]
pub struct StoreOptions {
    /// `"open"`, `"create"`, or either as needed.
    pub mode: Option<String>,
    pub author: Option<String>,
    pub relaxed: Option<bool>,
    pub busy_timeout: Option<f64>,
}

impl StoreOptions {
    fn open(self, path: Option<String>) -> Result<Store> {
        let mut options = Options::new();
        if let Some(author) = self.author {
            options = options.author(author);
        }
        if self.relaxed == Some(true) {
            options = options.durability(Durability::Relaxed);
        }
        if let Some(timeout) = self.busy_timeout {
            options = options.busy_timeout(milliseconds(timeout)?);
        }
        let Some(path) = path else {
            return options.memory();
        };
        match self.mode.as_deref() {
            None => options.open_or_create(path),
            Some("open") => options.open(path),
            Some("create") => options.create(path),
            Some(other) => {
                let detail = format!("{other:?} is no way to open a store");
                Err(Error::with_detail(ErrorKind::InvalidInput, detail))
            }
        }
    }
}

/// A store.
#[napi]
pub struct StoreHandle {
    pub(crate) store: Handle<Store>,
}

impl StoreHandle {
    pub(crate) fn with<T: Send + ToNapiValue + 'static>(
        &self,
        later: bool,
        call: impl FnOnce(&Store) -> Result<T> + Send + 'static,
    ) -> napi::Result<Outcome<T>> {
        let store = self.store.clone();
        run(later, move || call(&*store.get()?))
    }

    pub(crate) fn on<T: Send + ToNapiValue + 'static>(
        &self,
        lane: &Lane,
        later: bool,
        call: impl FnOnce(&Store) -> Result<T> + Send + 'static,
    ) -> napi::Result<Outcome<T>> {
        let store = self.store.clone();
        run_on(lane, later, move || call(&*store.get()?))
    }
}

#[napi]
impl StoreHandle {
    /// Opens a store in a directory, or makes one in memory.
    #[napi]
    pub fn open(
        path: Option<String>,
        options: StoreOptions,
        later: bool,
    ) -> napi::Result<Outcome<StoreHandle>> {
        run_on(Lane::common(), later, move || {
            let store = options.open(path)?;
            Ok(StoreHandle {
                store: Handle::root(store),
            })
        })
    }

    #[napi]
    pub fn path(&self) -> napi::Result<Option<String>> {
        now(|| {
            let store = self.store.get()?;
            Ok(store.path().map(|path| path.to_string_lossy().into_owned()))
        })
    }

    /// Closes the store and everything that was made from it.
    #[napi]
    pub fn close(&self, later: bool) -> napi::Result<Outcome<()>> {
        let store = self.store.clone();
        run_on(self.store.tasks(), later, move || {
            store.close_all();
            Ok(())
        })
    }

    #[napi]
    pub fn bucket(&self, name: String) -> napi::Result<BucketHandle> {
        now(|| {
            let bucket = self.store.get()?.bucket(&name)?;
            Ok(self.store.with("bucket", bucket).into())
        })
    }

    #[napi]
    pub fn buckets(&self, later: bool) -> napi::Result<Outcome<Vec<String>>> {
        self.with(later, Store::buckets)
    }

    #[napi]
    pub fn create_bucket(&self, name: String, later: bool) -> napi::Result<Outcome<BucketHandle>> {
        let store = self.store.clone();
        run_on(self.store.writes(), later, move || {
            let bucket = store.get()?.create_bucket(&name)?;
            Ok(store.with("bucket", bucket).into())
        })
    }

    #[napi]
    pub fn rename_bucket(
        &self,
        name: String,
        to: String,
        later: bool,
    ) -> napi::Result<Outcome<()>> {
        self.on(self.store.writes(), later, move |store| {
            store.rename_bucket(&name, &to)
        })
    }

    #[napi]
    pub fn delete_bucket(&self, name: String, later: bool) -> napi::Result<Outcome<()>> {
        self.on(self.store.writes(), later, move |store| {
            store.delete_bucket(&name)
        })
    }

    #[napi]
    pub fn sessions(&self, later: bool) -> napi::Result<Outcome<Vec<SessionInfo>>> {
        self.with(later, |store| {
            let sessions = store.sessions()?.into_iter();
            Ok(sessions.map(SessionInfo::from).collect())
        })
    }

    #[napi]
    pub fn resume_session(&self, id: f64, later: bool) -> napi::Result<Outcome<SessionHandle>> {
        let store = self.store.clone();
        run_on(self.store.writes(), later, move || {
            let session = store.get()?.resume_session(session_id(id)?)?;
            Ok(store.with("session", session).into())
        })
    }

    #[napi]
    pub fn abort_session(&self, id: f64, force: bool, later: bool) -> napi::Result<Outcome<()>> {
        self.on(self.store.writes(), later, move |store| {
            store.abort_session(session_id(id)?, force)
        })
    }

    /// Watches for events; those that are waited for go to a function.
    #[napi]
    pub fn watch(
        &self,
        options: WatchOptions,
        deliver: Function<'_, Delivery, ()>,
    ) -> napi::Result<WatchHandle> {
        WatchHandle::start(&self.store, options, deliver)
    }
}

fn session_id(number: f64) -> Result<SessionId> {
    whole(number, "number of a session").map(SessionId)
}

/// What a store holds.
#[napi(object)]
pub struct StatsInfo {
    pub buckets: f64,
    pub branches: f64,
    pub snapshots: f64,
    pub sessions: f64,
    pub contents: f64,
    pub content_bytes: f64,
    pub inline_contents: f64,
    pub file_contents: f64,
    pub delta_contents: f64,
    pub database_bytes: f64,
    pub free_bytes: f64,
    pub wal_bytes: f64,
    pub blob_bytes: f64,
    pub staged_bytes: f64,
    pub stored_bytes: f64,
}

impl From<Stats> for StatsInfo {
    fn from(stats: Stats) -> Self {
        Self {
            buckets: stats.buckets as f64,
            branches: stats.branches as f64,
            snapshots: stats.snapshots as f64,
            sessions: stats.sessions as f64,
            contents: stats.contents as f64,
            content_bytes: stats.content_bytes as f64,
            inline_contents: stats.inline_contents as f64,
            file_contents: stats.file_contents as f64,
            delta_contents: stats.delta_contents as f64,
            database_bytes: stats.database_bytes as f64,
            free_bytes: stats.free_bytes as f64,
            wal_bytes: stats.wal_bytes as f64,
            blob_bytes: stats.blob_bytes as f64,
            staged_bytes: stats.staged_bytes as f64,
            stored_bytes: stats.stored_bytes() as f64,
        }
    }
}

/// Something that is wrong with a store.
#[napi(object)]
pub struct ProblemInfo {
    pub subject: String,
    pub detail: String,
    pub uses: Vec<String>,
    pub more_uses: f64,
}

/// What a check found.
#[napi(object)]
pub struct FsckInfo {
    pub entries: f64,
    pub contents: f64,
    pub bytes: f64,
    pub orphans: f64,
    pub orphan_bytes: f64,
    pub partials: f64,
    pub partial_bytes: f64,
    pub problems: Vec<ProblemInfo>,
}

impl From<FsckReport> for FsckInfo {
    fn from(report: FsckReport) -> Self {
        let problems = report.problems.into_iter().map(|problem| ProblemInfo {
            subject: problem.subject,
            detail: problem.detail,
            uses: problem.uses,
            more_uses: problem.more_uses as f64,
        });
        Self {
            entries: report.entries as f64,
            contents: report.contents as f64,
            bytes: report.bytes as f64,
            orphans: report.orphans as f64,
            orphan_bytes: report.orphan_bytes as f64,
            partials: report.partials as f64,
            partial_bytes: report.partial_bytes as f64,
            problems: problems.collect(),
        }
    }
}

/// How to collect garbage. Times are in milliseconds.
#[napi(object)]
pub struct CollectOptions {
    pub grace: Option<f64>,
    pub dry_run: Option<bool>,
    pub keep_events: Option<f64>,
    pub keep_events_for: Option<f64>,
}

impl CollectOptions {
    fn options(self) -> Result<GcOptions> {
        let mut options = GcOptions::new().dry_run(self.dry_run.unwrap_or(false));
        if let Some(grace) = self.grace {
            options = options.grace(milliseconds(grace)?);
        }
        if let Some(count) = self.keep_events {
            options = options.keep_events(whole(count, "number of events")?);
        }
        if let Some(age) = self.keep_events_for {
            options = options.keep_events_for(milliseconds(age)?);
        }
        Ok(options)
    }
}

/// What a collection removed.
#[napi(object)]
pub struct CollectedInfo {
    pub events: f64,
    pub versions: f64,
    pub contents: f64,
    pub content_bytes: f64,
    pub waiting: f64,
    pub waiting_bytes: f64,
    pub flattened: f64,
    pub files: f64,
    pub file_bytes: f64,
    pub files_deferred: bool,
}

impl From<GcReport> for CollectedInfo {
    fn from(report: GcReport) -> Self {
        Self {
            events: report.events as f64,
            versions: report.versions as f64,
            contents: report.contents as f64,
            content_bytes: report.content_bytes as f64,
            waiting: report.waiting as f64,
            waiting_bytes: report.waiting_bytes as f64,
            flattened: report.flattened as f64,
            files: report.files as f64,
            file_bytes: report.file_bytes as f64,
            files_deferred: report.files_deferred,
        }
    }
}

/// When garbage is collected.
#[napi(object)]
pub struct ScheduleInfo {
    pub when: String,
    pub next: BigInt,
}

/// Upkeep.
#[napi]
impl StoreHandle {
    #[napi]
    pub fn stats(&self, later: bool) -> napi::Result<Outcome<StatsInfo>> {
        self.with(later, |store| store.stats().map(StatsInfo::from))
    }

    #[napi]
    pub fn fsck(
        &self,
        fast: bool,
        task: &TaskHandle,
        later: bool,
    ) -> napi::Result<Outcome<FsckInfo>> {
        let task = task.task();
        self.on(self.store.tasks(), later, move |store| {
            let report = store.fsck(&FsckOptions::new().fast(fast), &task)?;
            Ok(FsckInfo::from(report))
        })
    }

    #[napi]
    pub fn gc(
        &self,
        options: CollectOptions,
        task: &TaskHandle,
        later: bool,
    ) -> napi::Result<Outcome<CollectedInfo>> {
        let task = task.task();
        self.on(self.store.tasks(), later, move |store| {
            let report = store.gc(&options.options()?, &task)?;
            Ok(CollectedInfo::from(report))
        })
    }

    #[napi]
    pub fn schedule_gc(
        &self,
        when: String,
        options: CollectOptions,
        later: bool,
    ) -> napi::Result<Outcome<()>> {
        self.on(self.store.writes(), later, move |store| {
            store.schedule_gc(&when, &options.options()?)
        })
    }

    #[napi]
    pub fn unschedule_gc(&self, later: bool) -> napi::Result<Outcome<bool>> {
        self.on(self.store.writes(), later, Store::unschedule_gc)
    }

    #[napi]
    pub fn gc_schedule(&self, later: bool) -> napi::Result<Outcome<Option<ScheduleInfo>>> {
        self.with(later, |store| {
            let schedule = store.gc_schedule()?;
            Ok(schedule.map(|schedule| ScheduleInfo {
                when: schedule.when,
                next: schedule.next.0.into(),
            }))
        })
    }

    #[napi]
    pub fn gc_if_due(
        &self,
        task: &TaskHandle,
        later: bool,
    ) -> napi::Result<Outcome<Option<CollectedInfo>>> {
        let task = task.task();
        self.on(self.store.tasks(), later, move |store| {
            Ok(store.gc_if_due(&task)?.map(CollectedInfo::from))
        })
    }

    #[napi]
    pub fn compact(&self, later: bool) -> napi::Result<Outcome<f64>> {
        self.on(self.store.tasks(), later, |store| {
            store.compact().map(|bytes| bytes as f64)
        })
    }
}
