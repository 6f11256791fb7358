//! Lines, levels, files.

use super::output::LogFile;
use super::*;
use std::fs;
use std::io::Read as _;
use std::time::Duration;

fn at(seconds: u64, micros: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros)
}

#[test]
fn times_are_written_like_zap_writes_them() {
    for (time, text) in [
        (at(0, 0), "1970-01-01T00:00:00.000000Z"),
        (at(951_782_399, 1), "2000-02-28T23:59:59.000001Z"),
        (at(951_782_400, 0), "2000-02-29T00:00:00.000000Z"),
        (at(1_709_251_200, 123_456), "2024-03-01T00:00:00.123456Z"),
        (at(4_107_542_399, 0), "2100-02-28T23:59:59.000000Z"),
        (at(4_107_542_400, 0), "2100-03-01T00:00:00.000000Z"),
    ] {
        assert_eq!(timestamp(time), text);
    }
}

#[test]
fn callers_are_the_last_folder_and_the_file() {
    assert_eq!(
        caller("crates/server/src/config/raw.rs", 7),
        "config/raw.rs:7"
    );
    assert_eq!(
        caller("crates/server/src/logging.rs", 7),
        "server/logging.rs:7"
    );
    assert_eq!(caller("main.rs", 7), "main.rs:7");
}

#[test]
fn a_json_line_has_the_shape_of_zap_and_is_json() {
    let note = Note::new(Level::Warn, "a \"b\"\n\u{1}\u{fc}")
        .with("n", 5)
        .with("list", vec!["x", "y\\"]);
    let mut fields = String::new();
    for (name, value) in &note.fields {
        push_field(&mut fields, name, |out| push_value(out, value));
    }
    let text = line(
        Format::Json,
        note.level,
        at(0, 0),
        "a/b.rs:1",
        &note.message,
        &fields,
    );
    assert_eq!(
        text,
        "{\"level\":\"warn\",\"ts\":\"1970-01-01T00:00:00.000000Z\",\"caller\":\"a/b.rs:1\",\
         \"msg\":\"a \\\"b\\\"\\n\\u0001\u{fc}\",\"n\":5,\"list\":[\"x\",\"y\\\\\"]}\n"
    );
    let value: Value = serde_json::from_str(&text).expect("a JSON line");
    assert_eq!(value["msg"], note.message.as_str());
}

#[test]
fn a_console_line_is_one_line() {
    let text = line(
        Format::Console,
        Level::Info,
        at(0, 0),
        "a/b.rs:1",
        "one\ntwo",
        "\"k\":1",
    );
    assert_eq!(
        text,
        "1970-01-01T00:00:00.000000Z\tinfo\ta/b.rs:1\tone\\ntwo\t{\"k\":1}\n"
    );
}

/// A logger into a file of its own, and the file.
fn logger(folder: &tempfile::TempDir, level: Level) -> (Logger, PathBuf) {
    let path = folder.path().join("quorate.log");
    let config = LogConfig {
        level,
        outputs: vec![Output::File(path.clone())],
        ..LogConfig::default()
    };
    (Logger::open(&config).expect("a log"), path)
}

#[test]
fn events_become_lines_from_the_level_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let (logger, path) = logger(&folder, Level::Info);
    tracing::subscriber::with_default(logger.clone(), || {
        tracing::debug!("not written");
        tracing::info!(target: "h2::codec", "not written: of a library");
        let error = io::Error::other("broken");
        tracing::info!(revision = 7_u64, ok = true, share = 0.5, text = "a\"b", "member-id" = %"8e9", "said {}", "this");
        tracing::error!(error = &error as &dyn std::error::Error, "failed");
        logger.note(&Note::new(Level::Fatal, "over"));
    });
    let text = fs::read_to_string(path).expect("the log");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON line"))
        .collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(
        (&lines[0]["level"], &lines[0]["msg"]),
        (&"info".into(), &"said this".into())
    );
    assert_eq!(
        (&lines[0]["revision"], &lines[0]["ok"], &lines[0]["text"]),
        (&7.into(), &true.into(), &"a\"b".into())
    );
    assert_eq!(
        (&lines[0]["share"], &lines[0]["member-id"]),
        (&0.5.into(), &"8e9".into())
    );
    assert!(
        lines[0]["caller"]
            .as_str()
            .is_some_and(|caller| caller.starts_with("logging/tests.rs:"))
    );
    assert_eq!(
        (&lines[1]["level"], &lines[1]["error"]),
        (&"error".into(), &"broken".into())
    );
    assert_eq!(lines[2]["level"], "fatal");
    let keys: Vec<_> = text
        .lines()
        .next()
        .unwrap_or("")
        .match_indices("\":")
        .map(|(at, _)| at)
        .collect();
    assert!(
        keys.len() >= 8 && text.starts_with("{\"level\":\"info\",\"ts\":\""),
        "{text}"
    );
}

#[test]
fn a_full_file_is_put_aside_and_the_oldest_are_deleted() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("quorate.log");
    let rotation = Rotation {
        maxsize: 1,
        maxbackups: 2,
        ..Rotation::default()
    };
    let mut file = LogFile::open(path.clone(), Some(rotation)).expect("a log");
    let line = vec![b'x'; 700 << 10];
    for second in 0..5 {
        file.write(&line, at(1_700_000_000 + second, 0))
            .expect("written");
    }
    assert_eq!(
        names(folder.path()),
        [
            "quorate-2023-11-14T22-13-23.000.log",
            "quorate-2023-11-14T22-13-24.000.log",
            "quorate.log"
        ]
    );
    assert_eq!(fs::metadata(path).expect("the log").len(), 700 << 10);
}

fn names(folder: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder");
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn old_files_are_compressed_beside_the_log_that_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("quorate.log");
    // Left behind by a process that was killed while it compressed.
    let left = folder.path().join("quorate-2023-11-14T22-13-00.000.log");
    fs::write(&left, "left").expect("a file");
    fs::write(left.with_extension("log.gz"), "half").expect("a file");
    let rotation = Rotation {
        maxsize: 1,
        maxbackups: 2,
        compress: true,
        ..Rotation::default()
    };
    let mut file = LogFile::open(path.clone(), Some(rotation)).expect("a log");
    let line = vec![b'x'; 700 << 10];
    let expected = [
        "quorate-2023-11-14T22-13-00.000.log.gz",
        "quorate-2023-11-14T22-13-21.000.log.gz",
        "quorate.log",
    ];
    for second in 0..2 {
        file.write(&line, at(1_700_000_000 + second, 0))
            .expect("written");
    }
    let begun = std::time::Instant::now();
    while names(folder.path()) != expected {
        assert!(begun.elapsed().as_secs() < 30, "{:?}", names(folder.path()));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let unpacked = |name: &str| {
        let packed = fs::File::open(folder.path().join(name)).expect("a file");
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(packed)
            .read_to_end(&mut plain)
            .expect("gzip data");
        plain
    };
    assert_eq!(unpacked(expected[0]), b"left");
    assert_eq!(unpacked(expected[1]), line);
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let config = LogConfig {
        outputs: vec![Output::File("/nowhere/at/all.log".into())],
        ..LogConfig::default()
    };
    let error = Logger::open(&config)
        .map(|_| ())
        .expect_err("no such folder")
        .to_string();
    assert!(
        error.starts_with("cannot open the log file /nowhere/at/all.log: "),
        "{error}"
    );
}
