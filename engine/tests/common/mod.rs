//! Stores whose nodes run, on this machine.

use std::time::{Duration, Instant};

use alknet_fs::node::{Bind, JoinOptions, Node, NodeOptions, ShareOptions, Ticket};
use alknet_fs::{Branch, Bucket, Store};
use tempfile::TempDir;

/// Waits until something holds.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts the node of a store.
pub(crate) fn node(store: &Store) -> Node {
    Node::start(store, &NodeOptions::new().bind(Bind::Loopback)).unwrap()
}

/// A store, and its node.
pub(crate) struct Side {
    pub(crate) store: Store,
    /// Nothing while it is stopped.
    pub(crate) node: Option<Node>,
    /// The bucket that is shared.
    pub(crate) bucket: Bucket,
    pub(crate) _dir: TempDir,
}

impl Side {
    /// Makes a store, and starts its node.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path().join("store")).unwrap();
        Self {
            node: Some(node(&store)),
            bucket: store.bucket("default").unwrap(),
            store,
            _dir: dir,
        }
    }

    pub(crate) fn start(&mut self) {
        self.node = Some(node(&self.store));
    }

    pub(crate) fn stop(&mut self) {
        self.node.take().unwrap().stop();
    }

    pub(crate) fn share(&self, options: &ShareOptions) -> Ticket {
        let name = self.bucket.name().unwrap();
        self.store.share(&name, options).unwrap()
    }

    /// Takes part in the bucket of a ticket, as "joined".
    pub(crate) fn join(&mut self, ticket: &Ticket) {
        let named = JoinOptions::new().name("joined");
        self.bucket = self.store.join(ticket, &named).unwrap();
    }

    /// Makes a store that has joined this one's bucket.
    pub(crate) fn joined(&self, options: &ShareOptions) -> Self {
        let mut side = Self::new();
        side.join(&self.share(options));
        side
    }

    pub(crate) fn main(&self) -> Branch {
        self.bucket.main().unwrap()
    }

    pub(crate) fn write(&self, path: &str, bytes: impl AsRef<[u8]>) {
        self.main().write(path, bytes.as_ref()).unwrap();
    }
}

/// Returns two, of which the second joined the first's bucket.
pub(crate) fn pair(options: &ShareOptions) -> [Side; 2] {
    let a = Side::new();
    let b = a.joined(options);
    [a, b]
}
