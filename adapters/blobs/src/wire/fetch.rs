//! The asking side.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet_fs_content::hash_tree::{CV_LEN, GROUP_LEN, group_count, normalize};
use alknet_fs_content::partial::Verifier;
use alknet_fs_content::{Staged, is_gone};
use alknet_fs_core::session::{AssemblyPlan, Segment, Source};
use alknet_fs_core::{Error, ErrorKind, Hash, Result};
use iroh::endpoint::{Connection, RecvStream, SendStream};
use tokio::io::{AsyncRead, BufReader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::frames::{
    self, Answer, Ask, HAS_MAX, NODES_MAX, Question, RANGES_MAX, WANTS_MAX, malformed, put,
};
use super::large::{Ranges, Stop, ToEntry, ToMemory, ask, in_time, receive};
use super::serve::{STREAMS_MAX, changed_max};
use super::{SMALL_MAX, is_sent_away};
use crate::BlobStore;
use crate::shared::{Begun, Entry, Held, Shared, State};

/// How many large contents come at once, by all fetches of a fetcher: fewer than the streams of a
/// connection that a peer answers.
const LARGE_MAX: usize = STREAMS_MAX - 4;
/// How many bytes of small contents wait to be committed.
const COMMITTING: usize = 8 << 20;
/// How many of them.
const COMMITTING_COUNT: usize = 2048;
/// How much of the stream of small contents is read at once.
const BUFFER: usize = 256 << 10;
/// How many levels of two trees are compared in one go.
const STEP: u32 = 6;
/// How many nodes are asked for at most to find out what differs. 8 MiB of them.
const COMPARED_MAX: u64 = 1 << 18;

/// A content to be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// Its hash.
    pub hash: Hash,
    /// Its size in bytes.
    pub size: u64,
    /// Another version of it, if one may be here: where it is, only what differs is fetched.
    pub base: Option<Hash>,
}

/// What became of a content.
#[derive(Debug)]
pub enum Outcome {
    /// It was here already.
    Present,
    /// It is here now, verified and durable.
    Fetched,
    /// The peer has not got it, or does not give it, as where it sent this node away.
    Missing,
    /// It is not here; the error names the peer and the content. [`ErrorKind::Corrupt`] where the peer
    /// sent something else, [`ErrorKind::Io`] where it went or sent nothing for too long. What has
    /// arrived of a large content stays, and the next fetch goes on from there.
    Failed(Error),
}

impl Outcome {
    /// Tells whether the content is here.
    pub fn is_here(&self) -> bool {
        matches!(self, Self::Present | Self::Fetched)
    }
}

/// What a fetch tells while it runs.
#[derive(Debug)]
pub enum Progress<'a> {
    /// Bytes of a large content have arrived, in all and with what was here of it before. Of one
    /// that comes as its changes, those are counted.
    Received {
        /// The content.
        hash: Hash,
        /// How many bytes.
        bytes: u64,
        /// The content's size in bytes.
        size: u64,
    },
    /// Nothing more is done for a content.
    Ended {
        /// The content.
        hash: Hash,
        /// What became of it.
        outcome: &'a Outcome,
    },
}

/// How a [`Fetcher`] works. The defaults are meant for use.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// How many large contents are received at once. Default 4.
    pub at_once: usize,
    /// For how long a peer may send nothing. Default 30 s.
    pub patience: Duration,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            at_once: 4,
            patience: Duration::from_secs(30),
        }
    }
}

/// Fetches contents from peers into a store. Clones are handles of the same.
#[derive(Clone)]
pub struct Fetcher {
    shared: Arc<Shared>,
    options: FetchOptions,
    large: Arc<Semaphore>,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Fetcher");
        shown
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// How a content is to be had.
#[derive(Debug)]
enum How {
    /// It is here.
    Here,
    /// It is sent whole.
    Small,
    /// As the changes to its base, if the peer knows them.
    Delta,
    /// As the changes to its base, if they can be found out.
    Compare,
    /// As the changes in these groups.
    Changed(Vec<(u64, u64)>),
    /// As verified ranges.
    Whole,
}

/// What the tasks of a fetch tell it; contents by their place in the list.
enum Event {
    Received(usize, u64),
    Ended(usize, Outcome),
    /// The peer knows how a large content is to be had.
    Found(usize, How),
}

type Events = mpsc::UnboundedSender<Event>;

/// Tasks that wind up by themselves when nobody wants them any more.
struct Tasks(JoinSet<()>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.detach_all();
    }
}

