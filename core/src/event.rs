//! Events: one committed change each, and the filters that choose among them.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::entry::{Hash, Kind, Timestamp};
use crate::error::{Error, ErrorKind, Result};
use crate::path::TreePath;
use crate::store::SessionId;

/// A position in the event log of a store.
///
/// Cursors grow with every event, across all buckets; a watcher that was given a cursor continues
/// right after it, in any process. `Cursor::START` lies before the first event.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Cursor(pub u64);

impl Cursor {
    /// The position before the first event.
    pub const START: Self = Self(0);

    /// The most changes one record of the log holds; a larger commit takes several records.
    pub const CHANGES_PER_RECORD: usize = 512;

    const INDEX_BITS: u32 = 10;

    /// Makes the cursor of the `index`-th change in the log record at `offset`.
    pub const fn new(offset: u64, index: usize) -> Self {
        Self((offset << Self::INDEX_BITS) | index as u64)
    }

    /// Returns the cursor after the last possible change of the log record at `offset`.
    pub const fn end_of(offset: u64) -> Self {
        Self::new(offset, (1 << Self::INDEX_BITS) - 1)
    }

    /// Returns the log record this cursor points into.
    pub const fn offset(self) -> u64 {
        self.0 >> Self::INDEX_BITS
    }

    /// Returns the change within its log record.
    pub const fn index(self) -> usize {
        (self.0 & ((1 << Self::INDEX_BITS) - 1)) as usize
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Op {
    /// An entry came to be at `path`.
    Create,
    /// The entry at `path` got other content, another target or another kind.
    Modify,
    /// The entry at `path` got other attributes.
    Attributes,
    /// The entry at `path` went away.
    Remove,
    /// The entry at `from`, with all below it, moved to `path`.
    Rename,
    /// The branch was forked; `name` is what it was forked from.
    Fork,
    /// The branch got its present name; `name` is the old one.
    RenameBranch,
    /// The branch was deleted.
    DeleteBranch,
    /// A snapshot of the branch was taken; `name` is the snapshot's.
    Snapshot,
    /// A snapshot of the branch was deleted; `name` is the snapshot's.
    DeleteSnapshot,
    /// The branch went back to the snapshot `name`.
    Restore,
}

impl Op {
    /// Every kind of change.
    pub const ALL: &'static [Self] = &[
        Self::Create,
        Self::Modify,
        Self::Attributes,
        Self::Remove,
        Self::Rename,
        Self::Fork,
        Self::RenameBranch,
        Self::DeleteBranch,
        Self::Snapshot,
        Self::DeleteSnapshot,
        Self::Restore,
    ];

    /// Returns the name as it appears in JSON, for example `"rename_branch"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Modify => "modify",
            Self::Attributes => "attributes",
            Self::Remove => "remove",
            Self::Rename => "rename",
            Self::Fork => "fork",
            Self::RenameBranch => "rename_branch",
            Self::DeleteBranch => "delete_branch",
            Self::Snapshot => "snapshot",
            Self::DeleteSnapshot => "delete_snapshot",
            Self::Restore => "restore",
        }
    }
}

impl FromStr for Op {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.iter().copied().find(|op| op.name() == name);
        found.ok_or_else(|| {
            let detail = format!("there is no event {name:?}");
            Error::with_detail(ErrorKind::InvalidInput, detail)
        })
    }
}

/// One change of a commit. Fields that do not apply to the [`Op`] are `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What happened.
    pub op: Op,
    /// The path it happened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<TreePath>,
    /// Where a renamed entry was before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<TreePath>,
    /// The kind of the entry after the change, or before it where it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// The content hash before the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old: Option<Hash>,
    /// The content hash after the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new: Option<Hash>,
    /// The size in bytes after the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The other name that the [`Op`] speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Change {
    /// Creates a change of a kind, with every other field empty.
    pub fn new(op: Op) -> Self {
        Self {
            op,
            path: None,
            from: None,
            kind: None,
            old: None,
            new: None,
            size: None,
            name: None,
        }
    }
}

/// The changes of one transaction on one branch, as they are published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// When.
    pub at: Timestamp,
    /// Who: free text that the program gave, for example `"agent-7"`.
    pub author: String,
    /// The name the branch had at that time.
    pub branch: String,
    /// The write session that was closed, if the commit came from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// What changed, in order.
    pub changes: Vec<Change>,
}

