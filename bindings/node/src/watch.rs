//! Watching events.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use alknet_fs::{Cancel, Error, Event, EventPeer, Store, Watcher};
use napi::Status;
use napi::bindgen_prelude::{BigInt, Function};
use napi::threadsafe_function::{ThreadsafeFunction, ThreadsafeFunctionCallMode};
use napi_derive::napi;
use parking_lot::Mutex;

use crate::convert::{FilterOptions, cursor};
use crate::handle::Handle;
use crate::job::{now, packed, said};

/// How long a thread that waits for events takes at most to notice that it shall end.
const STEP: Duration = Duration::from_millis(100);

/// The most events that cross at a time.
const BATCH: usize = 64;

/// One committed change.
#[napi(object)]
pub struct EventInfo {
    pub cursor: f64,
    pub at: BigInt,
    pub author: String,
    pub bucket: String,
    pub branch: String,
    pub session: Option<f64>,
    pub op: String,
    pub path: Option<String>,
    pub from: Option<String>,
    pub kind: Option<String>,
    pub old: Option<String>,
    pub new: Option<String>,
    pub size: Option<f64>,
    pub name: Option<String>,
    pub peer: Option<EventPeerInfo>,
}

/// A node that something came from.
#[napi(object)]
pub struct EventPeerInfo {
    pub id: String,
    pub name: Option<String>,
}

impl From<EventPeer> for EventPeerInfo {
    fn from(peer: EventPeer) -> Self {
        Self {
            id: peer.id,
            name: peer.name,
        }
    }
}

impl From<Event> for EventInfo {
    fn from(event: Event) -> Self {
        let change = event.change;
        Self {
            cursor: event.cursor.0 as f64,
            at: event.at.0.into(),
            author: event.author,
            bucket: event.bucket,
            branch: event.branch,
            session: event.session.map(|id| id.0 as f64),
            op: change.op.name().to_owned(),
            path: change.path.map(|path| path.as_str().to_owned()),
            from: change.from.map(|path| path.as_str().to_owned()),
            kind: change.kind.map(|kind| kind.name().to_owned()),
            old: change.old.map(|hash| hash.to_hex()),
            new: change.new.map(|hash| hash.to_hex()),
            size: change.size.map(|size| size as f64),
            name: change.name,
            peer: event.peer.map(EventPeerInfo::from),
        }
    }
}

/// What to watch.
#[napi(object)]
pub struct WatchOptions {
    /// Nothing for all buckets.
    pub bucket: Option<String>,
    pub filter: FilterOptions,
    /// Nothing for events from now on.
    pub after: Option<f64>,
}

/// The next events, or why there are none: a packed error.
#[napi(object)]
pub struct Delivery {
    pub events: Vec<EventInfo>,
    /// The position after these events, and after those since that did not pass the filter.
    pub cursor: f64,
    pub error: Option<String>,
}

impl Delivery {
    fn failed(error: String) -> Self {
        Self {
            events: Vec::new(),
            cursor: 0.0,
            error: Some(error),
        }
    }
}

/// Calls the function that takes deliveries. It does not keep the process alive; the TypeScript
/// layer does that while somebody waits.
type Deliver = ThreadsafeFunction<Delivery, (), Delivery, Status, false, true>;

/// A watcher, with a thread of its own from the first time that it has to wait.
#[napi]
pub struct WatchHandle {
    watcher: Handle<Mutex<Watcher>>,
    stop: Cancel,
    asked: Mutex<Asked>,
}

enum Asked {
    /// Nothing was waited for yet.
    Never(Option<Deliver>),
    /// The thread takes requests.
    Running(Sender<()>),
}

impl WatchHandle {
    pub(crate) fn start(
        store: &Handle<Store>,
        options: WatchOptions,
        deliver: Function<'_, Delivery, ()>,
    ) -> napi::Result<Self> {
        let deliver = deliver
            .build_threadsafe_function::<Delivery>()
            .weak::<true>()
            .build()?;
        let watcher = now(|| {
            let options = alknet_fs::WatchOptions {
                bucket: options.bucket,
                filter: options.filter.filter()?,
                after: options.after.map(cursor).transpose()?,
            };
            store.get()?.watch(&options)
        })?;
        Ok(Self {
            watcher: store.with("watcher", Mutex::new(watcher)),
            stop: Cancel::new(),
            asked: Mutex::new(Asked::Never(Some(deliver))),
        })
    }
}

#[napi]
impl WatchHandle {
    /// The position after the last delivered event.
    #[napi]
    pub fn cursor(&self) -> napi::Result<f64> {
        now(|| Ok(self.watcher.get()?.lock().cursor().0 as f64))
    }

    /// Takes the next event that is committed already. Not while a delivery is awaited.
    #[napi]
    pub fn poll(&self) -> napi::Result<Option<EventInfo>> {
        now(|| {
            // The log is asked, and not only what a thread noticed of it.
            let event = self.watcher.get()?.lock().next_timeout(Duration::ZERO)?;
            Ok(event.map(EventInfo::from))
        })
    }

    /// Asks for one delivery.
    #[napi]
    pub fn wait(&self) -> napi::Result<()> {
        now(|| {
            let mut asked = self.asked.lock();
            if let Asked::Never(deliver) = &mut *asked {
                let watcher = self.watcher.clone();
                let (sender, requests) = channel();
                if let Some(deliver) = deliver.take() {
                    let stop = self.stop.clone();
                    thread::Builder::new()
                        .name("alkfs-watch".to_owned())
                        .spawn(move || serve(&watcher, &requests, &stop, &deliver))?;
                }
                *asked = Asked::Running(sender);
            }
            if let Asked::Running(sender) = &*asked {
                // A thread that has ended was told to, and nobody waits for it.
                let _ = sender.send(());
            }
            Ok(())
        })
    }

    /// Ends the thread. What was asked for is not delivered any more.
    #[napi]
    pub fn stop(&self) {
        self.end();
    }
}

impl WatchHandle {
    fn end(&self) {
        self.stop.cancel();
        *self.asked.lock() = Asked::Never(None);
        self.watcher.close();
    }
}

impl Drop for WatchHandle {
    fn drop(&mut self) {
        self.end();
    }
}

fn serve(
    watcher: &Handle<Mutex<Watcher>>,
    requests: &Receiver<()>,
    stop: &Cancel,
    deliver: &Deliver,
) {
    while requests.recv().is_ok() {
        let outcome = catch_unwind(AssertUnwindSafe(|| next(watcher, stop)));
        let delivery = match outcome {
            Ok(Ok(None)) => return,
            Ok(Ok(Some(delivery))) => delivery,
            Ok(Err(error)) => Delivery::failed(packed(&error)),
            Err(panic) => Delivery::failed(said(&*panic)),
        };
        let status = deliver.call(delivery, ThreadsafeFunctionCallMode::NonBlocking);
        if status != Status::Ok {
            return;
        }
    }
}

/// Waits for events. Nothing means that the thread shall end.
fn next(watcher: &Handle<Mutex<Watcher>>, stop: &Cancel) -> Result<Option<Delivery>, Error> {
    while !stop.is_cancelled() {
        // Taken anew for each step, so that a store that is closed is let go.
        let watcher = watcher.get()?;
        let mut watcher = watcher.lock();
        let events = watcher.next_batch(STEP, BATCH)?;
        if events.is_empty() {
            continue;
        }
        return Ok(Some(Delivery {
            events: events.into_iter().map(EventInfo::from).collect(),
            cursor: watcher.cursor().0 as f64,
            error: None,
        }));
    }
    Ok(None)
}
