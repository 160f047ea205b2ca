//! Watching events.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet_fs_core::branch;
use alknet_fs_core::store::BucketId;
use alknet_fs_core::{Cursor, Event, EventFilter, Result};

use crate::peers::name_peers;
use crate::store::Inner;

/// What to watch, and from where on.
#[derive(Debug, Clone, Default)]
pub struct WatchOptions {
    /// The bucket; nothing for all buckets.
    pub bucket: Option<String>,
    /// Which events.
    pub filter: EventFilter,
    /// The cursor of the last event already seen; nothing for events from now on.
    pub after: Option<Cursor>,
}

/// Delivers events in order, each once, whichever process committed them.
pub struct Watcher {
    inner: Arc<Inner>,
    bucket: Option<BucketId>,
    filter: EventFilter,
    /// All events up to here were read from the log.
    read_to: Cursor,
    /// All events up to here were delivered or did not pass the filter.
    cursor: Cursor,
    ready: VecDeque<Event>,
    seen: u64,
}

/// Log records read at a time.
const CHUNK: usize = 64;

impl Watcher {
    pub(crate) fn new(inner: Arc<Inner>, options: &WatchOptions) -> Result<Self> {
        let txn = inner.tree.read()?;
        let bucket = match &options.bucket {
            None => None,
            Some(name) => Some(branch::bucket(&*txn, name).map_err(|e| e.op("watch"))?.id),
        };
        let cursor = match options.after {
            Some(cursor) => cursor,
            None => txn.last_cursor()?,
        };
        drop(txn);
        Ok(Self {
            inner,
            bucket,
            filter: options.filter.clone(),
            read_to: cursor,
            cursor,
            ready: VecDeque::new(),
            seen: 0,
        })
    }

    #[cfg(feature = "async")]
    pub(crate) fn store(&self) -> Arc<dyn alknet_fs_core::store::Store> {
        Arc::clone(&self.inner.tree)
    }

    /// Returns the position after the last delivered event: a watcher started with it continues
    /// exactly where this one stands.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Returns the next event, waiting for it up to a time. Nothing means that the time passed.
    ///
    /// # Errors
    /// [`ErrorKind::Lagged`](crate::ErrorKind::Lagged) where events were pruned before this watcher
    /// read them.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Event>> {
        // A timeout too long to add means to wait for ever, in steps.
        let deadline = Instant::now().checked_add(timeout);
        loop {
            if let Some(event) = self.next_ready()? {
                return Ok(Some(event));
            }
            let left = deadline.map_or(Duration::from_secs(3600), |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return Ok(None);
            }
            self.seen = self.inner.tree.wait_for_commit(self.seen, left)?;
        }
    }

    /// Returns up to `limit` events that are committed already; where there is none, waits for one up
    /// to a time. An empty result means that the time passed.
    ///
    /// # Errors
    /// As [`next_timeout`](Self::next_timeout). What was read before the failure is not lost: it is
    /// returned, and the failure by the next call.
    pub fn next_batch(&mut self, timeout: Duration, limit: usize) -> Result<Vec<Event>> {
        let mut events = Vec::from_iter(self.next_timeout(timeout)?);
        while !events.is_empty()
            && events.len() < limit
            && let Ok(Some(event)) = self.next_ready()
        {
            events.push(event);
        }
        Ok(events)
    }

    /// Returns the next event that is committed already, without waiting.
    ///
    /// # Errors
    /// As [`next_timeout`](Self::next_timeout).
    pub fn next_ready(&mut self) -> Result<Option<Event>> {
        while self.ready.is_empty() {
            let txn = self.inner.tree.read()?;
            let events = txn.events(self.bucket, self.read_to, CHUNK)?;
            let Some(last) = events.last() else {
                return Ok(None);
            };
            self.read_to = last.cursor;
            let filter = &self.filter;
            let wanted = events
                .into_iter()
                .filter(|e| filter.passes(&e.branch, &e.change));
            let mut wanted: Vec<_> = wanted.collect();
            name_peers(&*txn, &mut wanted);
            self.ready.extend(wanted);
            if self.ready.is_empty() {
                self.cursor = self.read_to;
            }
        }
        let event = self.ready.pop_front();
        if let Some(event) = &event {
            self.cursor = if self.ready.is_empty() {
                self.read_to
            } else {
                event.cursor
            };
        }
        Ok(event)
    }
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher")
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}
