//! The thread that owns a bucket's documents and leads all conversations about it.
//!
//! Tasks do the input and output and exchange frames with it. A conversation may have
//! [`UNREAD`] frames here that were not heard yet, and [`UNSENT`] that were not sent: what waits for
//! more waits in its own task, so that neither a slow peer nor a fast one costs memory or time of
//! the others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use alknet_fs_core::branch::with_ancestors;
use alknet_fs_core::rest::Rest;
use alknet_fs_core::store::{BranchId, BucketId, Store};
use alknet_fs_core::sync::{Frame, Pace, Peer, Replica, ReplicaId, Scope, VersionVector, digest};
use alknet_fs_core::{Cursor, Error, ErrorKind, Result, Timestamp};
use alknet_fs_sync::{Bucket, deleted, is_deleted};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use crate::cover::{Cover, Granted, Terms};
use crate::grant::{Access, Allowed, random};
use crate::time::now;
use crate::wire::framed;

/// How many frames of a conversation wait to be heard.
pub(crate) const UNREAD: usize = 4;

/// How many frames of a conversation wait to be sent.
const UNSENT: usize = 4;

/// Nothing is lost on an open stream: what is not answered in this time is said again in case the
/// other side threw it away.
const PATIENCE: Duration = Duration::from_secs(5);

/// Local commits are gathered at once, and then not again for so many times as long as that took, nor
/// for longer.
const REST: (u32, u32, Duration) = (4, 32, Duration::from_millis(250));

/// How many commits that are found at once, after a rest, show that many are made in a row. Who writes and
/// waits until it came about is not kept waiting for longer.
const MANY: u64 = 8;

/// How long to wait when others keep the store busy.
const BUSY: Duration = Duration::from_millis(20);

/// How long documents that nobody uses stay in memory.
const IDLE: Duration = Duration::from_secs(30);

/// How many commands are obeyed before anything is said.
const AT_ONCE: usize = 64;

/// Names a conversation of this node.
pub(crate) type Id = u64;

pub(crate) enum Command {
    Open(Open),
    /// A frame arrived. The permit is held until it was heard.
    Frame {
        id: Id,
        bytes: Vec<u8>,
        permit: OwnedSemaphorePermit,
    },
    /// There is room again for frames to send.
    Room,
    Closed(Id),
    /// Somebody committed to the store.
    Committed,
    /// Asks how far the conversations have come.
    Progress {
        /// Whether all that was committed before the question counts.
        fresh: bool,
        answer: oneshot::Sender<BTreeMap<Id, Progress>>,
    },
    /// Asks for the digest of all that is known here.
    State(oneshot::Sender<[u8; 16]>),
    Stop,
}

/// What a conversation is begun with.
pub(crate) struct Open {
    pub(crate) id: Id,
    pub(crate) terms: OpenTerms,
    /// Told what the conversation covers, before its first frame.
    pub(crate) opened: oneshot::Sender<Opened>,
    /// Told why the driver ended it.
    pub(crate) ended: oneshot::Sender<Error>,
}

pub(crate) enum OpenTerms {
    Giver(Allowed),
    Taker(Cover),
    /// With another member: whether the peer takes what is written here, and the other way round.
    Member {
        sends: bool,
        takes: bool,
    },
}

/// The task's end of a conversation.
pub(crate) struct Opened {
    pub(crate) cover: Cover,
    pub(crate) frames: mpsc::Receiver<Vec<u8>>,
    /// Set while the driver has frames for which there was no room.
    pub(crate) crowded: Arc<AtomicBool>,
}

/// How far a conversation has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    /// Whether both sides are known to know the same.
    pub(crate) in_step: bool,
    /// How many cuts the peer is known to have that are missing here, and in how many scopes.
    pub(crate) missing_here: (u64, u64),
    /// How many cuts the peer is not known to have, and in how many scopes.
    pub(crate) missing_there: (u64, u64),
    /// The digest of what is known here.
    pub(crate) state: [u8; 16],
    /// All commits up to here are known.
    pub(crate) gathered: Option<Cursor>,
    /// How many cuts of this replica the grant does not let out; nothing while it is not known which of
    /// them the peer got in another way.
    pub(crate) stays: Option<u64>,
}

struct Conversation {
    peer: Peer,
    terms: Terms,
    frames: mpsc::Sender<Vec<u8>>,
    crowded: Arc<AtomicBool>,
    ended: Option<oneshot::Sender<Error>>,
}

/// A driver's other end. Dropping the last one ends the thread.
#[derive(Clone)]
pub(crate) struct Driver {
    /// The replica of the bucket that this store is.
    pub(crate) replica: ReplicaId,
    commands: Sender<Command>,
    /// Whether the driver was told of a commit that it has not looked at.
    committed: Arc<AtomicBool>,
    /// Whether it was told to stop, whatever it does.
    stop: Arc<AtomicBool>,
}

