//! One document.

use std::collections::HashSet;

use alknet_fs_core::sync::{Key, ReplicaId, Value};
use alknet_fs_core::{Error, ErrorKind, Result, TreePath};
use automerge::transaction::{CommitOptions, Transactable};
use automerge::{
    ActorId, Automerge, Change, ChangeHash, ExpandedChange, ROOT, ReadDoc, ScalarValue, legacy,
};

use crate::check::check_size;

/// The number of documents that a branch's paths are spread over.
pub const SHARDS: u16 = 256;

/// The number of the document with the registers about the branch itself.
pub(crate) const ABOUT: u16 = SHARDS;

/// Returns which of a branch's documents has the registers of the paths in a directory.
pub fn shard(dir: &str) -> u16 {
    u16::from(blake3::hash(dir.as_bytes()).as_bytes()[0])
}

/// Checks that a document may hold a register with a value.
///
/// # Errors
/// [`ErrorKind::Corrupt`] or [`ErrorKind::InvalidPath`].
fn check_register(number: u16, key: &str, value: &[u8]) -> Result<()> {
    if number == ABOUT {
        return Key::parse(key)?.stamp(value).map(drop);
    }
    let path = TreePath::parse(key)?;
    let refuse = |why: &str| Err(Error::with_detail(ErrorKind::Corrupt, why).path(&path));
    if path.as_str() != key {
        return refuse("a document has a key that is no path");
    }
    if shard(path.parent_str()) != number {
        return refuse("a change writes a path that belongs to another document");
    }
    Value::decode(value).map(drop).map_err(|e| e.path(&path))
}

/// Some registers of one branch: texts, each with bytes, or several where they were written without
/// knowledge of each other.
#[derive(Debug, Clone)]
pub struct Document(Automerge);

impl Document {
    /// Makes a document without registers, in which a replica writes.
    pub fn new(replica: ReplicaId) -> Self {
        Self(Automerge::new().with_actor(actor(replica)))
    }

    /// Reads a document: what [`save`](Self::save) returned, followed by changes, if any.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`].
    pub fn load(bytes: &[u8], replica: ReplicaId) -> Result<Self> {
        let doc = Automerge::load(bytes).map_err(corrupt)?;
        Ok(Self(doc.with_actor(actor(replica))))
    }

    /// Returns the document as bytes, its history included.
    pub fn save(&self) -> Vec<u8> {
        self.0.save()
    }

    /// Returns the changes that no other is based on. Documents with the same ones are the same.
    pub fn heads(&self) -> Vec<ChangeHash> {
        let mut heads = self.0.get_heads();
        heads.sort_unstable();
        heads
    }

    /// Returns the values of a register that no other was written over, as they are now or as they
    /// were when there was nothing but some changes and what those are based on.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`].
    pub fn values(&self, key: &str, at: Option<&[ChangeHash]>) -> Result<Vec<Vec<u8>>> {
        let all = match at {
            None => self.0.get_all(ROOT, key),
            Some(heads) => self.0.get_all_at(ROOT, key, heads),
        };
        let all = all.map_err(corrupt)?;
        let bytes = all.iter().filter_map(|(value, _)| value.as_bytes());
        Ok(bytes.map(<[u8]>::to_vec).collect())
    }

    /// Returns the heads that the document had without some changes, and all that are based on them.
    pub fn heads_without(&self, changes: &HashSet<ChangeHash>) -> Vec<ChangeHash> {
        let mut heads = HashSet::new();
        let mut seen = HashSet::new();
        let mut left = self.heads();
        while let Some(hash) = left.pop() {
            if !changes.contains(&hash) {
                heads.insert(hash);
            } else if seen.insert(hash)
                && let Some(change) = self.0.get_change_by_hash(&hash)
            {
                left.extend(change.deps());
            }
        }
        heads.into_iter().collect()
    }

