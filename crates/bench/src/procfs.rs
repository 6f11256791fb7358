//! What the server's processes use, read from `/proc`.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// CPU time and memory of some processes together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// User and system time of all threads so far, seconds (resolution 10 ms).
    pub cpu_s: f64,
    /// Resident memory, bytes: everything, mapped files included.
    pub rss: u64,
    /// The most resident memory so far, bytes.
    pub rss_max: u64,
    /// Resident memory that is not a file's, bytes.
    pub rss_anon: u64,
}

/// Reads the usage of `pids`, added up.
pub fn usage(pids: &[u32]) -> Result<Usage> {
    let mut sum = Usage::default();
    for pid in pids {
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/{pid}/{file}"))
                .with_context(|| format!("process {pid} cannot be read (is it still running?)"))
        };
        sum.cpu_s += cpu_ticks(&read("stat")?)
            .with_context(|| format!("/proc/{pid}/stat has an unknown form"))?
            as f64
            / ticks_per_second();
        let status = read("status")?;
        let memory = status_kib(&status);
        let bytes = |name: &str| memory.get(name).copied().unwrap_or(0) * 1024;
        sum.rss += bytes("VmRSS");
        sum.rss_max += bytes("VmHWM");
        sum.rss_anon += bytes("RssAnon");
    }
    Ok(sum)
}

/// CPU time of `pids` in nanoseconds, for processes that use so little that the 10 ms of [`usage`] are too coarse. Threads that have ended are not
/// counted, so it suits processes at rest.
pub fn fine_cpu_ns(pids: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let threads = fs::read_dir(format!("/proc/{pid}/task"))
            .with_context(|| format!("process {pid} cannot be read (is it still running?)"))?;
        for thread in threads {
            // A thread may end between being listed and being read.
            let line = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            let running = line.split_ascii_whitespace().next();
            sum += running.and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(sum)
}

/// CPU time that all processes of the machine used so far, and what the hypervisor took, seconds. 0 where it cannot be read.
pub fn machine_cpu_s() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    busy_ticks(&stat).unwrap_or(0) as f64 / ticks_per_second()
}

/// user, nice, system, irq, softirq and steal of the first line of `/proc/stat`; not idle and iowait.
fn busy_ticks(stat: &str) -> Option<u64> {
    let ticks: Vec<u64> = stat
        .lines()
        .next()?
        .split_ascii_whitespace()
        .skip(1)
        .map_while(|f| f.parse().ok())
        .collect();
    Some(
        [0, 1, 2, 5, 6, 7]
            .iter()
            .filter_map(|&i| ticks.get(i))
            .sum(),
    )
}

/// CPU time of this process, seconds.
pub fn own_cpu_s() -> f64 {
    usage(&[std::process::id()]).map_or(0.0, |u| u.cpu_s)
}

fn ticks_per_second() -> f64 {
    rustix::param::clock_ticks_per_second() as f64
}

/// What a comparison was measured on, in one line: cores, processor, kernel, and the file system of `dir`.
pub fn machine(dir: &Path) -> String {
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor", |(_, m)| m.trim());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    format!(
        "{cores} x {model}, Linux {}, {}",
        kernel.trim(),
        file_system(&mounts, &dir).unwrap_or("unknown file system")
    )
}

/// The type of the file system that holds `dir`: that of the longest mount point above it, the last one if several are stacked.
fn file_system<'a>(mounts: &'a str, dir: &Path) -> Option<&'a str> {
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    mounts
        .filter(|(point, _)| dir.starts_with(point))
        .max_by_key(|(point, _)| point.len())
        .map(|(_, kind)| kind)
}

/// utime + stime of `/proc/PID/stat`. The name before them is in parentheses and may contain anything, parentheses too.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let utime: u64 = fields.nth(11)?.parse().ok()?;
    let stime: u64 = fields.next()?.parse().ok()?;
    Some(utime + stime)
}

/// The lines of `/proc/PID/status` that are sizes in KiB.
fn status_kib(status: &str) -> BTreeMap<&str, u64> {
    let lines = status
        .lines()
        .filter_map(|line| line.strip_suffix(" kB")?.split_once(':'));
    lines
        .filter_map(|(name, value)| Some((name, value.trim().parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_blanks_does_not_shift_the_fields() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 70 30 5 6 20 0 9 0 100 1000 10";
        assert_eq!(cpu_ticks(stat), Some(100));
        assert_eq!(cpu_ticks("42 (x) S 1"), None);
    }

    #[test]
    fn idle_time_is_not_counted_as_use() {
        assert_eq!(
            busy_ticks("cpu  10 20 30 4000 500 6 7 8 0 0\ncpu0 1 1 1"),
            Some(81)
        );
    }

    #[test]
    fn sizes_are_found_by_name() {
        let kib = status_kib(
            "Name:\tx\nVmHWM:\t  2000 kB\nVmRSS:\t  1000 kB\nRssAnon:\t 900 kB\nThreads:\t9\n",
        );
        assert_eq!(
            (kib["VmRSS"], kib["VmHWM"], kib["RssAnon"]),
            (1000, 2000, 900)
        );
    }

    #[test]
    fn the_file_system_is_that_of_the_nearest_mount() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\ntmpfs /tmpfoo xfs rw 0 0\n";
        assert_eq!(file_system(mounts, Path::new("/tmp/x")), Some("tmpfs"));
        assert_eq!(file_system(mounts, Path::new("/var/tmp")), Some("ext4"));
    }

    #[test]
    fn this_process_has_memory_and_a_missing_one_is_named() {
        assert!(usage(&[std::process::id()]).unwrap().rss > 100_000);
        assert!(fine_cpu_ns(&[std::process::id()]).unwrap() > 0);
        let error = usage(&[u32::MAX]).unwrap_err().to_string();
        assert!(error.contains("process 4294967295"), "{error}");
    }
}
