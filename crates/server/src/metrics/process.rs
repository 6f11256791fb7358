//! What the kernel tells about this process.

/// Limits of open files, and how many are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileLimit {
    pub open: u64,
    pub max: u64,
}

impl FileLimit {
    /// As of now; zeros where the kernel does not tell.
    pub fn now() -> Self {
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        FileLimit {
            open,
            max: limit.current.unwrap_or(u64::MAX),
        }
    }
}

/// Memory and time of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub cpu_s: f64,
    /// Unix time.
    pub started_s: f64,
    pub threads: u64,
    /// Limit of the address space.
    pub virtual_bytes_max: u64,
    /// Bytes that this machine has received and sent.
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

impl Process {
    /// As of now; zeros where the kernel does not tell.
    pub fn now() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let boot_s = read("/proc/stat")
            .lines()
            .find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
            .unwrap_or(0.0);
        let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
        let page_bytes = rustix::param::page_size() as u64;
        let process = parse(&read("/proc/self/stat"), boot_s, ticks_per_s, page_bytes);
        let limit = rustix::process::getrlimit(rustix::process::Resource::As);
        let network = read("/proc/self/net/netstat");
        Process {
            virtual_bytes_max: limit.current.unwrap_or(u64::MAX),
            received_bytes: network_count(&network, "InOctets").unwrap_or(0),
            sent_bytes: network_count(&network, "OutOctets").unwrap_or(0),
            ..process.unwrap_or_default()
        }
    }
}

/// Reads `/proc/PID/stat`. Source: proc(5).
fn parse(stat: &str, boot_s: f64, ticks_per_s: f64, page_bytes: u64) -> Option<Process> {
    // The second field is the program's name in brackets and may hold anything, brackets included.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Field n of proc(5) is fields[n - 3].
    let number = |n: usize| fields.get(n - 3)?.parse::<u64>().ok();
    Some(Process {
        cpu_s: (number(14)? + number(15)?) as f64 / ticks_per_s,
        threads: number(20)?,
        started_s: boot_s + number(22)? as f64 / ticks_per_s,
        virtual_bytes: number(23)?,
        resident_bytes: number(24)? * page_bytes,
        ..Process::default()
    })
}

/// A number of the second line of `IpExt:` in `/proc/PID/net/netstat`, under its name in the first.
fn network_count(netstat: &str, name: &str) -> Option<u64> {
    let mut lines = netstat
        .lines()
        .filter_map(|line| line.strip_prefix("IpExt:"));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let at = names.split_whitespace().position(|known| known == name)?;
    numbers.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_brackets_and_blanks_confuses_nobody() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 10 0 0 0 150 50 0 0 20 0 9 0 1000 8192 3 18446744073709551615";
        let process = parse(stat, 100.0, 100.0, 4096).expect("a line of the kernel");
        assert_eq!(
            process,
            Process {
                resident_bytes: 3 * 4096,
                virtual_bytes: 8192,
                cpu_s: 2.0,
                started_s: 110.0,
                threads: 9,
                ..Process::default()
            }
        );
    }

    #[test]
    fn counts_of_the_network_are_found_by_their_names() {
        let netstat = "TcpExt: A B\nTcpExt: 1 2\nIpExt: X InOctets OutOctets\nIpExt: 3 40 50\n";
        assert_eq!(network_count(netstat, "InOctets"), Some(40));
        assert_eq!(network_count(netstat, "OutOctets"), Some(50));
        assert_eq!(network_count("", "OutOctets"), None);
    }
}
