//! A network for one cluster: a bridge, and for each member a namespace with one interface on it. Its traffic can be cut, slowed and lost.
//!
//! Everything is made with `ip` and `tc` of iproute2; no packet filter is needed. To cut the way from A to B, A is told a link-layer address for B
//! that nobody has: its packets leave and arrive nowhere, without any error, while those from B to A go on. To slow a member down, its interface gets
//! a token bucket filter: packets wait in its short queue and are lost when that is full. (The kernel's delay emulator is often not built in.)
//!
//! Names contain the process id, so that runs side by side do not meet, and what a killed run left behind is removed by the next one.

use super::tool;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// All names begin so; then the process id, `x`, a number.
const PREFIX: &str = "qb";
/// The bridge's own end, from which clients call.
const OWN_HOST: u8 = 254;
/// A link-layer address that no interface has.
const NOBODY: &str = "02:00:00:00:de:ad";

/// A bridge and the namespaces on it.
pub struct Network {
    name: String,
    subnet: [u8; 3],
    hosts: usize,
}

impl Network {
    /// Makes the bridge. The error says what is missing on this machine.
    pub fn create() -> Result<Network, String> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        remove_leftovers()?;
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}x{number}", std::process::id());
        let subnet = free_subnet(std::process::id().wrapping_mul(31).wrapping_add(number))?;
        let network = Network {
            name,
            subnet,
            hosts: 0,
        };
        let own = format!("{}/24", network.host_address(OWN_HOST));
        tool("ip", &["link", "add", &network.name, "type", "bridge"])?;
        tool("ip", &["addr", "add", &own, "dev", &network.name])?;
        tool("ip", &["link", "set", &network.name, "up"])?;
        // Whether namespaces can be had shows when the first one is made; better now than in the middle of a test.
        tool("nsenter", &["--version"])?;
        Ok(network)
    }

    /// Another namespace on the bridge.
    pub fn add_host(&mut self) -> Result<usize, String> {
        let host = self.hosts;
        self.hosts += 1;
        let (namespace, outside) = (self.namespace(host), self.outside(host));
        let address = format!("{}/24", self.address(host));
        tool("ip", &["netns", "add", &namespace])?;
        let pair = [
            "link", "add", &outside, "type", "veth", "peer", "name", "e0", "netns", &namespace,
        ];
        tool("ip", &pair)?;
        tool("ip", &["link", "set", &outside, "master", &self.name, "up"])?;
        let inside = |arguments: &[&str]| {
            let all = [&["-n", namespace.as_str()], arguments].concat();
            tool("ip", &all)
        };
        inside(&["addr", "add", &address, "dev", "e0"])?;
        inside(&["link", "set", "e0", "up"])?;
        inside(&["link", "set", "lo", "up"])?;
        Ok(host)
    }

    /// The address of a host.
    pub fn address(&self, host: usize) -> Ipv4Addr {
        self.host_address(host as u8 + 1)
    }

    /// The namespace of a host.
    pub fn namespace(&self, host: usize) -> String {
        format!("{}-{}", self.name, host + 1)
    }

    /// From now on nothing that `from` sends reaches `to`.
    pub fn cut(&self, from: usize, to: usize) -> Result<(), String> {
        let address = self.address(to).to_string();
        let namespace = self.namespace(from);
        let entry = [
            "-n",
            &namespace,
            "neigh",
            "replace",
            &address,
            "lladdr",
            NOBODY,
            "dev",
            "e0",
            "nud",
            "permanent",
        ];
        tool("ip", &entry).map(drop)
    }

    /// It does again.
    pub fn join(&self, from: usize, to: usize) -> Result<(), String> {
        let address = self.address(to).to_string();
        let namespace = self.namespace(from);
        // There is nothing to delete where nothing was cut.
        let _ = tool(
            "ip",
            &["-n", &namespace, "neigh", "del", &address, "dev", "e0"],
        );
        Ok(())
    }

    /// Cuts `host` off from all other hosts; clients still reach it.
    pub fn isolate(&self, host: usize) -> Result<(), String> {
        for other in (0..self.hosts).filter(|other| *other != host) {
            self.cut(host, other)?;
            self.cut(other, host)?;
        }
        Ok(())
    }

    /// Joins everything.
    pub fn heal(&self) -> Result<(), String> {
        for from in 0..self.hosts {
            self.fast(from);
            for to in (0..self.hosts).filter(|to| *to != from) {
                self.join(from, to)?;
            }
        }
        Ok(())
    }

    /// What `host` sends leaves at so many kilobits per second; it waits up to `queue_ms` and is lost beyond that.
    pub fn slow(&self, host: usize, kbit: u32, queue_ms: u32) -> Result<(), String> {
        self.fast(host);
        let namespace = self.namespace(host);
        let (rate, latency) = (format!("{kbit}kbit"), format!("{queue_ms}ms"));
        let filter = [
            "-n", &namespace, "qdisc", "add", "dev", "e0", "root", "tbf", "rate", &rate, "burst",
            "4kb", "latency", &latency,
        ];
        tool("tc", &filter).map(drop)
    }

    /// At full speed again.
    pub fn fast(&self, host: usize) {
        // There is nothing to delete where nothing was slowed.
        let _ = tool(
            "tc",
            &[
                "-n",
                &self.namespace(host),
                "qdisc",
                "del",
                "dev",
                "e0",
                "root",
            ],
        );
    }

    fn host_address(&self, last: u8) -> Ipv4Addr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, last)
    }

    /// The outer end of a host's interface.
    fn outside(&self, host: usize) -> String {
        format!("{}v{}", self.name, host + 1)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            // The inner end goes with its namespace, but only when the last socket in it is closed; the outer end takes it along at once.
            let _ = tool("ip", &["link", "del", &self.outside(host)]);
            let _ = tool("ip", &["netns", "del", &self.namespace(host)]);
        }
        let _ = tool("ip", &["link", "del", &self.name]);
    }
}

