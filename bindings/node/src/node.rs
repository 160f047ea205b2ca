//! The node, sharing, and what is told of peers.

use std::sync::Arc;

use alknet_fs::node::{
    self, Bind, JoinOptions, MissingContents, Node, NodeOptions, Relays, Revoked, ShareOptions,
    Ticket,
};
use alknet_fs::{Error, ErrorKind};
use napi::bindgen_prelude::BigInt;
use napi_derive::napi;
use parking_lot::Mutex;

use crate::bucket::BucketHandle;
use crate::content::{EvictInfo, patience};
use crate::convert::{milliseconds, whole};
use crate::handle::Handle;
use crate::job::{Outcome, run_on};
use crate::lane::Lane;
use crate::store::StoreHandle;
use crate::task::TaskHandle;

type Result<T> = std::result::Result<T, Error>;

/// How much is missing on one side.
#[napi(object)]
pub struct BehindInfo {
    pub commits: f64,
    pub branches: f64,
    pub contents: Option<f64>,
    pub bytes: Option<f64>,
}

fn behind(behind: node::Behind, missing: Option<MissingContents>) -> BehindInfo {
    BehindInfo {
        commits: behind.cuts as f64,
        branches: behind.scopes as f64,
        contents: missing.map(|missing| missing.contents as f64),
        bytes: missing.map(|missing| missing.bytes as f64),
    }
}

/// How it stands with one peer about one bucket.
#[napi(object)]
pub struct PeerStatusInfo {
    pub peer: String,
    pub name: Option<String>,
    pub bucket: Option<String>,
    pub shared: bool,
    pub member: bool,
    pub access: String,
    pub connected: bool,
    pub seen: Option<BigInt>,
    pub in_step: bool,
    pub known: bool,
    pub behind_here: BehindInfo,
    pub behind_there: BehindInfo,
    pub stays_here: Option<f64>,
    pub synced: bool,
    pub trouble: Option<String>,
    pub refused: bool,
    pub ended: Option<String>,
}

impl From<node::PeerStatus> for PeerStatusInfo {
    fn from(status: node::PeerStatus) -> Self {
        Self {
            peer: status.peer,
            name: status.name,
            bucket: status.bucket,
            shared: status.shared,
            member: status.member,
            access: status.access.name().to_owned(),
            connected: status.connected,
            seen: status.seen.map(|at| at.0.into()),
            in_step: status.in_step,
            known: status.known,
            behind_here: behind(status.missing_here, Some(status.contents_here)),
            behind_there: behind(status.missing_there, status.contents_there),
            stays_here: status.stays_here.map(|commits| commits as f64),
            synced: status.synced,
            trouble: status.trouble,
            refused: status.refused,
            ended: status.ended.map(|ended| ended.name().to_owned()),
        }
    }
}

/// How it stands with all peers.
#[napi(object)]
pub struct SyncStatusInfo {
    pub running: Option<String>,
    pub id: Option<String>,
    pub at: Option<BigInt>,
    pub synced: bool,
    pub peers: Vec<PeerStatusInfo>,
}

impl From<node::SyncStatus> for SyncStatusInfo {
    fn from(status: node::SyncStatus) -> Self {
        let peers = status.peers.iter().cloned().map(PeerStatusInfo::from);
        Self {
            peers: peers.collect(),
            synced: status.is_synced(),
            running: status.running,
            id: status.id,
            at: status.at.map(|at| at.0.into()),
        }
    }
}

/// Something that was given to others.
#[napi(object)]
pub struct GrantFacts {
    pub id: String,
    pub bucket: Option<String>,
    pub access: String,
    pub branches: Vec<String>,
    pub name: Option<String>,
    pub created: BigInt,
    pub expires: Option<BigInt>,
    pub revoked: Option<BigInt>,
    pub open: bool,
    pub peers: Vec<String>,
}

