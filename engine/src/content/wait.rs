//! Waiting for contents to arrive.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use alknet_fs_core::store::{Durability, JobId, JobOptions};
use alknet_fs_core::{Error, ErrorKind, Hash, Result};
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};

use super::fetch::why_not;
use super::source::Told;
use super::{ContentSource, Fetch, Fetching, Outcome, READS, Want, unavailable};
use crate::progress::{Cancel, Task};
use crate::store::Inner;

/// How many calls of the source run at a time, but for those that wait for somebody who is away.
const THREADS: usize = 8;

/// How many of these may be beside them.
const ASIDE: usize = 256;

/// How many wants that came together go into one call.
const TOGETHER: usize = 64;

/// How soon a waiting call notices that it was cancelled.
const CANCELLED: Duration = Duration::from_millis(50);

/// How much longer than those who wait a call of the source may take.
const LATER: Duration = Duration::from_secs(1);

/// How long a call waits for a process to come that runs a node.
const NODE: Duration = Duration::from_secs(2);

/// The contents that calls of this process wait for, and who is asked for them.
#[derive(Default)]
pub(crate) struct Hub {
    source: Mutex<Option<Arc<dyn ContentSource>>>,
    /// The bytes that came here since somebody last asked.
    arrived: Arc<AtomicU64>,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    flights: HashMap<Hash, Arc<Flight>>,
    queue: VecDeque<Arc<Flight>>,
    threads: usize,
    /// How many calls wait beside the threads.
    aside: usize,
}

/// A content on its way here, and all who wait for it.
pub(super) struct Flight {
    want: Want,
    deadline: Instant,
    state: Mutex<FlightState>,
    changed: Condvar,
}

#[derive(Default)]
struct FlightState {
    waiting: usize,
    said: Said,
    call: Option<Arc<Call>>,
}

/// One call of the source, for several flights.
struct Call {
    cancel: Cancel,
    /// For how many of its flights somebody still waits.
    wanted: Mutex<usize>,
    /// Whether it waits beside the threads, or is over.
    aside: AtomicBool,
}

/// What is known of a content that somebody waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Said {
    pub(super) asked: Vec<String>,
    pub(super) bytes: u64,
    /// Who may have it and cannot be asked now; empty where there is nobody.
    #[serde(default)]
    pub(super) waiting: String,
    pub(super) outcome: Option<Outcome>,
}

impl Said {
    pub(super) fn hear(&mut self, told: Told) {
        match told {
            Told::Asking(_, peer) => {
                self.waiting.clear();
                if !self.asked.contains(&peer) {
                    self.asked.push(peer);
                }
            }
            Told::Bytes(_, bytes) => self.bytes = bytes,
            Told::Waiting(_, why) => self.waiting = why,
            Told::Done(_, outcome) => self.outcome = Some(outcome),
        }
    }
}

impl Hub {
    pub(super) fn source(&self) -> Option<Arc<dyn ContentSource>> {
        self.source.lock().clone()
    }

    pub(crate) fn set_source(&self, source: Option<Arc<dyn ContentSource>>) {
        *self.source.lock() = source;
    }

