//! Sharing buckets with other nodes: tickets, peers, and the node itself.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use alknet_fs::node::{
    Access, Behind, Bind, Ended, GrantInfo, JoinInfo, JoinOptions, MemberInfo, MissingContents,
    Node, NodeOptions, PeerInfo, PeerStatus, Relays, Revoked, ShareOptions, Ticket,
};
use alknet_fs::{ContentPolicy, Error, ErrorKind, Timestamp};
use serde::Serialize;

use crate::app::App;
use crate::args::{Join, PeersCommand, RunNode, Share, SyncCommand};
use crate::failure::{Failure, Result};
use crate::output::{
    self, BOLD, Cell, DIM, GOOD, MINUTE, Table, Unit, WARN, count, printable, size,
};

/// How many letters of a key are shown where it only has to be told from others.
const SHORT: usize = 10;

#[derive(Serialize)]
struct ShareRecord<'a> {
    op: &'static str,
    bucket: &'a str,
    ticket: String,
    access: Access,
    branches: &'a [String],
    grant: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
}

pub(crate) fn share(app: &App, args: &Share) -> Result<()> {
    let store = app.store()?;
    let bucket = args.name.as_deref().unwrap_or_else(|| app.bucket_name());
    let mut options = ShareOptions::new().read_only(args.read_only);
    if let Some(tree) = &app.global.branch {
        if tree.snapshot.is_some() {
            let why = "a snapshot is shared with its branch: name the branch alone";
            let error = Error::with_detail(ErrorKind::InvalidInput, why);
            return Err(error.op("share").path(tree).into());
        }
        options = options.branch(&tree.branch);
    }
    if let Some(time) = args.expires {
        options = options.expires_in(time);
    }
    if let Some(label) = &args.label {
        options = options.name(label);
    }
    let ticket = store.share(bucket, &options)?;
    let record = ShareRecord {
        op: "share",
        bucket,
        ticket: ticket.to_string(),
        access: ticket.access,
        branches: &ticket.branches,
        grant: ticket.grant.to_string(),
        expires: ticket.expires.map(output::rfc3339),
    };
    app.out.record(&record)?;
    app.out.line(&record.ticket)?;
    let of = match ticket.branches.is_empty() {
        true => String::new(),
        false => format!("the branch {} of ", printable(&ticket.branches.join(", "))),
    };
    app.out.note(format_args!(
        "whoever has this ticket may {} {of}{}: hand it over in private, and `alkfs join` it there",
        match ticket.access {
            Access::Read => "read",
            Access::Write => "read and change",
        },
        printable(bucket),
    ));
    if store.sync_status()?.running.is_none() {
        app.out
            .note("nobody can join before `alkfs node` runs here");
    }
    Ok(())
}

#[derive(Serialize)]
struct JoinRecord<'a> {
    op: &'static str,
    bucket: &'a str,
    peer: String,
    access: Access,
    branches: &'a [String],
    running: bool,
    /// Whether the other node let this one in within the time that was waited.
    connected: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<&'a str>,
    /// What was kept here so far and goes out.
    #[serde(skip_serializing_if = "Option::is_none")]
    unsent: Option<UnsentRecord>,
}

#[derive(Serialize)]
struct UnsentRecord {
    /// Nothing where the number is not known.
    commits: Option<u64>,
}

/// Says what to do where nothing was joined.
fn not_joined(error: Error) -> Failure {
    let detail = error.detail();
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => "nothing was joined, and all is as it was before",
        ErrorKind::AlreadyExists if detail.contains("here already, as") => {
            "without --as the ticket is used for the bucket that is here; `alkfs bucket rename` gives \
             that another name"
        }
        ErrorKind::AlreadyExists if detail.contains("shared with others") => {
            "`--as NAME` gives the joined bucket another name"
        }
        ErrorKind::AlreadyExists => {
            "`--as NAME` gives the joined bucket another name, `--merge` makes one bucket of the two"
        }
        _ => return error.into(),
    };
    Failure::with_hint(error, hint)
}

