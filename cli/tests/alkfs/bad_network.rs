//! Real nodes in network namespaces, and what networks do to them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bench::{Bench, pattern};
use crate::network::{Host, Network, addr};

/// Waits until something holds, for a while that allows for connections that have to time out first.
#[track_caller]
fn within(seconds: u64, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    let deadline = start + Duration::from_secs(seconds);
    while !holds() {
        assert!(Instant::now() < deadline, "not in {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    start.elapsed()
}

/// Waits until all hosts read a text at a path.
#[track_caller]
fn everywhere(hosts: &[Host], path: &str, text: &str) {
    for host in hosts {
        let what = format!("{path} on {}", host.namespace);
        within(90, &what, || host.text(path).as_deref() == Some(text));
    }
}

fn names(bench: &Bench) -> Vec<String> {
    bench.names("main", "/")
}

#[test]
fn what_was_written_on_both_sides_of_a_cut_comes_together() {
    let Some(network) = Network::new(2) else {
        return;
    };
    let hosts = network.nodes();
    let [a, b] = &hosts[..] else { unreachable!() };
    b.join(a);
    a.bench.put("/before", "before");
    everywhere(&hosts, "/before", "before");

    // A short one, which connections outlive.
    network.part(&[0]);
    a.bench.put("/short-a", "of a");
    b.bench.put("/short-b", "of b");
    within(20, "the node sees that b is behind", || {
        let status = a.status();
        status[0]["behind_there"]["commits"].as_u64() > Some(0)
    });
    assert_eq!((a.text("/short-b"), b.text("/short-a")), (None, None));
    network.heal();
    everywhere(&hosts, "/short-a", "of a");
    everywhere(&hosts, "/short-b", "of b");

    // A long one, which they do not.
    network.part(&[0]);
    a.bench.put("/both", "of a");
    b.bench.put("/both", "of b");
    b.bench.json(&["mkdir", "/dir"]);
    b.bench.put("/dir/file", "in it");
    for host in &hosts {
        within(60, "the cut is noticed", || {
            host.all_peers(1, "connected", false)
        });
    }
    assert_eq!(a.text("/dir/file"), None);
    network.heal();
    everywhere(&hosts, "/dir/file", "in it");
    everywhere(&hosts, "/both", "of b");
    for host in &hosts {
        within(60, "synced", || host.all_peers(1, "synced", true));
        let conflicts = host.bench.json(&["conflicts"]);
        assert_eq!(conflicts.len(), 1, "{conflicts:?}");
        assert_eq!(conflicts[0]["path"], "/both");
    }
    assert_eq!(names(&a.bench), names(&b.bench));
}

/// Writes some hundred small files and a large one on both hosts, and waits until both have all.
fn exchange(hosts: &[Host], small: usize, large: usize) -> Duration {
    let start = Instant::now();
    for (n, host) in hosts.iter().enumerate() {
        for i in 0..small {
            host.bench
                .file(&format!("tree-{n}/file-{i}"), format!("{n} {i}"));
        }
        let mut bytes = pattern(large);
        bytes[0] = n as u8;
        host.bench.file(&format!("tree-{n}/large"), bytes);
        let tree = host.bench.text(&format!("tree-{n}"));
        host.bench.json(&["import", &tree, &format!("/tree-{n}")]);
    }
    for host in hosts {
        within(90, "synced", || host.all_peers(1, "synced", true));
        for n in 0..2 {
            let path = format!("/tree-{n}");
            assert_eq!(host.bench.names("main", &path).len(), small + 1);
            assert_eq!(host.bench.cat(&format!("{path}/large"))[0], n as u8);
            assert_eq!(
                host.bench.cat(&format!("{path}/file-7")),
                format!("{n} 7").as_bytes()
            );
        }
        let checked = host.bench.run(&["fsck"]);
        assert_eq!(checked.status, 0, "{checked:?}");
    }
    start.elapsed()
}

#[test]
fn a_network_that_loses_5_percent_delays_and_no_more() {
    let Some(network) = Network::new(2) else {
        return;
    };
    network.lose(5);
    let hosts = network.nodes();
    hosts[1].join(&hosts[0]);
    exchange(&hosts, 200, 4 << 20);
    hosts[0].bench.put("/last", "last");
    everywhere(&hosts, "/last", "last");
    // Of 8 MiB in packets of at most 1,452 bytes 5 % are some 290.
    assert!(network.lost() > 100, "only {} packets", network.lost());
}

#[test]
fn a_delay_of_200_ms_is_paid_for_a_few_times_and_not_for_each_file() {
    let Some(network) = Network::new(2) else {
        return;
    };
    network.delay(Duration::from_millis(200));
    let hosts = network.nodes();
    hosts[1].join(&hosts[0]);
    // One by one, each way and back, 1,000 files would take 400 s.
    exchange(&hosts, 500, 4 << 20);
    let start = Instant::now();
    hosts[0].bench.put("/new", "new");
    within(10, "a file that is new", || {
        hosts[1].text("/new").as_deref() == Some("new")
    });
    // Its name takes 200 ms, asking for its content twice that.
    assert!(
        start.elapsed() > Duration::from_millis(600),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_node_that_is_killed_in_the_middle_of_a_large_content_goes_on_where_it_was() {
    const LEN: u64 = 256 << 20;
    let Some(network) = Network::new(2) else {
        return;
    };
    let mut hosts = network.nodes();
    hosts[1].join(&hosts[0]);
    everywhere_joined(&hosts);
    let file = hosts[0].bench.path("large");
    let mut bytes = vec![0; LEN as usize];
    fastrand::Rng::with_seed(7).fill(&mut bytes);
    std::fs::write(&file, &bytes).unwrap();
    let hash = blake3::hash(&bytes).to_string();
    let came = || network.delivered(1);
    hosts[0]
        .bench
        .json(&["put", file.to_str().unwrap(), "/large"]);
    within(60, "a quarter", || came() > LEN / 4);
    hosts[1].kill();
    assert!(came() < LEN * 3 / 4, "it came too fast to be killed");
    let checked = hosts[1].bench.one(&["fsck", "--fast"]);
    let partial = [&checked["partials"], &checked["partial_bytes"]].map(Value::as_u64);
    assert_eq!(partial, [Some(1), Some(LEN)], "{checked}");
    let text = hosts[1].bench.run(&["fsck", "--fast"]).stderr;
    assert!(
        text.contains("of 1 content (256.00 MiB) a part has come"),
        "{text}"
    );
    hosts[1].start();
    within(60, "a half", || came() > LEN / 2);
    hosts[0].kill();
    assert!(came() < LEN * 15 / 16, "it came too fast to be killed");
    hosts[0].start();
    within(90, "all of it", || {
        hosts[1].status()[0]["behind_here"]["contents"] == 0
            && hosts[1].all_peers(1, "connected", true)
    });
    let stat = hosts[1].bench.one(&["stat", "/large"]);
    assert_eq!(stat["hash"], hash.as_str());
    let out = hosts[1].bench.path("out");
    hosts[1]
        .bench
        .json(&["get", "/large", out.to_str().unwrap()]);
    assert!(std::fs::read(out).unwrap() == bytes, "other bytes");
    // Headers take 5 %; the rest is what was on its way or not noted yet when the nodes were killed.
    let came = came();
    assert!((LEN..LEN * 5 / 4).contains(&came), "{came} bytes for {LEN}");
}

#[track_caller]
fn everywhere_joined(hosts: &[Host]) {
    hosts[0].bench.put("/joined", "joined");
    everywhere(hosts, "/joined", "joined");
}

#[test]
fn five_nodes_in_a_chain_pass_everything_on() {
    let Some(network) = Network::new(5) else {
        return;
    };
    let mut hosts = network.nodes();
    for n in 1..5 {
        hosts[n].join(&hosts[n - 1]);
    }
    let large = pattern(1 << 20);
    for (n, host) in hosts.iter().enumerate() {
        host.bench.put(&format!("/of-{n}"), format!("of {n}"));
    }
    hosts[4].bench.put("/large", &large);
    for n in 0..5 {
        everywhere(&hosts, &format!("/of-{n}"), &format!("of {n}"));
    }
    within(60, "the large one at the other end", || {
        hosts[0].bench.run(&["cat", "/large"]).stdout == large
    });

    // The one in the middle is away for a while: two halves, each of which goes on.
    hosts[2].kill();
    hosts[0].bench.put("/left", "left");
    hosts[4].bench.put("/right", "right");
    everywhere(&hosts[..2], "/left", "left");
    everywhere(&hosts[3..], "/right", "right");
    hosts[2].start();
    for (path, text) in [("/left", "left"), ("/right", "right")] {
        everywhere(&hosts, path, text);
    }
    for host in &hosts {
        assert_eq!(names(&host.bench), names(&hosts[0].bench));
    }
}

#[test]
fn five_nodes_in_a_mesh_do_without_some_of_them() {
    let Some(network) = Network::new(5) else {
        return;
    };
    let mut hosts = network.nodes();
    for n in 1..5 {
        for other in 0..n {
            hosts[n].join(&hosts[other]);
        }
    }
    everywhere_joined(&hosts);
    for host in &hosts {
        within(60, "all are connected", || {
            host.all_peers(4, "connected", true)
        });
    }
    // Two are cut off together, one is dead.
    network.part(&[0, 1]);
    hosts[4].kill();
    for (n, host) in hosts.iter().enumerate() {
        host.bench.put(&format!("/of-{n}"), format!("of {n}"));
        host.bench.put("/all", format!("all, by {n}"));
    }
    for part in [0..2, 2..4] {
        for n in part.clone() {
            everywhere(
                &hosts[part.clone()],
                &format!("/of-{n}"),
                &format!("of {n}"),
            );
        }
    }
    assert_eq!(
        (hosts[0].text("/of-2"), hosts[2].text("/of-1")),
        (None, None)
    );
    network.heal();
    hosts[4].start();
    for n in 0..5 {
        everywhere(&hosts, &format!("/of-{n}"), &format!("of {n}"));
    }
    everywhere(&hosts, "/all", "all, by 4");
    for host in &hosts {
        within(90, "synced", || host.all_peers(4, "synced", true));
        assert_eq!(names(&host.bench), names(&hosts[0].bench));
        let conflicts = host.bench.json(&["conflicts"]);
        assert_eq!(conflicts.len(), 1, "{conflicts:?}");
    }
}

#[test]
fn four_that_joined_from_a_hub_go_on_while_it_is_cut_off() {
    let Some(network) = Network::new(5) else {
        return;
    };
    let hosts = network.nodes();
    for host in &hosts[1..] {
        host.join(&hosts[0]);
    }
    everywhere_joined(&hosts);
    for host in &hosts[1..] {
        within(60, "they know of each other", || {
            let peers = host.bench.json(&["peers", "list"]);
            let came_by_others = peers.iter().filter(|peer| peer["member"].is_array());
            came_by_others.count() == 3
        });
    }
    network.part(&[0]);
    for (n, host) in hosts.iter().enumerate() {
        host.bench.put(&format!("/of-{n}"), format!("of {n}"));
        host.bench.put("/all", format!("all, by {n}"));
    }
    for n in 1..5 {
        everywhere(&hosts[1..], &format!("/of-{n}"), &format!("of {n}"));
    }
    everywhere(&hosts[1..], "/all", "all, by 4");
    let apart = (hosts[0].text("/of-1"), hosts[1].text("/of-0"));
    assert_eq!(apart, (None, None));
    network.heal();
    for n in 0..5 {
        everywhere(&hosts, &format!("/of-{n}"), &format!("of {n}"));
    }
    everywhere(&hosts, "/all", "all, by 4");
    for host in &hosts {
        assert_eq!(names(&host.bench), names(&hosts[0].bench));
    }
}

#[test]
fn nodes_that_cannot_reach_each_other_meet_at_a_relay() {
    let Some(network) = Network::new(3) else {
        return;
    };
    let relay = network.relay(2);
    network.cut(0, 1);
    let mut hosts = [network.host(0), network.host(1)];
    for host in &mut hosts {
        host.start_with(&["--relay", &relay.url]);
    }
    // The ticket says where the relay is: nothing else leads to the giver.
    hosts[1].join(&hosts[0]);
    everywhere_joined(&hosts);
    let large = |n| pattern((1 << 20) + n);
    for (n, host) in hosts.iter().enumerate() {
        host.bench.put(&format!("/large-{n}"), large(n));
    }
    for host in &hosts {
        within(60, "synced", || host.all_peers(1, "synced", true));
        for n in 0..2 {
            assert!(host.bench.cat(&format!("/large-{n}")) == large(n));
        }
    }
    let relayed = network.delivered(2);
    assert!(relayed > 2 << 20, "{relayed} bytes");

    // A node that was away for a while knows the relay still.
    hosts[0].kill();
    hosts[1].bench.put("/meanwhile", "meanwhile");
    hosts[0].start_with(&["--relay", &relay.url]);
    everywhere(&hosts, "/meanwhile", "meanwhile");

    network.heal();
    hosts[0].bench.put("/healed-0", "of 0");
    hosts[1].bench.put("/healed-1", "of 1");
    everywhere(&hosts, "/healed-0", "of 0");
    everywhere(&hosts, "/healed-1", "of 1");
    let mut n = 1;
    within(90, "the short way is found", || {
        n += 1;
        let (path, before) = (format!("/large-{n}"), network.delivered(2));
        hosts[0].bench.put(&path, large(n));
        within(60, "synced", || hosts[0].all_peers(1, "synced", true));
        network.delivered(2) - before < 1 << 18
    });
}

#[test]
fn nothing_goes_to_a_relay_that_nobody_named() {
    let Some(network) = Network::new(3) else {
        return;
    };
    let _relay = network.relay(2);
    network.cut(0, 1);
    (0..2).for_each(|host| network.lead_all(host));
    let mut hosts = [network.host(0), network.host(1)];
    hosts.iter_mut().for_each(Host::start);
    hosts[1].join(&hosts[0]);
    hosts[0].bench.put("/alone", "alone");
    within(60, "it was tried", || {
        let status = hosts[1].status();
        status[0]["trouble"]
            .as_str()
            .is_some_and(|why| why.contains("not reachable"))
    });
    assert_eq!(hosts[1].text("/alone"), None);
    network.heal();
    everywhere(&hosts, "/alone", "alone");
    // Wherever else it were, it would be seen here.
    for (host, other) in [(0, 1), (1, 0)] {
        let targets = Vec::from_iter(network.targets(host));
        assert_eq!(targets, [IpAddr::from(addr(other))]);
    }
}

/// Neither knows where the other one is now.
#[test]
fn nodes_find_each_other_on_the_local_network() {
    let Some(network) = Network::new(2) else {
        return;
    };
    let mut hosts = network.nodes();
    hosts[1].join(&hosts[0]);
    hosts[0].bench.put("/before", "before");
    everywhere(&hosts, "/before", "before");
    for (host, port) in hosts.iter_mut().zip(["5001", "5002"]) {
        host.kill();
        host.start_with(&["--mdns", "--port", port]);
    }
    hosts[0].bench.put("/after", "after");
    everywhere(&hosts, "/after", "after");
}

#[test]
fn a_node_without_peers_sends_nothing() {
    let Some(network) = Network::new(2) else {
        return;
    };
    network.lead_all(0);
    let mut hosts = [network.host(0), network.host(1)];
    let mut writes = 0;
    for _ in 0..2 {
        hosts[0].start();
        let ticket = hosts[0].bench.one(&["share"])["ticket"].clone();
        assert!(ticket.is_string());
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(4) {
            writes += 1;
            let text = format!("the {writes}th");
            hosts[0].bench.put("/f", text);
            assert_eq!(network.sent(0), 0, "after {writes} writes");
        }
        hosts[0].kill();
    }
    // What is sent is counted.
    hosts.iter_mut().for_each(Host::start);
    hosts[1].join(&hosts[0]);
    everywhere(&hosts, "/f", &format!("the {writes}th"));
    assert!(network.sent(0) > 0);
}
