//! What the tests of the content store share.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::sync::Arc;

use alknet_fs_content::{Config, Contents, Prepared, SimFiles};
use alknet_fs_core::memory::MemoryStore;
use alknet_fs_core::session::ExtentMap;
use alknet_fs_core::store::{Durability, Store};
use alknet_fs_core::{Hash, Result, Timestamp};

/// Bytes that look random and depend on a seed.
pub fn painted(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Limits at which small contents take the ways of large ones.
pub fn tiny() -> Config {
    Config {
        inline_max: 100,
        delta_min: 0,
        delta_inline_max: 3000,
        delta_merge_max: 2000,
        delta_depth_max: 3,
        tree_inline_max: 200,
        ..Config::default()
    }
}

/// A store in memory with contents in files of any kind.
pub struct Bench {
    pub store: MemoryStore,
    pub contents: Contents,
}

impl Bench {
    pub fn sim(config: Config) -> (Self, SimFiles) {
        Self::over(SimFiles::new(), config)
    }

    pub fn over(files: SimFiles, config: Config) -> (Self, SimFiles) {
        let contents = Contents::with_files(Arc::new(files.clone()), config);
        let store = MemoryStore::new();
        (Self { store, contents }, files)
    }

    pub fn commit(&self, prepared: Prepared) -> Result<Hash> {
        let hash = prepared.hash();
        let mut prepared = [prepared];
        let mut txn = self.store.write(Durability::Full)?;
        self.contents
            .commit(&mut *txn, &mut prepared, Timestamp(1))?;
        txn.commit()?;
        Ok(hash)
    }

    pub fn put(&self, bytes: &[u8]) -> Result<Hash> {
        self.commit(self.contents.prepare_bytes(bytes.to_vec())?)
    }

    pub fn read(&self, hash: &Hash) -> Result<Vec<u8>> {
        self.contents.open(&*self.store.read()?, hash)?.read_all()
    }

    pub fn verify(&self, hash: &Hash) -> Result<()> {
        let txn = self.store.read()?;
        let go_on = &mut |_| ControlFlow::Continue(());
        self.contents.verify(&*txn, hash, go_on)
    }
}

/// A session in memory: its extents, its staged bytes and what the file should hold.
pub struct Edit {
    pub map: ExtentMap,
    pub staged: Vec<u8>,
    pub model: Vec<u8>,
}

impl Edit {
    pub fn over(base: &[u8]) -> Self {
        Self {
            map: ExtentMap::new(base.len() as u64),
            staged: Vec::new(),
            model: base.to_vec(),
        }
    }

    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        let at = self.staged.len() as u64;
        self.map
            .write(offset as u64, bytes.len() as u64, at)
            .unwrap();
        self.staged.extend_from_slice(bytes);
        if !bytes.is_empty() {
            let end = offset + bytes.len();
            self.model.resize(self.model.len().max(end), 0);
            self.model[offset..end].copy_from_slice(bytes);
        }
    }

    pub fn truncate(&mut self, size: usize) {
        self.map.truncate(size as u64).unwrap();
        self.model.resize(size, 0);
    }
}