pub(crate) fn join(app: &App, args: &Join) -> Result<()> {
    // What is no text is no ticket either, and said to be none.
    let text = match args.ticket.to_string_lossy() {
        text if text == "-" => {
            let mut bytes = Vec::new();
            let read = std::io::stdin().take(1 << 20).read_to_end(&mut bytes);
            read.map_err(|e| Error::from(e).op("join").path("standard input"))?;
            String::from_utf8_lossy(&bytes).into_owned()
        }
        text => text.into_owned(),
    };
    let ticket: Ticket = text.parse().map_err(|e: Error| e.op("join"))?;
    let mut options = JoinOptions::new().merge(args.merge);
    if let Some(name) = &args.name {
        options = options.name(name);
    }
    let store = app.store()?;
    let unsent = store.unsent(&ticket)?;
    let (task, bar) = app.out.follow(app.task(), "join", Unit::Files);
    let joined = store.join_and_wait(&ticket, &options, args.wait, &task);
    drop(bar);
    let (bucket, link) = joined.map_err(not_joined)?;
    let bucket = bucket.name()?;
    let running = store.sync_status()?.running.is_some();
    let name = printable(&bucket);
    let peer = ticket.addr.id.to_string();
    let connected = running && link.connected;
    let trouble = link.trouble.as_deref().filter(|_| running && !connected);
    let record = JoinRecord {
        op: "join",
        peer: peer.clone(),
        access: ticket.access,
        branches: &ticket.branches,
        running,
        connected,
        trouble,
        unsent: unsent.map(|unsent| UnsentRecord {
            commits: unsent.commits,
        }),
        bucket: &bucket,
    };
    let from = match connected {
        true => format!(", connected to {}", short(&peer)),
        false => String::new(),
    };
    let bold = app.out.paint(BOLD, &name);
    app.out
        .done(&record, format_args!("joined the bucket {bold}{from}"))?;
    if let Some(unsent) = unsent {
        let what = match unsent.commits {
            Some(commits) => {
                let verb = if commits == 1 { "goes" } else { "go" };
                let changes = count(commits, "change", "changes");
                format!("{changes} made here while the bucket was only read {verb} out")
            }
            None => "changes made here while the bucket was only read go out".to_owned(),
        };
        app.out.note(format_args!("{what} by this ticket"));
    }
    if !running {
        app.out.note("nothing comes before `alkfs node` runs here");
    } else if !connected {
        let why = trouble.unwrap_or("it did not answer yet");
        app.out.note(format_args!(
            "{}; this node goes on trying, see `alkfs sync status`",
            printable(why)
        ));
    }
    Ok(())
}

#[derive(Serialize)]
struct GrantRecord<'a> {
    grant: String,
    bucket: Option<&'a str>,
    access: Access,
    branches: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<&'a str>,
    created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked: Option<String>,
    /// Whether the ticket lets somebody new in.
    open: bool,
    peers: &'a [String],
}

impl<'a> GrantRecord<'a> {
    fn new(grant: &'a GrantInfo) -> Self {
        Self {
            grant: grant.id.to_string(),
            bucket: grant.bucket.as_deref(),
            access: grant.access,
            branches: &grant.branches,
            label: grant.name.as_deref(),
            created: output::rfc3339(grant.created),
            expires: grant.expires.map(output::rfc3339),
            revoked: grant.revoked.map(output::rfc3339),
            open: grant.open,
            peers: &grant.peers,
        }
    }
}

#[derive(Serialize)]
struct PeerRecord<'a> {
    peer: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    /// What it was given.
    grants: Vec<GrantRecord<'a>>,
    /// The buckets that were joined from it.
    joined: Vec<&'a str>,
    /// What others let it into.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    member: Vec<MemberRecord<'a>>,
}

#[derive(Serialize)]
struct MemberRecord<'a> {
    bucket: Option<&'a str>,
    access: Access,
    by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    by_name: Option<&'a str>,
}

impl<'a> MemberRecord<'a> {
    fn new(member: &'a MemberInfo) -> Self {
        Self {
            bucket: member.bucket.as_deref(),
            access: member.access,
            by: &member.by,
            by_name: member.by_name.as_deref(),
        }
    }
}

