//! Sharing, joining, and telling how it stands: what any process of a store may do.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use alknet_fs_core::branch;
use alknet_fs_core::store::{BucketId, Durability, ReadTxn, WriteTxn};
use alknet_fs_core::{Cursor, Error, ErrorKind, Event, Result, Timestamp, TreePath};
use alknet_fs_net::{
    Access, Behind, EndpointAddr, EndpointId, Grant, GrantId, Joined, Link, NetOptions, Offer,
    Records, Refusal, Status, Ticket, reserve, secret_key,
};

use super::contents::given;
use super::late;
use super::tally::{Part, covers, is_current, missing_here};
use crate::bucket::Bucket;
use crate::peers::replica;
use crate::progress::{Progress, Task};
use crate::store::{Store, now};

/// What to share of a bucket: by default all of it, to read and to write, for good.
#[derive(Debug, Clone, Default)]
pub struct ShareOptions {
    read_only: bool,
    branches: Vec<String>,
    expires: Option<Duration>,
    name: Option<String>,
}

impl ShareOptions {
    /// Creates the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets who joins only read.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Shares a branch rather than the whole bucket; with several calls, several. The branches that it
    /// inherits from can be read.
    #[must_use]
    pub fn branch(mut self, name: impl Into<String>) -> Self {
        self.branches.push(name.into());
        self
    }

    /// Ends the grant after a time: who joined is let in no longer.
    #[must_use]
    pub fn expires_in(mut self, time: Duration) -> Self {
        self.expires = Some(time);
        self
    }

    /// Sets what to call the grant, so that it is told from others.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

/// How to join.
#[derive(Debug, Clone, Default)]
pub struct JoinOptions {
    name: Option<String>,
    merge: bool,
}

impl JoinOptions {
    /// Creates the default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what to call the bucket here; by default what it is called where it is shared.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Lets a bucket of that name, which is there already and was never shared, become the one that is
    /// joined: all that both hold is merged.
    #[must_use]
    pub fn merge(mut self, merge: bool) -> Self {
        self.merge = merge;
        self
    }
}

/// Something that was given to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantInfo {
    /// Its id.
    pub id: GrantId,
    /// The bucket's name; nothing where the bucket was deleted.
    pub bucket: Option<String>,
    /// What it allows.
    pub access: Access,
    /// The names of the branches that it covers; none for the whole bucket.
    pub branches: Vec<String>,
    /// What it is called.
    pub name: Option<String>,
    /// When it was given.
    pub created: Timestamp,
    /// When it ends, if ever.
    pub expires: Option<Timestamp>,
    /// When it was taken back, if it was.
    pub revoked: Option<Timestamp>,
    /// Whether its ticket still lets in who does not use it yet: not once it is over, nor once as many use
    /// it as may, nor once one who used it was let out, who could come again with another key.
    pub open: bool,
    /// The keys of the peers that use it.
    pub peers: Vec<String>,
}

/// Something that was joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinInfo {
    /// The bucket's name; nothing where the bucket was deleted.
    pub bucket: Option<String>,
    /// What is allowed.
    pub access: Access,
    /// The names of the branches that it is for; none for the whole bucket.
    pub branches: Vec<String>,
    /// When it was joined.
    pub since: Timestamp,
    /// When the grant ends, if ever.
    pub expires: Option<Timestamp>,
}

/// A bucket in which a node takes part because others let it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// The bucket's name; nothing where the bucket was deleted.
    pub bucket: Option<String>,
    /// What it may do.
    pub access: Access,
    /// The key of the node that let it in.
    pub by: String,
    /// What that node is called here.
    pub by_name: Option<String>,
}

/// A node that this one has to do with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its key.
    pub id: String,
    /// What it is called here.
    pub name: Option<String>,
    /// What it was given and not taken from it again.
    pub grants: Vec<GrantInfo>,
    /// What was joined from it.
    pub joined: Vec<JoinInfo>,
    /// What others let it into, without a grant between it and this node.
    pub member: Vec<MemberInfo>,
}

/// What [`Store::revoke`] took back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    /// A grant, from all who use it.
    Grant(GrantId),
    /// Everything that a peer was given: so many grants, and buckets into which others let it.
    Peer(usize),
}

/// What was written here while others did not take it, and a ticket lets out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsent {
    /// The number of commits; nothing where it is not known.
    pub commits: Option<u64>,
}

/// What is to be put back where a join is refused.
struct Before {
    bucket: BucketId,
    is_made: bool,
    is_new: bool,
    is_met: bool,
    joined: Vec<Joined>,
    /// When it was joined.
    at: Timestamp,
}

/// How many contents are missing on a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MissingContents {
    /// Their number.
    pub contents: u64,
    /// The sum of their sizes in bytes.
    pub bytes: u64,
}

