//! What the actor's tasks share: the store, the partial contents, and the threads that block.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use alknet_fs_content::partial::{GROUP_CHUNKS, Partial, PartialReader, Ranges};
use alknet_fs_content::{ContentReader, Contents, Prepared};
use alknet_fs_core::store::{Durability, ReadTxn, Store};
use alknet_fs_core::{ErrorKind, Hash, Result, Timestamp};
use bao_tree::{ChunkNum, ChunkRanges};
use iroh_blobs::api::blobs::{Bitfield, BlobStatus};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::Options;
use crate::encode::Source;
use crate::tags::Tags;
use crate::wire::Refusals;

/// The largest list of hashes that a tag keeps the members of.
const SEQ_MAX: u64 = 16 << 20;
/// Keeps a content for as long as somebody names it.
pub(crate) const FOR_EVER: Timestamp = Timestamp(i64::MAX);

/// How many contents one transaction commits at most.
const COMMIT_MAX: usize = 512;
/// How many contents one transaction pins at most, so that others wait for milliseconds.
const PIN_MAX: usize = 4096;

pub(crate) fn to_io(error: alknet_fs_core::Error) -> io::Error {
    error.into()
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = since.map_or(0, |d| d.as_nanos());
    Timestamp(i64::try_from(nanos).unwrap_or(i64::MAX))
}

/// A content that is arriving.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) hash: Hash,
    pub(crate) size: u64,
    pub(crate) state: Mutex<State>,
    /// Whether all is there, and is being committed.
    pub(crate) finishing: watch::Sender<bool>,
}

#[derive(Debug)]
pub(crate) enum State {
    /// Takes what arrives.
    Open(Box<Partial>),
    /// All is there, and is being committed; until then what was there before is shown.
    Finishing(PartialReader, Bitfield),
    /// It is a content, or it was given up.
    Done,
}

/// A content on its way into the store.
#[derive(Debug)]
struct Commit {
    prepared: Prepared,
    done: oneshot::Sender<Result<()>>,
}

pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) contents: Contents,
    pub(crate) options: Options,
    permits: Arc<Semaphore>,
    slow: Arc<Semaphore>,
    commits: mpsc::UnboundedSender<Commit>,
    partials: Mutex<Partials>,
    observers: Mutex<HashMap<Hash, watch::Sender<()>>>,
    held: Mutex<Vec<Weak<Held>>>,
    pub(crate) refusals: Refusals,
}

/// Contents that stay pinned for as long as this lives.
#[derive(Debug, Default)]
pub(crate) struct Held(Mutex<Vec<Hash>>);

