//! What a content was made from that is here: of that only what differs need come.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use alknet_fs_core::chain::Chain;
use alknet_fs_core::store::{BranchId, BucketId, ReadTxn};
use alknet_fs_core::tree::{Follow, resolve};
use alknet_fs_core::{Cursor, ErrorKind, Event, Hash, Result, TreePath};

use super::Named;

/// The smallest content for which it is worth looking for what it was made from, in bytes.
const MIN: u64 = 256 << 10;

/// How many events are looked through for that, at the least and at the most; between them one for as
/// many bytes of what is sought as are fetched about as fast.
const EVENTS: u64 = 2048;
const EVENTS_MOST: u64 = 64 << 10;
const EVENT_BYTES: u64 = 4 << 10;

/// How many log records are read at a time: each may have some hundred events.
const WINDOW: usize = 8;

/// For how long a history is gone on with: what was not here at its begin is taken for absent.
const KEPT: Duration = Duration::from_secs(5);

/// Returns what a path shows where a content lost in a conflict, if that is here: both may have been made
/// from the same.
pub(super) fn base_of_lost(
    txn: &dyn ReadTxn,
    branch: BranchId,
    path: &TreePath,
    size: u64,
) -> Result<Option<Hash>> {
    if size < MIN {
        return Ok(None);
    }
    let chain = Chain::load(txn, branch, None)?;
    let shown = match resolve(txn, &chain, path, Follow::No) {
        Ok((_, entry)) => entry.hash(),
        Err(e) if e.is_not_found() => None,
        // What is there since is no file.
        Err(e) if matches!(e.kind(), ErrorKind::NotADirectory | ErrorKind::TooManyLinks) => None,
        Err(e) => return Err(e),
    };
    match shown {
        Some(shown) if txn.has_content(&shown)? => Ok(Some(shown)),
        _ => Ok(None),
    }
}

/// Looks in the newest events for what a content was made from that is here.
pub(super) fn base_of(txn: &dyn ReadTxn, named: &Named) -> Result<Option<Hash>> {
    let found = bases(txn, named.bucket, [(named.hash, named.size)])?;
    Ok(found.get(&named.hash).copied())
}

/// Looks in the newest events for what contents were made from that is here: what a path had before, and
/// before that, as far as it takes.
pub(super) fn bases(
    txn: &dyn ReadTxn,
    bucket: BucketId,
    contents: impl IntoIterator<Item = (Hash, u64)>,
) -> Result<HashMap<Hash, Hash>> {
    History::new(bucket, Cursor(u64::MAX)).bases(txn, contents)
}

/// The newest changes of a bucket's contents, as far as they were looked through.
///
/// They are read once, from the newest; what other buckets have in the log costs nothing. A search that
/// finds nothing reads no further back than its own share of events, counted from where the history began.
pub(super) struct History {
    bucket: BucketId,
    /// What a path got, and what it had before; from the newest.
    changes: VecDeque<(Hash, Hash)>,
    /// The events from here on were looked through, and those before were not.
    begin: Cursor,
    /// The events after it were not looked through.
    end: Cursor,
    /// How many events were read back.
    read: u64,
    /// What was not here when it was looked for.
    absent: HashSet<Hash>,
    begun: Instant,
}

impl History {
    /// Begins before a cursor.
    fn new(bucket: BucketId, before: Cursor) -> Self {
        Self {
            bucket,
            changes: VecDeque::new(),
            begin: before,
            end: before,
            read: 0,
            absent: HashSet::new(),
            begun: Instant::now(),
        }
    }

    /// Begins before some events that end at a cursor.
    pub(super) fn before(bucket: BucketId, events: &[Event], end: Cursor) -> Self {
        Self::new(bucket, events.first().map_or(end, |event| event.cursor))
    }

    pub(super) fn bucket(&self) -> BucketId {
        self.bucket
    }

    /// Tells whether the history can be gone on with after a cursor: it ends there, and is not long.
    pub(super) fn goes_on(&self, after: Cursor) -> bool {
        self.end == after && self.changes.len() as u64 <= 2 * EVENTS_MOST
    }

    /// Tells whether what was not here when it was looked for may be taken for absent still.
    pub(super) fn is_fresh(&self) -> bool {
        self.begun.elapsed() < KEPT
    }