/// How it stands with one peer about one bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer's key.
    pub peer: String,
    /// What the peer is called here.
    pub name: Option<String>,
    /// The bucket's name here. Of a bucket that was deleted nothing is told.
    pub bucket: Option<String>,
    /// Whether this store shares the bucket with the peer, rather than having joined it from there.
    pub shared: bool,
    /// Whether others let both into the bucket: there is no grant between them. Such a peer is told of
    /// while they are connected.
    pub member: bool,
    /// What the grant between them allows; where there is none, what the peer lets this store do.
    pub access: Access,
    /// Whether they are connected.
    pub connected: bool,
    /// When the peer was last known to be there.
    pub seen: Option<Timestamp>,
    /// Whether both are known to know the same of the bucket, contents aside.
    pub in_step: bool,
    /// Metadata that the peer is known to have and this store has not; as it was when they were connected
    /// last.
    pub missing_here: Behind,
    /// Metadata that the peer is not known to have: as it was when they were connected last, with what was
    /// committed here since, of which at most 1,000 events are looked at: where more happened, it is at
    /// least so much. Of a peer that is [let in no more](Self::ended), only as it was.
    pub missing_there: Behind,
    /// Whether anything is known of what the other side lacks: nothing is before they were connected, nor
    /// where what the log said of what was committed since was pruned.
    pub known: bool,
    /// Contents that the bucket names and this store does not hold.
    pub contents_here: MissingContents,
    /// Contents of the bucket that the peer does not hold, as it said last; nothing where it did not.
    pub contents_there: Option<MissingContents>,
    /// How many changes that were made here stay here, because the grant lets them only be read where they
    /// were made; commits that follow each other within a moment are one. As was last known, and nothing
    /// where it never was.
    pub stays_here: Option<u64>,
    /// Whether the peer has all that this store has of the bucket, contents included, and the other way
    /// round; but for what [stays here](Self::stays_here).
    pub synced: bool,
    /// What keeps them apart, and what to do about it.
    pub trouble: Option<String>,
    /// Whether that is because the peer does not let this store in: nothing comes before it does.
    pub refused: bool,
    /// Why the peer is not let in any more, where all that it was given of the bucket is over.
    pub ended: Option<Ended>,
}

/// How what was given ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was taken back.
    Revoked,
    /// Its time is over.
    Expired,
}

impl Ended {
    /// Returns `"revoked"` or `"expired"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

/// How it stands with all peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncStatus {
    /// The process that runs the node, if one does.
    pub running: Option<String>,
    /// The key of this store's node; nothing where it never shared, joined or ran.
    pub id: Option<String>,
    /// When the node last told of it.
    pub at: Option<Timestamp>,
    /// Each peer and bucket.
    pub peers: Vec<PeerStatus>,
}

impl SyncStatus {
    /// Tells whether there is a peer with whom this store shared or from which it joined something, and
    /// all of these are synced. Those that are [let in no more](PeerStatus::ended) do not count: where all
    /// are, nobody is known to hold anything.
    pub fn is_synced(&self) -> bool {
        let own = self.peers.iter().filter(|peer| !peer.member);
        let mut own = own.filter(|peer| peer.ended.is_none()).peekable();
        own.peek().is_some() && own.all(|peer| peer.synced)
    }

    /// Tells whether nobody can become synced: all own peers are let in no more.
    pub fn is_vain(&self) -> bool {
        let mut own = self.peers.iter().filter(|peer| !peer.member).peekable();
        own.peek().is_some() && own.all(|peer| peer.ended.is_some())
    }

    /// Returns how many commits and contents are known to be missing somewhere, and the bytes of these.
    fn lacking(&self) -> (u64, u64) {
        let none = MissingContents::default();
        let mut sum = (0, 0);
        for peer in self.peers.iter().filter(|peer| peer.ended.is_none()) {
            sum.0 += peer.missing_here.cuts + peer.missing_there.cuts;
            for contents in [peer.contents_here, peer.contents_there.unwrap_or(none)] {
                sum.0 += contents.contents;
                sum.1 += contents.bytes;
            }
        }
        sum
    }
}

/// How often it is looked how it stands.
const POLL: Duration = Duration::from_millis(50);

fn name_of(txn: &dyn ReadTxn, bucket: Option<BucketId>) -> Result<Option<String>> {
    let Some(id) = bucket else { return Ok(None) };
    Ok(txn.bucket(id)?.map(|bucket| bucket.name))
}

fn grant_info(txn: &dyn ReadTxn, records: &Records, grant: &Grant) -> Result<GrantInfo> {
    let branches = grant.branches.as_deref().unwrap_or_default();
    let peers = grant.keys.iter().filter(|key| key.revoked.is_none());
    Ok(GrantInfo {
        id: grant.id,
        bucket: name_of(txn, records.bucket(grant.bucket))?,
        access: grant.access,
        branches: Records::branch_names(txn, branches)?,
        name: grant.name.clone(),
        created: grant.created,
        expires: grant.expires,
        revoked: grant.revoked,
        open: grant.is_open(now()),
        peers: peers.map(|key| key.peer.to_string()).collect(),
    })
}

impl Store {
    /// Shares a bucket: returns the ticket that lets in whoever has it. Its text is
    /// [`to_string`](ToString::to_string).
    ///
    /// The node need not run; who joins waits until it does.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for the bucket or a branch; [`ErrorKind::PermissionDenied`] to write what
    /// is only read here; [`ErrorKind::InvalidInput`] for no time; [`ErrorKind::Unsupported`] for a store
    /// in memory.
    pub fn share(&self, bucket: &str, options: &ShareOptions) -> Result<Ticket> {
        let share = || {
            self.check_for_node()?;
            let id = self.bucket(bucket)?.id();
            if !options.read_only {
                self.check_may_give(id)?;
            }
            let addr = self.node_addr()?;
            if options.expires == Some(Duration::ZERO) {
                let why = "a grant for no time lets nobody in";
                return Err(Error::with_detail(ErrorKind::InvalidInput, why));
            }
            let expires = options.expires.map(|time| {
                let nanos = i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
                Timestamp(now().0.saturating_add(nanos))
            });
            let offer = Offer {
                access: if options.read_only {
                    Access::Read
                } else {
                    Access::Write
                },
                branches: options.branches.clone(),
                expires,
                name: options.name.clone(),
            };
            alknet_fs_net::share(&*self.inner.tree, id, offer, addr, now())
        };
        share().map_err(|e: Error| e.op("share").path(bucket))
    }