impl Fetcher {
    /// Fetches into a store.
    pub fn new(blobs: &BlobStore) -> Self {
        Self::with_options(blobs, FetchOptions::default())
    }

    /// Fetches into a store, with options.
    pub fn with_options(blobs: &BlobStore, options: FetchOptions) -> Self {
        Self {
            shared: blobs.shared.clone(),
            options,
            large: Arc::new(Semaphore::new(LARGE_MAX)),
        }
    }

    /// Fetches contents over a connection that speaks [`ALPN`](super::ALPN), the first ones first;
    /// returns what became of each, once for each hash, in the order of the list.
    ///
    /// Small contents come many at once beside large ones. `progress` is called between them. What is
    /// here in the end is verified and durable, and kept from garbage collection while the fetch runs
    /// and for three quarters of [`Options::pin`](crate::Options::pin) after that. When the
    /// future is dropped, no more is asked for, and what has arrived stays.
    pub async fn fetch(
        &self,
        conn: &Connection,
        wants: Vec<Want>,
        progress: impl FnMut(Progress<'_>) + Send,
    ) -> Vec<(Hash, Outcome)> {
        let wants = once_each(wants);
        let mut ledger = Ledger {
            wants: wants.clone(),
            outcomes: wants.iter().map(|_| None).collect(),
            left: wants.len(),
            held: self.shared.hold(),
            progress,
        };
        let list = wants.clone();
        let sorted = self.shared.run(move |s| sort(s, &list)).await;
        let sorted = match sorted.map_err(Error::from).flatten() {
            Ok(sorted) => sorted,
            Err(error) => {
                for at in 0..wants.len() {
                    ledger.end(at, Outcome::Failed(again(&error)));
                }
                return ledger.close();
            }
        };
        let mut asked = Vec::new();
        let mut queue = BTreeMap::new();
        for (at, how) in sorted.into_iter().enumerate() {
            match how {
                How::Here => ledger.end(at, Outcome::Present),
                How::Small | How::Delta => asked.push((at, how)),
                how => drop(queue.insert(at, how)),
            }
        }
        // When this goes, the tasks wind up.
        let (_stop, stopped) = watch::channel(());
        let (events, mut incoming) = mpsc::unbounded_channel();
        let mut tasks = Tasks(JoinSet::new());
        let task = || Task {
            shared: self.shared.clone(),
            options: self.options.clone(),
            room: self.large.clone(),
            conn: conn.clone(),
            wants: wants.clone(),
            events: events.clone(),
            stop: stopped.clone(),
        };
        if !asked.is_empty() {
            tasks.0.spawn(task().ask_all(asked));
        }
        let mut large = HashSet::new();
        while ledger.left > 0 {
            while large.len() < self.options.at_once.max(1)
                && let Some((at, how)) = queue.pop_first()
            {
                large.insert(at);
                tasks.0.spawn(task().large(at, how));
            }
            tokio::select! {
                Some(event) = incoming.recv() => match event {
                    Event::Received(at, bytes) => ledger.received(at, bytes),
                    Event::Ended(at, outcome) => {
                        large.remove(&at);
                        ledger.end(at, outcome);
                    }
                    Event::Found(at, how) => drop(queue.insert(at, how)),
                },
                Some(done) = tasks.0.join_next() => {
                    if let Err(error) = done && error.is_panic() {
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
            }
        }
        ledger.close()
    }

    /// Asks which contents the peer holds whole, and lets be read from here.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where the connection is gone, [`ErrorKind::Corrupt`] where the peer does not
    /// keep to the protocol.
    pub async fn has(&self, conn: &Connection, hashes: &[Hash]) -> Result<Vec<bool>> {
        self.ask_of_each(conn, hashes, Question::Has).await
    }

    /// Asks the peer to keep contents for a while, and which of them it holds and keeps.
    ///
    /// # Errors
    /// As [`has`](Self::has).
    pub async fn keep(&self, conn: &Connection, hashes: &[Hash]) -> Result<Vec<bool>> {
        self.ask_of_each(conn, hashes, Question::Keep).await
    }

    async fn ask_of_each(
        &self,
        conn: &Connection,
        hashes: &[Hash],
        question: fn(Vec<frames::Raw>) -> Question,
    ) -> Result<Vec<bool>> {
        let asked = async {
            let mut has = Vec::with_capacity(hashes.len());
            let patience = self.options.patience;
            let mut frame = Vec::new();
            for hashes in hashes.chunks(HAS_MAX) {
                let question = question(hashes.iter().map(frames::raw).collect());
                let mut recv = ask(conn, &question, patience).await?;
                match answer(&mut recv, patience, &mut frame).await? {
                    Answer::Has(bits) => has.extend(frames::has(bits.0, hashes.len())?),
                    _ => return Err(unasked()),
                }
            }
            Ok(has)
        };
        let peer = conn.remote_id();
        match asked.await {
            Err(e) if e.kind() == ErrorKind::Io && is_sent_away(conn) => {
                Ok(vec![false; hashes.len()])
            }
            asked => asked.map_err(|e: Error| of_peer(&e, format_args!("{peer}"))),
        }
    }
}

/// Leaves out what is wanted again.
fn once_each(mut wants: Vec<Want>) -> Arc<[Want]> {
    let mut seen = HashSet::new();
    wants.retain(|want| seen.insert(want.hash));
    wants.into()
}

/// What has become of the contents so far.
struct Ledger<P> {
    wants: Arc<[Want]>,
    outcomes: Vec<Option<Outcome>>,
    left: usize,
    held: Arc<Held>,
    progress: P,
}

impl<P: FnMut(Progress<'_>)> Ledger<P> {
    fn received(&mut self, at: usize, bytes: u64) {
        let Want { hash, size, .. } = self.wants[at];
        (self.progress)(Progress::Received { hash, bytes, size });
    }

    fn end(&mut self, at: usize, outcome: Outcome) {
        let hash = self.wants[at].hash;
        if outcome.is_here() {
            self.held.add(hash);
        }
        let outcome = self.outcomes[at].insert(outcome);
        (self.progress)(Progress::Ended { hash, outcome });
        self.left -= 1;
    }

    fn close(self) -> Vec<(Hash, Outcome)> {
        let hashes = self.wants.iter().map(|want| want.hash);
        let ended = hashes.zip(self.outcomes);
        ended
            .filter_map(|(hash, outcome)| Some((hash, outcome?)))
            .collect()
    }
}

/// Looks how each content is to be had, and pins what is here.
fn sort(shared: &Shared, wants: &[Want]) -> Result<Vec<How>> {
    let here: Vec<_> = {
        let txn = shared.store.read()?;
        let hashes = wants.iter().flat_map(|want| [Some(want.hash), want.base]);
        let mut here = Vec::new();
        for hash in hashes.flatten() {
            if txn.has_content(&hash)? {
                here.push(hash);
            }
        }
        here
    };
    shared.pin(&here)?;
    if wants.iter().any(|want| want.hash == Hash::EMPTY) && !here.contains(&Hash::EMPTY) {
        // Everybody has it.
        shared.try_commit(&mut [shared.contents.prepare_bytes(Vec::new())?])?;
    }
    let delta_min = shared.contents.config().delta_min;
    let txn = shared.store.read()?;
    let mut sorted = Vec::with_capacity(wants.len());
    for want in wants {
        let base = match want.base {
            Some(base) if want.size > SMALL_MAX && want.size >= delta_min => txn.content(&base)?,
            _ => None,
        };
        sorted.push(match base {
            _ if txn.has_content(&want.hash)? => How::Here,
            _ if want.size <= SMALL_MAX => How::Small,
            Some(base) if base.size >= delta_min => How::Delta,
            _ => How::Whole,
        });
    }
    Ok(sorted)
}

/// Returns an error that says the same.
fn again(error: &Error) -> Error {
    Error::with_detail(error.kind(), error.message())
}

/// Adds who and what to an error, and takes what breaks the protocol for what it is.
fn of_peer(error: &Error, subject: impl fmt::Display) -> Error {
    let kind = match error.kind() {
        ErrorKind::InvalidInput => ErrorKind::Corrupt,
        kind => kind,
    };
    Error::with_detail(kind, format!("{subject}: {}", error.message()))
}

fn unasked() -> Error {
    malformed("an answer to another question")
}

/// Reads one answer.
async fn answer<'a>(
    recv: &mut (impl AsyncRead + Unpin),
    patience: Duration,
    frame: &'a mut Vec<u8>,
) -> Result<Answer<'a>> {
    let read = async { Ok(frames::read(recv, frames::ANSWER_MAX, frame).await) };
    if !in_time(patience, read).await?? {
        let detail = "the stream ended early";
        return Err(Error::with_detail(ErrorKind::Io, detail));
    }
    frames::answer(frame)
}

/// A small content that is being committed.
struct Committing {
    at: usize,
    done: oneshot::Receiver<Result<()>>,
    _room: OwnedSemaphorePermit,
}

/// A part of a fetch that goes on by itself.
struct Task {
    shared: Arc<Shared>,
    options: FetchOptions,
    room: Arc<Semaphore>,
    conn: Connection,
    wants: Arc<[Want]>,
    events: Events,
    stop: Stop,
}

impl Task {
    fn tell(&self, event: Event) {
        // Whoever is told may be gone.
        let _ = self.events.send(event);
    }