impl Commit {
    /// Cuts the commit into records of at most [`Cursor::CHANGES_PER_RECORD`] changes each, as the
    /// event log keeps it.
    pub fn records(&self) -> impl Iterator<Item = Self> + '_ {
        let parts = self.changes.chunks(Cursor::CHANGES_PER_RECORD);
        parts.map(|changes| Self {
            at: self.at,
            author: self.author.clone(),
            branch: self.branch.clone(),
            session: self.session,
            changes: changes.to_vec(),
        })
    }

    /// Turns a record of the log into its events that lie after a cursor.
    pub fn events<'a>(
        &'a self,
        bucket: &'a str,
        offset: u64,
        after: Cursor,
    ) -> impl Iterator<Item = Event> + 'a {
        let changes = self.changes.iter().enumerate();
        changes
            .map(move |(index, change)| (Cursor::new(offset, index), change))
            .filter(move |(cursor, _)| *cursor > after)
            .map(|(cursor, change)| Event {
                cursor,
                at: self.at,
                author: self.author.clone(),
                bucket: bucket.to_owned(),
                branch: self.branch.clone(),
                session: self.session,
                peer: None,
                change: change.clone(),
            })
    }
}

/// One committed change, as watchers and the log see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The event's own position: a watcher given this cursor continues after this event.
    pub cursor: Cursor,
    /// When it was committed.
    pub at: Timestamp,
    /// Who did it.
    pub author: String,
    /// The bucket's name when the event was read.
    pub bucket: String,
    /// The branch's name when it happened.
    pub branch: String,
    /// The write session that was closed, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// The node whose store it was written in, where that is one that this store deals with itself.
    /// Nothing for what was written in this store; of what came from a node by way of others, the
    /// author is the id of its replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<EventPeer>,
    /// What happened.
    #[serde(flatten)]
    pub change: Change,
}

/// A node that something came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EventPeer {
    /// Its key.
    pub id: String,
    /// What it is called here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Chooses events by branch, by what happened, by directory and by glob patterns.
///
/// An event passes when every part that is set agrees. A change of an ancestor of the watched
/// directory (its removal, its rename) passes too, because it changes what is below. Events
/// without a path (forks, snapshots) pass where no path or glob is asked for.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    branch: Option<String>,
    ops: Option<Vec<Op>>,
    kinds: Option<Vec<Kind>>,
    under: Option<TreePath>,
    direct_only: bool,
    globs: Option<globset::GlobSet>,
}

impl EventFilter {
    /// Creates a filter that passes everything.
    pub fn all() -> Self {
        Self::default()
    }

    /// Passes only events of this branch.
    #[must_use]
    pub fn branch(mut self, name: impl Into<String>) -> Self {
        self.branch = Some(name.into());
        self
    }

    /// Passes only events of these kinds.
    #[must_use]
    pub fn ops(mut self, ops: impl Into<Vec<Op>>) -> Self {
        self.ops = Some(ops.into());
        self
    }

    /// Passes only events of entries of these kinds.
    #[must_use]
    pub fn kinds(mut self, kinds: impl Into<Vec<Kind>>) -> Self {
        self.kinds = Some(kinds.into());
        self
    }

    /// Passes only events at this path and at any depth below it.
    #[must_use]
    pub fn under(mut self, path: TreePath) -> Self {
        self.under = Some(path);
        self.direct_only = false;
        self
    }

    /// Passes only events at this path and of the names directly in it.
    #[must_use]
    pub fn directly_in(mut self, path: TreePath) -> Self {
        self.under = Some(path);
        self.direct_only = true;
        self
    }

    /// Passes only events whose path matches one of the patterns.
    ///
    /// Patterns are those of `.gitignore` without negation: `*` and `?` stop at `/`, `**` does not,
    /// and a pattern without a `/` matches the name in any directory.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a malformed pattern.
    pub fn globs<I, S>(mut self, patterns: I) -> Result<Self>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        self.globs = Some(glob_set(patterns)?);
        Ok(self)
    }

    /// Tells whether an event of a branch passes.
    pub fn passes(&self, branch: &str, change: &Change) -> bool {
        if self.branch.as_deref().is_some_and(|want| want != branch) {
            return false;
        }
        let is_op = |ops: &Vec<Op>| ops.contains(&change.op);
        let is_kind = |kinds: &Vec<Kind>| change.kind.is_some_and(|kind| kinds.contains(&kind));
        if !self.ops.as_ref().is_none_or(is_op) || !self.kinds.as_ref().is_none_or(is_kind) {
            return false;
        }
        if self.under.is_none() && self.globs.is_none() {
            return true;
        }
        [&change.path, &change.from]
            .into_iter()
            .flatten()
            .any(|path| self.passes_path(path, change.op))
    }

    fn passes_path(&self, path: &TreePath, op: Op) -> bool {
        if let Some(under) = &self.under {
            let inside = match path.strip_prefix(under) {
                Some(rest) => !self.direct_only || !rest.contains('/'),
                None => matches!(op, Op::Remove | Op::Rename) && under.starts_with(path),
            };
            if !inside {
                return false;
            }
        }
        self.globs
            .as_ref()
            .is_none_or(|globs| globs.is_match(&path.as_str()[1..]))
    }
}

