//! `quorate verify`: every byte of a data directory that no member uses, without changing any.

use std::path::PathBuf;

use storage::catalog::Catalog;
use storage::datadir::Layout;
use storage::disk::OsDisk;
use storage::segments;
use storage::wal::Wal;

/// Says what is there, and everything that is damaged.
pub(crate) fn run(data_dir: PathBuf, wal_dir: Option<PathBuf>) -> Result<(), String> {
    let layout = Layout::new(data_dir, wal_dir);
    let mut damage = Vec::new();
    match Wal::verify(&OsDisk, &layout.wal_dir()) {
        Ok(log) => {
            let (first, last) = log.entries.unwrap_or((0, 0));
            println!(
                "log      member {:x} of cluster {:x}: {} segments, entries {first} to {last}",
                log.identity.member_id,
                log.identity.cluster_id,
                log.segments.len()
            );
        }
        Err(fault) => damage.push(fault.to_string()),
    }
    match Catalog::inspect(&OsDisk, &layout.store_dir()) {
        Ok(None) => println!("catalog  no checkpoint yet"),
        Ok(Some(recovered)) => {
            println!("catalog  checkpoint of entry {}", recovered.applied.0);
            let seen = segments::verify(&OsDisk, &layout.store_dir(), &recovered.segments, |_| {});
            println!(
                "store    {} segments, {} sound records, {} bytes",
                seen.segments, seen.records, seen.bytes
            );
            damage.extend(seen.damage.iter().map(ToString::to_string));
        }
        Err(fault) => damage.push(fault.to_string()),
    }
    for what in &damage {
        println!("DAMAGE   {what}");
    }
    match damage.len() {
        0 => Ok(()),
        count => Err(format!("{count} places are damaged")),
    }
}