#[derive(Serialize)]
struct Done<'a> {
    op: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grants: Option<usize>,
}

pub(crate) fn peers(app: &App, command: PeersCommand) -> Result<()> {
    let store = app.store()?;
    match command {
        PeersCommand::List => list_peers(app),
        PeersCommand::Grants => list_grants(app),
        PeersCommand::Name { peer, name } => {
            store.name_peer(&peer, &name)?;
            let record = Done {
                op: "name peer",
                peer: Some(&peer),
                name: Some(&name),
                grants: None,
            };
            let line = format!("{} is called {}", printable(&peer), printable(&name));
            Ok(app.out.done(&record, line)?)
        }
        PeersCommand::Forget { peer } => {
            store.forget_peer(&peer)?;
            let record = Done {
                op: "forget peer",
                peer: Some(&peer),
                name: None,
                grants: None,
            };
            let line = format!("{} is forgotten", printable(&peer));
            Ok(app.out.done(&record, line)?)
        }
        PeersCommand::Revoke { who } => {
            let revoked = store.revoke(&who)?;
            let (grants, is_peer) = match revoked {
                Revoked::Grant(_) => (1, false),
                Revoked::Peer(grants) => (grants, true),
            };
            if grants == 0 {
                let why = "it was let into nothing: a bucket that comes from it is left with `alkfs sync leave`";
                app.out.note(why);
            }
            let record = Done {
                op: "revoke",
                peer: is_peer.then_some(&*who),
                name: None,
                grants: Some(grants),
            };
            let line = format!(
                "revoked {} of {}",
                count(
                    grants as u64,
                    "grant or membership",
                    "grants and memberships"
                ),
                printable(&who)
            );
            Ok(app.out.done(&record, line)?)
        }
    }
}

pub(crate) fn short(key: &str) -> &str {
    key.get(..SHORT).unwrap_or(key)
}

/// Returns what a peer is called: its name, or the beginning of its key.
fn called(peer: &PeerStatus) -> &str {
    peer.name.as_deref().unwrap_or_else(|| short(&peer.peer))
}

fn is_past(at: Timestamp) -> bool {
    i128::from(at.0) <= jiff::Timestamp::now().as_nanosecond()
}

fn may(bucket: Option<&str>, branches: &[String], access: Access) -> String {
    let bucket = bucket.unwrap_or("(deleted)");
    let branches = match branches.is_empty() {
        true => String::new(),
        false => format!(" ({})", branches.join(", ")),
    };
    format!("{bucket}{branches}: {}", access.name())
}

fn given(grant: &GrantInfo) -> String {
    may(grant.bucket.as_deref(), &grant.branches, grant.access)
}

fn let_in(member: &MemberInfo) -> String {
    let bucket = member.bucket.as_deref().unwrap_or("(deleted)");
    let by = member.by_name.as_deref();
    let by = by.unwrap_or_else(|| short(&member.by));
    format!("{bucket}: {}, by {by}", member.access.name())
}

fn list_peers(app: &App) -> Result<()> {
    let peers = app.store()?.peers()?;
    let mut table = Table::new(&["peer", "name", "may", "joined from it"]);
    for peer in &peers {
        let joined = peer.joined.iter().filter_map(|join| join.bucket.as_deref());
        let mut joined: Vec<_> = joined.collect();
        joined.dedup();
        app.out.record(&PeerRecord {
            peer: &peer.id,
            name: peer.name.as_deref(),
            grants: peer.grants.iter().map(GrantRecord::new).collect(),
            joined: joined.clone(),
            member: peer.member.iter().map(MemberRecord::new).collect(),
        })?;
        let given = peer.grants.iter().map(given);
        let given: Vec<_> = given.chain(peer.member.iter().map(let_in)).collect();
        let taken = peer.joined.iter();
        let taken = taken.map(|join| may(join.bucket.as_deref(), &join.branches, join.access));
        let taken: Vec<_> = taken.collect();
        let or_none = |text: String| {
            if text.is_empty() {
                "-".to_owned()
            } else {
                text
            }
        };
        table.push(vec![
            Cell::new(short(&peer.id)).styled(BOLD),
            Cell::new(peer.name.as_deref().unwrap_or("-")),
            Cell::new(or_none(given.join("; "))),
            Cell::new(or_none(taken.join("; "))),
        ]);
    }
    if peers.is_empty() {
        app.out
            .note("nobody yet: `alkfs share` makes a ticket for others, `alkfs join` uses theirs");
        return Ok(());
    }
    Ok(app.out.table(&table)?)
}