    fn end(&self, at: usize, outcome: Outcome) {
        self.tell(Event::Ended(at, outcome));
    }

    fn fail(&self, at: usize, error: &Error) {
        if error.kind() == ErrorKind::Io && is_sent_away(&self.conn) {
            return self.end(at, Outcome::Missing);
        }
        let (peer, hash) = (self.conn.remote_id(), self.wants[at].hash);
        let error = of_peer(error, format_args!("content {hash} from {peer}"));
        if error.is_corrupt()
            && let Some(contents) = self.shared.refusals.corrupt.count(peer, Instant::now())
        {
            tracing::warn!(%peer, contents, %hash, %error, "a peer sends what does not match");
        }
        self.end(at, Outcome::Failed(error));
    }

    /// Asks for contents on one stream.
    async fn ask_all(self, asked: Vec<(usize, How)>) {
        let mut next = 0;
        let (committing, committed) = mpsc::channel(COMMITTING_COUNT);
        let (mut stop, events) = (self.stop.clone(), self.events.clone());
        let asking = async {
            tokio::select! {
                result = self.try_ask_all(&asked, &mut next, committing) => result,
                _ = stop.changed() => Err(ErrorKind::Cancelled.into()),
            }
        };
        let (result, ()) = tokio::join!(asking, report(events, committed));
        if let Err(error) = result {
            for (at, _) in &asked[next..] {
                self.fail(*at, &error);
            }
        }
    }

