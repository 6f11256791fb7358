//! The version the cluster has agreed on, and whether it is about to go back one.
//!
//! What apply does may depend on this version only, never on the program's own: all members must do the same.
//! Source of the rules: upstream `server/etcdserver/version`.

use std::fmt;

/// A semantic version, without the suffixes etcd never puts into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

impl Version {
    /// From three numbers.
    #[must_use]
    pub const fn new(major: u32, minor: u32, patch: u32) -> Version {
        Version {
            major,
            minor,
            patch,
        }
    }

    /// Reads `major.minor.patch`, with a suffix (`-rc.0`, `+git`) ignored.
    #[must_use]
    pub fn parse(text: &str) -> Option<Version> {
        let plain = text.split(['-', '+']).next()?;
        let mut numbers = plain.split('.').map(|number| {
            let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| number.parse::<u32>().ok()).flatten()
        });
        let version = Version {
            major: numbers.next()??,
            minor: numbers.next()??,
            patch: numbers.next()??,
        };
        numbers.next().is_none().then_some(version)
    }

    /// The same release line: what a cluster version looks like.
    #[must_use]
    pub const fn minor_only(self) -> Version {
        Version {
            major: self.major,
            minor: self.minor,
            patch: 0,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What the members have agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterVersion {
    /// `None` until the first leader has decided.
    pub version: Option<Version>,
    /// The target of an announced downgrade, as its text was given.
    pub downgrade_target: Option<String>,
}

impl ClusterVersion {
    /// Whether the cluster runs at least this version.
    #[must_use]
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        self.version
            .is_some_and(|version| version >= Version::new(major, minor, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_strictly() {
        assert_eq!(Version::parse("3.7.0"), Some(Version::new(3, 7, 0)));
        assert_eq!(Version::parse("3.7.0-rc.0+x"), Some(Version::new(3, 7, 0)));
        for wrong in [
            "",
            "3",
            "3.7",
            "3.7.0.1",
            "3.+7.0",
            "3.x.0",
            "3..0",
            "99999999999.0.0",
        ] {
            assert_eq!(Version::parse(wrong), None, "{wrong}");
        }
    }
}
