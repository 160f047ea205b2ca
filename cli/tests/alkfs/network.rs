//! Hosts in network namespaces of this machine, and a network between them that may be as bad as it
//! gets: each packet passes through this process.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use iroh_relay::server::{RelayConfig, Server, ServerConfig};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::Value;
use tappers::Tun;
use tokio::sync::oneshot;

use crate::bench::Bench;

/// What becomes of packets on their way.
#[derive(Debug, Clone, Default)]
struct Weather {
    delay: Duration,
    /// How many packets of a hundred are lost.
    loss: u8,
    /// Pairs of hosts that hear nothing of each other.
    cuts: Vec<(usize, usize)>,
}

/// A star of hosts, with this process in the middle.
pub(crate) struct Network {
    hosts: Vec<Namespace>,
    weather: Arc<Mutex<Weather>>,
    delivered: Arc<Vec<AtomicU64>>,
    sent: Arc<Vec<AtomicU64>>,
    lost: Arc<AtomicU64>,
    targets: Arc<Vec<Mutex<BTreeSet<IpAddr>>>>,
}

/// A network namespace; gone when it is dropped.
struct Namespace(String);

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.0));
    }
}

/// Says that a test is skipped, which fails where `ALKFS_TEST_NAMESPACES` is `require`: `cargo xtask test`
/// sets that for root.
#[track_caller]
fn skip(why: &str) {
    let asked = std::env::var_os("ALKFS_TEST_NAMESPACES");
    assert!(asked.is_none_or(|asked| asked != "require"), "{why}");
    eprintln!("skipped: {why}");
}

/// Runs the program ip; returns whether it worked.
fn ip(args: &str) -> bool {
    let output = Command::new("ip").args(args.split(' ')).output();
    output.is_ok_and(|output| output.status.success())
}

/// A name for a namespace that nothing else on the machine has.
fn fresh_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("alkfs-{}-n{next}", std::process::id())
}

impl Network {
    /// Makes a network of hosts 0 to `count`; nothing, with a reason, where the machine does not allow
    /// it.
    pub(crate) fn new(count: usize) -> Option<Self> {
        match Self::build(count) {
            Some(network) => Some(network),
            None => {
                skip("network namespaces need root, the program ip and /dev/net/tun");
                None
            }
        }
    }

    fn build(count: usize) -> Option<Self> {
        let mut hosts = Vec::new();
        let mut devices = Vec::new();
        for host in 0..count {
            let name = fresh_name();
            if !ip(&format!("netns add {name}")) {
                return None;
            }
            hosts.push(Namespace(name.clone()));
            devices.push(device(&name).ok()?);
            let made = ip(&format!("-n {name} link set lo up"))
                && ip(&format!("-n {name} addr add {}/24 dev tun0", addr(host)))
                && ip(&format!("-n {name} link set tun0 txqueuelen 4000 up"))
                && ip(&format!("-n {name} route add 224.0.0.0/4 dev tun0"));
            if !made {
                return None;
            }
        }
        let network = Self {
            hosts,
            weather: Arc::default(),
            delivered: Arc::new((0..count).map(|_| AtomicU64::new(0)).collect()),
            sent: Arc::new((0..count).map(|_| AtomicU64::new(0)).collect()),
            lost: Arc::default(),
            targets: Arc::new((0..count).map(|_| Mutex::default()).collect()),
        };
        let devices = Arc::new(devices);
        let (late, queue) = channel();
        let (to, delivered) = (Arc::clone(&devices), Arc::clone(&network.delivered));
        thread::spawn(move || deliver_late(&queue, &to, &delivered));
        for host in 0..count {
            let switch = Switch {
                devices: Arc::clone(&devices),
                weather: Arc::clone(&network.weather),
                delivered: Arc::clone(&network.delivered),
                sent: Arc::clone(&network.sent),
                lost: Arc::clone(&network.lost),
                targets: Arc::clone(&network.targets),
                late: late.clone(),
            };
            thread::spawn(move || switch.carry(host));
        }
        Some(network)
    }

    /// Makes a store on a host; its node does not run yet.
    pub(crate) fn host(&self, number: usize) -> Host {
        Host {
            bench: Bench::new(),
            namespace: self.hosts[number].0.clone(),
            node: None,
        }
    }

    /// Makes stores on all hosts, and starts their nodes.
    pub(crate) fn nodes(&self) -> Vec<Host> {
        let start = |number| {
            let mut host = self.host(number);
            host.start();
            host
        };
        (0..self.hosts.len()).map(start).collect()
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.weather.lock().unwrap().delay = delay;
    }