fn list_grants(app: &App) -> Result<()> {
    let grants = app.store()?.grants()?;
    let heads = ["grant", "label", "what", "created", "ends", ">peers"];
    let mut table = Table::new(&heads);
    for grant in &grants {
        app.out.record(&GrantRecord::new(grant))?;
        let ends = match (grant.revoked, grant.expires) {
            (Some(_), _) => Cell::new("revoked").styled(WARN),
            (None, Some(at)) if is_past(at) => Cell::new("expired").styled(WARN),
            (None, ends) => {
                let ends = ends.map_or("never".to_owned(), |at| output::time(at, MINUTE));
                match grant.open {
                    true => Cell::new(ends),
                    false => Cell::new(format!("{ends}; nobody new")).styled(WARN),
                }
            }
        };
        table.push(vec![
            Cell::new(grant.id).styled(BOLD),
            Cell::new(grant.name.as_deref().unwrap_or("-")),
            Cell::new(given(grant)),
            Cell::new(output::time(grant.created, MINUTE)).styled(DIM),
            ends,
            Cell::right(grant.peers.len()),
        ]);
    }
    if grants.is_empty() {
        app.out.note("nothing was shared yet: see `alkfs share`");
        return Ok(());
    }
    Ok(app.out.table(&table)?)
}

#[derive(Serialize)]
struct StatusRecord<'a> {
    peer: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    bucket: Option<&'a str>,
    shared: bool,
    #[serde(skip_serializing_if = "is_false")]
    member: bool,
    access: Access,
    /// The grants that make it up.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    terms: &'a [Term<'a>],
    connected: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    seen: Option<String>,
    synced: bool,
    in_step: bool,
    known: bool,
    behind_here: BehindRecord,
    behind_there: BehindRecord,
    #[serde(skip_serializing_if = "Option::is_none")]
    stays_here: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<&'a str>,
    #[serde(skip_serializing_if = "is_false")]
    refused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<&'static str>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_false(it: &bool) -> bool {
    !it
}

/// What one side lacks that the other has.
#[derive(Serialize)]
struct BehindRecord {
    commits: u64,
    branches: u64,
    /// Nothing where the other side did not say.
    contents: Option<u64>,
    bytes: Option<u64>,
}

impl BehindRecord {
    fn new(commits: Behind, contents: Option<MissingContents>) -> Self {
        Self {
            commits: commits.cuts,
            branches: commits.scopes,
            contents: contents.map(|missing| missing.contents),
            bytes: contents.map(|missing| missing.bytes),
        }
    }
}

pub(crate) fn sync(app: &App, command: SyncCommand) -> Result<()> {
    match command {
        SyncCommand::Status { wait } => status(app, wait),
        SyncCommand::Leave { name, peer } => {
            let name = name.as_deref().unwrap_or_else(|| app.bucket_name());
            let peer = peer.as_deref();
            let lacking = lacking(app, name)?;
            leave(app, name, peer)?;
            let record = Done {
                op: "leave",
                peer,
                name: Some(name),
                grants: None,
            };
            let mut peers = app.store()?.peers()?.into_iter();
            let is_of = |join: &JoinInfo| join.bucket.as_deref() == Some(name);
            let is_joined = peers.any(|peer| peer.joined.iter().any(is_of));
            if let (Some(peer), true) = (peer, is_joined) {
                let line = format!(
                    "{} is not taken from {} any more",
                    printable(name),
                    printable(peer)
                );
                return Ok(app.out.done(&record, line)?);
            }
            let known = lacking.iter().filter_map(|(who, lacks)| {
                let lacks = lacks.as_ref()?;
                Some(format!("{who} lacks {lacks}"))
            });
            let known: Vec<_> = known.collect();
            if !known.is_empty() {
                app.out.warn(format_args!(
                    "what others lack does not come from here any more: {}",
                    printable(&known.join("; "))
                ));
            }
            let others = takers(app, name)?;
            let line = match others.is_empty() {
                true => format!("left {}: the bucket stays, on its own", printable(name)),
                false => format!("left {}: the bucket stays", printable(name)),
            };
            app.out.done(&record, line)?;
            if !others.is_empty() {
                app.out.note(format_args!(
                    "whom this node let in goes on with it: {}; `alkfs peers revoke` ends that",
                    printable(&others.join(", "))
                ));
            }
            Ok(())
        }
    }
}

