//! docs/sync.md, acted out step by step: its hosts are directories of one machine, or network
//! namespaces.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const PAGE: &str = include_str!("../../../docs/sync.md");

/// How long a step may take.
const LONGEST: Duration = Duration::from_secs(120);

/// How the page calls the key of the laptop.
const LAPTOP: &str = "5f1c08";

/// A command of the page, and what it is to print.
#[derive(Debug)]
struct Step {
    host: &'static str,
    command: &'static str,
    prints: Vec<&'static str>,
}

fn steps() -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in PAGE.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if inside && let Some((host, command)) = line.split_once("$ ") {
            let prints = Vec::new();
            steps.push(Step {
                host,
                command,
                prints,
            });
        } else if inside && !line.is_empty() {
            steps.last_mut().unwrap().prints.push(line);
        }
    }
    steps
}

/// The hosts of the page.
struct World {
    dir: TempDir,
    /// What each host's commands begin with.
    prefixes: HashMap<&'static str, Vec<String>>,
    nodes: HashMap<&'static str, Child>,
    /// The keys of those that ran, as far as the page writes them out.
    keys: HashMap<&'static str, String>,
}

/// Kills a process that takes too long; and where it leads a group all of that, so that nobody keeps its
/// output open.
struct Limit(Option<(Sender<()>, thread::JoinHandle<()>)>);

impl Limit {
    fn new(process: &Child, time: Duration, is_group: bool) -> Self {
        let (done, over) = channel();
        let sign = if is_group { "-" } else { "" };
        let who = format!("{sign}{}", process.id());
        let watching = thread::spawn(move || {
            if over.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                let _ = Command::new("kill").args(["-KILL", "--", &who]).status();
            }
        });
        Self(Some((done, watching)))
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if let Some((done, watching)) = self.0.take() {
            drop(done);
            let _ = watching.join();
        }
    }
}

/// Runs a command that is killed, with all that it started, where it takes too long.
fn within(time: Duration, mut command: Command) -> Output {
    let is_group = cfg!(unix);
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let pipes = command.stdin(Stdio::null()).stdout(Stdio::piped());
    let process = pipes.stderr(Stdio::piped()).spawn().unwrap();
    let _limit = Limit::new(&process, time, is_group);
    process.wait_with_output().unwrap()
}

impl World {
    fn new(prefixes: HashMap<&'static str, Vec<String>>) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            prefixes,
            nodes: HashMap::new(),
            keys: HashMap::new(),
        }
    }

    fn shell(&self, host: &'static str, command: &str) -> Command {
        let mut words = self.prefixes.get(host).cloned().unwrap_or_default();
        words.extend(["sh", "-c", command].map(str::to_owned));
        let mut shell = Command::new(&words[0]);
        let program = Path::new(env!("CARGO_BIN_EXE_alkfs")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        for name in ["BUCKET", "BRANCH", "AUTHOR", "LOG"] {
            shell.env_remove(format!("ALKFS_{name}"));
        }
        shell.args(&words[1..]).current_dir(self.dir.path());
        shell.env("PATH", format!("{}:{path}", program.display()));
        shell.env("ALKFS_STORE", self.dir.path().join(host));
        shell
    }

    fn run(&mut self, step: &Step) {
        let Step { host, command, .. } = step;
        if let Some(command) = command.strip_suffix(" &") {
            // Network namespaces have no loopback in common.
            let command = match self.prefixes.is_empty() {
                true => command.to_owned(),
                false => command.replace(" --loopback", ""),
            };
            let mut node = self.shell(host, &format!("exec {command} --json"));
            let mut node = node.stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            let stdout = node.stdout.take().unwrap();
            let limit = Limit::new(&node, LONGEST, false);
            BufReader::new(stdout).read_line(&mut line).unwrap();
            drop(limit);
            self.nodes.insert(host, node);
            let record: Value = serde_json::from_str(&line).unwrap_or_default();
            let key = record["id"].as_str().unwrap_or_default();
            assert_eq!(key.len(), 64, "{step:?}: {line}");
            self.keys.insert(host, key[..LAPTOP.len()].to_owned());
            return;
        }
        if *command == "kill %1" {
            let mut node = self.nodes.remove(host).unwrap();
            let ended = Command::new("kill").arg(node.id().to_string()).status();
            assert!(ended.unwrap().success());
            let _limit = Limit::new(&node, LONGEST, false);
            let status = node.wait().unwrap();
            assert!(status.success(), "a node that is told to end says {status}");
            return;
        }
        let known = |text: &str| match self.keys.get("laptop") {
            Some(key) => text.replace(LAPTOP, key),
            None => text.to_owned(),
        };
        let output = within(LONGEST, self.shell(host, &known(command)));
        let prints: Vec<_> = step.prints.iter().map(|line| known(line)).collect();
        let printed = String::from_utf8(output.stdout).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{step:?}: {printed}{said}");
        assert!(
            is_like(printed.trim_end(), &prints),
            "{step:?}: {printed}{said}"
        );
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for node in self.nodes.values_mut() {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

/// Tells whether a text is as the page says, where "..." stands for anything.
fn is_like(text: &str, prints: &[String]) -> bool {
    let wanted = prints.join("\n");
    let mut parts = wanted.split("...");
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut is_open = false;
    for part in parts {
        is_open = part.is_empty();
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    is_open || rest.is_empty()
}

#[test]
fn directories_act_out_the_page() {
    let steps = steps();
    assert!(steps.len() > 70, "the page lost its commands");
    let mut world = World::new(HashMap::new());
    steps.iter().for_each(|step| world.run(step));
}

#[cfg(target_os = "linux")]
#[test]
fn network_namespaces_act_out_the_page() {
    let Some(network) = crate::network::Network::new(4) else {
        return;
    };
    let exec = |name: &str| ["ip", "netns", "exec", name].map(str::to_owned).to_vec();
    let hosts = ["desk", "laptop", "phone", "tablet"];
    let prefixes = hosts.into_iter().zip(network.namespaces().map(exec));
    let mut world = World::new(prefixes.collect());
    steps().iter().for_each(|step| world.run(step));
}

#[test]
fn a_step_that_does_not_end_is_ended() {
    let world = World::new(HashMap::new());
    let begun = Instant::now();
    let shell = world.shell("desk", "echo begun; until false; do sleep 0.1; done");
    let output = within(Duration::from_millis(500), shell);
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"begun\n");
    assert!(begun.elapsed() < LONGEST);
}

#[cfg(target_os = "linux")]
#[test]
fn systemd_takes_the_service_of_the_page() {
    let version = Command::new("systemd-analyze").arg("--version").output();
    if !version.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: there is no systemd-analyze");
        return;
    }
    let unit = PAGE.split("```ini\n").nth(1).unwrap();
    let unit = unit.split("```").next().unwrap();
    // Whatever home there is, the program is there.
    let program = format!("ExecStart={}", env!("CARGO_BIN_EXE_alkfs"));
    assert!(
        unit.contains("ExecStart=%h/.cargo/bin/alkfs node"),
        "{unit}"
    );
    let unit = unit.replace("ExecStart=%h/.cargo/bin/alkfs", &program);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("alkfs.service");
    std::fs::write(&file, unit).unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["--user", "--man=no", "--recursive-errors=no", "verify"]);
    verify.arg(&file).env("XDG_RUNTIME_DIR", dir.path());
    let output = within(LONGEST, verify);
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("Failed to initialize manager") {
        eprintln!("skipped: {said}");
        return;
    }
    assert!(output.status.success() && said.is_empty(), "{said}");
}
