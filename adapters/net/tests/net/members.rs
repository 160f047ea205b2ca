//! Nodes that converse though neither gave the other a grant.

use alknet_fs_core::store::{BucketId, Durability};
use alknet_fs_net::{Access, Offer, Records};

use crate::common::{Node, now, offer, until};

/// A node that shares a bucket with others, which all know each other.
async fn hub(access: &[Access]) -> (Node, BucketId, Vec<(Node, BucketId)>) {
    let hub = Node::start().await;
    let bucket = hub.bucket("work");
    let mut others = Vec::new();
    for access in access {
        let node = Node::start().await;
        let there = node.bucket("work");
        node.join(there, &hub.share(bucket, offer(*access)));
        others.push((node, there));
    }
    for (at, (node, there)) in others.iter().enumerate() {
        let rest = others.iter().enumerate().filter(|(n, _)| *n != at);
        let mut seen: Vec<_> = rest.map(|(_, (node, _))| node).collect();
        seen.push(&hub);
        node.sees(*there, &seen).await;
    }
    (hub, bucket, others)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_joined_from_a_third_go_on_without_it() {
    let (mut a, _, others) = hub(&[Access::Write, Access::Write]).await;
    let [(b, on_b), (c, on_c)] = &others[..] else {
        panic!("two")
    };
    // As long as all news comes by the hub, nobody else is dialled.
    b.write(*on_b, "main", "/with-a");
    c.shows(*on_c, "main", &["/with-a"]).await;
    a.stop().await;
    b.write(*on_b, "main", "/from-b");
    c.shows(*on_c, "main", &["/from-b", "/with-a"]).await;
    c.write(*on_c, "main", "/from-c");
    b.shows(*on_b, "main", &["/from-b", "/from-c", "/with-a"])
        .await;
    for (node, other) in [(b, c), (c, b)] {
        let links = node.links().await;
        let members: Vec<_> = links.iter().filter(|link| link.member).collect();
        assert_eq!(members.len(), 1);
        assert_eq!(members[0].peer, other.id());
        assert_eq!(members[0].access, Access::Write);
        assert!(members[0].connected && !members[0].shared);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_let_in_lets_in_others() {
    let (a, d) = (Node::start().await, Node::start().await);
    let mut b = Node::start().await;
    let [on_a, on_b, on_d] = [a.bucket("x"), b.bucket("x"), d.bucket("x")];
    b.join(on_b, &a.share(on_a, offer(Access::Write)));
    b.in_step().await;
    d.join(on_d, &b.share(on_b, offer(Access::Write)));
    a.sees(on_a, &[&b, &d]).await;
    d.sees(on_d, &[&a, &b]).await;
    assert_eq!(a.members(on_a)[&d.id()].by, b.id());
    assert_eq!(a.members(on_a)[&b.id()].by, a.id());
    b.stop().await;
    a.write(on_a, "main", "/from-a");
    d.shows(on_d, "main", &["/from-a"]).await;
    d.write(on_d, "main", "/from-d");
    a.shows(on_a, "main", &["/from-a", "/from-d"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_the_giver_lets_out_all_let_out() {
    let (a, on_a, others) = hub(&[Access::Write, Access::Write]).await;
    let [(b, on_b), (c, on_c)] = &others[..] else {
        panic!("two")
    };
    // Both converse about something that comes from neither's hub.
    let mut a = a;
    a.stop().await;
    b.write(*on_b, "main", "/before");
    c.shows(*on_c, "main", &["/before"]).await;
    let converse = async |node: &Node, with: &Node| {
        let links = node.links().await;
        links
            .iter()
            .any(|link| link.member && link.peer == with.id())
    };
    assert!(converse(b, c).await);
    a.run().await;
    a.shows(on_a, "main", &["/before"]).await;
    let peer = c.id();
    Records::update(&*a.store, Durability::Full, |records, _| {
        Ok(records.revoke_peer(peer, now()))
    })
    .unwrap();
    until("b has let c out", async || {
        !converse(b, c).await && !b.members(*on_b).contains_key(&peer)
    })
    .await;
    until("c has noticed", async || !converse(c, b).await).await;
    c.write(*on_c, "main", "/too-late");
    b.write(*on_b, "main", "/own");
    a.shows(on_a, "main", &["/before", "/own"]).await;
    // With the giver away, too.
    a.stop().await;
    b.write(*on_b, "main", "/alone");
    tokio::time::timeout(std::time::Duration::from_secs(4), async {
        until("c is dialled or dials", async || {
            converse(b, c).await || converse(c, b).await
        })
        .await;
    })
    .await
    .unwrap_err();
    assert_eq!(b.paths(*on_b, "main"), ["/alone", "/before", "/own"]);
    assert_eq!(c.paths(*on_c, "main"), ["/before", "/too-late"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_read_gets_all_and_adds_nothing() {
    let (mut a, _, others) = hub(&[Access::Write, Access::Read]).await;
    let [(b, on_b), (r, on_r)] = &others[..] else {
        panic!("two")
    };
    // Whom it lets in is let in by nobody else.
    let s = Node::start().await;
    let on_s = s.bucket("work");
    s.join(on_s, &r.share(*on_r, offer(Access::Write)));
    s.in_step().await;
    a.stop().await;
    b.write(*on_b, "main", "/from-b");
    r.shows(*on_r, "main", &["/from-b"]).await;
    s.shows(on_s, "main", &["/from-b"]).await;
    r.write(*on_r, "main", "/own");
    b.write(*on_b, "main", "/more");
    r.shows(*on_r, "main", &["/from-b", "/more", "/own"]).await;
    r.in_step_with(b).await;
    assert_eq!(b.paths(*on_b, "main"), ["/from-b", "/more"]);
    assert!(!b.members(*on_b).contains_key(&s.id()));
    assert_eq!(b.members(*on_b)[&r.id()].access, Access::Read);
    let links = r.links().await;
    let with_b = links.iter().find(|link| link.member).unwrap();
    assert_eq!((with_b.peer, with_b.access), (b.id(), Access::Read));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_only_a_branch_is_no_member() {
    let (a, on_a, others) = hub(&[Access::Write]).await;
    let [(b, on_b)] = &others[..] else {
        panic!("one")
    };
    a.fork(on_a, "shown");
    let part = Offer {
        branches: vec!["shown".to_owned()],
        ..offer(Access::Write)
    };
    let p = Node::start().await;
    let on_p = p.bucket("work");
    p.join(on_p, &a.share(on_a, part));
    p.in_step().await;
    // What is stated after it came goes to the others only.
    let c = Node::start().await;
    let on_c = c.bucket("work");
    c.join(on_c, &a.share(on_a, offer(Access::Write)));
    b.sees(*on_b, &[&a, &c]).await;
    c.sees(on_c, &[&a, b]).await;
    b.write(*on_b, "main", "/from-b");
    a.shows(on_a, "main", &["/from-b"]).await;
    p.in_step().await;
    assert!(p.members(on_p).is_empty());
    assert!(!a.members(on_a).contains_key(&p.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_joined_from_one_go_on_without_it() {
    let (mut a, _, others) = hub(&[Access::Write; 6]).await;
    a.stop().await;
    for (n, (node, bucket)) in others.iter().enumerate() {
        node.write(*bucket, "main", &format!("/{n}"));
    }
    let all: Vec<_> = (0..others.len()).map(|n| format!("/{n}")).collect();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    for (node, bucket) in &others {
        node.shows(*bucket, "main", &all).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_known_again_after_a_restart() {
    let (mut a, _, mut others) = hub(&[Access::Write, Access::Write]).await;
    // The hub goes last: who is just dialling it when it stops takes a moment to leave its port.
    for (node, _) in &mut others {
        node.stop().await;
    }
    a.stop().await;
    let [(b, on_b), (c, on_c)] = &mut others[..] else {
        panic!("two")
    };
    b.write(*on_b, "main", "/while-off");
    b.run().await;
    c.run().await;
    c.shows(*on_c, "main", &["/while-off"]).await;
    c.write(*on_c, "main", "/later");
    b.shows(*on_b, "main", &["/later", "/while-off"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_gossip_only_grants_count() {
    let (mut a, on_a, mut others) = hub(&[Access::Write, Access::Write]).await;
    let [(b, on_b), (c, on_c)] = &mut others[..] else {
        panic!("two")
    };
    b.stop().await;
    b.run_with(false).await;
    b.write(*on_b, "main", "/with-a");
    a.shows(on_a, "main", &["/with-a"]).await;
    c.shows(*on_c, "main", &["/with-a"]).await;
    a.stop().await;
    b.write(*on_b, "main", "/alone");
    c.write(*on_c, "main", "/alone-too");
    let met = tokio::time::timeout(std::time::Duration::from_secs(4), async {
        until("they converse", async || {
            let links = [b.links().await, c.links().await].concat();
            links.iter().any(|link| link.member)
        })
        .await;
    });
    met.await.unwrap_err();
    a.run().await;
    b.shows(*on_b, "main", &["/alone", "/alone-too", "/with-a"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_the_giver_lets_out_those_let_out_that_joined_from_it() {
    let (a, on_a, mut others) = hub(&[Access::Write, Access::Write]).await;
    let (c, on_c) = others.pop().unwrap();
    let (b, on_b) = others.pop().unwrap();
    // Each has joined from all before it.
    c.join(on_c, &b.share(on_b, offer(Access::Write)));
    b.write(on_b, "main", "/before");
    a.shows(on_a, "main", &["/before"]).await;
    c.shows(on_c, "main", &["/before"]).await;
    let (uid, peer) = (c.records().uid(on_c).unwrap(), b.id());
    until("c asks b by its ticket", async || {
        let links = c.links().await;
        let to_b = |link: &alknet_fs_net::Link| link.peer == peer && !link.member && link.connected;
        links.iter().any(to_b)
    })
    .await;
    Records::update(&*a.store, Durability::Full, |records, _| {
        Ok(records.revoke_peer(peer, now()))
    })
    .unwrap();
    until("c has let b out", async || {
        !c.members(on_c).contains_key(&peer) && !c.net().peers_on(uid).contains(&peer)
    })
    .await;
    b.write(on_b, "main", "/too-late");
    a.write(on_a, "main", "/own");
    c.shows(on_c, "main", &["/before", "/own"]).await;
    // Given anew, by another one.
    b.join(on_b, &c.share(on_c, offer(Access::Write)));
    c.shows(on_c, "main", &["/before", "/own", "/too-late"])
        .await;
}