fn leave(app: &App, name: &str, peer: Option<&str>) -> Result<()> {
    let store = app.store()?;
    let left = match peer {
        Some(peer) => store.leave_peer(name, peer),
        None => store.leave(name),
    };
    let error = match left {
        Err(error) if store.bucket(name).is_ok() => error,
        left => return Ok(left?),
    };
    if peer.is_some() {
        let hint = "`alkfs peers` lists what was joined from whom";
        return Err(Failure::with_hint(error, hint));
    }
    let hint = match takers(app, name)?.join(", ") {
        others if others.is_empty() => "`alkfs sync status` lists what was joined".to_owned(),
        others => format!(
            "this node shares it, and need not leave it: `alkfs peers revoke` lets out {}, who keep what \
             they have, and go on among each other",
            printable(&others)
        ),
    };
    Err(Failure::with_hint(error, hint))
}

/// Returns what the nodes are called that this one let into a bucket.
fn takers(app: &App, bucket: &str) -> Result<Vec<String>> {
    let is_in = |grant: &GrantInfo| grant.bucket.as_deref() == Some(bucket);
    names_of(app, |peer| peer.grants.iter().any(is_in))
}

/// Returns what the nodes are called that have a bucket, too, as far as this one knows.
pub(crate) fn holders(app: &App, bucket: &str) -> Result<Vec<String>> {
    let is_it = |name: &Option<String>| name.as_deref() == Some(bucket);
    names_of(app, |peer| {
        let given = peer.grants.iter().map(|grant| &grant.bucket);
        let joined = peer.joined.iter().map(|join| &join.bucket);
        let member = peer.member.iter().map(|member| &member.bucket);
        given.chain(joined).chain(member).any(is_it)
    })
}

fn names_of(app: &App, is_meant: impl Fn(&PeerInfo) -> bool) -> Result<Vec<String>> {
    let mut peers = app.store()?.peers()?;
    peers.retain(is_meant);
    let called = |peer: PeerInfo| peer.name.unwrap_or_else(|| short(&peer.id).to_owned());
    Ok(peers.into_iter().map(called).collect())
}

/// What a grant between this node and a peer allows in a bucket.
#[derive(Serialize)]
struct Term<'a> {
    access: Access,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    branches: &'a [String],
    #[serde(serialize_with = "moment", skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
}

fn moment<S: serde::Serializer>(
    at: &Option<Timestamp>,
    to: S,
) -> std::result::Result<S::Ok, S::Error> {
    at.map(output::rfc3339).serialize(to)
}

impl Term<'_> {
    /// Tells whether a term allows no more than another one.
    fn is_within(&self, other: &Self) -> bool {
        let is_shorter = match (self.expires, other.expires) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(one), Some(two)) => one <= two,
        };
        let is_part = other.branches.is_empty() || self.branches == other.branches;
        self.access <= other.access && is_shorter && is_part
    }
}

impl std::fmt::Display for Term<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.access.name())?;
        if !self.branches.is_empty() {
            write!(f, " {}", self.branches.join(", "))?;
        }
        match self.expires {
            Some(at) => write!(f, " until {}", output::time(at, MINUTE)),
            None => Ok(()),
        }
    }
}

