//! Changing a tree: the POSIX rules, in one place.
//!
//! An [`Editor`] works inside one write transaction on one branch. Each operation checks everything
//! first and writes afterwards; an operation that fails has changed nothing. The changes are
//! collected and published as one commit by [`Editor::finish`], in the same transaction.

use std::collections::HashSet;

use crate::chain::{Chain, Found};
use crate::entry::{Attrs, Entry, EntryId, Hash, Kind, Node, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Change, Commit, Cursor, Op};
use crate::path::{MAX_PATH_LEN, TreePath};
use crate::store::{Layer, Row, SessionId, WriteTxn};
use crate::tree::{self, Follow, Target};

/// The permission bits an entry can have.
pub const MODE_MASK: u32 = 0o7777;

/// Who changes a tree, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// The present time.
    pub now: Timestamp,
    /// Who is named as the author of the events.
    pub author: String,
    /// The owner's user id that new entries get.
    pub uid: u32,
    /// The owner's group id that new entries get.
    pub gid: u32,
}

/// Attributes to set. What is `None` stays, or gets its default in a new entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SetAttrs {
    /// The permission bits; bits outside [`MODE_MASK`] are refused.
    pub mode: Option<u32>,
    /// The owner's user id.
    pub uid: Option<u32>,
    /// The owner's group id.
    pub gid: Option<u32>,
    /// The modification time.
    pub mtime: Option<Timestamp>,
}

impl SetAttrs {
    /// Checks that the attributes can be set.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for mode bits outside [`MODE_MASK`].
    pub fn check(&self) -> Result<()> {
        match self.mode {
            Some(mode) if mode & !MODE_MASK != 0 => Err(Error::with_detail(
                ErrorKind::InvalidInput,
                format!("mode {mode:o} has bits outside {MODE_MASK:o}"),
            )),
            _ => Ok(()),
        }
    }

    fn fresh(&self, context: &Context, default_mode: u32) -> Attrs {
        Attrs {
            mode: self.mode.unwrap_or(default_mode),
            uid: self.uid.unwrap_or(context.uid),
            gid: self.gid.unwrap_or(context.gid),
            mtime: self.mtime.unwrap_or(context.now),
            ctime: context.now,
        }
    }

    fn over(&self, old: &Attrs, context: &Context) -> Attrs {
        Attrs {
            mode: self.mode.unwrap_or(old.mode),
            uid: self.uid.unwrap_or(old.uid),
            gid: self.gid.unwrap_or(old.gid),
            mtime: self.mtime.unwrap_or(old.mtime),
            ctime: context.now,
        }
    }
}

/// What [`Editor::put_file`] does about a file that exists, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PutMode {
    /// Create it or replace its content, as `open(O_CREAT | O_TRUNC)`.
    #[default]
    CreateOrReplace,
    /// Create it, and fail where anything is there, as `O_EXCL`.
    CreateNew,
    /// Replace its content, and fail where it does not exist.
    ReplaceExisting,
}

/// Changes one branch within one write transaction.
pub struct Editor<'t> {
    txn: &'t mut dyn WriteTxn,
    chain: &'t Chain,
    context: Context,
    changes: Vec<Change>,
    /// Directories known to be visible and, where a live base could take them away, copied up.
    anchored: HashSet<Box<str>>,
}

impl<'t> Editor<'t> {
    /// Begins to edit a branch. The chain must be loaded in this transaction, or in one of the same
    /// generation.
    pub fn new(txn: &'t mut dyn WriteTxn, chain: &'t Chain, context: Context) -> Self {
        Self {
            txn,
            chain,
            context,
            changes: Vec::new(),
            anchored: HashSet::new(),
        }
    }

    /// Publishes what was changed. Returns the cursor of the last event, or nothing where nothing
    /// was changed. The caller commits the transaction.
    pub fn finish(self, session: Option<SessionId>) -> Result<Option<Cursor>> {
        if self.changes.is_empty() {
            return Ok(None);
        }
        let commit = Commit {
            at: self.context.now,
            author: self.context.author,
            branch: self.chain.branch_name().to_owned(),
            session,
            changes: self.changes,
        };
        self.txn.publish(self.chain.bucket(), &commit).map(Some)
    }

