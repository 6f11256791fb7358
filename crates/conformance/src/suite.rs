//! Suites that say why they did not run.
//!
//! With the Rust toolchain alone most peers and clients are absent. A suite then prints `SKIPPED <suite>: <reason>` and
//! passes; with `QUORATE_REQUIRE_ALL=1`, as in CI, the same is a failure. So "all passed" never hides an empty run. Only what a machine
//! does not let anybody do (namespaces, mounts) is skipped there too ([`allowed!`](crate::allowed)).

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Prints why `suite` does not run. Panics where everything is required to run.
pub fn skip(suite: &str, reason: &str) {
    assert!(
        !required(),
        "{suite} could not run, and QUORATE_REQUIRE_ALL is set: {reason}"
    );
    note(&format!("SKIPPED {suite}: {reason}"));
}

/// Says something about a passing test. The test runner swallows `println!` of tests that pass; this it does not.
pub fn note(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// True where a skipped suite is a failure.
pub fn required() -> bool {
    std::env::var_os("QUORATE_REQUIRE_ALL").is_some_and(|value| value == "1")
}

/// The number in environment variable `name`, or `default`. A value that is no number is a mistake worth stopping for.
pub fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

/// A seed that differs from run to run, or the one in `QUORATE_SEED`. The caller prints it.
pub fn seed() -> u64 {
    let clock = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |d| d.as_millis() as u64);
    number("QUORATE_SEED", clock % 1_000_000_007)
}

/// Small deterministic generator (SplitMix64): all that these tests need, and the same on every platform.
pub struct Dice(pub u64);

impl Dice {
    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }
}

/// One cluster of a test program at a time: they share few cores, and some of what is expected has a time limit.
pub fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `let x = need!("suite", expr)`: the value of an `Ok`, or says why the suite is skipped and leaves the test.
#[macro_export]
macro_rules! need {
    ($suite:expr, $found:expr) => {
        match $found {
            Ok(found) => found,
            Err(reason) => {
                $crate::suite::skip($suite, &reason.to_string());
                return;
            }
        }
    };
}

/// As [`need!`](crate::need), for what no script can install: the suite is skipped even where everything is required.
#[macro_export]
macro_rules! allowed {
    ($suite:expr, $found:expr) => {
        match $found {
            Ok(found) => found,
            Err(reason) => {
                $crate::suite::note(&format!(
                    "SKIPPED {}: this machine does not allow it: {reason}",
                    $suite
                ));
                return;
            }
        }
    };
}
