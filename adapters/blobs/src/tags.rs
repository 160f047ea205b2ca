//! Named tags: in the store, so that they are there in every process and after a restart.

use std::collections::BTreeMap;

use alknet_fs_core::store::{ReadTxn, WriteTxn};
use alknet_fs_core::{Error, ErrorKind, Hash, Result};
use iroh_blobs::api::Tag;
use iroh_blobs::api::proto::ListTagsRequest;
use iroh_blobs::api::tags::TagInfo;
use iroh_blobs::{BlobFormat, HashAndFormat};

const SCOPE: &str = "blobs";
const KEY: &str = "tags";

/// All tags. They are few: the entries of the tree are what keeps most contents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tags(pub(crate) BTreeMap<Vec<u8>, (Hash, BlobFormat)>);

/// A tag as it is kept: its name as numbers, as it need not be text.
type Kept = (Vec<u8>, Hash, bool);

fn corrupt(error: serde_json::Error) -> Error {
    Error::with_detail(ErrorKind::Corrupt, format!("the tags of blobs: {error}"))
}

impl Tags {
    pub(crate) fn load(txn: &(impl ReadTxn + ?Sized)) -> Result<Self> {
        let Some(bytes) = txn.value(SCOPE, KEY)? else {
            return Ok(Self::default());
        };
        let kept: Vec<Kept> = serde_json::from_slice(&bytes).map_err(corrupt)?;
        let tags = kept.into_iter().map(|(name, hash, is_seq)| {
            let format = if is_seq {
                BlobFormat::HashSeq
            } else {
                BlobFormat::Raw
            };
            (name, (hash, format))
        });
        Ok(Self(tags.collect()))
    }

    pub(crate) fn save(&self, txn: &mut dyn WriteTxn) -> Result<()> {
        let kept = self.0.iter();
        let kept = kept.map(|(name, (hash, format))| (name.clone(), *hash, format.is_hash_seq()));
        let kept: Vec<Kept> = kept.collect();
        let bytes = serde_json::to_vec(&kept).map_err(corrupt)?;
        txn.set_value(SCOPE, KEY, (!kept.is_empty()).then_some(&bytes))
    }

    /// Returns what tags name, and which of it as a list of hashes.
    pub(crate) fn hashes(&self) -> impl Iterator<Item = (Hash, bool)> {
        let hashes = self.0.values();
        hashes.map(|(hash, format)| (*hash, format.is_hash_seq()))
    }

    pub(crate) fn set(&mut self, name: &Tag, value: HashAndFormat) {
        let hash = Hash::from_bytes(*value.hash.as_bytes());
        self.0.insert(name.0.to_vec(), (hash, value.format));
    }

    /// Removes the tags from one name on and before another; returns how many.
    pub(crate) fn delete(&mut self, from: Option<&Tag>, to: Option<&Tag>) -> u64 {
        let before = self.0.len();
        self.0.retain(|name, _| !is_between(name, from, to));
        (before - self.0.len()) as u64
    }

    pub(crate) fn rename(&mut self, from: &Tag, to: &Tag) -> Result<()> {
        let Some(value) = self.0.remove(&from.0[..]) else {
            let detail = format!("no tag is named {from}");
            return Err(Error::with_detail(ErrorKind::NotFound, detail));
        };
        self.0.insert(to.0.to_vec(), value);
        Ok(())
    }

    pub(crate) fn list(&self, request: &ListTagsRequest) -> Vec<TagInfo> {
        let (from, to) = (request.from.as_ref(), request.to.as_ref());
        let chosen = self.0.iter().filter(|(name, (_, format))| {
            let is_asked = if format.is_raw() {
                request.raw
            } else {
                request.hash_seq
            };
            is_asked && is_between(name, from, to)
        });
        let info = chosen.map(|(name, (hash, format))| {
            let hash = iroh_blobs::Hash::from_bytes(*hash.as_bytes());
            TagInfo::new(name, HashAndFormat::new(hash, *format))
        });
        info.collect()
    }
}

fn is_between(name: &[u8], from: Option<&Tag>, to: Option<&Tag>) -> bool {
    from.is_none_or(|from| name >= &from.0[..]) && to.is_none_or(|to| name < &to.0[..])
}
