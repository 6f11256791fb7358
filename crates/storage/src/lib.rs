//! Bytes on disk: the only crate that names a file or knows a format.
//!
//! What it is: the raft log, the layout of a data directory and the formats of everything a member keeps, all of them
//! written through one small trait, [`disk::Disk`].
//!
//! What it never does: it opens no socket, starts no thread, asks no clock and rolls no dice. `std::fs` appears in
//! `disk/os.rs` and nowhere else. Nothing here retries a failed sync: the error is a [`fault::Fault`] and the member stops.
//!
//! Start with [`disk`] for what is assumed of a disk, then [`wal::Wal::open`] and [`wal::Wal::append`] for the one durable
//! promise of a member, [`checkpoint`] for what a restart begins with, and [`datadir`] for where it all lies.
#![forbid(unsafe_code)]

pub mod arrival;
pub mod bolt;
pub mod catalog;
pub mod checkpoint;
pub mod datadir;
pub mod disk;
pub mod fault;
#[cfg(planted)]
pub mod planted;
pub mod segments;
pub mod wal;

/// Whether this process has the named defect of `planted::Defect`: `false` without `--cfg planted`.
#[cfg(planted)]
#[macro_export]
macro_rules! planted {
    ($defect:ident) => {
        $crate::planted::is_chosen($crate::planted::Defect::$defect)
    };
}
/// Whether this process has the named defect of `planted::Defect`: `false` without `--cfg planted`.
#[cfg(not(planted))]
#[macro_export]
macro_rules! planted {
    ($defect:ident) => {
        false
    };
}