/// Finds what the grants between this node and a peer allow in a bucket now, but for those that allow no
/// more than another.
fn terms<'a>(peers: &'a [PeerInfo], status: &PeerStatus) -> Vec<Term<'a>> {
    let Some(peer) = peers.iter().find(|peer| peer.id == status.peer) else {
        return Vec::new();
    };
    let term = |bucket: &Option<String>, access, branches: &'a [String], expires| {
        let term = Term {
            access,
            branches,
            expires,
        };
        (*bucket == status.bucket).then_some(term)
    };
    let grants = peer.grants.iter();
    let joined = peer.joined.iter();
    let all: Vec<_> = match status.shared {
        true => grants
            .filter_map(|of| term(&of.bucket, of.access, &of.branches, of.expires))
            .collect(),
        false => joined
            .filter_map(|of| term(&of.bucket, of.access, &of.branches, of.expires))
            .collect(),
    };
    let mut terms: Vec<Term<'_>> = Vec::new();
    for term in all {
        let is_over = term.expires.is_some_and(is_past);
        if !is_over && !terms.iter().any(|other| term.is_within(other)) {
            terms.retain(|other| !other.is_within(&term));
            terms.push(term);
        }
    }
    terms
}

/// Finds who may lack something of a bucket that is here, and what; nothing where that is not known.
pub(crate) fn lacking(app: &App, bucket: &str) -> Result<Vec<(String, Option<String>)>> {
    let status = app.store()?.sync_status()?;
    let of_bucket = status.peers.iter().filter(|peer| {
        peer.bucket.as_deref() == Some(bucket) && peer.ended.is_none() && !peer.synced
    });
    let lacks = |peer: &PeerStatus| {
        let who = called(peer);
        let behind = peer.contents_there.map(|_| behind_there(peer));
        (who.to_owned(), behind)
    };
    let mut lacking: Vec<_> = of_bucket.map(lacks).collect();
    lacking.retain(|(_, behind)| behind.as_deref() != Some(NOT_BEHIND));
    lacking.dedup();
    Ok(lacking)
}

fn status(app: &App, wait: Option<Duration>) -> Result<()> {
    let store = app.store()?;
    let bucket = app.global.bucket.as_deref();
    let mut status = store.sync_status()?;
    if let Some(name) = bucket {
        store.bucket(name)?;
        let peers = &mut status.peers;
        peers.retain(|peer| peer.bucket.as_deref() == Some(name));
    }
    // Without a node, and anybody that it could meet, nobody can come.
    if let Some(wait) = wait
        && !(status.peers.is_empty() && status.running.is_none())
    {
        let (task, _bar) = app.out.follow(app.task(), "sync", Unit::Files);
        status = store.wait_until_synced(bucket, wait, &task)?;
    }
    let heads = [
        "peer",
        "bucket",
        "may",
        "state",
        "behind here",
        "behind there",
        "seen",
    ];
    let mut table = Table::new(&heads);
    let peers = store.peers()?;
    for peer in &status.peers {
        let terms = terms(&peers, peer);
        app.out.record(&record(peer, &terms))?;
        let (state, style) = match () {
            () if peer.ended.is_some() => (peer.ended.map_or("", Ended::name), DIM),
            () if peer.synced => ("synced", GOOD),
            () if peer.in_step => ("contents", BOLD),
            () if peer.connected => ("syncing", BOLD),
            () if peer.refused => ("refused", WARN),
            () => ("away", WARN),
        };
        let who = called(peer);
        let may = match (peer.member, peer.shared) {
            (true, _) => format!("{}, as others say", peer.access.name()),
            (false, true) if peer.ended.is_some() => "-".to_owned(),
            (false, false) if peer.refused => "-".to_owned(),
            (false, is_shared) => {
                let terms: Vec<_> = terms.iter().map(ToString::to_string).collect();
                match (terms.is_empty(), is_shared) {
                    (true, _) => "-".to_owned(),
                    (false, true) => format!("it may {}", terms.join("; ")),
                    (false, false) => terms.join("; "),
                }
            }
        };
        table.push(vec![
            Cell::new(who).styled(BOLD),
            Cell::new(peer.bucket.as_deref().unwrap_or("(deleted)")),
            Cell::new(may),
            Cell::new(state).styled(style),
            Cell::new(behind_here(peer)),
            Cell::new(behind_there(peer)),
            match peer.seen {
                Some(at) => Cell::new(output::time(at, output::SECOND)).styled(DIM),
                None => Cell::new("never").styled(DIM),
            },
        ]);
    }
    match status.peers.is_empty() {
        true => app
            .out
            .note("nobody yet: `alkfs share` makes a ticket for others, `alkfs join` uses theirs"),
        false => app.out.table(&table)?,
    }
    for peer in &status.peers {
        if let Some(trouble) = &peer.trouble
            && !app.global.json
        {
            let who = called(peer);
            let bucket = peer.bucket.as_deref().unwrap_or_default();
            let warning = match trouble.starts_with(who) {
                true => format!("{bucket}: {trouble}"),
                false => format!("{bucket}: {who}: {trouble}"),
            };
            app.out.warn(printable(&warning));
        }
    }
    if !app.global.json {
        warn_of_what_stays(app, &status.peers);
    }
    match &status.running {
        Some(owner) => app
            .out
            .note(format_args!("{} runs the node", printable(owner))),
        None => app.out.note("no node runs: start `alkfs node`"),
    }
    if wait.is_none() || status.is_synced() {
        return Ok(());
    }
    let own = status.peers.iter().filter(|peer| !peer.member);
    // Nobody waits for whom nothing lets in, unless there is nobody else.
    let is_vain = status.is_vain();
    for peer in own.filter(|peer| !peer.synced && (is_vain || peer.ended.is_none())) {
        let who = called(peer);
        let bucket = peer.bucket.as_deref().unwrap_or_default();
        let (who, why) = (printable(who), awaited(app, peer)?);
        app.out.note(format_args!(
            "{who}, {}: not synced, {why}",
            printable(bucket)
        ));
    }
    Err(Failure::Found)
}

