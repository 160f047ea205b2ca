use serde_json::Value;

use crate::bench::Bench;

#[test]
fn a_wrong_command_line_is_status_2() {
    let bench = Bench::new();
    for args in [
        &[][..],
        &["no-such-command"],
        &["ls", "--no-such-option"],
        &["cat"],
        &["--branch", "a@b@c", "ls"],
        &["put", "--mode", "9", "-", "/x"],
        &["-q", "-v", "ls"],
    ] {
        let ran = bench.run(args);
        assert_eq!((ran.status, ran.stdout.len()), (2, 0), "{args:?}: {ran:?}");
        assert!(!ran.stderr.is_empty(), "{args:?}");
    }
    let ran = bench.run(&["--json", "ls", "--no-such-option"]);
    let error: Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!((ran.status, &error["kind"]), (2, &"Usage".into()));
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("--no-such-option"),
        "{error}"
    );
}

#[test]
fn help_is_grouped_and_has_examples() {
    let bench = Bench::without_store();
    let help = bench.run(&["--help"]);
    assert_eq!((help.status, help.stderr.as_str()), (0, ""));
    for part in [
        "Files:\n  put",
        "Branches:\n  branch",
        "Exit status:",
        "Examples:",
        "ALKFS_STORE",
    ] {
        assert!(help.text().contains(part), "{part} in {}", help.text());
    }
    for args in [
        &["put", "--help"][..],
        &["help", "branch", "create"],
        &["watch", "-h"],
    ] {
        let help = bench.run(args);
        assert!(
            help.text().contains("Examples:\n  alkfs"),
            "{args:?}: {help:?}"
        );
    }
    assert!(bench.run(&["--version"]).text().starts_with("alkfs "));
}

#[test]
fn completions_are_made_for_every_shell() {
    let bench = Bench::without_store();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = bench.run(&["completions", shell]);
        assert_eq!(ran.status, 0);
        assert!(ran.text().contains("share-check"), "{shell}");
    }
    assert_eq!(bench.run(&["completions", "cmd"]).status, 2);
}

#[test]
fn errors_say_what_failed_where_and_what_next() {
    let bench = Bench::new();
    bench.put("/notes.txt", "n");
    let ran = bench.run(&["cat", "/nots.txt"]);
    assert_eq!((ran.status, ran.stdout.len()), (1, 0));
    assert_eq!(
        ran.stderr,
        "error: open /nots.txt: no such file or directory\n hint: did you mean /notes.txt? See \
         `alkfs ls /`\n"
    );
}

#[cfg(unix)]
#[test]
fn the_author_is_known_without_an_environment() {
    let bench = Bench::new();
    let author = |set: Option<(&str, &str)>| {
        let mut command = bench.command(&["--json", "mkdir", "-p", "/d"]);
        for name in ["USER", "LOGNAME", "USERNAME"] {
            command.env_remove(name);
        }
        command.envs(set).args(["/d/x"]);
        assert!(command.output().unwrap().status.success());
        let author = bench.json(&["log", "-n", "1"])[0]["author"].clone();
        bench.one(&["rm", "-r", "/d"]);
        author
    };
    assert_eq!(author(Some(("LOGNAME", "ada"))), "ada");
    assert_eq!(author(Some(("USER", "bea"))), "bea");
    let id = std::process::Command::new("id")
        .arg("-un")
        .output()
        .unwrap();
    let name = String::from_utf8(id.stdout).unwrap();
    assert_eq!(author(None), name.trim());
}

#[test]
fn colours_are_for_terminals_and_for_those_who_ask() {
    let bench = Bench::new();
    bench.json(&["mkdir", "/dir"]);
    let colored = |name: &str, value: &str| {
        let mut command = bench.command(&["ls"]);
        command
            .env_remove("NO_COLOR")
            .env_remove("CLICOLOR")
            .env_remove("CLICOLOR_FORCE");
        command
            .env(name, value)
            .output()
            .unwrap()
            .stdout
            .contains(&0x1b)
    };
    assert!(!colored("TERM", "xterm"), "a pipe gets none");
    assert!(colored("CLICOLOR_FORCE", "1"));
    assert!(!colored("NO_COLOR", "1"));
}

#[test]
fn verbose_and_quiet_change_what_is_said() {
    let bench = Bench::new();
    assert_eq!(bench.run(&["mkdir", "/a"]).text(), "");
    assert_eq!(bench.run(&["-v", "mkdir", "/b"]).text(), "made /b\n");
    assert!(
        bench
            .run(&["branch", "create", "x"])
            .text()
            .contains("forked x off main")
    );
    assert_eq!(bench.run(&["-q", "branch", "create", "y"]).text(), "");
    assert_eq!(bench.run(&["-q", "ls"]).text(), "a/\nb/\n");
}
