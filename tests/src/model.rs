//! The reference: what the branches of one bucket show, computed the slow and obvious way.
//!
//! A branch is a set of maps from paths to rows over what it was forked from; a snapshot is a copy
//! of all that was visible. Nothing here seeks, caches or shares.

use std::collections::BTreeMap;

use alknet_fs_core::branch::DEFAULT_BRANCH;
use alknet_fs_core::diff::Difference;
use alknet_fs_core::tree::MAX_LINKS;
use alknet_fs_core::{Attrs, Entry, EntryId, ErrorKind, Hash, Node, Timestamp, TreePath};

use crate::ops::{self, Edit, Put, Set};

/// All that is visible, the root included.
pub type Tree = BTreeMap<TreePath, Entry>;

/// The result of an operation: what it says on success, or the kind of its failure.
pub type Outcome = Result<String, ErrorKind>;

/// What one branch wrote at a path: an entry, or a tombstone.
#[derive(Debug, Clone)]
pub struct OwnRow {
    /// The entry, or nothing for a tombstone.
    pub entry: Option<Entry>,
    /// The identity of the inherited entry that the branch's first row here replaced.
    pub base: Option<EntryId>,
}

#[derive(Debug, Clone)]
enum Base {
    /// An empty tree with this root.
    Root(Entry),
    /// The present state of another branch.
    Live(u32),
    /// A copy of the newest rows once: what was hidden then may show in a live child.
    Frozen(BTreeMap<TreePath, Option<Entry>>),
}

#[derive(Debug, Clone)]
struct Snapshot {
    tree: Tree,
    rows: BTreeMap<TreePath, Option<Entry>>,
    bases: BTreeMap<TreePath, Option<EntryId>>,
}

#[derive(Debug, Clone)]
struct Branch {
    name: String,
    parent: Option<u32>,
    base: Base,
    /// Rows written before the bucket's last snapshot or restore.
    frozen: BTreeMap<TreePath, OwnRow>,
    /// Rows written since.
    current: BTreeMap<TreePath, OwnRow>,
    /// What rows replaced that a restore took out of sight or into the base.
    bases: BTreeMap<TreePath, Option<EntryId>>,
    snapshots: BTreeMap<String, Snapshot>,
}

/// The branches and snapshots of one bucket.
#[derive(Debug, Clone)]
pub struct Model {
    branches: BTreeMap<u32, Branch>,
    next: u32,
}

/// A branch, or a snapshot of it, by name.
pub type View = (String, Option<String>);

impl Model {
    /// Creates a bucket's model: one empty branch.
    pub fn new(created: Timestamp) -> Self {
        let root = Entry {
            node: Node::Dir,
            attrs: Attrs {
                mode: 0o755,
                uid: 0,
                gid: 0,
                mtime: created,
                ctime: created,
            },
        };
        let main = Branch {
            name: DEFAULT_BRANCH.to_owned(),
            parent: None,
            base: Base::Root(root),
            frozen: BTreeMap::new(),
            current: BTreeMap::new(),
            bases: BTreeMap::new(),
            snapshots: BTreeMap::new(),
        };
        Self {
            branches: BTreeMap::from([(1, main)]),
            next: 2,
        }
    }

    /// Returns the names of the branches, from the oldest.
    pub fn names(&self) -> Vec<String> {
        self.branches.values().map(|b| b.name.clone()).collect()
    }

    /// Returns a number that a branch keeps when it is renamed, and no other gets.
    pub fn number(&self, name: &str) -> Option<u32> {
        self.find(name).ok()
    }

    /// Returns the name that the branch of a number has now, unless it was deleted.
    pub fn name(&self, number: u32) -> Option<String> {
        self.branches.get(&number).map(|b| b.name.clone())
    }

    /// Returns every branch and every snapshot.
    pub fn views(&self) -> Vec<View> {
        let mut out = Vec::new();
        for branch in self.branches.values() {
            out.push((branch.name.clone(), None));
            for name in branch.snapshots.keys() {
                out.push((branch.name.clone(), Some(name.clone())));
            }
        }
        out
    }

    /// Returns what a branch or snapshot shows.
    pub fn tree(&self, view: &View) -> Tree {
        let id = self.find(&view.0).expect("a view names a branch");
        match &view.1 {
            None => self.visible(id),
            Some(name) => self.branches[&id].snapshots[name].tree.clone(),
        }
    }

