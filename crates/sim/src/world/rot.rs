//! Bit rot: one bit of a file of a member flips, at rest. The member must notice when it reads the place, say which file it is, and
//! stop; it must never serve what it reads there. Nothing can repair it yet, so its life is over for good, and it counts as lost.
//!
//! Never more members are struck than the others can do without. A member that is alone is struck as well: what its clients saw
//! until it stopped must be right.

use std::path::Path;

use storage::disk::{Disk as _, Open};
use storage::fault::{Fault, FaultKind};

use super::World;

/// Where a member keeps what it relies on.
const DIRS: [&str; 2] = ["data/member/wal", "data/member/store"];

impl World {
    /// A bit flips.
    pub(super) fn rot(&mut self, member: usize) {
        if self.machines[member].is_impaired() || !self.can_do_without(member) {
            return;
        }
        let files = self.rotting(member);
        if files.is_empty() {
            return;
        }
        let name = self.dice.disk.pick(&files).clone();
        let disk = &self.machines[member].disk;
        let length = disk
            .open(Path::new(&name), Open::Read)
            .and_then(|file| file.len())
            .unwrap_or(0);
        let (offset, bit) = (self.dice.disk.below(length), self.dice.disk.below(8));
        if !disk.flip_bit(Path::new(&name), offset, bit as u8) {
            return;
        }
        self.links.count("bit rot");
        self.note(member, "a bit flips", offset, bit);
        let machine = &mut self.machines[member];
        machine.rotten = Some(name);
        machine.expects_end = true;
    }

    /// Files that may rot: all but the newest part of the log, whose last record, if it is damaged as a torn one would be, can't be
    /// told from it (see [`storage::wal`]).
    fn rotting(&self, member: usize) -> Vec<String> {
        let mut files = Vec::new();
        for dir in DIRS {
            let mut names = self.machines[member]
                .disk
                .list(Path::new(dir))
                .unwrap_or_default();
            names.retain(|name| !name.ends_with(".tmp") && !name.ends_with(".new"));
            if dir.ends_with("wal") {
                names.retain(|name| name.ends_with(".wal"));
                names.pop();
            }
            files.extend(names.into_iter().map(|name| format!("{dir}/{name}")));
        }
        files
    }

    /// A member has noticed that its files are damaged. True if that is so; then it is lost.
    pub(super) fn is_lost_to(&mut self, member: usize, fault: &Fault) -> bool {
        if self.machines[member].is_wiped {
            // What it says may also be due to what else is wrong with it.
            let is_lost = matches!(fault.kind(), FaultKind::Gap | FaultKind::Identity);
            if is_lost {
                self.lose(member);
            }
            return is_lost;
        }
        let Some(rotten) = self.machines[member].rotten.clone() else {
            return false;
        };
        let is_damage = matches!(
            fault.kind(),
            FaultKind::Corrupted | FaultKind::Gap | FaultKind::Format | FaultKind::Identity
        );
        if !is_damage {
            return false;
        }
        let name = rotten.rsplit('/').next().unwrap_or_default();
        if fault.kind() == FaultKind::Corrupted && !fault.message().contains(name) {
            self.fail(format!("{rotten} is damaged, but the member says: {fault}"));
        }
        self.links.count("bit rot found");
        self.lose(member);
        true
    }

    /// The member will not come back.
    fn lose(&mut self, member: usize) {
        self.note(member, "lost", 0, 0);
        self.cut_power(member);
        self.machines[member].is_lost = true;
        self.is_over = self.machines.iter().all(|machine| machine.is_lost);
    }
}