    /// Refuses to promise that others may change a bucket that is only read here.
    fn check_may_give(&self, bucket: BucketId) -> Result<()> {
        let records = Records::load(&*self.inner.tree.read()?)?;
        let uid = records.uid(bucket);
        if uid.is_some_and(|uid| !records.may_write(uid)) {
            let why = "the bucket was joined to read it, so nobody could change it by a ticket of this node: share \
                       it read-only";
            return Err(Error::with_detail(ErrorKind::PermissionDenied, why));
        }
        Ok(())
    }

    /// Refuses a store that can have no node.
    pub(super) fn check_for_node(&self) -> Result<()> {
        match self.inner.disk.is_some() {
            true => Ok(()),
            false => {
                let why = "a store in memory has no node";
                Err(Error::with_detail(ErrorKind::Unsupported, why))
            }
        }
    }

    /// Returns where this store's node is, or will be once it runs.
    fn node_addr(&self) -> Result<EndpointAddr> {
        let key = secret_key(&*self.inner.tree)?;
        let load = || Records::load(&*self.inner.tree.read()?);
        let known = || Ok::<_, Error>(load()?.addr(key.public()));
        if let Some(addr) = known()? {
            return Ok(addr);
        }
        // While it is found out, no node may start; one that has just started tells by itself.
        let _alone = match self.inner.keeper.running_node("a process that shares")? {
            Ok(alone) => alone,
            Err(owner) => {
                let unknown = format!("{owner} runs the node, and does not say where it is");
                let unknown = Error::with_detail(ErrorKind::Busy, unknown);
                return known()?.ok_or(unknown);
            }
        };
        if let Some(addr) = known()? {
            return Ok(addr);
        }
        let tree = std::sync::Arc::clone(&self.inner.tree);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let (id, own) = (key.public(), key.clone());
        let reserved = super::on(&runtime, async move {
            reserve(tree, own, &NetOptions::default()).await
        });
        runtime.shutdown_background();
        reserved
            .unwrap_or_else(|| Err(late("where this node can be reached was not found out")))?;
        Ok(load()?.addr(id).unwrap_or_else(|| id.into()))
    }

    /// Joins a bucket by a ticket: makes it here, and keeps it the same as where it is shared for as
    /// long as the node runs.
    ///
    /// Joining again is harmless, and how a newer ticket for the same bucket is used.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] where another bucket has the name, with what to do;
    /// [`ErrorKind::InvalidInput`] for a ticket of this store or one that has expired;
    /// [`ErrorKind::Unsupported`] for a store in memory.
    pub fn join(&self, ticket: &Ticket, options: &JoinOptions) -> Result<Bucket> {
        let joined = self.join_in(ticket, options);
        let before = joined.map_err(|e| e.op("join").path(&ticket.name))?;
        Ok(self.bucket_handle(before.bucket))
    }

    /// As [`join`](Self::join), and [waits](Self::wait_until_admitted) for the answer of the node that gave
    /// the ticket. Where that does not let this one in, everything is as it was before.
    ///
    /// # Errors
    /// Those of both.
    pub fn join_and_wait(
        &self,
        ticket: &Ticket,
        options: &JoinOptions,
        timeout: Duration,
        task: &Task,
    ) -> Result<(Bucket, PeerStatus)> {
        let joined = self.join_in(ticket, options);
        let before = joined.map_err(|e| e.op("join").path(&ticket.name))?;
        let bucket = self.bucket_handle(before.bucket);
        match self.wait_until_admitted(ticket, timeout, task) {
            Ok(link) => Ok((bucket, link)),
            Err(e) if e.kind() == ErrorKind::PermissionDenied => {
                let undone = self.undo_join(ticket, before);
                undone.map_err(|e| e.op("join").path(&ticket.name))?;
                Err(e)
            }
            Err(e) => Err(e),
        }
    }

    /// Takes back that a bucket was joined. A bucket that was made for it goes, unless something was
    /// written to it meanwhile.
    fn undo_join(&self, ticket: &Ticket, before: Before) -> Result<()> {
        let (peer, uid) = (ticket.addr.id, ticket.bucket);
        Records::update(&*self.inner.tree, Durability::Full, |records, txn| {
            let is_of = |joined: &Joined| (joined.peer, joined.bucket) == (peer, uid);
            let is_own = |joined: &Joined| is_of(joined) && joined.since == before.at;
            if !records.joined.iter().any(is_own) {
                // Somebody left the bucket meanwhile, or a ticket took the place of this one.
                return Ok(());
            }
            // Somebody may have joined by another ticket meanwhile.
            let later = records.joined.iter().filter(|joined| is_of(joined));
            let later = later.filter(|joined| joined.since > before.at);
            let later: Vec<_> = later.cloned().collect();
            records.joined.retain(|joined| !is_of(joined));
            records.joined.extend(before.joined);
            if !later.is_empty() {
                records.joined.extend(later);
                return Ok(());
            }
            let is_used = records.joined.iter().any(|joined| joined.peer == peer);
            if !before.is_met && !is_used {
                records.peers.retain(|known| known.id != peer);
            }
            let is_used = records.joined.iter().any(|joined| joined.bucket == uid)
                || records.grants.iter().any(|grant| grant.bucket == uid);
            if before.is_new && !is_used {
                records.buckets.retain(|(id, _)| *id != before.bucket);
            }
            if before.is_made && !is_used && is_empty(txn, before.bucket)? {
                txn.remove_bucket(before.bucket)?;
            }
            Ok(())
        })
    }