    pub(crate) fn lose(&self, percent: u8) {
        self.weather.lock().unwrap().loss = percent;
    }

    /// Lets nothing through between some hosts and all others.
    pub(crate) fn part(&self, some: &[usize]) {
        let all = 0..self.hosts.len();
        let mut weather = self.weather.lock().unwrap();
        for one in some {
            let others = all.clone().filter(|other| !some.contains(other));
            weather.cuts.extend(others.map(|other| (*one, other)));
        }
    }

    /// Lets nothing through between two hosts.
    pub(crate) fn cut(&self, one: usize, other: usize) {
        self.weather.lock().unwrap().cuts.push((one, other));
    }

    /// Lets everything through again.
    pub(crate) fn heal(&self) {
        self.weather.lock().unwrap().cuts.clear();
    }

    /// Runs a relay on a host.
    pub(crate) fn relay(&self, host: usize) -> Relay {
        let namespace = self.hosts[host].0.clone();
        let (stop, stopped) = oneshot::channel();
        let (started, starting) = channel();
        let serve = async move {
            let mut config = ServerConfig::default();
            config.relay = Some(RelayConfig::new((addr(host), 0)));
            let server = Server::spawn(config).await.unwrap();
            started.send(server.http_addr().unwrap()).unwrap();
            let _ = stopped.await;
            server.shutdown().await.unwrap();
        };
        let thread = thread::spawn(move || {
            enter(&namespace).unwrap();
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_all().build().unwrap().block_on(serve);
        });
        let url = format!("http://{}", starting.recv().unwrap());
        Relay {
            url,
            running: Some((stop, thread)),
        }
    }

    /// Returns how many bytes were delivered to a host, headers included.
    pub(crate) fn delivered(&self, host: usize) -> u64 {
        self.delivered[host].load(Ordering::Relaxed)
    }

    /// Leads whatever a host sends to anywhere into this network, where it can be counted.
    pub(crate) fn lead_all(&self, host: usize) {
        let name = &self.hosts[host].0;
        assert!(ip(&format!("-n {name} route add default dev tun0")));
    }

    /// Returns how many packets a host sent, to wherever; but not what its kernel says of itself.
    pub(crate) fn sent(&self, host: usize) -> u64 {
        self.sent[host].load(Ordering::Relaxed)
    }

    /// Returns where to a host sent any of these.
    pub(crate) fn targets(&self, host: usize) -> BTreeSet<IpAddr> {
        self.targets[host].lock().unwrap().clone()
    }

    /// Returns how many packets were lost, cuts aside.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Returns the names of the hosts' namespaces.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(|host| &*host.0)
    }
}

pub(crate) fn addr(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, host as u8 + 1)
}

/// Moves this thread into a namespace.
fn enter(namespace: &str) -> std::io::Result<()> {
    let namespace = File::open(format!("/run/netns/{namespace}"))?;
    let kind = Some(LinkNameSpaceType::Network);
    Ok(move_into_link_name_space(namespace.as_fd(), kind)?)
}

/// Makes a device in a namespace, for which the thread that makes it has to be there.
fn device(namespace: &str) -> std::io::Result<Tun> {
    let namespace = namespace.to_owned();
    let made = thread::spawn(move || {
        enter(&namespace)?;
        Tun::new()
    });
    made.join().unwrap()
}

/// A relay that passes on what nodes cannot send each other, until it is dropped.
pub(crate) struct Relay {
    pub(crate) url: String,
    running: Option<(oneshot::Sender<()>, thread::JoinHandle<()>)>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        let (stop, thread) = self.running.take().unwrap();
        let _ = stop.send(());
        let ended = thread.join();
        assert!(ended.is_ok() || thread::panicking(), "the relay failed");
    }
}

/// Tells whether a packet is of TCP or UDP, over either version.
fn is_of_a_program(packet: &[u8]) -> bool {
    let protocol = match packet.first().map(|first| first >> 4) {
        Some(4) => packet.get(9),
        Some(6) => packet.get(6),
        _ => None,
    };
    matches!(protocol, Some(6 | 17))
}

/// Returns where a packet is to go.
fn target(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(packet.get(16..)?.first_chunk::<4>().copied()?.into()),
        6 => Some(packet.get(24..)?.first_chunk::<16>().copied()?.into()),
        _ => None,
    }
}

