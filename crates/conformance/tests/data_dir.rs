//! Data folders that are locked, unreadable, foreign or damaged: the process ends with a message that names the trouble
//! and an exit code that is not 0, and nothing is lost. Never: a start with less than was acknowledged.

use conformance::grpc::{self, Grpc, block_on};
use conformance::need;
use conformance::programs::{self, Program};
use conformance::server::{Launch, Server};
use conformance::suite::note;
use proto::etcdserverpb as pb;
use rustix::process::Signal;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

const KEYS: usize = 300;

#[test]
fn a_folder_in_use_is_refused_and_its_owner_goes_on() {
    let suite = "data folder in use";
    let program = need!(suite, programs::quorate());
    let first = Server::start(&program);
    fill(&first);
    let ended = Launch::new(&program)
        .data_dir(first.data_dir())
        .run_to_end();
    assert_ne!(ended.shell_status(), 0, "{}", ended.output);
    assert!(
        ended.output.to_lowercase().contains("lock"),
        "the message does not speak of a lock: {}",
        ended.output
    );
    check(&first).expect("the first goes on");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let suite = "data folder not writable";
    let program = need!(suite, programs::quorate());
    let scratch = tempfile::tempdir().expect("a scratch folder");
    // A file where the folder should be; nothing can be made below it, not even by root.
    let file = scratch.path().join("a-file");
    std::fs::write(&file, "x").expect("a file");
    for folder in [file.clone(), file.join("below")] {
        let ended = Launch::new(&program).data_dir(&folder).run_to_end();
        assert_ne!(ended.shell_status(), 0, "{}", ended.output);
        assert!(
            ended.output.contains("a-file"),
            "the message does not name the folder: {}",
            ended.output
        );
    }
    // A folder without the right to write, as a user who is not root.
    let Some(nobody) = as_nobody(&program, scratch.path()) else {
        return;
    };
    let folder = scratch.path().join("read-only");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o555)).expect("its mode");
    std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o755))
        .expect("its mode");
    let ended = nobody.data_dir(&folder).run_to_end();
    assert_ne!(ended.shell_status(), 0, "{}", ended.output);
    assert!(
        ended.output.contains("read-only")
            && ended.output.to_lowercase().contains("permission denied"),
        "{}",
        ended.output
    );
}

/// The program as user `nobody`, when this is root and the program can be reached by others.
fn as_nobody(program: &Program, scratch: &Path) -> Option<Launch> {
    let root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let setpriv = PathBuf::from("/usr/bin/setpriv");
    if !root || !setpriv.is_file() {
        note("data_dir: not root, or no setpriv: the read-only folder is tested as this user only");
        return None;
    }
    let copy = scratch.join("server");
    std::fs::copy(&program.path, &copy).expect("a copy of the program");
    let wrapped = Program {
        name: program.name.clone(),
        path: setpriv,
    };
    let drop = ["--reuid=65534", "--regid=65534", "--clear-groups"].map(String::from);
    Some(
        Launch::new(&wrapped).before(
            drop.into_iter()
                .chain([copy.to_string_lossy().into_owned()]),
        ),
    )
}

#[test]
fn a_new_folder_is_private_and_a_wide_open_one_is_warned_about() {
    let suite = "data folder permissions";
    let program = need!(suite, programs::quorate());
    let server = Server::start(&program);
    let mode = std::fs::metadata(server.data_dir())
        .expect("the folder")
        .permissions()
        .mode()
        & 0o777;
    assert_eq!(mode, 0o700, "etcd makes its folder for itself alone");
    for file in files(server.data_dir()) {
        let mode = std::fs::metadata(&file)
            .expect("a file")
            .permissions()
            .mode()
            & 0o777;
        assert_eq!(
            mode & 0o077,
            0,
            "{} is open to others: {mode:o}",
            file.display()
        );
    }
    drop(server);
    let scratch = tempfile::tempdir().expect("a scratch folder");
    let folder = scratch.path().join("wide");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).expect("its mode");
    let server = Launch::new(&program).data_dir(&folder).start();
    assert!(
        server.log().contains("permission"),
        "no warning: {}",
        server.log()
    );
}