    pub(super) fn add_arrived(&self, bytes: u64) {
        self.arrived.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn take_arrived(&self) -> u64 {
        self.arrived.swap(0, Ordering::Relaxed)
    }

    /// Joins those who wait for a content, or asks for it as the first.
    pub(super) fn join(
        &self,
        source: &Arc<dyn ContentSource>,
        want: Want,
        deadline: Instant,
    ) -> Arc<Flight> {
        let mut shared = self.shared.lock();
        if let Some(flight) = shared.flights.get(&want.hash) {
            let mut state = flight.state.lock();
            state.waiting += 1;
            drop(state);
            return Arc::clone(flight);
        }
        let flight = Arc::new(Flight {
            // Whoever waits gives up first, and knows best what to say of it.
            deadline: deadline + LATER,
            state: Mutex::new(FlightState {
                waiting: 1,
                ..FlightState::default()
            }),
            changed: Condvar::new(),
            want,
        });
        shared.flights.insert(flight.want.hash, Arc::clone(&flight));
        shared.queue.push_back(Arc::clone(&flight));
        let asking = Asking {
            shared: Arc::clone(&self.shared),
            arrived: Arc::clone(&self.arrived),
            source: Arc::clone(source),
        };
        match asking.begin(&mut shared) {
            Ok(()) => {}
            Err(error) if shared.threads == 0 => {
                let asked = Vec::new();
                let why = format!("no thread can be started: {error}");
                shared.queue.clear();
                flight.say(Told::Done(0, Outcome::Failed { asked, why }));
                shared.flights.remove(&flight.want.hash);
            }
            Err(error) => tracing::warn!(%error, "fetching with fewer threads"),
        }
        flight
    }

    /// Stops waiting; a content that nobody waits for any more need not come.
    pub(super) fn leave(&self, flight: &Arc<Flight>) {
        let mut shared = self.shared.lock();
        let mut state = flight.state.lock();
        state.waiting -= 1;
        if state.waiting > 0 {
            return;
        }
        if let Some(call) = state.call.take() {
            call.drop_one();
        }
        drop(state);
        shared.forget(flight);
    }

    /// Waits until it is known what becomes of a flight; nothing means that the time passed.
    pub(super) fn wait(
        flight: &Flight,
        deadline: Instant,
        fetching: &Fetching,
    ) -> Result<(Said, bool)> {
        let mut reported = None;
        let mut state = flight.state.lock();
        loop {
            let said = state.said.clone();
            if said.outcome.is_some() {
                return Ok((said, true));
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok((said, false));
            }
            if reported.replace(said.bytes) != Some(said.bytes) {
                parking_lot::MutexGuard::unlocked(&mut state, || {
                    fetching.step(said.bytes, flight.want.size)
                })?;
                continue;
            }
            fetching.check()?;
            let until = deadline.min(now + CANCELLED);
            flight.changed.wait_until(&mut state, until);
        }
    }
}

impl Shared {
    fn forget(&mut self, flight: &Arc<Flight>) {
        let hash = &flight.want.hash;
        if self
            .flights
            .get(hash)
            .is_some_and(|other| Arc::ptr_eq(other, flight))
        {
            self.flights.remove(hash);
        }
    }
}

impl Flight {
    fn say(&self, told: Told) {
        self.state.lock().said.hear(told);
        self.changed.notify_all();
    }

    /// Tells whether it failed because its time was over, while somebody has time until a deadline: whoever
    /// asked first had less.
    pub(super) fn is_outlived(&self, said: &Said, deadline: Instant) -> bool {
        matches!(said.outcome, Some(Outcome::Failed { .. }))
            && self.deadline < deadline
            && Instant::now() >= self.deadline
    }
}

impl Call {
    fn drop_one(&self) {
        let mut wanted = self.wanted.lock();
        *wanted -= 1;
        if *wanted == 0 {
            self.cancel.cancel();
        }
    }
}

/// What a thread needs that asks for what is queued.
#[derive(Clone)]
struct Asking {
    shared: Arc<Mutex<Shared>>,
    arrived: Arc<AtomicU64>,
    source: Arc<dyn ContentSource>,
}

impl Asking {
    /// Starts a thread where something is queued and there may be one more.
    fn begin(&self, shared: &mut Shared) -> std::io::Result<()> {
        if shared.threads >= THREADS || shared.queue.is_empty() {
            return Ok(());
        }
        let this = self.clone();
        let builder = thread::Builder::new().name("alknet-fs-fetch".to_owned());
        builder.spawn(move || this.run())?;
        shared.threads += 1;
        Ok(())
    }

    /// Lets another thread ask for what is queued, since this call waits for somebody who may never come.
    fn step_aside(&self, call: &Call) {
        let mut shared = self.shared.lock();
        if shared.aside >= ASIDE || call.aside.swap(true, Ordering::AcqRel) {
            return;
        }
        shared.aside += 1;
        shared.threads -= 1;
        if let Err(error) = self.begin(&mut shared) {
            tracing::warn!(%error, "fetching with fewer threads");
        }
    }