impl Held {
    /// Holds what is pinned now.
    pub(crate) fn add(&self, hash: Hash) {
        self.0.lock().push(hash);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Partials {
    open: HashMap<Hash, Vec<Arc<Entry>>>,
    /// The sizes of those that were left on the disk.
    left: HashMap<Hash, BTreeSet<u64>>,
}

/// What an import finds.
pub(crate) enum Begun {
    /// The content is there, with this size.
    Exists(u64),
    /// It is arriving.
    Arriving(Arc<Entry>),
}

impl Shared {
    pub(crate) fn new(store: Arc<dyn Store>, contents: Contents, options: Options) -> Arc<Self> {
        let (commits, waiting) = mpsc::unbounded_channel();
        let shared = Arc::new(Self {
            store,
            contents,
            permits: Arc::new(Semaphore::new(options.threads.max(1))),
            slow: Arc::new(Semaphore::new(options.threads.max(1))),
            options,
            commits,
            partials: Mutex::default(),
            observers: Mutex::default(),
            held: Mutex::default(),
            refusals: Refusals::default(),
        });
        tokio::spawn(commit_all(Arc::downgrade(&shared), waiting));
        shared
    }

    /// Runs work that blocks, on a thread for such, when there is room for more of it.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> io::Result<T> {
        self.run_with(&self.permits, work).await
    }

    /// As [`run`](Self::run), for work that may wait for a local program: peers do not wait for it.
    pub(crate) async fn run_slow<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> io::Result<T> {
        self.run_with(&self.slow, work).await
    }

    async fn run_with<T: Send + 'static>(
        self: &Arc<Self>,
        permits: &Arc<Semaphore>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> io::Result<T> {
        let permit = permits.clone().acquire_owned().await;
        let permit = permit.map_err(io::Error::other)?;
        let shared = self.clone();
        let work = move || {
            let done = work(&shared);
            drop(permit);
            done
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(io::Error::other)
    }

    /// Waits until nothing blocks any more, and lets nothing begin.
    pub(crate) async fn stop(&self) {
        let all = u32::try_from(self.options.threads.max(1)).unwrap_or(u32::MAX);
        // Nobody else closes it.
        let _ = self.permits.acquire_many(all).await;
        self.permits.close();
    }

    /// Syncs what has arrived and lets go of it.
    pub(crate) fn close(&self) {
        let open = std::mem::take(&mut self.partials.lock().open);
        for entry in open.into_values().flatten() {
            let state = std::mem::replace(&mut *entry.state.lock(), State::Done);
            if let State::Open(mut partial) = state
                && let Err(error) = partial.sync()
            {
                tracing::warn!(hash = %entry.hash, %error, "a partial content was not synced");
            }
        }
    }

    /// Finds what was left of contents before, and removes what was left of those that are there.
    pub(crate) fn find_left(&self) -> Result<()> {
        let mut left: HashMap<Hash, BTreeSet<u64>> = HashMap::new();
        for partial in self.contents.partials()? {
            if self.size_of(&partial.hash)?.is_some() {
                let of = partial.hash;
                self.contents.remove_partials(&mut |hash, _| *hash == of)?;
            } else {
                left.entry(partial.hash).or_default().insert(partial.size);
            }
        }
        self.partials.lock().left = left;
        Ok(())
    }

    /// Returns the hashes of which a part is there.
    pub(crate) fn partial_hashes(&self) -> Vec<Hash> {
        let partials = self.partials.lock();
        let mut hashes: Vec<_> = partials
            .left
            .keys()
            .chain(partials.open.keys())
            .copied()
            .collect();
        hashes.sort_unstable();
        hashes.dedup();
        hashes
    }

    /// Begins to receive a content, or goes on with it.
    pub(crate) fn begin(&self, hash: Hash, size: u64) -> Result<Begun> {
        let mut partials = self.partials.lock();
        let open = partials.open.get(&hash).map_or(&[][..], Vec::as_slice);
        if let Some(entry) = open.iter().find(|entry| entry.size == size) {
            return Ok(Begun::Arriving(entry.clone()));
        }
        // Under the lock: whoever ends an entry has committed the content before.
        if let Some(size) = self.size_of(&hash)? {
            return Ok(Begun::Exists(size));
        }
        let partial = Partial::open(&self.contents, hash, size)?;
        let entry = self.entry(partial);
        partials.open.entry(hash).or_default().push(entry.clone());
        Ok(Begun::Arriving(entry))
    }

    fn entry(&self, partial: Partial) -> Arc<Entry> {
        let (finishing, _) = watch::channel(false);
        Arc::new(Entry {
            hash: partial.hash(),
            size: partial.size(),
            state: Mutex::new(State::Open(Box::new(partial))),
            finishing,
        })
    }

    /// Returns the entries of a hash, and opens what was left on the disk.
    fn entries(&self, hash: &Hash) -> Result<Vec<Arc<Entry>>> {
        let mut partials = self.partials.lock();
        let Partials { open, left } = &mut *partials;
        for size in left.remove(hash).unwrap_or_default() {
            let known = open.get(hash).map_or(&[][..], Vec::as_slice);
            if known.iter().any(|entry| entry.size == size) {
                continue;
            }
            match Partial::find(&self.contents, *hash, size) {
                Ok(Some(partial)) => {
                    let entry = self.entry(partial);
                    open.entry(*hash).or_default().push(entry);
                }
                Ok(None) => {}
                Err(e) if e.kind() == ErrorKind::Locked => {
                    left.entry(*hash).or_default().insert(size);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(open.get(hash).cloned().unwrap_or_default())
    }

    /// Lets go of the entries of a hash that nobody works with.
    pub(crate) async fn let_go(self: &Arc<Self>, hash: Hash) {
        // The lock may be held over calls that block, which do not hold up this thread.
        let open = self.partials.try_lock();
        let is_open = open.is_none_or(|partials| partials.open.contains_key(&hash));
        if is_open {
            // Where the store is closed, all is let go of.
            let _ = self.run(move |s| s.release(&hash)).await;
        }
    }

    pub(crate) fn release(&self, hash: &Hash) {
        let mut partials = self.partials.lock();
        let Partials { open, left } = &mut *partials;
        let Some(entries) = open.get_mut(hash) else {
            return;
        };
        entries.retain(|entry| {
            if Arc::strong_count(entry) > 1 {
                return true;
            }
            let mut state = entry.state.lock();
            if matches!(&*state, State::Finishing(..)) {
                return true;
            }
            if let State::Open(partial) = std::mem::replace(&mut *state, State::Done) {
                if partial.groups().count() > 0 && partial.is_kept() {
                    left.entry(*hash).or_default().insert(entry.size);
                } else if let Err(error) = partial.discard() {
                    tracing::warn!(%hash, %error, "an empty partial content was not removed");
                }
            }
            false
        });
        if entries.is_empty() {
            open.remove(hash);
        }
    }

    /// Removes what has arrived of a hash that has become a content.
    pub(crate) fn forget(&self, hash: &Hash) {
        let mut partials = self.partials.lock();
        let mut is_kept = partials.left.remove(hash).is_some();
        for entry in partials.open.remove(hash).unwrap_or_default() {
            let state = std::mem::replace(&mut *entry.state.lock(), State::Done);
            is_kept |= matches!(state, State::Open(partial) if partial.is_kept());
            entry.finishing.send_replace(false);
        }
        drop(partials);
        if !is_kept {
            return;
        }
        let removed = self.contents.remove_partials(&mut |of, _| of == hash);
        if let Err(error) = removed {
            tracing::warn!(%hash, %error, "what arrived of a content was not removed");
        }
    }

    /// Returns a content's size, where the store has it.
    pub(crate) fn size_of(&self, hash: &Hash) -> Result<Option<u64>> {
        if *hash == Hash::EMPTY {
            return Ok(Some(0));
        }
        let record = self.store.read()?.content(hash)?;
        Ok(record.map(|record| record.size))
    }

    /// Makes what has arrived of a hash outlive a power cut.
    pub(crate) fn sync_partials(&self, hash: &Hash) -> Result<()> {
        let open = self.partials.lock().open.get(hash).cloned();
        for entry in open.unwrap_or_default() {
            if let State::Open(partial) = &mut *entry.state.lock() {
                partial.sync()?;
            }
        }
        Ok(())
    }

    /// Returns the best of what is arriving: what is proven, then what is most.
    fn best(&self, hash: &Hash) -> Result<Option<Arc<Entry>>> {
        let entries = self.entries(hash)?;
        Ok(entries
            .into_iter()
            .max_by_key(|entry| match &*entry.state.lock() {
                State::Open(partial) => (partial.is_size_proven(), partial.groups().count()),
                State::Finishing(..) => (true, u64::MAX),
                State::Done => (false, 0),
            }))
    }

    /// Opens a content, where the store has it.
    pub(crate) fn open(&self, hash: &Hash) -> Result<Option<ContentReader>> {
        let mut failed = None;
        // What is collected between the look-up and the opening is not there the second time.
        for _ in 0..2 {
            let txn = self.store.read()?;
            if !txn.has_content(hash)? {
                return Ok(None);
            }
            match self.contents.open(&*txn, hash) {
                Ok(reader) => return Ok(Some(reader)),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// Opens what there is of a content.
    pub(crate) fn source(&self, hash: &Hash) -> Result<Option<(Source, Bitfield)>> {
        if *hash == Hash::EMPTY {
            return Ok(Some((Source::Empty, Bitfield::complete(0))));
        }
        if let Some(reader) = self.open(hash)? {
            let bits = Bitfield::complete(reader.size());
            return Ok(Some((Source::Whole(reader), bits)));
        }
        let best = self.best(hash)?;
        Ok(best.and_then(|entry| {
            let (reader, bits) = match &*entry.state.lock() {
                State::Open(partial) => (partial.reader(), bits(partial)),
                State::Finishing(reader, bits) => (reader.clone(), bits.clone()),
                State::Done => return None,
            };
            Some((Source::Partial(reader, entry), bits))
        }))
    }

    /// Returns which chunks of a content are there.
    pub(crate) fn bitfield(&self, hash: &Hash) -> Result<Bitfield> {
        if let Some(size) = self.size_of(hash)? {
            return Ok(Bitfield::complete(size));
        }
        let best = self.best(hash)?;
        let found = best.as_ref().map(|entry| match &*entry.state.lock() {
            State::Open(partial) => bits(partial),
            State::Finishing(_, bits) => bits.clone(),
            State::Done => Bitfield::empty(),
        });
        drop(best);
        self.release(hash);
        Ok(found.unwrap_or_else(Bitfield::empty))
    }

    pub(crate) fn status(&self, hash: &Hash) -> Result<BlobStatus> {
        if let Some(size) = self.size_of(hash)? {
            return Ok(BlobStatus::Complete { size });
        }
        let bits = self.bitfield(hash)?;
        let is_known = !bits.is_empty() || self.partial_hashes().binary_search(hash).is_ok();
        Ok(match is_known {
            true => BlobStatus::Partial {
                size: bits.validated_size(),
            },
            false => BlobStatus::NotFound,
        })
    }

    /// Tells those who look at a hash that something changed.
    pub(crate) fn notify(&self, hash: &Hash) {
        if let Some(observers) = self.observers.lock().get(hash) {
            observers.send_replace(());
        }
    }

    pub(crate) fn subscribe(&self, hash: &Hash) -> watch::Receiver<()> {
        let mut observers = self.observers.lock();
        observers.retain(|_, sender| sender.receiver_count() > 0);
        let sender = observers
            .entry(*hash)
            .or_insert_with(|| watch::channel(()).0);
        sender.subscribe()
    }

    /// Makes a prepared content part of the store, pinned; together with others that come now.
    pub(crate) async fn commit(&self, prepared: Prepared) -> io::Result<()> {
        let waiting = self.commit_soon(prepared);
        waiting.await.map_err(io::Error::other)?.map_err(to_io)
    }

    /// As [`commit`](Self::commit), whether or not somebody waits for it.
    pub(crate) fn commit_soon(&self, prepared: Prepared) -> oneshot::Receiver<Result<()>> {
        let (done, waiting) = oneshot::channel();
        // Where the store is closed, whoever waits sees the end close.
        let _ = self.commits.send(Commit { prepared, done });
        waiting
    }

    /// Begins to keep contents pinned.
    pub(crate) fn hold(&self) -> Arc<Held> {
        let held = Arc::default();
        let mut all = self.held.lock();
        all.retain(|held| held.strong_count() > 0);
        all.push(Arc::downgrade(&held));
        held
    }

    /// Returns what is held now.
    pub(crate) fn held(&self) -> Vec<Hash> {
        let all = self.held.lock();
        let held = all.iter().filter_map(Weak::upgrade);
        held.flat_map(|held| held.0.lock().clone()).collect()
    }

    pub(crate) fn try_commit(&self, prepared: &mut [Prepared]) -> Result<()> {
        let mut txn = self.store.write(self.options.durability)?;
        let now = now();
        self.contents.commit(&mut *txn, prepared, now)?;
        let tags = Tags::load(&*txn)?;
        let tagged = self.tagged(&*txn, &tags)?;
        for content in &*prepared {
            let hash = content.hash();
            let until = self.pinned_until(tagged.contains(&hash), now);
            txn.pin_content(&hash, until)?;
            if tags.hashes().any(|named| named == (hash, true)) {
                // Its members may have come before it.
                for member in self.members(&*txn, &hash)? {
                    if txn.has_content(&member)? {
                        txn.pin_content(&member, FOR_EVER)?;
                    }
                }
            }
        }
        txn.commit()
    }

    /// Returns what tags keep: what they name, and what the lists among that hold, as far as those are
    /// here.
    fn tagged(&self, txn: &dyn ReadTxn, tags: &Tags) -> Result<BTreeSet<Hash>> {
        let mut tagged = BTreeSet::new();
        for (hash, is_list) in tags.hashes() {
            tagged.insert(hash);
            if is_list {
                tagged.extend(self.members(txn, &hash)?);
            }
        }
        Ok(tagged)
    }

    /// Returns the hashes that a list of hashes holds; nothing where it is not here, is damaged, or holds
    /// more than any does whose members a tag keeps.
    pub(crate) fn members(&self, txn: &dyn ReadTxn, list: &Hash) -> Result<Vec<Hash>> {
        if !txn.has_content(list)? {
            return Ok(Vec::new());
        }
        let read = || -> Result<Vec<Hash>> {
            let reader = self.contents.open(txn, list)?;
            if reader.size() > SEQ_MAX {
                return Ok(Vec::new());
            }
            let bytes = reader.into_bytes()?;
            let (hashes, _) = bytes.as_chunks::<32>();
            Ok(hashes.iter().map(|hash| Hash::from_bytes(*hash)).collect())
        };
        match read() {
            Err(error) if error.is_corrupt() => Ok(Vec::new()),
            read => read,
        }
    }

    fn pinned_until(&self, is_tagged: bool, now: Timestamp) -> Timestamp {
        if is_tagged {
            return FOR_EVER;
        }
        let pin = i64::try_from(self.options.pin.as_nanos()).unwrap_or(i64::MAX);
        Timestamp(now.0.saturating_add(pin))
    }

    /// Pins contents again for a while, and those that tags name for ever.
    pub(crate) fn pin(&self, hashes: &[Hash]) -> Result<()> {
        for hashes in hashes.chunks(PIN_MAX) {
            let mut txn = self.store.write(Durability::Relaxed)?;
            let tagged = self.tagged(&*txn, &Tags::load(&*txn)?)?;
            for hash in hashes {
                if txn.has_content(hash)? && !tagged.contains(hash) {
                    txn.pin_content(hash, self.pinned_until(false, now()))?;
                }
            }
            txn.commit()?;
        }
        Ok(())
    }

    /// Changes the tags, and the pins of what they name.
    pub(crate) fn change_tags<T>(&self, change: impl FnOnce(&mut Tags) -> Result<T>) -> Result<T> {
        let mut txn = self.store.write(self.options.durability)?;
        let before = Tags::load(&*txn)?;
        let mut tags = before.clone();
        let done = change(&mut tags)?;
        tags.save(&mut *txn)?;
        let (was, is) = (self.tagged(&*txn, &before)?, self.tagged(&*txn, &tags)?);
        for hash in was.symmetric_difference(&is) {
            if txn.has_content(hash)? {
                txn.pin_content(hash, self.pinned_until(is.contains(hash), now()))?;
            }
        }
        txn.commit()?;
        Ok(done)
    }
}

/// Returns which chunks of a partial content are there.
pub(crate) fn bits(partial: &Partial) -> Bitfield {
    Bitfield::new(chunks(partial.groups()), partial.size())
}

fn chunks(groups: &Ranges) -> ChunkRanges {
    let mut chunks = ChunkRanges::empty();
    for range in groups.as_slice() {
        let start = ChunkNum(range.start * GROUP_CHUNKS);
        chunks |= ChunkRanges::from(start..ChunkNum(range.end * GROUP_CHUNKS));
    }
    chunks
}

/// Commits contents, all that wait in one transaction.
async fn commit_all(shared: Weak<Shared>, mut waiting: mpsc::UnboundedReceiver<Commit>) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, COMMIT_MAX).await > 0 {
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let (mut prepared, waiters): (Vec<_>, Vec<_>) =
            batch.drain(..).map(|c| (c.prepared, c.done)).unzip();
        let count = waiters.len();
        let work = move || match shared.try_commit(&mut prepared) {
            Err(error) if count == 1 => vec![Err(error)],
            // One that cannot be committed does not keep the others from it.
            Err(_) => prepared
                .iter_mut()
                .map(|one| shared.try_commit(std::slice::from_mut(one)))
                .collect(),
            Ok(()) => (0..count).map(|_| Ok(())).collect(),
        };
        // Where the runtime goes down, the waiters see their end close.
        if let Ok(done) = tokio::task::spawn_blocking(work).await {
            for (waiter, result) in waiters.into_iter().zip(done) {
                // Whoever waited may be gone.
                let _ = waiter.send(result);
            }
        }
    }
}