    /// Returns every path that any row of a branch speaks of, visible or not.
    pub fn known_paths(&self, branch: &str) -> Vec<TreePath> {
        let id = self.find(branch).expect("the branch exists");
        self.raw(id).into_keys().collect()
    }

    /// Returns the rows that a branch wrote since the bucket's last snapshot or restore.
    pub fn current_rows(&self, branch: &str) -> &BTreeMap<TreePath, OwnRow> {
        let id = self.find(branch).expect("the branch exists");
        &self.branches[&id].current
    }

    fn find(&self, name: &str) -> Result<u32, ErrorKind> {
        let mut all = self.branches.iter();
        let found = all.find(|(_, b)| b.name == name);
        found.map(|(id, _)| *id).ok_or(ErrorKind::NotFound)
    }

    fn branch_mut(&mut self, id: u32) -> &mut Branch {
        self.branches.get_mut(&id).expect("the branch exists")
    }

    /// The newest row of every path in a branch and all that it inherits.
    fn raw(&self, id: u32) -> BTreeMap<TreePath, Option<Entry>> {
        let mut rows = self.inherited(id);
        let branch = &self.branches[&id];
        for (path, row) in branch.frozen.iter().chain(&branch.current) {
            rows.insert(path.clone(), row.entry.clone());
        }
        rows
    }

    fn inherited(&self, id: u32) -> BTreeMap<TreePath, Option<Entry>> {
        match &self.branches[&id].base {
            Base::Root(root) => BTreeMap::from([(TreePath::root(), Some(root.clone()))]),
            Base::Live(parent) => self.raw(*parent),
            Base::Frozen(rows) => rows.clone(),
        }
    }

    /// A path is visible when its newest row is not a tombstone and every ancestor is visible and
    /// a directory.
    fn visible(&self, id: u32) -> Tree {
        let mut tree = Tree::new();
        // A path sorts after its ancestors.
        for (path, entry) in self.raw(id) {
            let above = path.parent();
            let above = above.is_none_or(|dir| tree.get(&dir).is_some_and(Entry::is_dir));
            if let (true, Some(entry)) = (above, entry) {
                tree.insert(path, entry);
            }
        }
        tree
    }

    fn own(&self, id: u32, path: &TreePath) -> Option<&OwnRow> {
        let branch = &self.branches[&id];
        let current = branch.current.get(path);
        current.or_else(|| branch.frozen.get(path))
    }

    /// What a row that the branch writes now at a path replaces of what it inherits.
    fn base_of(&self, id: u32, path: &TreePath) -> Option<EntryId> {
        if let Some(own) = self.own(id, path) {
            return own.base;
        }
        if let Some(base) = self.branches[&id].bases.get(path) {
            return *base;
        }
        let inherited = self.inherited(id).remove(path).flatten();
        // Only the first branch can have a row here that replaces nothing of another branch: that
        // of the root, which begins without one.
        let first = self.branches[&id].parent.is_none();
        inherited.filter(|_| !first).map(|e| e.id())
    }

    fn put_own(&mut self, id: u32, path: &TreePath, entry: Option<Entry>) {
        let base = self.base_of(id, path);
        let row = OwnRow { entry, base };
        self.branch_mut(id).current.insert(path.clone(), row);
    }

    /// Writes a visible entry.
    fn write(&mut self, id: u32, path: &TreePath, entry: Entry) {
        let before = self.visible(id);
        if let Base::Live(_) = self.branches[&id].base {
            for dir in path.ancestors().filter(|dir| !dir.is_root()) {
                if self.own(id, &dir).is_none_or(|row| row.entry.is_none()) {
                    self.put_own(id, &dir, Some(before[&dir].clone()));
                }
            }
        }
        let new_dir = entry.is_dir() && !before.get(path).is_some_and(Entry::is_dir);
        self.put_own(id, path, Some(entry));
        if new_dir {
            // A directory that comes to be is empty, whatever a live base has there.
            let tombstone = OwnRow {
                entry: None,
                base: None,
            };
            for hidden in children(&self.visible(id), path) {
                let current = &mut self.branch_mut(id).current;
                current.insert(hidden, tombstone.clone());
            }
        }
    }

    /// Removes a visible entry: its row, where nothing shows through below it, or else, and always
    /// over a live base, by a tombstone.
    fn remove(&mut self, id: u32, path: &TreePath) {
        let below = match self.branches[&id].frozen.get(path) {
            Some(row) => row.entry.clone(),
            None => self.inherited(id).remove(path).flatten(),
        };
        let live = matches!(self.branches[&id].base, Base::Live(_));
        if live || below.is_some() {
            self.put_own(id, path, None);
        } else {
            self.branch_mut(id).current.remove(path);
        }
    }

