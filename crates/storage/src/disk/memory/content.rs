//! The bytes of one file: what is read now, and what a crash could go back to.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Chooser;
use crate::disk::SECTOR_BYTES;

const CHUNK_BYTES: usize = 4096;
const CHUNK_SECTORS: u64 = (CHUNK_BYTES / SECTOR_BYTES) as u64;
/// So many unsynced lengths are told apart; beyond, the oldest unsynced one is forgotten.
const LENGTHS_MAX: usize = 4;
/// So many unsynced versions of one sector are told apart; beyond, the oldest unsynced one is forgotten.
const VERSIONS_MAX: usize = 8;

/// The content of a sector; `None` is zeros.
type Sector = Option<Arc<[u8; SECTOR_BYTES]>>;

#[derive(Clone, Default)]
pub(super) struct Content {
    len: u64,
    /// What is read now. Absent chunks, and all beyond the end, are zeros.
    chunks: Vec<Option<Arc<[u8; CHUNK_BYTES]>>>,
    /// The lengths a crash may leave behind besides `len`: the durable one first, then unsynced ones.
    lengths: Vec<u64>,
    /// For each sector written since the last sync: its durable content, then each version but the current one.
    unsynced: BTreeMap<u64, Vec<Sector>>,
    /// Durable content of the sectors whose sync failed: what was written over it is read until the crash, and gone then.
    lost: BTreeMap<u64, Sector>,
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let size = self.len.saturating_sub(offset).min(buffer.len() as u64) as usize;
        let mut done = 0;
        while done < size {
            let (chunk, start) = place(offset + done as u64);
            let n = (CHUNK_BYTES - start).min(size - done);
            match self.chunks.get(chunk) {
                Some(Some(bytes)) => {
                    buffer[done..done + n].copy_from_slice(&bytes[start..start + n])
                }
                _ => buffer[done..done + n].fill(0),
            }
            done += n;
        }
        size
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.grow(offset + bytes.len() as u64);
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let start = (at % SECTOR_BYTES as u64) as usize;
            let n = (SECTOR_BYTES - start).min(bytes.len() - done);
            self.write_sector(at / SECTOR_BYTES as u64, start, &bytes[done..done + n]);
            done += n;
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len >= self.len {
            return self.grow(len);
        }
        self.zero_beyond(len);
        self.note_len(len);
    }

    pub(super) fn sync(&mut self) {
        self.unsynced.clear();
        self.lengths.clear();
    }

    /// A failed sync: the dirty sectors will never reach the disk, unless they are written again.
    pub(super) fn lose(&mut self) {
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            let durable = versions.into_iter().next().flatten();
            self.lost.entry(sector).or_insert(durable);
        }
    }

    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) {
        let mask = 1u8 << (bit % 8);
        let start = (offset % SECTOR_BYTES as u64) as usize;
        let sector = offset / SECTOR_BYTES as u64;
        let (chunk, at) = place(offset);
        let flip = |old: &Sector| {
            let mut bytes = old.as_ref().map_or([0; SECTOR_BYTES], |bytes| **bytes);
            bytes[start] ^= mask;
            Some(Arc::new(bytes))
        };
        for old in self
            .unsynced
            .get_mut(&sector)
            .into_iter()
            .flatten()
            .chain(self.lost.get_mut(&sector))
        {
            *old = flip(old);
        }
        Arc::make_mut(self.chunk_mut(chunk))[at] ^= mask;
    }

    pub(super) fn crash(&mut self, chooser: &mut dyn Chooser) {
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            let choice = chooser.choose(versions.len() + 1);
            assert!(
                choice <= versions.len(),
                "chooser chose {choice} of {}",
                versions.len() + 1
            );
            if let Some(version) = versions.get(choice) {
                self.put_sector(sector, version);
            }
        }
        for (sector, durable) in std::mem::take(&mut self.lost) {
            self.put_sector(sector, &durable);
        }
        let lengths = std::mem::take(&mut self.lengths);
        if let Some((&durable, unsynced)) = lengths.split_first() {
            // The same length more than once is one outcome; the current one comes last.
            let mut outcomes = vec![durable];
            for &len in unsynced {
                if !outcomes.contains(&len) && len != self.len {
                    outcomes.push(len);
                }
            }
            if durable != self.len {
                outcomes.push(self.len);
            }
            let choice = if outcomes.len() > 1 {
                chooser.choose(outcomes.len())
            } else {
                0
            };
            self.len = outcomes[choice];
        }
        self.zero_beyond_durably(self.len);
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        let chunks = self.chunks.iter().flatten().count() * CHUNK_BYTES;
        let versions = self
            .unsynced
            .values()
            .flatten()
            .chain(self.lost.values())
            .flatten()
            .count()
            * SECTOR_BYTES;
        (chunks + versions) as u64
    }

    fn grow(&mut self, len: u64) {
        if len > self.len {
            self.note_len(len);
        }
    }

    fn note_len(&mut self, len: u64) {
        if len == self.len {
            return;
        }
        self.lengths.push(self.len);
        if self.lengths.len() > LENGTHS_MAX {
            self.lengths.remove(1);
        }
        self.len = len;
    }

    /// Writes zeros over what lies at `len` and beyond, as an unsynced write.
    fn zero_beyond(&mut self, len: u64) {
        let zeros = [0; SECTOR_BYTES];
        let start = (len % SECTOR_BYTES as u64) as usize;
        self.write_sector(len / SECTOR_BYTES as u64, start, &zeros[start..]);
        for sector in len / SECTOR_BYTES as u64 + 1..self.chunks.len() as u64 * CHUNK_SECTORS {
            self.write_sector(sector, 0, &zeros);
        }
    }

    fn zero_beyond_durably(&mut self, len: u64) {
        let (chunk, start) = place(len);
        if let Some(Some(bytes)) = self.chunks.get_mut(chunk)
            && bytes[start..].iter().any(|&byte| byte != 0)
        {
            Arc::make_mut(bytes)[start..].fill(0);
        }
        self.chunks.truncate(chunk + 1);
    }

    fn write_sector(&mut self, sector: u64, start: usize, bytes: &[u8]) {
        let (chunk, at) = place(sector * SECTOR_BYTES as u64 + start as u64);
        let old = self.chunks.get(chunk).and_then(Option::as_ref);
        let unchanged = match old {
            Some(old) => old[at..at + bytes.len()] == *bytes,
            None => bytes.iter().all(|&byte| byte == 0),
        };
        // Writing what is there already cannot be told from not writing it, unless a failed sync has lost it.
        if unchanged && (self.lost.is_empty() || !self.lost.contains_key(&sector)) {
            return;
        }
        let before = match self.lost.remove(&sector) {
            Some(durable) => {
                self.unsynced.insert(sector, vec![durable]);
                None
            }
            None => Some(self.sector(sector)),
        };
        if let Some(before) = before {
            let versions = self.unsynced.entry(sector).or_default();
            versions.push(before);
            if versions.len() > VERSIONS_MAX {
                versions.remove(1);
            }
        }
        Arc::make_mut(self.chunk_mut(chunk))[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn sector(&self, sector: u64) -> Sector {
        let (chunk, at) = place(sector * SECTOR_BYTES as u64);
        let bytes: [u8; SECTOR_BYTES] = self.chunks.get(chunk)?.as_ref()?[at..at + SECTOR_BYTES]
            .try_into()
            .ok()?;
        bytes.iter().any(|&byte| byte != 0).then(|| Arc::new(bytes))
    }

    fn put_sector(&mut self, sector: u64, content: &Sector) {
        let (chunk, at) = place(sector * SECTOR_BYTES as u64);
        let target = &mut Arc::make_mut(self.chunk_mut(chunk))[at..at + SECTOR_BYTES];
        match content {
            Some(bytes) => target.copy_from_slice(&bytes[..]),
            None => target.fill(0),
        }
    }

    fn chunk_mut(&mut self, chunk: usize) -> &mut Arc<[u8; CHUNK_BYTES]> {
        if self.chunks.len() <= chunk {
            self.chunks.resize(chunk + 1, None);
        }
        self.chunks[chunk].get_or_insert_with(|| Arc::new([0; CHUNK_BYTES]))
    }
}

/// The chunk that holds the byte at `offset`, and where in it.
fn place(offset: u64) -> (usize, usize) {
    (
        (offset / CHUNK_BYTES as u64) as usize,
        (offset % CHUNK_BYTES as u64) as usize,
    )
}
