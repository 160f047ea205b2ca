//! Several write sessions open at once on several branches, among edits, forks, snapshots and
//! collections, against a naive reference: the model of the branches, and a byte vector a session.
//!
//! A failure prints the shrunk steps, and as JSON for `ALKFS_TEST_REPLAY`, which makes
//! `replays_given_steps` carry out just those:
//!
//! ```text
//! ALKFS_TEST_REPLAY='[...]' cargo test -p alknet-fs-tests --test open_sessions replays
//! ```
//!
//! `ALKFS_TEST_SCALE` multiplies the number of cases.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

use alknet_fs::{
    Bucket, Durability, Error, ErrorKind, GcOptions, Hash, Kind, OpenOptions, Options, Session,
    SessionId, SetAttrs, Store, Task, Timestamp, TreePath, View, Walk,
};
use alknet_fs_tests::model::{self, Model, Outcome, Tree};
use alknet_fs_tests::ops::{self, Edit, Op, Put, Set};
use alknet_fs_tests::workload::{Depth, fsck};
use alknet_fs_tests::world::{attrs, follow_if, put_mode, scaled};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{TestError, TestRunner};
use serde::{Deserialize, Serialize};

/// One step. Branches and sessions are counted from the oldest and wrapped around.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Step {
    Edit(usize, Edit),
    Branches(Op),
    Open {
        branch: usize,
        path: String,
        how: How,
        exclusive: bool,
        mode: Option<u32>,
    },
    Write {
        session: usize,
        at: u64,
        len: usize,
        byte: u8,
    },
    Append {
        session: usize,
        len: usize,
        byte: u8,
    },
    Truncate {
        session: usize,
        size: u64,
    },
    Read {
        session: usize,
        at: u64,
        len: usize,
    },
    Sync(usize),
    Close {
        session: usize,
        mode: Option<u32>,
    },
    Abort(usize),
    Drop(usize),
    /// Leaves a session and takes it up again.
    Resume(usize),
    /// Throws a session away by its number, while its handle is in use.
    AbortByNumber(usize),
    /// Leaves all sessions, opens the store once more, and takes them up there.
    Reopen,
    Gc,
}

/// How a session is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum How {
    /// In place, or a new file.
    Update,
    /// In place; the file must exist.
    Existing,
    /// From an empty file.
    Truncate,
    /// The file must not exist.
    New,
}

