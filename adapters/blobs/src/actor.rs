//! The actor: one task for each command.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use alknet_fs_core::Hash;
use iroh_blobs::api::blobs::{AddProgressItem, Bitfield, ExportProgressItem};
use iroh_blobs::api::proto::{BatchResponse, Command, ExportRangesItem, Scope};
use iroh_blobs::api::{self, Tag};
use iroh_blobs::{BlobFormat, HashAndFormat};
use irpc::channel::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::shared::{Shared, to_io};
use crate::temp::TempTags;
use crate::{export, import};

/// How often an observer looks whether the content came some other way.
const LOOK: Duration = Duration::from_secs(1);
/// How often temporary tags are renewed at most.
const RENEW_MIN: Duration = Duration::from_millis(100);
/// How many contents are listed at once.
const LISTED: usize = 1000;

/// Turns iroh-blobs' hash into the store's; both are BLAKE3's.
pub(crate) fn ours(hash: &iroh_blobs::Hash) -> Hash {
    Hash::from_bytes(*hash.as_bytes())
}

fn theirs(hash: &Hash) -> iroh_blobs::Hash {
    iroh_blobs::Hash::from_bytes(*hash.as_bytes())
}

pub(crate) struct Actor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) temp: Arc<TempTags>,
    pub(crate) commands: tokio::sync::mpsc::Receiver<Command>,
    tasks: JoinSet<()>,
    /// Tasks that end when whoever looks is gone.
    lookers: JoinSet<()>,
    idle: Vec<oneshot::Sender<()>>,
}

impl Actor {
    pub(crate) fn new(shared: Arc<Shared>, commands: tokio::sync::mpsc::Receiver<Command>) -> Self {
        Self {
            shared,
            temp: Arc::new(TempTags::new()),
            commands,
            tasks: JoinSet::new(),
            lookers: JoinSet::new(),
            idle: Vec::new(),
        }
    }

    pub(crate) async fn run(mut self) {
        let mut renew = tokio::time::interval((self.shared.options.pin / 4).max(RENEW_MIN));
        renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut shutdown = None;
        loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Shutdown(command)) => {
                        shutdown = Some(command.tx);
                        break;
                    }
                    Some(command) => self.handle(command),
                    None => break,
                },
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => log(done),
                Some(done) = self.lookers.join_next(), if !self.lookers.is_empty() => log(done),
                _ = renew.tick() => {
                    let (shared, temp) = (self.shared.clone(), self.temp.clone());
                    self.lookers.spawn(async move {
                        if let Err(error) = renew_pins(&shared, &temp).await {
                            tracing::warn!(%error, "temporary tags were not renewed");
                        }
                    });
                }
            }
            if self.tasks.is_empty() {
                for waiter in self.idle.drain(..) {
                    // Whoever waited may be gone.
                    let _ = waiter.send(()).await;
                }
            }
        }
        self.tasks.shutdown().await;
        self.lookers.shutdown().await;
        self.shared.stop().await;
        let shared = self.shared.clone();
        let _ = tokio::task::spawn_blocking(move || shared.close()).await;
        if let Some(shutdown) = shutdown {
            let _ = shutdown.send(()).await;
        }
    }

    fn handle(&mut self, command: Command) {
        let shared = self.shared.clone();
        let temp = self.temp.clone();
        match command {
            Command::WaitIdle(command) => self.idle.push(command.tx),
            Command::Observe(command) => {
                let hash = ours(&command.inner.hash);
                self.lookers.spawn(observe(shared, hash, command.tx));
            }
            Command::Batch(mut command) => {
                let task = async move {
                    let Ok(scope) = temp.begin() else {
                        return;
                    };
                    if command.tx.send(scope).await.is_ok() {
                        // A tag that goes tells its counter itself.
                        while let Ok(Some(BatchResponse::Drop(_) | BatchResponse::Ping)) =
                            command.rx.recv().await
                        {}
                    }
                    temp.end(scope);
                };
                self.lookers.spawn(task);
            }
            command => {
                self.tasks.spawn(answer(shared, temp, command));
            }
        }
    }
}

fn log(done: Result<(), tokio::task::JoinError>) {
    if let Err(error) = done
        && !error.is_cancelled()
    {
        tracing::error!(%error, "a task of the blob store failed");
    }
}

