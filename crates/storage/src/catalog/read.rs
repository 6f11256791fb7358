//! Reading a catalog: which generation, which frames, and whether its end is torn or damaged.
//!
//! Only the last commit can be torn: each is synced before the next is written. So a bad frame with nothing sound behind
//! it is a commit that nobody was told of; it is cut. A bad frame with a sound one behind it was durable once, and is a
//! fault. Damage to the very last commit looks like the first case: the member then starts from the commit before it, and
//! replays the raft log from there or, if the log has been cut further, stops for the gap.

use std::path::Path;

use bytes::Bytes;
use prost::Message;

use super::format::{Frame, FrameWriter, HEAD_BYTES, HEADER_BYTES, HeaderError, Mark, VERSION};
use super::{Table, Tables};
use crate::disk::{self, Disk, File};
use crate::fault::Fault;

/// The catalog files of a directory.
pub(super) struct Generations {
    pub newest: Option<u64>,
    /// Older generations and unfinished new ones.
    pub strays: Vec<String>,
}

/// A log, read to its end.
pub(super) struct Log {
    pub tables: Tables,
    pub mark: Option<Mark>,
    pub writer: FrameWriter,
    /// Behind the last good frame.
    pub end: u64,
    /// The last good frame, as it stands in the file; empty if there is none.
    pub last: Vec<u8>,
    /// Behind the first frame with a mark, or behind the header.
    pub base_end: u64,
    /// The length of the file.
    pub len: u64,
}

pub(super) fn generations(disk: &dyn Disk, dir: &Path) -> Result<Generations, Fault> {
    let names = disk
        .list(dir)
        .map_err(|error| Fault::read_failed(dir.display(), &error))?;
    let generation_of = |name: &str, end: &str| {
        let hex = name.strip_prefix("catalog-")?.strip_suffix(end)?;
        u64::from_str_radix(hex, 16)
            .ok()
            .filter(|generation| *hex == format!("{generation:016x}"))
    };
    let newest = names
        .iter()
        .filter_map(|name| generation_of(name, ".log"))
        .max();
    if newest.is_none()
        && let Some(segment) = names
            .iter()
            .find(|name| crate::segments::is_segment_name(name))
    {
        return Err(Fault::gap(
            format_args!("catalog in {}", dir.display()),
            format_args!(
                "there is none, but there are segments such as {segment}, which only a catalog makes valid"
            ),
        ));
    }
    let stray = |name: &String| {
        generation_of(name, ".new").is_some()
            || generation_of(name, ".log").is_some_and(|generation| Some(generation) != newest)
    };
    Ok(Generations {
        newest,
        strays: names.iter().filter(|name| stray(name)).cloned().collect(),
    })
}

pub(super) fn read_log(file: &dyn File, path: &Path, generation: u64) -> Result<Log, Fault> {
    let read_failed = |error: std::io::Error| Fault::read_failed(path.display(), &error);
    let len = file.len().map_err(read_failed)?;
    let mut header = [0; HEADER_BYTES];
    let got = disk::read_full_at(file, 0, &mut header).map_err(read_failed)?;
    let writer = FrameWriter::resume(&header[..got], generation).map_err(|wrong| match wrong {
        HeaderError::Version(found) => {
            Fault::format(path.display(), u64::from(found), u64::from(VERSION))
        }
        HeaderError::Damaged(what) => {
            Fault::corrupted(path.display(), format_args!("{what} at byte 0"))
        }
    })?;
    let begin = HEADER_BYTES as u64;
    let mut log = Log {
        tables: Tables::default(),
        mark: None,
        writer,
        end: begin,
        last: Vec::new(),
        base_end: begin,
        len,
    };
    let mut last = begin;
    while let Some((payload, writer)) = next_frame(file, &log).map_err(read_failed)? {
        let next = log.end + (HEAD_BYTES + payload.len()) as u64;
        let frame = Frame::decode(payload)
            .map_err(|_| damaged(path, &log, "the frame has its checksum but does not decode"))?;
        if frame.clear {
            log.tables = Tables::default();
        }
        for op in &frame.ops {
            let table = Table::from_number(op.table).ok_or_else(|| {
                damaged(
                    path,
                    &log,
                    "the frame names a table unknown to this version",
                )
            })?;
            log.tables.apply(table, &op.key, op.value.as_deref());
        }
        last = log.end;
        (log.writer, log.end) = (writer, next);
        if frame.mark.is_some() {
            if log.mark.is_none() {
                log.base_end = next;
            }
            log.mark = frame.mark;
        } else if log.mark.is_some() {
            return Err(damaged(
                path,
                &log,
                "a frame without a commit stands behind commits",
            ));
        }
    }
    // A base is complete and synced before its file gets this name; only the very first is empty.
    if log.mark.is_none() && (log.end > begin || generation > 1) {
        return Err(damaged(
            path,
            &log,
            "the generation has no commit at the end of its base",
        ));
    }
    match sound_frame_behind(file, &log).map_err(read_failed)? {
        Some(number) => Err(damaged(
            path,
            &log,
            &format!("checksum mismatch, and frame {number} behind it is sound"),
        )),
        None => {
            log.last = vec![0; (log.end - last) as usize];
            disk::read_exact_at(file, last, &mut log.last).map_err(read_failed)?;
            Ok(log)
        }
    }
}

/// The frame at the end of what was read so far, if it is whole and sound.
fn next_frame(file: &dyn File, log: &Log) -> std::io::Result<Option<(Bytes, FrameWriter)>> {
    let mut head = [0; HEAD_BYTES];
    let got = disk::read_full_at(file, log.end, &mut head)?;
    let Some(found) = log.writer.head(&head[..got]) else {
        return Ok(None);
    };
    let start = log.end + HEAD_BYTES as u64;
    if found.number != log.writer.number() || found.payload_bytes > log.len.saturating_sub(start) {
        return Ok(None);
    }
    let mut payload = vec![0; found.payload_bytes as usize];
    disk::read_exact_at(file, start, &mut payload)?;
    Ok(log
        .writer
        .accept(&found, &payload)
        .map(|writer| (payload.into(), writer)))
}

/// The number of a later frame whose head is sound, anywhere behind the last good frame.
fn sound_frame_behind(file: &dyn File, log: &Log) -> std::io::Result<Option<u64>> {
    const WINDOW: usize = 1 << 20;
    let mut at = log.end;
    let mut window = vec![0; WINDOW.min(log.len.saturating_sub(at) as usize)];
    while at < log.len {
        let got = disk::read_full_at(file, at, &mut window)?;
        let heads = (0..(got + 1).saturating_sub(HEAD_BYTES))
            .filter_map(|skip| log.writer.head(&window[skip..got]));
        if let Some(head) = heads
            .into_iter()
            .find(|head| head.number > log.writer.number())
        {
            return Ok(Some(head.number));
        }
        if got < WINDOW {
            break;
        }
        at += (WINDOW - HEAD_BYTES + 1) as u64;
    }
    Ok(None)
}

fn damaged(path: &Path, log: &Log, what: &str) -> Fault {
    let applied = log.mark.as_ref().map_or(0, |mark| mark.index);
    Fault::corrupted(
        format_args!("catalog {}", path.display()),
        format_args!(
            "{what} at byte {} (frame {}, last good applied index {applied})",
            log.end,
            log.writer.number()
        ),
    )
}