/// Says what it is that a peer and this store wait for.
fn awaited(app: &App, peer: &PeerStatus) -> Result<String> {
    if let Some(ended) = peer.ended {
        return Ok(format!(
            "it is let in no more: what it was given {}",
            match ended {
                Ended::Revoked => "was revoked",
                Ended::Expired => "has expired",
            }
        ));
    }
    if !peer.connected {
        return Ok(match peer.refused {
            true => "it does not let this node in".to_owned(),
            false => "it is not connected".to_owned(),
        });
    }
    let contents = |missing: MissingContents| {
        let verb = if missing.contents == 1 { "is" } else { "are" };
        (count(missing.contents, "content", "contents"), verb)
    };
    if peer.in_step && peer.contents_here.contents > 0 {
        let (missing, verb) = contents(peer.contents_here);
        let Some(bucket) = &peer.bucket else {
            return Ok(format!("{missing} {verb} missing here"));
        };
        let settings = app.store()?.bucket(bucket)?.content_settings()?;
        return Ok(match settings.policy {
            ContentPolicy::Eager => format!("{missing} {verb} still on the way"),
            ContentPolicy::OnRead => {
                let come = match peer.contents_here.contents {
                    1 => "comes when it is read",
                    _ => "come when they are read",
                };
                format!(
                    "{missing} of the bucket {come}: `alkfs fetch --all` fetches them, and \
                 `alkfs policy eager` all that comes"
                )
            }
        });
    }
    Ok(match peer.contents_there {
        Some(missing) if peer.in_step && missing.contents > 0 => {
            let (missing, verb) = contents(missing);
            format!("{missing} {verb} missing there, until read there, or fetched")
        }
        _ => "there was not time enough".to_owned(),
    })
}

/// Warns of changes that reach nobody, once for each bucket.
fn warn_of_what_stays(app: &App, peers: &[PeerStatus]) {
    let mut buckets: BTreeMap<&str, (u64, Access)> = BTreeMap::new();
    for peer in peers.iter().filter(|peer| !peer.shared) {
        if let (Some(bucket), Some(stays @ 1..)) = (&peer.bucket, peer.stays_here) {
            let worst = buckets.entry(bucket).or_insert((0, peer.access));
            *worst = (*worst).max((stays, peer.access));
        }
    }
    for (bucket, (stays, access)) in buckets {
        let what = match access {
            Access::Read => "is read-only",
            Access::Write => "is read-only but for some branches",
        };
        let changes = count(stays, "change", "changes");
        let verb = if stays == 1 { "stays" } else { "stay" };
        let bucket = printable(bucket);
        app.out.warn(format_args!(
            "{bucket} {what}: {changes} made here {verb} here"
        ));
    }
}