/// Compiles glob patterns for paths relative to a root, as [`EventFilter::globs`] describes them.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] for a malformed pattern, which the error names.
pub fn glob_set<I, S>(patterns: I) -> Result<globset::GlobSet>
where
    I: IntoIterator<Item = S>,
    S: AsRef<str>,
{
    let bad = |e: globset::Error| {
        let pattern = e.glob().unwrap_or_default().to_owned();
        Error::with_detail(
            ErrorKind::InvalidInput,
            format!("bad pattern: {}", e.kind()),
        )
        .path(pattern)
    };
    let mut set = globset::GlobSetBuilder::new();
    for pattern in patterns {
        let pattern = pattern.as_ref();
        let anchored = pattern.trim_end_matches('/').contains('/');
        let text = pattern.trim_matches('/');
        let text = if anchored {
            text.to_owned()
        } else {
            format!("**/{text}")
        };
        let glob = globset::GlobBuilder::new(&text)
            .literal_separator(true)
            .build()
            .map_err(bad)?;
        set.add(glob);
    }
    set.build().map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(op: Op, path: &str) -> Change {
        Change {
            path: Some(TreePath::parse(path).unwrap()),
            ..Change::new(op)
        }
    }

    #[test]
    fn filters_by_directory_depth_and_glob() {
        let p = |s: &str| TreePath::parse(s).unwrap();
        let passes = |f: &EventFilter, path: &str| f.passes("main", &change(Op::Create, path));
        let below = EventFilter::all().under(p("/src"));
        assert!(passes(&below, "/src/a/b") && passes(&below, "/src"));
        assert!(!passes(&below, "/srcs") && !passes(&below, "/"));
        let direct = EventFilter::all().directly_in(p("/src"));
        assert!(passes(&direct, "/src/a") && !passes(&direct, "/src/a/b"));
        let rs = EventFilter::all().globs(["*.rs"]).unwrap();
        assert!(passes(&rs, "/a.rs") && passes(&rs, "/x/y/a.rs") && !passes(&rs, "/a.txt"));
        let anchored = EventFilter::all().globs(["/src/*.rs", "docs/**"]).unwrap();
        assert!(passes(&anchored, "/src/a.rs") && passes(&anchored, "/docs/x/y"));
        assert!(!passes(&anchored, "/src/x/a.rs") && !passes(&anchored, "/x/src/a.rs"));
        assert!(EventFilter::all().globs(["a{b"]).is_err());
    }

    #[test]
    fn filters_by_what_happened() {
        let filter = EventFilter::all().ops([Op::Remove, Op::Fork]);
        assert!(filter.passes("main", &change(Op::Remove, "/a")));
        assert!(filter.passes("main", &Change::new(Op::Fork)));
        assert!(!filter.passes("main", &change(Op::Create, "/a")));
        let filter = EventFilter::all().kinds([Kind::Dir]);
        let mut made = change(Op::Create, "/a");
        assert!(!filter.passes("main", &made));
        made.kind = Some(Kind::File);
        assert!(!filter.passes("main", &made));
        made.kind = Some(Kind::Dir);
        assert!(filter.passes("main", &made));
    }

    #[test]
    fn names_are_those_in_json() {
        for op in Op::ALL {
            let name = serde_json::to_value(op).unwrap();
            assert_eq!(name, op.name());
            assert_eq!(op.name().parse::<Op>().unwrap(), *op);
        }
        assert!("rewrite".parse::<Op>().is_err());
    }

    #[test]
    fn removal_of_an_ancestor_reaches_the_watcher_below() {
        let filter = EventFilter::all().under(TreePath::parse("/a/b").unwrap());
        assert!(filter.passes("main", &change(Op::Remove, "/a")));
        assert!(!filter.passes("main", &change(Op::Attributes, "/a")));
        let mut rename = change(Op::Rename, "/z");
        rename.from = Some(TreePath::parse("/a").unwrap());
        assert!(filter.passes("main", &rename));
    }

    #[test]
    fn branch_events_pass_only_where_no_path_is_asked_for() {
        let fork = Change::new(Op::Fork);
        assert!(EventFilter::all().passes("a", &fork));
        assert!(!EventFilter::all().branch("b").passes("a", &fork));
        assert!(
            !EventFilter::all()
                .under(TreePath::root())
                .passes("a", &fork)
        );
    }
}