#[test]
fn files_of_another_member_are_refused() {
    let suite = "foreign files";
    let program = need!(suite, programs::quorate());
    let mut mine = Server::start(&program);
    let mut other = Launch::new(&program)
        .flags(["--initial-cluster-token", "another"])
        .start();
    for server in [&mut mine, &mut other] {
        fill(server);
        server.stop(Signal::TERM).expect("it stops");
    }
    for part in parts(mine.data_dir()) {
        let copy = tempfile::tempdir().expect("a scratch folder");
        let folder = copy.path().join("data");
        copy_folder(mine.data_dir(), &folder);
        let target = folder.join(&part);
        remove(&target);
        copy_any(&other.data_dir().join(&part), &target);
        let server = Launch::new(&program).data_dir(&folder).spawn();
        expect_refusal_or_everything(&format!("{} of another cluster", part.display()), server);
    }
}

#[test]
fn a_folder_of_real_etcd_is_not_taken_for_our_own() {
    let suite = "folder of real etcd";
    let program = need!(suite, programs::quorate());
    let etcd = need!(suite, programs::etcd("etcd-3.5.1"));
    let mut theirs = Server::start(&etcd);
    fill(&theirs);
    theirs.stop(Signal::TERM).expect("it stops");
    let before = contents(theirs.data_dir());
    let server = Launch::new(&program).data_dir(theirs.data_dir()).spawn();
    expect_refusal_or_everything("the data folder of real etcd", server);
    for (path, bytes) in before {
        assert!(
            std::fs::read(&path).is_ok_and(|now| now == bytes),
            "{} was changed",
            path.display()
        );
    }
    theirs.start_again().expect("real etcd still starts");
    check(&theirs).expect("and has everything");
}