    /// Asks for what is queued, until nothing is.
    fn run(&self) {
        loop {
            let mut queued = self.shared.lock();
            let count = queued.queue.len().min(TOGETHER);
            let taken: Vec<_> = queued.queue.drain(..count).collect();
            if taken.is_empty() {
                queued.threads -= 1;
                return;
            }
            let call = Arc::new(Call {
                cancel: Cancel::new(),
                wanted: Mutex::new(0),
                aside: AtomicBool::new(false),
            });
            let mut flights = Vec::new();
            for flight in taken {
                let mut state = flight.state.lock();
                if state.waiting == 0 {
                    continue;
                }
                state.call = Some(Arc::clone(&call));
                *call.wanted.lock() += 1;
                drop(state);
                flights.push(flight);
            }
            drop(queued);
            let Some(deadline) = flights.iter().map(|flight| flight.deadline).max() else {
                continue;
            };
            let wants: Vec<_> = flights.iter().map(|flight| flight.want.clone()).collect();
            let (told, asking, of) = (flights.clone(), self.clone(), Arc::clone(&call));
            let fetch = Fetch::told(deadline, &call.cancel, move |say| {
                if matches!(say, Told::Waiting(..)) {
                    asking.step_aside(&of);
                }
                if let Some(flight) = told.get(say.want()) {
                    if matches!(say, Told::Done(..)) {
                        asking.shared.lock().forget(flight);
                    }
                    flight.say(say);
                }
            });
            let mut part = Part {
                shared: &self.shared,
                flights,
                call,
            };
            self.source.fetch(&wants, &fetch);
            let outcomes = fetch.outcomes(wants.len());
            for (want, outcome) in wants.iter().zip(&outcomes) {
                if matches!(outcome, Outcome::Here { .. }) {
                    self.arrived.fetch_add(want.size, Ordering::Relaxed);
                }
            }
            if !part.close(outcomes) {
                return;
            }
        }
    }
}

/// A thread's part in a call, which ends however the call does.
struct Part<'a> {
    shared: &'a Mutex<Shared>,
    flights: Vec<Arc<Flight>>,
    call: Arc<Call>,
}

impl Part<'_> {
    /// Says of all of which nothing was said what became of them. Returns whether the thread is to go on:
    /// where its call stepped aside, others may be in its place.
    fn close(&mut self, outcomes: Vec<Outcome>) -> bool {
        let mut shared = self.shared.lock();
        for (flight, outcome) in self.flights.drain(..).zip(outcomes) {
            shared.forget(&flight);
            let open = flight.state.lock().said.outcome.is_none();
            if open {
                flight.say(Told::Done(0, outcome));
            }
        }
        if self.call.aside.swap(true, Ordering::AcqRel) {
            shared.aside -= 1;
            if shared.threads >= THREADS {
                return false;
            }
            shared.threads += 1;
        }
        true
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let failed = Outcome::Failed {
            asked: Vec::new(),
            why: "the fetch panicked".to_owned(),
        };
        let outcomes = vec![failed; self.flights.len()];
        if self.close(outcomes) {
            self.shared.lock().threads -= 1;
        }
    }
}

impl Inner {
    /// Waits until a content is here.
    pub(super) fn bring(&self, want: Want, timeout: Duration, fetching: &Fetching) -> Result<()> {
        let now = Instant::now();
        // A timeout too long to add is as good as for ever.
        let deadline = now.checked_add(timeout);
        let deadline = deadline.unwrap_or(now + Duration::from_secs(365 * 86_400));
        if timeout.is_zero() {
            return Err(unavailable(&want.hash, "it is not waited for", &[]));
        }
        fetching.check()?;
        match self.hub.source() {
            Some(source) => self.bring_from(&source, want, deadline, timeout, fetching),
            None => self.bring_by_queue(&want, deadline, timeout, fetching),
        }
    }

    fn bring_from(
        &self,
        source: &Arc<dyn ContentSource>,
        want: Want,
        deadline: Instant,
        timeout: Duration,
        fetching: &Fetching,
    ) -> Result<()> {
        loop {
            let flight = self.hub.join(source, want.clone(), deadline);
            let waited = Hub::wait(&flight, deadline, fetching);
            self.hub.leave(&flight);
            let (said, known) = waited?;
            match known {
                true if flight.is_outlived(&said, deadline) => {}
                true => return conclude(&want, &said, timeout),
                false => return Err(late(&want, &said, timeout)),
            }
        }
    }

    /// Waits for the process that has a source to bring a content.
    fn bring_by_queue(
        &self,
        want: &Want,
        deadline: Instant,
        timeout: Duration,
        fetching: &Fetching,
    ) -> Result<()> {
        if self.disk.is_none() {
            return Err(unavailable(&want.hash, NO_NODE, &[]));
        }
        let job = self.queue_read(want, timeout)?;
        let waited = self.wait_for_job(job, want, deadline, fetching);
        if !matches!(&waited, Ok(Waited::Said(_))) {
            // Whoever has claimed it will find that nobody waits.
            let mut txn = self.tree.write(Durability::Relaxed)?;
            txn.cancel_job(job)?;
            txn.commit()?;
        }
        match waited? {
            Waited::Here => Ok(()),
            Waited::Said(said) => conclude(want, &said, timeout),
            Waited::Late(said) => Err(late(want, &said, timeout)),
            Waited::NoNode => Err(unavailable(&want.hash, NO_NODE, &[])),
        }
    }

