//! How much content trees share.

use std::collections::{HashMap, HashSet};

use alknet_fs_core::tree::Walk;
use alknet_fs_core::{Entry, Hash, Node, Result, TreePath};

use crate::bucket::{Bucket, TreeRef};
use crate::progress::{Progress, Task};

/// What [`Bucket::sharing`] found: how much content some trees have in common.
///
/// The bytes are those of contents as they are stored. A file that was edited a little is kept as a
/// delta, so it shares with its earlier version all but what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharing {
    /// Each tree, in the order asked for.
    pub trees: Vec<TreeSharing>,
    /// The bytes that all the trees together take, each content once.
    pub stored: u64,
    /// The bytes that the trees would take as plain copies: the sum of the sizes of all files.
    pub apart: u64,
}

/// What one of several trees holds, and how much of it others of them hold too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeSharing {
    /// The tree.
    pub tree: TreeRef,
    /// The number of its files.
    pub files: u64,
    /// The sum of their sizes.
    pub bytes: u64,
    /// The files whose content, as a whole, another tree has too.
    pub shared_files: u64,
    /// The bytes that the tree's contents take in the store, each content once.
    pub stored: u64,
    /// Of those, the bytes that another tree needs too.
    pub shared: u64,
}

#[derive(Default)]
struct Part {
    bytes: u64,
    trees: u32,
}

impl Bucket {
    /// Finds out how much content branches and snapshots share. The cost follows the number of
    /// their files.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for an unknown branch or snapshot;
    /// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
    pub fn sharing(&self, trees: &[TreeRef], task: &Task) -> Result<Sharing> {
        let mut parts: HashMap<Hash, Part> = HashMap::new();
        let mut holders: HashMap<Hash, u32> = HashMap::new();
        let mut found = Vec::new();
        let mut progress = Progress::default();
        for tree in trees {
            let view = self.view(tree)?;
            let mut files = Vec::new();
            view.walk(TreePath::root(), |_, entry: &Entry| {
                if let Node::File { hash, size } = entry.node {
                    files.push((hash, size));
                }
                Ok(Walk::Continue)
            })?;
            let hashes: HashSet<Hash> = files.iter().map(|(hash, _)| *hash).collect();
            let mut needed = HashSet::new();
            for hash in hashes {
                *holders.entry(hash).or_default() += 1;
                // What is not here takes no bytes.
                if let Some(content) = view.find_content(&hash)? {
                    content.for_each_part(&mut |part, bytes| {
                        if needed.insert(part) {
                            let known = parts.entry(part).or_default();
                            known.bytes = bytes;
                            known.trees += 1;
                        }
                    });
                }
                progress.files += 1;
                task.step(progress)?;
            }
            found.push((tree, files, needed));
        }
        let bytes_of = |hashes: &HashSet<Hash>, shared: bool| {
            let parts = hashes.iter().filter_map(|hash| parts.get(hash));
            let parts = parts.filter(|part| !shared || part.trees > 1);
            parts.map(|part| part.bytes).sum()
        };
        let trees = found.iter().map(|(tree, files, needed)| TreeSharing {
            tree: (*tree).clone(),
            files: files.len() as u64,
            bytes: files.iter().map(|(_, size)| size).sum(),
            shared_files: files.iter().filter(|(hash, _)| holders[hash] > 1).count() as u64,
            stored: bytes_of(needed, false),
            shared: bytes_of(needed, true),
        });
        let trees: Vec<_> = trees.collect();
        Ok(Sharing {
            stored: parts.values().map(|part| part.bytes).sum(),
            apart: trees.iter().map(|tree| tree.bytes).sum(),
            trees,
        })
    }
}