#[test]
fn a_flipped_bit_a_cut_or_a_missing_file_is_noticed() {
    let suite = "damaged files";
    let program = need!(suite, programs::quorate());
    let mut server = Server::start(&program);
    fill(&server);
    // One clean stop and more writes after it: so there is a checkpoint, and a log beyond it.
    server.stop(Signal::TERM).expect("it stops");
    server.start_again().expect("it starts");
    fill(&server);
    server.kill();
    let whole = server.data_dir().to_path_buf();
    let mut wrong = Vec::new();
    for file in files(&whole) {
        let name = file.strip_prefix(&whole).expect("below").to_path_buf();
        for damage in damages(&file) {
            let copy = tempfile::tempdir().expect("a scratch folder");
            let folder = copy.path().join("data");
            copy_folder(&whole, &folder);
            damage.apply(&folder.join(&name));
            let what = format!("{}: {damage:?}", name.display());
            let server = Launch::new(&program).data_dir(&folder).spawn();
            if let Err(error) = refused_or_everything(server) {
                wrong.push(format!("{what}: {error}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    /// One bit of the byte at this offset.
    Flip(u64),
    /// Everything from this offset on is gone.
    Cut(u64),
    Missing,
}

impl Damage {
    fn apply(self, file: &Path) {
        match self {
            Damage::Flip(offset) => {
                let mut bytes = std::fs::read(file).expect("the file");
                bytes[offset as usize] ^= 0x10;
                std::fs::write(file, bytes).expect("written back");
            }
            Damage::Cut(size) => std::fs::File::options()
                .write(true)
                .open(file)
                .and_then(|f| f.set_len(size))
                .expect("cut"),
            Damage::Missing => std::fs::remove_file(file).expect("removed"),
        }
    }
}

/// Damage within the first half of what was written: the end of a log cannot be told from a torn write, which is cut.
fn damages(file: &Path) -> Vec<Damage> {
    let bytes = std::fs::read(file).expect("the file");
    let written = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1) as u64;
    if written < 64 {
        return vec![Damage::Missing];
    }
    vec![
        Damage::Flip(written / 8),
        Damage::Flip(written / 3),
        Damage::Flip(written / 2),
        Damage::Cut(written / 3),
        Damage::Missing,
    ]
}

fn expect_refusal_or_everything(what: &str, server: Server) {
    refused_or_everything(server).unwrap_or_else(|error| panic!("{what}: {error}"));
}

/// Either the process ends by itself, with a message and an exit code that is not 0, or it serves everything.
fn refused_or_everything(mut server: Server) -> Result<(), String> {
    match server.wait_ready() {
        Ok(()) => check(&server),
        Err(_) if server.is_running() => Err("neither serves nor ends".into()),
        Err(_) => {
            let status = server.exit_status().ok_or("its exit status is not known")?;
            let log = server.log();
            if status == 0 {
                return Err("exit code 0".into());
            }
            if log.contains("panicked at") {
                return Err(format!(
                    "a panic instead of a message: {}",
                    last_lines(&log)
                ));
            }
            if log.trim().is_empty() {
                Err("ended without a word".into())
            } else {
                Ok(())
            }
        }
    }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(3)..].join(" | ")
}

/// Writes every key once more, with the number of times it was written as its version.
fn fill(server: &Server) {
    block_on(async {
        let connection = Grpc::connect(server.socket()).await.expect("a connection");
        for index in 0..KEYS {
            let key = format!("key-{index:04}");
            let request = pb::PutRequest {
                key: key.clone().into(),
                value: value(&key).into(),
                ..Default::default()
            };
            let _: pb::PutResponse = connection.call(grpc::PUT, &request).await.expect("a put");
        }
    });
}

fn value(key: &str) -> String {
    format!("{key}-").repeat(20)
}

/// Everything that `fill` was told is there.
fn check(server: &Server) -> Result<(), String> {
    block_on(async {
        let connection = Grpc::connect(server.socket())
            .await
            .map_err(|e| e.to_string())?;
        let request = pb::RangeRequest {
            key: "key-".into(),
            range_end: "key.".into(),
            ..Default::default()
        };
        let answer: pb::RangeResponse = connection
            .call(grpc::RANGE, &request)
            .await
            .map_err(|e| e.to_string())?;
        if answer.kvs.len() != KEYS {
            return Err(format!("it serves {} of {KEYS} keys", answer.kvs.len()));
        }
        let versions: i64 = answer.kvs.iter().map(|kv| kv.version).sum();
        let revision = answer.header.map_or(0, |header| header.revision);
        if revision != versions + 1 {
            return Err(format!(
                "revision {revision}, but the versions of the keys sum up to {versions}"
            ));
        }
        if versions % KEYS as i64 != 0 {
            return Err(format!(
                "{versions} versions of {KEYS} keys: some writes are lost"
            ));
        }
        match answer
            .kvs
            .iter()
            .find(|kv| kv.value != value(&String::from_utf8_lossy(&kv.key)))
        {
            Some(kv) => Err(format!("{:?} has a wrong value", kv.key)),
            None => Ok(()),
        }
    })
}

/// The parts of a data folder that could be exchanged as a whole: what lies in it and in its `member` folder.
fn parts(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in names(folder) {
        let below = folder.join(&name);
        if name == "member" && below.is_dir() {
            found.extend(
                names(&below)
                    .into_iter()
                    .map(|inner| Path::new(&name).join(inner)),
            );
        } else {
            found.push(PathBuf::from(name));
        }
    }
    found
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in names(folder) {
        let path = folder.join(name);
        if path.is_dir() {
            found.extend(files(&path))
        } else {
            found.push(path)
        }
    }
    found
}

fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    files(folder)
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).expect("a file")))
        .collect()
}

fn copy_folder(from: &Path, to: &Path) {
    copy_any(from, to);
}

fn copy_any(from: &Path, to: &Path) {
    let done = Command::new("cp")
        .args(["--archive", "--sparse=always"])
        .arg(from)
        .arg(to)
        .status()
        .expect("cp");
    assert!(done.success(), "cp {} {}", from.display(), to.display());
}

fn remove(path: &Path) {
    if path.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    }
    .expect("removed");
}
