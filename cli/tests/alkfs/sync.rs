use std::io::{BufRead, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bench::{Bench, Ran, eventually};

/// A running `alkfs node`; ended when it is dropped.
pub(crate) struct Node(Option<Child>);

impl Node {
    pub(crate) fn start(bench: &Bench) -> Self {
        let mut child = bench.spawn(&["--json", "node", "--loopback"]);
        let mut line = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let record: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&record["op"], record["id"].as_str().unwrap().len()),
            (&"node".into(), 64)
        );
        Self(Some(child))
    }

    #[cfg(target_os = "linux")]
    fn interrupt(mut self) -> Ran {
        let child = self.0.take().unwrap();
        let id = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
        Ran::of(child)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

fn reads(bench: &Bench, bucket: &str, path: &str, text: &str) {
    eventually(path, || {
        let ran = bench.run(&["--bucket", bucket, "cat", path]);
        ran.status == 0 && ran.stdout == text.as_bytes()
    });
}

#[test]
fn what_is_written_to_a_bucket_that_may_only_be_read_is_said_to_stay() {
    let (a, b) = (Bench::new(), Bench::new());
    let _node = Node::start(&a);
    let node = Node::start(&b);
    a.put("/hello", "hello");
    let shared = a.one(&["share", "--read-only"]);
    b.one(&["join", shared["ticket"].as_str().unwrap(), "--as", "theirs"]);
    reads(&b, "theirs", "/hello", "hello");
    let stays = |count: u64| {
        let what = format!("{count} stay");
        eventually(&what, || {
            let status = b.one(&["sync", "status"]);
            status["synced"] == true && status["stays_here"] == count
        });
    };
    stays(0);
    let ran = b.run(&["sync", "status"]);
    assert!(!ran.stderr.contains("stay"), "{ran:?}");
    b.json_with(&["--bucket", "theirs", "put", "-", "/own"], b"own");
    stays(1);
    let ran = b.run(&["sync", "status"]);
    let said = "theirs is read-only: 1 change made here stays here";
    assert!(ran.stderr.contains(said), "{ran:?}");
    // What a fork of it holds stays too.
    b.one(&["--bucket", "theirs", "branch", "create", "mine"]);
    b.json_with(
        &["--bucket", "theirs", "--branch", "mine", "put", "-", "/own"],
        b"2",
    );
    let more_stay = || {
        let status = b.one(&["sync", "status"]);
        status["synced"] == true && status["stays_here"].as_u64() > Some(1)
    };
    eventually("more stay", more_stay);
    // Whatever is known when they meet.
    drop(node);
    let _again = Node::start(&b);
    eventually("more stay after a restart", more_stay);
    // So it is where the other is away.
    a.json(&["peers", "revoke", shared["grant"].as_str().unwrap()]);
    eventually("b is told", || {
        b.one(&["sync", "status"])["connected"] == false
    });
    let status = b.one(&["sync", "status"]);
    assert!(status["stays_here"].as_u64() > Some(1), "{status}");
    assert_eq!(a.names("main", "/"), ["hello"]);
    a.put("/later", "later");
    assert!(a.run(&["sync", "status"]).stderr.contains("runs the node"));
}

#[test]
fn a_bucket_is_shared_joined_and_taken_back() {
    let (a, b) = (Bench::new(), Bench::new());
    let node_a = Node::start(&a);
    let node_b = Node::start(&b);
    a.put("/hello", "hello");
    let shared = a.one(&["share", "--label", "to b"]);
    let said = |record: &Value, key: &str| record[key].as_str().unwrap().to_owned();
    assert_eq!(
        (said(&shared, "op"), said(&shared, "access")),
        ("share".into(), "write".into())
    );
    let ticket = said(&shared, "ticket");
    // The ticket alone is what a shell passes on.
    let plain = a.run(&["share", "default", "--read-only", "--expires", "7d"]);
    assert!(
        plain.text().starts_with("alkfs") && plain.text().lines().count() == 1,
        "{plain:?}"
    );
    assert!(
        plain.stderr.contains("hand it over in private"),
        "{plain:?}"
    );

    let error = b.fails(&["join", &ticket], "AlreadyExists");
    assert!(said(&error, "hint").contains("--as"), "{error}");
    let joined = b.json_with(&["join", "-", "--as", "theirs"], ticket.as_bytes());
    assert_eq!(
        (&joined[0]["bucket"], &joined[0]["running"]),
        (&"theirs".into(), &true.into())
    );
    assert_eq!(joined[0]["connected"], true, "{joined:?}");
    reads(&b, "theirs", "/hello", "hello");
    b.json_with(&["--bucket", "theirs", "put", "-", "/back"], b"back");
    reads(&a, "default", "/back", "back");
    for bench in [&a, &b] {
        let status = bench.one(&["sync", "status", "--wait", "60"]);
        assert_eq!(
            (&status["connected"], &status["synced"]),
            (&true.into(), &true.into())
        );
        assert_eq!(status["behind_there"]["contents"], 0);
        let table = bench.run(&["sync", "status"]);
        assert!(table.text().contains("synced") && table.stderr.contains("runs the node"));
    }

    let peer = a.one(&["peers", "list"]);
    assert_eq!(peer["grants"][0]["label"], "to b");
    let id = said(&peer, "peer");
    a.one(&["peers", "name", &id[..8], "laptop"]);
    assert!(a.run(&["peers", "list"]).text().contains("laptop"));
    assert_eq!(a.json(&["peers", "grants"]).len(), 2);
    let events = a.json(&["log"]);
    let came = events.iter().find(|event| event["path"] == "/back");
    assert_eq!(came.unwrap()["peer"]["name"], "laptop", "{events:?}");
    assert_eq!(came.unwrap()["peer"]["id"], id[..]);
    let own = events.iter().find(|event| event["path"] == "/hello");
    assert!(own.unwrap().get("peer").is_none(), "{events:?}");
    assert!(a.run(&["log"]).text().contains("laptop"));
    let watched = a.run(&["watch", "--after", "0", "--count", "2", "--timeout", "20"]);
    assert!(watched.text().contains("from laptop"), "{watched:?}");
    let own = said(&b.one(&["peers", "list"]), "peer");
    for taken in [&own[..], &own[..10]] {
        a.fails(&["peers", "name", "laptop", taken], "AlreadyExists");
    }
    let error = a.fails(&["peers", "name", "nobody", "x"], "NotFound");
    assert!(said(&error, "hint").contains("alkfs peers"), "{error}");
    let error = a.fails(&["node", "--loopback"], "Locked");
    assert!(error.get("hint").is_none_or(Value::is_null), "{error}");
    for open in [
        ["--n0"].as_slice(),
        &["--relay", "https://relay.example.org"],
    ] {
        let both = a.run(&[["node", "--loopback"].as_slice(), open].concat());
        assert_eq!(both.status, 2, "{both:?}");
        assert!(both.stderr.contains("cannot be used with"), "{both:?}");
    }
    let wrong = a.run(&["node", "--relay", "relay.example.org"]);
    assert_eq!(wrong.status, 2);
    assert!(wrong.stderr.contains("https://relay"), "{wrong:?}");
    // Alone, they show how it is.
    assert!(a.run(&["peers"]).text().contains("laptop"));
    assert!(a.run(&["sync"]).text().contains("synced"));
    assert_eq!(a.one(&["peers", "revoke", "laptop"])["grants"], 1);
    eventually("b is told", || {
        let status = b.one(&["sync", "status"]);
        let trouble = status["trouble"].as_str().unwrap_or_default();
        status["connected"] == false && trouble.contains("revoked")
    });
    let ran = b.run(&["sync", "status"]);
    assert!(
        ran.stderr.contains("warning") && ran.text().contains("refused"),
        "{ran:?}"
    );
    // Nobody waits for whom nothing lets in; nor is that called synced, where there is nobody else.
    let begun = Instant::now();
    let waited = a.run(&["--json", "sync", "status", "--wait", "60"]);
    let status = &waited.records()[0];
    assert_eq!(
        (&status["ended"], &status["connected"], waited.status),
        (&"revoked".into(), &false.into(), 1)
    );
    let waited = a.run(&["sync", "status", "--wait", "60"]);
    assert!(
        waited.stderr.contains("laptop, default: not synced")
            && waited.stderr.contains("was revoked"),
        "{waited:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(30), "{waited:?}");
    let ran = a.run(&["sync", "status"]);
    assert!(
        ran.text().contains("revoked") && !ran.stderr.contains("warning"),
        "{ran:?}"
    );
    assert!(a.run(&["peers", "grants"]).text().contains("never"));
    // Nobody comes in by that ticket, and is told so at once, with what to do.
    let c = Bench::new();
    let _node_c = Node::start(&c);
    let error = c.fails(&["join", &ticket, "--as", "theirs"], "PermissionDenied");
    assert!(
        said(&error, "message").contains("does not let this node in"),
        "{error}"
    );
    assert!(
        said(&error, "hint").contains("nothing was joined"),
        "{error}"
    );
    assert_eq!(c.json(&["bucket", "list"]).len(), 1);
    for nothing in [["peers", "list"], ["sync", "status"]] {
        assert!(c.json(&nothing).is_empty(), "{nothing:?}");
    }
    // Who is known for nothing any more is forgotten; nobody else is.
    let error = b.fails(
        &["peers", "forget", &said(&b.one(&["peers", "list"]), "peer")],
        "PermissionDenied",
    );
    assert!(
        said(&error, "message").contains("leave that first"),
        "{error}"
    );
    a.one(&["peers", "forget", "laptop"]);
    assert!(a.json(&["peers", "list"]).is_empty());
    assert!(a.json(&["sync", "status"]).is_empty());
    assert_eq!(b.run(&["sync", "status", "--wait", "0.1"]).status, 1);
    b.one(&["sync", "leave", "theirs"]);
    b.fails(&["sync", "leave", "theirs"], "NotFound");

    let error = a.fails(&["node", "--loopback"], "Locked");
    assert!(said(&error, "message").contains("process"), "{error}");
    drop(node_b);
    #[cfg(target_os = "linux")]
    {
        let ran = node_a.interrupt();
        assert_eq!(ran.status, 0, "{ran:?}");
        Node::start(&a);
    }
    #[cfg(not(target_os = "linux"))]
    drop(node_a);
}

#[test]
fn peers_and_grants_are_found_by_what_they_are_called() {
    let (a, b) = (Bench::new(), Bench::new());
    let _nodes = [Node::start(&a), Node::start(&b)];
    let message = |error: &Value| error["message"].as_str().unwrap().to_owned();
    let shared = a.one(&["share", "--label", "for b"]);
    let ticket = shared["ticket"].as_str().unwrap();
    b.one(&["join", ticket, "--as", "theirs"]);
    let own = b.one(&["peers", "list"])["peer"]
        .as_str()
        .unwrap()
        .to_owned();
    // The key of the node itself is that of no peer.
    for who in [&own[..], &own[..8]] {
        for command in [
            &["peers", "revoke", who][..],
            &["peers", "forget", who],
            &["peers", "name", who, "me"],
        ] {
            let error = a.fails(command, "InvalidInput");
            assert!(message(&error).contains("own node"), "{error}");
        }
    }
    let peer = a.one(&["peers", "list"])["peer"]
        .as_str()
        .unwrap()
        .to_owned();
    // A letter or two are no key.
    for command in [
        &["peers", "revoke", &peer[..3]][..],
        &["peers", "name", &peer[..1], "x"],
    ] {
        a.fails(command, "NotFound");
    }
    a.one(&["peers", "name", &peer[..4], "laptop"]);
    for command in ["revoke", "forget"] {
        let error = a.fails(&["peers", command, "desktop"], "NotFound");
        let hint = error["hint"].as_str().unwrap();
        assert!(
            hint.contains("laptop") && hint.contains("`alkfs peers`"),
            "{error}"
        );
    }
    // Grants by their labels, and by what their ids begin with.
    let grants = ["x", "x", "only"].map(|label| {
        let shared = a.one(&["share", "--label", label]);
        shared["grant"].as_str().unwrap().to_owned()
    });
    let error = a.fails(&["peers", "revoke", "x"], "InvalidInput");
    assert!(message(&error).contains("several grants"), "{error}");
    let hint = error["hint"].as_str().unwrap();
    assert!(hint.contains("alkfs peers grants"), "{error}");
    for who in [&grants[0][..20], "x", "only"] {
        let revoked = a.one(&["peers", "revoke", who]);
        assert_eq!((&revoked["grants"], revoked.get("peer")), (&1.into(), None));
    }
    for grant in a.json(&["peers", "grants"]) {
        let is_one = grants.iter().any(|id| grant["grant"] == id[..]);
        assert_eq!(grant.get("revoked").is_some(), is_one, "{grant}");
    }
    a.one(&["share", "--label", "laptop"]);
    let error = a.fails(&["peers", "revoke", "laptop"], "InvalidInput");
    assert!(
        message(&error).contains("both a peer and a grant"),
        "{error}"
    );
    assert_eq!(a.one(&["peers", "revoke", &peer])["peer"], peer[..]);
}

#[test]
fn tickets_add_up_and_what_they_let_out_is_said() {
    let (a, b) = (Bench::new(), Bench::new());
    let _nodes = [Node::start(&a), Node::start(&b)];
    a.put("/hello", "hello");
    a.one(&["branch", "create", "docs"]);
    let ticket = |args: &[&str]| {
        let shared = a.one(&[&["share"], args].concat());
        shared["ticket"].as_str().unwrap().to_owned()
    };
    let first = b.one(&["join", &ticket(&["--branch", "docs"]), "--as", "theirs"]);
    assert!(first.get("unsent").is_none(), "{first}");
    let peers = b.run(&["peers", "list"]);
    assert!(peers.text().contains("theirs (docs): write"), "{peers:?}");
    b.one(&["join", &ticket(&["--read-only"])]);
    a.put("/news", "news");
    reads(&b, "theirs", "/news", "news");
    b.json_with(
        &[
            "--bucket", "theirs", "--branch", "docs", "put", "-", "/page",
        ],
        b"page",
    );
    eventually("it goes out", || {
        a.run(&["--branch", "docs", "cat", "/page"]).stdout == b"page"
    });
    for (path, stays) in [("/one", 1), ("/two", 2)] {
        b.json_with(&["--bucket", "theirs", "put", "-", path], b"own");
        eventually("it stays", || {
            b.one(&["sync", "status"])["stays_here"] == stays
        });
    }
    assert_eq!(a.run(&["cat", "/one"]).status, 1);
    let whole = ticket(&[]);
    let other = a.one(&["share"])["ticket"].as_str().unwrap().to_owned();
    let ran = b.run(&["join", &whole]);
    assert!(
        ran.status == 0
            && ran
                .stderr
                .contains("2 changes made here while the bucket was only read go out"),
        "{ran:?}"
    );
    reads(&a, "default", "/one", "own");
    reads(&a, "default", "/two", "own");
    let again = b.one(&["join", &other]);
    assert!(again.get("unsent").is_none(), "{again}");
    // Where no node tells how many they are, it is said that there are some.
    let c = Bench::new();
    c.one(&["join", &ticket(&["--read-only"]), "--as", "theirs"]);
    assert!(c.one(&["join", &whole]).get("unsent").is_none());
    let d = Bench::new();
    d.one(&["join", &ticket(&["--read-only"]), "--as", "theirs"]);
    d.json_with(&["--bucket", "theirs", "put", "-", "/three"], b"own");
    let unsent = &d.one(&["join", &whole])["unsent"];
    assert_eq!(*unsent, serde_json::json!({"commits": null}));
}

#[test]
fn a_join_that_is_refused_leaves_all_as_it_was() {
    let (a, b) = (Bench::new(), Bench::new());
    let _nodes = [Node::start(&a), Node::start(&b)];
    a.put("/hello", "hello");
    let share = |args: &[&str]| {
        let shared = a.one(&[&["share"], args].concat());
        ["ticket", "grant"].map(|key| shared[key].as_str().unwrap().to_owned())
    };
    let [good, _] = share(&["--read-only"]);
    let [taken_back, grant] = share(&[]);
    a.one(&["peers", "revoke", &grant]);
    // A bucket of its own stays, unshared, and can be merged with another one.
    b.fails(&["join", "--merge", &taken_back], "PermissionDenied");
    assert_eq!(b.json(&["bucket", "list"]).len(), 1);
    assert!(b.json(&["sync", "status"]).is_empty());
    b.put("/own", "own");
    b.fails(&["join", &taken_back, "--as", "x"], "PermissionDenied");
    assert_eq!(b.json(&["bucket", "list"]).len(), 1);
    assert!(b.json(&["peers", "list"]).is_empty());
    b.one(&["join", "--merge", &good]);
    reads(&b, "default", "/hello", "hello");
    reads(&b, "default", "/own", "own");
}

#[test]
fn what_is_shared_for_a_while_is_refused_after_that() {
    let (a, b) = (Bench::new(), Bench::new());
    let _nodes = [Node::start(&a), Node::start(&b)];
    a.put("/hello", "hello");
    a.put("/unread", "never read there");
    // A slow machine needs more time to get in before it is over.
    let shared = [3, 6, 12, 24].into_iter().find_map(|seconds| {
        let shared = a.one(&["share", "--expires", &format!("{seconds}s")]);
        let ends = Instant::now() + Duration::from_secs(seconds);
        let ran = b.run(&["join", shared["ticket"].as_str().unwrap(), "--as", "theirs"]);
        let mut is_in = false;
        while ran.status == 0 && !is_in && Instant::now() < ends {
            let read = b.run(&["--bucket", "theirs", "cat", "/hello"]);
            is_in = read.stdout == b"hello" && b.one(&["sync", "status"])["connected"] == true;
        }
        let grants = a.json(&["peers", "grants"]);
        let expires = |grant: &Value| grant["expires"] == shared["expires"];
        assert!(shared["expires"].is_string() && grants.iter().any(expires));
        is_in.then_some(shared)
    });
    let shared = shared.unwrap();
    let ticket = shared["ticket"].as_str().unwrap();

    // Those who are in hear that, and what to do.
    let why = "the grant has expired: ask for a new ticket";
    eventually("b is told", || {
        let status = b.one(&["sync", "status"]);
        let trouble = status["trouble"].as_str().unwrap_or_default();
        status["connected"] == false && trouble.contains(why)
    });
    let said = b.run(&["sync", "status"]);
    assert!(said.stderr.contains(why), "{said:?}");
    let waited = a.run(&["--json", "sync", "status", "--wait", "60"]);
    assert_eq!(waited.records()[0]["ended"], "expired");
    assert!(waited.status == 1 && waited.stderr.is_empty(), "{waited:?}");
    a.put("/later", "later");
    let here = ["--bucket", "theirs", "cat", "/hello"];
    assert_eq!(b.run(&here).stdout, b"hello");
    let error = b.fails(&["--bucket", "theirs", "cat", "/later"], "NotFound");
    assert_eq!(error["code"], "ENOENT");
    b.one(&["--bucket", "theirs", "policy", "--timeout", "1s"]);
    let unread = ["--bucket", "theirs", "cat", "/unread"];
    b.fails(&unread, "ContentUnavailable");

    // Nobody comes in by the ticket any more.
    let c = Bench::new();
    let error = c.fails(&["join", ticket, "--as", "theirs"], "InvalidInput");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("expired: ask for a new one"), "{error}");
    let renewed = a.one(&["share"]);
    b.one(&["join", renewed["ticket"].as_str().unwrap()]);
    reads(&b, "theirs", "/later", "later");
    reads(&b, "theirs", "/unread", "never read there");
}

#[test]
fn status_and_leave_are_of_the_bucket_that_is_named() {
    let (a, b) = (Bench::new(), Bench::new());
    let _nodes = [Node::start(&a), Node::start(&b)];
    let join = |name: &str| {
        let shared = a.one(&["share", name]);
        let joined = format!("their-{name}");
        b.one(&["join", shared["ticket"].as_str().unwrap(), "--as", &joined]);
    };
    a.one(&["bucket", "create", "other"]);
    join("default");
    join("other");
    // What of the one is not there does not hold up the other.
    a.json_with(&["--bucket", "other", "put", "-", "/unread"], b"unread");
    let wait = ["sync", "status", "--wait", "60"];
    let of = |bucket: &'static str| [&["--bucket", bucket][..], &wait].concat();
    let status = b.one(&of("their-default"));
    assert_eq!(
        (&status["bucket"], &status["synced"]),
        (&"their-default".into(), &true.into())
    );
    b.one(&["--bucket", "their-other", "sync", "status"]);
    assert_eq!(b.json(&["sync", "status"]).len(), 2);
    b.fails(&["--bucket", "none", "sync", "status"], "NotFound");
    let left = b.one(&["--bucket", "their-other", "sync", "leave"]);
    assert_eq!(left["name"], "their-other");
    eventually("only the other is left", || {
        let status = b.json(&["sync", "status"]);
        status.len() == 1 && status[0]["bucket"] == "their-default"
    });
}

#[test]
fn a_port_that_is_taken_is_said_with_what_to_do() {
    let bench = Bench::new();
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let error = bench.fails(&["node", "--loopback", "--port", &port], "Io");
    let message = error["message"].as_str().unwrap();
    let wanted = format!("cannot listen on UDP port {port}: choose another port");
    assert!(message.contains(&wanted), "{error}");
}

/// The node of a store that is not there any more can do nothing, and whoever started it is told.
#[cfg(unix)]
#[test]
fn a_node_that_cannot_go_on_ends_with_an_error() {
    let bench = Bench::new();
    let mut node = Node::start(&bench);
    let database = bench.path(".alkfs/store.db");
    std::fs::copy(&database, bench.path("copy")).unwrap();
    std::fs::rename(bench.path("copy"), &database).unwrap();
    let mut child = node.0.take().unwrap();
    eventually("it ends", || child.try_wait().unwrap().is_some());
    let ran = Ran::of(child);
    assert_eq!(ran.status, 1, "{ran:?}");
    // What its threads log may come after it.
    let mut records = ran.stderr.lines().filter_map(|line| {
        let record: Value = serde_json::from_str(line).ok()?;
        Some(record["message"].as_str()?.to_owned())
    });
    let is_said = records.any(|message| message.contains("store.db was replaced"));
    assert!(is_said, "{ran:?}");
}

#[test]
fn sharing_and_joining_work_before_any_node_runs() {
    let (a, b) = (Bench::new(), Bench::new());
    a.put("/early", "early");
    a.one(&["branch", "create", "docs"]);
    a.run_with(&["--branch", "docs", "put", "-", "/page"], b"page");
    let shared = a.one(&["share", "--branch", "docs", "--read-only"]);
    assert_eq!(shared["branches"], serde_json::json!(["docs"]));
    let note = a.run(&["share"]);
    assert!(note.stderr.contains("alkfs node"), "{note:?}");
    b.one(&["join", shared["ticket"].as_str().unwrap(), "--as", "x"]);
    assert_eq!(b.one(&["sync", "status"])["connected"], false);
    let _nodes = [Node::start(&a), Node::start(&b)];
    eventually("the branch", || {
        let ran = b.run(&[
            "--bucket", "x", "--branch", "docs", "cat", "/page", "/early",
        ]);
        ran.status == 0 && ran.stdout == b"pageearly"
    });
}

#[test]
fn what_is_no_ticket_is_refused_with_what_to_do() {
    let bench = Bench::new();
    let says = |args: &[&str], kind: &str, what: &str| {
        let error = bench.fails(args, kind);
        assert!(error["message"].as_str().unwrap().contains(what), "{error}");
    };
    says(&["join", "hello"], "InvalidInput", "no ticket");
    let ticket = bench.one(&["share"])["ticket"].as_str().unwrap().to_owned();
    says(&["join", &ticket[..60]], "InvalidInput", "copy it again");
    says(&["join", &ticket], "InvalidInput", "this store gave out");
    says(&["share", "nothing"], "NotFound", "nothing");
    says(&["share", "--branch", "nothing"], "NotFound", "nothing");
    says(
        &["share", "--branch", "main@v1"],
        "InvalidInput",
        "snapshot",
    );
    assert!(bench.json(&["sync", "status"]).is_empty());
    assert!(bench.json(&["peers", "list"]).is_empty());
    let error = &bench.run_with(&["--json", "join", "-"], b"\xff\xfe").stderr;
    assert!(error.contains("that is no ticket"), "{error}");
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt as _;
        let mut command = bench.command(&["join"]);
        command.arg(std::ffi::OsStr::from_bytes(b"alkfs\xff"));
        let out = command.output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(said.contains("incomplete or was altered"), "{said}");
    }
    // What it is called here is said otherwise.
    for args in [
        ["--bucket", "mine", "join", &ticket],
        ["join", &ticket, "--bucket", "mine"],
    ] {
        let ran = bench.run(&args);
        assert_eq!(ran.status, 2, "{ran:?}");
        assert!(ran.stderr.contains("--as NAME"), "{ran:?}");
    }
    let other = Bench::new();
    other.one(&["join", &ticket, "--as", "theirs"]);
    let error = other.fails(&["join", &ticket, "--as", "another"], "AlreadyExists");
    let hint = error["hint"].as_str().unwrap();
    assert!(hint.contains("without --as"), "{error}");
    let third = Bench::new();
    let theirs = third.one(&["share"])["ticket"].as_str().unwrap().to_owned();
    let error = other.fails(&["join", &theirs, "--as", "theirs"], "AlreadyExists");
    let hint = error["hint"].as_str().unwrap();
    assert!(
        hint.contains("--as NAME") && !hint.contains("--merge"),
        "{error}"
    );
}

