//! Nodes on this machine, each with a store of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet_fs_core::branch;
use alknet_fs_core::chain::Chain;
use alknet_fs_core::edit::{Context, Editor, SetAttrs};
use alknet_fs_core::store::{BranchId, BucketId, Durability, Store};
use alknet_fs_core::tree::{self, Walk};
use alknet_fs_core::{Timestamp, TreePath};
use alknet_fs_net::{
    Access, Bind, EndpointId, Link, Member, Net, NetOptions, Offer, Records, Ticket,
};
use alknet_fs_net::{secret_key, share};
use alknet_fs_sqlite::{Options, SqliteStore};
use tempfile::TempDir;

pub(crate) struct Node {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) net: Option<Net>,
    _dir: TempDir,
}

pub(crate) fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp(since.unwrap().as_nanos() as i64)
}

fn context() -> Context {
    Context {
        now: now(),
        author: "test".to_owned(),
        uid: 0,
        gid: 0,
    }
}

pub(crate) fn offer(access: Access) -> Offer {
    Offer {
        access,
        branches: Vec::new(),
        expires: None,
        name: None,
    }
}

/// Waits until something holds; fails after a while.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Node {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::create(&dir.path().join("store"), Options::default()).unwrap();
        let mut node = Self {
            store: Arc::new(store),
            net: None,
            _dir: dir,
        };
        node.run().await;
        node
    }

    pub(crate) async fn run(&mut self) {
        self.run_with(true).await;
    }

    pub(crate) async fn run_with(&mut self, gossip: bool) {
        let key = secret_key(&*self.store).unwrap();
        let options = NetOptions {
            bind: Bind::Loopback,
            gossip,
            ..NetOptions::default()
        };
        let net = Net::start(Arc::clone(&self.store), key, &options, |router| router);
        self.net = Some(net.await.unwrap());
    }

    pub(crate) async fn stop(&mut self) {
        self.net.take().unwrap().stop().await;
    }

    pub(crate) fn net(&self) -> &Net {
        self.net.as_ref().unwrap()
    }

    pub(crate) fn bucket(&self, name: &str) -> BucketId {
        let mut txn = self.store.write(Durability::Full).unwrap();
        let (bucket, _) = branch::create_bucket(&mut *txn, name, &context()).unwrap();
        txn.commit().unwrap();
        bucket.id
    }

    pub(crate) fn branch(&self, bucket: BucketId, name: &str) -> BranchId {
        let txn = self.store.read().unwrap();
        branch::branch(&*txn, bucket, name).unwrap().id
    }

    pub(crate) fn fork(&self, bucket: BucketId, name: &str) {
        let source = branch::ForkSource {
            branch: self.branch(bucket, "main"),
            snapshot: None,
        };
        let mut txn = self.store.write(Durability::Full).unwrap();
        branch::fork(&mut *txn, name, &source, &context()).unwrap();
        txn.commit().unwrap();
    }

    pub(crate) fn delete_branch(&self, bucket: BucketId, name: &str) {
        let branch = self.branch(bucket, name);
        let mut txn = self.store.write(Durability::Full).unwrap();
        branch::delete_branch(&mut *txn, branch, &context()).unwrap();
        txn.commit().unwrap();
    }

    /// Makes a directory in a branch.
    pub(crate) fn write(&self, bucket: BucketId, branch: &str, path: &str) {
        let branch = self.branch(bucket, branch);
        let mut txn = self.store.write(Durability::Full).unwrap();
        let chain = Chain::load(&*txn, branch, None).unwrap();
        let mut editor = Editor::new(&mut *txn, &chain, context());
        let path: TreePath = path.parse().unwrap();
        editor.mkdir(&path, &SetAttrs::default()).unwrap();
        editor.finish(None).unwrap();
        txn.commit().unwrap();
    }

    /// Makes links in a branch, each with a text that takes that many bytes however it is compressed.
    pub(crate) fn link(&self, bucket: BucketId, branch: &str, count: usize, bytes: usize) {
        let mut rng = fastrand::Rng::new();
        let branch = self.branch(bucket, branch);
        let mut txn = self.store.write(Durability::Full).unwrap();
        let chain = Chain::load(&*txn, branch, None).unwrap();
        let mut editor = Editor::new(&mut *txn, &chain, context());
        let set = SetAttrs::default();
        for n in 0..count {
            // Six bits of chance to a letter.
            let length = bytes * 8 / 6;
            let text: String = (0..length).map(|_| rng.alphanumeric()).collect();
            let path: TreePath = format!("/{n}").parse().unwrap();
            editor.symlink(&path, &text, &set).unwrap();
        }
        editor.finish(None).unwrap();
        txn.commit().unwrap();
    }

    pub(crate) fn paths(&self, bucket: BucketId, branch: &str) -> Vec<String> {
        let txn = self.store.read().unwrap();
        let Some(branch) = txn.branch_named(bucket, branch).unwrap() else {
            return Vec::new();
        };
        let chain = Chain::load(&*txn, branch.id, None).unwrap();
        let mut paths = Vec::new();
        tree::walk(&*txn, &chain, &TreePath::root(), &mut |path, _| {
            paths.push(path.to_string());
            Ok(Walk::Continue)
        })
        .unwrap();
        paths.retain(|path| path != "/");
        paths
    }

    pub(crate) fn share(&self, bucket: BucketId, offer: Offer) -> Ticket {
        share(&*self.store, bucket, offer, self.net().addr(), now()).unwrap()
    }

    pub(crate) fn join(&self, bucket: BucketId, ticket: &Ticket) {
        Records::update(&*self.store, Durability::Full, |records, _| {
            records.join(bucket, ticket, now())
        })
        .unwrap();
    }

    pub(crate) fn id(&self) -> EndpointId {
        secret_key(&*self.store).unwrap().public()
    }

    pub(crate) fn records(&self) -> Records {
        Records::load(&*self.store.read().unwrap()).unwrap()
    }

    /// Who takes part in a bucket, and what each may do.
    pub(crate) fn members(&self, bucket: BucketId) -> BTreeMap<EndpointId, Member> {
        let records = self.records();
        let uid = records.uid(bucket).unwrap();
        records.members(self.id(), uid, now())
    }

    /// Waits until these are all that take part, and it is known where they are.
    pub(crate) async fn sees(&self, bucket: BucketId, others: &[&Self]) {
        let mut ids: Vec<_> = others.iter().map(|other| other.id()).collect();
        ids.sort_unstable();
        until("the members", async || {
            let members: Vec<_> = self.members(bucket).into_keys().collect();
            let records = self.records();
            let is_known = |id| records.peer(id).is_some_and(|p| !p.addr().is_empty());
            members == ids && members.into_iter().all(is_known)
        })
        .await;
    }

    pub(crate) async fn links(&self) -> Vec<Link> {
        self.net().status(true).await.links
    }

    pub(crate) async fn shows(&self, bucket: BucketId, branch: &str, paths: &[&str]) {
        let what = format!("{paths:?} in {branch}");
        until(&what, async || self.paths(bucket, branch) == paths).await;
    }

    pub(crate) async fn in_step_with(&self, other: &Self) {
        until("in step", async || {
            let links = self.links().await;
            let mut links = links.iter();
            links.any(|link| link.peer == other.id() && link.in_step)
        })
        .await;
    }

    pub(crate) async fn in_step(&self) {
        until("in step", async || {
            let links = self.links().await;
            !links.is_empty() && links.iter().all(|link| link.in_step)
        })
        .await;
    }
}
