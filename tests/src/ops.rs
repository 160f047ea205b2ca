//! Operations on a bucket's branches as plain data: drawn at random, printed, and replayed.

use proptest::prelude::*;
use proptest::sample::select;
use serde::{Deserialize, Serialize};

use alknet_fs_core::Hash;

/// The owner that new entries get.
pub const UID: u32 = 7;
/// The group that new entries get.
pub const GID: u32 = 8;

/// One step: a batch of edits in one transaction, or a change of the branches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Several edits of one branch through one editor.
    Edits {
        /// Which branch, counted from the oldest and wrapped around.
        branch: usize,
        /// The edits.
        edits: Vec<Edit>,
        /// Whether the transaction is committed; else it is dropped.
        commit: bool,
    },
    /// A fork.
    Fork {
        /// The new branch's name.
        name: String,
        /// Which branch is forked.
        from: usize,
        /// The snapshot the fork is pinned to; nothing for a live one.
        at: Option<String>,
    },
    /// Another name for a branch.
    RenameBranch {
        /// Which branch.
        branch: usize,
        /// Its new name.
        to: String,
    },
    /// The end of a branch.
    DeleteBranch {
        /// Which branch.
        branch: usize,
    },
    /// A snapshot.
    Snapshot {
        /// Which branch.
        branch: usize,
        /// The snapshot's name.
        name: String,
    },
    /// The end of a snapshot.
    DeleteSnapshot {
        /// Which branch.
        branch: usize,
        /// The snapshot's name.
        name: String,
    },
    /// A branch goes back to a snapshot of it.
    Restore {
        /// Which branch.
        branch: usize,
        /// The snapshot's name.
        name: String,
    },
}

/// One change of a tree; paths are text as users give it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "the fields are the arguments of the editor's methods"
)]
pub enum Edit {
    /// `Editor::put_file`.
    Put {
        path: String,
        content: u8,
        mode: Put,
        set: Set,
    },
    /// `Editor::mkdir`.
    Mkdir { path: String, set: Set },
    /// `Editor::mkdir_all`.
    MkdirAll { path: String },
    /// `Editor::symlink`.
    Symlink { path: String, text: String },
    /// `Editor::unlink`.
    Unlink { path: String },
    /// `Editor::rmdir`.
    Rmdir { path: String },
    /// `Editor::remove_all`.
    RemoveAll { path: String },
    /// `Editor::set_attrs`.
    SetAttrs {
        path: String,
        set: Set,
        follow: bool,
    },
    /// `Editor::rename`.
    Rename {
        from: String,
        to: String,
        replace: bool,
    },
    /// `Editor::copy`.
    Copy {
        from: String,
        to: String,
        replace: bool,
    },
}

impl Edit {
    /// Returns the paths it names.
    pub fn paths(&self) -> Vec<&str> {
        match self {
            Self::Put { path, .. }
            | Self::Mkdir { path, .. }
            | Self::MkdirAll { path }
            | Self::Symlink { path, .. }
            | Self::Unlink { path }
            | Self::Rmdir { path }
            | Self::RemoveAll { path }
            | Self::SetAttrs { path, .. } => vec![path],
            Self::Rename { from, to, .. } | Self::Copy { from, to, .. } => vec![from, to],
        }
    }
}

/// The modes of `Editor::put_file`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Put {
    /// Create or replace.
    Any,
    /// Create only.
    New,
    /// Replace only.
    Existing,
}

/// Attributes to set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// The permission bits.
    pub mode: Option<u32>,
    /// The owner.
    pub uid: Option<u32>,
    /// The modification time.
    pub mtime: Option<i64>,
}

/// Returns the hash and size of one of the contents that operations put; number 0 is empty.
pub fn content(number: u8) -> (Hash, u64) {
    let bytes = vec![b'x'; number.into()];
    (Hash::of(&bytes), bytes.len() as u64)
}

/// How many contents there are.
pub const CONTENTS: u8 = 4;

const NAMES: &[&str] = &["a", "a-b", "b", "é"];
const BRANCHES: &[&str] = &["main", "b1", "b2", "b3", "b4", "b5"];
const SNAPSHOTS: &[&str] = &["s1", "s2", "s3"];
const LINKS: &[&str] = &[
    "a", "b", "./a/b", "b/", "../a", "/a", "/b/a", ".", "/", "..", "a/../b", "gone/x",
];