    async fn try_ask_all(
        &self,
        asked: &[(usize, How)],
        next: &mut usize,
        committing: mpsc::Sender<Committing>,
    ) -> Result<()> {
        let patience = self.options.patience;
        let opened = async { self.conn.open_bi().await.map_err(io::Error::from) };
        let (send, recv) = in_time(patience, opened).await?;
        let mut recv = BufReader::with_capacity(BUFFER, recv);
        let ask = self.ask(asked, send);
        let take = async {
            let room = Arc::new(Semaphore::new(COMMITTING));
            let mut frame = Vec::new();
            while let Some((at, how)) = asked.get(*next) {
                let answer = answer(&mut recv, patience, &mut frame).await?;
                let want = &self.wants[*at];
                match (answer, how) {
                    (Answer::Missing, _) => self.end(*at, Outcome::Missing),
                    (Answer::Small(bytes), _) => {
                        let room = room.clone().acquire_many_owned(bytes.0.len() as u32).await;
                        let room = room.map_err(io::Error::other)?;
                        match self.prepare(want, bytes.0).await {
                            Ok(done) => {
                                let at = *at;
                                let _room = room;
                                let sent = committing.send(Committing { at, done, _room }).await;
                                sent.map_err(io::Error::other)?;
                            }
                            Err(error) => self.fail(*at, &error),
                        }
                    }
                    (Answer::Large { size } | Answer::Changed { size, .. }, _)
                        if size != want.size =>
                    {
                        let detail = format!("it has {size} bytes there, not {}", want.size);
                        self.fail(*at, &Error::with_detail(ErrorKind::Corrupt, detail));
                    }
                    (Answer::Changed { groups, .. }, How::Delta) => {
                        self.tell(Event::Found(*at, How::Changed(groups)));
                    }
                    (Answer::Large { .. }, How::Delta) => {
                        self.tell(Event::Found(*at, How::Compare));
                    }
                    (Answer::Large { .. }, _) if want.size > SMALL_MAX => {
                        self.tell(Event::Found(*at, How::Whole));
                    }
                    _ => return Err(unasked()),
                }
                *next += 1;
            }
            Ok(())
        };
        tokio::pin!(ask, take);
        tokio::select! {
            result = &mut take => result,
            // Where it cannot ask any more, it hears so when it waits for answers.
            () = &mut ask => take.await,
        }
    }