impl Driver {
    /// Starts the thread.
    pub(crate) fn start(
        store: Arc<dyn Store>,
        bucket: BucketId,
        stirred: watch::Sender<u64>,
    ) -> Result<(Self, thread::JoinHandle<()>)> {
        let (commands, inbox) = unbounded();
        let committed = Arc::new(AtomicBool::new(true));
        let noted = Arc::clone(&committed);
        let mut opened = open(&store, bucket)?;
        let replica = opened.replica();
        let stop = Arc::new(AtomicBool::new(false));
        opened.set_stop(Arc::clone(&stop));
        let thread = thread::Builder::new().name(format!("alkfs-sync-{bucket}"));
        let thread = thread.spawn(move || {
            let worker = Worker {
                inbox,
                committed: noted,
                stirred,
                number: bucket,
                bucket: opened,
                store,
                conversations: BTreeMap::new(),
                begun: Instant::now(),
                gather_at: Some(Instant::now()),
                rest: Rest::new(REST.0, REST.1, REST.2),
                pressed: false,
                rest_until: Instant::now(),
                forget_at: None,
            };
            worker.run();
        })?;
        Ok((
            Self {
                replica,
                commands,
                committed,
                stop,
            },
            thread,
        ))
    }

    /// Returns whether the driver is still there.
    pub(crate) fn tell(&self, command: Command) -> bool {
        if matches!(command, Command::Stop) {
            self.stop.store(true, Ordering::Relaxed);
        }
        self.commands.send(command).is_ok()
    }

    pub(crate) fn committed(&self) -> bool {
        self.committed.swap(true, Ordering::AcqRel) || self.tell(Command::Committed)
    }
}

fn open(store: &Arc<dyn Store>, bucket: BucketId) -> Result<Bucket> {
    Bucket::open(Arc::clone(store), bucket, ReplicaId(random()?))
}

struct Worker {
    inbox: Receiver<Command>,
    committed: Arc<AtomicBool>,
    /// Changed when something happened that the status tells of.
    stirred: watch::Sender<u64>,
    store: Arc<dyn Store>,
    number: BucketId,
    bucket: Bucket,
    conversations: BTreeMap<Id, Conversation>,
    begun: Instant,
    /// When to look at what was committed.
    gather_at: Option<Instant>,
    rest: Rest,
    /// Whether somebody committed while nothing was gathered.
    pressed: bool,
    rest_until: Instant,
    /// When to forget the documents that are kept in memory.
    forget_at: Option<Instant>,
}

