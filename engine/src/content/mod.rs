//! Contents that are named here and are not here.
//!
//! In a bucket that takes part in synchronisation, entries arrive before their contents do, and
//! contents may be evicted again. Whatever reads a content that is not here gets it through
//! [`Inner::fetched`]: from the [`ContentSource`] of this process, or else by way of the process that
//! has one. Reads of what is here do not come this way.

mod base;
mod evict;
mod fetch;
pub(crate) mod held;
mod policy;
mod service;
mod shards;
mod source;
mod wait;

use alknet_fs_content::{ContentReader, no_record};
use alknet_fs_core::store::{BranchId, BucketId, ReadTxn, WriteTxn};
use alknet_fs_core::{Error, ErrorKind, Hash, Result, TreePath};

use self::base::{base_of, base_of_lost};
use crate::store::Inner;

pub use evict::EvictReport;
pub use fetch::{FetchReport, Unfetched};
pub use policy::{ContentPolicy, ContentSettings};
pub use service::{ContentQueue, ContentService};
pub use source::{ContentSource, Fetch, Fetching, Outcome, Priority, Want};
pub(crate) use wait::Hub;

/// For how long a peer that said that it holds a content keeps it.
pub const PROMISE: std::time::Duration = std::time::Duration::from_secs(600);

/// The queue of what processes without a source wait for.
const READS: &str = "alkfs:read";

/// The queue of what is fetched in the background.
const WANTED: &str = "alkfs:content";

/// The queue of what processes without a source want evicted.
const EVICTIONS: &str = "alkfs:evict";

/// The scope of the values that are kept of all buckets' contents, and the name of the store's limit.
const SCOPE: &str = "content";
const LIMIT: &str = "limit";

/// How often a content is asked for that is said to be here and is not.
const ATTEMPTS: usize = 3;

/// A content that some entry names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named {
    pub(crate) bucket: BucketId,
    pub(crate) hash: Hash,
    pub(crate) size: u64,
}

/// Returns the scope of what is kept of a bucket's synchronisation.
fn sync_scope(bucket: BucketId) -> String {
    format!("sync/{bucket}")
}

/// Tells whether a bucket takes part in synchronisation: what is not here may be elsewhere.
pub(crate) fn takes_part(txn: &dyn ReadTxn, bucket: BucketId) -> Result<bool> {
    Ok(txn.value(&sync_scope(bucket), "bucket")?.is_some())
}

/// Removes what is kept of a bucket's contents and synchronisation, besides what is known of peers.
pub(crate) fn forget(txn: &mut dyn WriteTxn, bucket: BucketId) -> Result<()> {
    txn.remove_values(&sync_scope(bucket))?;
    txn.remove_values(&policy::scope(bucket))
}

/// Returns for how long what is read of a bucket is waited for.
#[cfg(feature = "sync")]
pub(crate) fn patience(txn: &dyn ReadTxn, bucket: BucketId) -> Result<std::time::Duration> {
    policy::load(txn, bucket).map(|settings| settings.timeout)
}

impl Inner {
    /// Opens a content that was not found in some state of the store, waiting for it to arrive. No
    /// transaction may be open.
    ///
    /// # Errors
    /// [`ErrorKind::ContentUnavailable`] where it does not; [`ErrorKind::Corrupt`] where the bucket is
    /// this store's alone, so that it should be here.
    pub(crate) fn fetched(&self, named: &Named, fetching: &Fetching) -> Result<ContentReader> {
        self.fetched_from(named, base_of, fetching)
    }

    /// Opens a content that lost in a conflict at a path of a branch, as [`Self::fetched`] does.
    pub(crate) fn fetched_lost(
        &self,
        named: &Named,
        (branch, path): (BranchId, &TreePath),
        fetching: &Fetching,
    ) -> Result<ContentReader> {
        let base = |txn: &dyn ReadTxn, named: &Named| base_of_lost(txn, branch, path, named.size);
        self.fetched_from(named, base, fetching)
    }

    fn fetched_from(
        &self,
        named: &Named,
        base: impl FnOnce(&dyn ReadTxn, &Named) -> Result<Option<Hash>>,
        fetching: &Fetching,
    ) -> Result<ContentReader> {
        let txn = self.tree.read()?;
        if let Some(reader) = self.contents.find(&*txn, &named.hash)? {
            return Ok(reader);
        }
        if !takes_part(&*txn, named.bucket)? {
            return Err(no_record(&named.hash));
        }
        let settings = policy::load(&*txn, named.bucket)?;
        let want = Want {
            bucket: named.bucket,
            hash: named.hash,
            size: named.size,
            base: base(&*txn, named)?,
            priority: Priority::Read,
        };
        drop(txn);
        let timeout = fetching.timeout.unwrap_or(settings.timeout);
        // What arrived may have been evicted already, where there is little room.
        for _ in 0..ATTEMPTS {
            self.bring(want.clone(), timeout, fetching)?;
            let _pinned = self.keeper.pinned()?;
            if let Some(found) = self.contents.find(&*self.tree.read()?, &named.hash)? {
                return Ok(found);
            }
        }
        let why = "it was said to have arrived, and has not";
        Err(unavailable(&named.hash, why, &[]))
    }
}

/// Makes the error for a content that cannot be had. Whoever knows the path adds it.
fn unavailable(hash: &Hash, why: &str, asked: &[String]) -> Error {
    let detail = format!("its content {hash} is not here: {why}");
    Error::with_detail(ErrorKind::ContentUnavailable, detail).content(*hash, asked)
}
