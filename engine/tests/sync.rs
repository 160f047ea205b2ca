//! Nodes of stores on this machine: what is written on one is read on the others.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use alknet_fs::node::{
    Access, Bind, JoinOptions, Node, NodeOptions, RelayUrl, Relays, ShareOptions, SyncStatus,
};
use alknet_fs::{
    Cancel, ContentPolicy, Cursor, ErrorKind, EventFilter, EventPeer, Fetching, Follow, GcOptions,
    Hash, OpenOptions, Retention, SetAttrs, Store, Task, Timestamp, TreeRef, WatchOptions,
};
use common::{Side, node, pair, until};

impl Side {
    fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    fn has(&self, branch: &str, path: &str) -> bool {
        let branch = self.bucket.branch(branch);
        branch.is_ok_and(|branch| branch.stat(path).is_ok())
    }

    fn reads(&self, branch: &str, path: &str, text: &str) {
        let mut last;
        let deadline = Instant::now() + Duration::from_secs(90);
        loop {
            let branch = self.bucket.branch(branch);
            match branch.and_then(|branch| branch.read(path)) {
                Ok(bytes) if bytes == text.as_bytes() => return,
                Ok(bytes) => last = String::from_utf8_lossy(&bytes).into_owned(),
                Err(e) => last = e.to_string(),
            }
            let status = self.node().status().map(|status| status.peers);
            assert!(Instant::now() < deadline, "{path}: {last}; {status:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn synced(&self) {
        until("synced", || {
            let status = self.node().status().unwrap();
            !status.peers.is_empty() && status.peers.iter().all(|peer| peer.synced)
        });
    }
}

#[test]
fn sync_node_a_write_visible_on_node_b() {
    let [a, b] = pair(&ShareOptions::new());
    a.write("/hello.txt", "hello");
    b.reads("main", "/hello.txt", "hello");
    b.write("/answer.txt", "and back");
    a.reads("main", "/answer.txt", "and back");
    a.synced();
    b.synced();
}

#[test]
fn sync_concurrent_writes_different_paths_converge() {
    let [a, b] = pair(&ShareOptions::new());
    for n in 0..20 {
        a.write(&format!("/a{n}"), "of a");
        b.write(&format!("/b{n}"), "of b");
    }
    for side in [&a, &b] {
        for n in 0..20 {
            side.reads("main", &format!("/a{n}"), "of a");
            side.reads("main", &format!("/b{n}"), "of b");
        }
    }
}

/// The later of two writes is what all show, whoever made it; the other one is listed as a conflict.
#[test]
fn sync_concurrent_writes_same_path_lww() {
    let [a, mut b] = pair(&ShareOptions::new());
    for path in ["/b-later", "/a-later"] {
        a.write(path, "first");
        b.reads("main", path, "first");
    }
    b.synced();
    // Neither knows of the other's.
    b.stop();
    a.write("/b-later", "of a");
    // What was committed before the question is noted, with the time.
    a.node().status().unwrap();
    b.write("/b-later", "of b, later");
    b.write("/a-later", "of b");
    a.write("/a-later", "of a, later");
    b.start();
    let agreed = [
        ("/a-later", "of a, later", "of b"),
        ("/b-later", "of b, later", "of a"),
    ];
    for side in [&a, &b] {
        for (path, winner, _) in agreed {
            side.reads("main", path, winner);
        }
    }
    for side in [&a, &b] {
        until("in step", || {
            let status = side.node().status().unwrap();
            !status.peers.is_empty() && status.peers.iter().all(|peer| peer.in_step)
        });
    }
    for side in [&a, &b] {
        let conflicts = side.bucket.conflicts().unwrap();
        let hash = |side: &alknet_fs::Side| side.entry.as_ref().unwrap().hash();
        let listed = conflicts.iter().map(|conflict| {
            let others: Vec<_> = conflict.others.iter().map(hash).collect();
            (conflict.path.as_str(), hash(&conflict.shown), others)
        });
        let hash = |text: &str| Some(Hash::of(text.as_bytes()));
        let listed: Vec<_> = listed.collect();
        let expected = agreed.map(|(path, won, lost)| (path, hash(won), vec![hash(lost)]));
        assert_eq!(listed, expected);
        for (path, winner, _) in agreed {
            assert_eq!(side.main().read(path).unwrap(), winner.as_bytes());
        }
    }
}

#[test]
fn sync_branch_inheritance_across_nodes() {
    let [a, b] = pair(&ShareOptions::new());
    a.write("/base", "base");
    let main = "main".parse::<TreeRef>().unwrap();
    a.bucket.fork(&main, "child").unwrap();
    let child = a.bucket.branch("child").unwrap();
    child.write("/own", "own").unwrap();
    b.reads("child", "/base", "base");
    b.reads("child", "/own", "own");
    assert!(!b.has("main", "/own"));
    // Later writes to the parent show through there too.
    b.write("/later", "later");
    a.reads("child", "/later", "later");
    // What the child overrides and removes is its own.
    child.write("/base", "changed").unwrap();
    child.remove("/later").unwrap();
    b.reads("child", "/base", "changed");
    until("the removal", || !b.has("child", "/later"));
    b.reads("main", "/base", "base");
    b.reads("main", "/later", "later");
}

#[test]
fn a_branch_that_is_renamed_deleted_and_made_again_is_so_elsewhere() {
    let [a, b] = pair(&ShareOptions::new());
    a.write("/base", "base");
    let main = "main".parse::<TreeRef>().unwrap();
    a.bucket.fork(&main, "draft").unwrap();
    a.bucket
        .branch("draft")
        .unwrap()
        .write("/own", "1")
        .unwrap();
    b.reads("draft", "/own", "1");
    b.bucket.branch("draft").unwrap().rename_to("plan").unwrap();
    a.reads("plan", "/own", "1");
    until("the old name is gone", || a.bucket.branch("draft").is_err());
    a.bucket.delete_branch("plan").unwrap();
    until("it is deleted", || b.bucket.branch("plan").is_err());
    b.bucket.fork(&main, "plan").unwrap();
    a.reads("plan", "/base", "base");
    b.bucket.branch("plan").unwrap().write("/new", "2").unwrap();
    a.reads("plan", "/new", "2");
    for side in [&a, &b] {
        assert!(!side.has("plan", "/own"));
        let branches = side.bucket.branches().unwrap().into_iter();
        let names: Vec<_> = branches.map(|branch| branch.name).collect();
        assert_eq!(names, ["main", "plan"]);
    }
}

#[test]
fn attributes_are_the_same_elsewhere() {
    let [a, b] = pair(&ShareOptions::new());
    let mut batch = a.main().batch();
    batch.write("/file", "text").unwrap();
    batch.mkdir("/dir").unwrap();
    batch.symlink("file", "/link").unwrap();
    let paths = ["/file", "/dir", "/link"];
    for (n, path) in (1..).zip(paths) {
        let set = SetAttrs {
            mode: Some(0o700 + n),
            uid: Some(1000 + n),
            gid: Some(2000 + n),
            mtime: Some(Timestamp(1_000_000_007 * i64::from(n))),
        };
        batch.set_attrs(path, &set, Follow::No).unwrap();
    }
    batch.commit().unwrap();
    for path in paths {
        until("the entry", || b.has("main", path));
        // When an entry was changed here is its own.
        let of = |side: &Side| {
            let mut entry = side.main().lstat(path).unwrap();
            entry.attrs.ctime = Timestamp(0);
            entry
        };
        assert_eq!(of(&b), of(&a), "{path}");
    }
    let set = SetAttrs {
        mode: Some(0o640),
        ..SetAttrs::default()
    };
    b.main().set_attrs("/file", &set, Follow::No).unwrap();
    until("the mode alone", || {
        let attrs = a.main().lstat("/file").unwrap().attrs;
        assert_eq!(attrs.uid, 1001);
        attrs.mode == 0o640
    });
}

#[test]
fn a_file_that_is_written_over_and_over_does_not_make_the_store_grow() {
    let [a, mut b] = pair(&ShareOptions::new());
    a.write("/file", "first");
    b.reads("main", "/file", "first");
    b.synced();
    b.stop();
    let retention = Retention {
        at_most: Some(100),
        ..Retention::default()
    };
    let mut sizes = Vec::new();
    for round in 0..4 {
        for n in 0..600 {
            a.write("/file", format!("{round} {n}{}", "x".repeat(3000)));
        }
        // What was committed before the question is noted.
        a.node().status().unwrap();
        a.bucket.prune_events(&retention).unwrap();
        let gc = GcOptions::new().grace(Duration::ZERO);
        a.store.gc(&gc, &Task::default()).unwrap();
        a.store.compact().unwrap();
        sizes.push(a.store.stats().unwrap().stored_bytes());
    }
    // Of 1,800 files of 3,000 bytes; what is kept for peers that are behind has a limit of its own.
    assert!(sizes[3] < sizes[0] + (64 << 10), "{sizes:?}");
    b.start();
    let last = format!("3 599{}", "x".repeat(3000));
    b.reads("main", "/file", &last);
    a.reads("main", "/file", &last);
}

#[test]
fn content_separate_from_metadata_sync() {
    let [a, b] = pair(&ShareOptions::new());
    let text = "not small".repeat(50_000);
    a.write("/large", &text);
    until("the entry", || b.has("main", "/large"));
    let entry = b.main().stat("/large").unwrap();
    assert_eq!(entry.size(), text.len() as u64);
    // The entry is here and the content is not.
    let impatient = Fetching::new().timeout(Duration::ZERO);
    let main = b.main();
    let error = main.fetching(&impatient).read("/large").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContentUnavailable);
    until("what is missing is told of", || {
        let status = b.node().status().unwrap();
        let peer = &status.peers[0];
        peer.in_step && peer.contents_here.contents == 1 && !peer.synced
    });
    until("what is missing there is told of", || {
        let status = a.node().status().unwrap();
        let there = status.peers[0].contents_there;
        there.is_some_and(|there| there.bytes == text.len() as u64)
    });
    // Reading brings it.
    assert!(main.read("/large").unwrap() == text.as_bytes());
    assert!(main.fetching(&impatient).read("/large").is_ok());
    a.synced();
    b.synced();
}

#[test]
fn two_nodes_that_never_met_create_the_same_branch_and_see_both() {
    let (a, mut b) = (Side::new(), Side::new());
    for (side, name) in [(&a, "a"), (&b, "b")] {
        side.write(&format!("/{name}"), name);
        let main = "main".parse::<TreeRef>().unwrap();
        let branch = side.bucket.fork(&main, "feature").unwrap();
        branch.write(format!("/feature-{name}"), name).unwrap();
        branch.write("/shared", name).unwrap();
    }
    let ticket = a.store.share("default", &ShareOptions::new()).unwrap();
    let error = b.store.join(&ticket, &JoinOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("merge"), "{error}");
    let merge = JoinOptions::new().merge(true);
    b.bucket = b.store.join(&ticket, &merge).unwrap();
    for side in [&a, &b] {
        side.reads("main", "/a", "a");
        side.reads("main", "/b", "b");
        side.reads("feature", "/feature-a", "a");
        side.reads("feature", "/feature-b", "b");
        assert_eq!(side.bucket.branches().unwrap().len(), 2);
    }
    let read = |side: &Side| side.bucket.branch("feature").unwrap().read("/shared");
    until(
        "one of the two",
        || matches!((read(&a), read(&b)), (Ok(a), Ok(b)) if a == b),
    );
}

#[test]
fn one_process_runs_the_node_and_all_may_see_and_change() {
    let [mut a, b] = pair(&ShareOptions::new());
    let other = Store::open(a.store.path().unwrap()).unwrap();
    let error = Node::start(&other, &NodeOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    let owner = format!("process {}", std::process::id());
    assert!(error.to_string().contains(&owner), "{error}");
    a.write("/here", "here");
    b.reads("main", "/here", "here");
    a.synced();
    until("the status is told", || {
        let status = other.sync_status().unwrap();
        status.running.is_some() && status.peers.len() == 1 && status.peers[0].synced
    });
    let peers = other.peers().unwrap();
    assert_eq!((peers.len(), peers[0].grants.len()), (1, 1));
    assert_eq!(peers[0].id, b.node().id());
    other.name_peer(&b.node().id()[..8], "laptop").unwrap();
    assert_eq!(other.peers().unwrap()[0].name.as_deref(), Some("laptop"));
    assert_eq!(
        other.name_peer("nobody", "x").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(other.revoke_peer("laptop").unwrap(), 1);
    until("the peer is told", || {
        let status: SyncStatus = b.store.sync_status().unwrap();
        let peer = &status.peers[0];
        let trouble = peer.trouble.as_deref().unwrap_or_default();
        !peer.connected && trouble.contains("revoked")
    });
    a.write("/later", "later");
    a.stop();
    assert_eq!(other.sync_status().unwrap().running, None);
    assert!(!b.has("main", "/later"));
}

#[test]
fn what_may_only_be_read_stays_as_it_is() {
    let (a, mut b) = (Side::new(), Side::new());
    let main = "main".parse::<TreeRef>().unwrap();
    let shown = a.bucket.fork(&main, "shown").unwrap();
    let hidden = a.bucket.fork(&main, "hidden").unwrap();
    shown.write("/shown", "shown").unwrap();
    hidden.write("/secret", "secret").unwrap();
    let share = ShareOptions::new().read_only(true).branch("shown");
    let ticket = a.store.share("default", &share).unwrap();
    assert_eq!(ticket.access, Access::Read);
    b.bucket = b
        .store
        .join(&ticket, &JoinOptions::new().name("x"))
        .unwrap();
    b.reads("shown", "/shown", "shown");
    b.bucket
        .branch("shown")
        .unwrap()
        .write("/mine", "mine")
        .unwrap();
    shown.write("/more", "more").unwrap();
    b.reads("shown", "/more", "more");
    let promised = b.store.share("x", &ShareOptions::new()).unwrap_err();
    assert_eq!(promised.kind(), ErrorKind::PermissionDenied);
    b.store
        .share("x", &ShareOptions::new().read_only(true))
        .unwrap();
    assert!(b.bucket.branch("hidden").is_err());
    assert!(shown.stat("/mine").is_err());
    b.store.leave("x").unwrap();
    assert_eq!(b.store.leave("x").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_bucket_is_left_for_one_of_those_that_it_was_joined_from() {
    let [a, b] = pair(&ShareOptions::new());
    let mut c = a.joined(&ShareOptions::new());
    c.join(&b.share(&ShareOptions::new()));
    let givers = || {
        let mut peers = c.store.peers().unwrap();
        peers.retain(|peer| !peer.joined.is_empty());
        peers.into_iter().map(|peer| peer.id).collect::<Vec<_>>()
    };
    let [a_id, b_id] = [&a, &b].map(|side| side.node().id());
    assert_eq!(givers(), [a_id, b_id]);
    let left = |who: &str| c.store.leave_peer("joined", who);
    left(a_id).unwrap();
    assert_eq!(givers(), [b_id]);
    for nobody in [a_id, "nobody"] {
        assert_eq!(left(nobody).unwrap_err().kind(), ErrorKind::NotFound);
    }
    left(&b_id[..12]).unwrap();
    assert!(givers().is_empty());
}

#[test]
fn a_bucket_that_is_deleted_where_it_is_shared_is_said_to_be_gone() {
    let [a, b] = pair(&ShareOptions::new());
    b.write("/f", "of b");
    a.reads("main", "/f", "of b");
    let db = rusqlite::Connection::open(a._dir.path().join("store/store.db")).unwrap();
    let kept = || {
        let sql =
            "SELECT count(*) FROM kv WHERE scope GLOB 'sync/*' OR scope GLOB 'content/[0-9]*'";
        db.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert!(kept() > 0);
    let bucket = a.store.bucket("default").unwrap();
    a.store.delete_bucket("default").unwrap();
    until("b is told", || {
        let status = b.node().status().unwrap();
        let peer = &status.peers[0];
        let trouble = peer.trouble.as_deref().unwrap_or_default();
        // A moment ago it may just have ended.
        assert!(!trouble.contains("failed") && !trouble.contains("update"));
        peer.refused && trouble.contains("no such bucket any more")
    });
    assert_eq!(b.main().read("/f").unwrap(), b"of b");
    let pinned = bucket.pin("/f").unwrap_err();
    assert_eq!(pinned.kind(), ErrorKind::NotFound);
    assert_eq!(kept(), 0);
}

/// What it waits for is said where the time is over.
#[test]
fn a_read_waits_for_who_is_away_while_another_is_asked() {
    let [a, mut b] = pair(&ShareOptions::new());
    let c = a.joined(&ShareOptions::new());
    let b_id = b.node().id().to_owned();
    // What never was at a comes from b itself: c knows where that is.
    b.write("/before", "from b");
    c.reads("main", "/before", "from b");
    b.write("/f", "at b only");
    until("its name is known", || c.has("main", "/f"));
    for (side, other) in [(&a, &b), (&c, &b), (&c, &a)] {
        let names = [(&a, "hub"), (&b, "laptop")];
        let name = names.iter().find(|(of, _)| std::ptr::eq(*of, other));
        let name = name.unwrap().1;
        side.store.name_peer(other.node().id(), name).unwrap();
    }
    b.stop();
    until("b is away", || {
        let status = a.node().status().unwrap();
        let peers = status.peers.iter();
        !peers
            .clone()
            .any(|peer| peer.peer == b_id && peer.connected)
    });
    // At a, who gave it, and at c, who knows of it by a only.
    for (side, asked) in [(&a, "c"), (&c, "hub")] {
        if asked == "c" {
            side.store.name_peer(c.node().id(), asked).unwrap();
        }
        let brief = Fetching::new().timeout(Duration::from_secs(15));
        let begun = Instant::now();
        let error = side.main().fetching(&brief).read("/f").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ContentUnavailable);
        assert!(begun.elapsed() >= Duration::from_secs(15), "{error}");
        assert!(error.asked().contains(&asked.to_owned()), "{error}");
        assert!(error.to_string().contains("laptop"), "{error}");
    }
    // Though they do not converse, c finds that it came again.
    std::thread::scope(|scope| {
        let patient = Fetching::new().timeout(Duration::from_secs(90));
        let main = c.main().fetching(&patient);
        let reading = scope.spawn(move || main.read("/f"));
        b.start();
        assert_eq!(reading.join().unwrap().unwrap(), b"at b only");
    });
    a.reads("main", "/f", "at b only");
}

#[test]
fn tickets_that_cannot_be_joined_say_why() {
    let a = Side::new();
    let error = |options: &ShareOptions| {
        let ticket = a.store.share("default", options).unwrap();
        a.store.join(&ticket, &JoinOptions::new()).unwrap_err()
    };
    let own = error(&ShareOptions::new());
    assert!(own.to_string().contains("this store gave out"), "{own}");
    let b = Side::new();
    let brief = ShareOptions::new().expires_in(Duration::from_nanos(1));
    let ticket = a.store.share("default", &brief).unwrap();
    let expired = b.store.join(&ticket, &JoinOptions::new().name("x"));
    assert!(expired.unwrap_err().to_string().contains("expired"));
    let unknown = a.store.share("nothing", &ShareOptions::new()).unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    let good = a.store.share("default", &ShareOptions::new()).unwrap();
    b.store.join(&good, &JoinOptions::new().name("x")).unwrap();
    // Again is harmless, and another name is a question.
    b.store.join(&good, &JoinOptions::new()).unwrap();
    let other = b
        .store
        .join(&good, &JoinOptions::new().name("y"))
        .unwrap_err();
    assert!(other.to_string().contains("as x"), "{other}");
    // The bucket that is called as it is there cannot become the one that is here already.
    let merged = b.store.join(&good, &JoinOptions::new().merge(true));
    let why = "as x: it cannot be merged with default";
    assert!(merged.unwrap_err().to_string().contains(why));
    // A ticket is closed once one who used it was let out.
    let is_open = || a.store.grants().unwrap().pop().unwrap().open;
    assert!(is_open());
    until("it is used", || a.store.peers().unwrap().len() == 1);
    a.store.revoke_peer(b.node().id()).unwrap();
    assert!(!is_open());
    let c = Side::new();
    let (time, task) = (Duration::from_secs(90), Task::new());
    let closed = c
        .store
        .join_and_wait(&good, &JoinOptions::new().name("x"), time, &task);
    let closed = closed.unwrap_err();
    assert_eq!(closed.kind(), ErrorKind::PermissionDenied);
    assert!(closed.to_string().contains("was revoked"), "{closed}");
}

#[test]
fn a_ticket_leads_to_the_relay_that_the_node_uses() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(dir.path()).unwrap();
    let relays = || {
        let ticket = store.share("default", &ShareOptions::new()).unwrap();
        ticket.addr.relay_urls().cloned().collect::<Vec<_>>()
    };
    // It need not have answered yet.
    let relay: RelayUrl = "http://127.0.0.1:9/".parse().unwrap();
    let options = NodeOptions::new().bind(Bind::Loopback);
    let custom = options.relays(Relays::Custom(vec![relay.clone()]));
    let with_relay = Node::start(&store, &custom).unwrap();
    assert_eq!(relays(), std::slice::from_ref(&relay));
    with_relay.stop();
    // The next one may be given while no node runs.
    assert_eq!(relays(), [relay]);
    node(&store).stop();
    assert_eq!(relays(), []);
}

/// Runs the node of a store in a process of its own, until its standard input ends.
#[test]
fn child() {
    let Ok(path) = std::env::var("ALKFS_TEST_NODE") else {
        return;
    };
    let mut options = NodeOptions::new().bind(Bind::Loopback);
    if let Ok(port) = std::env::var("ALKFS_TEST_PORT") {
        options = options.port(port.parse().unwrap());
    }
    let _node = Node::start(&Store::open(path).unwrap(), &options).unwrap();
    let _ = std::io::stdin().read_line(&mut String::new());
}

fn process(store: &Path) -> Child {
    process_at(store, None)
}

fn process_at(store: &Path, port: Option<u16>) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child"])
        .env("ALKFS_TEST_NODE", store)
        .envs(port.map(|port| ("ALKFS_TEST_PORT", port.to_string())))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Connections to where it was are not given up yet when it comes from elsewhere.
#[test]
fn a_peer_that_runs_elsewhere_after_it_was_killed_gives_contents() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::create(&path).unwrap();
    let main = store.bucket("default").unwrap().main().unwrap();
    let mut running = process(&path);
    main.write("/before", "before").unwrap();
    let mut b = Side::new();
    let ticket = store.share("default", &ShareOptions::new()).unwrap();
    b.join(&ticket);
    b.reads("main", "/before", "before");
    running.kill().unwrap();
    running.wait().unwrap();
    main.write("/after", "after").unwrap();
    let free = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    running = process_at(&path, Some(port));
    b.reads("main", "/after", "after");
    drop(running.stdin.take());
    assert!(running.wait().unwrap().success());
}

#[test]
fn a_node_that_is_killed_comes_back_while_others_use_its_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::create(&path).unwrap();
    let mut running = process(&path);
    let main = store.bucket("default").unwrap().main().unwrap();
    main.write("/before", "before").unwrap();
    let mut b = Side::new();
    let ticket = store.share("default", &ShareOptions::new()).unwrap();
    b.join(&ticket);
    b.reads("main", "/before", "before");
    for n in 0..50 {
        main.write(format!("/{n}"), format!("{n}")).unwrap();
        if n == 25 {
            // In the middle of it.
            running.kill().unwrap();
            running.wait().unwrap();
        }
        b.write(&format!("/b{n}"), "of b");
    }
    assert_eq!(store.sync_status().unwrap().running, None);
    running = process(&path);
    for n in 0..50 {
        b.reads("main", &format!("/{n}"), &format!("{n}"));
        let (path, main) = (format!("/b{n}"), &main);
        until(&path, || {
            main.read(&path).is_ok_and(|bytes| bytes == b"of b")
        });
    }
    drop(running.stdin.take());
    assert!(running.wait().unwrap().success());
}

#[test]
fn two_that_joined_from_one_go_on_without_it() {
    let [mut a, mut b] = pair(&ShareOptions::new());
    let c = a.joined(&ShareOptions::new());
    let a_id = a.node().id().to_owned();
    for (side, other) in [(&b, &c), (&c, &b)] {
        side.store.name_peer(&a_id, "hub").unwrap();
        until("each knows of the other", || {
            let peers = side.store.peers().unwrap();
            let peer = peers.iter().find(|peer| peer.id == other.node().id());
            peer.is_some_and(|peer| {
                let [member] = &peer.member[..] else {
                    return false;
                };
                assert!(peer.grants.is_empty() && peer.joined.is_empty());
                assert_eq!(member.bucket.as_deref(), Some("joined"));
                assert_eq!(member.access, Access::Write);
                assert_eq!(
                    (&*member.by, member.by_name.as_deref()),
                    (&*a_id, Some("hub"))
                );
                true
            })
        });
    }
    // Whom the hub let in itself, it knows by that.
    let peers = a.store.peers().unwrap();
    assert!(peers.len() == 2 && peers.iter().all(|peer| peer.member.is_empty()));
    // Of that the hub has the name only: who has it is asked all the same.
    c.write("/by-another", "never at the hub");
    b.reads("main", "/by-another", "never at the hub");
    assert_eq!(
        a.node().status().unwrap().peers[0].contents_here.contents,
        1
    );
    a.write("/hubs", "only there");
    until("its name is known", || {
        b.has("main", "/hubs") && c.has("main", "/hubs")
    });
    a.stop();
    b.write("/f", "of b");
    c.reads("main", "/f", "of b");
    c.write("/g", "of c");
    b.reads("main", "/g", "of c");
    c.store.name_peer(b.node().id(), "b").unwrap();
    until("other processes see it", || {
        let status = c.store.sync_status().unwrap();
        let with_b = status.peers.iter().find(|peer| peer.member);
        with_b.is_some_and(|with_b| {
            assert_eq!(with_b.peer, b.node().id());
            assert_eq!(with_b.name.as_deref(), Some("b"));
            assert!(with_b.connected && !with_b.shared && with_b.trouble.is_none());
            // Both read only what they wanted: the hub's file is missing on either side.
            with_b.in_step
                && with_b.contents_here.contents == 1
                && with_b
                    .contents_there
                    .is_some_and(|there| there.contents == 1)
        })
    });
    // Whether the bucket is synced, the hub says, not what members do.
    assert!(!c.node().status().unwrap().is_synced());
    // Of a content that only the hub has, it is said that b was asked.
    let main = c.main();
    let short = Fetching::new().timeout(Duration::from_secs(5));
    let error = main.fetching(&short).read("/hubs").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContentUnavailable);
    assert_eq!(error.asked(), ["b"]);
    b.stop();
    until("b is away", || {
        let status = c.node().status().unwrap();
        status.peers.iter().all(|peer| !peer.member)
    });
}

#[test]
fn what_a_peer_keeps_makes_room_here_and_comes_back() {
    let [a, b] = pair(&ShareOptions::new());
    a.write("/f", "shared");
    b.reads("main", "/f", "shared");
    b.write("/own", "here only");
    let task = Task::new();
    let evicted = || b.store.evict(0, &task).unwrap();
    until("it goes", || evicted().contents > 0);
    let here = b.store.stats().unwrap();
    let view = b.main().view().unwrap();
    assert_eq!(view.content_form("/f").unwrap(), None, "{here:?}");
    // Who has promised to keep it does, though the other has none now.
    assert_eq!(a.store.evict(0, &task).unwrap().contents, 0);
    drop(view);
    b.reads("main", "/f", "shared");
    b.reads("main", "/own", "here only");
}

#[test]
fn events_say_which_peer() {
    let [a, b] = pair(&ShareOptions::new());
    let mut c = b.joined(&ShareOptions::new());
    let log = |side: &Side, path: &str| {
        let all = EventFilter::all().globs([path]).unwrap();
        side.bucket.log(&all, 1).unwrap().pop()
    };
    let found = |side: &Side, path: &str| {
        until(path, || log(side, path).is_some());
        log(side, path).unwrap()
    };
    // Both come to the third at once, by way of the second.
    c.stop();
    a.write("/first", "x");
    b.write("/second", "x");
    found(&a, "second");
    found(&b, "first");
    c.start();

    let peer = |id: &str, name: Option<&str>| {
        Some(EventPeer {
            id: id.to_owned(),
            name: name.map(str::to_owned),
        })
    };
    assert_eq!(found(&a, "first").peer, None);
    assert_eq!(found(&a, "second").peer, peer(b.node().id(), None));
    assert_eq!(found(&b, "first").peer, peer(a.node().id(), None));
    assert_eq!(found(&b, "second").peer, None);
    assert_eq!(found(&c, "second").peer, peer(b.node().id(), None));
    let passed_on = found(&c, "first");
    assert_eq!(passed_on.peer, None);
    assert_eq!(passed_on.author, found(&b, "first").author);
    assert_ne!(passed_on.author, found(&c, "second").author);

    a.store.name_peer(&b.node().id()[..10], "laptop").unwrap();
    assert_eq!(
        found(&a, "second").peer,
        peer(b.node().id(), Some("laptop"))
    );
    let all = WatchOptions {
        bucket: Some("default".to_owned()),
        after: Some(Cursor::START),
        ..WatchOptions::default()
    };
    let mut watcher = a.store.watch(&all).unwrap();
    let mut from = Vec::new();
    while let Some(event) = watcher.next_ready().unwrap() {
        from.push(event.peer.and_then(|peer| peer.name));
    }
    assert_eq!(from, [None, Some("laptop".to_owned())]);
}

#[test]
fn synced_is_said_of_what_was_written_before() {
    let [a, mut b] = pair(&ShareOptions::new());
    for side in [&a, &b] {
        let policy = ContentPolicy::Eager;
        side.bucket.set_content_policy(policy).unwrap();
    }
    let wait = Duration::from_secs(90);
    for n in 0..3 {
        let (path, text) = (format!("/{n}"), format!("text {n}"));
        let here = Fetching::new().timeout(Duration::ZERO);
        let main = b.main().fetching(&here);
        let there = || main.read(&path).is_ok_and(|bytes| bytes == text.as_bytes());
        a.write(&path, &text);
        // Not what was so before.
        assert!(!a.store.sync_status().unwrap().is_synced() || there());
        assert!(!a.node().status().unwrap().is_synced() || there());
        let status = a
            .store
            .wait_until_synced(Some("default"), wait, &Task::new());
        assert!(status.unwrap().is_synced() && there());
    }
    b.stop();
    a.write("/later", "x");
    let soon = Duration::from_millis(300);
    let status = a.store.wait_until_synced(None, soon, &Task::new()).unwrap();
    assert!(!status.is_synced());
    let cancel = Cancel::new();
    cancel.cancel();
    let task = Task::new().cancel_with(&cancel);
    let error = a.store.wait_until_synced(None, wait, &task).unwrap_err();
    assert!(error.is_cancelled());
}

#[test]
fn who_waits_is_told_what_is_lacking() {
    let [a, b] = pair(&ShareOptions::new());
    for n in 0..5 {
        a.write(&format!("/{n}"), format!("text {n}"));
    }
    until("the names", || b.has("main", "/4"));
    let wait_for = |time| {
        let told = Arc::new(Mutex::new(Vec::new()));
        let keep = Arc::clone(&told);
        let task = Task::new().report_to(move |progress| keep.lock().unwrap().push(progress));
        let status = b.store.wait_until_synced(None, time, &task).unwrap();
        let told = told.lock().unwrap().clone();
        (status.is_synced(), told)
    };
    until("what is lacking", || {
        let (is_synced, told) = wait_for(Duration::from_millis(100));
        assert!(!is_synced);
        told.last().is_some_and(|progress| {
            (progress.files, progress.total_files) == (0, 5)
                && (progress.bytes, progress.total_bytes) == (0, 30)
        })
    });
    b.bucket.set_content_policy(ContentPolicy::Eager).unwrap();
    let (is_synced, told) = wait_for(Duration::from_secs(90));
    assert!(is_synced);
    assert!(told.iter().all(|now| now.files <= now.total_files));
}

#[test]
fn who_waits_is_asked_whether_to_go_on() {
    let [a, b] = pair(&ShareOptions::new());
    a.write("/a", "x");
    until("the name", || b.has("main", "/a"));
    let never = Fetching::new().while_waiting(|| Err(ErrorKind::Cancelled.into()));
    let main = b.main();
    assert!(main.fetching(&never).read("/a").unwrap_err().is_cancelled());
    let quick = Fetching::new().timeout(Duration::ZERO);
    let error = main.fetching(&quick).read("/a").unwrap_err();
    assert_eq!(error.missing_content(), main.stat("/a").unwrap().hash());
    assert_eq!(error.asked(), [""; 0]);
    assert_eq!(main.read("/a").unwrap(), b"x");
    // What is here is not waited for.
    assert_eq!(main.fetching(&never).read("/a").unwrap(), b"x");
}

#[cfg(unix)]
#[test]
fn a_node_whose_store_was_replaced_says_that_it_ended() {
    let mut side = Side::new();
    assert!(side.node().ended().is_none());
    let dir = side._dir.path();
    std::fs::copy(dir.join("store/store.db"), dir.join("copy")).unwrap();
    std::fs::rename(dir.join("copy"), dir.join("store/store.db")).unwrap();
    until("it ends", || side.node().ended().is_some());
    for error in [
        side.node().ended().unwrap(),
        side.node().status().unwrap_err(),
    ] {
        let said = error.to_string();
        assert!(said.contains("the node ended"), "{said}");
        assert!(said.contains("store.db was replaced"), "{said}");
    }
    side.stop();
}

#[test]
fn who_joins_waits_until_the_other_lets_it_in_or_says_that_it_does_not() {
    let [mut here, there] = [Side::new(), Side::new()];
    let ticket = here.store.share("default", &ShareOptions::new()).unwrap();
    let wait = |store: &Store, seconds: u64| {
        let time = Duration::from_secs(seconds);
        store.wait_until_admitted(&ticket, time, &Task::new())
    };
    assert!(wait(&there.store, 60).unwrap_err().is_not_found());
    let options = JoinOptions::new().name("theirs");
    there.store.join(&ticket, &options).unwrap();
    assert!(wait(&there.store, 60).unwrap().connected);

    let cancel = Cancel::new();
    cancel.cancel();
    let mut late = Side::new();
    here.stop();
    late.store.join(&ticket, &options).unwrap();
    let task = Task::new().cancel_with(&cancel);
    let waited = late
        .store
        .wait_until_admitted(&ticket, Duration::from_secs(600), &task);
    assert!(waited.unwrap_err().is_cancelled());
    assert!(!wait(&late.store, 0).unwrap().connected);
    here.store.revoke_grant(ticket.grant).unwrap();
    let _again = node(&here.store);
    let refused = wait(&late.store, 60).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    assert!(
        refused.to_string().contains("let this node in"),
        "{refused}"
    );
    // Nobody can answer where no node runs.
    late.stop();
    assert!(!wait(&late.store, 600).unwrap().connected);
}

#[test]
fn a_join_that_is_refused_does_not_end_what_is_being_written() {
    let [mut here, there] = [Side::new(), Side::new()];
    let ticket = here.share(&ShareOptions::new());
    here.stop();
    here.store.revoke_grant(ticket.grant).unwrap();
    let options = JoinOptions::new().name("theirs");
    std::thread::scope(|scope| {
        let joining = scope.spawn(|| {
            let time = Duration::from_secs(90);
            there
                .store
                .join_and_wait(&ticket, &options, time, &Task::new())
        });
        until("it is joined", || there.store.bucket("theirs").is_ok());
        let main = there.store.bucket("theirs").unwrap().main().unwrap();
        let session = main.open_session("/f", &OpenOptions::new()).unwrap();
        session.write_at(0, b"text").unwrap();
        here.start();
        let refused = joining.join().unwrap().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        session.close().unwrap();
        assert_eq!(main.read("/f").unwrap(), b"text");
    });
    assert!(there.store.sync_status().unwrap().peers.is_empty());
}