/// Lets the second bench join the default bucket of the first as `theirs`, and waits until it has all.
fn joined(a: &Bench, b: &Bench) {
    let ticket = a.one(&["share"])["ticket"].as_str().unwrap().to_owned();
    b.one(&["join", &ticket, "--as", "theirs"]);
    b.one(&["--bucket", "theirs", "policy", "eager"]);
    a.one(&["sync", "status", "--wait", "60"]);
}

#[test]
fn what_one_who_is_away_lacks_is_said() {
    let (a, b) = (Bench::new(), Bench::new());
    let node_a = Node::start(&a);
    let node_b = Node::start(&b);
    a.put("/f", "data");
    joined(&a, &b);
    drop(node_b);
    eventually("it is gone", || {
        a.one(&["sync", "status"])["connected"] == false
    });
    let before = a.one(&["sync", "status"])["behind_there"]["commits"]
        .as_u64()
        .unwrap();
    for n in 0..2 {
        a.put(&format!("/{n}"), "more");
    }
    let behind = |bench: &Bench| {
        let status = bench.one(&["sync", "status"]);
        assert_eq!(status["known"], true, "{status}");
        status["behind_there"]["commits"].as_u64().unwrap()
    };
    assert_eq!(behind(&a), before + 2);
    // Whether a node runs, and after it ran again.
    drop(node_a);
    assert_eq!(behind(&a), before + 2);
    a.put("/2", "more");
    let _node_a = Node::start(&a);
    assert_eq!(behind(&a), before + 3);
    let commits = format!("{} commits", before + 3);
    let ran = a.run(&["sync", "status"]);
    assert!(ran.text().contains(&commits), "{ran:?}");
    let waited = a.run(&["sync", "status", "--wait", "0.1"]);
    assert!(waited.stderr.contains("it is not connected"), "{waited:?}");
    // With one that it never met nothing is known.
    let c = Bench::new();
    let ticket = a.one(&["share", "--read-only"])["ticket"]
        .as_str()
        .unwrap()
        .to_owned();
    c.one(&["join", &ticket, "--as", "theirs", "--wait", "0"]);
    assert_eq!(c.one(&["sync", "status"])["known"], false);
    let ran = c.run(&["sync", "status"]);
    assert_eq!(ran.text().matches("unknown").count(), 2, "{ran:?}");
}