    /// Takes in the events that follow, up to a cursor.
    pub(super) fn take_in(&mut self, events: &[Event], end: Cursor) {
        for change in events.iter().filter_map(replaced) {
            self.changes.push_front(change);
        }
        self.end = end;
    }

    /// Looks for what contents were made from that is here: what a path had before, and before that.
    pub(super) fn bases(
        &mut self,
        txn: &dyn ReadTxn,
        contents: impl IntoIterator<Item = (Hash, u64)>,
    ) -> Result<HashMap<Hash, Hash>> {
        let mut sought = Sought::default();
        let mut bytes = 0_u64;
        for (hash, size) in contents {
            if size >= MIN && sought.add(hash, vec![hash]) {
                bytes = bytes.saturating_add(size);
            }
        }
        let most = (bytes / EVENT_BYTES).clamp(EVENTS, EVENTS_MOST);
        let mut looked = 0;
        loop {
            for change in self.changes.range(looked..) {
                sought.look(txn, *change, &mut self.absent)?;
            }
            looked = self.changes.len();
            if sought.later.is_empty() || self.read >= most || !self.read_back(txn)? {
                return Ok(sought.found);
            }
        }
    }

    /// Reads what was before; returns whether there was anything.
    fn read_back(&mut self, txn: &dyn ReadTxn) -> Result<bool> {
        let events = txn.events_before(self.bucket, self.begin, WINDOW)?;
        let Some(oldest) = events.last() else {
            return Ok(false);
        };
        self.begin = oldest.cursor;
        self.read += events.len() as u64;
        self.changes.extend(events.iter().filter_map(replaced));
        Ok(true)
    }
}

/// Returns what an event's path got, and what it had before.
fn replaced(event: &Event) -> Option<(Hash, Hash)> {
    let (new, old) = (event.change.new?, event.change.old?);
    (new != old).then_some((new, old))
}

/// Contents whose bases are sought.
#[derive(Default)]
struct Sought {
    /// What is sought as what a path had later, and what that is for.
    later: HashMap<Hash, Vec<Hash>>,
    found: HashMap<Hash, Hash>,
}

impl Sought {
    /// Seeks a content as well; returns whether it was not sought yet.
    fn add(&mut self, hash: Hash, mut made: Vec<Hash>) -> bool {
        match self.later.entry(hash) {
            Entry::Vacant(vacant) => {
                vacant.insert(made);
                true
            }
            Entry::Occupied(mut occupied) => {
                let other = occupied.get_mut();
                if other.len() < made.len() {
                    std::mem::swap(other, &mut made);
                }
                other.append(&mut made);
                false
            }
        }
    }