    /// Returns who changes the tree, and when.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Returns the transaction, to read or to add contents in it.
    pub fn txn(&mut self) -> &mut dyn WriteTxn {
        self.txn
    }

    /// Resolves a path as the branch stands now, this editor's own changes included.
    pub fn resolve_target(&self, path: &TreePath, follow: Follow) -> Result<Target> {
        tree::resolve_target(&*self.txn, self.chain, path, follow)
    }

    /// Puts a file whose content is already stored. A link at the end of the path is followed.
    /// Returns the path that was written.
    ///
    /// A new file has mode `0o644` and the context's owner where `set` does not say otherwise; a
    /// replaced one keeps its mode and owner.
    ///
    /// # Errors
    /// [`ErrorKind::IsADirectory`]; [`ErrorKind::AlreadyExists`] or [`ErrorKind::NotFound`] as
    /// `mode` says; those of [`tree::resolve_target`].
    pub fn put_file(
        &mut self,
        path: &TreePath,
        hash: Hash,
        size: u64,
        set: &SetAttrs,
        mode: PutMode,
    ) -> Result<TreePath> {
        let fail = |kind: ErrorKind| Error::new(kind).op("write").path(path);
        set.check().map_err(|e| e.op("write").path(path))?;
        let follow = match mode {
            PutMode::CreateNew => Follow::No,
            _ => Follow::Yes,
        };
        let target = self.target(path, follow).map_err(|e| e.op("write"))?;
        let set_mtime = SetAttrs {
            mtime: set.mtime.or(Some(self.context.now)),
            ..*set
        };
        let attrs = match (&target.entry, mode) {
            (Some(_), PutMode::CreateNew) => return Err(fail(ErrorKind::AlreadyExists)),
            (None, PutMode::ReplaceExisting) => return Err(fail(ErrorKind::NotFound)),
            (Some(old), _) if old.is_dir() => return Err(fail(ErrorKind::IsADirectory)),
            (Some(old), _) => set_mtime.over(&old.attrs, &self.context),
            (None, _) => set.fresh(&self.context, 0o644),
        };
        self.txn.set_unreferenced(&hash, None)?;
        let node = Node::File { hash, size };
        let entry = Entry { node, attrs };
        self.write(&target.path, entry, target.entry, Op::Modify)?;
        Ok(target.path)
    }