impl Worker {
    fn run(mut self) {
        let ended = loop {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => break Error::with_detail(ErrorKind::Cancelled, "the node stops"),
                Err(e) if e.kind() == ErrorKind::Cancelled => break e,
                Err(e) if e.kind() == ErrorKind::Busy => {
                    tracing::debug!(bucket = %self.number, "the store is busy: {e}");
                    self.gather_at.get_or_insert(Instant::now() + BUSY);
                    thread::sleep(BUSY);
                }
                Err(e) if is_deleted(&e) => {
                    tracing::debug!(bucket = %self.number, "synchronisation ends: {e}");
                    break e;
                }
                Err(e) => {
                    tracing::warn!(bucket = %self.number, "synchronisation stops: {e}");
                    break e;
                }
            }
        };
        for (_, conversation) in std::mem::take(&mut self.conversations) {
            let copy = Error::with_detail(ended.kind(), ended.to_string());
            conversation.end(copy);
        }
    }

    /// Does what there is to do, or waits for it. Returns whether to go on.
    fn turn(&mut self) -> Result<bool> {
        let first = match self.next_time() {
            Some(at) => self.inbox.recv_deadline(at),
            None => self
                .inbox
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
        };
        let mut next = match first {
            Ok(command) => Some(command),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
        };
        let mut left = AT_ONCE;
        while let Some(command) = next {
            if !self.obey(command)? {
                return Ok(false);
            }
            left -= 1;
            next = match left {
                0 => None,
                _ => self.inbox.try_recv().ok(),
            };
        }
        if self.gather_at.is_some_and(|at| at <= Instant::now()) {
            self.gather()?;
        }
        if self.forget_at.is_some_and(|at| at <= Instant::now()) {
            self.bucket.forget_documents();
            self.forget_at = None;
        }
        self.speak();
        Ok(true)
    }

    fn next_time(&self) -> Option<Instant> {
        let timeouts = self.conversations.values();
        let timeouts = timeouts.filter_map(|c| c.peer.poll_timeout());
        let timeouts = timeouts.map(|at| {
            let nanos = u64::try_from(at.0).unwrap_or(0);
            self.begun + Duration::from_nanos(nanos)
        });
        timeouts.chain(self.gather_at).chain(self.forget_at).min()
    }

    /// The time that conversations are given: it never goes back.
    fn elapsed(&self) -> Timestamp {
        Timestamp(i64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(i64::MAX))
    }

    /// Returns whether to go on.
    fn obey(&mut self, command: Command) -> Result<bool> {
        match command {
            Command::Open(open) => self.open(open)?,
            Command::Frame { id, bytes, permit } => {
                self.hear(id, &bytes);
                stir(&self.stirred);
                drop(permit);
            }
            Command::Room => {}
            Command::Closed(id) => drop(self.conversations.remove(&id)),
            Command::Committed => {
                let now = Instant::now();
                self.pressed = self.rest_until > now;
                self.gather_at = Some(self.rest_until.max(now));
            }
            Command::Progress { fresh, answer } => {
                if fresh {
                    self.gather()?;
                }
                let _ = answer.send(self.progress()?);
            }
            Command::State(answer) => {
                let _ = answer.send(digest(&self.bucket.vectors()?));
            }
            Command::Stop => return Ok(false),
        }
        Ok(true)
    }

    fn open(&mut self, open: Open) -> Result<()> {
        self.gather()?;
        let terms = match open.terms {
            OpenTerms::Taker(cover) => Terms::taker(cover),
            OpenTerms::Giver(allowed) => Terms::giver(self.cover(&allowed)?),
            OpenTerms::Member { sends, takes } => Terms::member(sends, takes),
        };
        let (frames, receiver) = mpsc::channel(UNSENT);
        let crowded = Arc::new(AtomicBool::new(false));
        let pace = Pace {
            patience: PATIENCE,
            ..Pace::default()
        };
        let opened = Opened {
            cover: terms.cover().clone(),
            frames: receiver,
            crowded: Arc::clone(&crowded),
        };
        if open.opened.send(opened).is_ok() {
            let conversation = Conversation {
                peer: Peer::new(pace),
                terms,
                frames,
                crowded,
                ended: Some(open.ended),
            };
            self.conversations.insert(open.id, conversation);
        }
        Ok(())
    }

    /// Finds the scopes that grants cover: those of their branches, and to read those from which
    /// they inherit.
    fn cover(&self, allowed: &Allowed) -> Result<Cover> {
        let mut cover = Cover {
            others: allowed.whole,
            ..Cover::default()
        };
        if allowed.branches.is_empty() {
            return Ok(cover);
        }
        let txn = self.store.read()?;
        let branches: Vec<BranchId> = allowed.branches.keys().copied().collect();
        let readable = with_ancestors(&*txn, &branches)?;
        let scopes = self.bucket.scopes().filter_map(|(scope, branch)| {
            let branch = branch?;
            let access = match allowed.branches.get(&branch) {
                Some(access) => *access,
                None if readable.contains(&branch) => Access::Read,
                None => return None,
            };
            Some((scope, access))
        });
        // The whole of the bucket covers what is only read.
        let more = scopes.filter(|(_, access)| Some(*access) > allowed.whole);
        cover.scopes = more.collect();
        Ok(cover)
    }

    fn hear(&mut self, id: Id, bytes: &[u8]) {
        while let Some(conversation) = self.conversations.get_mut(&id) {
            self.bucket.set_now(now());
            let heard = conversation.hear(bytes, &mut self.bucket);
            match heard {
                Ok(()) => break,
                // A frame does no harm when it is heard twice.
                Err(e) if e.kind() == ErrorKind::Busy => thread::sleep(BUSY),
                Err(e) => {
                    if let Some(conversation) = self.conversations.remove(&id) {
                        conversation.end(e);
                    }
                }
            }
        }
        self.spread();
    }

    /// Tells all conversations what scopes got cuts.
    fn spread(&mut self) {
        for scope in self.bucket.take_news() {
            self.forget_at = Some(Instant::now() + IDLE);
            for Conversation { peer, terms, .. } in self.conversations.values_mut() {
                terms.changed(scope, || peer.knows(scope));
                peer.changed(scope);
            }
        }
    }

    fn gather(&mut self) -> Result<()> {
        let begun = Instant::now();
        self.committed.store(false, Ordering::Release);
        let now = now();
        let known = self.bucket.gathered();
        self.bucket.gather(now)?;
        let gathered = self.bucket.gathered();
        match gathered == known {
            true if self.store.read()?.bucket(self.number)?.is_none() => return Err(deleted()),
            true => {}
            false => stir(&self.stirred),
        }
        let found = gathered.zip(known);
        let found = found.map_or(0, |(now, before)| {
            now.offset().saturating_sub(before.offset())
        });
        let took = begun.elapsed();
        let pressed = self.pressed && found >= MANY;
        self.rest_until = Instant::now() + self.rest.after(took, pressed);
        self.gather_at = None;
        self.spread();
        Ok(())
    }

    fn speak(&mut self) {
        let now = self.elapsed();
        let mut over = Vec::new();
        for (id, conversation) in &mut self.conversations {
            if let Err(e) = conversation.speak(now, &mut self.bucket) {
                over.push((*id, e));
            }
        }
        for (id, e) in over {
            if e.kind() == ErrorKind::Busy {
                thread::sleep(BUSY);
                continue;
            }
            if let Some(conversation) = self.conversations.remove(&id) {
                conversation.end(e);
            }
        }
    }

    fn progress(&mut self) -> Result<BTreeMap<Id, Progress>> {
        let mut all = BTreeMap::new();
        for (id, conversation) in &self.conversations {
            let granted = Granted {
                bucket: &mut self.bucket,
                terms: &conversation.terms,
            };
            let mut progress = progress(&conversation.peer, &granted)?;
            progress.gathered = granted.bucket.gathered();
            if progress.in_step {
                progress.stays = Some(stays(&conversation.peer, &granted)?);
            }
            all.insert(*id, progress);
        }
        Ok(all)
    }
}