    /// Tells what a ticket would let out of what was written here while the bucket was only read, in all
    /// or for the branch; nothing where there is no such bucket here, or nothing of that kind.
    ///
    /// # Errors
    /// Those of the store.
    pub fn unsent(&self, ticket: &Ticket) -> Result<Option<Unsent>> {
        let txn = self.inner.tree.read()?;
        let records = Records::load(&*txn)?;
        let of = |joined: &&Joined| joined.bucket == ticket.bucket;
        let joined: Vec<_> = records.joined.iter().filter(of).collect();
        let at = now();
        let all = joined.iter().any(|joined| {
            let is_over = joined.expires.is_some_and(|expires| expires <= at);
            joined.branches.is_empty() && joined.access == Access::Write && !is_over
        });
        let Some(bucket) = records.bucket(ticket.bucket) else {
            return Ok(None);
        };
        if ticket.access == Access::Read || joined.is_empty() || all {
            return Ok(None);
        }
        let mut told = Status::load(&*txn)?;
        told.complete(&records);
        let links = told.links.iter();
        let links = links.filter(|link| link.bucket == ticket.bucket && !link.shared);
        let known: Vec<_> = links
            .filter_map(|link| link.stays.zip(link.gathered))
            .collect();
        // What was written since is not counted.
        let is_counted = self.inner.keeper.node_owner()?.is_some() && ticket.branches.is_empty();
        let stays = known.iter().map(|(stays, _)| *stays).max();
        let commits = stays.filter(|stays| *stays > 0 && is_counted);
        let gathered = known.iter().map(|(_, gathered)| *gathered).min();
        let is_any = match gathered.filter(|_| ticket.branches.is_empty()) {
            Some(gathered) => stays > Some(0) || wrote_here(&*txn, bucket, gathered, None)?,
            None => {
                // What was let out before need not be told of.
                let may_write = |branch: &&String| {
                    let of = |joined: &&&Joined| joined.branches.contains(*branch);
                    let mut of = joined.iter().filter(of);
                    of.any(|joined| joined.access == Access::Write)
                };
                let branches = ticket.branches.iter().filter(|branch| !may_write(branch));
                let branches: Vec<_> = branches.map(String::as_str).collect();
                let of = (!ticket.branches.is_empty()).then_some(&branches[..]);
                wrote_here(&*txn, bucket, Cursor::START, of)?
            }
        };
        Ok(is_any.then_some(Unsent { commits }))
    }

    fn join_in(&self, ticket: &Ticket, options: &JoinOptions) -> Result<Before> {
        let invalid = |why: &str| Error::with_detail(ErrorKind::InvalidInput, why);
        self.check_for_node()?;
        if secret_key(&*self.inner.tree)?.public() == ticket.addr.id {
            return Err(invalid(
                "this store gave out the ticket: join it from another",
            ));
        }
        if ticket.expires.is_some_and(|expires| expires <= now()) {
            return Err(invalid("the ticket has expired: ask for a new one"));
        }
        let context = self.inner.context();
        Records::update(&*self.inner.tree, Durability::Full, |records, txn| {
            let taken = |why: String| Err(Error::with_detail(ErrorKind::AlreadyExists, why));
            let wanted = options.name.as_deref().unwrap_or(&ticket.name);
            let known = match records.bucket(ticket.bucket) {
                Some(id) => txn.bucket(id)?,
                None => None,
            };
            let is_of =
                |joined: &&Joined| (joined.peer, joined.bucket) == (ticket.addr.id, ticket.bucket);
            let joined = records.joined.iter().filter(is_of).cloned().collect();
            let (is_new, is_met) = (
                records.bucket(ticket.bucket).is_none(),
                records.peer(ticket.addr.id).is_some(),
            );
            let mut is_made = false;
            let bucket = match (known, txn.bucket_named(wanted)?) {
                (Some(known), other) => {
                    if options
                        .name
                        .as_ref()
                        .is_some_and(|name| *name != known.name)
                    {
                        return taken(format!(
                            "the bucket is here already, as {}: rename that, or join without a name",
                            known.name
                        ));
                    }
                    if let Some(other) = other
                        && options.merge
                        && other.id != known.id
                    {
                        return taken(format!(
                            "the bucket is here already, as {}: it cannot be merged with {}, which is here too",
                            known.name, other.name
                        ));
                    }
                    known.id
                }
                (None, Some(other)) if records.uid(other.id).is_some() => {
                    return taken(format!(
                        "{wanted} is a bucket that is shared with others: give the joined one another name"
                    ));
                }
                (None, Some(other)) if options.merge => other.id,
                (None, Some(_)) => {
                    return taken(format!(
                        "there is a bucket {wanted} already: give the joined one another name, or merge the two"
                    ));
                }
                (None, None) => {
                    is_made = true;
                    branch::create_bucket(txn, wanted, &context)?.0.id
                }
            };
            // A bucket of that uid that was deleted here comes again.
            records
                .buckets
                .retain(|(id, uid)| *uid != ticket.bucket || *id == bucket);
            let at = now();
            records.join(bucket, ticket, at)?;
            Ok(Before {
                bucket,
                is_made,
                is_new,
                is_met,
                joined,
                at,
            })
        })
    }

