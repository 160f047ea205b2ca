use crate::bench::{Bench, eventually, pattern};
use crate::sync::Node;

#[test]
fn the_policy_is_shown_and_set() {
    let bench = Bench::new();
    let policy = bench.one(&["policy"]);
    assert_eq!(
        (
            &policy["policy"],
            &policy["timeout_seconds"],
            &policy["bucket"]
        ),
        (&"on-read".into(), &30.0.into(), &"default".into())
    );
    assert!(policy["cache_limit"].is_null() && policy["served"] == false);
    let set = bench.one(&["policy", "eager", "--timeout", "2m", "--cache-limit", "3G"]);
    assert_eq!(
        (&set["policy"], &set["timeout_seconds"], &set["cache_limit"]),
        (&"eager".into(), &120.0.into(), &(3_u64 << 30).into())
    );
    assert_eq!(bench.one(&["policy"]), set);
    let shown = bench.run(&["policy"]);
    for word in ["eager", "120s", "3.00 GiB", "no"] {
        assert!(shown.text().contains(word), "{word}: {shown:?}");
    }
    bench.put("/f", "data");
    assert_eq!(bench.one(&["policy"])["cached_bytes"], 4);
    assert!(
        bench
            .run(&["policy"])
            .text()
            .contains("4 B of all buckets, 3.00 GiB at most")
    );
    let shown = bench.run(&["policy", "--timeout", "0"]);
    assert!(
        shown.text().contains("what is not here cannot be read"),
        "{shown:?}"
    );
    let none = bench.one(&["policy", "--cache-limit", "none"]);
    assert!(none["cache_limit"].is_null());
    for bad in [
        &["policy", "lazy"][..],
        &["policy", "--cache-limit", "much"],
    ] {
        assert_eq!(bench.run(bad).status, 2);
    }
}

#[test]
fn pins_are_listed_set_and_taken_off() {
    let bench = Bench::new();
    assert_eq!(bench.run(&["pin"]).status, 0);
    assert!(bench.json(&["pin"]).is_empty());
    let said = bench.run(&["pin", "/docs", "*.md"]).stderr;
    for pin in ["/docs", "*.md"] {
        assert!(
            said.contains(&format!("nothing matches {pin} yet")),
            "{said}"
        );
    }
    bench.put("/a.md", "text");
    assert!(
        !bench
            .run(&["pin", "*.md"])
            .stderr
            .contains("nothing matches")
    );
    let pins = bench.json(&["pin"]);
    let pins: Vec<_> = pins.iter().map(|pin| pin["pin"].as_str()).collect();
    assert_eq!(pins, [Some("/docs"), Some("*.md")]);
    bench.one(&["unpin", "/docs"]);
    let error = bench.fails(&["unpin", "/docs"], "NotFound");
    assert!(
        error["hint"].as_str().unwrap().contains("alkfs pin"),
        "{error}"
    );
    bench.fails(&["pin", "a["], "InvalidInput");
    bench.fails(&["pin", ""], "InvalidInput");
    assert_eq!(bench.one(&["policy"])["pins"][0], "*.md");
}

#[test]
fn fetching_what_is_here_is_nothing_and_evicting_needs_a_node() {
    let bench = Bench::new();
    bench.put("/f", "data");
    assert_eq!(bench.one(&["fetch", "/f"])["contents"], 0);
    assert_eq!(bench.one(&["fetch", "--all"])["contents"], 0);
    bench.fails(&["fetch", "/none"], "NotFound");
    let wrong = bench.run(&["fetch"]);
    assert!(
        wrong.status == 2 && wrong.stderr.contains("fetch --all"),
        "{wrong:?}"
    );
    let error = bench.fails(&["evict"], "InvalidInput");
    assert!(
        error["hint"].as_str().unwrap().contains("--to-bytes"),
        "{error}"
    );
    let error = bench.fails(&["evict", "--to-bytes", "0"], "ContentUnavailable");
    assert_eq!(error["code"], "EHOSTUNREACH");
    assert!(
        error["message"].as_str().unwrap().contains("alkfs node"),
        "{error}"
    );
    assert_eq!(bench.cat("/f"), b"data");
    let stat = bench.one(&["stat", "/f"]);
    assert_eq!(
        (&stat["here"], &stat["form"]),
        (&true.into(), &"inline".into())
    );
    let stats = bench.one(&["stats"]);
    assert_eq!(
        (&stats["away_contents"], &stats["away_bytes"]),
        (&0.into(), &0.into())
    );
    assert_eq!(bench.one(&["fsck"])["away"], 0);
}

