//! Where lines go: standard streams and files, with rotation by size.
//!
//! Names and rules of rotation are those of the library that etcd uses for it (lumberjack).

use super::{Output, Rotation, timestamp};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
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
    /// Held by whoever compresses old files.
    tidying: Arc<Mutex<()>>,
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
            tidying: Arc::default(),
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
        if let Some(rotation) = self.rotation.clone() {
            let path = self.path.clone();
            // What cannot be tidied up now is tried again at the next rotation.
            if !rotation.compress {
                let _ = tidy(&path, &rotation, now);
                return Ok(());
            }
            // Compressing takes seconds, and whoever logs waits for this file.
            let tidying = self.tidying.clone();
            std::thread::Builder::new()
                .name("log-compress".into())
                .spawn(move || {
                    let _one_at_a_time = tidying.lock().unwrap_or_else(PoisonError::into_inner);
                    let _ = tidy(&path, &rotation, now);
                })?;
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

/// Behind the name of a compressed file.
const COMPRESSED: &str = ".gz";

/// Deletes old files that are too many or too old, and compresses the others if that is wanted.
fn tidy(path: &Path, rotation: &Rotation, now: SystemTime) -> io::Result<()> {
    let (prefix, suffix) = split_name(path);
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // By the time at which they were put aside. One may be there twice: compressed, and as it was when that was cut short.
    let mut old = BTreeMap::<String, Vec<PathBuf>>::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let plain = name.strip_suffix(COMPRESSED).unwrap_or(&name);
        let stamp = plain
            .strip_prefix(&prefix)
            .and_then(|rest| rest.strip_suffix(&suffix));
        if let Some(stamp) = stamp.filter(|stamp| stamp.len() == 23 && stamp.starts_with("20")) {
            let files = old.entry(stamp.to_owned()).or_default();
            files.push(folder.join(&name));
        }
    }
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
    for (index, (stamp, files)) in old.iter().enumerate() {
        let is_unwanted = index < spare || oldest.as_ref().is_some_and(|oldest| stamp < oldest);
        for file in files {
            if is_unwanted {
                fs::remove_file(file)?;
            } else if rotation.compress && !file.to_string_lossy().ends_with(COMPRESSED) {
                compress(file)?;
            }
        }
    }
    Ok(())
}

/// Puts a compressed file in the place of a plain one. If it is cut short, the plain one is still there.
fn compress(path: &Path) -> io::Result<()> {
    let mut plain = File::open(path)?;
    let mut name = path.as_os_str().to_owned();
    name.push(COMPRESSED);
    let target = PathBuf::from(name);
    let packed = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&target)
        .and_then(|file| {
            file.set_permissions(plain.metadata()?.permissions())?;
            let mut encoder = GzEncoder::new(file, Compression::default());
            io::copy(&mut plain, &mut encoder)?;
            encoder.finish()
        });
    match packed {
        Ok(_) => fs::remove_file(path),
        Err(why) => {
            let _ = fs::remove_file(&target);
            Err(why)
        }
    }
}