    /// Waits until the node that gave a ticket lets this store's node in, or a time has passed; not at all
    /// where no node runs here. Returns how it stands with that one then.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] where it does not let this one in, with what it says;
    /// [`ErrorKind::NotFound`] where the ticket was not [joined](Self::join); [`ErrorKind::Cancelled`].
    pub fn wait_until_admitted(
        &self,
        ticket: &Ticket,
        timeout: Duration,
        task: &Task,
    ) -> Result<PeerStatus> {
        let wait = || {
            let giver = ticket.addr.id.to_string();
            let deadline = Instant::now().checked_add(timeout);
            let mut seen = 0;
            loop {
                let records = Records::load(&*self.inner.tree.read()?)?;
                let unknown = || Error::with_detail(ErrorKind::NotFound, "that was not joined");
                let bucket = records.bucket(ticket.bucket).ok_or_else(unknown)?;
                let name = Some(self.bucket_handle(bucket).name()?);
                let status = look(self, None, false)?;
                let mut peers = status.peers.into_iter();
                let link = peers.find(|peer| {
                    !peer.shared && !peer.member && peer.peer == giver && peer.bucket == name
                });
                let link = link.ok_or_else(unknown)?;
                if status.running.is_none() {
                    return Ok(link);
                }
                if link.refused {
                    let why = link.trouble.unwrap_or_default();
                    return Err(Error::with_detail(ErrorKind::PermissionDenied, why));
                }
                let is_over = deadline.is_some_and(|at| Instant::now() >= at);
                if link.connected || is_over {
                    return Ok(link);
                }
                task.step(Progress::default())?;
                seen = self.inner.tree.wait_for_commit(seen, POLL)?;
            }
        };
        wait().map_err(|e: Error| e.op("join").path(&ticket.name))
    }

    /// Ends what was joined of a bucket. The bucket stays as it is.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where the bucket does not exist or was not joined.
    pub fn leave(&self, bucket: &str) -> Result<()> {
        self.leave_some(bucket, None)
    }

    /// Ends what was joined of a bucket from one node, as where that is gone for good; from others it stays
    /// joined. `who` is its name, its key, or the beginning of its key.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where the bucket or the peer does not exist, or it was not joined from there;
    /// [`ErrorKind::InvalidInput`] where several peers match.
    pub fn leave_peer(&self, bucket: &str, who: &str) -> Result<()> {
        self.leave_some(bucket, Some(who))
    }

    fn leave_some(&self, bucket: &str, from: Option<&str>) -> Result<()> {
        let leave = || {
            let id = self.bucket(bucket)?.id();
            let from = from.map(|who| Ok::<_, Error>((who, self.own_id()?)));
            let from = from.transpose()?;
            Records::update(&*self.inner.tree, Durability::Full, |records, _| {
                let uid = records.uid(id);
                let from = from.map(|(who, own)| find_other(records, who, own));
                let from = from.transpose()?;
                let before = records.joined.len();
                records.joined.retain(|joined| {
                    Some(joined.bucket) != uid || from.is_some_and(|from| joined.peer != from)
                });
                if records.joined.len() == before {
                    let why = match from {
                        Some(_) => "the bucket was not joined from that peer",
                        None => "the bucket was not joined from anywhere",
                    };
                    return Err(Error::with_detail(ErrorKind::NotFound, why));
                }
                Ok(())
            })
        };
        leave().map_err(|e: Error| e.op("leave").path(bucket))
    }

    /// Returns everything that was given out, from the oldest, used or not.
    pub fn grants(&self) -> Result<Vec<GrantInfo>> {
        let txn = self.inner.tree.read()?;
        let records = Records::load(&*txn)?;
        let grants = records.grants.iter();
        grants
            .map(|grant| grant_info(&*txn, &records, grant))
            .collect()
    }

    /// Returns the nodes that this one has to do with: those that it let in or joined something from,
    /// and those that others let into the same buckets.
    pub fn peers(&self) -> Result<Vec<PeerInfo>> {
        let txn = self.inner.tree.read()?;
        let records = Records::load(&*txn)?;
        let mut members: HashMap<EndpointId, Vec<MemberInfo>> = HashMap::new();
        if !records.buckets.is_empty() {
            let own = secret_key(&*self.inner.tree)?.public();
            for (bucket, uid) in &records.buckets {
                let name = name_of(&*txn, Some(*bucket))?;
                for (id, member) in records.members(own, *uid, now()) {
                    if !records.is_direct(id, *uid, now()) {
                        let by = records.peer(member.by);
                        members.entry(id).or_default().push(MemberInfo {
                            bucket: name.clone(),
                            access: member.access,
                            by: member.by.to_string(),
                            by_name: by.and_then(|by| by.name.clone()),
                        });
                    }
                }
            }
        }
        let mut peers = Vec::new();
        for known in &records.peers {
            let grants = records.grants_of(known.id, now());
            let grants = grants.map(|grant| grant_info(&*txn, &records, grant));
            let mut joined = Vec::new();
            for join in records.joined.iter().filter(|join| join.peer == known.id) {
                joined.push(JoinInfo {
                    bucket: name_of(&*txn, records.bucket(join.bucket))?,
                    access: join.access,
                    branches: join.branches.clone(),
                    since: join.since,
                    expires: join.expires,
                });
            }
            peers.push(PeerInfo {
                id: known.id.to_string(),
                name: known.name.clone(),
                grants: grants.collect::<Result<_>>()?,
                joined,
                member: members.remove(&known.id).unwrap_or_default(),
            });
        }
        // Those of whom nobody said where they are.
        let mut others: Vec<_> = members.into_iter().collect();
        others.sort_unstable_by_key(|(id, _)| *id);
        peers.extend(others.into_iter().map(|(id, member)| PeerInfo {
            id: id.to_string(),
            name: None,
            grants: Vec::new(),
            joined: Vec::new(),
            member,
        }));
        Ok(peers)
    }

