//! Progress bars: on a terminal, which is a pseudo terminal here, and nowhere else.

use std::fs::File;
use std::io::Read;
use std::process::Stdio;
use std::thread;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::bench::{Bench, Ran, eventually, pattern};
use crate::sync::Node;

/// What every bar begins with, in turn.
const SPINNER: [char; 8] = ['⠁', '⠂', '⠄', '⡀', '⢀', '⠠', '⠐', '⠈'];

/// What wipes a line.
const WIPE: &str = "\x1b[2K";

/// Runs a command whose standard error is a terminal; returns what that got, too.
fn on_terminal(bench: &Bench, args: &[&str]) -> (Ran, String) {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let other_end = open(&*name, flags, Mode::empty()).unwrap();
    let size = Winsize {
        ws_row: 24,
        ws_col: 100,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&terminal, size).unwrap();
    let mut command = bench.command(args);
    command.env("TERM", "xterm").env_remove("NO_COLOR");
    let pipes = command.stdin(Stdio::null()).stdout(Stdio::piped());
    let child = pipes.stderr(Stdio::from(other_end)).spawn().unwrap();
    // The command has the other end, and reading ends once nobody has.
    drop(command);
    let reader = thread::spawn(move || {
        let (mut terminal, mut got) = (File::from(terminal), Vec::new());
        let mut block = [0; 4096];
        // Linux ends this with an error rather than with nothing.
        while let Ok(n @ 1..) = terminal.read(&mut block) {
            got.extend_from_slice(&block[..n]);
        }
        String::from_utf8(got).unwrap()
    });
    let ran = Ran::of(child);
    (ran, reader.join().unwrap())
}

fn is_drawn(text: &str) -> bool {
    text.contains(SPINNER) || text.contains('█') || text.contains('\x1b')
}

/// The long commands, each of which can run again and again.
fn commands(out: &str) -> [(&'static str, Vec<String>); 4] {
    let words = |text: String| text.split(' ').map(str::to_owned).collect();
    [
        ("import", words("import src /t".to_owned())),
        ("export", words(format!("export /t {out}"))),
        ("fsck", words("fsck".to_owned())),
        ("gc", words("gc --grace 0".to_owned())),
    ]
}

fn bench() -> Bench {
    let bench = Bench::new();
    for n in 0..300 {
        bench.file(&format!("src/{}/{n}", n % 7), pattern(n * 10));
    }
    bench
}

#[test]
fn long_work_draws_on_a_terminal_and_leaves_no_trace() {
    let bench = bench();
    for (what, args) in commands("out") {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (ran, terminal) = on_terminal(&bench, &args);
        assert_eq!(ran.status, 0, "{what}: {terminal}");
        let drawn = terminal.contains(SPINNER) && terminal.contains(&format!(" {what} "));
        assert!(drawn, "{what}: {terminal:?}");
        // At last the line is wiped, and nothing is drawn on it again.
        let (_, after) = terminal.rsplit_once(WIPE).unwrap();
        assert_eq!(after.trim(), "", "{what}: {terminal:?}");
        // The result goes where it always goes.
        assert!(!ran.text().is_empty(), "{what}");
        assert!(!is_drawn(ran.text()), "{what}: {:?}", ran.text());
    }
}

#[test]
fn a_bar_shows_how_much_of_a_known_whole_is_done() {
    let bench = bench();
    let file = bench.file("large", pattern(8 << 20));
    let (ran, terminal) = on_terminal(&bench, &["put", &file, "/large"]);
    assert_eq!(ran.status, 0, "{terminal}");
    let drawn = terminal.contains('█') || terminal.contains('░');
    assert!(drawn && terminal.contains("8.00 MiB"), "{terminal:?}");
}

#[test]
fn who_waits_for_another_node_sees_what_is_lacking() {
    let (a, b) = (Bench::new(), Bench::new());
    let (node_a, _node_b) = (Node::start(&a), Node::start(&b));
    for name in ["/1", "/2", "/3"] {
        a.put(name, name);
    }
    let ticket = a.one(&["share"])["ticket"].as_str().unwrap().to_owned();
    b.one(&["join", &ticket, "--as", "theirs"]);
    eventually("the names", || {
        b.one(&["sync", "status"])["behind_here"]["contents"] == 3
    });
    let (ran, terminal) = on_terminal(&b, &["sync", "status", "--wait", "1"]);
    assert_eq!(ran.status, 1, "{terminal}");
    assert!(
        terminal.contains(" sync ") && terminal.contains("0/3"),
        "{terminal:?}"
    );
    assert!(ran.text().contains("3 contents"), "{ran:?}");
    let why = "3 contents of the bucket come when they are read: `alkfs fetch --all`";
    assert!(terminal.contains(why), "{terminal:?}");
    // So does who reads what nobody is there to give.
    drop(node_a);
    b.one(&["--bucket", "theirs", "policy", "--timeout", "1s"]);
    let (ran, terminal) = on_terminal(&b, &["--bucket", "theirs", "cat", "/1"]);
    assert_eq!((ran.status, ran.text()), (1, ""), "{terminal}");
    let drawn = terminal.contains(SPINNER) && terminal.contains(" fetch ");
    assert!(drawn && terminal.contains("error:"), "{terminal:?}");
    assert!(!is_drawn(ran.text()), "{ran:?}");
}

#[test]
fn nothing_is_drawn_where_it_was_not_asked_for() {
    let bench = bench();
    for flag in ["--json", "--quiet"] {
        for (what, args) in commands(&format!("out{flag}")) {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let args = [&[flag], &args[..]].concat();
            let (ran, terminal) = on_terminal(&bench, &args);
            assert_eq!((ran.status, &*terminal), (0, ""), "{what} {flag}");
            assert!(!is_drawn(ran.text()), "{what} {flag}");
            if flag == "--json" {
                assert_eq!(ran.records().len(), 1, "{what}");
            }
        }
    }
}

#[test]
fn nothing_is_drawn_on_a_pipe() {
    let bench = bench();
    for (what, args) in commands("out") {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let ran = bench.run(&args);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{what}");
        assert!(!is_drawn(ran.text()), "{what}: {:?}", ran.text());
    }
}
