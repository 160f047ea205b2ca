//! A store and the reference model side by side: each step is carried out on both and compared.

use std::collections::HashMap;
use std::fmt::Debug;
use std::ops::ControlFlow;
use std::sync::Arc;

use alknet_fs_core::branch::{self, ForkSource};
use alknet_fs_core::chain::Chain;
use alknet_fs_core::diff::diff;
use alknet_fs_core::edit::{Context, Editor, PutMode, SetAttrs};
use alknet_fs_core::store::{
    BucketId, ContentForm, ContentRecord, Durability, Layer, ReadTxn, Row, Store,
};
use alknet_fs_core::tree::{self, Follow, Walk};
use alknet_fs_core::{Entry, ErrorKind, Result, Timestamp, TreePath};

use crate::model::{self, Model, Outcome, Tree, View};
use crate::ops::{self, Edit, Op, Put, Set};

/// What does not agree.
pub type Mismatch = String;

/// A store and the model of one bucket in it.
pub struct World<'s> {
    store: &'s dyn Store,
    bucket: BucketId,
    model: Model,
    clock: i64,
    /// Chains as a long-lived program would keep them: until the bucket's generation changes.
    chains: HashMap<View, Arc<Chain>>,
}

/// Returns how many times more cases than usual are asked for by `ALKFS_TEST_SCALE`.
pub fn scaled(cases: u32) -> u32 {
    let scale = std::env::var("ALKFS_TEST_SCALE").ok();
    let scale = scale.and_then(|s| s.parse::<f64>().ok()).unwrap_or(1.0);
    ((f64::from(cases) * scale) as u32).max(1)
}

fn same<T: PartialEq + Debug>(what: &str, got: &T, want: &T) -> Result<(), Mismatch> {
    if got == want {
        return Ok(());
    }
    Err(format!("{what}\n   got: {got:?}\n  want: {want:?}"))
}

fn fault(e: alknet_fs_core::Error) -> Mismatch {
    format!("the store failed: {e:?}")
}

impl<'s> World<'s> {
    /// Makes a bucket of this name, and the model of it.
    pub fn new(store: &'s dyn Store, bucket: &str) -> Result<Self> {
        let now = Timestamp(1);
        let mut txn = store.write(Durability::Relaxed)?;
        let (record, _) = branch::create_bucket(&mut *txn, bucket, &context(now))?;
        for number in 0..ops::CONTENTS {
            let (hash, size) = ops::content(number);
            txn.add_content(&ContentRecord {
                hash,
                size,
                form: ContentForm::Inline,
                base: None,
                data: vec![b'x'; number.into()],
                created: now,
            })?;
        }
        txn.commit()?;
        Ok(Self {
            store,
            bucket: record.id,
            model: Model::new(now),
            clock: 1,
            chains: HashMap::new(),
        })
    }

    /// Carries out all steps; at the end compares everything.
    pub fn run(&mut self, ops: &[Op]) -> Result<(), Mismatch> {
        for (i, op) in ops.iter().enumerate() {
            self.step(op)
                .map_err(|e| format!("step {i}: {op:?}: {e}"))?;
        }
        self.check_all().map_err(|e| format!("at the end: {e}"))
    }

    /// Carries out one step, and compares its outcome and what every branch shows.
    pub fn step(&mut self, op: &Op) -> Result<(), Mismatch> {
        self.clock += 1;
        let names = self.model.names();
        let pick = |n: usize| names[n % names.len()].as_str();
        if let Op::Edits {
            branch,
            edits,
            commit,
        } = op
        {
            self.edit(pick(*branch), edits, *commit)?;
        } else {
            let (got, want) = self.change_branches(op, &pick).map_err(fault)?;
            same("outcome", &got, &want)?;
        }
        let txn = self.store.read().map_err(fault)?;
        for view in self.model.views() {
            let chain = self.chain(&*txn, &view)?;
            let tree = self.model.tree(&view);
            check_walk(&*txn, &chain, &tree).map_err(|e| format!("{view:?}: {e}"))?;
        }
        Ok(())
    }

    fn chain(&mut self, txn: &dyn ReadTxn, view: &View) -> Result<Arc<Chain>, Mismatch> {
        let bucket = txn.bucket(self.bucket).map_err(fault)?;
        let generation = bucket.map(|b| b.generation);
        if let Some(chain) = self.chains.get(view)
            && Some(chain.generation()) == generation
        {
            return Ok(Arc::clone(chain));
        }
        let load = || {
            let record = branch::branch(txn, self.bucket, &view.0)?;
            branch::chain_at(txn, record.id, view.1.as_deref())
        };
        let chain = Arc::new(load().map_err(fault)?);
        self.chains.insert(view.clone(), Arc::clone(&chain));
        Ok(chain)
    }