impl From<node::GrantInfo> for GrantFacts {
    fn from(grant: node::GrantInfo) -> Self {
        Self {
            id: grant.id.to_string(),
            bucket: grant.bucket,
            access: grant.access.name().to_owned(),
            branches: grant.branches,
            name: grant.name,
            created: grant.created.0.into(),
            expires: grant.expires.map(|at| at.0.into()),
            revoked: grant.revoked.map(|at| at.0.into()),
            open: grant.open,
            peers: grant.peers,
        }
    }
}

/// Something that was joined.
#[napi(object)]
pub struct JoinFacts {
    pub bucket: Option<String>,
    pub access: String,
    pub branches: Vec<String>,
    pub since: BigInt,
    pub expires: Option<BigInt>,
}

/// Something that others let a node into.
#[napi(object)]
pub struct MemberFacts {
    pub bucket: Option<String>,
    pub access: String,
    pub by: String,
    pub by_name: Option<String>,
}

/// A node that this store has to do with.
#[napi(object)]
pub struct PeerFacts {
    pub id: String,
    pub name: Option<String>,
    pub grants: Vec<GrantFacts>,
    pub joined: Vec<JoinFacts>,
    pub member: Vec<MemberFacts>,
}

impl From<node::PeerInfo> for PeerFacts {
    fn from(peer: node::PeerInfo) -> Self {
        let joined = peer.joined.into_iter().map(|join| JoinFacts {
            bucket: join.bucket,
            access: join.access.name().to_owned(),
            branches: join.branches,
            since: join.since.0.into(),
            expires: join.expires.map(|at| at.0.into()),
        });
        let member = peer.member.into_iter().map(|member| MemberFacts {
            bucket: member.bucket,
            access: member.access.name().to_owned(),
            by: member.by,
            by_name: member.by_name,
        });
        Self {
            id: peer.id,
            name: peer.name,
            grants: peer.grants.into_iter().map(GrantFacts::from).collect(),
            joined: joined.collect(),
            member: member.collect(),
        }
    }
}

/// What a ticket lets out.
#[napi(object)]
pub struct UnsentInfo {
    pub commits: Option<f64>,
}

/// How to start a node.
#[napi(object)]
pub struct NodeSettings {
    pub loopback: Option<bool>,
    pub port: Option<f64>,
    /// Whether those that n0 runs are used.
    pub n0: Option<bool>,
    pub relays: Option<Vec<String>>,
    pub mdns: Option<bool>,
    pub gossip: Option<bool>,
}

impl NodeSettings {
    fn options(self) -> Result<NodeOptions> {
        let mut options = NodeOptions::new()
            .mdns(self.mdns == Some(true))
            .gossip(self.gossip != Some(false));
        if self.loopback == Some(true) {
            options = options.bind(Bind::Loopback);
        }
        if let Some(port) = self.port {
            let port = whole(port, "port")?;
            let port = u16::try_from(port).map_err(|_| {
                let detail = format!("{port} is no port");
                Error::with_detail(ErrorKind::InvalidInput, detail)
            })?;
            options = options.port(port);
        }
        if self.n0 == Some(true) {
            options = options.relays(Relays::N0);
        }
        if let Some(urls) = self.relays {
            let parse = |url: &String| {
                url.parse().map_err(|_| {
                    let detail = "that is no address of a relay";
                    Error::with_detail(ErrorKind::InvalidInput, detail).path(url)
                })
            };
            let urls: Result<_> = urls.iter().map(parse).collect();
            options = options.relays(Relays::Custom(urls?));
        }
        Ok(options)
    }
}

/// What to share of a bucket.
#[napi(object)]
pub struct ShareSettings {
    pub read_only: Option<bool>,
    pub branches: Option<Vec<String>>,
    /// In milliseconds from now.
    pub expires: Option<f64>,
    pub name: Option<String>,
}

/// A running node; nothing once it was stopped.
#[napi]
pub struct NodeHandle {
    node: Handle<Mutex<Option<Arc<Node>>>>,
    id: String,
}

#[napi]
impl NodeHandle {
    #[napi]
    pub fn id(&self) -> String {
        self.id.clone()
    }