    /// Makes a directory, with mode `0o755` where `set` does not say otherwise.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] where anything is there; those of [`tree::resolve_target`].
    pub fn mkdir(&mut self, path: &TreePath, set: &SetAttrs) -> Result<()> {
        set.check().map_err(|e| e.op("mkdir").path(path))?;
        let target = self.target(path, Follow::No).map_err(|e| e.op("mkdir"))?;
        if target.entry.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists).op("mkdir").path(path));
        }
        let entry = Entry {
            node: Node::Dir,
            attrs: set.fresh(&self.context, 0o755),
        };
        self.write(&target.path, entry, None, Op::Create)
    }

    /// Makes a directory and those above it that are missing. Does nothing where it exists.
    ///
    /// Returns the uppermost directory that was missing, if any was.
    ///
    /// # Errors
    /// [`ErrorKind::NotADirectory`] where it, or something above it, is not a directory;
    /// [`ErrorKind::AlreadyExists`] where a link there leads nowhere.
    pub fn mkdir_all(&mut self, path: &TreePath, set: &SetAttrs) -> Result<Option<TreePath>> {
        let mut missing = Vec::new();
        let mut at = Some(path.clone());
        while let Some(dir) = at {
            match tree::resolve(&*self.txn, self.chain, &dir, Follow::Yes) {
                Ok((mut real, entry)) if entry.is_dir() => {
                    // Behind a link a path can grow too long; nothing may be made then.
                    for dir in missing.iter().rev() {
                        real = real.join(TreePath::name(dir)).map_err(|e| e.op("mkdir"))?;
                    }
                    break;
                }
                Ok(_) => {
                    let error = Error::new(ErrorKind::NotADirectory);
                    return Err(error.op("mkdir").path(dir));
                }
                Err(e) if e.is_not_found() => {}
                Err(e) => return Err(e.op("mkdir")),
            }
            at = dir.parent();
            missing.push(dir);
        }
        for dir in missing.iter().rev() {
            self.mkdir(dir, set)?;
        }
        Ok(missing.pop())
    }

    /// Makes a symbolic link, whose text is not interpreted.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] where anything is there; [`ErrorKind::InvalidInput`] where the
    /// text is empty or has a NUL byte; [`ErrorKind::NameTooLong`] where it is over 4,096 bytes.
    pub fn symlink(&mut self, path: &TreePath, text: &str, set: &SetAttrs) -> Result<()> {
        let fail = |kind, why: &str| Err(Error::with_detail(kind, why).op("symlink").path(path));
        set.check().map_err(|e| e.op("symlink").path(path))?;
        if text.is_empty() || text.contains('\0') {
            let why = "a link's text has at least one byte and no NUL byte";
            return fail(ErrorKind::InvalidInput, why);
        }
        if text.len() > MAX_PATH_LEN {
            return fail(ErrorKind::NameTooLong, "a link's text of over 4096 bytes");
        }
        let target = self.target(path, Follow::No).map_err(|e| e.op("symlink"))?;
        if target.entry.is_some() {
            return fail(ErrorKind::AlreadyExists, ErrorKind::AlreadyExists.text());
        }
        let entry = Entry {
            node: Node::Symlink {
                target: text.into(),
            },
            attrs: set.fresh(&self.context, 0o777),
        };
        self.write(&target.path, entry, None, Op::Create)
    }

    /// Removes a file or a link (not what it points to).
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::IsADirectory`].
    pub fn unlink(&mut self, path: &TreePath) -> Result<()> {
        let (path, entry) = self.existing(path).map_err(|e| e.op("unlink"))?;
        if entry.is_dir() {
            return Err(Error::new(ErrorKind::IsADirectory).op("unlink").path(path));
        }
        self.remove(&path, &entry)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::NotADirectory`]; [`ErrorKind::NotEmpty`];
    /// [`ErrorKind::InUse`] for the root.
    pub fn rmdir(&mut self, path: &TreePath) -> Result<()> {
        let fail = |kind| Err(Error::new(kind).op("rmdir").path(path));
        let (real, entry) = self.existing(path).map_err(|e| e.op("rmdir"))?;
        if !entry.is_dir() {
            return fail(ErrorKind::NotADirectory);
        }
        if real.is_root() {
            return Err(root_in_use("rmdir"));
        }
        if !tree::list_visible_dir(&*self.txn, self.chain, &real)?.is_empty() {
            return fail(ErrorKind::NotEmpty);
        }
        self.remove(&real, &entry)
    }

    /// Removes whatever is at a path, a directory with all below it. Links are not followed.
    /// Returns the number of entries removed.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InUse`] for the root.
    pub fn remove_all(&mut self, path: &TreePath) -> Result<u64> {
        let (real, entry) = self.existing(path).map_err(|e| e.op("remove"))?;
        if real.is_root() {
            return Err(root_in_use("remove"));
        }
        let mut doomed = vec![(real.clone(), entry.clone())];
        if entry.is_dir() {
            tree::walk(&*self.txn, self.chain, &real, &mut |path, entry| {
                doomed.push((path.clone(), entry.clone()));
                Ok(tree::Walk::Continue)
            })?;
        }
        for (path, entry) in doomed.iter().rev() {
            self.remove(path, entry)?;
        }
        Ok(doomed.len() as u64)
    }

    /// Puts an entry with its attributes, in place of whatever is at the path: a directory goes with all
    /// that is in it, unless the entry is one too. Links are not followed.
    ///
    /// # Errors
    /// Those of [`tree::resolve_target`]; [`ErrorKind::InUse`] for the root.
    pub fn replace(&mut self, path: &TreePath, mut entry: Entry) -> Result<()> {
        let target = self.target(path, Follow::No);
        let target = target.map_err(|e| e.op("replace"))?;
        let mut old = target.entry;
        if old.as_ref().is_some_and(Entry::is_dir) && !entry.is_dir() {
            self.remove_all(&target.path)?;
            old = None;
        }
        if let Some(hash) = entry.hash() {
            self.txn.set_unreferenced(&hash, None)?;
        }
        entry.attrs.ctime = self.context.now;
        self.write(&target.path, entry, old, Op::Modify)
    }

    /// Records that somebody wrote a path as it was.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where nothing is there; those of [`tree::resolve_target`].
    pub fn touch(&mut self, path: &TreePath) -> Result<()> {
        let (path, entry) = self.existing(path).map_err(|e| e.op("write"))?;
        self.changes.push(Change {
            path: Some(path),
            kind: Some(entry.kind()),
            old: entry.hash(),
            new: entry.hash(),
            size: file_size(&entry),
            ..Change::new(Op::Modify)
        });
        Ok(())
    }

    /// Changes attributes. A link at the end of the path is followed where `follow` says so.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InvalidInput`] for mode bits outside [`MODE_MASK`].
    pub fn set_attrs(&mut self, path: &TreePath, set: &SetAttrs, follow: Follow) -> Result<()> {
        set.check().map_err(|e| e.op("set attributes").path(path))?;
        let target = self.target(path, follow);
        let target = target.map_err(|e| e.op("set attributes"))?;
        let Some(old) = target.entry else {
            return Err(Error::new(ErrorKind::NotFound)
                .op("set attributes")
                .path(path));
        };
        if *set == SetAttrs::default() {
            return Ok(());
        }
        let attrs = set.over(&old.attrs, &self.context);
        let node = old.node.clone();
        let entry = Entry { node, attrs };
        self.write(&target.path, entry, Some(old), Op::Attributes)
    }

    /// Renames a file, link or directory, atomically replacing what `to` was.
    ///
    /// A link is renamed itself, not what it points to. Renaming a path to itself does nothing.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where `from` or the directory of `to` does not exist;
    /// [`ErrorKind::AlreadyExists`] where `to` exists and `replace` is false;
    /// [`ErrorKind::IsADirectory`], [`ErrorKind::NotADirectory`] where one is a directory and the
    /// other is not; [`ErrorKind::NotEmpty`] where `to` is a directory with entries;
    /// [`ErrorKind::InvalidInput`] where `to` lies below `from`; [`ErrorKind::InUse`] for the root;
    /// [`ErrorKind::NameTooLong`] where a path below the directory would grow too long.
    pub fn rename(&mut self, from: &TreePath, to: &TreePath, replace: bool) -> Result<()> {
        let fail = |kind: ErrorKind| Error::new(kind).op("rename").path(to);
        let (from, entry) = self.existing(from).map_err(|e| e.op("rename"))?;
        let target = self.target(to, Follow::No).map_err(|e| e.op("rename"))?;
        let to = &target.path;
        if from.is_root() || to.is_root() {
            return Err(root_in_use("rename"));
        }
        if *to == from {
            return Ok(());
        }
        if to.starts_with(&from) {
            let detail = format!("{from} cannot move into itself");
            return Err(Error::with_detail(ErrorKind::InvalidInput, detail)
                .op("rename")
                .path(to));
        }
        if let Some(old) = &target.entry {
            if !replace {
                return Err(fail(ErrorKind::AlreadyExists));
            }
            match (entry.is_dir(), old.is_dir()) {
                (false, true) => return Err(fail(ErrorKind::IsADirectory)),
                (true, false) => return Err(fail(ErrorKind::NotADirectory)),
                (true, true) if !tree::list_visible_dir(&*self.txn, self.chain, to)?.is_empty() => {
                    return Err(fail(ErrorKind::NotEmpty));
                }
                _ => {}
            }
        }
        let mut moved = Vec::new();
        if entry.is_dir() && !self.fits_flat(&from, to)? {
            tree::walk(&*self.txn, self.chain, &from, &mut |path, entry| {
                let new = path.rebase(&from, to).map_err(|e| e.op("rename"))?;
                if !self.chain.is_flat() {
                    moved.push((path.clone(), new, entry.clone()));
                }
                Ok(tree::Walk::Continue)
            })?;
        }
        self.anchored.clear();
        self.anchor(to)?;
        let mut renamed = entry.clone();
        renamed.attrs.ctime = self.context.now;
        self.put_over(to, renamed, target.entry.as_ref())?;
        if self.chain.is_flat() {
            // Every row below `from` belongs to the write layer, so they move as one.
            if entry.is_dir() {
                let layer = self.chain.write_layer();
                self.txn.move_rows(self.chain.bucket(), layer, &from, to)?;
            }
        } else {
            for (_, new, entry) in &moved {
                self.put_over(new, entry.clone(), None)?;
            }
            for (old, _, _) in moved.iter().rev() {
                self.remove_row(old)?;
            }
        }
        self.remove_row(&from)?;
        self.changes.push(Change {
            path: Some(to.clone()),
            from: Some(from),
            kind: Some(entry.kind()),
            old: target.entry.and_then(|e| e.hash()),
            new: entry.hash(),
            size: file_size(&entry),
            ..Change::new(Op::Rename)
        });
        Ok(())
    }

    /// Tells whether a directory can move as a whole with no look at what is in it: all below it
    /// belongs to the write layer, and no path gets too long.
    fn fits_flat(&self, from: &TreePath, to: &TreePath) -> Result<bool> {
        if !self.chain.is_flat() {
            return Ok(false);
        }
        let (from_len, to_len) = (from.as_str().len(), to.as_str().len());
        if to_len <= from_len {
            return Ok(true);
        }
        let mut fits = true;
        let Layer { branch, epoch } = self.chain.write_layer();
        let (bucket, epochs) = (self.chain.bucket(), epoch..=epoch);
        self.txn
            .paths_of(bucket, branch, epochs, from, &mut |parent, name| {
                fits &= parent.len() + 1 + name.len() - from_len + to_len <= MAX_PATH_LEN;
                Ok(())
            })?;
        Ok(fits)
    }

    /// Copies a file, link or directory with all below it. Contents are shared, so the cost does
    /// not depend on their size. Modes, owners and times are kept.
    ///
    /// Returns the number of entries made.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::AlreadyExists`] where `to` exists, unless both are
    /// files and `replace` is true; [`ErrorKind::InvalidInput`] where `to` lies below `from`.
    pub fn copy(&mut self, from: &TreePath, to: &TreePath, replace: bool) -> Result<u64> {
        self.copy_with(from, to, replace, false)
    }

    /// As [`copy`](Self::copy); where `touch` says so, what is copied counts as changed now.
    ///
    /// # Errors
    /// As [`copy`](Self::copy).
    pub fn copy_with(
        &mut self,
        from: &TreePath,
        to: &TreePath,
        replace: bool,
        touch: bool,
    ) -> Result<u64> {
        let (from, entry) = self.existing(from).map_err(|e| e.op("copy"))?;
        let target = self.target(to, Follow::No).map_err(|e| e.op("copy"))?;
        let to = &target.path;
        if entry.is_dir() && to.starts_with(&from) {
            let detail = format!("{from} cannot be copied into itself");
            return Err(Error::with_detail(ErrorKind::InvalidInput, detail)
                .op("copy")
                .path(to));
        }
        if let Some(old) = &target.entry {
            if *to == from {
                return Ok(0);
            }
            if !replace || entry.is_dir() || old.is_dir() {
                return Err(Error::new(ErrorKind::AlreadyExists).op("copy").path(to));
            }
        }
        let mut copies = vec![(to.clone(), entry.clone())];
        if entry.is_dir() {
            tree::walk(&*self.txn, self.chain, &from, &mut |path, entry| {
                let new = path.rebase(&from, to).map_err(|e| e.op("copy"))?;
                copies.push((new, entry.clone()));
                Ok(tree::Walk::Continue)
            })?;
        }
        let count = copies.len() as u64;
        let mut replaced = target.entry;
        for (path, mut entry) in copies {
            entry.attrs.ctime = self.context.now;
            if touch {
                entry.attrs.mtime = self.context.now;
            }
            self.write(&path, entry, replaced.take(), Op::Modify)?;
        }
        Ok(count)
    }

    fn target(&self, path: &TreePath, follow: Follow) -> Result<Target> {
        // In a batch most files go into a directory that was checked a moment ago.
        if self.anchored.contains(path.parent_str()) && !path.is_root() {
            let entry = self.chain.lookup(&*self.txn, path)?;
            if follow == Follow::No || !entry.as_ref().is_some_and(Entry::is_symlink) {
                return Ok(Target {
                    path: path.clone(),
                    entry,
                });
            }
        }
        tree::resolve_target(&*self.txn, self.chain, path, follow)
    }

    fn existing(&self, path: &TreePath) -> Result<(TreePath, Entry)> {
        tree::resolve(&*self.txn, self.chain, path, Follow::No)
    }

    /// Writes an entry over what was visible there, and records it as a creation or as `change`.
    fn write(
        &mut self,
        path: &TreePath,
        entry: Entry,
        old: Option<Entry>,
        change: Op,
    ) -> Result<()> {
        let op = if old.is_none() { Op::Create } else { change };
        self.anchor(path)?;
        self.changes.push(Change {
            path: Some(path.clone()),
            kind: Some(entry.kind()),
            old: old.as_ref().and_then(Entry::hash),
            new: entry.hash(),
            size: file_size(&entry),
            ..Change::new(op)
        });
        if entry.is_dir() {
            self.anchored.insert(path.as_str().into());
        }
        self.put_over(path, entry, old.as_ref())
    }

    /// Removes a visible entry, and records the change.
    fn remove(&mut self, path: &TreePath, old: &Entry) -> Result<()> {
        self.changes.push(Change {
            path: Some(path.clone()),
            kind: Some(old.kind()),
            old: old.hash(),
            ..Change::new(Op::Remove)
        });
        if old.is_dir() {
            self.anchored.remove(path.as_str());
        }
        self.remove_row(path)
    }

    /// Makes sure that the directories above a path cannot be taken away by a live base: those
    /// inherited from one get a row of this branch, as an overlay filesystem copies them up.
    fn anchor(&mut self, path: &TreePath) -> Result<()> {
        if self.anchored.contains(path.parent_str()) {
            return Ok(());
        }
        let mut fresh: Vec<Box<str>> = Vec::new();
        for dir in path.ancestors() {
            if self.anchored.contains(dir.as_str()) {
                break;
            }
            fresh.push(dir.as_str().into());
            if dir.is_root() {
                break;
            }
            if !self.chain.has_live_base() {
                break;
            }
            let found = self.chain.find(&*self.txn, dir.parent_str(), dir.name())?;
            let Some(found) = found else {
                return Err(Error::new(ErrorKind::NotFound).path(dir));
            };
            let is_own = self.chain.is_own(&found);
            let Some(entry) = found.row.entry else {
                return Err(Error::new(ErrorKind::NotFound).path(dir));
            };
            if is_own {
                break;
            }
            self.put_row(&dir, entry)?;
        }
        self.anchored.extend(fresh);
        Ok(())
    }

    /// Puts an entry over what was visible there; a directory that was none before starts empty.
    fn put_over(&mut self, path: &TreePath, entry: Entry, old: Option<&Entry>) -> Result<()> {
        let begins = entry.is_dir() && !old.is_some_and(Entry::is_dir);
        if begins && self.chain.may_hide_rows() {
            let tombstone = Row {
                entry: None,
                base: None,
            };
            let (bucket, layer) = (self.chain.bucket(), self.chain.write_layer());
            for hidden in tree::list_visible_dir(&*self.txn, self.chain, path)? {
                self.txn
                    .put_row(bucket, path.as_str(), &hidden.name, layer, &tombstone)?;
            }
        }
        self.put_row(path, entry)
    }

    fn put_row(&mut self, path: &TreePath, entry: Entry) -> Result<()> {
        let (parent, name) = (path.parent_str(), path.name());
        let base = if self.chain.is_flat() {
            None
        } else {
            let found = match path.is_root() {
                true => self.chain.lookup_found(&*self.txn, path)?,
                false => self.chain.find(&*self.txn, parent, name)?,
            };
            self.base_of(found.as_ref())
        };
        let row = Row {
            base,
            entry: Some(entry),
        };
        let layer = self.chain.write_layer();
        self.txn
            .put_row(self.chain.bucket(), parent, name, layer, &row)
    }

    /// Removes the row of a path, or hides what would show through below it. Over a live base it
    /// always hides: what a branch removed stays removed, whatever the base writes there later.
    fn remove_row(&mut self, path: &TreePath) -> Result<()> {
        let (parent, name) = (path.parent_str(), path.name());
        let (bucket, layer) = (self.chain.bucket(), self.chain.write_layer());
        if !self.chain.is_flat() {
            let found = self.chain.find(&*self.txn, parent, name)?;
            let below = self
                .chain
                .find_below_write_layer(&*self.txn, parent, name)?;
            if self.chain.has_live_base() || below.is_some_and(|f| f.row.entry.is_some()) {
                let tombstone = Row {
                    entry: None,
                    base: self.base_of(found.as_ref()),
                };
                return self.txn.put_row(bucket, parent, name, layer, &tombstone);
            }
        }
        self.txn.remove_row(bucket, parent, name, layer)
    }

    /// Returns what the branch's row over `found` replaces of what it inherits: what its earlier
    /// row replaced, or else the inherited entry itself.
    fn base_of(&self, found: Option<&Found>) -> Option<EntryId> {
        let found = found?;
        if self.chain.is_own(found) {
            found.row.base
        } else {
            found.row.entry.as_ref().map(Entry::id)
        }
    }
}

