//! What a content was made from that is here: of that only what differs need come.

use std::collections::HashMap;

use alknet_fs_core::chain::Chain;
use alknet_fs_core::store::{BranchId, BucketId, ReadTxn};
use alknet_fs_core::tree::{Follow, resolve};
use alknet_fs_core::{Cursor, ErrorKind, Hash, Result, TreePath};

use super::Named;

/// The smallest content for which it is worth looking for what it was made from, in bytes.
const MIN: u64 = 256 << 10;

/// How many events are looked through for that, at the least and at the most; between them one for as
/// many bytes of what is sought as are fetched about as fast.
const EVENTS: u64 = 2048;
const EVENTS_MOST: u64 = 64 << 10;
const EVENT_BYTES: u64 = 4 << 10;

/// How many log records are read at a time.
const WINDOW: u64 = 64;

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
    let mut found = HashMap::new();
    // What is sought as what a path had later, and what that is for.
    let mut sought: HashMap<Hash, Vec<Hash>> = HashMap::new();
    let mut bytes = 0_u64;
    for (hash, size) in contents {
        if size >= MIN && sought.insert(hash, vec![hash]).is_none() {
            bytes = bytes.saturating_add(size);
        }
    }
    let Some(record) = txn.bucket(bucket)? else {
        return Ok(found);
    };
    let mut left = (bytes / EVENT_BYTES).clamp(EVENTS, EVENTS_MOST);
    let mut end = txn.last_cursor()?.offset() + 1;
    while end > 0 && left > 0 && !sought.is_empty() {
        let start = end.saturating_sub(WINDOW);
        let after = match start {
            0 => Cursor::START,
            start => Cursor::end_of(start - 1),
        };
        let events = txn.events(Some(bucket), after.max(record.pruned), WINDOW as usize)?;
        left = left.saturating_sub(events.len() as u64);
        for event in events.iter().rev().filter(|e| e.cursor.offset() < end) {
            let change = &event.change;
            let (Some(new), Some(old)) = (change.new, change.old) else {
                continue;
            };
            if new == old {
                continue;
            }
            let Some(made) = sought.remove(&new) else {
                continue;
            };
            match txn.has_content(&old)? {
                true => found.extend(made.into_iter().map(|hash| (hash, old))),
                false => sought.entry(old).or_default().extend(made),
            }
        }
        if after <= record.pruned {
            break;
        }
        end = start;
    }
    Ok(found)
}