    /// Puts a file of some hash and size, and tells where; a failure changes nothing.
    pub fn put(
        &mut self,
        branch: &str,
        path: &TreePath,
        (hash, size): (Hash, u64),
        mode: Put,
        set: &Set,
        now: Timestamp,
    ) -> Outcome {
        let id = self.find(branch)?;
        check_set(set)?;
        let (path, old) = resolve(&self.visible(id), path, mode != Put::New)?;
        let attrs = match (&old, mode) {
            (Some(_), Put::New) => return Err(ErrorKind::AlreadyExists),
            (None, Put::Existing) => return Err(ErrorKind::NotFound),
            (Some(old), _) if old.is_dir() => return Err(ErrorKind::IsADirectory),
            (Some(old), _) => Attrs {
                mode: set.mode.unwrap_or(old.attrs.mode),
                uid: set.uid.unwrap_or(old.attrs.uid),
                gid: old.attrs.gid,
                mtime: set.mtime.map_or(now, Timestamp),
                ctime: now,
            },
            (None, _) => fresh(set, now, 0o644),
        };
        let node = Node::File { hash, size };
        self.write(id, &path, Entry { node, attrs });
        Ok(path.to_string())
    }

    /// Carries out one edit on a branch; one that fails changes nothing.
    pub fn edit(&mut self, branch: &str, edit: &Edit, now: Timestamp) -> Outcome {
        let id = self.find(branch)?;
        let tree = self.visible(id);
        let p = |text: &String| TreePath::parse(text).unwrap();
        match edit {
            Edit::Put {
                path,
                content,
                mode,
                set,
            } => self.put(branch, &p(path), ops::content(*content), *mode, set, now),
            Edit::Mkdir { path, set } => {
                check_set(set)?;
                let (path, old) = resolve(&tree, &p(path), false)?;
                if old.is_some() {
                    return Err(ErrorKind::AlreadyExists);
                }
                let attrs = fresh(set, now, 0o755);
                let node = Node::Dir;
                self.write(id, &path, Entry { node, attrs });
                Ok(String::new())
            }
            Edit::MkdirAll { path } => {
                let mut missing = Vec::new();
                let mut at = p(path);
                loop {
                    match resolve(&tree, &at, true) {
                        Ok((_, Some(entry))) if entry.is_dir() => break,
                        Ok((_, Some(_))) => return Err(ErrorKind::NotADirectory),
                        Ok((_, None)) | Err(ErrorKind::NotFound) => missing.push(at.clone()),
                        Err(kind) => return Err(kind),
                    }
                    at = at.parent().expect("the root is a directory");
                }
                for dir in missing.into_iter().rev() {
                    let (real, old) = resolve(&self.visible(id), &dir, false)?;
                    if old.is_some() {
                        return Err(ErrorKind::AlreadyExists);
                    }
                    let attrs = fresh(&Set::default(), now, 0o755);
                    let node = Node::Dir;
                    self.write(id, &real, Entry { node, attrs });
                }
                Ok(String::new())
            }
            Edit::Symlink { path, text } => {
                if text.is_empty() {
                    return Err(ErrorKind::InvalidInput);
                }
                let (path, old) = resolve(&tree, &p(path), false)?;
                if old.is_some() {
                    return Err(ErrorKind::AlreadyExists);
                }
                let attrs = fresh(&Set::default(), now, 0o777);
                let target = text.as_str().into();
                let node = Node::Symlink { target };
                self.write(id, &path, Entry { node, attrs });
                Ok(String::new())
            }
            Edit::Unlink { path } => {
                let (path, entry) = existing(&tree, &p(path))?;
                if entry.is_dir() {
                    return Err(ErrorKind::IsADirectory);
                }
                self.remove(id, &path);
                Ok(String::new())
            }
            Edit::Rmdir { path } => {
                let (path, entry) = existing(&tree, &p(path))?;
                if !entry.is_dir() {
                    return Err(ErrorKind::NotADirectory);
                }
                if path.is_root() {
                    return Err(ErrorKind::InUse);
                }
                if !children(&tree, &path).is_empty() {
                    return Err(ErrorKind::NotEmpty);
                }
                self.remove(id, &path);
                Ok(String::new())
            }
            Edit::RemoveAll { path } => {
                let (path, _) = existing(&tree, &p(path))?;
                if path.is_root() {
                    return Err(ErrorKind::InUse);
                }
                let doomed = at_and_below(&tree, &path);
                for (path, _) in doomed.iter().rev() {
                    self.remove(id, path);
                }
                Ok(doomed.len().to_string())
            }
            Edit::SetAttrs { path, set, follow } => {
                check_set(set)?;
                let (path, old) = resolve(&tree, &p(path), *follow)?;
                let mut entry = old.ok_or(ErrorKind::NotFound)?;
                if *set != Set::default() {
                    entry.attrs = Attrs {
                        mode: set.mode.unwrap_or(entry.attrs.mode),
                        uid: set.uid.unwrap_or(entry.attrs.uid),
                        gid: entry.attrs.gid,
                        mtime: set.mtime.map_or(entry.attrs.mtime, Timestamp),
                        ctime: now,
                    };
                    self.write(id, &path, entry);
                }
                Ok(String::new())
            }
            Edit::Rename { from, to, replace } => {
                let (from, mut entry) = existing(&tree, &p(from))?;
                let (to, old) = resolve(&tree, &p(to), false)?;
                if from.is_root() || to.is_root() {
                    return Err(ErrorKind::InUse);
                }
                if from == to {
                    return Ok(String::new());
                }
                if is_below(&to, &from) {
                    return Err(ErrorKind::InvalidInput);
                }
                if let Some(old) = old {
                    if !replace {
                        return Err(ErrorKind::AlreadyExists);
                    }
                    match (entry.is_dir(), old.is_dir()) {
                        (false, true) => return Err(ErrorKind::IsADirectory),
                        (true, false) => return Err(ErrorKind::NotADirectory),
                        (true, true) if !children(&tree, &to).is_empty() => {
                            return Err(ErrorKind::NotEmpty);
                        }
                        _ => {}
                    }
                }
                let mut moved = at_and_below(&tree, &from);
                entry.attrs.ctime = now;
                moved[0].1 = entry;
                for (path, entry) in &moved {
                    self.write(id, &rebase(path, &from, &to), entry.clone());
                }
                for (path, _) in moved.iter().rev() {
                    self.remove(id, path);
                }
                Ok(String::new())
            }
            Edit::Copy { from, to, replace } => {
                let (from, entry) = existing(&tree, &p(from))?;
                let (to, old) = resolve(&tree, &p(to), false)?;
                if entry.is_dir() && (to == from || is_below(&to, &from)) {
                    return Err(ErrorKind::InvalidInput);
                }
                if let Some(old) = old {
                    if from == to {
                        return Ok("0".to_owned());
                    }
                    if !replace || entry.is_dir() || old.is_dir() {
                        return Err(ErrorKind::AlreadyExists);
                    }
                }
                let copies = at_and_below(&tree, &from);
                for (path, entry) in &copies {
                    let mut entry = entry.clone();
                    entry.attrs.ctime = now;
                    self.write(id, &rebase(path, &from, &to), entry);
                }
                Ok(copies.len().to_string())
            }
        }
    }

