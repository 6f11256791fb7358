//! replica
#![forbid(unsafe_code)]

pub mod watch;

/// The time as the edge read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Microseconds of a clock that never goes back; its zero has no meaning.
    pub monotonic_us: u64,
}
