//! Who can be asked for contents.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet_fs_core::Hash;
use alknet_fs_core::store::BucketId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::progress::{Cancel, Progress};

/// A content that is not here and that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// The bucket that refers to it: its peers can be asked.
    pub bucket: BucketId,
    /// Its hash.
    pub hash: Hash,
    /// Its size in bytes, as its entry says.
    pub size: u64,
    /// A content that is here and that it was probably made from, so that what they have in common
    /// need not travel.
    pub base: Option<Hash>,
    /// How much of a hurry there is.
    pub priority: Priority,
}

/// How much of a hurry there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Priority {
    /// Nobody waits.
    Background,
    /// Somebody asked for it, and waits for as long as it comes: where nobody is there to be asked, for
    /// the bucket's timeout.
    Asked,
    /// Somebody waits, until the deadline.
    Read,
}

/// What became of a [`Want`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It is here: committed to the store.
    Here {
        /// The peer it came from, where there is one.
        from: Option<String>,
    },
    /// All peers that could be asked said that they do not have it.
    Nobody {
        /// Who was asked.
        asked: Vec<String>,
    },
    /// It could not be fetched.
    Failed {
        /// Who was asked.
        asked: Vec<String>,
        /// Why.
        why: String,
    },
}

impl Outcome {
    /// Returns who was asked in vain.
    pub(super) fn asked(&self) -> &[String] {
        match self {
            Self::Here { .. } => &[],
            Self::Nobody { asked } | Self::Failed { asked, .. } => asked,
        }
    }
}

/// Fetches contents from peers: a node, or what stands for one in tests.
///
/// Calls come from threads of their own, several at a time, and may block; none comes from a thread of
/// an async runtime. Peers are named by text that a person can tell them by, the same for one peer at
/// any time.
pub trait ContentSource: Send + Sync {
    /// Brings contents here: fetches and verifies them, and commits them to the store.
    ///
    /// Tells `fetch` what becomes of each want as soon as that is known; one of which nothing is told
    /// counts as failed. Ends by the deadline, and soon after it is cancelled. What has arrived of a
    /// content until then is kept for the next attempt where the source can do that.
    fn fetch(&self, wants: &[Want], fetch: &Fetch);

    /// Asks which peers hold contents of a bucket and promise to keep them for
    /// [`PROMISE`](super::PROMISE), however much they would like to evict them: contents are removed
    /// here on the strength of the answer.
    ///
    /// Returns, for each hash, the peers that said so in answer to this call, until the deadline. A
    /// peer answers by [`Store::promise_contents`](crate::Store::promise_contents).
    fn holders(&self, bucket: BucketId, hashes: &[Hash], deadline: Instant) -> Vec<Vec<String>>;

    /// Is told of contents that were evicted.
    fn evicted(&self, _hashes: &[Hash]) {}
}

/// One call of [`ContentSource::fetch`]: until when, and what becomes of it. Clones stand for the same
/// call.
#[derive(Clone)]
pub struct Fetch(Arc<Inner>);

struct Inner {
    deadline: Instant,
    cancel: Cancel,
    state: Mutex<State>,
    tell: Box<dyn Fn(Told) + Send + Sync>,
}

#[derive(Default)]
struct State {
    asked: BTreeMap<usize, Vec<String>>,
    done: BTreeMap<usize, Outcome>,
}

/// What a source says of a want, by its place.
pub(crate) enum Told {
    Asking(usize, String),
    Bytes(usize, u64),
    Waiting(usize, String),
    Done(usize, Outcome),
}

impl Told {
    /// Returns the place of the want.
    pub(super) fn want(&self) -> usize {
        let (Self::Asking(want, _)
        | Self::Bytes(want, _)
        | Self::Waiting(want, _)
        | Self::Done(want, _)) = self;
        *want
    }
}

impl Fetch {
    /// Creates a call for who asks a source by themselves, as tests do; returns what was told by
    /// [`outcomes`](Self::outcomes).
    pub fn new(timeout: Duration, cancel: &Cancel) -> Self {
        Self::told(Instant::now() + timeout, cancel, |_| {})
    }

