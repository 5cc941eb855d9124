//! A network of our own inside this machine: every worker is a host behind a cable, and cables can be pulled.
//!
//! Each host is a network namespace with one interface, joined by a veth pair to a bridge in a further namespace, where
//! the coordinator and the commands run. Nothing on the machine's own network is touched but the names of namespaces.
//! It needs root and iproute2. Everything goes with the [`Network`]; what a killed process left goes when the next one
//! starts.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "trireme";
const BRIDGE: &str = "br0";
const CABLE: &str = "eth0";
/// The address of the bridge. A host's is its number after it.
const BRIDGE_ADDRESS: &str = "10.213.0.1";
/// Nobody has it: what is sent there is lost without a word.
const NOBODY: &str = "02:00:00:00:00:00";
/// Where `ip` keeps the namespaces that have names.
const NAMESPACES: &str = "/run/netns";

/// The bridge and its namespace. Dropping it ends every process in it and removes all.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    hosts: u32,
    /// Why a cable cannot be made slow.
    slow: Result<(), String>,
}

/// One host's namespace and cable. It lives as long as its [`Network`].
#[derive(Clone, Debug)]
pub struct Host {
    hub: String,
    namespace: String,
    /// The bridge's end of the cable.
    port: String,
    address: String,
}

impl Network {
    /// Err: why this machine does not allow it.
    pub fn create() -> Result<Self, String> {
        static NETWORKS: AtomicU32 = AtomicU32::new(0);
        remove_leftovers();
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}-{}-{number}", std::process::id());
        let mut network = Self { prefix, hosts: 0, slow: Ok(()) };
        let hub = network.hub();
        run("ip", &["netns", "add", &hub])?;
        run("ip", &["-n", &hub, "link", "set", "lo", "up"])?;
        run("ip", &["-n", &hub, "link", "add", BRIDGE, "type", "bridge"])?;
        run("ip", &["-n", &hub, "addr", "add", &format!("{BRIDGE_ADDRESS}/16"), "dev", BRIDGE])?;
        run("ip", &["-n", &hub, "link", "set", BRIDGE, "up"])?;
        network.slow = limit(&hub, BRIDGE, 1000).and_then(|()| no_limit(&hub, BRIDGE));
        Ok(network)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.prefix)
    }

    /// Where the coordinator listens.
    pub fn address(&self) -> &'static str {
        BRIDGE_ADDRESS
    }

    /// Err: why the kernel cannot make a cable slow.
    pub fn can_be_slow(&self) -> Result<(), String> {
        self.slow.clone()
    }

    /// A further host.
    pub fn add_host(&mut self) -> Result<Host, String> {
        self.hosts += 1;
        let (high, low) = ((self.hosts + 1) / 256, (self.hosts + 1) % 256);
        let host = Host {
            hub: self.hub(),
            namespace: format!("{}-host{}", self.prefix, self.hosts),
            port: format!("port{}", self.hosts),
            address: format!("10.213.{high}.{low}"),
        };
        let Host { hub, namespace, port, address } = &host;
        run("ip", &["netns", "add", namespace])?;
        run("ip", &["-n", hub, "link", "add", port, "type", "veth", "peer", "name", CABLE, "netns", namespace])?;
        run("ip", &["-n", hub, "link", "set", port, "master", BRIDGE, "up"])?;
        run("ip", &["-n", namespace, "link", "set", "lo", "up"])?;
        run("ip", &["-n", namespace, "addr", "add", &format!("{address}/16"), "dev", CABLE])?;
        run("ip", &["-n", namespace, "link", "set", CABLE, "up"])?;
        Ok(host)
    }

    /// A command beside the coordinator.
    pub fn command(&self, program: &Path) -> Command {
        inside(&self.hub(), program)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in names().filter(|name| name.strip_prefix(&self.prefix).is_some_and(|rest| rest.starts_with('-'))) {
            remove(&name);
        }
    }
}

impl Host {
    /// A command on this host.
    pub fn command(&self, program: &Path) -> Command {
        inside(&self.namespace, program)
    }

    /// Pulls the cable, or plugs it in: nobody reaches it, and nobody is told.
    pub fn set_link(&self, up: bool) {
        must("ip", &["-n", &self.hub, "link", "set", &self.port, if up { "up" } else { "down" }]);
    }

    /// Cuts the way between it and the coordinator alone, or mends it.
    pub fn set_way_to_coordinator(&self, up: bool) {
        set_way(&self.namespace, BRIDGE_ADDRESS, CABLE, up);
        set_way(&self.hub, &self.address, BRIDGE, up);
    }

    /// Cuts the way between it and another host alone, or mends it.
    pub fn set_way_to(&self, other: &Host, up: bool) {
        set_way(&self.namespace, &other.address, CABLE, up);
        set_way(&other.namespace, &self.address, CABLE, up);
    }

    /// So many megabits a second through its cable, each way.
    pub fn slow_down(&self, megabits: u32) {
        for (namespace, device) in [(&self.namespace, CABLE), (&self.hub, self.port.as_str())] {
            limit(namespace, device, megabits).unwrap_or_else(|error| panic!("{error}"));
        }
    }

    /// Ends [`Host::slow_down`].
    pub fn speed_up(&self) {
        for (namespace, device) in [(&self.namespace, CABLE), (&self.hub, self.port.as_str())] {
            no_limit(namespace, device).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// `ip netns exec` becomes the program: the process number is that of the program.
fn inside(namespace: &str, program: &Path) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

/// A wrong neighbour instead of a missing route: a route's absence is an error that programs see.
fn set_way(namespace: &str, to: &str, device: &str, up: bool) {
    if up {
        must("ip", &["-n", namespace, "neigh", "del", to, "dev", device]);
    } else {
        must("ip", &["-n", namespace, "neigh", "replace", to, "lladdr", NOBODY, "dev", device, "nud", "permanent"]);
    }
}

fn limit(namespace: &str, device: &str, megabits: u32) -> Result<(), String> {
    let rate = format!("{megabits}mbit");
    let queue = ["root", "tbf", "rate", &rate, "burst", "128kb", "latency", "200ms"];
    run("tc", &[["-n", namespace, "qdisc", "add", "dev", device].as_slice(), &queue].concat())
}

fn no_limit(namespace: &str, device: &str) -> Result<(), String> {
    run("tc", &["-n", namespace, "qdisc", "del", "dev", device, "root"])
}

fn must(program: &str, arguments: &[&str]) {
    run(program, arguments).unwrap_or_else(|error| panic!("{error}"));
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    output(program, arguments).map(|_| ())
}

fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot start `{program}` (iproute2): {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let error = String::from_utf8_lossy(&output.stderr);
    Err(format!("`{program} {}`: {}", arguments.join(" "), error.trim()))
}

fn names() -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(NAMESPACES).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// The namespaces of processes that are gone.
fn remove_leftovers() {
    let is_left = |name: &String| {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('-')?.split('-').next());
        process.is_some_and(|process| process.parse::<u32>().is_ok() && !Path::new("/proc").join(process).exists())
    };
    names().filter(is_left).for_each(|name| remove(&name));
}

/// Ends whoever is inside, then removes it; its cables go with it. What cannot be removed is tried by the next process.
fn remove(namespace: &str) {
    for process in output("ip", &["netns", "pids", namespace]).unwrap_or_default().split_whitespace() {
        if let Ok(process) = process.parse() {
            let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
        }
    }
    let _ = run("ip", &["netns", "del", namespace]);
}