    /// Forks a branch, live or from a snapshot.
    pub fn fork(&mut self, name: &str, from: &str, at: Option<&str>) -> Outcome {
        let parent = self.find(from)?;
        if self.find(name).is_ok() {
            return Err(ErrorKind::AlreadyExists);
        }
        let base = match at {
            None => Base::Live(parent),
            Some(at) => {
                let snapshot = self.branches[&parent].snapshots.get(at);
                Base::Frozen(snapshot.ok_or(ErrorKind::NotFound)?.rows.clone())
            }
        };
        let child = Branch {
            name: name.to_owned(),
            parent: Some(parent),
            base,
            frozen: BTreeMap::new(),
            current: BTreeMap::new(),
            bases: BTreeMap::new(),
            snapshots: BTreeMap::new(),
        };
        self.branches.insert(self.next, child);
        self.next += 1;
        Ok(String::new())
    }

    /// Gives a branch another name.
    pub fn rename_branch(&mut self, from: &str, to: &str) -> Outcome {
        let id = self.find(from)?;
        if from != to && self.find(to).is_ok() {
            return Err(ErrorKind::AlreadyExists);
        }
        to.clone_into(&mut self.branch_mut(id).name);
        Ok(String::new())
    }

    /// Deletes a branch.
    pub fn delete_branch(&mut self, name: &str) -> Outcome {
        let id = self.find(name)?;
        let has_children = self.branches.values().any(|b| b.parent == Some(id));
        if has_children || self.branches.len() == 1 {
            return Err(ErrorKind::InUse);
        }
        self.branches.remove(&id);
        Ok(String::new())
    }