/// Where a namespace can be entered.
pub(super) fn path(namespace: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(namespace)
}

/// A network of 254 addresses that this machine does not know yet.
fn free_subnet(start: u32) -> Result<[u8; 3], String> {
    for step in 0..64 {
        let number = start.wrapping_add(step).wrapping_mul(7);
        let subnet = [10, 64 + (number >> 8) as u8 % 128, number as u8];
        let [a, b, c] = subnet;
        if tool(
            "ip",
            &["-4", "addr", "show", "to", &format!("{a}.{b}.{c}.0/24")],
        )?
        .is_empty()
        {
            return Ok(subnet);
        }
    }
    Err("no free network among 64".into())
}

/// Removes bridges, interfaces and namespaces whose process is gone.
fn remove_leftovers() -> Result<(), String> {
    for line in tool("ip", &["netns", "list"])?.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        if is_left_over(name) {
            let _ = tool("ip", &["netns", "del", name]);
        }
    }
    for line in tool("ip", &["-br", "link"])?.lines() {
        let name = line.split([' ', '@']).next().unwrap_or_default();
        if is_left_over(name) {
            let _ = tool("ip", &["link", "del", name]);
        }
    }
    Ok(())
}

fn is_left_over(name: &str) -> bool {
    owner(name).is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists())
}

/// The process that made something of this name; `None` if it is not ours.
fn owner(name: &str) -> Option<u32> {
    let (pid, number) = name.strip_prefix(PREFIX)?.split_once('x')?;
    number
        .starts_with(|c: char| c.is_ascii_digit())
        .then_some(())?;
    pid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_runs_that_are_gone_are_left_over() {
        assert_eq!(owner("qb123x0"), Some(123));
        assert_eq!(owner("qb123x0-2"), Some(123));
        assert_eq!(owner("qb123x4v1"), Some(123));
        for foreign in ["lo", "qbx1", "qb12", "eth0", "qb1xy"] {
            assert_eq!(owner(foreign), None, "{foreign}");
        }
        assert!(!is_left_over(&format!("qb{}x0", std::process::id())));
        assert!(is_left_over("qb4194305x0"), "above the largest process id");
    }

    #[test]
    fn names_fit_into_what_the_kernel_allows() {
        let network = std::mem::ManuallyDrop::new(Network {
            name: format!("{PREFIX}4194304x99"),
            subnet: [10, 64, 0],
            hosts: 0,
        });
        assert!(network.outside(8).len() <= 15, "{}", network.outside(8));
    }
}