#[test]
fn a_read_ends_at_once_where_all_who_have_it_refuse() {
    let (a, b) = (Bench::new(), Bench::new());
    let _nodes = [Node::start(&a), Node::start(&b)];
    a.put("/f", "data");
    let ticket = a.one(&["share"])["ticket"].as_str().unwrap().to_owned();
    b.one(&["join", &ticket, "--as", "theirs"]);
    eventually("the name", || {
        b.json(&["--bucket", "theirs", "ls", "/"]).len() == 1
    });
    let id = b.one(&["peers", "list"])["peer"]
        .as_str()
        .unwrap()
        .to_owned();
    b.one(&["peers", "name", &id, "desk"]);
    let laptop = a.one(&["peers", "list"])["peer"]
        .as_str()
        .unwrap()
        .to_owned();
    a.one(&["peers", "revoke", &laptop]);
    eventually("b is told", || {
        b.one(&["sync", "status"])["refused"] == true
    });
    b.one(&["--bucket", "theirs", "policy", "--timeout", "60s"]);
    let begun = Instant::now();
    let error = b.fails(&["--bucket", "theirs", "cat", "/f"], "ContentUnavailable");
    assert!(begun.elapsed() < Duration::from_secs(30), "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("from desk: ") && message.contains("revoked"),
        "{error}"
    );
    let waited = b.run(&["sync", "status", "--wait", "0.1"]);
    assert!(
        waited
            .stderr
            .contains("desk, theirs: not synced, it does not let this node in")
    );

    // Once it is let in again, it comes.
    let ticket = a.one(&["share"])["ticket"].as_str().unwrap().to_owned();
    b.one(&["join", &ticket]);
    assert_eq!(b.run(&["--bucket", "theirs", "cat", "/f"]).stdout, b"data");
}

