//! Numbers by hash, for a million hashes: small records in the store's values.
//!
//! A scope has 4,096 shards, by the first 12 bits of the hash. A shard is a sorted row of 16 bytes each:
//! 8 further bytes of the hash and the number. So a million numbers take 16 MB, and setting some is a
//! matter of a few pages. Two hashes that agree in these 76 bits are taken for one; what is kept here is
//! what is likely, and is confirmed before anything depends on it.

use std::collections::{BTreeMap, HashMap, HashSet};

use alknet_fs_core::store::{ReadTxn, WriteTxn};
use alknet_fs_core::{Hash, Result};

const SHARDS: u16 = 1 << 12;

/// What stands for a hash: its shard, and its key there.
pub(super) type Key = (u16, [u8; 8]);

pub(super) fn key(hash: &Hash) -> Key {
    let bytes = hash.as_bytes();
    let shard = u16::from_be_bytes([bytes[0], bytes[1]]) >> 4;
    let mut rest = [0; 8];
    rest.copy_from_slice(&bytes[2..10]);
    (shard, rest)
}

fn name(shard: u16) -> String {
    format!("{shard:03x}")
}

fn decode(bytes: &[u8]) -> impl Iterator<Item = ([u8; 8], u64)> {
    bytes.chunks_exact(16).map(|entry| {
        let (mut key, mut number) = ([0; 8], [0; 8]);
        key.copy_from_slice(&entry[..8]);
        number.copy_from_slice(&entry[8..]);
        (key, u64::from_be_bytes(number))
    })
}

/// Returns the number of a hash.
pub(super) fn get(txn: &dyn ReadTxn, scope: &str, hash: &Hash) -> Result<Option<u64>> {
    let (shard, key) = key(hash);
    let Some(bytes) = txn.value(scope, &name(shard))? else {
        return Ok(None);
    };
    let found = decode(&bytes).find(|(other, _)| *other == key);
    Ok(found.map(|(_, number)| number))
}

/// Returns all numbers.
pub(super) fn all(txn: &dyn ReadTxn, scope: &str) -> Result<HashMap<Key, u64>> {
    let mut found = HashMap::new();
    for shard in 0..SHARDS {
        if let Some(bytes) = txn.value(scope, &name(shard))? {
            found.extend(decode(&bytes).map(|(key, number)| ((shard, key), number)));
        }
    }
    Ok(found)
}

/// Sets numbers, or removes them; and of the shards that this touches, removes those that are not worth
/// keeping.
pub(super) fn set(
    txn: &mut dyn WriteTxn,
    scope: &str,
    changes: impl IntoIterator<Item = (Hash, Option<u64>)>,
    keep: impl Fn(u64) -> bool,
) -> Result<()> {
    let mut shards: BTreeMap<u16, Vec<(_, Option<u64>)>> = BTreeMap::new();
    for (hash, number) in changes {
        let (shard, key) = key(&hash);
        shards.entry(shard).or_default().push((key, number));
    }
    for (shard, changes) in shards {
        let name = name(shard);
        let before = txn.value(scope, &name)?.unwrap_or_default();
        let mut entries: BTreeMap<_, _> = decode(&before).collect();
        for (key, number) in changes {
            match number {
                Some(number) => entries.insert(key, number),
                None => entries.remove(&key),
            };
        }
        entries.retain(|_, number| keep(*number));
        let mut bytes = Vec::with_capacity(entries.len() * 16);
        for (key, number) in entries {
            bytes.extend_from_slice(&key);
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        if bytes != before {
            txn.set_value(scope, &name, (!bytes.is_empty()).then_some(&*bytes))?;
        }
    }
    Ok(())
}

/// Returns the shards of a scope that have numbers whose keys are not among those to keep.
pub(super) fn beyond(txn: &dyn ReadTxn, scope: &str, keep: &HashSet<Key>) -> Result<Vec<u16>> {
    let mut found = Vec::new();
    for shard in 0..SHARDS {
        if let Some(bytes) = txn.value(scope, &name(shard))?
            && decode(&bytes).any(|(key, _)| !keep.contains(&(shard, key)))
        {
            found.push(shard);
        }
    }
    Ok(found)
}

/// Removes the numbers of some shards whose keys are not among those to keep.
pub(super) fn retain(
    txn: &mut dyn WriteTxn,
    scope: &str,
    shards: &[u16],
    keep: &HashSet<Key>,
) -> Result<()> {
    for &shard in shards {
        let name = name(shard);
        let Some(before) = txn.value(scope, &name)? else {
            continue;
        };
        let mut bytes = Vec::with_capacity(before.len());
        for (entry, (key, _)) in before.chunks_exact(16).zip(decode(&before)) {
            if keep.contains(&(shard, key)) {
                bytes.extend_from_slice(entry);
            }
        }
        if bytes != before {
            txn.set_value(scope, &name, (!bytes.is_empty()).then_some(&*bytes))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alknet_fs_core::memory::MemoryStore;
    use alknet_fs_core::store::{Durability, Store};

    use super::*;

    #[test]
    fn numbers_are_set_found_and_dropped() {
        let store = MemoryStore::new();
        let hashes: Vec<_> = (0..20_000_u64)
            .map(|n| Hash::of(&n.to_le_bytes()))
            .collect();
        let mut txn = store.write(Durability::Full).unwrap();
        let numbers = hashes.iter().copied().zip(1_u64..);
        set(&mut *txn, "s", numbers.map(|(h, n)| (h, Some(n))), |_| true).unwrap();
        set(
            &mut *txn,
            "s",
            [(hashes[5], None), (hashes[6], Some(1))],
            |_| true,
        )
        .unwrap();
        let found = all(&*txn, "s").unwrap();
        assert_eq!(found.len(), 19_999);
        assert_eq!(get(&*txn, "s", &hashes[5]).unwrap(), None);
        assert_eq!(get(&*txn, "s", &hashes[6]).unwrap(), Some(1));
        for (hash, n) in hashes.iter().zip(1_u64..).skip(7) {
            assert_eq!(found.get(&key(hash)), Some(&n));
        }
        assert_eq!(get(&*txn, "other", &hashes[7]).unwrap(), None);
        // What is not worth keeping goes with what is set beside it.
        let all_again = hashes.iter().map(|h| (*h, None));
        set(&mut *txn, "s", all_again, |_| false).unwrap();
        assert!(all(&*txn, "s").unwrap().is_empty());
        assert_eq!(txn.value("s", "000").unwrap(), None);
    }
}