    /// Takes a snapshot: a copy of all that is visible.
    pub fn snapshot(&mut self, branch: &str, name: &str) -> Outcome {
        let id = self.find(branch)?;
        if self.branches[&id].snapshots.contains_key(name) {
            return Err(ErrorKind::AlreadyExists);
        }
        let branch = &self.branches[&id];
        let mut bases = branch.bases.clone();
        let rows = branch.frozen.iter().chain(&branch.current);
        bases.extend(rows.map(|(path, row)| (path.clone(), row.base)));
        let (tree, rows) = (self.visible(id), self.raw(id));
        let snapshot = Snapshot { tree, rows, bases };
        let snapshots = &mut self.branch_mut(id).snapshots;
        snapshots.insert(name.to_owned(), snapshot);
        self.freeze();
        Ok(String::new())
    }

    /// Forgets a snapshot.
    pub fn delete_snapshot(&mut self, branch: &str, name: &str) -> Outcome {
        let id = self.find(branch)?;
        let gone = self.branch_mut(id).snapshots.remove(name);
        gone.map(|_| String::new()).ok_or(ErrorKind::NotFound)
    }

    /// Takes a branch back to one of its snapshots.
    pub fn restore(&mut self, branch: &str, name: &str) -> Outcome {
        let id = self.find(branch)?;
        let snapshot = self.branches[&id].snapshots.get(name).cloned();
        let snapshot = snapshot.ok_or(ErrorKind::NotFound)?;
        self.freeze();
        let branch = self.branch_mut(id);
        branch.base = Base::Frozen(snapshot.rows);
        branch.bases = snapshot.bases;
        branch.frozen.clear();
        Ok(String::new())
    }

    /// Freezes what every branch of the bucket wrote so far.
    fn freeze(&mut self) {
        for branch in self.branches.values_mut() {
            let rows = std::mem::take(&mut branch.current);
            branch.frozen.extend(rows);
        }
    }
}

/// Resolves a path name by name; the entry is missing where the last name is free.
pub fn resolve(
    tree: &Tree,
    path: &TreePath,
    follow: bool,
) -> Result<(TreePath, Option<Entry>), ErrorKind> {
    let at = go(tree, TreePath::root(), path.as_str(), follow, &mut 0)?;
    let entry = tree.get(&at).cloned();
    Ok((at, entry))
}

fn go(
    tree: &Tree,
    start: TreePath,
    text: &str,
    follow: bool,
    links: &mut usize,
) -> Result<TreePath, ErrorKind> {
    let mut at = start;
    let names: Vec<&str> = text.split('/').collect();
    let names: Vec<&str> = names
        .into_iter()
        .filter(|n| !matches!(*n, "" | "."))
        .collect();
    for (i, name) in names.iter().enumerate() {
        match tree.get(&at) {
            None => return Err(ErrorKind::NotFound),
            Some(entry) if !entry.is_dir() => return Err(ErrorKind::NotADirectory),
            Some(_) => {}
        }
        if *name == ".." {
            at = at.parent().unwrap_or_else(TreePath::root);
            continue;
        }
        let next = at.join(name).unwrap();
        let last = i + 1 == names.len();
        let target = tree.get(&next).and_then(Entry::target);
        at = match target.filter(|_| follow || !last) {
            None => next,
            Some(target) => {
                *links += 1;
                if *links > MAX_LINKS {
                    return Err(ErrorKind::TooManyLinks);
                }
                let start = match target.starts_with('/') {
                    true => TreePath::root(),
                    false => at,
                };
                go(tree, start, target, true, links)?
            }
        };
    }
    Ok(at)
}

/// Returns the entries below a directory, each directory before its entries, by name.
pub fn walk_order(tree: &Tree, dir: &TreePath) -> Vec<(TreePath, Entry)> {
    let mut out = Vec::new();
    for path in children(tree, dir) {
        let entry = tree[&path].clone();
        let is_dir = entry.is_dir();
        out.push((path.clone(), entry));
        if is_dir {
            out.extend(walk_order(tree, &path));
        }
    }
    out
}

/// Returns the paths directly in a directory, by name.
pub fn children(tree: &Tree, dir: &TreePath) -> Vec<TreePath> {
    let in_dir = |path: &&TreePath| path.parent().as_ref() == Some(dir);
    tree.keys().filter(in_dir).cloned().collect()
}

