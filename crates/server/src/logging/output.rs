//! Where lines go: standard streams and files, with rotation by size.
//!
//! Names and rules of rotation are those of the library that etcd uses for it (lumberjack).

use super::{Output, Rotation, timestamp};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// An open output.
pub(super) enum Sink {
    Stderr,
    Stdout,
    File(LogFile),
}

impl Sink {
    /// Opens an output. The error names the file.
    pub(super) fn open(output: Output, rotation: Option<&Rotation>) -> io::Result<Sink> {
        match output {
            Output::Stderr => Ok(Sink::Stderr),
            Output::Stdout => Ok(Sink::Stdout),
            Output::File(path) => LogFile::open(path, rotation.cloned()).map(Sink::File),
        }
    }

    /// Writes a line. One that a file does not take goes to standard error; what that does not take is lost.
    pub(super) fn write(&mut self, line: &[u8], now: SystemTime) {
        let done = match self {
            Sink::Stderr => io::stderr().write_all(line),
            Sink::Stdout => io::stdout()
                .write_all(line)
                .and_then(|()| io::stdout().flush()),
            Sink::File(file) => file.write(line, now),
        };
        if done.is_err() && !matches!(self, Sink::Stderr) {
            let _ = io::stderr().write_all(line);
        }
    }
}

/// A log file, rotated if that is wanted.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    rotation: Option<Rotation>,
}

impl LogFile {
    pub(super) fn open(path: PathBuf, rotation: Option<Rotation>) -> io::Result<LogFile> {
        let file = append_to(&path)?;
        let bytes = file.metadata()?.len();
        Ok(LogFile {
            path,
            file,
            bytes,
            rotation,
        })
    }

    pub(super) fn write(&mut self, line: &[u8], now: SystemTime) -> io::Result<()> {
        let length = line.len() as u64;
        if let Some(rotation) = &self.rotation {
            let limit = if rotation.maxsize == 0 {
                100
            } else {
                rotation.maxsize
            }
            .saturating_mul(1 << 20);
            if self.bytes > 0 && self.bytes.saturating_add(length) > limit {
                self.rotate(now)?;
            }
        }
        self.file.write_all(line)?;
        self.bytes += length;
        Ok(())
    }

    /// Puts the file aside as `name-2026-11-23T08-45-01.123.ext` and begins a new one.
    fn rotate(&mut self, now: SystemTime) -> io::Result<()> {
        let stamp = timestamp(now)[..23].replace(':', "-");
        let (prefix, suffix) = split_name(&self.path);
        fs::rename(
            &self.path,
            self.path.with_file_name(format!("{prefix}{stamp}{suffix}")),
        )?;
        self.file = append_to(&self.path)?;
        self.bytes = 0;
        if let Some(rotation) = &self.rotation {
            // Old files that cannot be deleted are tried again at the next rotation.
            let _ = delete_old(&self.path, rotation, now);
        }
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("cannot open the log file {}: {e}", path.display()),
            )
        })
}

/// `name-` and `.ext` of `name.ext`.
fn split_name(path: &Path) -> (String, String) {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let suffix = path
        .extension()
        .map(|ext| format!(".{}", ext.to_string_lossy()))
        .unwrap_or_default();
    (format!("{stem}-"), suffix)
}

fn delete_old(path: &Path, rotation: &Rotation, now: SystemTime) -> io::Result<()> {
    let (prefix, suffix) = split_name(path);
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut old = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let stamp = name
            .strip_prefix(&prefix)
            .and_then(|rest| rest.strip_suffix(&suffix));
        if let Some(stamp) = stamp.filter(|stamp| stamp.len() == 23 && stamp.starts_with("20")) {
            old.push((stamp.to_owned(), folder.join(&name)));
        }
    }
    old.sort();
    let age = Duration::from_secs(rotation.maxage.saturating_mul(86_400));
    let oldest = now
        .checked_sub(age)
        .filter(|_| rotation.maxage > 0)
        .map(|time| timestamp(time)[..23].replace(':', "-"));
    let spare = if rotation.maxbackups == 0 {
        0
    } else {
        old.len().saturating_sub(rotation.maxbackups)
    };
    for (index, (stamp, file)) in old.iter().enumerate() {
        if index < spare || oldest.as_ref().is_some_and(|oldest| stamp < oldest) {
            fs::remove_file(file)?;
        }
    }
    Ok(())
}