    pub(crate) fn told(
        deadline: Instant,
        cancel: &Cancel,
        tell: impl Fn(Told) + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            deadline,
            cancel: cancel.clone(),
            state: Mutex::default(),
            tell: Box::new(tell),
        }))
    }

    /// Returns until when there is time.
    pub fn deadline(&self) -> Instant {
        self.0.deadline
    }

    /// Returns the switch by which the call is cancelled.
    pub fn cancel(&self) -> &Cancel {
        &self.0.cancel
    }

    /// Tells whether there is nothing left to wait for: the call was cancelled, or its time is over.
    pub fn is_over(&self) -> bool {
        self.0.cancel.is_cancelled() || Instant::now() >= self.0.deadline
    }

    /// Says that a peer is being asked for the want at a place.
    pub fn asking(&self, want: usize, peer: &str) {
        let mut state = self.0.state.lock();
        let asked = state.asked.entry(want).or_default();
        if !asked.iter().any(|other| other == peer) {
            asked.push(peer.to_owned());
        }
        drop(state);
        (self.0.tell)(Told::Asking(want, peer.to_owned()));
    }

    /// Says how many bytes of the want at a place have arrived.
    pub fn arrived(&self, want: usize, bytes: u64) {
        (self.0.tell)(Told::Bytes(want, bytes));
    }

    /// Says what the want at a place waits for: who may have it cannot be asked now. That is so until
    /// somebody is [asked](Self::asking).
    pub fn waiting(&self, want: usize, why: &str) {
        (self.0.tell)(Told::Waiting(want, why.to_owned()));
    }

    /// Says what has become of the want at a place. Only the first word counts.
    pub fn done(&self, want: usize, outcome: Outcome) {
        let mut state = self.0.state.lock();
        if state.done.contains_key(&want) {
            return;
        }
        state.done.insert(want, outcome.clone());
        drop(state);
        (self.0.tell)(Told::Done(want, outcome));
    }

    /// Returns what was said of the first `wants` wants; of which nothing was, they have failed.
    pub fn outcomes(&self, wants: usize) -> Vec<Outcome> {
        let state = self.0.state.lock();
        let outcome = |want| match state.done.get(&want) {
            Some(outcome) => outcome.clone(),
            None => Outcome::Failed {
                asked: state.asked.get(&want).cloned().unwrap_or_default(),
                why: match self.0.cancel.is_cancelled() {
                    true => "it was cancelled".to_owned(),
                    false => "it took too long".to_owned(),
                },
            },
        };
        (0..wants).map(outcome).collect()
    }
}

impl std::fmt::Debug for Fetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetch")
            .field("deadline", &self.0.deadline)
            .finish_non_exhaustive()
    }
}

/// How long a call waits for contents that are not here, and who follows it.
///
/// Set on a [`Branch`](crate::Branch) or a [`View`](crate::View), for all that is read through it.
///
/// ```
/// use std::time::Duration;
/// # fn main() -> alknet_fs::Result<()> {
/// # let main = alknet_fs::Store::memory()?.bucket("default")?.main()?;
/// # main.write("/a", "data")?;
/// let patient = main.fetching(&alknet_fs::Fetching::new().timeout(Duration::from_secs(600)));
/// assert_eq!(patient.read("/a")?, b"data");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Fetching {
    pub(crate) timeout: Option<Duration>,
    pub(crate) task: crate::Task,
    /// Thrown when nobody waits for the call any more.
    pub(crate) dropped: Cancel,
    waiting: Waiting,
}

/// What is called while a call waits.
#[derive(Clone, Default)]
struct Waiting(Option<Arc<dyn Fn() -> alknet_fs_core::Result<()> + Send + Sync>>);

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "called" } else { "-" })
    }
}

impl Fetching {
    /// Creates options with the timeout of the bucket's [`ContentPolicy`](crate::ContentPolicy), that
    /// nobody follows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how long to wait for each content; with zero, only what is here can be read.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Lets a task follow and cancel the waiting. Its progress counts the bytes of the content that is
    /// waited for.
    #[must_use]
    pub fn task(mut self, task: &crate::Task) -> Self {
        self.task = task.clone();
        self
    }

    /// Calls a function in the thread that has to wait: before it does, and then every 50 ms. Its error
    /// ends the wait. That is how an interpreter notices its signals, and how a thread that must not
    /// wait says so.
    #[must_use]
    pub fn while_waiting(
        mut self,
        check: impl Fn() -> alknet_fs_core::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.waiting = Waiting(Some(Arc::new(check)));
        self
    }

    pub(crate) fn check(&self) -> alknet_fs_core::Result<()> {
        self.dropped.check()?;
        if let Some(check) = &self.waiting.0 {
            check()?;
        }
        self.task.cancel().check()
    }

    pub(crate) fn step(&self, bytes: u64, total_bytes: u64) -> alknet_fs_core::Result<()> {
        self.task.step(Progress {
            bytes,
            total_bytes,
            ..Progress::default()
        })
    }
}
