//! The node, and what is told of its peers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use alknet_fs::node::{Bind, MissingContents, Node as CoreNode, NodeOptions, Relays};
use alknet_fs::{Error, ErrorKind, Result, Store as CoreStore};
use pyo3::prelude::*;

use crate::handle::Handle;
use crate::upkeep::report;

report! {
    /// How much is missing on one side.
    Behind {
        /// Commits of other nodes.
        commits: u64,
        /// The branches that they are of.
        branches: u64,
        /// Contents; `None` where that is not known.
        contents: Option<u64>,
        /// Their bytes.
        bytes: Option<u64>,
    }
}

impl Behind {
    fn new(behind: alknet_fs::node::Behind, missing: Option<MissingContents>) -> Self {
        Self {
            commits: behind.cuts,
            branches: behind.scopes,
            contents: missing.map(|missing| missing.contents),
            bytes: missing.map(|missing| missing.bytes),
        }
    }
}

report! {
    /// How it stands with one peer about one bucket.
    PeerStatus {
        /// The peer's key.
        peer: String,
        /// What the peer is called here.
        name: Option<String>,
        /// The bucket's name here; `None` where it was deleted.
        bucket: Option<String>,
        /// Whether this store shares the bucket with the peer, rather than having joined it from there.
        shared: bool,
        /// Whether others let both into the bucket, with no grant between them.
        member: bool,
        /// What the grant between them allows: `"read"` or `"write"`; where there is none, what the peer
        /// lets this store do.
        access: String,
        /// Whether they are connected.
        connected: bool,
        /// When the peer was last known to be there, in nanoseconds since 1970-01-01 UTC.
        seen_ns: Option<i64>,
        /// Whether both are known to know the same of the bucket, contents aside.
        in_step: bool,
        /// Whether anything is known of what the other side has: nothing is before they were connected.
        known: bool,
        /// What the peer is known to have that is missing here, and contents that are elsewhere.
        behind_here: Behind,
        /// What the peer is not known to have.
        behind_there: Behind,
        /// How many changes that were made here stay here, because the grant lets them only be read where
        /// they were made; commits that follow each other within a moment are one. As was last known, and
        /// `None` where it never was.
        stays_here: Option<u64>,
        /// Whether the peer has all that this store has of the bucket, contents included, and the
        /// other way round.
        synced: bool,
        /// What keeps them apart, and what to do about it.
        trouble: Option<String>,
        /// Whether that is because the peer does not let this store in: nothing comes before it does.
        refused: bool,
        /// Why the peer is not let in any more, where all that it was given of the bucket is over:
        /// `"revoked"` or `"expired"`.
        ended: Option<String>,
    }
}

impl From<alknet_fs::node::PeerStatus> for PeerStatus {
    fn from(status: alknet_fs::node::PeerStatus) -> Self {
        Self {
            peer: status.peer,
            name: status.name,
            bucket: status.bucket,
            shared: status.shared,
            member: status.member,
            access: status.access.name().to_owned(),
            connected: status.connected,
            seen_ns: status.seen.map(|at| at.0),
            in_step: status.in_step,
            known: status.known,
            behind_here: Behind::new(status.missing_here, Some(status.contents_here)),
            behind_there: Behind::new(status.missing_there, status.contents_there),
            stays_here: status.stays_here,
            synced: status.synced,
            trouble: status.trouble,
            refused: status.refused,
            ended: status.ended.map(|ended| ended.name().to_owned()),
        }
    }
}

report! {
    /// How it stands with all peers.
    SyncStatus {
        /// The process that runs the node, if one does.
        running: Option<String>,
        /// The key of this store's node; `None` where it never shared, joined or ran.
        id: Option<String>,
        /// When the node last told of it, in nanoseconds since 1970-01-01 UTC.
        at_ns: Option<i64>,
        /// Whether there is a peer, and all are synced.
        synced: bool,
        /// Each peer and bucket.
        peers: Vec<PeerStatus>,
    }
}

impl From<alknet_fs::node::SyncStatus> for SyncStatus {
    fn from(status: alknet_fs::node::SyncStatus) -> Self {
        Self {
            synced: status.is_synced(),
            running: status.running,
            id: status.id,
            at_ns: status.at.map(|at| at.0),
            peers: status.peers.into_iter().map(PeerStatus::from).collect(),
        }
    }
}

report! {
    /// Something that was given to others.
    GrantInfo {
        /// Its id.
        id: String,
        /// The bucket's name; `None` where it was deleted.
        bucket: Option<String>,
        /// What it allows: `"read"` or `"write"`.
        access: String,
        /// The names of the branches that it covers; none for the whole bucket.
        branches: Vec<String>,
        /// What it is called.
        name: Option<String>,
        /// When it was given, in nanoseconds since 1970-01-01 UTC.
        created_ns: i64,
        /// When it ends, if ever.
        expires_ns: Option<i64>,
        /// When it was taken back, if it was.
        revoked_ns: Option<i64>,
        /// Whether its ticket still lets in who does not use it yet.
        open: bool,
        /// The keys of the peers that use it.
        peers: Vec<String>,
    }
}