fn record<'a>(peer: &'a PeerStatus, terms: &'a [Term<'a>]) -> StatusRecord<'a> {
    StatusRecord {
        peer: &peer.peer,
        name: peer.name.as_deref(),
        bucket: peer.bucket.as_deref(),
        shared: peer.shared,
        member: peer.member,
        access: peer.access,
        terms,
        connected: peer.connected,
        seen: peer.seen.map(output::rfc3339),
        synced: peer.synced,
        in_step: peer.in_step,
        known: peer.known,
        behind_here: BehindRecord::new(peer.missing_here, Some(peer.contents_here)),
        behind_there: BehindRecord::new(peer.missing_there, peer.contents_there),
        stays_here: peer.stays_here,
        trouble: peer.trouble.as_deref(),
        refused: peer.refused,
        ended: peer.ended.map(Ended::name),
    }
}

/// What stands where it is not known what the other side has.
const UNKNOWN: &str = "unknown";

/// What stands where a side has all.
const NOT_BEHIND: &str = "-";

fn behind_here(peer: &PeerStatus) -> String {
    let contents = peer.contents_here;
    match peer.known || contents.contents > 0 {
        true => behind(peer.missing_here, Some(contents)),
        false => UNKNOWN.to_owned(),
    }
}

fn behind_there(peer: &PeerStatus) -> String {
    match peer.known {
        true => behind(peer.missing_there, peer.contents_there),
        false => UNKNOWN.to_owned(),
    }
}

fn behind(commits: Behind, contents: Option<MissingContents>) -> String {
    let mut parts = Vec::new();
    if commits.cuts > 0 {
        parts.push(count(commits.cuts, "commit", "commits"));
    }
    match contents {
        Some(missing) if missing.contents > 0 => {
            let contents = count(missing.contents, "content", "contents");
            parts.push(format!("{contents} of {}", size(missing.bytes)));
        }
        _ => {}
    }
    match parts.is_empty() {
        true => NOT_BEHIND.to_owned(),
        false => parts.join(", "),
    }
}

#[derive(Serialize)]
struct NodeRecord<'a> {
    op: &'static str,
    id: &'a str,
    store: String,
}

pub(crate) fn node(app: &App, args: &RunNode) -> Result<()> {
    let mut options = NodeOptions::new().mdns(args.mdns).gossip(!args.no_gossip);
    if args.loopback {
        options = options.bind(Bind::Loopback);
    }
    if let Some(port) = args.port {
        options = options.port(port);
    }
    if args.n0 {
        options = options.relays(Relays::N0);
    } else if !args.relay.is_empty() {
        options = options.relays(Relays::Custom(args.relay.clone()));
    }
    let store = app.store()?;
    let cancel = app.cancel();
    let node = Node::start(store, &options)?;
    let record = NodeRecord {
        op: "node",
        id: node.id(),
        store: app.store_path().display().to_string(),
    };
    let line = format!("the node {} runs; Ctrl-C stops it", short(node.id()));
    app.out.done(&record, line)?;
    app.out.flush()?;
    // Whoever started it may start it again.
    let mut ended = node.ended();
    while !cancel.is_cancelled() && ended.is_none() {
        std::thread::sleep(Duration::from_millis(100));
        ended = node.ended();
    }
    node.stop();
    match ended {
        Some(e) => Err(e.op("node").into()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_is_said_in_words() {
        let none = Behind::default();
        assert_eq!(behind(none, None), "-");
        let cuts = Behind { cuts: 1, scopes: 1 };
        let missing = MissingContents {
            contents: 2,
            bytes: 2048,
        };
        assert_eq!(
            behind(cuts, Some(missing)),
            "1 commit, 2 contents of 2.00 KiB"
        );
    }
}
