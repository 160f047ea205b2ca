use crate::bench::Bench;

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
    bench.json(&["pin", "/docs", "*.md"]);
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
    assert_eq!(bench.one(&["policy"])["pins"][0], "*.md");
}

#[test]
fn fetching_what_is_here_is_nothing_and_evicting_needs_a_node() {
    let bench = Bench::new();
    bench.put("/f", "data");
    assert_eq!(bench.one(&["fetch", "/f"])["contents"], 0);
    assert_eq!(bench.one(&["fetch", "--all"])["contents"], 0);
    bench.fails(&["fetch", "/none"], "NotFound");
    assert_eq!(bench.run(&["fetch"]).status, 2);
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