#[test]
fn what_each_grant_allows_is_said() {
    let (a, b) = (Bench::new(), Bench::new());
    a.put("/f", "data");
    a.one(&["branch", "create", "ideas"]);
    let _nodes = [Node::start(&a), Node::start(&b)];
    let join = |share: &[&str]| {
        let ticket = a.one(share)["ticket"].as_str().unwrap().to_owned();
        b.one(&["join", &ticket, "--as", "theirs"]);
    };
    // Of what allows no more than another nothing is said.
    join(&["share", "--read-only", "--expires", "1d"]);
    join(&["--branch", "ideas", "share"]);
    join(&["share", "--read-only"]);
    let expected = serde_json::json!([
        { "access": "write", "branches": ["ideas"] },
        { "access": "read" },
    ]);
    for bench in [&a, &b] {
        eventually("all are used", || {
            bench.one(&["sync", "status"])["terms"] == expected
        });
    }
    for (bench, says) in [
        (&a, "it may write ideas; read "),
        (&b, "write ideas; read "),
    ] {
        let ran = bench.run(&["sync", "status"]);
        assert!(ran.text().contains(says), "{ran:?}");
    }
    // Who deletes the bucket is told who lacks what of it.
    eventually("what it lacks is known", || {
        let error = a.fails(&["bucket", "delete", "default"], "InUse");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("; shared with "), "{message}");
        message.contains(" lacks 1 content of 4 B")
    });
    let ran = b.run(&["--bucket", "theirs", "sync", "leave"]);
    assert!(ran.stdout.starts_with(b"left theirs"), "{ran:?}");
}