/// Returns the hash of a tree, after the words of `alknet_fs_core::tree::tree_hash`.
pub fn tree_hash(tree: &Tree) -> Hash {
    let mut text = String::new();
    for (path, entry) in walk_order(tree, &TreePath::root()) {
        let what = match &entry.node {
            Node::File { hash, .. } => hash.to_hex(),
            Node::Symlink { target } => Hash::of(target.as_bytes()).to_hex(),
            Node::Dir => "-".to_owned(),
        };
        let (kind, mode) = (entry.kind().name(), entry.attrs.mode);
        text += &format!("{kind} {mode:o} {what} {path}\n");
    }
    Hash::of(text.as_bytes())
}

/// Compares two trees at and below a path.
pub fn diff(a: &Tree, b: &Tree, under: &TreePath) -> Vec<(TreePath, Difference)> {
    let inside = |path: &TreePath| path == under || is_below(path, under);
    let mut out: Vec<(TreePath, Difference)> = Vec::new();
    let mut paths: Vec<&TreePath> = a.keys().chain(b.keys()).filter(|p| inside(p)).collect();
    paths.sort();
    paths.dedup();
    for path in paths {
        let difference = match (a.get(path).cloned(), b.get(path).cloned()) {
            (Some(old), None) => Difference::Deleted { old },
            (None, Some(new)) => Difference::Added { new },
            (Some(old), Some(new)) => {
                let visible = |e: &Entry| {
                    let Attrs {
                        mode,
                        uid,
                        gid,
                        mtime,
                        ..
                    } = e.attrs;
                    let mtime = (!e.is_dir()).then_some(mtime);
                    (e.node.clone(), mode, uid, gid, mtime)
                };
                if old.is_dir() == new.is_dir() && visible(&old) == visible(&new) {
                    continue;
                }
                Difference::Modified { old, new }
            }
            (None, None) => unreachable!("the path is in one of them"),
        };
        out.push((path.clone(), difference));
    }
    let same_content = |a: &Entry, b: &Entry| match (&a.node, &b.node) {
        (Node::File { hash: x, size }, Node::File { hash: y, .. }) => x == y && *size > 0,
        (Node::Symlink { target: x }, Node::Symlink { target: y }) => x == y,
        _ => false,
    };
    for i in 0..out.len() {
        let Difference::Added { new } = out[i].1.clone() else {
            continue;
        };
        let source = out.iter().find_map(|(path, difference)| match difference {
            Difference::Deleted { old } if same_content(old, &new) => {
                Some((path.clone(), old.clone()))
            }
            _ => None,
        });
        if let Some((from, old)) = source {
            for (path, difference) in &mut out {
                if *path == from {
                    // Taken: the loop ahead must not pair it again.
                    *difference = Difference::Renamed {
                        from: from.clone(),
                        old: old.clone(),
                        new: old.clone(),
                    };
                }
            }
            out[i].1 = Difference::Renamed { from, old, new };
        }
    }
    out.retain(|(path, d)| !matches!(d, Difference::Renamed { from, .. } if from == path));
    out
}

fn is_below(path: &TreePath, dir: &TreePath) -> bool {
    path.ancestors().any(|above| above == *dir)
}

fn at_and_below(tree: &Tree, path: &TreePath) -> Vec<(TreePath, Entry)> {
    let mut out = vec![(path.clone(), tree[path].clone())];
    if tree[path].is_dir() {
        out.extend(walk_order(tree, path));
    }
    out
}

fn rebase(path: &TreePath, from: &TreePath, to: &TreePath) -> TreePath {
    let rest = &path.as_str()[from.as_str().len()..];
    TreePath::parse(&format!("{to}{rest}")).unwrap()
}

fn existing(tree: &Tree, path: &TreePath) -> Result<(TreePath, Entry), ErrorKind> {
    let (path, entry) = resolve(tree, path, false)?;
    entry.map(|e| (path, e)).ok_or(ErrorKind::NotFound)
}

fn check_set(set: &Set) -> Result<(), ErrorKind> {
    match set.mode {
        Some(mode) if mode > 0o7777 => Err(ErrorKind::InvalidInput),
        _ => Ok(()),
    }
}

fn fresh(set: &Set, now: Timestamp, mode: u32) -> Attrs {
    Attrs {
        mode: set.mode.unwrap_or(mode),
        uid: set.uid.unwrap_or(ops::UID),
        gid: ops::GID,
        mtime: set.mtime.map_or(now, Timestamp),
        ctime: now,
    }
}