/// Answers a command. Where the answer cannot be sent, nobody waits for it any more.
async fn answer(shared: Arc<Shared>, temp: Arc<TempTags>, command: Command) {
    match command {
        Command::ImportBao(c) => {
            let (hash, size) = (ours(&c.inner.hash), c.inner.size.get());
            let done = import::bao(&shared, hash, size, c.rx).await;
            let _ = c.tx.send(done.map_err(api::Error::from)).await;
        }
        Command::ImportBytes(c) => {
            let done = import::bytes(&shared, c.inner.data, &c.tx).await;
            added(&temp, c.inner.scope, c.inner.format, done, &c.tx).await;
        }
        Command::ImportByteStream(c) => {
            let done = import::stream(&shared, c.rx, &c.tx).await;
            added(&temp, c.inner.scope, c.inner.format, done, &c.tx).await;
        }
        Command::ImportPath(c) => {
            let done = import::path(&shared, c.inner.path, &c.tx).await;
            added(&temp, c.inner.scope, c.inner.format, done, &c.tx).await;
        }
        Command::ExportBao(c) => {
            let hash = ours(&c.inner.hash);
            if let Err(error) = export::bao(&shared, hash, c.inner.ranges, &c.tx).await {
                tracing::debug!(%hash, %error, "an export ended early");
            }
        }
        Command::ExportRanges(c) => {
            let ranges = c.inner.ranges.boundaries().chunks(2);
            let ranges = ranges.map(|b| b[0]..b.get(1).copied().unwrap_or(u64::MAX));
            let hash = ours(&c.inner.hash);
            let done = export::ranges(&shared, hash, ranges.collect(), &c.tx).await;
            shared.let_go(hash).await;
            if let Err(error) = done {
                let _ = c.tx.send(ExportRangesItem::Error(error.into())).await;
            }
        }
        Command::ExportPath(c) => {
            let hash = ours(&c.inner.hash);
            let done = export::path(&shared, hash, c.inner.target, &c.tx).await;
            shared.let_go(hash).await;
            let last = match done {
                Ok(()) => ExportProgressItem::Done,
                Err(error) => ExportProgressItem::Error(error.into()),
            };
            let _ = c.tx.send(last).await;
        }
        Command::BlobStatus(c) => {
            let hash = ours(&c.inner.hash);
            let status = shared.run(move |s| s.status(&hash)).await;
            match status.and_then(|status| status.map_err(to_io)) {
                Ok(status) => drop(c.tx.send(status).await),
                // There is no answer for an error but none.
                Err(error) => tracing::error!(%hash, %error, "no status"),
            }
        }
        Command::ListBlobs(c) => {
            if let Err(error) = list(&shared, &c.tx).await {
                let _ = c.tx.send(Err(error.into())).await;
            }
        }
        Command::ListTags(c) => {
            let listed = shared.run(move |s| {
                let tags = crate::tags::Tags::load(&*s.store.read()?)?;
                Ok(tags.list(&c.inner))
            });
            let listed: io::Result<Vec<_>> = flat(listed.await);
            let listed = match listed {
                Ok(tags) => tags.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error.into())],
            };
            let _ = c.tx.send(listed).await;
        }
        Command::SetTag(c) => {
            let work = move |s: &Shared| {
                s.change_tags(|tags| {
                    tags.set(&c.inner.name, c.inner.value);
                    Ok(())
                })
            };
            reply(c.tx, flat(shared.run(work).await)).await;
        }
        Command::CreateTag(c) => {
            let work = move |s: &Shared| {
                s.change_tags(|tags| {
                    let name = Tag::auto(SystemTime::now(), |name| tags.0.contains_key(name));
                    tags.set(&name, c.inner.value);
                    Ok(name)
                })
            };
            reply(c.tx, flat(shared.run(work).await)).await;
        }
        Command::DeleteTags(c) => {
            let work = move |s: &Shared| {
                s.change_tags(|tags| Ok(tags.delete(c.inner.from.as_ref(), c.inner.to.as_ref())))
            };
            reply(c.tx, flat(shared.run(work).await)).await;
        }
        Command::RenameTag(c) => {
            let work =
                move |s: &Shared| s.change_tags(|tags| tags.rename(&c.inner.from, &c.inner.to));
            reply(c.tx, flat(shared.run(work).await)).await;
        }
        Command::CreateTempTag(c) => {
            let value = c.inner.value;
            if let Ok(mut tag) = temp.create(c.inner.scope, value).await {
                if c.tx.is_rpc() {
                    tag.leak();
                }
                let hash = ours(&value.hash);
                if let Err(error) = flat(shared.run(move |s| s.pin(&[hash])).await) {
                    tracing::warn!(%hash, %error, "a content was not pinned");
                }
                let _ = c.tx.send(tag).await;
            }
        }
        Command::ListTempTags(c) => drop(c.tx.send(temp.list().await).await),
        // Contents belong to the tree too: its own collection removes what nothing refers to.
        Command::DeleteBlobs(c) => {
            let detail = "contents are removed by the store's own garbage collection";
            let error = api::Error::io(io::ErrorKind::Unsupported, detail);
            let _ = c.tx.send(Err(error)).await;
        }
        Command::ClearProtected(c) => drop(c.tx.send(Ok(())).await),
        // Every commit was synced before it was acknowledged.
        Command::SyncDb(c) => drop(c.tx.send(Ok(())).await),
        Command::WaitIdle(_) | Command::Observe(_) | Command::Batch(_) | Command::Shutdown(_) => {}
    }
}