    /// Gives a peer a name, which is used from then on wherever it is told of. `who` is its present
    /// name, its key, or the beginning of its key.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::AlreadyExists`] where another peer has the name;
    /// [`ErrorKind::InvalidInput`].
    pub fn name_peer(&self, who: &str, name: &str) -> Result<()> {
        let own = self.own_id().map_err(|e| e.op("name peer"))?;
        let update = Records::update(&*self.inner.tree, Durability::Full, |records, _| {
            branch::check_label("peer", name)?;
            let id = find_other(records, who, own)?;
            let others = records.peers.iter().filter(|peer| peer.id != id);
            let mut is_taken = others
                .clone()
                .any(|peer| peer.name.as_deref() == Some(name));
            if name.len() >= KEY_LIKE {
                let mut keys = others.map(|peer| peer.id).chain([own]);
                is_taken |= keys.any(|key| key.to_string().starts_with(name));
            }
            if is_taken {
                let why = "another peer has that name, or a key that begins like it";
                return Err(Error::with_detail(ErrorKind::AlreadyExists, why).path(name));
            }
            records.peer_mut(id).name = Some(name.to_owned());
            Ok(())
        });
        update.map_err(|e| e.op("name peer"))
    }

    /// Forgets a peer that this store has nothing to do with any more: what it is called, and where it is.
    /// It is listed no longer; what was taken back from it stays so.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InvalidInput`] where several peers match;
    /// [`ErrorKind::PermissionDenied`] where it is let in, a bucket was joined from it, or others let it
    /// into a bucket.
    pub fn forget_peer(&self, who: &str) -> Result<()> {
        let forget = || {
            let own = self.own_id()?;
            Records::update(&*self.inner.tree, Durability::Full, |records, _| {
                let id = find_other(records, who, own)?;
                records.forget_peer(id, own, now())
            })
        };
        forget().map_err(|e: Error| e.op("forget peer"))
    }

    /// Takes everything back that a peer was given: it is let in no longer, from this moment on. The
    /// tickets that it used let nobody new in any more, since it could come again with another key;
    /// who else used them is not touched. Where others let it into a bucket, it is out for this node, and
    /// stays with those that let it in. Returns how many grants it had, and buckets by others alone.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InvalidInput`] where several peers match.
    pub fn revoke_peer(&self, who: &str) -> Result<usize> {
        let own = self.own_id().map_err(|e| e.op("revoke"))?;
        let update = Records::update(&*self.inner.tree, Durability::Full, |records, _| {
            let id = find_other(records, who, own)?;
            Ok(records.revoke_peer(id, now()))
        });
        update.map_err(|e| e.op("revoke"))
    }

    /// Takes back what `who` says: [everything that a peer was given](Self::revoke_peer), by its name, its
    /// key or the beginning of it, or [a grant](Self::revoke_grant), by its label, its id or the beginning
    /// of it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InvalidInput`] where several match, and for this store's own
    /// node.
    pub fn revoke(&self, who: &str) -> Result<Revoked> {
        let own = self.own_id().map_err(|e| e.op("revoke"))?;
        let update = Records::update(&*self.inner.tree, Durability::Full, |records, _| {
            let several = |why: &str| {
                let error = Error::with_detail(ErrorKind::InvalidInput, why);
                Err(error.path(who))
            };
            let grants: Vec<_> = records
                .find_grants(who, now())
                .iter()
                .map(|g| g.id)
                .collect();
            match (find_other(records, who, own), &grants[..]) {
                (Ok(_), [_, ..]) => several(
                    "both a peer and a grant are called so: give more of the key, or of the grant's id",
                ),
                (Ok(id), []) => Ok(Revoked::Peer(records.revoke_peer(id, now()))),
                (Err(e), []) if e.kind() == ErrorKind::NotFound => {
                    let why = "no peer of that name or key, and no grant of that label or id";
                    Err(Error::with_detail(ErrorKind::NotFound, why).path(who))
                }
                (Err(e), []) => Err(e),
                (Err(_), [id]) => {
                    records.revoke_grant(*id, now())?;
                    Ok(Revoked::Grant(*id))
                }
                (Err(_), _) => several("several grants are called so: give more of the id of one"),
            }
        });
        update.map_err(|e| e.op("revoke"))
    }

    fn own_id(&self) -> Result<EndpointId> {
        Ok(secret_key(&*self.inner.tree)?.public())
    }

    /// Takes a grant back from everybody who uses it; its ticket is worth nothing any more.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn revoke_grant(&self, id: GrantId) -> Result<()> {
        let update = Records::update(&*self.inner.tree, Durability::Full, |records, _| {
            records.revoke_grant(id, now())
        });
        update.map_err(|e| e.op("revoke"))
    }

    /// Tells how it stands with each peer and bucket, whichever process runs the node.
    ///
    /// # Errors
    /// Those of the store.
    pub fn sync_status(&self) -> Result<SyncStatus> {
        status(self, None)
    }

    /// Waits until a bucket, or each that is shared or joined, is synced with all peers, or a time has
    /// passed; not at all where all of them are [let in no more](PeerStatus::ended). Returns how it stands
    /// then ([`SyncStatus::is_synced`]), with that bucket only. Progress
    /// counts commits and contents, with the bytes of these, of all that a side was ever seen to lack.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for the bucket; [`ErrorKind::Cancelled`]; [`ErrorKind::Unsupported`] for a
    /// store in memory.
    pub fn wait_until_synced(
        &self,
        bucket: Option<&str>,
        timeout: Duration,
        task: &Task,
    ) -> Result<SyncStatus> {
        let wait = || {
            self.check_for_node()?;
            let bucket = bucket.map(|name| self.bucket(name)).transpose()?;
            let deadline = Instant::now().checked_add(timeout);
            let mut seen = 0;
            let mut progress = Progress::default();
            let at_present = |counted: bool| {
                let mut status = look(self, None, counted)?;
                if let Some(bucket) = &bucket {
                    let name = bucket.name()?;
                    let peers = &mut status.peers;
                    peers.retain(|peer| peer.bucket.as_deref() == Some(&*name));
                }
                Ok::<_, Error>(status)
            };
            loop {
                let status = at_present(false)?;
                let is_over = deadline.is_some_and(|at| Instant::now() >= at);
                if status.is_synced() || status.is_vain() || is_over {
                    let status = at_present(true)?;
                    if status.is_synced() || status.is_vain() || is_over {
                        return Ok(status);
                    }
                }
                let (files, bytes) = status.lacking();
                progress.total_files = progress.total_files.max(files);
                progress.total_bytes = progress.total_bytes.max(bytes);
                progress.files = progress.total_files - files;
                progress.bytes = progress.total_bytes - bytes;
                task.step(progress)?;
                seen = self.inner.tree.wait_for_commit(seen, POLL)?;
            }
        };
        wait().map_err(|e: Error| e.op("wait until synced"))
    }
}