    fn edit(&mut self, branch: &str, edits: &[Edit], commit: bool) -> Result<(), Mismatch> {
        let now = Timestamp(self.clock);
        let view = (branch.to_owned(), None);
        let mut txn = self.store.write(Durability::Relaxed).map_err(fault)?;
        let chain = self.chain(&*txn, &view)?;
        let before = (!commit).then(|| self.model.clone());
        let mut editor = Editor::new(&mut *txn, &chain, context(now));
        for (i, edit) in edits.iter().enumerate() {
            let here = |e| format!("edit {i} {edit:?} of {branch}: {e}");
            let rows = self.model.tree(&view).len() < 12;
            let rows = rows.then(|| dump(editor.txn(), self.bucket)).transpose();
            let rows = rows.map_err(fault)?;
            let want = self.model.edit(branch, edit, now);
            let got = apply(&mut editor, edit);
            same("outcome", &got, &want).map_err(here)?;
            let tree = self.model.tree(&view);
            check_walk(editor.txn(), &chain, &tree).map_err(here)?;
            let paths = edit
                .paths()
                .into_iter()
                .map(|p| TreePath::parse(p).unwrap());
            check_lookups(editor.txn(), &chain, &tree, paths).map_err(here)?;
            if let (Some(before), Err(_)) = (rows, got) {
                let after = dump(editor.txn(), self.bucket).map_err(fault)?;
                same("rows after a failed edit", &after, &before).map_err(here)?;
            }
        }
        match before {
            Some(before) => self.model = before,
            None => {
                editor.finish(None).map_err(fault)?;
                self.check_bases(&*txn, branch)?;
                txn.commit().map_err(fault)?;
            }
        }
        Ok(())
    }

    /// Compares what the rows of a branch record of the entries that they replaced.
    fn check_bases(&self, txn: &dyn ReadTxn, branch: &str) -> Result<(), Mismatch> {
        let record = branch::branch(txn, self.bucket, branch).map_err(fault)?;
        let bucket = txn.bucket(self.bucket).map_err(fault)?;
        let layer = Layer {
            branch: record.id,
            epoch: bucket.expect("the bucket exists").epoch,
        };
        for (path, row) in self.model.current_rows(branch) {
            let found = txn
                .seek(self.bucket, path.parent_str(), path.name(), layer)
                .map_err(fault)?
                .filter(|(at, _)| *at == layer)
                .map(|(_, row)| (row.entry, row.base));
            let want = Some((row.entry.clone(), row.base));
            same(&format!("row of {branch} at {path}"), &found, &want)?;
        }
        Ok(())
    }