fn flat<T>(done: io::Result<alknet_fs_core::Result<T>>) -> io::Result<T> {
    done?.map_err(to_io)
}

async fn reply<T: Send + 'static>(tx: oneshot::Sender<api::Result<T>>, done: io::Result<T>) {
    let _ = tx.send(done.map_err(api::Error::from)).await;
}

async fn added(
    temp: &TempTags,
    scope: Scope,
    format: BlobFormat,
    done: io::Result<Hash>,
    tx: &mpsc::Sender<AddProgressItem>,
) {
    let tag = match done {
        Ok(hash) => {
            temp.create(scope, HashAndFormat::new(theirs(&hash), format))
                .await
        }
        Err(error) => Err(error),
    };
    let last = match tag {
        Ok(tag) => AddProgressItem::Done(tag),
        Err(error) => AddProgressItem::Error(error),
    };
    let _ = tx.send(last).await;
}

/// Sends the hashes of all contents, and then of those of which a part is there.
async fn list(
    shared: &Arc<Shared>,
    tx: &mpsc::Sender<api::Result<iroh_blobs::Hash>>,
) -> io::Result<()> {
    let mut after = None;
    loop {
        let work = move |s: &Shared| {
            s.store
                .read()?
                .contents_after(after.as_ref(), LISTED, false)
        };
        let contents = flat(shared.run(work).await)?;
        let Some(last) = contents.last() else {
            break;
        };
        after = Some(last.hash);
        for content in contents {
            tx.send(Ok(theirs(&content.hash))).await?;
        }
    }
    for hash in shared.run(Shared::partial_hashes).await? {
        let is_whole = flat(shared.run(move |s| s.size_of(&hash)).await)?.is_some();
        if !is_whole {
            tx.send(Ok(theirs(&hash))).await?;
        }
    }
    Ok(())
}

/// Sends which chunks are there, now and whenever that changes.
async fn observe(shared: Arc<Shared>, hash: Hash, tx: mpsc::Sender<Bitfield>) {
    let mut changes = shared.subscribe(&hash);
    let mut last = None;
    loop {
        changes.borrow_and_update();
        let bits = match flat(shared.run(move |s| s.bitfield(&hash)).await) {
            Ok(bits) => bits,
            Err(error) => {
                tracing::error!(%hash, %error, "which chunks are there is not known");
                return;
            }
        };
        let is_complete = last.is_some() && bits.is_complete() && bits.size() > 0;
        if last.as_ref() != Some(&bits) {
            if tx.send(bits.clone()).await.is_err() {
                return;
            }
            last = Some(bits);
        }
        if is_complete || hash == Hash::EMPTY {
            tx.closed().await;
            return;
        }
        tokio::select! {
            () = tx.closed() => return,
            _ = changes.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Pins again what temporary tags name, and what is held.
async fn renew_pins(shared: &Arc<Shared>, temp: &TempTags) -> io::Result<()> {
    let named = temp.list().await;
    let held = shared.held();
    if named.is_empty() && held.is_empty() {
        return Ok(());
    }
    let work = move |s: &Shared| {
        let mut hashes = held;
        for named in named {
            let hash = ours(&named.hash);
            hashes.push(hash);
            if named.format.is_hash_seq() {
                hashes.extend(s.members(&*s.store.read()?, &hash)?);
            }
        }
        s.pin(&hashes)
    };
    flat(shared.run(work).await)
}
