//! What the tests share.

#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

pub mod net;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet_fs_blobs::{BlobStore, Options};
use alknet_fs_content::{Config, Contents, Staged};
use alknet_fs_core::session::ExtentMap;
use alknet_fs_core::store::{Durability, Store};
use alknet_fs_core::{Hash, Timestamp};
use alknet_fs_sqlite::SqliteStore;
use bao_tree::{ChunkNum, ChunkRanges};
use iroh_blobs::api::blobs::Bitfield;

/// A store on the disk with its blobs served.
pub struct Node {
    pub store: Arc<SqliteStore>,
    pub contents: Contents,
    pub blobs: BlobStore,
}

impl Node {
    pub fn create(dir: &Path) -> Self {
        SqliteStore::create(dir, Default::default()).unwrap();
        Self::open(dir)
    }

    pub fn open(dir: &Path) -> Self {
        Self::open_with(dir, Options::default())
    }

    pub fn open_with(dir: &Path, options: Options) -> Self {
        let store = Arc::new(SqliteStore::open(dir, Default::default()).unwrap());
        let contents = Contents::open_store(dir, Config::default()).unwrap();
        let blobs = BlobStore::spawn(store.clone(), contents.clone(), options).unwrap();
        Self {
            store,
            contents,
            blobs,
        }
    }

    /// Adds bytes as the tree does, without iroh-blobs.
    pub fn put(&self, bytes: Vec<u8>) -> iroh_blobs::Hash {
        let mut prepared = [self.contents.prepare_bytes(bytes).unwrap()];
        self.commit(&mut prepared)
    }

    pub fn commit(&self, prepared: &mut [alknet_fs_content::Prepared]) -> iroh_blobs::Hash {
        let mut txn = self.store.write(Durability::Relaxed).unwrap();
        self.contents
            .commit(&mut *txn, prepared, Timestamp(1))
            .unwrap();
        txn.commit().unwrap();
        theirs(&prepared[0].hash())
    }

    /// Adds a version of a content in which `new` stands at an offset.
    pub fn edit(&self, base: &[u8], at: u64, new: &[u8]) -> (iroh_blobs::Hash, Vec<u8>) {
        let mut extents = ExtentMap::new(base.len() as u64);
        extents.write(at, new.len() as u64, 0).unwrap();
        let txn = self.store.read().unwrap();
        let plan = extents.plan();
        let hash = Hash::of(base);
        let prepared = self
            .contents
            .prepare_plan(&*txn, Some(&hash), Staged::Bytes(new), &plan);
        drop(txn);
        let mut bytes = base.to_vec();
        let end = (at as usize + new.len()).max(bytes.len());
        bytes.resize(end, 0);
        bytes[at as usize..][..new.len()].copy_from_slice(new);
        (self.commit(&mut [prepared.unwrap()]), bytes)
    }

    pub fn has(&self, hash: iroh_blobs::Hash) -> bool {
        let txn = self.store.read().unwrap();
        txn.has_content(&Hash::from_bytes(*hash.as_bytes()))
            .unwrap()
    }

    /// Reads a content past iroh-blobs, and checks all of it.
    pub fn read(&self, hash: iroh_blobs::Hash) -> Vec<u8> {
        let txn = self.store.read().unwrap();
        let hash = Hash::from_bytes(*hash.as_bytes());
        let proceed = &mut |_| std::ops::ControlFlow::Continue(());
        self.contents.verify(&*txn, &hash, proceed).unwrap();
        let reader = self.contents.open(&*txn, &hash).unwrap();
        reader.read_all().unwrap()
    }

    pub async fn shutdown(self) {
        self.blobs.shutdown().await.unwrap();
    }
}

pub fn theirs(hash: &Hash) -> iroh_blobs::Hash {
    iroh_blobs::Hash::from_bytes(*hash.as_bytes())
}

/// A small generator of numbers that can be repeated.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

pub fn painted(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed * 2 + 1);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Some chunk ranges, which may end after the content does.
pub fn some_ranges(random: &mut Random, size: u64) -> ChunkRanges {
    let chunks = size.div_ceil(1024) + 20;
    let mut ranges = ChunkRanges::empty();
    for _ in 0..=random.below(4) {
        let start = random.below(chunks);
        let len = 1 + random.below(chunks / 2 + 2);
        ranges |= ChunkRanges::from(ChunkNum(start)..ChunkNum(start + len));
    }
    if random.below(5) == 0 {
        ranges |= ChunkRanges::from(ChunkNum(random.below(chunks))..);
    }
    ranges
}

/// Returns those of the ranges that make whole groups of 16 KiB.
pub fn whole_groups(ranges: &ChunkRanges, size: u64) -> ChunkRanges {
    let chunks = size.div_ceil(1024).max(1);
    let mut whole = ChunkRanges::empty();
    for group in 0..size.div_ceil(16384) {
        let end = chunks.min((group + 1) * 16);
        let range = ChunkRanges::from(ChunkNum(group * 16)..ChunkNum(end));
        if ranges.is_superset(&range) {
            whole |= range;
        }
    }
    Bitfield::new(whole, size).ranges
}

/// Waits for something, for a while.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so().await {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