    /// Looks at a change that is older than all before.
    fn look(
        &mut self,
        txn: &dyn ReadTxn,
        (new, old): (Hash, Hash),
        absent: &mut HashSet<Hash>,
    ) -> Result<()> {
        let Some(made) = self.later.remove(&new) else {
            return Ok(());
        };
        if !absent.contains(&old) && txn.has_content(&old)? {
            self.found.extend(made.into_iter().map(|hash| (hash, old)));
            return Ok(());
        }
        absent.insert(old);
        self.add(old, made);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use alknet_fs_core::entry::Timestamp;
    use alknet_fs_core::event::{Change, Commit};
    use alknet_fs_core::memory::MemoryStore;
    use alknet_fs_core::store::{ContentForm, ContentRecord, Durability, Store};
    use alknet_fs_core::{Op, TreePath};

    use super::*;

    const SIZE: u64 = MIN;

    /// The content of a path's n-th version.
    fn version(path: &str, n: u64) -> Hash {
        Hash::of(format!("{path} {n}").as_bytes())
    }

    struct World {
        store: MemoryStore,
        ours: BucketId,
        theirs: BucketId,
    }

    impl World {
        fn new() -> Self {
            let store = MemoryStore::new();
            let mut txn = store.write(Durability::Full).unwrap();
            let add = |name| txn.add_bucket(name, Timestamp(0)).unwrap().id;
            let [ours, theirs] = ["ours", "theirs"].map(add);
            txn.commit().unwrap();
            Self {
                store,
                ours,
                theirs,
            }
        }

        /// Publishes that a path got its n-th version, in a commit of its own.
        fn publish(&self, bucket: BucketId, path: &str, n: u64) {
            let change = Change {
                path: Some(TreePath::parse(path).unwrap()),
                old: Some(version(path, n - 1)),
                new: Some(version(path, n)),
                size: Some(SIZE),
                ..Change::new(Op::Modify)
            };
            let commit = Commit {
                at: Timestamp(1),
                author: String::new(),
                branch: "main".to_owned(),
                session: None,
                changes: vec![change],
            };
            let mut txn = self.store.write(Durability::Full).unwrap();
            txn.publish(bucket, &commit).unwrap();
            txn.commit().unwrap();
        }

        fn add(&self, hash: Hash) {
            let mut txn = self.store.write(Durability::Full).unwrap();
            let record = ContentRecord {
                hash,
                size: SIZE,
                form: ContentForm::File,
                base: None,
                data: Vec::new(),
                created: Timestamp(0),
            };
            txn.add_content(&record).unwrap();
            txn.commit().unwrap();
        }

        fn read(&self) -> Box<dyn ReadTxn> {
            self.store.read().unwrap()
        }
    }

    #[test]
    fn what_other_buckets_have_in_the_log_is_not_counted() {
        let world = World::new();
        world.add(version("/f", 0));
        for n in 1..=1000 {
            world.publish(world.ours, "/f", n);
            for _ in 0..20 {
                world.publish(world.theirs, "/f", 9);
            }
        }
        let newest = version("/f", 1000);
        let mut history = History::new(world.ours, Cursor(u64::MAX));
        let found = history.bases(&*world.read(), [(newest, SIZE)]).unwrap();
        assert_eq!(found.get(&newest), Some(&version("/f", 0)));
        assert_eq!(history.read, 1000);
    }

    #[test]
    fn a_search_ends_where_its_share_of_events_is_read() {
        let world = World::new();
        world.add(version("/f", 0));
        for n in 1..=EVENTS + 100 {
            world.publish(world.ours, "/f", n);
        }
        let newest = version("/f", EVENTS + 100);
        let txn = world.read();
        assert!(
            bases(&*txn, world.ours, [(newest, SIZE)])
                .unwrap()
                .is_empty()
        );
        // What is larger is worth more.
        let large = EVENT_BYTES * (EVENTS + 100);
        let found = bases(&*txn, world.ours, [(newest, large)]).unwrap();
        assert_eq!(found.get(&newest), Some(&version("/f", 0)));
        assert!(
            bases(&*txn, world.ours, [(newest, MIN - 1)])
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn what_follows_is_searched_without_reading_back_again() {
        let world = World::new();
        world.add(version("/other", 0));
        world.publish(world.ours, "/other", 1);
        for n in 1..=2 * EVENTS {
            world.publish(world.ours, "/f", n);
        }
        let mut after = world.read().last_cursor().unwrap();
        let mut history = History::before(world.ours, &[], Cursor(after.0 + 1));
        history.end = after;
        for n in 2 * EVENTS + 1..2 * EVENTS + 10 {
            world.publish(world.ours, "/f", n);
            let txn = world.read();
            let events = txn.events(Some(world.ours), after, 64).unwrap();
            assert_eq!(events.len(), 1);
            assert!(history.goes_on(after));
            after = events[0].cursor;
            history.take_in(&events, after);
            // Nothing that it was made from ever came.
            let newest = version("/f", n);
            assert!(history.bases(&*txn, [(newest, SIZE)]).unwrap().is_empty());
            assert_eq!(history.read, EVENTS);
        }
        // Who brings more may read on, from where the others ended.
        world.publish(world.ours, "/other", 2);
        let txn = world.read();
        let events = txn.events(Some(world.ours), after, 64).unwrap();
        after = events[0].cursor;
        history.take_in(&events, after);
        let newest = version("/other", 2);
        let large = EVENT_BYTES * EVENTS_MOST;
        let found = history.bases(&*txn, [(newest, large)]).unwrap();
        assert_eq!(found.get(&newest), Some(&version("/other", 0)));
        assert_eq!(history.read, 2 * EVENTS + 1);
        assert!(!history.goes_on(Cursor(after.0 + 1)));
    }
}