    async fn ask(&self, asked: &[(usize, How)], mut send: SendStream) {
        for asked in asked.chunks(WANTS_MAX) {
            let asks = asked.iter().map(|(at, how)| {
                let want = &self.wants[*at];
                let base = want.base.filter(|_| matches!(how, How::Delta));
                Ask {
                    hash: frames::raw(&want.hash),
                    base: base.as_ref().map(frames::raw),
                }
            });
            let mut frame = Vec::new();
            let put = put(&mut frame, &Question::Wants(asks.collect()));
            if put.is_err() || send.write_all(&frame).await.is_err() {
                return;
            }
        }
        // The peer may have stopped it.
        let _ = send.finish();
    }

    /// Checks a small content and begins to commit it.
    async fn prepare(&self, want: &Want, bytes: &[u8]) -> Result<oneshot::Receiver<Result<()>>> {
        let bytes = bytes.to_vec();
        let contents = &self.shared.contents;
        let prepared = if bytes.len() as u64 <= contents.config().inline_max {
            contents.prepare_bytes(bytes)?
        } else {
            let work = move |s: &Shared| s.contents.prepare_bytes(bytes);
            self.shared.run(work).await??
        };
        if prepared.hash() != want.hash {
            return Err(Error::with_detail(
                ErrorKind::Corrupt,
                "the bytes do not fit",
            ));
        }
        let hash = prepared.hash();
        let done = self.shared.commit_soon(prepared);
        self.shared.notify(&hash);
        Ok(done)
    }

    /// Fetches a large content.
    async fn large(mut self, at: usize, how: How) {
        let room = self.room.clone();
        let _room = tokio::select! {
            room = room.acquire() => room,
            _ = self.stop.changed() => return,
        };
        let outcome = match how {
            How::Changed(groups) => self.changed(at, Some(groups)).await,
            How::Compare => self.changed(at, None).await,
            _ => self.whole(at).await,
        };
        match outcome {
            Ok(outcome) => self.end(at, outcome),
            Err(error) => self.fail(at, &error),
        }
    }

    async fn whole(&mut self, at: usize) -> Result<Outcome> {
        let Want { hash, size, .. } = self.wants[at];
        let begun = self.shared.run(move |s| s.begin(hash, size)).await??;
        let entry = match begun {
            Begun::Exists(_) => return self.pinned(hash).await,
            Begun::Arriving(entry) => entry,
        };
        let received = self.receive_missing(at, &entry).await;
        drop(entry);
        let is_here = move |s: &Shared| {
            s.settle(&hash)?;
            Ok::<_, Error>(s.size_of(&hash)?.is_some())
        };
        let is_here = self.shared.run(is_here).await??;
        match received {
            // Another peer may have been faster.
            _ if is_here => Ok(Outcome::Fetched),
            Ok(true) => Err(Error::with_detail(ErrorKind::Io, "the store is closed")),
            Ok(false) => Ok(Outcome::Missing),
            Err(error) => Err(error),
        }
    }

    async fn pinned(&self, hash: Hash) -> Result<Outcome> {
        self.shared.run(move |s| s.pin(&[hash])).await??;
        Ok(Outcome::Present)
    }

    /// Receives what is missing of a content; returns whether the peer has it.
    async fn receive_missing(&mut self, at: usize, entry: &Arc<Entry>) -> Result<bool> {
        let Want { hash, size, .. } = self.wants[at];
        loop {
            let arriving = entry.clone();
            // The lock is held over calls that block.
            let look = move |_: &Shared| match &*arriving.state.lock() {
                State::Open(partial) => {
                    let had = partial.groups().count() * GROUP_LEN;
                    Some((missing(size, partial.groups().as_slice()), had))
                }
                State::Finishing(..) | State::Done => None,
            };
            let Some((groups, had)) = self.shared.run(look).await? else {
                entry.finished().await?;
                return Ok(true);
            };
            let sink = ToEntry {
                entry: entry.clone(),
                verifier: Verifier::new(hash, size),
            };
            let events = self.events.clone();
            let progress = move |taken: u64| {
                let bytes = size.min(had + taken);
                let _ = events.send(Event::Received(at, bytes));
            };
            let wanted = Ranges { hash, size, groups };
            let (shared, conn) = (&self.shared, &self.conn);
            let patience = self.options.patience;
            // All may have come before the process died.
            if !wanted.groups.is_empty() {
                let stop = &mut self.stop;
                let received = receive(shared, conn, wanted, sink, patience, stop, progress);
                if received.await?.is_none() {
                    return Ok(false);
                }
            }
            let arrived = entry.clone();
            let complete = shared.run(move |s| arrived.take(s, |_| Ok(()))).await??;
            if let Some((partial, prepared)) = complete {
                entry.finish(shared, partial, prepared).await?;
            }
        }
    }

