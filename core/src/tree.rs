//! Reading a tree: resolve, list, walk, and the hash of it all.

use std::ops::ControlFlow;

use crate::chain::{Chain, Span};
use crate::entry::{DirEntry, Entry, Hash, Node};
use crate::error::{Error, ErrorKind, Result};
use crate::path::{MAX_PATH_LEN, TreePath};
use crate::store::ReadTxn;

/// The most symbolic links one resolution follows, as on Linux.
pub const MAX_LINKS: usize = 40;

/// Whether a symbolic link at the end of a path is followed. Links on the way always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Follow {
    /// Follow it, as `stat` and `open` do.
    #[default]
    Yes,
    /// Return the link itself, as `lstat` does.
    No,
}

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The path with every followed link replaced. Its parent is an existing directory.
    pub path: TreePath,
    /// What is there; nothing where the name is free.
    pub entry: Option<Entry>,
}

/// Resolves a path to what is there.
///
/// # Errors
/// [`ErrorKind::NotFound`] where it, or a directory on the way, does not exist;
/// [`ErrorKind::NotADirectory`] where something on the way is a file; [`ErrorKind::TooManyLinks`].
pub fn resolve(
    txn: &dyn ReadTxn,
    chain: &Chain,
    path: &TreePath,
    follow: Follow,
) -> Result<(TreePath, Entry)> {
    let target = resolve_target(txn, chain, path, follow)?;
    match target.entry {
        Some(entry) => Ok((target.path, entry)),
        None => Err(Error::new(ErrorKind::NotFound).path(path)),
    }
}

/// Resolves a path that may not exist yet, while its directory must.
///
/// A dangling link resolves to where it points, so that writing through it creates that file.
///
/// # Errors
/// As [`resolve`], but for a missing last component.
pub fn resolve_target(
    txn: &dyn ReadTxn,
    chain: &Chain,
    path: &TreePath,
    follow: Follow,
) -> Result<Target> {
    // A visible entry proves that no ancestor is a link, so one look-up is enough for most paths.
    match chain.lookup(txn, path)? {
        Some(entry) if !entry.is_symlink() || follow == Follow::No => Ok(Target {
            path: path.clone(),
            entry: Some(entry),
        }),
        Some(_) => follow_links(txn, chain, path, follow),
        None => {
            let parent = path.parent().unwrap_or_else(TreePath::root);
            match chain.lookup(txn, &parent)? {
                Some(entry) if entry.is_dir() => Ok(Target {
                    path: path.clone(),
                    entry: None,
                }),
                _ => follow_links(txn, chain, path, follow),
            }
        }
    }
}

/// Resolves component by component.
fn follow_links(
    txn: &dyn ReadTxn,
    chain: &Chain,
    path: &TreePath,
    follow: Follow,
) -> Result<Target> {
    let mut links = 0;
    let mut pending: Vec<String> = path.components().rev().map(str::to_owned).collect();
    let mut at = Target {
        path: TreePath::root(),
        entry: chain.lookup(txn, &TreePath::root())?,
    };
    while let Some(name) = pending.pop() {
        match at.entry.as_ref().map(|e| &e.node) {
            Some(Node::Dir) => {}
            Some(_) => {
                let detail = format!("{} is not a directory", at.path);
                return Err(Error::with_detail(ErrorKind::NotADirectory, detail).path(path));
            }
            None => {
                let detail = format!("the directory {} does not exist", at.path);
                return Err(Error::with_detail(ErrorKind::NotFound, detail).path(path));
            }
        }
        if name == ".." {
            at.path = at.path.parent().unwrap_or_else(TreePath::root);
            at.entry = chain.lookup(txn, &at.path)?;
            continue;
        }
        let next = at.path.join(&name)?;
        let entry = chain.lookup(txn, &next)?;
        let target = entry.as_ref().and_then(Entry::target);
        let Some(target) = target.filter(|_| follow == Follow::Yes || !pending.is_empty()) else {
            at = Target { path: next, entry };
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            return Err(Error::new(ErrorKind::TooManyLinks).path(path));
        }
        if target.starts_with('/') {
            at.path = TreePath::root();
            at.entry = chain.lookup(txn, &at.path)?;
        }
        let names = target.split('/').filter(|name| !matches!(*name, "" | "."));
        pending.extend(names.rev().map(str::to_owned));
        if pending.len() > MAX_PATH_LEN {
            return Err(Error::new(ErrorKind::NameTooLong).path(path));
        }
    }
    Ok(at)
}

