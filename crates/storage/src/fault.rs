//! Faults: this member can no longer be trusted to go on.
//!
//! A [`Fault`] is one of the product's three kinds of failure (rejection, unavailable, fault). It is never retried and never
//! answered to a client as if it were a result: the member says it and stops. The message is written for the person on
//! call: which object, which numbers, and what to do next.
//!
//! [`FaultKind`] is what programs match on; nobody matches on the text.

use std::fmt::Display;
use std::io;

/// A named reason to stop, with a message for the operator.
///
/// Cheap to clone, so that a poisoned object can return the same fault to every later caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    kind: FaultKind,
    message: String,
}

/// What kind of fault it is. Match on this, never on the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// A sync failed. What was written since the last good sync may or may not be on the disk, and asking again would lie
    /// (Linux drops the dirty pages at the first failure), so nothing is retried.
    SyncFailed,
    /// The disk refused a read.
    ReadFailed,
    /// The disk refused a write or a change of a directory.
    WriteFailed,
    /// The disk is full. Nothing that was acknowledged is affected.
    NoSpace,
    /// Bytes that were durable once do not have their checksum, or contradict each other.
    Corrupted,
    /// A file or a range of the log that must exist is not there.
    Gap,
    /// The file was written in a format this version does not read.
    Format,
    /// The data belongs to another cluster or another member.
    Identity,
    /// The directory is readable by others than its owner, or not usable by us.
    Permission,
    /// Another process uses the data directory.
    Locked,
    /// The file system is mounted read-only.
    ReadOnly,
}

impl Fault {
    /// A fault with a message written by the caller: the object, the numbers, the next step.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Fault {
        Fault {
            kind,
            message: message.into(),
        }
    }

    /// What kind of fault this is.
    pub fn kind(&self) -> FaultKind {
        self.kind
    }

    /// The message for the operator, as `Display` prints it.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// A sync of `object` (a file or directory, named as an operator would look for it) failed with `error`.
    pub fn sync_failed(object: impl Display, error: &io::Error) -> Fault {
        Fault::new(
            FaultKind::SyncFailed,
            format!(
                "{object}: sync failed: {error}; what was written since the last sync may be lost, so this member stops and does not \
                 try again. Check the disk, then start the member; it recovers from what the disk really holds."
            ),
        )
    }

    /// A write to `object`, or a create, rename or removal of it, failed with `error`. A full disk and a read-only file
    /// system get their own kinds.
    pub fn write_failed(object: impl Display, error: &io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Fault::no_space(object, error)
            }
            io::ErrorKind::ReadOnlyFilesystem => Fault::new(
                FaultKind::ReadOnly,
                format!(
                    "{object}: the file system is read-only: {error}; remount it writable and start the member again."
                ),
            ),
            _ => Fault::new(
                FaultKind::WriteFailed,
                format!(
                    "{object}: write failed: {error}; this member stops. Check the disk, then start the member."
                ),
            ),
        }
    }

    /// A read of `object` failed with `error`.
    pub fn read_failed(object: impl Display, error: &io::Error) -> Fault {
        Fault::new(
            FaultKind::ReadFailed,
            format!(
                "{object}: read failed: {error}; this member stops. Check the disk; if the file is lost, remove the member from the \
                 cluster and add it again, or restore from a snapshot."
            ),
        )
    }

    /// The disk that holds `object` is full.
    pub fn no_space(object: impl Display, error: &io::Error) -> Fault {
        Fault::new(
            FaultKind::NoSpace,
            format!(
                "{object}: no space left: {error}; nothing acknowledged is lost. Free some space and start the member again."
            ),
        )
    }

    /// Durable bytes of `object` are damaged. `detail` says where and how, with numbers.
    pub fn corrupted(object: impl Display, detail: impl Display) -> Fault {
        Fault::new(
            FaultKind::Corrupted,
            format!(
                "{object}: {detail}; the member cannot start. Remove it from the cluster and add it again, or restore from a snapshot."
            ),
        )
    }

    /// Something that must exist is missing. `detail` says what was found and what was expected.
    pub fn gap(object: impl Display, detail: impl Display) -> Fault {
        Fault::new(
            FaultKind::Gap,
            format!(
                "{object}: {detail}; the member cannot start. Put the missing file back, or remove the member from the cluster and add \
                 it again, or restore from a snapshot."
            ),
        )
    }

    /// `object` has a format version this program does not know.
    pub fn format(object: impl Display, found: u64, known: u64) -> Fault {
        Fault::new(
            FaultKind::Format,
            format!(
                "{object}: format version {found}, this program reads up to {known}; start the version that wrote it, or a newer one."
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_read_only_disk_have_kinds_of_their_own() {
        let kind = |k: io::ErrorKind| Fault::write_failed("x.wal", &k.into()).kind();
        assert_eq!(kind(io::ErrorKind::StorageFull), FaultKind::NoSpace);
        assert_eq!(kind(io::ErrorKind::ReadOnlyFilesystem), FaultKind::ReadOnly);
        assert_eq!(kind(io::ErrorKind::Other), FaultKind::WriteFailed);
    }

    #[test]
    fn a_message_names_the_object_and_the_next_step() {
        let fault = Fault::corrupted(
            "member/wal/0000000000000003.wal",
            "checksum mismatch at byte 41984",
        );
        assert!(
            fault
                .to_string()
                .starts_with("member/wal/0000000000000003.wal: checksum mismatch at byte 41984; ")
        );
        assert!(fault.to_string().contains("restore from a snapshot"));
    }
}