/// Forgets that a bucket which is deleted was joined, and who was let into it: should it be joined again,
/// that says nothing of whom it is shared with then. Who was let out stays so.
pub(crate) fn forget_shared(txn: &mut dyn WriteTxn, bucket: BucketId) -> Result<()> {
    Records::change(txn, |records, _| {
        let uid = records.uid(bucket);
        records.joined.retain(|joined| Some(joined.bucket) != uid);
        let grants = records
            .grants
            .iter()
            .filter(|grant| Some(grant.bucket) == uid);
        for id in grants.map(|grant| grant.id).collect::<Vec<_>>() {
            records.revoke_grant(id, now())?;
        }
        records.grants.retain_mut(|grant| {
            if Some(grant.bucket) != uid {
                return true;
            }
            grant.keys.retain(|key| key.revoked.is_some());
            !grant.keys.is_empty()
        });
        Ok(())
    })
}

/// Finds a peer, which the node of this store is not.
fn find_other(records: &Records, who: &str, own: EndpointId) -> Result<EndpointId> {
    let found = records.find_peer(who);
    let is_own = match &found {
        Ok(id) => *id == own,
        Err(e) => {
            let begins = Records::is_beginning(who, own);
            begins && e.kind() == ErrorKind::NotFound
        }
    };
    if is_own {
        let why = "that is the key of this store's own node, which is no peer of itself";
        return Err(Error::with_detail(ErrorKind::InvalidInput, why).path(who));
    }
    found
}

/// Tells whether nothing was ever put into a bucket, and nothing is being written to it.
fn is_empty(txn: &dyn ReadTxn, bucket: BucketId) -> Result<bool> {
    let branches = txn.branches(bucket)?;
    for branch in &branches {
        if !txn.sessions(Some(branch.id))?.is_empty() {
            return Ok(false);
        }
    }
    let mut is_empty = branches.len() <= 1;
    txn.scan_tree(bucket, &TreePath::root(), &mut |_, _, _, _| {
        is_empty = false;
        Ok(ControlFlow::Break(()))
    })?;
    Ok(is_empty)
}

/// Tells whether anything was written to a bucket, or to some branches of it, in this store after a cursor,
/// as far as its events go back.
fn wrote_here(
    txn: &dyn ReadTxn,
    bucket: BucketId,
    mut cursor: Cursor,
    branches: Option<&[&str]>,
) -> Result<bool> {
    loop {
        let events = match txn.events(Some(bucket), cursor, 256) {
            Ok(events) => events,
            // It cannot be told any more.
            Err(e) if e.kind() == ErrorKind::Lagged => return Ok(true),
            Err(e) => return Err(e),
        };
        let Some(last) = events.last() else {
            return Ok(false);
        };
        cursor = last.cursor;
        let is_own = |event: &Event| {
            let is_of = |branches: &[&str]| branches.contains(&&*event.branch);
            replica(&event.author).is_none() && branches.is_none_or(is_of)
        };
        if events.iter().any(is_own) {
            return Ok(true);
        }
    }
}

/// How many digits of a key are told apart from a name that somebody chose.
const KEY_LIKE: usize = 8;

/// How many events are looked at to tell how much was committed since a peer was there.
const SINCE: usize = 1000;

/// How many log records of these are read at a time: each has up to [`Cursor::CHANGES_PER_RECORD`].
const AT_A_TIME: usize = 16;

/// Log records, each with the name of a branch that it is about.
type Committed = BTreeSet<(u64, String)>;

/// Finds what was committed in a bucket after a cursor, of which [`SINCE`] events are looked at; nothing
/// where it cannot be told any more.
fn committed_since(
    txn: &dyn ReadTxn,
    bucket: BucketId,
    mut cursor: Cursor,
) -> Result<Option<Committed>> {
    let (mut committed, mut left) = (Committed::new(), SINCE);
    while left > 0 {
        let events = match txn.events(Some(bucket), cursor, AT_A_TIME.min(left)) {
            Ok(events) => events,
            Err(e) if e.kind() == ErrorKind::Lagged => return Ok(None),
            Err(e) => return Err(e),
        };
        let Some(last) = events.last() else { break };
        cursor = last.cursor;
        let looked = events.len().min(left);
        left -= looked;
        let events = events.into_iter().take(looked);
        committed.extend(events.map(|event| (event.cursor.offset(), event.branch)));
    }
    Ok(Some(committed))
}