impl From<alknet_fs::node::GrantInfo> for GrantInfo {
    fn from(grant: alknet_fs::node::GrantInfo) -> Self {
        Self {
            id: grant.id.to_string(),
            bucket: grant.bucket,
            access: grant.access.name().to_owned(),
            branches: grant.branches,
            name: grant.name,
            created_ns: grant.created.0,
            expires_ns: grant.expires.map(|at| at.0),
            revoked_ns: grant.revoked.map(|at| at.0),
            open: grant.open,
            peers: grant.peers,
        }
    }
}

report! {
    /// Something that was joined.
    JoinInfo {
        /// The bucket's name; `None` where it was deleted.
        bucket: Option<String>,
        /// What is allowed: `"read"` or `"write"`.
        access: String,
        /// The names of the branches that it is for; none for the whole bucket.
        branches: Vec<String>,
        /// When it was joined, in nanoseconds since 1970-01-01 UTC.
        since_ns: i64,
        /// When the grant ends, if ever.
        expires_ns: Option<i64>,
    }
}

report! {
    /// Something that others let a node into.
    MemberInfo {
        /// The bucket's name; `None` where it was deleted.
        bucket: Option<String>,
        /// What the node may do: `"read"` or `"write"`.
        access: String,
        /// The key of the node that let it in.
        by: String,
        /// What that node is called here.
        by_name: Option<String>,
    }
}

report! {
    /// A node that this store has to do with.
    PeerInfo {
        /// Its key.
        id: String,
        /// What it is called here.
        name: Option<String>,
        /// What it was given, and not taken from it again.
        grants: Vec<GrantInfo>,
        /// What was joined from it.
        joined: Vec<JoinInfo>,
        /// What others let it into, without a grant between it and this store.
        member: Vec<MemberInfo>,
    }
}

impl From<alknet_fs::node::PeerInfo> for PeerInfo {
    fn from(peer: alknet_fs::node::PeerInfo) -> Self {
        let joined = peer.joined.into_iter().map(|join| JoinInfo {
            bucket: join.bucket,
            access: join.access.name().to_owned(),
            branches: join.branches,
            since_ns: join.since.0,
            expires_ns: join.expires.map(|at| at.0),
        });
        let member = peer.member.into_iter().map(|member| MemberInfo {
            bucket: member.bucket,
            access: member.access.name().to_owned(),
            by: member.by,
            by_name: member.by_name,
        });
        Self {
            id: peer.id,
            name: peer.name,
            grants: peer.grants.into_iter().map(GrantInfo::from).collect(),
            joined: joined.collect(),
            member: member.collect(),
        }
    }
}

report! {
    /// What was written here while others did not take it, and a ticket lets out.
    Unsent = alknet_fs::node::Unsent {
        /// The number of commits; `None` where it is not known.
        commits: Option<u64>,
    }
}

/// Nothing once it was stopped.
type Running = Mutex<Option<Arc<CoreNode>>>;

fn lock(node: &Running) -> MutexGuard<'_, Option<Arc<CoreNode>>> {
    node.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running node.
#[pyclass(frozen, module = "alknet_fs._native")]
#[derive(Debug)]
pub(crate) struct Node {
    node: Handle<Running>,
    id: String,
}

impl Node {
    pub(crate) fn start(
        py: Python<'_>,
        store: &Handle<CoreStore>,
        loopback: bool,
        port: Option<u16>,
        relays: Option<Vec<String>>,
        (mdns, gossip): (bool, bool),
    ) -> PyResult<Self> {
        let node = store.run(py, |store| {
            let options = NodeOptions::new().relays(self::relays(relays)?);
            let mut options = options.mdns(mdns).gossip(gossip);
            if loopback {
                options = options.bind(Bind::Loopback);
            }
            if let Some(port) = port {
                options = options.port(port);
            }
            CoreNode::start(store, &options)
        })?;
        Ok(Self {
            id: node.id().to_owned(),
            node: store.with(Mutex::new(Some(Arc::new(node)))),
        })
    }
}

#[pymethods]
impl Node {
    #[getter]
    fn id(&self) -> &str {
        &self.id
    }

    #[getter]
    fn running(&self, py: Python<'_>) -> bool {
        let works = |node: &Arc<CoreNode>| node.ended().is_none();
        let node = self
            .node
            .run(py, |node| Ok(lock(node).as_ref().is_some_and(works)));
        node.unwrap_or(false)
    }

    fn status(&self, py: Python<'_>) -> PyResult<SyncStatus> {
        let status = self.node.run(py, |node| {
            let node = lock(node).clone();
            let stopped = || Error::with_detail(ErrorKind::BadHandle, "the node was stopped");
            node.ok_or_else(stopped)?.status()
        })?;
        Ok(status.into())
    }

    fn stop(&self, py: Python<'_>) {
        self.node.release(py, |node| {
            let node = lock(node).take();
            drop(node);
        });
    }
}

/// Reads the addresses of relays; nothing for those that n0 runs.
fn relays(urls: Option<Vec<String>>) -> Result<Relays> {
    let Some(urls) = urls else {
        return Ok(Relays::N0);
    };
    if urls.is_empty() {
        return Ok(Relays::None);
    }
    let parse = |url: &String| {
        url.parse().map_err(|_| {
            let detail = "that is no address of a relay";
            Error::with_detail(ErrorKind::InvalidInput, detail).path(url)
        })
    };
    let urls: Result<_> = urls.iter().map(parse).collect();
    urls.map(Relays::Custom).map_err(|e| e.op("start node"))
}
