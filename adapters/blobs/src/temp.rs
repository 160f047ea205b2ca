//! Temporary tags and batches.
//!
//! What counts a temporary tag when it is dropped is private to iroh-blobs, so its own store in
//! memory, which holds no bytes, makes the tags and counts them: one for each batch, so that what is
//! left of a batch's tags goes with the batch.

use std::collections::HashMap;
use std::io;

use futures_lite::StreamExt;
use iroh_blobs::HashAndFormat;
use iroh_blobs::api::TempTag;
use iroh_blobs::api::proto::Scope;
use iroh_blobs::store::mem::MemStore;
use parking_lot::Mutex;

#[derive(Debug)]
pub(crate) struct TempTags {
    state: Mutex<Scopes>,
}

#[derive(Debug)]
struct Scopes {
    counters: HashMap<Scope, MemStore>,
    last: u64,
}

impl TempTags {
    pub(crate) fn new() -> Self {
        let counters = HashMap::from([(Scope::GLOBAL, MemStore::new())]);
        Self {
            state: Mutex::new(Scopes { counters, last: 0 }),
        }
    }

    /// Begins a batch.
    pub(crate) fn begin(&self) -> io::Result<Scope> {
        let mut state = self.state.lock();
        state.last += 1;
        // A scope is a number that only iroh-blobs can put in its type.
        let scope = serde_json::from_value(state.last.into()).map_err(io::Error::other)?;
        state.counters.insert(scope, MemStore::new());
        Ok(scope)
    }

    /// Ends a batch, with all its tags.
    pub(crate) fn end(&self, scope: Scope) {
        self.state.lock().counters.remove(&scope);
    }

    /// Makes a tag. One of a batch that has ended is nobody's.
    pub(crate) async fn create(&self, scope: Scope, value: HashAndFormat) -> io::Result<TempTag> {
        let counter = self.state.lock().counters.get(&scope).cloned();
        let Some(counter) = counter else {
            let detail = "the batch has ended";
            return Err(io::Error::new(io::ErrorKind::NotFound, detail));
        };
        Ok(counter.tags().temp_tag(value).await?)
    }

    /// Returns what tags name now.
    pub(crate) async fn list(&self) -> Vec<HashAndFormat> {
        let counters: Vec<_> = self.state.lock().counters.values().cloned().collect();
        let mut found = Vec::new();
        for counter in counters {
            let Ok(tags) = counter.tags().list_temp_tags().await else {
                continue;
            };
            found.extend(tags.collect::<Vec<_>>().await);
        }
        found
    }
}