/// Counts of what was committed in a bucket that of which a peer will be told, and in how many branches.
fn to_be_told(
    txn: &dyn ReadTxn,
    records: &Records,
    link: &Link,
    bucket: BucketId,
    committed: &Committed,
) -> Result<Behind> {
    let mut branches = Vec::new();
    match link.shared {
        true => {
            let parts = given(txn, records, link.peer)?.into_iter();
            branches.extend(parts.filter(|(of, _)| *of == bucket).map(|(_, of)| of));
        }
        false => {
            let joined = records.joined.iter();
            let joined = joined.filter(|j| (j.peer, j.bucket) == (link.peer, link.bucket));
            for join in joined.filter(|join| join.access == Access::Write) {
                let mut named = BTreeSet::new();
                for name in &join.branches {
                    named.extend(txn.branch_named(bucket, name)?.map(|branch| branch.id));
                }
                branches.push((!join.branches.is_empty()).then_some(named));
            }
        }
    }
    let parts: Vec<Part> = branches.into_iter().map(|of| (bucket, of)).collect();
    let mut told: HashMap<&str, bool> = HashMap::new();
    let mut commits = BTreeSet::new();
    for (at, branch) in committed {
        let is_told = match told.get(&**branch) {
            Some(is_told) => *is_told,
            None => {
                let mut is_told = false;
                for part in &parts {
                    is_told = is_told || covers(txn, part, branch)?;
                }
                told.insert(branch, is_told);
                is_told
            }
        };
        if is_told {
            commits.insert(*at);
        }
    }
    Ok(Behind {
        cuts: commits.len() as u64,
        scopes: told.into_values().filter(|is_told| *is_told).count() as u64,
    })
}

/// Tells how it stands: as the node says at this moment, or as it said last.
pub(super) fn status(store: &Store, live: Option<Status>) -> Result<SyncStatus> {
    look(store, live, true)
}

/// Does so; what was committed since somebody is away is counted only where it is asked for, since it is
/// looked for in the log.
fn look(store: &Store, live: Option<Status>, counted: bool) -> Result<SyncStatus> {
    let running = store.inner.keeper.node_owner()?;
    let txn = store.inner.tree.read()?;
    let records = Records::load(&*txn)?;
    let mut told = match live {
        Some(live) => live,
        None => Status::load(&*txn)?,
    };
    told.complete(&records);
    let mut peers = Vec::new();
    let mut since: HashMap<(BucketId, Cursor), Option<Committed>> = HashMap::new();
    for link in told.links {
        let ended = match records.ended(link.peer, link.bucket, now()) {
            _ if !link.shared => None,
            Some(Refusal::Expired) => Some(Ended::Expired),
            ended => ended.map(|_| Ended::Revoked),
        };
        let connected = link.connected && running.is_some() && ended.is_none();
        if link.member && !connected {
            continue;
        }
        let bucket = records.bucket(link.bucket);
        let name = name_of(&*txn, bucket)?;
        if name.is_none() {
            continue;
        }
        let mut missing_there = link.missing_there;
        let mut known = connected || link.gathered.is_some();
        let is_away = counted && !connected && ended.is_none();
        if let (true, Some(bucket), Some(gathered)) = (is_away, bucket, link.gathered) {
            let committed = match since.entry((bucket, gathered)) {
                Slot::Occupied(known) => known.into_mut(),
                Slot::Vacant(slot) => slot.insert(committed_since(&*txn, bucket, gathered)?),
            };
            match committed {
                Some(committed) => {
                    let since = to_be_told(&*txn, &records, &link, bucket, committed)?;
                    missing_there.cuts += since.cuts;
                    missing_there.scopes = missing_there.scopes.max(since.scopes);
                }
                None => known = false,
            }
        }
        let contents_here = match bucket {
            Some(bucket) => missing_here(&*txn, bucket, running.is_some())?,
            None => MissingContents::default(),
        };
        // What was committed since is not known to anybody yet.
        let told_all = match (bucket, link.gathered) {
            (Some(bucket), Some(gathered)) => is_current(&*txn, bucket, gathered)?,
            _ => false,
        };
        let in_step = link.in_step && connected && told_all;
        let contents_there = link
            .lacks
            .filter(|_| connected)
            .map(|lacks| MissingContents {
                contents: lacks.contents,
                bytes: lacks.bytes,
            });
        let none = Some(MissingContents::default());
        peers.push(PeerStatus {
            peer: link.peer.to_string(),
            name: records.peer(link.peer).and_then(|peer| peer.name.clone()),
            bucket: name,
            shared: link.shared,
            member: link.member,
            access: link.access,
            connected,
            seen: link.seen,
            in_step,
            missing_here: link.missing_here,
            missing_there,
            known,
            contents_here,
            contents_there,
            stays_here: link.stays.filter(|_| !link.shared),
            synced: in_step
                && Some(contents_here) == none
                && contents_there == none
                && link.lacks_now,
            trouble: link.trouble.filter(|_| ended.is_none()),
            refused: link.refused.is_some() && !connected,
            ended,
        });
    }
    // Who left, and shares the bucket the other way round now, is not waited for.
    let met: BTreeSet<_> = peers
        .iter()
        .filter(|peer| !peer.shared && peer.connected)
        .map(|peer| (peer.peer.clone(), peer.bucket.clone()))
        .collect();
    peers.retain(|peer| {
        let is_met = || met.contains(&(peer.peer.clone(), peer.bucket.clone()));
        !peer.shared || peer.connected || !is_met()
    });
    let key = match running.is_some() || records != Records::default() {
        true => Some(secret_key(&*store.inner.tree)?.public().to_string()),
        false => None,
    };
    Ok(SyncStatus {
        running,
        id: key,
        at: (told.at != Timestamp(0)).then_some(told.at),
        peers,
    })
}