    #[napi]
    pub fn running(&self) -> bool {
        let works = |node: &Arc<Node>| node.ended().is_none();
        let node = self.node.get();
        node.is_ok_and(|node| node.lock().as_ref().is_some_and(works))
    }

    #[napi]
    pub fn status(&self, later: bool) -> napi::Result<Outcome<SyncStatusInfo>> {
        let node = self.node.clone();
        run_on(self.node.tasks(), later, move || {
            let running = node.get()?.lock().clone();
            let stopped = || Error::with_detail(ErrorKind::BadHandle, "the node was stopped");
            running
                .ok_or_else(stopped)?
                .status()
                .map(SyncStatusInfo::from)
        })
    }

    #[napi]
    pub fn stop(&self, later: bool) -> napi::Result<Outcome<()>> {
        let node = self.node.clone();
        run_on(self.node.tasks(), later, move || {
            // A store that is closed has stopped it.
            let running = node.get().ok().and_then(|node| node.lock().take());
            drop(running);
            Ok(())
        })
    }
}

/// Nodes and peers.
#[napi]
impl StoreHandle {
    #[napi]
    pub fn start_node(
        &self,
        settings: NodeSettings,
        later: bool,
    ) -> napi::Result<Outcome<NodeHandle>> {
        let store = self.store.clone();
        run_on(self.store.tasks(), later, move || {
            let open = store.get()?;
            let options = settings.options().map_err(|e| e.op("start node"))?;
            let node = Node::start(&open, &options)?;
            Ok(NodeHandle {
                id: node.id().to_owned(),
                node: store.with("node", Mutex::new(Some(Arc::new(node)))),
            })
        })
    }

    #[napi]
    pub fn share(
        &self,
        bucket: String,
        settings: ShareSettings,
        later: bool,
    ) -> napi::Result<Outcome<String>> {
        self.on(self.store.writes(), later, move |store| {
            let branches = settings.branches.unwrap_or_default().into_iter();
            let mut options = branches.fold(ShareOptions::new(), ShareOptions::branch);
            options = options.read_only(settings.read_only == Some(true));
            if let Some(expires) = settings.expires {
                options = options.expires_in(milliseconds(expires)?);
            }
            if let Some(name) = settings.name {
                options = options.name(name);
            }
            store
                .share(&bucket, &options)
                .map(|ticket| ticket.to_string())
        })
    }

    #[napi]
    pub fn join(
        &self,
        ticket: String,
        name: Option<String>,
        merge: bool,
        timeout: f64,
        task: &TaskHandle,
        later: bool,
    ) -> napi::Result<Outcome<BucketHandle>> {
        let (store, task) = (self.store.clone(), task.task());
        run_on(Lane::waiting(), later, move || {
            let timeout = patience(timeout)?;
            let mut options = JoinOptions::new().merge(merge);
            if let Some(name) = name {
                options = options.name(name);
            }
            let open = store.get()?;
            let ticket: Ticket = ticket.parse().map_err(|e: Error| e.op("join"))?;
            // One that was stopped before it began joins nothing.
            task.cancel().check().map_err(|e| e.op("join"))?;
            let (bucket, _) = open.join_and_wait(&ticket, &options, timeout, &task)?;
            Ok(store.with("bucket", bucket).into())
        })
    }

    #[napi]
    pub fn unsent(&self, ticket: String, later: bool) -> napi::Result<Outcome<Option<UnsentInfo>>> {
        self.with(later, move |store| {
            let ticket: Ticket = ticket.parse().map_err(|e: Error| e.op("join"))?;
            let unsent = store.unsent(&ticket)?;
            Ok(unsent.map(|unsent| UnsentInfo {
                commits: unsent.commits.map(|commits| commits as f64),
            }))
        })
    }

