//! Nodes that share, join and converse over loopback.

use std::time::{Duration, Instant};

use crate::common::{Node, now, offer, until};
use alknet_fs_core::Timestamp;
use alknet_fs_core::store::Durability;
use alknet_fs_net::{Access, Offer, Records, Status};

#[tokio::test(flavor = "multi_thread")]
async fn what_one_writes_the_other_shows() {
    let (a, b) = (Node::start().await, Node::start().await);
    let (on_a, on_b) = (a.bucket("work"), b.bucket("mine"));
    a.write(on_a, "main", "/from-a");
    let ticket = a.share(on_a, offer(Access::Write));
    b.join(on_b, &ticket);
    b.shows(on_b, "main", &["/from-a"]).await;
    b.write(on_b, "main", "/from-b");
    a.shows(on_a, "main", &["/from-a", "/from-b"]).await;
    a.write(on_a, "main", "/later");
    b.shows(on_b, "main", &["/from-a", "/from-b", "/later"])
        .await;
    a.in_step().await;
    b.in_step().await;
    let links = a.links().await;
    assert_eq!(links.len(), 1);
    assert!(links[0].shared && links[0].connected && links[0].trouble.is_none());
    // Other processes see it too.
    until("a record of the status", async || {
        let status = Status::load(&*b.store.read().unwrap()).unwrap();
        status.links.len() == 1 && status.links[0].in_step
    })
    .await;
    for mut node in [a, b] {
        node.stop().await;
        let status = Status::load(&*node.store.read().unwrap()).unwrap();
        assert!(!status.links[0].connected && status.links[0].seen.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_find_each_other_again() {
    let (mut a, mut b) = (Node::start().await, Node::start().await);
    let (on_a, on_b) = (a.bucket("work"), b.bucket("work"));
    let ticket = a.share(on_a, offer(Access::Write));
    b.join(on_b, &ticket);
    b.in_step().await;
    a.stop().await;
    a.write(on_a, "main", "/while-a-was-off");
    b.write(on_b, "main", "/while-alone");
    a.run().await;
    let all = ["/while-a-was-off", "/while-alone"];
    b.shows(on_b, "main", &all).await;
    a.shows(on_a, "main", &all).await;
    b.stop().await;
    b.write(on_b, "main", "/while-b-was-off");
    b.run().await;
    a.shows(
        on_a,
        "main",
        &["/while-a-was-off", "/while-alone", "/while-b-was-off"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_moved_is_found_by_its_own_call() {
    let (mut a, b) = (Node::start().await, Node::start().await);
    let (on_a, on_b) = (a.bucket("work"), b.bucket("work"));
    b.join(on_b, &a.share(on_a, offer(Access::Write)));
    b.in_step().await;
    a.stop().await;
    // Somebody else has its port now.
    let port = Records::load(&*a.store.read().unwrap()).unwrap().port;
    let mut socket = None;
    until("the port is free", async || {
        socket = std::net::UdpSocket::bind(("127.0.0.1", port.unwrap())).ok();
        socket.is_some()
    })
    .await;
    a.run().await;
    a.write(on_a, "main", "/moved");
    b.shows(on_b, "main", &["/moved"]).await;
    drop(socket);
}

#[tokio::test(flavor = "multi_thread")]
async fn three_in_a_row_and_two_that_share_with_each_other() {
    let nodes = [
        Node::start().await,
        Node::start().await,
        Node::start().await,
    ];
    let [a, b, c] = &nodes;
    let [on_a, on_b, on_c] = [a.bucket("x"), b.bucket("x"), c.bucket("x")];
    b.join(on_b, &a.share(on_a, offer(Access::Write)));
    // The same uid goes on.
    c.join(on_c, &b.share(on_b, offer(Access::Write)));
    a.join(on_a, &b.share(on_b, offer(Access::Read)));
    for (n, (node, bucket)) in [(a, on_a), (b, on_b), (c, on_c)].into_iter().enumerate() {
        node.write(bucket, "main", &format!("/{n}"));
    }
    for (node, bucket) in [(a, on_a), (b, on_b), (c, on_c)] {
        node.shows(bucket, "main", &["/0", "/1", "/2"]).await;
        node.in_step().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_read_keeps_what_it_writes() {
    let (a, b) = (Node::start().await, Node::start().await);
    let (on_a, on_b) = (a.bucket("work"), b.bucket("work"));
    a.write(on_a, "main", "/from-a");
    b.write(on_b, "main", "/before");
    b.join(on_b, &a.share(on_a, offer(Access::Read)));
    b.shows(on_b, "main", &["/before", "/from-a"]).await;
    b.write(on_b, "main", "/after");
    a.write(on_a, "main", "/more");
    b.shows(on_b, "main", &["/after", "/before", "/from-a", "/more"])
        .await;
    a.in_step().await;
    b.in_step().await;
    assert_eq!(a.paths(on_a, "main"), ["/from-a", "/more"]);
    let links = b.links().await;
    assert_eq!(links[0].access, Access::Read);
    assert!(links[0].trouble.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_of_a_branch_covers_just_that() {
    let (a, b) = (Node::start().await, Node::start().await);
    let (on_a, on_b) = (a.bucket("work"), b.bucket("work"));
    a.fork(on_a, "shown");
    for (node, bucket) in [(&a, on_a), (&b, on_b)] {
        node.fork(bucket, "hidden");
    }
    a.write(on_a, "main", "/base");
    a.write(on_a, "shown", "/shown");
    a.write(on_a, "hidden", "/secret");
    let offer = Offer {
        branches: vec!["shown".to_owned()],
        ..offer(Access::Write)
    };
    b.join(on_b, &a.share(on_a, offer));
    b.shows(on_b, "shown", &["/base", "/shown"]).await;
    b.write(on_b, "shown", "/back");
    b.write(on_b, "main", "/mine");
    b.write(on_b, "hidden", "/mine-too");
    a.shows(on_a, "shown", &["/back", "/base", "/shown"]).await;
    a.in_step().await;
    b.in_step().await;
    assert_eq!(a.paths(on_a, "main"), ["/base"]);
    assert_eq!(a.paths(on_a, "hidden"), ["/base", "/secret"]);
    assert_eq!(b.paths(on_b, "hidden"), ["/base", "/mine", "/mine-too"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_by_several_tickets_counts_together() {
    let a = Node::start().await;
    let on_a = a.bucket("work");
    for name in ["one", "two", "unseen"] {
        a.fork(on_a, name);
    }
    let branch = |name: &str| {
        let branches = vec![name.to_owned()];
        a.share(
            on_a,
            Offer {
                branches,
                ..offer(Access::Write)
            },
        )
    };
    let [one, two, all] = [
        branch("one"),
        branch("two"),
        a.share(on_a, offer(Access::Read)),
    ];
    // Each of them used one after the other, and all at once.
    for (n, apart) in [true, false].into_iter().enumerate() {
        let mut b = Node::start().await;
        let on_b = b.bucket("work");
        if !apart {
            b.stop().await;
        }
        for (ticket, branch) in [(&one, "one"), (&two, "two"), (&all, "main")] {
            b.join(on_b, ticket);
            if apart {
                let mark = format!("/{branch}");
                a.write(on_a, branch, &mark);
                until(&mark, async || {
                    b.paths(on_b, branch).contains(&mark) && b.links().await[0].in_step
                })
                .await;
            }
        }
        if !apart {
            b.run().await;
        }
        let unseen = format!("/unseen-{n}");
        a.write(on_a, "unseen", &unseen);
        until("all of it is read", async || {
            b.paths(on_b, "unseen").contains(&unseen)
        })
        .await;
        for branch in ["one", "two", "main"] {
            let mark = format!("/{branch}");
            until(&mark, async || b.paths(on_b, branch).contains(&mark)).await;
            b.write(on_b, branch, &format!("/{branch}-of-{n}"));
        }
        for branch in ["one", "two"] {
            let path = format!("/{branch}-of-{n}");
            until(&path, async || a.paths(on_a, branch).contains(&path)).await;
        }
        a.in_step_with(&b).await;
        b.in_step().await;
        let mine = format!("/main-of-{n}");
        assert!(!a.paths(on_a, "main").contains(&mine));
        let links = b.links().await;
        assert_eq!((links[0].access, links[0].stays), (Access::Write, Some(1)));
        // Branches to come are covered too.
        let later = format!("later-{n}");
        a.fork(on_a, &later);
        a.write(on_a, &later, "/x");
        until(&later, async || {
            b.paths(on_b, &later).contains(&"/x".to_owned())
        })
        .await;
        let bound = a.records();
        let bound = bound.grants.iter().find(|grant| grant.id == two.grant);
        assert_eq!(bound.unwrap().keys.len(), n + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_grant_that_is_taken_back_leaves_the_others() {
    let (a, b) = (Node::start().await, Node::start().await);
    let (on_a, on_b) = (a.bucket("work"), b.bucket("work"));
    a.fork(on_a, "side");
    let side = a.share(
        on_a,
        Offer {
            branches: vec!["side".to_owned()],
            ..offer(Access::Write)
        },
    );
    b.join(on_b, &side);
    b.join(on_b, &a.share(on_a, offer(Access::Read)));
    b.in_step().await;
    b.write(on_b, "side", "/first");
    until("it goes out", async || a.paths(on_a, "side") == ["/first"]).await;
    Records::update(&*a.store, Durability::Full, |records, _| {
        records.revoke_grant(side.grant, now())
    })
    .unwrap();
    until("it is only read", async || {
        let links = b.links().await;
        links[0].connected && links[0].access == Access::Read
    })
    .await;
    b.write(on_b, "side", "/second");
    a.write(on_a, "main", "/news");
    b.shows(on_b, "main", &["/news"]).await;
    b.in_step().await;
    assert!(!a.paths(on_a, "side").contains(&"/second".to_owned()));
}

/// A grant may name a branch that was deleted: what is said to be allowed is what the others allow.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_of_a_deleted_branch_allows_nothing_elsewhere() {
    let (a, mut b) = (Node::start().await, Node::start().await);
    let (on_a, on_b) = (a.bucket("work"), b.bucket("work"));
    a.fork(on_a, "side");
    let side = Offer {
        branches: vec!["side".to_owned()],
        ..offer(Access::Write)
    };
    b.join(on_b, &a.share(on_a, side));
    b.join(on_b, &a.share(on_a, offer(Access::Read)));
    b.in_step().await;
    b.stop().await;
    a.delete_branch(on_a, "side");
    b.write(on_b, "main", "/own");
    b.run().await;
    a.write(on_a, "main", "/news");
    b.shows(on_b, "main", &["/news", "/own"]).await;
    b.in_step().await;
    a.in_step().await;
    for node in [&a, &b] {
        let links = node.links().await;
        assert_eq!((links.len(), links[0].access), (1, Access::Read));
        assert_eq!(links[0].trouble, None);
    }
    assert_eq!(a.paths(on_a, "main"), ["/news"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_back_or_expires_ends_at_once() {
    let (a, mut b, mut c) = (
        Node::start().await,
        Node::start().await,
        Node::start().await,
    );
    let (on_a, on_b, on_c) = (a.bucket("x"), b.bucket("x"), c.bucket("x"));
    b.join(on_b, &a.share(on_a, offer(Access::Write)));
    let soon = Timestamp(now().0 + 3_000_000_000);
    let brief = Offer {
        expires: Some(soon),
        ..offer(Access::Write)
    };
    c.join(on_c, &a.share(on_a, brief));
    b.in_step().await;
    c.in_step().await;
    until("expired", async || {
        let links = c.links().await;
        let trouble = links[0].trouble.as_deref();
        !links[0].connected && trouble.is_some_and(|why| why.contains("expired"))
    })
    .await;
    assert!(now() >= soon);
    let is_connected = |with: &Node| a.net().connected_since(with.id()).is_some();
    until("the connection is closed", async || !is_connected(&c)).await;
    let peer = b.net().endpoint().id();
    assert!(is_connected(&b));
    let revoked = Records::update(&*a.store, Durability::Full, |records, _| {
        Ok(records.revoke_peer(peer, now()))
    });
    assert_eq!(revoked.unwrap(), 1);
    until("revoked", async || {
        let links = b.links().await;
        let trouble = links[0].trouble.as_deref();
        !links[0].connected && trouble.is_some_and(|why| why.contains("revoked"))
    })
    .await;
    until("the connection is closed", async || !is_connected(&b)).await;
    a.write(on_a, "main", "/own");
    for (node, bucket, why) in [(&mut b, on_b, "revoked"), (&mut c, on_c, "expired")] {
        node.write(bucket, "main", "/too-late");
        // A node that starts knows of no refusal: it asks again.
        node.stop().await;
        node.run().await;
        until("it is refused again", async || {
            let links = node.links().await;
            let trouble = links.first().and_then(|link| link.trouble.as_deref());
            trouble.is_some_and(|trouble| trouble.contains(why))
        })
        .await;
        assert_eq!(node.paths(bucket, "main"), ["/too-late"]);
    }
    assert_eq!(a.paths(on_a, "main"), ["/own"]);
    // A new ticket lets in at once who was refused.
    b.join(on_b, &a.share(on_a, offer(Access::Write)));
    b.shows(on_b, "main", &["/own", "/too-late"]).await;
}

/// Each fills all that the connection takes before it has heard anything of what the other one says: nobody
/// may wait for the other to take it first.
#[tokio::test(flavor = "multi_thread")]
async fn two_that_have_much_to_say_at_once_hear_each_other() {
    // Of each branch only so much is said that was not acknowledged: of all together it is more.
    const BRANCHES: usize = 8;
    const COUNT: usize = 1000;
    const BYTES: usize = 3000;
    let (a, b) = (Node::start().await, Node::start().await);
    let (on_a, on_b) = (a.bucket("work"), b.bucket("work"));
    let names = |of: &'static str| (0..BRANCHES).map(move |n| format!("{of}-{n}"));
    let all: Vec<String> = names("of-a").chain(names("of-b")).collect();
    for (node, bucket, own) in [(&a, on_a, &all[..BRANCHES]), (&b, on_b, &all[BRANCHES..])] {
        for name in own {
            node.fork(bucket, name);
            node.link(bucket, name, COUNT, BYTES);
        }
    }
    let before = [&a, &b].map(|node| node.net().traffic());
    b.join(on_b, &a.share(on_a, offer(Access::Write)));
    let deadline = Instant::now() + Duration::from_secs(240);
    loop {
        let links = [a.links().await, b.links().await].concat();
        let trouble: Vec<_> = links.iter().filter_map(|l| l.trouble.as_ref()).collect();
        assert!(trouble.is_empty(), "{trouble:?}");
        if links.len() == 2 && links.iter().all(|link| link.in_step) {
            break;
        }
        assert!(Instant::now() < deadline, "they do not agree: {links:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for (node, bucket) in [(&a, on_a), (&b, on_b)] {
        for name in &all {
            assert_eq!(node.paths(bucket, name).len(), COUNT, "{name}");
        }
    }
    // It was as much as to fill the connection, and one conversation said it all: none was cut.
    let said = (2 * BRANCHES * COUNT * BYTES) as u64;
    for (node, before) in [&a, &b].into_iter().zip(before) {
        let came = node.net().traffic() - before;
        assert!(came > said, "{came}");
        assert_eq!(*node.net().arrivals().borrow(), 1);
    }
}