    fn queue_read(&self, want: &Want, timeout: Duration) -> Result<JobId> {
        let seconds = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
        let payload = encode(&Read {
            want: want.clone(),
            seconds: seconds.saturating_add(1),
        })?;
        let options = JobOptions {
            expires: Some(seconds.saturating_add(1)),
            ..JobOptions::default()
        };
        let mut txn = self.tree.write(Durability::Relaxed)?;
        let job = txn.enqueue(READS, &payload, &options)?;
        txn.commit()?;
        Ok(job)
    }

    fn wait_for_job(
        &self,
        job: JobId,
        want: &Want,
        deadline: Instant,
        fetching: &Fetching,
    ) -> Result<Waited> {
        let grace = Instant::now() + NODE;
        let mut seen = 0;
        let mut last = Said::default();
        let mut reported = None;
        loop {
            let txn = self.tree.read()?;
            if txn.has_content(&want.hash)? {
                return Ok(Waited::Here);
            }
            if let Some(said) = txn.job_result(job)?
                && let Ok(said) = serde_json::from_str::<Said>(&said)
            {
                last = said;
            }
            drop(txn);
            if last.outcome.is_some() {
                return Ok(Waited::Said(last));
            }
            if reported.replace(last.bytes) != Some(last.bytes) {
                fetching.step(last.bytes, want.size)?;
            }
            fetching.check()?;
            let now = Instant::now();
            if now >= deadline {
                return Ok(Waited::Late(last));
            }
            if now >= grace && !self.keeper.is_serving()? {
                return Ok(Waited::NoNode);
            }
            let step = CANCELLED.min(deadline - now);
            seen = self.tree.wait_for_commit(seen, step)?;
        }
    }
}

const NO_NODE: &str = "no process of this store runs a node that could fetch it";

impl Inner {
    /// Queues a request for the process with a source, and waits for its answer.
    pub(super) fn ask_node(
        &self,
        queue: &str,
        request: &str,
        options: &JobOptions,
        task: &Task,
    ) -> Result<String> {
        let no_node = "no process of this store runs a node: start one with `alkfs node`";
        let no_node = || Error::with_detail(ErrorKind::ContentUnavailable, no_node);
        if self.disk.is_none() {
            return Err(no_node());
        }
        let mut txn = self.tree.write(Durability::Relaxed)?;
        let job = txn.enqueue(queue, request, options)?;
        txn.commit()?;
        let grace = Instant::now() + NODE;
        let mut seen = 0;
        let mut wait = || {
            loop {
                if let Some(answer) = self.tree.read()?.job_result(job)? {
                    return Ok(answer);
                }
                task.cancel().check()?;
                if Instant::now() >= grace && !self.keeper.is_serving()? {
                    return Err(no_node());
                }
                seen = self.tree.wait_for_commit(seen, CANCELLED)?;
            }
        };
        let answer = wait();
        if answer.is_err() {
            let mut txn = self.tree.write(Durability::Relaxed)?;
            txn.cancel_job(job)?;
            txn.commit()?;
        }
        answer
    }
}

/// A job of the queue [`READS`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Read {
    pub(super) want: Want,
    /// For how long somebody waits.
    pub(super) seconds: u32,
}

enum Waited {
    Here,
    Said(Said),
    Late(Said),
    NoNode,
}

pub(super) fn encode(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::new(ErrorKind::Io).source(e))
}

fn conclude(want: &Want, said: &Said, timeout: Duration) -> Result<()> {
    match &said.outcome {
        Some(Outcome::Here { .. }) => Ok(()),
        Some(outcome) => Err(unavailable(&want.hash, &why_not(outcome), outcome.asked())),
        None => Err(late(want, said, timeout)),
    }
}

fn late(want: &Want, said: &Said, timeout: Duration) -> Error {
    let mut known = match said.asked.is_empty() {
        true => "nobody answered".to_owned(),
        false => format!("asked: {}", said.asked.join(", ")),
    };
    if !said.waiting.is_empty() {
        known = format!("{known}; {}", said.waiting);
    }
    let why = format!("it did not arrive within {timeout:?} ({known})");
    unavailable(&want.hash, &why, &said.asked)
}
