//! Real `etcdctl`, run against any server, and its output made comparable.
//!
//! The same steps run against real etcd and against ours; what is left after [`normalised`] must be equal, byte for byte.

use crate::programs::Program;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long a command may take that should end by itself; then it is killed, and its exit code is -1.
const PATIENCE: Duration = Duration::from_secs(20);

/// One `etcdctl` and the endpoint it talks to.
pub struct Ctl {
    program: Program,
    endpoint: String,
}

/// What a command answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ctl {
    pub fn new(program: &Program, endpoint: impl Into<String>) -> Self {
        Ctl {
            program: program.clone(),
            endpoint: endpoint.into(),
        }
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Answer {
        self.run_with(args, "")
    }

    /// Runs a command with flags before it.
    pub fn run_flagged(&self, flags: &[String], args: &[&str]) -> Answer {
        let flags = flags.iter().map(String::as_str);
        self.run(&flags.chain(args.iter().copied()).collect::<Vec<_>>())
    }

    /// Runs a command with something on its standard input.
    pub fn run_with(&self, args: &[&str], input: &str) -> Answer {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .spawn()
            .expect("etcdctl starts");
        // A command that does not read its input may be gone already.
        let _ = child
            .stdin
            .take()
            .expect("piped")
            .write_all(input.as_bytes());
        let pid = Pid::from_child(&child);
        let (ended, watchdog) = channel::<()>();
        std::thread::spawn(move || {
            // Killed only while the waiting below has not reaped it, so the id is still its own.
            if watchdog.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        let done = child.wait_with_output().expect("etcdctl ends");
        drop(ended);
        Answer {
            code: done.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&done.stdout).into_owned(),
            err: String::from_utf8_lossy(&done.stderr).into_owned(),
        }
    }

    /// Starts a command that goes on printing, as `watch` does.
    pub fn follow(&self, args: &[&str]) -> Follow {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .spawn()
            .expect("etcdctl starts");
        let out = child.stdout.take().expect("piped");
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Follow { child, lines }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program.path);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD") {
                command.env_remove(name);
            }
        }
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.endpoint])
            .args(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// A running command and the lines it has printed.
pub struct Follow {
    child: Child,
    lines: Receiver<String>,
}

impl Follow {
    /// The next line, waiting up to `patience`.
    pub fn line(&self, patience: Duration) -> Option<String> {
        self.lines.recv_timeout(patience).ok()
    }

    /// The next `count` lines; fewer if no more come within 15 s.
    pub fn lines(&self, count: usize) -> Vec<String> {
        let until = Instant::now() + Duration::from_secs(15);
        let mut got = Vec::new();
        while got.len() < count {
            match self.line(until.saturating_duration_since(Instant::now())) {
                Some(line) => got.push(line),
                None => break,
            }
        }
        got
    }

    /// Everything until the command ends by itself, which it must within 15 s.
    pub fn rest(&self) -> Vec<String> {
        self.lines(usize::MAX)
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes out what two servers cannot have in common: ids, terms, how long something took, the order of a lease's keys (etcd
/// keeps them in a hash map), the client's own log lines, and the server's addresses, which are named in `own`.
pub fn normalised(text: &str, own: &[&str]) -> String {
    let mut whole = String::new();
    for line in text.lines().filter(|line| !line.starts_with("{\"level\":")) {
        let mut line = line.to_string();
        for (index, address) in own.iter().enumerate() {
            line = line.replace(address, &format!("<address{index}>"));
        }
        whole.push_str(&normalised_line(&with_keys_sorted(&line)));
        whole.push('\n');
    }
    whole
}

fn normalised_line(line: &str) -> String {
    // The width of a table follows from the ids in it, which differ.
    if line.len() > 1 && line.chars().all(|c| "+-".contains(c)) {
        return "<rule>".into();
    }
    let line: &str = &if line.starts_with('|') {
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    } else {
        line.to_string()
    };
    for field in [
        "\"ClusterID\" : ",
        "\"MemberID\" : ",
        "\"RaftTerm\" : ",
        "\"ID\" : ",
        "\"Lease\" : ",
        "\"TTL\" : ",
    ] {
        if let Some(value) = line.strip_prefix(field)
            && value != "0"
        {
            return format!("{field}<id>");
        }
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '\u{b5}';
    let mut out = String::new();
    let mut rest = line;
    while let Some(start) = rest.find(is_word) {
        out.push_str(&rest[..start]);
        let word = &rest[start..];
        let end = word.find(|c| !is_word(c)).unwrap_or(word.len());
        out.push_str(&normalised_word(&word[..end], &out));
        rest = &word[end..];
    }
    out.push_str(rest);
    out
}

/// `before` is what stands left of the word on its line.
fn normalised_word(word: &str, before: &str) -> String {
    let hex = word.len() >= 14 && word.chars().all(|c| c.is_ascii_hexdigit());
    let json_id = [
        "\"cluster_id\":",
        "\"member_id\":",
        "\"raft_term\":",
        "\"ID\":",
        "\"id\":",
        "\"lease\":",
    ];
    if hex || json_id.iter().any(|field| before.ends_with(field)) {
        return "<id>".into();
    }
    let duration =
        word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.') && word.ends_with('s');
    if duration || before.ends_with("remaining(") || before.ends_with("\"ttl\":") {
        return "<time>".into();
    }
    word.into()
}

fn with_keys_sorted(line: &str) -> String {
    let Some((head, keys)) = line.split_once("attached keys([") else {
        return line.into();
    };
    let mut keys: Vec<&str> = keys.trim_end_matches("])").split(' ').collect();
    keys.sort_unstable();
    format!("{head}attached keys([{}])", keys.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_terms_and_remaining_times_are_not_compared_and_revisions_are() {
        let text = "lease 694d8e9f3a1c2b04 granted with TTL(60s), remaining(59s)\n{\"header\":{\"cluster_id\":1,\"revision\":3,\"raft_term\":2}}\n";
        let same = "lease <id> granted with TTL(60s), remaining(<time>)\n{\"header\":{\"cluster_id\":<id>,\"revision\":3,\"raft_term\":<id>}}\n";
        assert_eq!(normalised(text, &[]), same);
    }

    #[test]
    fn fields_output_loses_its_ids() {
        assert_eq!(
            normalised("\"ClusterID\" : 7\n\"Revision\" : 9\n\"Lease\" : 0\n", &[]),
            "\"ClusterID\" : <id>\n\"Revision\" : 9\n\"Lease\" : 0\n"
        );
    }

    #[test]
    fn addresses_durations_and_the_order_of_attached_keys_are_not_compared() {
        let text = "127.0.0.1:5 is healthy: took = 2.34ms\nattached keys([b a])\n";
        assert_eq!(
            normalised(text, &["127.0.0.1:5"]),
            "<address0> is healthy: took = <time>\nattached keys([a b])\n"
        );
    }
}
