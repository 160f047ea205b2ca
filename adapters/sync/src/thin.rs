//! Values that nothing needs any more, left out of documents.

use std::collections::{BTreeMap, BTreeSet};

use alknet_fs_core::Result;
use alknet_fs_core::store::{ReadTxn, WriteTxn};
use alknet_fs_core::sync::{VersionVector, Write, needed};
use serde::{Deserialize, Serialize};

use crate::branch::{Branch, Place};
use crate::document::{Document, SHARDS, Share};
use crate::kept;

/// What is known of the values that a document left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Thinned {
    /// Of which cuts the document had shares when it left values out: what was known to who knew all
    /// those is there.
    pub(crate) upto: VersionVector,
    /// The digests of the other moments for which all that counts was kept.
    pub(crate) kept: BTreeSet<[u8; 16]>,
}

impl Thinned {
    /// Tells whether all that counted when just a vector was known is there.
    pub(crate) fn can_show(&self, moment: &VersionVector) -> bool {
        moment.covers(&self.upto) || self.kept.contains(&moment.digest())
    }
}

impl Place {
    pub(crate) fn thinned(&self, txn: &dyn ReadTxn, number: u16) -> Result<Thinned> {
        Ok(kept::get(txn, &self.scope, &key(number))?.unwrap_or_default())
    }

    pub(crate) fn set_thinned(
        &self,
        txn: &mut dyn WriteTxn,
        number: u16,
        thinned: &Thinned,
    ) -> Result<()> {
        let mut log = self.log(txn)?;
        if !log.thinned {
            log.thinned = true;
            kept::set(txn, &self.scope, "log", &log)?;
        }
        kept::set(txn, &self.scope, &key(number), thinned)
    }
}

impl Branch {
    /// Leaves values out of the documents that have many which count neither now nor at some
    /// moments.
    ///
    /// # Errors
    /// Those of the store.
    pub fn thin(
        &mut self,
        txn: &mut dyn WriteTxn,
        moments: &BTreeSet<VersionVector>,
    ) -> Result<()> {
        for number in std::mem::take(&mut self.thick) {
            let documents = self.documents.get_mut();
            let document = self.place.open(txn, documents, number)?;
            let Some(document) = document else {
                continue;
            };
            let mut thinned = self.place.thinned(txn, number)?;
            let live = moments.iter().filter(|moment| thinned.can_show(moment));
            let live: Vec<_> = live.collect();
            let shares = leave_out(document.shares()?, &live);
            thinned.upto.merge(document.vector());
            thinned.kept = live.iter().map(|moment| moment.digest()).collect();
            *document = Document::build(shares)?;
            let (_, values) = document.counts();
            self.place.save_anew(txn, number, document, values)?;
            self.place.set_thinned(txn, number, &thinned)?;
        }
        Ok(())
    }

    /// Tells whether the documents have all that counted when just a vector was known.
    ///
    /// # Errors
    /// Those of the store.
    pub fn can_show(&self, txn: &dyn ReadTxn, moment: &VersionVector) -> Result<bool> {
        let log = self.place.log(txn)?;
        if !log.applied().covers(moment) {
            return Ok(false);
        }
        if log.thinned {
            for number in 0..SHARDS {
                if !self.place.thinned(txn, number)?.can_show(moment) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// Leaves values out that count neither when all of the shares are known, nor at some moments.
pub(crate) fn leave_out(mut shares: Vec<Share>, moments: &[&VersionVector]) -> Vec<Share> {
    let mut registers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, share) in shares.iter().enumerate() {
        for (key, _) in &share.values {
            registers.entry(key).or_default().push(at);
        }
    }
    let mut needless: Vec<BTreeSet<String>> = vec![BTreeSet::new(); shares.len()];
    for (key, written) in registers {
        let writes: Vec<_> = written.iter().map(|at| write(&shares[*at])).collect();
        for (at, is_needed) in written.into_iter().zip(needed(&writes, moments)) {
            if !is_needed {
                needless[at].insert(key.to_owned());
            }
        }
    }
    for (share, needless) in shares.iter_mut().zip(needless) {
        share.values.retain(|(key, _)| !needless.contains(key));
    }
    shares.retain(|share| !share.values.is_empty());
    shares
}

fn write(share: &Share) -> Write<'_> {
    Write {
        replica: share.replica,
        number: share.number,
        seen: &share.seen,
    }
}

fn key(number: u16) -> String {
    format!("thinned/{number:03x}")
}