#[test]
fn contents_come_and_go_between_two_nodes() {
    const LARGE: u64 = 300_000;
    let (a, b) = (Bench::new(), Bench::new());
    let [node_a, _node_b] = [Node::start(&a), Node::start(&b)];
    a.put("/small", "small");
    a.put("/large", pattern(LARGE as usize));
    let shared = a.one(&["share"]);
    b.one(&["join", shared["ticket"].as_str().unwrap(), "--as", "theirs"]);
    let at = |args: &[&'static str]| [&["--bucket", "theirs"], args].concat();
    let is_here = |path| b.one(&at(&["stat", path]))["here"] == true;
    let away = || {
        let stats = b.one(&["stats"]);
        [&stats["away_contents"], &stats["away_bytes"]].map(|n| n.as_u64().unwrap())
    };
    eventually("the names", || b.json(&at(&["ls", "/"])).len() == 2);
    assert!(!is_here("/small") && !is_here("/large"));
    assert_eq!(away(), [2, LARGE + 5]);
    assert_eq!(b.one(&["fsck"])["away"], 2);

    let fetched = b.one(&at(&["fetch", "/large"]));
    assert_eq!(
        (&fetched["contents"], &fetched["bytes"], &fetched["failed"]),
        (&1.into(), &LARGE.into(), &0.into())
    );
    assert!(is_here("/large") && !is_here("/small"));
    assert_eq!(away(), [1, 5]);
    let said = b.run(&at(&["fetch", "--all"]));
    assert!(said.text().contains("fetched 1 content (5 B)"), "{said:?}");
    assert!(is_here("/small"));
    assert_eq!(b.one(&at(&["fetch", "--all"]))["contents"], 0);

    // Everything may go, as the other node holds it, and comes when it is read.
    let evicted = b.one(&["evict", "--to-bytes", "0"]);
    assert_eq!(
        (
            &evicted["contents"],
            &evicted["bytes"],
            &evicted["only_here"]
        ),
        (&2.into(), &(LARGE + 5).into(), &0.into())
    );
    assert!(!is_here("/small") && !is_here("/large"));
    assert_eq!(away(), [2, LARGE + 5]);
    assert_eq!(
        b.run(&at(&["cat", "/large"])).stdout,
        pattern(LARGE as usize)
    );
    assert!(is_here("/large"));

    // What nobody else holds stays.
    b.json_with(&at(&["put", "-", "/own"]), b"of b");
    b.run(&at(&["cat", "/own"]));
    drop(node_a);
    let said = b.run(&["evict", "--to-bytes", "0"]);
    let stay = "stay, because no peer says to hold them";
    assert!(said.text().contains("evicted 0 contents"), "{said:?}");
    assert!(said.stderr.contains(stay), "{said:?}");
    assert!(is_here("/own") && is_here("/large"));

    // Without the other node, what is away cannot be had, and says who was asked.
    b.one(&at(&["policy", "--timeout", "1s"]));
    let ran = b.run(&at(&["--json", "fetch", "/small"]));
    assert_eq!(ran.status, 1, "{ran:?}");
    let records = ran.records();
    assert_eq!(
        (&records[0]["path"], &records[1]["failed"]),
        (&"/small".into(), &1.into())
    );
    let error = b.fails(&at(&["cat", "/small"]), "ContentUnavailable");
    assert_eq!(error["path"], "/small");
    let _node_a = Node::start(&a);
    eventually("it comes", || {
        b.run(&at(&["fetch", "/small"])).status == 0 && is_here("/small")
    });
    assert_eq!(b.run(&at(&["cat", "/small"])).stdout, b"small");
}

#[test]
fn what_peers_rely_on_stays_and_is_said() {
    let (a, b) = (Bench::new(), Bench::new());
    let _nodes = [Node::start(&a), Node::start(&b)];
    a.put("/f", "data");
    let shared = a.one(&["share"]);
    b.one(&["join", shared["ticket"].as_str().unwrap(), "--as", "theirs"]);
    let cat = ["--bucket", "theirs", "cat", "/f"];
    eventually("the file", || b.run(&cat).stdout == b"data");
    // The other one removes it because this one has it, and so this one keeps it.
    assert_eq!(b.one(&["evict", "--to-bytes", "0"])["contents"], 1);
    let kept = a.one(&["evict", "--to-bytes", "0"]);
    assert_eq!(
        (
            &kept["contents"],
            &kept["promised"],
            &kept["promised_bytes"]
        ),
        (&0.into(), &1.into(), &4.into())
    );
    assert!(kept["promised_until"].is_string(), "{kept}");
    let said = a.run(&["evict", "--to-bytes", "0"]).stderr;
    assert!(
        said.contains("1 content (4 B) stay") && said.contains("try again after 2"),
        "{said}"
    );
    assert_eq!(b.run(&cat).stdout, b"data");
}