    #[napi]
    pub fn leave(
        &self,
        bucket: String,
        peer: Option<String>,
        later: bool,
    ) -> napi::Result<Outcome<()>> {
        self.on(self.store.writes(), later, move |store| match &peer {
            Some(peer) => store.leave_peer(&bucket, peer),
            None => store.leave(&bucket),
        })
    }

    #[napi]
    pub fn grants(&self, later: bool) -> napi::Result<Outcome<Vec<GrantFacts>>> {
        self.with(later, |store| {
            Ok(store.grants()?.into_iter().map(GrantFacts::from).collect())
        })
    }

    #[napi]
    pub fn peers(&self, later: bool) -> napi::Result<Outcome<Vec<PeerFacts>>> {
        self.with(later, |store| {
            Ok(store.peers()?.into_iter().map(PeerFacts::from).collect())
        })
    }

    #[napi]
    pub fn name_peer(&self, who: String, name: String, later: bool) -> napi::Result<Outcome<()>> {
        self.on(self.store.writes(), later, move |store| {
            store.name_peer(&who, &name)
        })
    }

    #[napi]
    pub fn forget_peer(&self, who: String, later: bool) -> napi::Result<Outcome<()>> {
        self.on(self.store.writes(), later, move |store| {
            store.forget_peer(&who)
        })
    }

    #[napi]
    pub fn revoke_peer(&self, who: String, later: bool) -> napi::Result<Outcome<f64>> {
        self.on(self.store.writes(), later, move |store| {
            store.revoke_peer(&who).map(|count| count as f64)
        })
    }

    #[napi]
    pub fn revoke(&self, who: String, later: bool) -> napi::Result<Outcome<f64>> {
        self.on(self.store.writes(), later, move |store| {
            Ok(match store.revoke(&who)? {
                Revoked::Grant(_) => 1.0,
                Revoked::Peer(grants) => grants as f64,
            })
        })
    }

    #[napi]
    pub fn revoke_grant(&self, id: String, later: bool) -> napi::Result<Outcome<()>> {
        self.on(self.store.writes(), later, move |store| {
            store.revoke_grant(id.parse()?)
        })
    }

    #[napi]
    pub fn sync_status(&self, later: bool) -> napi::Result<Outcome<SyncStatusInfo>> {
        self.with(later, |store| store.sync_status().map(SyncStatusInfo::from))
    }

    #[napi]
    pub fn wait_until_synced(
        &self,
        bucket: Option<String>,
        timeout: f64,
        task: &TaskHandle,
        later: bool,
    ) -> napi::Result<Outcome<SyncStatusInfo>> {
        let task = task.task();
        self.on(Lane::waiting(), later, move |store| {
            let timeout = patience(timeout)?;
            let status = store.wait_until_synced(bucket.as_deref(), timeout, &task)?;
            Ok(SyncStatusInfo::from(status))
        })
    }

    #[napi]
    pub fn cache_limit(&self, later: bool) -> napi::Result<Outcome<Option<f64>>> {
        self.with(later, |store| {
            Ok(store.cache_limit()?.map(|bytes| bytes as f64))
        })
    }

    #[napi]
    pub fn set_cache_limit(&self, bytes: Option<f64>, later: bool) -> napi::Result<Outcome<()>> {
        self.on(self.store.writes(), later, move |store| {
            let bytes = bytes.map(|bytes| whole(bytes, "number of bytes"));
            store.set_cache_limit(bytes.transpose()?)
        })
    }

    #[napi]
    pub fn cached_bytes(&self, later: bool) -> napi::Result<Outcome<f64>> {
        self.with(later, |store| {
            store.cached_bytes().map(|bytes| bytes as f64)
        })
    }

    #[napi]
    pub fn evict(
        &self,
        to_bytes: f64,
        task: &TaskHandle,
        later: bool,
    ) -> napi::Result<Outcome<EvictInfo>> {
        let task = task.task();
        self.on(Lane::waiting(), later, move |store| {
            let to_bytes = whole(to_bytes, "number of bytes")?;
            Ok(EvictInfo::from(store.evict(to_bytes, &task)?))
        })
    }
}