    /// Returns the names directly in a directory that have a register.
    pub fn names(&self, dir: &TreePath) -> Vec<Box<str>> {
        let prefix = match dir.is_root() {
            true => "/".to_owned(),
            false => format!("{dir}/"),
        };
        let inside = self.0.map_range(ROOT, prefix.clone()..);
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
        self.0.keys(ROOT)
    }

    /// Writes over whatever some registers hold. Returns the change, for others to
    /// [`apply`](Self::apply).
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the document cannot be written to.
    pub fn put(&mut self, values: Vec<(String, Vec<u8>)>) -> Result<Vec<u8>> {
        let mut transaction = self.0.transaction();
        for (key, bytes) in values {
            let bytes = ScalarValue::Bytes(bytes);
            transaction.put(ROOT, key, bytes).map_err(corrupt)?;
        }
        // The stamps tell the time.
        transaction.commit_with(CommitOptions::default().with_time(0));
        let change = self.0.get_last_local_change();
        change
            .map(|change| change.raw_bytes().to_vec())
            .ok_or_else(|| {
                Error::with_detail(ErrorKind::Corrupt, "nothing was written to the document")
            })
    }

    /// Applies a change that a replica made, all that it is based on being there already. Returns
    /// the registers that were written, with their values.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where it is not a change by that replica which puts values of registers
    /// that belong here; nothing was applied then.
    pub fn apply(
        &mut self,
        change: &[u8],
        replica: ReplicaId,
        number: u16,
    ) -> Result<Vec<(String, Vec<u8>)>> {
        let (checksum, change) = (change.get(4..8).map(<[u8]>::to_vec), decode(change)?);
        let refuse = |why: &str| Err(Error::with_detail(ErrorKind::Corrupt, why));
        // Automerge looks at it in whole documents only.
        if checksum.as_deref() != Some(&change.hash().0[..4]) {
            return refuse("a change's checksum is wrong");
        }
        if *change.actor_id() != actor(replica) {
            return refuse("a change was made by somebody else than who sent it");
        }
        let known = |hash: &ChangeHash| self.0.get_change_meta_by_hash(hash).is_some();
        if !change.deps().iter().all(known) {
            return refuse("a change is based on one that is not there");
        }
        let written = written(&change.decode(), number)?;
        self.0.apply_changes([change]).map_err(corrupt)?;
        Ok(written)
    }
}

/// Returns the hash that names a change.
///
/// # Errors
/// [`ErrorKind::Corrupt`].
pub(crate) fn hash_of(change: &[u8]) -> Result<ChangeHash> {
    Ok(decode(change)?.hash())
}

/// Returns the registers that a change writes.
///
/// # Errors
/// [`ErrorKind::Corrupt`].
pub(crate) fn keys_of(change: &[u8], number: u16) -> Result<Vec<String>> {
    let written = written(&decode(change)?.decode(), number)?;
    Ok(written.into_iter().map(|(key, _)| key).collect())
}

fn decode(change: &[u8]) -> Result<Change> {
    check_size(change)?;
    Change::try_from(change).map_err(corrupt)
}

/// Returns what a change writes, where it is one that [`Document::put`] could have made.
fn written(change: &ExpandedChange, number: u16) -> Result<Vec<(String, Vec<u8>)>> {
    let refuse = |why: &str| Error::with_detail(ErrorKind::Corrupt, why);
    let mut written = Vec::with_capacity(change.operations.len());
    for op in &change.operations {
        let (legacy::ObjectId::Root, legacy::Key::Map(key)) = (&op.obj, &op.key) else {
            return Err(refuse(
                "a change writes elsewhere than at a document's root",
            ));
        };
        let legacy::OpType::Put(ScalarValue::Bytes(bytes)) = &op.action else {
            return Err(refuse("a change does something else than to put a value"));
        };
        check_register(number, key, bytes)?;
        written.push((key.to_string(), bytes.clone()));
    }
    Ok(written)
}

fn actor(replica: ReplicaId) -> ActorId {
    ActorId::from(&replica.0[..])
}

fn corrupt(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::with_detail(ErrorKind::Corrupt, "a document is damaged").source(error)
}
