//! docs/sync.md, acted out step by step: its hosts are directories of one machine, or network
//! namespaces.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

const PAGE: &str = include_str!("../../../docs/sync.md");

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
}

impl World {
    fn new(prefixes: HashMap<&'static str, Vec<String>>) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            prefixes,
            nodes: HashMap::new(),
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
            BufReader::new(stdout).read_line(&mut line).unwrap();
            assert!(line.contains("\"node\""), "{step:?}: {line}");
            self.nodes.insert(host, node);
            return;
        }
        if *command == "kill %1" {
            let mut node = self.nodes.remove(host).unwrap();
            let ended = Command::new("kill").arg(node.id().to_string()).status();
            assert!(ended.unwrap().success());
            let status = node.wait().unwrap();
            assert!(status.success(), "a node that is told to end says {status}");
            return;
        }
        let output = self.shell(host, command).output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{step:?}: {printed}{said}");
        assert!(
            is_like(printed.trim_end(), &step.prints),
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
fn is_like(text: &str, prints: &[&str]) -> bool {
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

/// Network namespaces, connected by a bridge in the first; gone when it is dropped.
#[cfg(target_os = "linux")]
struct Namespaces([String; 4]);

#[cfg(target_os = "linux")]
impl Namespaces {
    /// Returns nothing where the machine does not allow it.
    fn new() -> Option<Self> {
        let id = std::process::id();
        let names = ["d", "l", "p", "t"].map(|host| format!("alkfs-{id}-{host}"));
        let [d, l, p, t] = &names;
        let ip = |args: &str| {
            let status = Command::new("ip").args(args.split(' ')).output();
            status.is_ok_and(|output| output.status.success())
        };
        if !ip(&format!("netns add {d}")) {
            return None;
        }
        let namespaces = Self(names.clone());
        let joined = |host: &str, number: u8| {
            ip(&format!("netns add {host}"))
                && ip(&format!("-n {host} link set lo up"))
                && ip(&format!(
                    "-n {host} link add eth0 type veth peer name port{number} netns {d}"
                ))
                && ip(&format!("-n {host} addr add 10.77.0.{number}/24 dev eth0"))
                && ip(&format!("-n {host} link set eth0 up"))
                && ip(&format!("-n {d} link set port{number} master bridge up"))
        };
        let made = ip(&format!("-n {d} link set lo up"))
            && ip(&format!("-n {d} link add bridge type bridge"))
            && ip(&format!("-n {d} addr add 10.77.0.1/24 dev bridge"))
            && ip(&format!("-n {d} link set bridge up"))
            && joined(l, 2)
            && joined(p, 3)
            && joined(t, 4);
        made.then_some(namespaces)
    }
}

#[cfg(target_os = "linux")]
impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn network_namespaces_act_out_the_page() {
    let Some(namespaces) = Namespaces::new() else {
        crate::network::skip("network namespaces need root and the program ip");
        return;
    };
    let exec = |name: &str| ["ip", "netns", "exec", name].map(str::to_owned).to_vec();
    let hosts = ["desk", "laptop", "phone", "tablet"];
    let prefixes = hosts
        .into_iter()
        .zip(namespaces.0.iter().map(|name| exec(name)));
    let prefixes = prefixes.collect();
    let mut world = World::new(prefixes);
    steps().iter().for_each(|step| world.run(step));
}