/// Lists a directory by name, in the order of the names' bytes. Links are not followed.
///
/// # Errors
/// As [`resolve`], and [`ErrorKind::NotADirectory`] where the path is something else.
pub fn list(txn: &dyn ReadTxn, chain: &Chain, path: &TreePath) -> Result<Vec<DirEntry>> {
    let (real, entry) = resolve(txn, chain, path, Follow::Yes)?;
    if !entry.is_dir() {
        return Err(Error::new(ErrorKind::NotADirectory).path(path));
    }
    list_visible_dir(txn, chain, &real)
}

/// Returns what a visible directory has at a name, not following links.
///
/// This is one look-up where [`resolve`] may need one for each directory above: the caller knows
/// that `dir` is what [`resolve`] returned, a directory, in the same transaction.
pub fn lookup_in_visible_dir(
    txn: &dyn ReadTxn,
    chain: &Chain,
    dir: &TreePath,
    name: &str,
) -> Result<Option<Entry>> {
    let found = chain.find(txn, dir.as_str(), name)?;
    Ok(found.and_then(|found| found.row.entry))
}

/// Rows of one name from outside the chain that are stepped over before seeking past them.
const MAX_STEPS: usize = 16;

/// Older rows of one name that are stepped over before seeking past them.
const MAX_VERSIONS: usize = 4;

/// How many entries most directories have at most.
const TYPICAL_LEN: usize = 64;