struct Switch {
    devices: Arc<Vec<Tun>>,
    weather: Arc<Mutex<Weather>>,
    delivered: Arc<Vec<AtomicU64>>,
    sent: Arc<Vec<AtomicU64>>,
    lost: Arc<AtomicU64>,
    targets: Arc<Vec<Mutex<BTreeSet<IpAddr>>>>,
    late: Sender<(Instant, usize, Vec<u8>)>,
}

impl Switch {
    /// Carries what a host sends, until its device is gone.
    fn carry(&self, from: usize) {
        let mut random = fastrand::Rng::with_seed(from as u64);
        let mut buffer = vec![0; 1 << 16];
        while let Ok(len) = self.devices[from].recv(&mut buffer) {
            let packet = &buffer[..len];
            let to = target(packet);
            if is_of_a_program(packet) {
                self.sent[from].fetch_add(1, Ordering::Relaxed);
                self.targets[from].lock().unwrap().extend(to);
            }
            let Some(IpAddr::V4(to)) = to else {
                continue;
            };
            for other in 0..self.devices.len() {
                if to == addr(other) || to.is_multicast() && other != from {
                    self.pass(from, other, packet, &mut random);
                }
            }
        }
    }

    fn pass(&self, from: usize, to: usize, packet: &[u8], random: &mut fastrand::Rng) {
        let weather = self.weather.lock().unwrap().clone();
        let is_cut = |(a, b): &(usize, usize)| (*a, *b) == (from, to) || (*b, *a) == (from, to);
        if weather.cuts.iter().any(is_cut) {
            return;
        }
        if random.u8(0..100) < weather.loss {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if weather.delay.is_zero() {
            deliver(&self.devices, &self.delivered, to, packet);
        } else {
            let due = Instant::now() + weather.delay;
            let _ = self.late.send((due, to, packet.to_owned()));
        }
    }
}

fn deliver(devices: &[Tun], delivered: &[AtomicU64], to: usize, packet: &[u8]) {
    // A host that is gone loses it.
    if devices[to].send(packet).is_ok() {
        delivered[to].fetch_add(packet.len() as u64, Ordering::Relaxed);
    }
}

fn deliver_late(
    queue: &Receiver<(Instant, usize, Vec<u8>)>,
    devices: &[Tun],
    delivered: &[AtomicU64],
) {
    while let Ok((due, to, packet)) = queue.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        deliver(devices, delivered, to, &packet);
    }
}

/// A store, and its node in a namespace. Commands need no network.
pub(crate) struct Host {
    pub(crate) bench: Bench,
    pub(crate) namespace: String,
    node: Option<Child>,
}

impl Host {
    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts the node with more options.
    pub(crate) fn start_with(&mut self, options: &[&str]) {
        let log = File::create(self.bench.path("node.log")).unwrap();
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &self.namespace,
            env!("CARGO_BIN_EXE_alkfs"),
        ]);
        command.args(["--json", "node"]).args(options);
        command.current_dir(self.bench.dir.path()).stderr(log);
        command.env("ALKFS_LOG", "info,alknet_fs_net=debug");
        let mut node = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let stdout = node.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert!(line.contains("\"node\""), "{line}");
        self.node = Some(node);
    }

    /// Kills the node, which gets no chance to do anything about it.
    pub(crate) fn kill(&mut self) {
        let mut node = self.node.take().unwrap();
        node.kill().unwrap();
        node.wait().unwrap();
    }

    /// Joins another host's bucket, and fetches all its contents.
    pub(crate) fn join(&self, other: &Self) {
        let shared = other.bench.one(&["share"]);
        let ticket = shared["ticket"].as_str().unwrap();
        self.bench.one(&["join", ticket, "--merge"]);
        for host in [self, other] {
            host.bench.json(&["policy", "eager"]);
        }
    }

    /// Tells how it stands with each peer.
    pub(crate) fn status(&self) -> Vec<Value> {
        self.bench.json(&["sync", "status"])
    }

    /// Tells whether the node has so many peers, and something holds for all of them.
    pub(crate) fn all_peers(&self, count: usize, key: &str, value: bool) -> bool {
        let status = self.status();
        status.len() == count && status.iter().all(|peer| peer[key] == value)
    }

    /// Returns a file's text, if it can be read without waiting.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        let ran = self.bench.run(&["cat", path]);
        (ran.status == 0).then(|| String::from_utf8(ran.stdout).unwrap())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut node) = self.node.take() {
            let _ = node.kill();
            let _ = node.wait();
        }
        if thread::panicking() {
            let log = std::fs::read_to_string(self.bench.path("node.log"));
            eprintln!("{}:\n{}", self.namespace, log.unwrap_or_default());
        }
    }
}