    /// Fetches what differs from a base; where that does not lead there, all of it.
    async fn changed(&mut self, at: usize, groups: Option<Vec<(u64, u64)>>) -> Result<Outcome> {
        let Want { hash, size, base } = self.wants[at];
        let Some(base) = base else {
            return self.whole(at).await;
        };
        let groups = match groups {
            Some(groups) => Some(groups.iter().map(|(first, n)| *first..first + n).collect()),
            None => self.compare(hash, size, base).await?,
        };
        if let Some(groups) = groups.filter(|groups| is_worth_it(groups, size)) {
            match self.receive_changed(at, base, groups).await {
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) => return Ok(Outcome::Missing),
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                Err(error) => {
                    tracing::debug!(%hash, %base, %error, "no delta");
                }
            }
        }
        self.whole(at).await
    }

    async fn receive_changed(
        &mut self,
        at: usize,
        base: Hash,
        groups: Vec<Range<u64>>,
    ) -> Result<Option<Outcome>> {
        let Want { hash, size, .. } = self.wants[at];
        let sink = ToMemory {
            verifier: Verifier::new(hash, size),
            bytes: Vec::new(),
        };
        let events = self.events.clone();
        let progress = move |taken: u64| {
            let _ = events.send(Event::Received(at, size.min(taken)));
        };
        let wanted = Ranges {
            hash,
            size,
            groups: groups.clone(),
        };
        let (shared, conn) = (&self.shared, &self.conn);
        let patience = self.options.patience;
        let received = receive(
            shared,
            conn,
            wanted,
            sink,
            patience,
            &mut self.stop,
            progress,
        );
        let Some(sink) = received.await? else {
            return Ok(None);
        };
        let prepare = move |s: &Shared| {
            let gone = || Error::with_detail(ErrorKind::NotFound, "the base is gone");
            let base = s.open(&base)?.ok_or_else(gone)?;
            let plan = plan(size, base.size(), &groups);
            let staged = Staged::Bytes(&sink.bytes);
            let prepared = s.contents.prepare_plan_over(Some(&base), staged, &plan)?;
            match prepared.hash() == hash {
                true => Ok(prepared),
                false => Err(malformed("the wrong changes")),
            }
        };
        let prepared = self.shared.run(prepare).await??;
        let committed = self.shared.commit(prepared).await.map_err(Error::from);
        if committed.as_ref().is_err_and(is_gone) {
            tracing::debug!(%hash, %base, "the base was collected");
        }
        committed?;
        let forget = move |s: &Shared| {
            s.forget(&hash);
            s.notify(&hash);
        };
        self.shared.run(forget).await?;
        Ok(Some(Outcome::Fetched))
    }

    /// Finds out which groups a base does not have, from the peer's nodes; nothing where that is
    /// much. The nodes are only believed to say what to ask for.
    async fn compare(&self, hash: Hash, size: u64, base: Hash) -> Result<Option<Vec<Range<u64>>>> {
        let count = group_count(size);
        let max = changed_max(size);
        let mut level = 0;
        while count >> level > NODES_MAX {
            level += 1;
        }
        let mut differing: Vec<_> = std::iter::once(0..count).collect();
        let mut compared = 0;
        loop {
            // The ends that are no whole subtree of this level are looked at further down.
            let (mut found, mut nodes) = (Vec::new(), Vec::new());
            for range in differing {
                let (first, end) = (range.start >> level, range.end >> level);
                nodes.push(first..end);
                found.push(end << level..range.end);
            }
            compared += nodes.iter().map(|r| r.end - r.start).sum::<u64>();
            if compared > COMPARED_MAX {
                return Ok(None);
            }
            for range in nodes {
                let Some(theirs) = self.nodes(hash, level, range.clone()).await? else {
                    return Ok(None);
                };
                let compare = move |s: &Shared| differing_nodes(s, &base, level, range, &theirs);
                found.extend(self.shared.run(compare).await??);
            }
            differing = normalize(found);
            let total: u64 = differing.iter().map(|r| r.end - r.start).sum();
            if level == 0 {
                return Ok((total <= max && differing.len() <= RANGES_MAX).then_some(differing));
            }
            level = level.saturating_sub(STEP);
        }
    }