fn file_size(entry: &Entry) -> Option<u64> {
    (entry.kind() == Kind::File).then(|| entry.size())
}

fn root_in_use(op: &'static str) -> Error {
    let detail = "the root can be neither removed nor renamed";
    Error::with_detail(ErrorKind::InUse, detail)
        .op(op)
        .path("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::branch::{self, ForkSource};
    use crate::memory::MemoryStore;
    use crate::store::{BranchId, BranchRecord, BucketId, Durability, Store};

    struct Fixture {
        store: MemoryStore,
        bucket: BucketId,
        main: BranchId,
    }

    fn p(text: &str) -> TreePath {
        TreePath::parse(text).unwrap()
    }

    fn context() -> Context {
        Context {
            now: Timestamp(1),
            author: "test".to_owned(),
            uid: 0,
            gid: 0,
        }
    }

    impl Fixture {
        fn new() -> Self {
            let store = MemoryStore::new();
            let mut txn = store.write(Durability::Full).unwrap();
            let (bucket, main) = branch::create_bucket(&mut *txn, "t", &context()).unwrap();
            txn.commit().unwrap();
            Self {
                store,
                bucket: bucket.id,
                main: main.id,
            }
        }

        fn write<T>(&self, write: impl FnOnce(&mut dyn WriteTxn) -> Result<T>) -> T {
            let mut txn = self.store.write(Durability::Full).unwrap();
            let out = write(&mut *txn).unwrap();
            txn.commit().unwrap();
            out
        }

        fn edit<T>(&self, branch: BranchId, edit: impl FnOnce(&mut Editor<'_>) -> T) -> T {
            self.write(|txn| {
                let chain = Chain::load(txn, branch, None)?;
                Ok(edit(&mut Editor::new(txn, &chain, context())))
            })
        }

        fn mkdir(&self, branch: BranchId, path: &str) {
            let set = SetAttrs::default();
            self.edit(branch, |e| e.mkdir_all(&p(path), &set)).unwrap();
        }

        fn put(&self, branch: BranchId, path: &str) {
            let (set, mode) = (SetAttrs::default(), PutMode::default());
            self.edit(branch, |e| e.put_file(&p(path), Hash::EMPTY, 0, &set, mode))
                .unwrap();
        }

        fn fork(&self, name: &str, branch: BranchId, snapshot: Option<&str>) -> BranchId {
            let snapshot = snapshot.map(str::to_owned);
            let source = ForkSource { branch, snapshot };
            let made: BranchRecord = self.write(|t| branch::fork(t, name, &source, &context()));
            assert_eq!(made.bucket, self.bucket);
            made.id
        }

        fn snapshot(&self, branch: BranchId, name: &str) {
            self.write(|t| branch::take_snapshot(t, branch, name, &context()));
        }

        fn shows(&self, branch: BranchId, at: Option<&str>, path: &str) -> bool {
            let txn = self.store.read().unwrap();
            let chain = branch::chain_at(&*txn, branch, at).unwrap();
            let target = tree::resolve_target(&*txn, &chain, &p(path), Follow::No);
            let by_path = target.is_ok_and(|t| t.entry.is_some());
            let mut by_walk = false;
            tree::walk(&*txn, &chain, &TreePath::root(), &mut |at, _| {
                by_walk |= *at == p(path);
                Ok(tree::Walk::Continue)
            })
            .unwrap();
            assert_eq!(by_path, by_walk, "{path}");
            by_path
        }
    }

    #[test]
    fn a_snapshot_hides_what_lies_below_what_the_branch_put_in_the_way() {
        let f = Fixture::new();
        let child = f.fork("child", f.main, None);
        f.put(child, "/d");
        f.mkdir(f.main, "/d/x");
        f.snapshot(child, "s");
        let pinned = f.fork("pinned", child, Some("s"));
        assert!(!f.shows(child, None, "/d/x"));
        assert!(!f.shows(child, Some("s"), "/d/x"));
        assert!(!f.shows(pinned, None, "/d/x"));
    }

    #[test]
    fn a_directory_that_a_live_base_has_from_a_snapshot_is_copied_up() {
        let f = Fixture::new();
        f.mkdir(f.main, "/d");
        f.snapshot(f.main, "s");
        let base = f.fork("base", f.main, Some("s"));
        let child = f.fork("child", base, None);
        f.put(child, "/d/x");
        f.edit(base, |e| e.rmdir(&p("/d"))).unwrap();
        assert!(!f.shows(base, None, "/d"));
        assert!(f.shows(child, None, "/d/x"));
    }

    #[test]
    fn a_new_directory_is_empty_whatever_the_base_put_there() {
        let f = Fixture::new();
        f.mkdir(f.main, "/d");
        f.mkdir(f.main, "/e/d");
        let child = f.fork("child", f.main, None);
        f.edit(child, |e| e.remove_all(&p("/d"))).unwrap();
        f.mkdir(f.main, "/d/late");
        f.snapshot(child, "s");
        let pinned = f.fork("pinned", child, Some("s"));
        let copied = f.fork("copied", child, None);
        let renamed = f.fork("renamed", child, None);
        f.edit(renamed, |e| e.rename(&p("/e/d"), &p("/d"), false))
            .unwrap();
        f.edit(copied, |e| e.copy(&p("/e/d"), &p("/d"), false))
            .unwrap();
        f.mkdir(child, "/d");
        f.mkdir(pinned, "/d");
        for branch in [child, pinned, copied, renamed] {
            assert!(f.shows(branch, None, "/d"));
            assert!(!f.shows(branch, None, "/d/late"));
        }
        f.mkdir(f.main, "/d/later");
        assert!(f.shows(child, None, "/d/later"));
        assert!(!f.shows(pinned, None, "/d/later"));
    }

    #[test]
    fn an_override_of_a_root_nobody_wrote_records_it() {
        let f = Fixture::new();
        let child = f.fork("child", f.main, None);
        let root = |branch| {
            let txn = f.store.read().unwrap();
            let chain = Chain::load(&*txn, branch, None).unwrap();
            chain.lookup_found(&*txn, &p("/")).unwrap().unwrap()
        };
        let inherited = root(f.main).row.entry.unwrap().id();
        let set = SetAttrs {
            mode: Some(0o700),
            ..SetAttrs::default()
        };
        f.edit(child, |e| e.set_attrs(&p("/"), &set, Follow::Yes))
            .unwrap();
        assert_eq!(root(child).row.base, Some(inherited));
    }

    #[test]
    fn making_directories_down_to_a_path_that_is_too_long_makes_none() {
        let f = Fixture::new();
        let name = "n".repeat(250);
        let deep = vec![name.clone(); 16].join("/");
        f.mkdir(f.main, &deep);
        let set = SetAttrs::default();
        f.edit(f.main, |e| {
            e.symlink(&p("/l"), &deep, &set).unwrap();
            let failed = e.mkdir_all(&p(&format!("/l/x/{name}")), &set);
            assert_eq!(failed.unwrap_err().kind(), ErrorKind::NameTooLong);
        });
        assert!(!f.shows(f.main, None, &format!("{deep}/x")));
    }
}