    fn change_branches<'n>(
        &mut self,
        op: &Op,
        pick: &dyn Fn(usize) -> &'n str,
    ) -> Result<(Outcome, Outcome)> {
        let context = context(Timestamp(self.clock));
        let mut txn = self.store.write(Durability::Relaxed)?;
        let bucket = self.bucket;
        let id = |txn: &dyn ReadTxn, n: usize| branch::branch(txn, bucket, pick(n)).map(|b| b.id);
        let (got, want) = match op {
            Op::Edits { .. } => unreachable!("edits do not change branches"),
            Op::Fork { name, from, at } => {
                let source = ForkSource {
                    branch: id(&*txn, *from)?,
                    snapshot: at.clone(),
                };
                (
                    branch::fork(&mut *txn, name, &source, &context).map(drop),
                    self.model.fork(name, pick(*from), at.as_deref()),
                )
            }
            Op::RenameBranch { branch, to } => {
                let id = id(&*txn, *branch)?;
                (
                    branch::rename_branch(&mut *txn, id, to, &context),
                    self.model.rename_branch(pick(*branch), to),
                )
            }
            Op::DeleteBranch { branch } => {
                let id = id(&*txn, *branch)?;
                (
                    branch::delete_branch(&mut *txn, id, &context),
                    self.model.delete_branch(pick(*branch)),
                )
            }
            Op::Snapshot { branch, name } => {
                let id = id(&*txn, *branch)?;
                (
                    branch::take_snapshot(&mut *txn, id, name, &context).map(drop),
                    self.model.snapshot(pick(*branch), name),
                )
            }
            Op::DeleteSnapshot { branch, name } => {
                let id = id(&*txn, *branch)?;
                (
                    branch::delete_snapshot(&mut *txn, id, name, &context),
                    self.model.delete_snapshot(pick(*branch), name),
                )
            }
            Op::Restore { branch, name } => {
                let id = id(&*txn, *branch)?;
                (
                    branch::restore(&mut *txn, id, name, &context),
                    self.model.restore(pick(*branch), name),
                )
            }
        };
        if got.is_ok() {
            txn.commit()?;
        }
        Ok((got.map(|()| String::new()).map_err(|e| e.kind()), want))
    }

    /// Compares a branch or snapshot by chains of which none has met a crowd of other branches'
    /// rows, and by one that has met it in the directory `crowd`. Calls `checked` before the first
    /// of the two and after each, and returns the number of spans.
    pub fn check_ways(
        &self,
        view: &View,
        crowd: &TreePath,
        checked: &mut dyn FnMut(usize, bool) -> Result<(), Mismatch>,
    ) -> Result<usize, Mismatch> {
        let txn = self.store.read().map_err(fault)?;
        let record = branch::branch(&*txn, self.bucket, &view.0).map_err(fault)?;
        let load = || branch::chain_at(&*txn, record.id, view.1.as_deref()).map_err(fault);
        let tree = self.model.tree(view);
        let mut paths = self.model.known_paths(&view.0);
        paths.extend(tree.keys().cloned());
        paths.sort();
        paths.dedup();
        let here = |way: &'static str| move |e| format!("{view:?}, {way}: {e}");
        let crowded = load()?;
        let spans = crowded.spans().len();
        tree::list(&*txn, &crowded, crowd).map_err(fault)?;
        checked(spans, false)?;
        for path in &paths {
            // What a listing meets must not change how the next path is looked up.
            check_lookups(&*txn, &load()?, &tree, [path.clone()]).map_err(here("uncrowded"))?;
        }
        checked(spans, false)?;
        check_walk(&*txn, &crowded, &tree)
            .and_then(|()| check_lookups(&*txn, &crowded, &tree, paths))
            .map_err(here("crowded"))?;
        checked(spans, true)?;
        Ok(spans)
    }

    /// Returns every branch and every snapshot.
    pub fn views(&self) -> Vec<View> {
        self.model.views()
    }

    /// Compares every branch and snapshot in every way: walks, listings, look-ups, hashes, and the
    /// differences between each two.
    pub fn check_all(&mut self) -> Result<(), Mismatch> {
        let txn = self.store.read().map_err(fault)?;
        let mut all = Vec::new();
        for view in self.model.views() {
            let chain = self.chain(&*txn, &view)?;
            let tree = self.model.tree(&view);
            let mut paths = self.model.known_paths(&view.0);
            paths.extend(tree.keys().cloned());
            let below = paths.clone();
            let below = below.iter().flat_map(|dir| [dir.join("a"), dir.join("b")]);
            paths.extend(below.map(Result::unwrap));
            paths.sort();
            paths.dedup();
            check_walk(&*txn, &chain, &tree)
                .and_then(|()| check_lookups(&*txn, &chain, &tree, paths))
                .and_then(|()| {
                    let hash = tree::tree_hash(&*txn, &chain).map_err(fault)?;
                    same("tree hash", &hash, &model::tree_hash(&tree))
                })
                .map_err(|e| format!("{view:?}: {e}"))?;
            all.push((view, chain, tree));
        }
        let under = ["/", "/a", "/a/b"].map(|p| TreePath::parse(p).unwrap());
        for (from, a, old) in &all {
            for (to, b, new) in &all {
                for under in &under {
                    let got = diff(&*txn, a, b, under).map_err(fault)?;
                    let want = model::diff(old, new, under);
                    same(&format!("diff {from:?} {to:?} {under}"), &got, &want)?;
                }
            }
        }
        Ok(())
    }
}

fn context(now: Timestamp) -> Context {
    Context {
        now,
        author: "test".to_owned(),
        uid: ops::UID,
        gid: ops::GID,
    }
}

/// Carries out one edit through an editor; tells failures by their kind.
pub fn apply(editor: &mut Editor<'_>, edit: &Edit) -> Outcome {
    try_apply(editor, edit).map_err(|e| e.kind())
}

/// Carries out one edit through an editor.
pub fn try_apply(editor: &mut Editor<'_>, edit: &Edit) -> Result<String> {
    let p = |text: &str| TreePath::parse(text);
    match edit {
        Edit::Put {
            path,
            content,
            mode,
            set,
        } => {
            let (hash, size) = ops::content(*content);
            let mode = put_mode(*mode);
            let path = editor.put_file(&p(path)?, hash, size, &attrs(set), mode)?;
            Ok(path.to_string())
        }
        Edit::Mkdir { path, set } => nothing(editor.mkdir(&p(path)?, &attrs(set))),
        Edit::MkdirAll { path } => {
            nothing(editor.mkdir_all(&p(path)?, &SetAttrs::default()).map(drop))
        }
        Edit::Symlink { path, text } => {
            nothing(editor.symlink(&p(path)?, text, &SetAttrs::default()))
        }
        Edit::Unlink { path } => nothing(editor.unlink(&p(path)?)),
        Edit::Rmdir { path } => nothing(editor.rmdir(&p(path)?)),
        Edit::RemoveAll { path } => editor.remove_all(&p(path)?).map(|n| n.to_string()),
        Edit::SetAttrs { path, set, follow } => {
            nothing(editor.set_attrs(&p(path)?, &attrs(set), follow_if(*follow)))
        }
        Edit::Rename { from, to, replace } => nothing(editor.rename(&p(from)?, &p(to)?, *replace)),
        Edit::Copy { from, to, replace } => {
            let count = editor.copy(&p(from)?, &p(to)?, *replace)?;
            Ok(count.to_string())
        }
    }
}