#[test]
fn a_bucket_is_left_for_one_of_two_givers() {
    let [a, b, c] = [Bench::new(), Bench::new(), Bench::new()];
    let from = |giver: &Bench, args: &[&str]| {
        let shared = giver.one(&[args, &["share"]].concat());
        c.one(&["join", shared["ticket"].as_str().unwrap(), "--as", "theirs"]);
    };
    let ticket = a.one(&["share"])["ticket"].as_str().unwrap().to_owned();
    b.one(&["join", &ticket, "--as", "theirs"]);
    from(&a, &[]);
    from(&b, &["--bucket", "theirs"]);
    let peers = c.json(&["peers", "list"]);
    let ids = peers.iter().map(|peer| peer["peer"].as_str().unwrap());
    let ids: Vec<_> = ids.collect();
    assert_eq!(ids.len(), 2);
    let left = |who: &str| {
        let ran = c.run(&["sync", "leave", "theirs", "--from", who]);
        assert_eq!(ran.status, 0, "{ran:?}");
        ran.text().to_owned()
    };
    assert!(left(ids[0]).contains("is not taken from"));
    let error = c.fails(&["sync", "leave", "theirs", "--from", ids[0]], "NotFound");
    assert!(error["hint"].as_str().unwrap().contains("alkfs peers"));
    assert!(left(ids[1]).contains("left theirs: the bucket stays, on its own"));
}

#[test]
fn a_bucket_that_is_deleted_is_left() {
    let (a, b) = (Bench::new(), Bench::new());
    let _nodes = [Node::start(&a), Node::start(&b)];
    a.put("/f", "data");
    joined(&a, &b);
    // Who gives it need not leave it, and is told what there is to do.
    let error = a.fails(&["sync", "leave"], "NotFound");
    assert!(
        error["hint"]
            .as_str()
            .unwrap()
            .contains("alkfs peers revoke"),
        "{error}"
    );
    b.one(&["bucket", "delete", "theirs", "--yes"]);
    eventually("it is not told of", || {
        b.json(&["sync", "status"]).is_empty()
    });
    let peers = b.run(&["peers"]);
    assert!(!peers.text().contains("deleted"), "{peers:?}");
    let id = a.one(&["sync", "status"])["peer"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(id.len() == 64);
    let giver = b.one(&["peers", "list"])["peer"]
        .as_str()
        .unwrap()
        .to_owned();
    b.one(&["peers", "forget", &giver]);
}