/// Draws a path.
pub fn path() -> impl Strategy<Value = String> {
    let name = || prop_oneof![6 => select(&NAMES[..1]), 2 => select(NAMES)];
    let at = |depth| {
        let names = proptest::collection::vec(name(), depth);
        names.prop_map(|names| format!("/{}", names.join("/")))
    };
    prop_oneof![
        1 => Just("/".to_owned()),
        30 => select(NAMES).prop_map(|n| format!("/{n}")),
        30 => (name(), select(NAMES)).prop_map(|(d, n)| format!("/{d}/{n}")),
        15 => (at(2), select(NAMES)).prop_map(|(d, n)| format!("{d}/{n}")),
        6 => (at(3), select(NAMES)).prop_map(|(d, n)| format!("{d}/{n}")),
    ]
}

fn set() -> impl Strategy<Value = Set> {
    let mode = prop_oneof![
        4 => Just(None),
        3 => select(&[0o600, 0o755, 0o7777, 0][..]).prop_map(Some),
        1 => Just(Some(0o10_644)),
    ];
    let uid = prop_oneof![3 => Just(None), 1 => Just(Some(3))];
    let mtime = prop_oneof![3 => Just(None), 1 => (-2..3i64).prop_map(Some)];
    (mode, uid, mtime).prop_map(|(mode, uid, mtime)| Set { mode, uid, mtime })
}

/// Draws one edit.
pub fn edit() -> impl Strategy<Value = Edit> {
    let plain = || prop_oneof![3 => Just(Set::default()), 1 => set()];
    let mode = || prop_oneof![4 => Just(Put::Any), 1 => Just(Put::New), 1 => Just(Put::Existing)];
    let text =
        || prop_oneof![30 => select(LINKS).prop_map(str::to_owned), 1 => Just(String::new())];
    prop_oneof![
        8 => (path(), 0..CONTENTS, mode(), plain())
            .prop_map(|(path, content, mode, set)| Edit::Put { path, content, mode, set }),
        6 => (path(), plain()).prop_map(|(path, set)| Edit::Mkdir { path, set }),
        3 => path().prop_map(|path| Edit::MkdirAll { path }),
        3 => (path(), text()).prop_map(|(path, text)| Edit::Symlink { path, text }),
        3 => path().prop_map(|path| Edit::Unlink { path }),
        3 => path().prop_map(|path| Edit::Rmdir { path }),
        3 => path().prop_map(|path| Edit::RemoveAll { path }),
        3 => (path(), set(), any::<bool>())
            .prop_map(|(path, set, follow)| Edit::SetAttrs { path, set, follow }),
        7 => (path(), path(), proptest::bool::weighted(0.8))
            .prop_map(|(from, to, replace)| Edit::Rename { from, to, replace }),
        3 => (path(), path(), any::<bool>())
            .prop_map(|(from, to, replace)| Edit::Copy { from, to, replace }),
    ]
}

/// Draws one step.
pub fn op() -> impl Strategy<Value = Op> {
    let edits = proptest::collection::vec(edit(), 1..5);
    prop_oneof![
        40 => (0..6usize, edits, proptest::bool::weighted(0.9))
            .prop_map(|(branch, edits, commit)| Op::Edits { branch, edits, commit }),
        18 => branch_change(),
    ]
}

/// Draws a change of the branches.
pub fn branch_change() -> impl Strategy<Value = Op> {
    let branch = || 0..6usize;
    let snapshot = || select(SNAPSHOTS).prop_map(str::to_owned);
    let name = || select(BRANCHES).prop_map(str::to_owned);
    prop_oneof![
        6 => (name(), branch(), proptest::option::weighted(0.4, snapshot()))
            .prop_map(|(name, from, at)| Op::Fork { name, from, at }),
        1 => (branch(), name()).prop_map(|(branch, to)| Op::RenameBranch { branch, to }),
        2 => branch().prop_map(|branch| Op::DeleteBranch { branch }),
        5 => (branch(), snapshot()).prop_map(|(branch, name)| Op::Snapshot { branch, name }),
        1 => (branch(), snapshot()).prop_map(|(branch, name)| Op::DeleteSnapshot { branch, name }),
        3 => (branch(), snapshot()).prop_map(|(branch, name)| Op::Restore { branch, name }),
    ]
}