/// Lists a visible directory: what [`resolve`] returned in the same transaction.
pub fn list_visible_dir(txn: &dyn ReadTxn, chain: &Chain, dir: &TreePath) -> Result<Vec<DirEntry>> {
    // One scan over the names finds everything, at a price for each row of other branches. Where
    // those are many, a short chain is better read span by span.
    if chain.goes_by_span() {
        return list_by_span(txn, chain, dir);
    }
    let (bucket, parent) = (chain.bucket(), dir.as_str());
    let mut out: Vec<DirEntry> = Vec::new();
    // The last name that a tombstone settled; other settled names are the last of `out`.
    let mut hidden: Option<Box<str>> = None;
    let mut foreign = 0;
    let mut resume: Option<Box<str>> = None;
    loop {
        let mut steps = 0;
        let mut skipping: Option<Box<str>> = None;
        let mut crowded = false;
        let after = resume.take();
        txn.scan_dir(bucket, parent, after.as_deref(), &mut |name, layer, row| {
            let listed = out.last().is_some_and(|e| *e.name == *name);
            if listed || hidden.as_deref() == Some(name) {
                steps += 1;
            } else if chain.span_of(layer).is_some() {
                steps = 0;
                match row()?.entry {
                    Some(entry) => out.push(DirEntry {
                        name: name.into(),
                        entry,
                    }),
                    None => hidden = Some(name.into()),
                }
            } else {
                if skipping.as_deref() != Some(name) {
                    skipping = Some(name.into());
                    steps = 0;
                }
                steps += 1;
                foreign += 1;
                crowded = chain.minds_crowds() && foreign > MAX_STEPS + out.len();
            }
            Ok(if crowded || steps > MAX_STEPS {
                resume = Some(name.into());
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        if crowded {
            chain.set_crowded();
            return list_by_span(txn, chain, dir);
        }
        let Some(name) = &resume else {
            return Ok(out);
        };
        let listed = out.last().is_some_and(|e| e.name == *name);
        if !listed && hidden != resume {
            let found = chain.find(txn, parent, name)?;
            if let Some(entry) = found.and_then(|f| f.row.entry) {
                out.push(DirEntry {
                    name: name.clone(),
                    entry,
                });
            }
        }
    }
}

/// Merges the listings of the spans, each of which is in order.
fn list_by_span(txn: &dyn ReadTxn, chain: &Chain, dir: &TreePath) -> Result<Vec<DirEntry>> {
    // The names that the spans so far settled: with an entry, or hidden by a tombstone.
    let mut settled: Vec<(Box<str>, Option<Entry>)> = Vec::new();
    for span in chain.spans() {
        let room = settled.len().max(TYPICAL_LEN);
        let above = std::mem::replace(&mut settled, Vec::with_capacity(room));
        merge_span(txn, chain, span, dir, above, &mut settled)?;
    }
    let visible = |(name, entry): (Box<str>, Option<Entry>)| {
        Some(DirEntry {
            name,
            entry: entry?,
        })
    };
    Ok(settled.into_iter().filter_map(visible).collect())
}

/// Merges one span's listing below what the spans above it settled.
fn merge_span(
    txn: &dyn ReadTxn,
    chain: &Chain,
    span: &Span,
    dir: &TreePath,
    above: Vec<(Box<str>, Option<Entry>)>,
    settled: &mut Vec<(Box<str>, Option<Entry>)>,
) -> Result<()> {
    let mut above = above.into_iter().peekable();
    let (bucket, parent) = (chain.bucket(), dir.as_str());
    let mut after: Option<Box<str>> = None;
    loop {
        let epochs = span.first..=span.last;
        let mut versions = 0;
        let resume = after.take();
        txn.scan_dir_of(
            bucket,
            span.branch,
            epochs,
            parent,
            resume.as_deref(),
            &mut |name, _, row| {
                while let Some(earlier) = above.next_if(|(n, _)| **n <= *name) {
                    settled.push(earlier);
                    versions = 0;
                }
                // Of a name's rows the newest comes first.
                if settled.last().is_none_or(|(n, _)| **n != *name) {
                    settled.push((name.into(), row()?.entry));
                    versions = 0;
                }
                versions += 1;
                if versions <= MAX_VERSIONS {
                    return Ok(ControlFlow::Continue(()));
                }
                after = Some(name.into());
                Ok(ControlFlow::Break(()))
            },
        )?;
        if after.is_none() {
            settled.extend(above);
            return Ok(());
        }
    }
}

/// What a visitor of [`walk`] wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// Go on, into this directory if it is one.
    Continue,
    /// Go on, but not into this directory.
    SkipChildren,
    /// End the walk.
    Stop,
}

/// Visits everything below a directory, each directory before its entries, by name.
///
/// The directory itself is not visited; a path that is not a directory is visited alone. Links are
/// not followed, but for the path itself.
///
/// # Errors
/// As [`resolve`], and whatever the visitor returns.
pub fn walk(
    txn: &dyn ReadTxn,
    chain: &Chain,
    path: &TreePath,
    visit: &mut dyn FnMut(&TreePath, &Entry) -> Result<Walk>,
) -> Result<()> {
    let (real, entry) = resolve(txn, chain, path, Follow::Yes)?;
    if !entry.is_dir() {
        visit(&real, &entry)?;
        return Ok(());
    }
    let mut open = vec![(
        real.clone(),
        list_visible_dir(txn, chain, &real)?.into_iter(),
    )];
    while let Some((dir, entries)) = open.last_mut() {
        let Some(DirEntry { name, entry }) = entries.next() else {
            open.pop();
            continue;
        };
        let path = TreePath::from_stored(dir.as_str(), &name);
        match visit(&path, &entry)? {
            Walk::Stop => return Ok(()),
            Walk::Continue if entry.is_dir() => {
                let entries = list_visible_dir(txn, chain, &path)?.into_iter();
                open.push((path, entries));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Hashes everything below the root: names, kinds, modes, contents and link texts, not times or
/// owners.
///
/// It is the BLAKE3 hash of one line per entry, in the order of [`walk`]: the kind's name, the mode
/// in octal, the content hash of a file or the BLAKE3 hash of a link's text or `-`, and the path,
/// separated by single spaces and ended by a line feed.
pub fn tree_hash(txn: &dyn ReadTxn, chain: &Chain) -> Result<Hash> {
    let mut hasher = blake3::Hasher::new();
    walk(txn, chain, &TreePath::root(), &mut |path, entry| {
        let what = match &entry.node {
            Node::File { hash, .. } => hash.to_hex(),
            Node::Symlink { target } => Hash::of(target.as_bytes()).to_hex(),
            Node::Dir => "-".to_owned(),
        };
        let (kind, mode) = (entry.kind().name(), entry.attrs.mode);
        hasher.update(format!("{kind} {mode:o} {what} {path}\n").as_bytes());
        Ok(Walk::Continue)
    })?;
    Ok(hasher.finalize().into())
}
