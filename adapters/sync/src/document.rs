//! One document.

use alknet_fs_core::sync::{ReplicaId, Value};
use alknet_fs_core::{Error, ErrorKind, Result, TreePath};
use automerge::transaction::{CommitOptions, Transactable};
use automerge::{
    ActorId, Automerge, Change, ChangeHash, ExpandedChange, ROOT, ReadDoc, ScalarValue, legacy,
};

use crate::check::check_size;

/// The number of documents that a branch's registers are spread over.
pub const SHARDS: usize = 256;

/// Returns which of a branch's documents has the registers of the paths in a directory.
pub fn shard(dir: &str) -> u8 {
    blake3::hash(dir.as_bytes()).as_bytes()[0]
}

/// The registers of the paths that are in some directories of one branch.
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

    /// Returns the values of a path that no other was written over.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`].
    pub fn values(&self, path: &TreePath) -> Result<Vec<Value>> {
        let all = self.0.get_all(ROOT, path.as_str()).map_err(corrupt)?;
        let bytes = all.iter().filter_map(|(value, _)| value.as_bytes());
        bytes.map(Value::decode).collect()
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

    /// Returns every path that has a register.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`].
    pub fn paths(&self) -> Result<Vec<TreePath>> {
        self.0.keys(ROOT).map(|key| path(&key)).collect()
    }

    /// Writes over whatever the registers of some paths hold. Returns the change, for others to
    /// [`apply`](Self::apply).
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the document cannot be written to.
    pub fn put(&mut self, values: &[(TreePath, Value)]) -> Result<Vec<u8>> {
        let mut transaction = self.0.transaction();
        for (path, value) in values {
            let bytes = ScalarValue::Bytes(value.encode());
            transaction
                .put(ROOT, path.as_str(), bytes)
                .map_err(corrupt)?;
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
    /// the paths that were written, with their values.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where it is not a change by that replica which puts values of paths that
    /// belong here; nothing was applied then.
    pub fn apply(
        &mut self,
        change: &[u8],
        replica: ReplicaId,
        number: u8,
    ) -> Result<Vec<(TreePath, Value)>> {
        check_size(change)?;
        let (checksum, change) = (&change[4..8], Change::try_from(change).map_err(corrupt)?);
        let refuse = |why: &str| Err(Error::with_detail(ErrorKind::Corrupt, why));
        // Automerge looks at it in whole documents only.
        if change.hash().0[..4] != *checksum {
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

/// Returns what a change writes, where it is one that [`Document::put`] could have made.
fn written(change: &ExpandedChange, number: u8) -> Result<Vec<(TreePath, Value)>> {
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
        let path = path(key)?;
        if shard(path.parent_str()) != number {
            return Err(
                refuse("a change writes a path that belongs to another document").path(path),
            );
        }
        let value = Value::decode(bytes).map_err(|e| e.path(&path))?;
        written.push((path, value));
    }
    Ok(written)
}

/// Reads a register's key: a path just as it is written.
fn path(key: &str) -> Result<TreePath> {
    let path = TreePath::parse(key)?;
    match path.as_str() == key {
        true => Ok(path),
        false => {
            let why = "a document has a key that is no path";
            Err(Error::with_detail(ErrorKind::Corrupt, why))
        }
    }
}

fn actor(replica: ReplicaId) -> ActorId {
    ActorId::from(&replica.0[..])
}

fn corrupt(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::with_detail(ErrorKind::Corrupt, "a document is damaged").source(error)
}