/// What every case begins with: two directories and a file on three branches, one of which follows
/// the first and one of which is pinned to a snapshot of it.
fn first() -> Vec<Step> {
    let edit = |edit: &str| Step::Edit(0, serde_json::from_str(edit).unwrap());
    let fork = |name: &str, at: Option<&str>| {
        Step::Branches(Op::Fork {
            name: name.to_owned(),
            from: 0,
            at: at.map(str::to_owned),
        })
    };
    let snapshot = Op::Snapshot {
        branch: 0,
        name: "s1".to_owned(),
    };
    vec![
        edit(r#"{"MkdirAll": {"path": "/a/b"}}"#),
        edit(r#"{"Put": {"path": "/b", "content": 3, "mode": "New", "set": {}}}"#),
        Step::Branches(snapshot),
        fork("b1", None),
        fork("b2", Some("s1")),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let session = || 0..6usize;
    let bytes = || {
        (
            prop_oneof![200 => 1..300usize, 1 => Just(270_000)],
            b'a'..=b'z',
        )
    };
    let at = || 0..500u64;
    let mode = || {
        prop_oneof![
            6 => Just(None),
            3 => select(&[0o600, 0o755, 0o4711][..]).prop_map(Some),
        ]
    };
    let close_mode = prop_oneof![20 => mode(), 1 => Just(Some(0o10_644))];
    // Few, so that sessions meet; most in directories that are there at first.
    let path = prop_oneof![
        4 => select(&["/b", "/a/a", "/a/b/a", "/a/b/b"][..]).prop_map(str::to_owned),
        1 => ops::path(),
    ];
    let how = prop_oneof![
        4 => Just(How::Update),
        1 => Just(How::Existing),
        2 => Just(How::Truncate),
        2 => Just(How::New),
    ];
    prop_oneof![
        25 => (0..6usize, ops::edit()).prop_map(|(branch, edit)| Step::Edit(branch, edit)),
        8 => ops::branch_change().prop_map(Step::Branches),
        30 => (0..6usize, path, how, proptest::bool::weighted(0.3), mode())
            .prop_map(|(branch, path, how, exclusive, mode)| {
                Step::Open { branch, path, how, exclusive, mode }
            }),
        24 => (session(), at(), bytes())
            .prop_map(|(session, at, (len, byte))| Step::Write { session, at, len, byte }),
        8 => (session(), bytes())
            .prop_map(|(session, (len, byte))| Step::Append { session, len, byte }),
        8 => (session(), 0..600u64).prop_map(|(session, size)| Step::Truncate { session, size }),
        8 => (session(), at(), 0..400usize)
            .prop_map(|(session, at, len)| Step::Read { session, at, len }),
        2 => session().prop_map(Step::Sync),
        20 => (session(), close_mode).prop_map(|(session, mode)| Step::Close { session, mode }),
        3 => session().prop_map(Step::Abort),
        1 => session().prop_map(Step::Drop),
        4 => session().prop_map(Step::Resume),
        1 => session().prop_map(Step::AbortByNumber),
        1 => Just(Step::Reopen),
        2 => Just(Step::Gc),
    ]
}

/// An open session, and what it must hold.
struct Open {
    /// Gone only for a moment, while it is left and taken up again.
    session: Option<Session>,
    /// The model's number of the branch; names change.
    branch: u32,
    path: TreePath,
    bytes: Vec<u8>,
    /// Whether closing it commits: it started empty, or something was written.
    dirty: bool,
    /// The size it started with, as long as all that was written went to its end: then closing
    /// appends to what is there.
    appends_behind: Option<usize>,
    create_new: bool,
    exclusive: bool,
    mode: u32,
    owner: String,
    /// Whether it was thrown away by its number.
    dead: bool,
}

impl Open {
    fn session(&self) -> &Session {
        self.session.as_ref().unwrap()
    }
}

/// What does not agree.
type Mismatch = String;

fn same<T: PartialEq + Debug>(what: &str, got: &T, want: &T) -> Result<(), Mismatch> {
    if got == want {
        return Ok(());
    }
    Err(format!("{what}\n   got: {got:?}\n  want: {want:?}"))
}

fn same_bytes(what: &str, got: &[u8], want: &[u8]) -> Result<(), Mismatch> {
    if got == want {
        return Ok(());
    }
    let at = got.iter().zip(want).position(|(a, b)| a != b);
    let (got, want) = (got.len(), want.len());
    Err(format!(
        "{what}: {got} bytes for {want}, different at {at:?}"
    ))
}

fn fault(e: impl ToString) -> Mismatch {
    format!("the store failed: {}", e.to_string())
}

fn kind<T>(result: Result<T, Error>) -> Result<T, ErrorKind> {
    result.map_err(|e| e.kind())
}

/// What an entry shows but for times and owners, which the engine takes from the machine.
type Shown = (TreePath, Kind, u32, Option<Hash>, Option<String>);

fn shown(view: &View) -> Result<Vec<Shown>, Error> {
    let mut out = Vec::new();
    view.walk("/", |path, entry| {
        let target = entry.target().map(str::to_owned);
        out.push((
            path.clone(),
            entry.kind(),
            entry.attrs.mode,
            entry.hash(),
            target,
        ));
        Ok(Walk::Continue)
    })?;
    Ok(out)
}

fn wanted(tree: &Tree) -> Vec<Shown> {
    let entries = model::walk_order(tree, &TreePath::root()).into_iter();
    let entries = entries.map(|(path, entry)| {
        let target = entry.target().map(str::to_owned);
        (path, entry.kind(), entry.attrs.mode, entry.hash(), target)
    });
    entries.collect()
}

fn options() -> Options {
    Options::new()
        .author("tester")
        .durability(Durability::Relaxed)
}

struct World {
    open: Vec<Open>,
    bucket: Bucket,
    bucket_name: String,
    store: Store,
    model: Model,
    /// The bytes of every content that the model may show.
    contents: HashMap<Hash, Vec<u8>>,
    /// The exclusive locks: branch and path.
    locks: BTreeSet<(u32, TreePath)>,
    opened: u32,
    clock: i64,
}

impl World {
    fn new(store: Store, bucket: &str) -> Self {
        let contents = (0..ops::CONTENTS).map(|n| vec![b'x'; n.into()]);
        Self {
            open: Vec::new(),
            bucket: store.create_bucket(bucket).unwrap(),
            bucket_name: bucket.to_owned(),
            store,
            model: Model::new(Timestamp(1)),
            contents: contents.map(|bytes| (Hash::of(&bytes), bytes)).collect(),
            locks: BTreeSet::new(),
            opened: 0,
            clock: 1,
        }
    }

    fn run(&mut self, steps: &[Step]) -> Result<(), Mismatch> {
        for (i, step) in steps.iter().enumerate() {
            self.clock += 1;
            self.step(step)
                .and_then(|()| self.check())
                .map_err(|e| format!("step {i}: {step:?}: {e}"))?;
        }
        while !self.open.is_empty() {
            self.clock += 1;
            let ended = self.close(0, None).and_then(|()| self.abort(0));
            ended.map_err(|e| format!("at the end: {e}"))?;
        }
        self.check_bytes().map_err(|e| format!("at the end: {e}"))
    }

    fn name(&self, n: usize) -> String {
        let names = self.model.names();
        names[n % names.len()].clone()
    }

    fn step(&mut self, step: &Step) -> Result<(), Mismatch> {
        let sessions = self.open.len();
        let pick = |n: usize| n.checked_rem(sessions);
        match step {
            Step::Edit(branch, edit) => self.edit(&self.name(*branch), edit),
            Step::Branches(op) => self.change_branches(op),
            Step::Open {
                branch,
                path,
                how,
                exclusive,
                mode,
            } => self.open(&self.name(*branch), path, *how, *exclusive, *mode),
            Step::Write {
                session,
                at,
                len,
                byte,
            } => match pick(*session) {
                Some(n) => self.write(n, Some(*at), &vec![*byte; *len]),
                None => Ok(()),
            },
            Step::Append { session, len, byte } => match pick(*session) {
                Some(n) => self.write(n, None, &vec![*byte; *len]),
                None => Ok(()),
            },
            Step::Truncate { session, size } => {
                let Some(n) = pick(*session) else {
                    return Ok(());
                };
                let done = kind(self.open[n].session().truncate(*size));
                if self.still_written(n, done.err())? {
                    self.open[n].bytes.resize(*size as usize, 0);
                    self.open[n].dirty = true;
                    self.open[n].appends_behind = None;
                }
                Ok(())
            }
            Step::Read { session, at, len } => {
                let Some(n) = pick(*session) else {
                    return Ok(());
                };
                let mut buffer = vec![0xee; *len];
                let read = self.open[n].session().read_at(*at, &mut buffer);
                buffer.truncate(read.map_err(fault)?);
                let bytes = &self.open[n].bytes;
                let start = (*at as usize).min(bytes.len());
                let end = (start + len).min(bytes.len());
                same_bytes("read_at", &buffer, &bytes[start..end])
            }
            Step::Sync(session) => match pick(*session) {
                Some(n) => {
                    let want = match self.open[n].dead {
                        true => Err(ErrorKind::NotFound),
                        false => Ok(()),
                    };
                    same("sync", &kind(self.open[n].session().sync()), &want)
                }
                None => Ok(()),
            },
            Step::Close { session, mode } => match pick(*session) {
                Some(n) => self.close(n, *mode),
                None => Ok(()),
            },
            Step::Abort(session) => match pick(*session) {
                Some(n) => self.abort(n),
                None => Ok(()),
            },
            Step::Drop(session) => {
                if let Some(n) = pick(*session) {
                    self.forget(n);
                }
                Ok(())
            }
            Step::Resume(session) => match pick(*session) {
                Some(n) if !self.open[n].dead => {
                    let id = self.leave(n)?;
                    self.take_up(n, id)
                }
                _ => Ok(()),
            },
            Step::AbortByNumber(session) => {
                if let Some(n) = pick(*session)
                    && !self.open[n].dead
                {
                    let id = self.open[n].session().id();
                    let unforced = kind(self.store.abort_session(id, false));
                    same("unforced abort", &unforced, &Err(ErrorKind::Locked))?;
                    self.store.abort_session(id, true).map_err(fault)?;
                    self.die(n);
                }
                Ok(())
            }
            Step::Reopen => self.reopen(),
            Step::Gc => {
                let options = GcOptions::new().grace(Duration::ZERO);
                self.store.gc(&options, &Task::new()).map_err(fault)?;
                Ok(())
            }
        }
    }

    fn edit(&mut self, name: &str, edit: &Edit) -> Result<(), Mismatch> {
        let mut edit = edit.clone();
        if let Edit::Copy { replace, .. } = &mut edit {
            // The engine offers no other copy.
            *replace = true;
        }
        let want = self.model.edit(name, &edit, Timestamp(self.clock));
        let branch = self.bucket.branch(name).map_err(fault)?;
        let got = match &edit {
            Edit::Put {
                path,
                content,
                mode,
                set,
            } => {
                let bytes = vec![b'x'; (*content).into()];
                branch
                    .put(path, bytes, &attrs(set), put_mode(*mode))
                    .map(drop)
            }
            Edit::Mkdir { path, set } => branch.mkdir_with(path, &attrs(set)),
            Edit::MkdirAll { path } => branch.mkdir_all(path),
            Edit::Symlink { path, text } => branch.symlink(text, path),
            Edit::Unlink { path } => branch.remove(path),
            Edit::Rmdir { path } => branch.remove_dir(path),
            Edit::RemoveAll { path } => branch.remove_all(path).map(drop),
            Edit::SetAttrs { path, set, follow } => {
                branch.set_attrs(path, &attrs(set), follow_if(*follow))
            }
            Edit::Rename { from, to, replace } => match replace {
                true => branch.rename(from, to),
                false => branch.rename_new(from, to),
            },
            Edit::Copy { from, to, .. } => branch.copy(from, to).map(drop),
        };
        same("outcome", &kind(got), &want.map(drop))
    }

    fn change_branches(&mut self, op: &Op) -> Result<(), Mismatch> {
        let name = |n: &usize| self.name(*n);
        let (got, want): (Result<(), Error>, Outcome) = match op {
            Op::Edits { .. } => unreachable!("edits do not change branches"),
            Op::Fork {
                name: new,
                from,
                at,
            } => {
                let from = name(from);
                let branch = self.bucket.branch(&from).map_err(fault)?;
                let forked = match at {
                    None => branch.fork(new),
                    Some(at) => branch.fork_at(at, new),
                };
                (forked.map(drop), self.model.fork(new, &from, at.as_deref()))
            }
            Op::RenameBranch { branch, to } => {
                let from = name(branch);
                let branch = self.bucket.branch(&from).map_err(fault)?;
                (branch.rename_to(to), self.model.rename_branch(&from, to))
            }
            Op::DeleteBranch { branch } => {
                let doomed = name(branch);
                let number = self.model.number(&doomed);
                let in_use = |open: &Open| Some(open.branch) == number && !open.dead;
                let want = match self.open.iter().any(in_use) {
                    true => Err(ErrorKind::InUse),
                    false => self.model.delete_branch(&doomed),
                };
                (self.bucket.delete_branch(&doomed), want)
            }
            Op::Snapshot {
                branch,
                name: snapshot,
            } => {
                let of = name(branch);
                let branch = self.bucket.branch(&of).map_err(fault)?;
                let taken = branch.snapshot(snapshot).map(drop);
                (taken, self.model.snapshot(&of, snapshot))
            }
            Op::DeleteSnapshot {
                branch,
                name: snapshot,
            } => {
                let of = name(branch);
                let branch = self.bucket.branch(&of).map_err(fault)?;
                let deleted = branch.delete_snapshot(snapshot);
                (deleted, self.model.delete_snapshot(&of, snapshot))
            }
            Op::Restore {
                branch,
                name: snapshot,
            } => {
                let of = name(branch);
                let branch = self.bucket.branch(&of).map_err(fault)?;
                let restored = branch.restore(snapshot);
                (restored, self.model.restore(&of, snapshot))
            }
        };
        same("outcome", &kind(got), &want.map(drop))
    }

    fn open(
        &mut self,
        name: &str,
        path: &str,
        how: How,
        exclusive: bool,
        mode: Option<u32>,
    ) -> Result<(), Mismatch> {
        self.opened += 1;
        let owner = format!("owner-{}", self.opened);
        let mut options = OpenOptions::new()
            .create(how != How::Existing)
            .create_new(how == How::New)
            .truncate(how == How::Truncate)
            .exclusive(exclusive)
            .owner(&owner);
        if let Some(mode) = mode {
            options = options.mode(mode);
        }
        let branch = self.model.number(name).unwrap();
        let tree = self.model.tree(&(name.to_owned(), None));
        let found = model::resolve(&tree, &TreePath::parse(path).unwrap(), how != How::New);
        let want = found.and_then(|(path, entry)| match entry {
            Some(_) if how == How::New => Err(ErrorKind::AlreadyExists),
            Some(entry) if entry.is_dir() => Err(ErrorKind::IsADirectory),
            None if how == How::Existing => Err(ErrorKind::NotFound),
            _ if exclusive && self.locks.contains(&(branch, path.clone())) => {
                Err(ErrorKind::Locked)
            }
            entry => Ok((path, entry)),
        });
        let opened = self.bucket.branch(name).map_err(fault)?;
        let opened = opened.open_session(path, &options);
        let (session, path, entry) = match (opened, want) {
            (Ok(session), Ok((path, entry))) => (session, path, entry),
            (got, want) => {
                let (got, want) = (got.map(|s| s.path()), want.map(|(path, _)| path));
                if let (Err(e), Err(ErrorKind::Locked)) = (&got, &want) {
                    let named = e.to_string().contains("owner-");
                    same("the holder is named", &named, &true)?;
                }
                return same("open", &kind(got), &want);
            }
        };
        same("session's path", &session.path(), &path)?;
        if exclusive {
            self.locks.insert((branch, path.clone()));
        }
        let base = entry
            .and_then(|e| e.hash())
            .filter(|_| how != How::Truncate);
        let bytes = base.map_or_else(Vec::new, |hash| self.contents[&hash].clone());
        self.open.push(Open {
            session: Some(session),
            branch,
            path,
            appends_behind: match how {
                How::Update | How::Existing => Some(bytes.len()),
                How::Truncate | How::New => None,
            },
            bytes,
            dirty: base.is_none(),
            create_new: how == How::New,
            exclusive,
            mode: mode.unwrap_or(0o644),
            owner,
            dead: false,
        });
        Ok(())
    }

    fn write(&mut self, n: usize, at: Option<u64>, bytes: &[u8]) -> Result<(), Mismatch> {
        let open = &self.open[n];
        let size = open.bytes.len() as u64;
        let done = match at {
            Some(at) => kind(open.session().write_at(at, bytes)),
            None => kind(open.session().append(bytes)).map(|at| assert_eq!(at, size)),
        };
        if self.still_written(n, done.err())? {
            let open = &mut self.open[n];
            if at.is_some() {
                open.appends_behind = None;
            }
            let at = at.unwrap_or(size) as usize;
            let end = (at + bytes.len()).max(open.bytes.len());
            open.bytes.resize(end, 0);
            open.bytes[at..at + bytes.len()].copy_from_slice(bytes);
            open.dirty = true;
        }
        Ok(())
    }

    /// Tells whether a write arrived. One that stages in a file does not notice that its session
    /// was thrown away.
    fn still_written(&self, n: usize, error: Option<ErrorKind>) -> Result<bool, Mismatch> {
        match error {
            None => Ok(true),
            Some(ErrorKind::NotFound) if self.open[n].dead => Ok(false),
            Some(kind) => Err(format!("a write failed: {kind:?}")),
        }
    }

    fn close(&mut self, n: usize, mode: Option<u32>) -> Result<(), Mismatch> {
        let set = SetAttrs {
            mode,
            ..SetAttrs::default()
        };
        let open = &self.open[n];
        let closed = open.session().close_with(&set);
        // Only the branch of a session that was thrown away can be gone.
        let name = self.model.name(open.branch).unwrap_or_default();
        let tree = match open.dead {
            true => Tree::new(),
            false => self.model.tree(&(name.clone(), None)),
        };
        let found = model::resolve(&tree, &open.path, true);
        let exists = matches!(found, Ok((_, Some(_))));
        let there = match &found {
            Ok((_, Some(entry))) => entry.hash(),
            _ => None,
        };
        let bytes = match (open.appends_behind, there) {
            (Some(behind), Some(there)) if open.dirty => {
                [&self.contents[&there], &open.bytes[behind..]].concat()
            }
            _ => open.bytes.clone(),
        };
        let hash = Hash::of(&bytes);
        let size = bytes.len() as u64;
        let want = if open.dead {
            Err(ErrorKind::NotFound)
        } else if !open.dirty && mode.is_none() {
            // It commits nothing.
            Ok(open.path.to_string())
        } else if !open.dirty {
            // It commits attributes, to whatever is there now.
            let set = Set {
                mode,
                ..Set::default()
            };
            let edit = Edit::SetAttrs {
                path: open.path.to_string(),
                set,
                follow: true,
            };
            let now = Timestamp(self.clock);
            let done = self.model.edit(&name, &edit, now);
            done.map(|_| open.path.to_string())
        } else {
            let put = match open.create_new {
                true => Put::New,
                false => Put::Any,
            };
            let set = Set {
                mode: mode.or((!exists).then_some(open.mode)),
                ..Set::default()
            };
            let now = Timestamp(self.clock);
            let model = &mut self.model;
            model.put(&name, &open.path, (hash, size), put, &set, now)
        };
        match (closed, want) {
            (Ok(closed), Ok(path)) => {
                let got = (closed.path.to_string(), closed.hash, closed.size);
                same("closed", &got, &(path, hash, size))?;
                self.contents.insert(hash, bytes);
                self.forget(n);
                Ok(())
            }
            // Two things are wrong at once, and either may be told.
            (Err(e), Err(_)) if e.kind() == ErrorKind::InvalidInput && mode == Some(0o10_644) => {
                Ok(())
            }
            (Err(_), Err(ErrorKind::InvalidInput)) => Ok(()),
            (got, want) => same("close", &kind(got).map(|c| c.path.to_string()), &want),
        }
    }

    /// Aborts a session, if it is still there.
    fn abort(&mut self, n: usize) -> Result<(), Mismatch> {
        let Some(open) = self.open.get(n) else {
            return Ok(());
        };
        // One that is gone already may say so.
        match open.session().abort() {
            Err(e) if !open.dead => return Err(fault(e)),
            _ => self.forget(n),
        }
        Ok(())
    }

    /// Drops a session, which aborts it unless it has ended.
    fn forget(&mut self, n: usize) {
        let open = self.open.remove(n);
        if open.exclusive && !open.dead {
            self.locks.remove(&(open.branch, open.path.clone()));
        }
    }

    fn die(&mut self, n: usize) {
        let open = &mut self.open[n];
        open.dead = true;
        if open.exclusive {
            self.locks.remove(&(open.branch, open.path.clone()));
        }
    }

    fn leave(&mut self, n: usize) -> Result<SessionId, Mismatch> {
        let session = self.open[n].session.take().unwrap();
        session.detach().map_err(fault)
    }

    fn take_up(&mut self, n: usize, id: SessionId) -> Result<(), Mismatch> {
        let session = self.store.resume_session(id).map_err(fault)?;
        self.open[n].session = Some(session);
        // How its bytes came there is not kept.
        self.open[n].appends_behind = None;
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), Mismatch> {
        let Some(path) = self.store.path().map(Path::to_owned) else {
            return Ok(());
        };
        while let Some(n) = self.open.iter().position(|open| open.dead) {
            self.forget(n);
        }
        let left: Result<Vec<_>, _> = (0..self.open.len()).map(|n| self.leave(n)).collect();
        self.store = options().open(path).map_err(fault)?;
        self.bucket = self.store.bucket(&self.bucket_name).map_err(fault)?;
        for (n, id) in left?.into_iter().enumerate() {
            self.take_up(n, id)?;
        }
        Ok(())
    }

    /// Compares all that branches, snapshots and sessions show.
    fn check(&self) -> Result<(), Mismatch> {
        for (name, snapshot) in self.model.views() {
            let branch = self.bucket.branch(&name).map_err(fault)?;
            let view = match &snapshot {
                None => branch.view(),
                Some(snapshot) => branch.view_at(snapshot),
            };
            let got = shown(&view.map_err(fault)?).map_err(fault)?;
            let want = wanted(&self.model.tree(&(name.clone(), snapshot.clone())));
            same(&format!("{name}@{snapshot:?}"), &got, &want)?;
        }
        for open in &self.open {
            let mut bytes = vec![0; open.bytes.len() + 1];
            let n = open.session().read_at(0, &mut bytes).map_err(fault)?;
            same_bytes(
                &format!("session on {}", open.path),
                &bytes[..n],
                &open.bytes,
            )?;
            same("size", &open.session().size(), &(n as u64))?;
        }
        let sessions = self.store.sessions().map_err(fault)?;
        let here = sessions.iter().filter(|s| s.bucket == self.bucket_name);
        let mut got: Vec<_> = here
            .map(|s| {
                (
                    s.branch.clone(),
                    s.path.clone(),
                    s.owner.clone(),
                    s.exclusive,
                )
            })
            .collect();
        let alive = self.open.iter().filter(|open| !open.dead);
        let mut want: Vec<_> = alive
            .map(|open| {
                let branch = self.model.name(open.branch).unwrap();
                let (path, owner) = (open.path.clone(), open.owner.clone());
                (branch, path, owner, open.exclusive)
            })
            .collect();
        got.sort();
        want.sort();
        same("sessions", &got, &want)
    }

    /// Compares the bytes of every file of every branch and snapshot.
    fn check_bytes(&self) -> Result<(), Mismatch> {
        self.check()?;
        for (name, snapshot) in self.model.views() {
            let branch = self.bucket.branch(&name).map_err(fault)?;
            let view = match &snapshot {
                None => branch.view(),
                Some(snapshot) => branch.view_at(snapshot),
            };
            let view = view.map_err(fault)?;
            for (path, entry) in self.model.tree(&(name.clone(), snapshot)) {
                if let Some(hash) = entry.hash() {
                    let bytes = view.read(&path).map_err(fault)?;
                    same_bytes(&format!("{name}:{path}"), &bytes, &self.contents[&hash])?;
                }
            }
        }
        Ok(())
    }
}

fn replay(store: &Store, bucket: &str, steps: &[Step]) -> Result<(), TestCaseError> {
    World::new(store.clone(), bucket)
        .run(steps)
        .map_err(|mismatch| {
            let json = serde_json::to_string(steps).unwrap();
            TestCaseError::fail(format!("{mismatch}\nALKFS_TEST_REPLAY='{json}'"))
        })
}

fn check(cases: u32, replay: impl Fn(&[Step]) -> Result<(), TestCaseError>) {
    let config = ProptestConfig {
        cases: scaled(cases),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    };
    let steps = proptest::collection::vec(step(), 1..70);
    let run = TestRunner::new(config).run(&steps, |steps| {
        replay(&first().into_iter().chain(steps).collect::<Vec<_>>())
    });
    match run {
        Ok(()) => {}
        // The reason holds the steps; the value would be the same again, in 300 lines.
        Err(TestError::Fail(reason, _)) => panic!("{reason}"),
        Err(abort) => panic!("{abort}"),
    }
}

#[test]
fn memory_agrees_with_the_model() {
    check(3000, |steps| {
        let store = options().memory().unwrap();
        replay(&store, "t", steps)?;
        fsck(&store, Depth::Full);
        Ok(())
    });
}

/// Twenty-five cases share a store, each in a bucket of its own, so that they also prove isolation.
#[test]
fn disk_agrees_with_the_model() {
    for _ in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let store = options().create(dir.path().join("store")).unwrap();
        let cases = std::cell::Cell::new(0);
        check(25, |steps| {
            cases.set(cases.get() + 1);
            replay(&store, &format!("bucket{}", cases.get()), steps)
        });
        fsck(&store, Depth::Full);
    }
}

/// Carries out the steps of `ALKFS_TEST_REPLAY`, as a failing test printed them, on both stores.
#[test]
fn replays_given_steps() {
    let json = std::env::var("ALKFS_TEST_REPLAY").unwrap_or_else(|_| "[]".to_owned());
    let steps: Vec<Step> = serde_json::from_str(&json).unwrap();
    replay(&options().memory().unwrap(), "t", &steps).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = options().create(dir.path().join("store")).unwrap();
    replay(&store, "t", &steps).unwrap();
}