    /// Asks for nodes of a content's tree.
    async fn nodes(&self, hash: Hash, level: u32, range: Range<u64>) -> Result<Option<Vec<u8>>> {
        let mut nodes = Vec::new();
        let patience = self.options.patience;
        let mut frame = Vec::new();
        let mut first = range.start;
        while first < range.end {
            let count = (range.end - first).min(NODES_MAX);
            let question = Question::Nodes {
                hash: frames::raw(&hash),
                level: level as u8,
                first,
                count,
            };
            let mut recv: RecvStream = ask(&self.conn, &question, patience).await?;
            match answer(&mut recv, patience, &mut frame).await? {
                Answer::Nodes(bytes) if bytes.0.len() as u64 == count * CV_LEN => {
                    nodes.extend_from_slice(bytes.0);
                }
                Answer::Missing => return Ok(None),
                _ => return Err(unasked()),
            }
            first += count;
        }
        Ok(Some(nodes))
    }
}

/// Tells of contents as they are committed.
async fn report(events: Events, mut committing: mpsc::Receiver<Committing>) {
    while let Some(Committing { at, done, _room }) = committing.recv().await {
        let outcome = match done.await {
            Ok(Ok(())) => Outcome::Fetched,
            Ok(Err(error)) => Outcome::Failed(error),
            Err(_) => Outcome::Failed(Error::with_detail(ErrorKind::Io, "the store is closed")),
        };
        let _ = events.send(Event::Ended(at, outcome));
    }
}

/// Returns the groups that are not there, in as many ranges as one question may name.
fn missing(size: u64, there: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut missing = Vec::new();
    let mut at = 0;
    let end = group_count(size);
    for range in there.iter().cloned().chain(std::iter::once(end..end)) {
        if at < range.start {
            missing.push(at..range.start);
        }
        at = range.end;
    }
    missing.truncate(RANGES_MAX);
    missing
}

/// Tells whether the groups that differ are inside the content, and few enough to be kept in memory.
fn is_worth_it(groups: &[Range<u64>], size: u64) -> bool {
    let total: u64 = groups.iter().map(|r| r.end - r.start).sum();
    let is_inside = groups.last().is_none_or(|r| r.end <= group_count(size));
    is_inside && total <= changed_max(size)
}

/// Returns the plan that takes some groups from what has come, and the others from a base.
fn plan(size: u64, base_size: u64, groups: &[Range<u64>]) -> AssemblyPlan {
    let mut segments: Vec<Segment> = Vec::new();
    let (mut at, mut staged) = (0, 0);
    let mut push = |offset: u64, end: u64, source| {
        if offset < end {
            let len = end - offset;
            segments.push(Segment {
                offset,
                len,
                source,
            });
        }
    };
    let end = size.min(base_size);
    for range in groups {
        let (first, after) = (range.start * GROUP_LEN, size.min(range.end * GROUP_LEN));
        push(at, first, Source::Base(at));
        push(first, after, Source::Staged(staged));
        staged += after - first;
        at = after;
    }
    push(at, end.max(at), Source::Base(at));
    AssemblyPlan { size, segments }
}

/// Returns the groups below those nodes that a base does not have.
fn differing_nodes(
    shared: &Shared,
    base: &Hash,
    level: u32,
    range: Range<u64>,
    theirs: &[u8],
) -> Result<Vec<Range<u64>>> {
    let gone = || Error::with_detail(ErrorKind::NotFound, "the base is gone");
    let base = shared.open(base)?.ok_or_else(gone)?;
    let nodes = base.nodes()?;
    let there = group_count(base.size()) >> level;
    let (theirs, _) = theirs.as_chunks();
    let mut differing = Vec::new();
    for (index, node) in range.zip(theirs) {
        if index >= there || nodes.node(level, index)? != *node {
            differing.push(index << level..(index + 1) << level);
        }
    }
    Ok(differing)
}