fn nothing(result: Result<()>) -> Result<String> {
    result.map(|()| String::new())
}

/// The attributes that an edit sets.
pub fn attrs(set: &Set) -> SetAttrs {
    SetAttrs {
        mode: set.mode,
        uid: set.uid,
        gid: None,
        mtime: set.mtime.map(Timestamp),
    }
}

/// How an edit puts a file.
pub fn put_mode(put: Put) -> PutMode {
    match put {
        Put::Any => PutMode::CreateOrReplace,
        Put::New => PutMode::CreateNew,
        Put::Existing => PutMode::ReplaceExisting,
    }
}

/// Whether an edit follows a link.
pub fn follow_if(follow: bool) -> Follow {
    if follow { Follow::Yes } else { Follow::No }
}

/// Returns every row of a bucket: its directory, name and layer, and what is there.
pub fn dump(txn: &dyn ReadTxn, bucket: BucketId) -> Result<Vec<(String, String, Layer, Row)>> {
    let mut rows = Vec::new();
    txn.scan_dir(bucket, "", None, &mut |name, layer, row| {
        rows.push((String::new(), name.to_owned(), layer, row()?));
        Ok(ControlFlow::Continue(()))
    })?;
    txn.scan_tree(
        bucket,
        &TreePath::root(),
        &mut |parent, name, layer, row| {
            rows.push((parent.to_owned(), name.to_owned(), layer, row));
            Ok(ControlFlow::Continue(()))
        },
    )?;
    Ok(rows)
}

/// Returns all that a chain shows, in the order of the walk.
pub fn walk_all(txn: &dyn ReadTxn, chain: &Chain) -> Result<Vec<(TreePath, Entry)>> {
    let mut out = Vec::new();
    tree::walk(txn, chain, &TreePath::root(), &mut |path, entry| {
        out.push((path.clone(), entry.clone()));
        Ok(Walk::Continue)
    })?;
    Ok(out)
}

fn check_walk(txn: &dyn ReadTxn, chain: &Chain, tree: &Tree) -> Result<(), Mismatch> {
    let root = TreePath::root();
    let walked = walk_all(txn, chain).map_err(fault)?;
    same("walk", &walked, &model::walk_order(tree, &root))?;
    let got = tree::resolve(txn, chain, &root, Follow::Yes).map_err(fault)?;
    same("root", &got.1, &tree[&root])
}

fn check_lookups(
    txn: &dyn ReadTxn,
    chain: &Chain,
    tree: &Tree,
    paths: impl IntoIterator<Item = TreePath>,
) -> Result<(), Mismatch> {
    for path in paths {
        for follow in [true, false] {
            let got = tree::resolve_target(txn, chain, &path, follow_if(follow));
            let got = got.map(|t| (t.path, t.entry)).map_err(|e| e.kind());
            let want = model::resolve(tree, &path, follow);
            same(&format!("resolve {path}, follow: {follow}"), &got, &want)?;
            let got = tree::resolve(txn, chain, &path, follow_if(follow));
            let got = got.map_err(|e| e.kind());
            let want = want.and_then(|(p, e)| Ok((p, e.ok_or(ErrorKind::NotFound)?)));
            same(&format!("resolve {path}, follow: {follow}"), &got, &want)?;
        }
        let got = tree::list(txn, chain, &path).map_err(|e| e.kind());
        let got = got.map(|entries| {
            let entries = entries.into_iter().map(|e| (e.name, e.entry));
            entries.collect::<Vec<_>>()
        });
        let want = model::resolve(tree, &path, true).and_then(|(real, entry)| {
            let entry = entry.ok_or(ErrorKind::NotFound)?;
            if !entry.is_dir() {
                return Err(ErrorKind::NotADirectory);
            }
            let entries = model::children(tree, &real).into_iter();
            Ok(entries
                .map(|p| (p.name().into(), tree[&p].clone()))
                .collect())
        });
        same(&format!("list {path}"), &got, &want)?;
    }
    Ok(())
}
