//! Stores.

use std::path::{PathBuf, absolute};
use std::time::Duration;

use alknet_fs::node::{JoinOptions, Revoked, ShareOptions, Ticket};
use alknet_fs::{
    Cursor, Durability, Error, FsckOptions, Options, SessionId, Store as CoreStore, WatchOptions,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::args::PathArg;
use crate::bucket::Bucket;
use crate::content::{EvictReport, seconds};
use crate::error::to_py;
use crate::handle::{Handle, OpenedWith};
use crate::node::{GrantInfo, Node, PeerInfo, SyncStatus, Unsent};
use crate::session::{Session, SessionInfo};
use crate::task::{Cancel, Follower};
use crate::upkeep::{FsckReport, GcReport, GcSchedule, Stats, gc_options};
use crate::watch::{Watch, filter};

/// What a store is made from.
#[derive(FromPyObject)]
enum How<'py> {
    Handle(Bound<'py, Store>),
    New(String),
}

/// An open store.
#[pyclass(frozen, subclass, module = "alknet_fs._native")]
#[derive(Debug)]
pub(crate) struct Store(pub(crate) Handle<CoreStore>);

#[pymethods]
impl Store {
    /// Opens or makes a store as `how` says: `"open"`, `"create"`, `"open_or_create"` or, without a
    /// path, `"memory"`. With a store instead, makes another handle of it.
    #[new]
    #[pyo3(signature = (
        how, path = None, *, author = None, durability = "full", busy_timeout = None
    ))]
    fn new(
        py: Python<'_>,
        how: How<'_>,
        path: Option<PathBuf>,
        author: Option<String>,
        durability: &str,
        busy_timeout: Option<f64>,
    ) -> PyResult<Self> {
        let how = match how {
            How::New(how) => how,
            How::Handle(store) => return Ok(Self(store.get().0.clone())),
        };
        let mut options = Options::new().durability(match durability {
            "full" => Durability::Full,
            "relaxed" => Durability::Relaxed,
            _ => return Err(PyValueError::new_err("durability is 'full' or 'relaxed'")),
        });
        if let Some(author) = &author {
            options = options.author(author);
        }
        if let Some(seconds) = busy_timeout {
            let timeout = Duration::try_from_secs_f64(seconds);
            options = options.busy_timeout(
                timeout.map_err(|e| PyValueError::new_err(format!("busy_timeout: {e}")))?,
            );
        }
        if path.is_none() && how != "memory" {
            return Err(PyTypeError::new_err("path is str or os.PathLike, not None"));
        }
        // Also after a change of the working directory; the engine refuses what is no path.
        let path = path.map(|path| absolute(&path).unwrap_or(path));
        let open = || match (how.as_str(), path) {
            ("open", Some(path)) => Some(options.open(path)),
            ("create", Some(path)) => Some(options.create(path)),
            ("open_or_create", Some(path)) => Some(options.open_or_create(path)),
            ("memory", None) => Some(options.memory()),
            _ => None,
        };
        let store = py.detach(open);
        let store = store.ok_or_else(|| PyValueError::new_err("no such way to open a store"))?;
        let opened_with = OpenedWith {
            author,
            durability: durability.to_owned(),
            busy_timeout,
        };
        let store = store.map_err(|e| to_py(py, e))?;
        Ok(Self(Handle::root(store, opened_with)))
    }

    /// How the store was opened: author, durability and busy timeout.
    fn _opened_with(&self) -> (Option<String>, String, Option<f64>) {
        let OpenedWith {
            author,
            durability,
            busy_timeout,
        } = self.0.opened_with().clone();
        (author, durability, busy_timeout)
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        let other = other.cast::<Self>();
        other.is_ok_and(|other| self.0.is_of(&other.get().0))
    }

    fn __hash__(&self) -> usize {
        self.0.store_number()
    }

    /// The store's directory; `None` for a store in memory.
    #[getter]
    fn path(&self, py: Python<'_>) -> PyResult<Option<PathBuf>> {
        self.0
            .run(py, |store| Ok(store.path().map(ToOwned::to_owned)))
    }

    /// Whether the store was closed, or belongs to the process that this one was forked from.
    #[getter]
    fn closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Closes the store: whatever was made from it fails from now on, and is let go. Files and
    /// sessions that were being written are aborted.
    fn close(&self, py: Python<'_>) {
        self.0.close_store(py);
    }

    fn _bucket(&self, py: Python<'_>, name: &str) -> PyResult<Bucket> {
        let bucket = self.0.run(py, |store| store.bucket(name))?;
        Ok(Bucket::new(&self.0, bucket))
    }

    fn _create_bucket(&self, py: Python<'_>, name: &str) -> PyResult<Bucket> {
        let bucket = self.0.run(py, |store| store.create_bucket(name))?;
        Ok(Bucket::new(&self.0, bucket))
    }

    /// Returns the names of all buckets, sorted.
    fn buckets(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        self.0.run(py, CoreStore::buckets)
    }

    /// Gives a bucket another name.
    fn rename_bucket(&self, py: Python<'_>, name: &str, new: &str) -> PyResult<()> {
        self.0.run(py, |store| store.rename_bucket(name, new))
    }

    /// Deletes a bucket with all in it.
    fn delete_bucket(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        self.0.run(py, |store| store.delete_bucket(name))
    }

    /// Lists the open write sessions of all branches, from the oldest.
    fn sessions(&self, py: Python<'_>) -> PyResult<Vec<SessionInfo>> {
        let sessions = self.0.run(py, CoreStore::sessions)?;
        Ok(sessions.into_iter().map(SessionInfo::from).collect())
    }

    /// Throws an open write session away; one that a living process works on only with `force`.
    #[pyo3(signature = (id, *, force = false))]
    fn abort_session(&self, py: Python<'_>, id: u64, force: bool) -> PyResult<()> {
        self.0
            .run(py, |store| store.abort_session(SessionId(id), force))
    }

    fn _resume_session(&self, py: Python<'_>, id: u64) -> PyResult<Session> {
        let resume = |store: &CoreStore| store.resume_session(SessionId(id));
        Ok(Session::new(&self.0, self.0.run(py, resume)?))
    }

    #[pyo3(signature = (bucket, after, branch, glob, under, directly_in, ops, kinds))]
    #[expect(clippy::too_many_arguments, reason = "they have names in Python")]
    fn _watch(
        &self,
        py: Python<'_>,
        bucket: Option<String>,
        after: Option<u64>,
        branch: Option<String>,
        glob: Vec<String>,
        under: Option<PathArg<'_>>,
        directly_in: Option<PathArg<'_>>,
        ops: Option<Vec<String>>,
        kinds: Option<Vec<String>>,
    ) -> PyResult<Watch> {
        let filter = filter(branch, &glob, under, directly_in, ops, kinds);
        let watcher = self.0.run(py, |store| {
            store.watch(&WatchOptions {
                bucket,
                filter: filter?,
                after: after.map(Cursor),
            })
        })?;
        Ok(Watch::new(&self.0, watcher))
    }

    /// Counts what the store holds. The cost follows the number of contents.
    fn stats(&self, py: Python<'_>) -> PyResult<Stats> {
        self.0.run(py, CoreStore::stats).map(Stats::from)
    }

    /// Checks the whole store: the database, every branch and snapshot, and, unless `fast`, every
    /// byte of every content. What is wrong is reported, not raised.
    #[pyo3(signature = (*, fast = false, progress = None, cancel = None))]
    fn fsck(
        &self,
        py: Python<'_>,
        fast: bool,
        progress: Option<Py<PyAny>>,
        cancel: Option<Py<Cancel>>,
    ) -> PyResult<FsckReport> {
        let options = FsckOptions::new().fast(fast);
        let follower = Follower { progress, cancel };
        let report = follower.run(py, &self.0, |store, task| store.fsck(&options, task))?;
        Ok(report.into())
    }

    /// Removes what nothing refers to any more and what crashes left: versions that no branch or
    /// snapshot shows, and contents that an earlier collection found unreferenced at least `grace`
    /// seconds ago; and of the events those that `keep_events_for` (seconds) and `keep_events` do
    /// not keep. With `dry_run`, only says what it would remove.
    #[pyo3(signature = (
        *, grace = 3600.0, dry_run = false, keep_events_for = None, keep_events = None,
        progress = None, cancel = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "they have names in Python")]
    fn gc(
        &self,
        py: Python<'_>,
        grace: f64,
        dry_run: bool,
        keep_events_for: Option<f64>,
        keep_events: Option<u64>,
        progress: Option<Py<PyAny>>,
        cancel: Option<Py<Cancel>>,
    ) -> PyResult<GcReport> {
        let options = gc_options(grace, keep_events_for, keep_events)?.dry_run(dry_run);
        let follower = Follower { progress, cancel };
        let report = follower.run(py, &self.0, |store, task| store.gc(&options, task))?;
        Ok(report.into())
    }

    /// Sets when garbage is collected: five cron fields in local time, such as `0 3 * * *`, or an
    /// interval, such as `@every 6h`. The store keeps it; `gc_if_due` follows it.
    #[pyo3(signature = (when, *, grace = 3600.0, keep_events_for = None, keep_events = None))]
    fn schedule_gc(
        &self,
        py: Python<'_>,
        when: &str,
        grace: f64,
        keep_events_for: Option<f64>,
        keep_events: Option<u64>,
    ) -> PyResult<()> {
        let options = gc_options(grace, keep_events_for, keep_events)?;
        self.0.run(py, |store| store.schedule_gc(when, &options))
    }

    /// Ends the schedule; returns whether there was one.
    fn unschedule_gc(&self, py: Python<'_>) -> PyResult<bool> {
        self.0.run(py, CoreStore::unschedule_gc)
    }

    /// Returns the schedule, if there is one.
    fn gc_schedule(&self, py: Python<'_>) -> PyResult<Option<GcSchedule>> {
        Ok(self
            .0
            .run(py, CoreStore::gc_schedule)?
            .map(GcSchedule::from))
    }

    /// Collects garbage if the schedule says that it is time and no other process does; returns
    /// what that removed. Call it now and then in programs that run for long.
    #[pyo3(signature = (*, progress = None, cancel = None))]
    fn gc_if_due(
        &self,
        py: Python<'_>,
        progress: Option<Py<PyAny>>,
        cancel: Option<Py<Cancel>>,
    ) -> PyResult<Option<GcReport>> {
        let follower = Follower { progress, cancel };
        let report = follower.run(py, &self.0, |store, task| store.gc_if_due(task))?;
        Ok(report.map(GcReport::from))
    }

    #[pyo3(signature = (loopback, port, relays, mdns, gossip))]
    fn _start_node(
        &self,
        py: Python<'_>,
        loopback: bool,
        port: Option<u16>,
        relays: Option<Vec<String>>,
        mdns: bool,
        gossip: bool,
    ) -> PyResult<Node> {
        Node::start(py, &self.0, loopback, port, relays, (mdns, gossip))
    }

    fn _share(
        &self,
        py: Python<'_>,
        bucket: &str,
        read_only: bool,
        branches: Vec<String>,
        expires: Option<f64>,
        name: Option<String>,
    ) -> PyResult<String> {
        let mut options = ShareOptions::new().read_only(read_only);
        options = branches.into_iter().fold(options, ShareOptions::branch);
        if let Some(expires) = expires {
            options = options.expires_in(seconds("expires", expires)?);
        }
        if let Some(name) = name {
            options = options.name(name);
        }
        let ticket = self.0.run(py, |store| store.share(bucket, &options))?;
        Ok(ticket.to_string())
    }

    fn _join(
        &self,
        py: Python<'_>,
        ticket: &str,
        name: Option<String>,
        merge: bool,
        timeout: f64,
        cancel: Option<Py<Cancel>>,
    ) -> PyResult<Bucket> {
        let timeout = seconds("timeout", timeout)?;
        let mut options = JoinOptions::new().merge(merge);
        if let Some(name) = name {
            options = options.name(name);
        }
        let progress = None;
        let follower = Follower { progress, cancel };
        let (bucket, _) = follower.run(py, &self.0, |store, task| {
            let ticket: Ticket = ticket.parse().map_err(|e: Error| e.op("join"))?;
            // One that was stopped before it began joins nothing.
            task.cancel().check().map_err(|e| e.op("join"))?;
            store.join_and_wait(&ticket, &options, timeout, task)
        })?;
        Ok(Bucket::new(&self.0, bucket))
    }

    /// Tells what a ticket would let out of what was written here while the bucket was only read;
    /// `None` where that is nothing.
    fn unsent(&self, py: Python<'_>, ticket: &str) -> PyResult<Option<Unsent>> {
        let unsent = self.0.run(py, |store| {
            let ticket: Ticket = ticket.parse().map_err(|e: Error| e.op("join"))?;
            store.unsent(&ticket)
        })?;
        Ok(unsent.map(Unsent::from))
    }

    /// Ends what was joined of a bucket, which stays as it is: all of it, or what was joined from one
    /// peer, by its name, its key or the beginning of that.
    #[pyo3(signature = (bucket, peer=None))]
    fn leave(&self, py: Python<'_>, bucket: &str, peer: Option<&str>) -> PyResult<()> {
        self.0.run(py, |store| match peer {
            Some(peer) => store.leave_peer(bucket, peer),
            None => store.leave(bucket),
        })
    }

    /// Lists what was given to others, from the oldest, used or not.
    fn grants(&self, py: Python<'_>) -> PyResult<Vec<GrantInfo>> {
        let grants = self.0.run(py, CoreStore::grants)?;
        Ok(grants.into_iter().map(GrantInfo::from).collect())
    }

    /// Lists the nodes that this store has to do with.
    fn peers(&self, py: Python<'_>) -> PyResult<Vec<PeerInfo>> {
        let peers = self.0.run(py, CoreStore::peers)?;
        Ok(peers.into_iter().map(PeerInfo::from).collect())
    }

    /// Gives a peer a name, by which it is called from then on. `who` is its present name, its key, or
    /// the beginning of its key.
    fn name_peer(&self, py: Python<'_>, who: &str, name: &str) -> PyResult<()> {
        self.0.run(py, |store| store.name_peer(who, name))
    }

    /// Forgets a peer that the store has nothing to do with any more: it is listed no longer.
    fn forget_peer(&self, py: Python<'_>, who: &str) -> PyResult<()> {
        self.0.run(py, |store| store.forget_peer(who))
    }

    /// Takes everything back that a peer was given, from this moment on. The tickets that it used let
    /// nobody new in any more; who else used them stays. Returns how many grants it had.
    fn revoke_peer(&self, py: Python<'_>, who: &str) -> PyResult<usize> {
        self.0.run(py, |store| store.revoke_peer(who))
    }

    /// Takes back what `who` says: everything that a peer was given, by its name, its key or the
    /// beginning of it, or a grant, by its label, its id or the beginning of it. Fails with
    /// `InvalidInput` where several match. Returns how many grants that were, and buckets into which
    /// others alone let the peer.
    fn revoke(&self, py: Python<'_>, who: &str) -> PyResult<usize> {
        let revoked = self.0.run(py, |store| store.revoke(who))?;
        Ok(match revoked {
            Revoked::Grant(_) => 1,
            Revoked::Peer(grants) => grants,
        })
    }

    /// Takes a grant back from everybody who uses it; its ticket is worth nothing any more.
    fn revoke_grant(&self, py: Python<'_>, id: &str) -> PyResult<()> {
        self.0.run(py, |store| store.revoke_grant(id.parse()?))
    }

    /// Tells how it stands with each peer and bucket, whichever process runs the node.
    fn sync_status(&self, py: Python<'_>) -> PyResult<SyncStatus> {
        self.0.run(py, CoreStore::sync_status).map(SyncStatus::from)
    }

    fn _wait_until_synced(
        &self,
        py: Python<'_>,
        bucket: Option<String>,
        timeout: f64,
        cancel: Option<Py<Cancel>>,
    ) -> PyResult<SyncStatus> {
        let timeout = seconds("timeout", timeout)?;
        let progress = None;
        let follower = Follower { progress, cancel };
        let status = follower.run(py, &self.0, |store, task| {
            store.wait_until_synced(bucket.as_deref(), timeout, task)
        })?;
        Ok(status.into())
    }

    /// Returns how many bytes of contents the store may hold; `None` for any number.
    fn cache_limit(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        self.0.run(py, CoreStore::cache_limit)
    }

    /// Sets how many bytes of contents the store may hold; `None` for any number. The process that
    /// runs the node evicts what is beyond, as `evict` does.
    #[pyo3(signature = (limit))]
    fn set_cache_limit(&self, py: Python<'_>, limit: Option<u64>) -> PyResult<()> {
        self.0.run(py, |store| store.set_cache_limit(limit))
    }

    /// Counts the bytes of the contents that are here, as `set_cache_limit` limits them. The cost
    /// follows the number of contents.
    fn cached_bytes(&self, py: Python<'_>) -> PyResult<u64> {
        self.0.run(py, CoreStore::cached_bytes)
    }

    /// Removes what was not read for longest, and a peer confirms that it holds, until the store has
    /// at most so many bytes of contents. It is fetched again when it is read. Contents of buckets
    /// that are not shared, or are eager, and of pinned paths stay.
    #[pyo3(signature = (to_bytes = 0, *, progress = None, cancel = None))]
    fn evict(
        &self,
        py: Python<'_>,
        to_bytes: u64,
        progress: Option<Py<PyAny>>,
        cancel: Option<Py<Cancel>>,
    ) -> PyResult<EvictReport> {
        let follower = Follower { progress, cancel };
        let report = follower.run(py, &self.0, |store, task| store.evict(to_bytes, task))?;
        Ok(report.into())
    }

    /// Panics in the engine's place, here or in the thread of long work; only in builds for tests.
    #[cfg(debug_assertions)]
    fn _panic(&self, py: Python<'_>, long: bool) -> PyResult<()> {
        match long {
            true => Follower::default().run(py, &self.0, |_, _| panic!("a panic of the engine")),
            false => self.0.run(py, |_| panic!("a panic of the engine")),
        }
    }

    /// Gives the free space inside the database back to the disk; returns how many bytes smaller
    /// the store is. Writers of all processes wait meanwhile.
    fn compact(&self, py: Python<'_>) -> PyResult<u64> {
        self.0.run(py, CoreStore::compact)
    }
}
