//! One document.

use std::collections::{BTreeMap, HashMap};

use alknet_fs_core::sync::{Key, ReplicaId, Stamp, Value, VersionVector, depth};
use alknet_fs_core::{Error, ErrorKind, Result, TreePath};
use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, Automerge, ChangeHash, PatchLog, ROOT, ReadDoc, ScalarValue, legacy};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::kept;

/// The number of documents that a branch's paths are spread over.
pub const SHARDS: u16 = 256;

/// The number of the document with the registers about the branch itself.
pub(crate) const ABOUT: u16 = SHARDS;

/// Returns which of a branch's documents has the registers of the paths in a directory.
pub fn shard(dir: &str) -> u16 {
    u16::from(blake3::hash(dir.as_bytes()).as_bytes()[0])
}

/// Returns which of a branch's documents has a register.
///
/// # Errors
/// [`ErrorKind::Corrupt`] or [`ErrorKind::InvalidPath`] where no document may have one of that name.
pub(crate) fn number_of(key: &str) -> Result<u16> {
    if !key.starts_with('/') {
        return Key::parse(key).map(|_| ABOUT);
    }
    let path = TreePath::parse(key)?;
    match path.as_str() == key {
        true => Ok(shard(path.parent_str())),
        false => {
            let why = "a register is named by what is no path";
            Err(Error::with_detail(ErrorKind::Corrupt, why).path(&path))
        }
    }
}

/// Returns when a register's value was written.
///
/// # Errors
/// [`ErrorKind::Corrupt`] where that is no value of the register.
pub(crate) fn stamp_of(key: &str, value: &[u8]) -> Result<Stamp> {
    match key.starts_with('/') {
        true => Value::decode(value)
            .map(|value| value.stamp)
            .map_err(|e| e.path(key)),
        false => Key::parse(key)?.stamp(value),
    }
}

/// Registers and the values that are put into them.
pub(crate) type Values = Vec<(String, ByteBuf)>;

/// What one cut puts into one document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Who wrote the cut.
    pub replica: ReplicaId,
    /// The number of the cut.
    pub number: u64,
    /// What its writer had seen of the others.
    pub seen: VersionVector,
    /// The registers, each with a value.
    pub values: Vec<(String, ByteBuf)>,
}

/// By what shares are ordered: causes before their effects.
pub(crate) type Order = (u64, ReplicaId, u64);

impl Share {
    pub(crate) fn order(&self) -> Order {
        let depth = depth(self.replica, self.number, &self.seen);
        (depth, self.replica, self.number)
    }

    /// Adds what is known of another share of the same cut. Returns the registers that were missing.
    pub(crate) fn merge(&mut self, other: Self) -> Vec<String> {
        let mut missing = Vec::new();
        for (key, value) in other.values {
            if let Err(at) = self.values.binary_search_by(|(k, _)| k.cmp(&key)) {
                missing.push(key.clone());
                self.values.insert(at, (key, value));
            }
        }
        missing
    }
}

/// Some registers of one branch: texts, each with bytes, or several where they were written without
/// knowledge of each other.
///
/// Each change of it is the share of one cut: its actor is the replica, its time the cut's number,
/// and its message, in hexadecimal digits, what the writer had seen of the others.
#[derive(Debug, Clone)]
pub struct Document {
    doc: Automerge,
    /// Of which cuts it has shares.
    vector: VersionVector,
}

impl Default for Document {
    fn default() -> Self {
        Self::new()
    }
}

impl Document {
    /// Makes a document without registers.
    pub fn new() -> Self {
        Self {
            doc: Automerge::new(),
            vector: VersionVector::new(),
        }
    }

    /// Makes a document of shares.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`].
    pub fn build(mut shares: Vec<Share>) -> Result<Self> {
        shares.sort_by_key(Share::order);
        let mut document = Self::new();
        for share in &shares {
            document.put(share)?;
        }
        Ok(document)
    }

    /// Reads a document: what [`save`](Self::save) returned, followed by changes, if any.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`].
    pub fn load(bytes: &[u8]) -> Result<Self> {
        let doc = Automerge::load(bytes).map_err(corrupt)?;
        let mut vector = VersionVector::new();
        for change in doc.get_changes_meta(&[]) {
            vector.see(replica(&change.actor)?, number(change.timestamp)?);
        }
        Ok(Self { doc, vector })
    }

    /// Returns the document as bytes, with all that it has of its history.
    pub fn save(&self) -> Vec<u8> {
        self.doc.save()
    }

    /// Returns of which cuts there are shares, or were before they were left out.
    pub fn vector(&self) -> &VersionVector {
        &self.vector
    }

    /// Returns how many registers there are, and how many values were ever put into them and are not
    /// left out.
    pub fn counts(&self) -> (usize, usize) {
        let puts = usize::try_from(self.doc.stats().num_ops);
        (self.doc.length(ROOT), puts.unwrap_or(usize::MAX))
    }