fn progress(peer: &Peer, replica: &dyn Replica) -> Result<Progress> {
    let vectors = replica.vectors()?;
    let mut progress = Progress {
        in_step: peer.is_in_step(replica)?,
        state: digest(&vectors),
        ..Progress::default()
    };
    for (scope, ours) in vectors {
        let theirs = peer.knows(scope);
        let missing = |of: &VersionVector, at: &VersionVector| {
            let each = of
                .iter()
                .map(|(replica, cut)| cut.saturating_sub(at.get(replica)));
            each.fold(0u64, u64::saturating_add)
        };
        for (count, total) in [
            (missing(&theirs, &ours), &mut progress.missing_here),
            (missing(&ours, &theirs), &mut progress.missing_there),
        ] {
            total.0 = total.0.saturating_add(count);
            total.1 += u64::from(count > 0);
        }
    }
    Ok(progress)
}

/// Counts the cuts of this replica that the grant does not let out, and the peer does not have.
fn stays(peer: &Peer, granted: &Granted<'_>) -> Result<u64> {
    if granted.terms.sends_all() {
        return Ok(0);
    }
    let own = granted.bucket.replica();
    let vectors = granted.bucket.vectors()?.into_iter();
    let kept = vectors.filter(|(scope, _)| granted.terms.keeps(*scope));
    let counts = kept.map(|(scope, ours)| {
        // The first that a replica says of the first branch is that it is there.
        let told = u64::from(scope == Scope::of_first_branch());
        let theirs = peer.knows(scope).get(own).max(told);
        ours.get(own).saturating_sub(theirs)
    });
    Ok(counts.fold(0, u64::saturating_add))
}

impl Conversation {
    fn hear(&mut self, bytes: &[u8], bucket: &mut Bucket) -> Result<()> {
        let frame = self.terms.hear(Frame::decode(bytes)?, bucket)?;
        let terms = &self.terms;
        self.peer.receive(frame, &mut Granted { bucket, terms })
    }

    fn speak(&mut self, now: Timestamp, bucket: &mut Bucket) -> Result<()> {
        let terms = &self.terms;
        let granted = Granted { bucket, terms };
        self.peer.timeout(now, &granted)?;
        loop {
            let room = match self.frames.try_reserve() {
                Ok(room) => room,
                Err(mpsc::error::TrySendError::Closed(())) => return Ok(()),
                Err(mpsc::error::TrySendError::Full(())) => {
                    self.crowded.store(true, Ordering::Release);
                    match self.frames.try_reserve() {
                        Ok(room) => room,
                        Err(_) => return Ok(()),
                    }
                }
            };
            match self.peer.poll_transmit(now, &granted)? {
                Some(frame) => room.send(framed(&frame.encode())),
                None => return Ok(()),
            }
        }
    }

    fn end(mut self, why: Error) {
        if let Some(ended) = self.ended.take() {
            let _ = ended.send(why);
        }
    }
}

/// Says that something happened that the status tells of.
pub(crate) fn stir(stirred: &watch::Sender<u64>) {
    stirred.send_modify(|count| *count += 1);
}

/// Tells whether a conversation ended because of this node's own store.
pub(crate) fn is_own_fault(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Busy
            | ErrorKind::Io
            | ErrorKind::NoSpace
            | ErrorKind::NotAStore
            | ErrorKind::Cancelled
    )
}