    /// Returns the values of a register that no other was written over, as they are now or as they
    /// were when there was nothing but some changes and what those are based on.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`].
    pub fn values(&self, key: &str, at: Option<&[ChangeHash]>) -> Result<Vec<Vec<u8>>> {
        let all = match at {
            None => self.doc.get_all(ROOT, key),
            Some(heads) => self.doc.get_all_at(ROOT, key, heads),
        };
        let all = all.map_err(corrupt)?;
        let bytes = all.iter().filter_map(|(value, _)| value.as_bytes());
        Ok(bytes.map(<[u8]>::to_vec).collect())
    }

    /// Returns the newest change of each replica among those of the cuts that a vector covers.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`].
    pub fn heads_at(&self, vector: &VersionVector) -> Result<Vec<ChangeHash>> {
        let mut newest: HashMap<ReplicaId, (u64, ChangeHash)> = HashMap::new();
        for change in self.doc.get_changes_meta(&[]) {
            let (replica, number) = (replica(&change.actor)?, number(change.timestamp)?);
            if number <= vector.get(replica)
                && newest.get(&replica).is_none_or(|(n, _)| *n < number)
            {
                newest.insert(replica, (number, change.hash));
            }
        }
        Ok(newest.into_values().map(|(_, hash)| hash).collect())
    }

    /// Returns the names directly in a directory that have a register.
    pub fn names(&self, dir: &TreePath) -> Vec<Box<str>> {
        let prefix = match dir.is_root() {
            true => "/".to_owned(),
            false => format!("{dir}/"),
        };
        let inside = self.doc.map_range(ROOT, prefix.clone()..);
        let inside = inside
            .map(|item| item.key)
            .take_while(|key| key.starts_with(&prefix));
        // Other directories of the same document may lie below.
        let names =
            inside.filter(|key| key.len() > prefix.len() && !key[prefix.len()..].contains('/'));
        names.map(|key| key[prefix.len()..].into()).collect()
    }

    /// Returns every register.
    pub fn keys(&self) -> impl Iterator<Item = String> + '_ {
        self.doc.keys(ROOT)
    }

    /// Puts values into registers, over those that the writer had seen. The writer's cuts come in
    /// their order, and after those that it had seen. Returns the change; no bytes where it makes no
    /// difference.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the document cannot be written to.
    pub fn put(&mut self, share: &Share) -> Result<Vec<u8>> {
        let mut known = share.seen.clone();
        known.see(share.replica, share.number);
        self.doc.set_actor(ActorId::from(&share.replica.0[..]));
        let mut transaction = match known.covers(&self.vector) {
            true => self.doc.transaction(),
            false => {
                let heads = self.heads_at(&known)?;
                self.doc
                    .transaction_at(PatchLog::null(), &heads)
                    .map_err(corrupt)?
            }
        };
        for (key, bytes) in &share.values {
            let bytes = ScalarValue::Bytes(bytes.to_vec());
            transaction.put(ROOT, key, bytes).map_err(corrupt)?;
        }
        let time = i64::try_from(share.number).map_err(corrupt)?;
        let options = CommitOptions::default()
            .with_time(time)
            .with_message(hex(&kept::encode(&share.seen)));
        let (change, _) = transaction.commit_with(options);
        self.vector.see(share.replica, share.number);
        if change.is_none() {
            return Ok(Vec::new());
        }
        let change = self.doc.get_last_local_change();
        Ok(change
            .map(|change| change.raw_bytes().to_vec())
            .unwrap_or_default())
    }

    /// Returns all shares that are there, in order.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`].
    pub fn shares(&self) -> Result<Vec<Share>> {
        let mut shares: BTreeMap<Order, Share> = BTreeMap::new();
        for change in self.doc.get_changes(&[]) {
            let change = change.decode();
            let seen = change.message.as_deref().and_then(unhex);
            let seen = seen.and_then(|bytes| postcard::from_bytes(&bytes).ok());
            let values = change.operations.into_iter().map(|op| match op {
                legacy::Op {
                    action: legacy::OpType::Put(ScalarValue::Bytes(bytes)),
                    key: legacy::Key::Map(key),
                    ..
                } => Ok((key.to_string(), ByteBuf::from(bytes))),
                _ => Err(damaged()),
            });
            let mut values = values.collect::<Result<Values>>()?;
            values.sort_by(|(a, _), (b, _)| a.cmp(b));
            let share = Share {
                replica: replica(&change.actor_id)?,
                number: number(change.time)?,
                seen: seen.ok_or_else(damaged)?,
                values,
            };
            shares.insert(share.order(), share);
        }
        Ok(shares.into_values().collect())
    }
}

fn replica(actor: &ActorId) -> Result<ReplicaId> {
    let bytes = actor.to_bytes().try_into();
    bytes.map(ReplicaId).map_err(|_| damaged())
}

fn number(time: i64) -> Result<u64> {
    u64::try_from(time).map_err(corrupt)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok())
        .collect()
}

fn damaged() -> Error {
    Error::with_detail(ErrorKind::Corrupt, "a document is damaged")
}

fn corrupt(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    damaged().source(error)
}
