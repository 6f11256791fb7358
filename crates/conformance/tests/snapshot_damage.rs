//! Files that are not what they should be: each is refused with a message that says why, without a panic, in bounded memory and
//! time, and nothing is left behind. What can be read all the same is read alike here and by real etcd.

use conformance::ctl::{Answer, Ctl};
use conformance::need;
use conformance::programs::{self, Program};
use conformance::server::{Launch, Server};
use conformance::snapshots::{Tool, fill, json, save, text};
use conformance::suite::{Dice, note, number};
use std::path::{Path, PathBuf};
use std::process::Command;

const PAGE: usize = 4096;

/// A scratch folder with a sound snapshot in it.
struct Scratch {
    folder: tempfile::TempDir,
    quorate: Program,
    sound: Vec<u8>,
}

fn scratch(suite: &str) -> Result<Scratch, String> {
    let etcdctl =
        programs::peer("etcd-3.5.1", "etcdctl").map_err(|why| format!("{suite}: {why}"))?;
    let quorate = programs::quorate()?;
    let server = Server::start(&programs::etcd_reference()?);
    let ctl = Ctl::new(&etcdctl, server.address());
    fill(&ctl);
    let folder = tempfile::tempdir().map_err(|why| why.to_string())?;
    let file = folder.path().join("sound.db");
    save(&ctl, &file);
    let sound = std::fs::read(&file).map_err(|why| why.to_string())?;
    Ok(Scratch {
        folder,
        quorate,
        sound,
    })
}

impl Scratch {
    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    }

    fn tool(&self) -> Tool {
        Tool::ours(&self.quorate)
    }

    /// Every command that reads a file, with at most 1 GiB of address space and ten seconds of processor time.
    fn try_all(&self, file: &Path, restore_flags: &[&str]) -> [Answer; 3] {
        let target = self.folder.path().join("target");
        let mut restore = vec![
            "snapshot",
            "restore",
            text(file),
            "--data-dir",
            text(&target),
        ];
        restore.extend(restore_flags);
        let commands = [
            &["snapshot", "status", text(file)][..],
            &["hashkv", text(file)],
            &restore,
        ];
        commands.map(|args| {
            let done = Command::new("sh")
                .args(["-c", "ulimit -v 1048576; ulimit -t 10; exec \"$@\"", "sh"])
                .arg(&self.quorate.path)
                .arg("etcdutl")
                .args(args)
                .output()
                .expect("sh is there");
            let answer = Answer {
                code: done.status.code().unwrap_or(-1),
                out: String::from_utf8_lossy(&done.stdout).into_owned(),
                err: String::from_utf8_lossy(&done.stderr).into_owned(),
            };
            assert!(matches!(answer.code, 0 | 1), "{args:?}: {answer:?}");
            assert_eq!(
                answer.code == 1,
                answer.err.contains("Error: "),
                "{answer:?}"
            );
            if answer.code == 1 {
                assert!(
                    !target.exists(),
                    "{args:?} left something behind: {answer:?}"
                );
            } else if target.exists() {
                std::fs::remove_dir_all(&target).expect("a restored folder");
            }
            answer
        })
    }

    #[track_caller]
    fn all_refuse(&self, file: &Path, flags: &[&str], because: &str) {
        for answer in self.try_all(file, flags) {
            assert_eq!(answer.code, 1, "{answer:?}");
            assert!(
                answer.err.contains(because),
                "{because:?} is not in {answer:?}"
            );
        }
    }
}

#[test]
fn what_is_no_backend_file_is_refused_by_every_command() {
    let suite = "snapshot files of no kind";
    let s = need!(suite, scratch(suite));
    let skip = &["--skip-hash-check"][..];
    s.all_refuse(
        &s.folder.path().join("absent"),
        &[],
        "no such file or directory",
    );
    s.all_refuse(s.folder.path(), &[], "is a directory");
    s.all_refuse(&s.write("empty", b""), skip, "invalid database");
    s.all_refuse(&s.write("short", &s.sound[..40]), skip, "invalid database");
    s.all_refuse(
        &s.write("noise", &[0x5a; 3 * PAGE]),
        skip,
        "invalid database",
    );
    let pipe = s.folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    s.all_refuse(&pipe, &[], "not a regular file");
    // A link is followed, as etcd's tool does.
    let link = s.folder.path().join("link.db");
    std::os::unix::fs::symlink(s.folder.path().join("sound.db"), &link).expect("a link");
    for answer in s.try_all(&link, &[]) {
        assert_eq!(answer.code, 0, "{answer:?}");
    }
}

#[test]
fn a_cut_or_longer_or_changed_snapshot_is_refused_by_its_hash() {
    let suite = "snapshot hash";
    let s = need!(suite, scratch(suite));
    let tool = s.tool();
    let refused = |file: &Path, because: &str| {
        let server = Launch::new(&s.quorate).prepare();
        let answer = tool.restore(file, &server, &[]);
        assert_eq!(answer.code, 1, "{answer:?}");
        assert!(
            answer.err.contains(because),
            "{because:?} is not in {answer:?}"
        );
        assert!(!server.data_dir().exists());
    };
    let len = s.sound.len();
    let missing = "snapshot missing hash but --skip-hash-check=false";
    refused(&s.write("no-hash", &s.sound[..len - 32]), missing);
    refused(
        &s.write("cut", &s.sound[..len - PAGE / 2 - 32 - 7]),
        missing,
    );
    refused(
        &s.write("longer", &[&s.sound[..], b"garbage"].concat()),
        missing,
    );
    refused(
        &s.write("a-page-less", &s.sound[..len - PAGE]),
        "expected sha256",
    );
    for at in [9, PAGE + 30, len / 2, len - 33, len - 1] {
        let mut bytes = s.sound.clone();
        bytes[at] ^= 0x10;
        refused(&s.write("flipped", &bytes), "expected sha256");
    }
}

#[test]
fn structure_that_contradicts_itself_is_named_by_its_page() {
    let suite = "structure of a snapshot file";
    let s = need!(suite, scratch(suite));
    let skip = &["--skip-hash-check"][..];
    let sound = &s.sound[..s.sound.len() - 32];
    let flags = |page: &[u8]| u16::from_le_bytes([page[8], page[9]]);
    let used = used_pages(sound);
    let find = |flag: u16| {
        used.iter()
            .copied()
            .find(|page| flags(&sound[page * PAGE..]) == flag && count(&sound[page * PAGE..]) > 1)
    };
    let (branch, leaf) = (
        find(1).expect("a branch page"),
        find(2).expect("a leaf page"),
    );
    let changed = |name: &str, at: usize, bytes: &[u8]| {
        let mut file = sound.to_vec();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        s.write(name, &file)
    };
    let (branch_at, leaf_at) = (branch * PAGE, leaf * PAGE);
    let own_page = (branch as u64).to_le_bytes();
    s.all_refuse(
        &changed("cycle", branch_at + 16 + 8, &own_page),
        skip,
        "pointed to twice",
    );
    let far = u64::MAX.to_le_bytes();
    s.all_refuse(
        &changed("outside", branch_at + 16 + 8, &far),
        skip,
        "is pointed to, but there are",
    );
    s.all_refuse(
        &changed("overflow", leaf_at + 12, &[0xff; 4]),
        skip,
        "its header is that of page",
    );
    s.all_refuse(
        &changed("count", leaf_at + 10, &[0xff; 2]),
        skip,
        "elements do not fit",
    );
    s.all_refuse(
        &changed("kind", leaf_at + 8, &[0x77, 0]),
        skip,
        "neither a leaf nor a branch",
    );
    s.all_refuse(
        &changed("position", leaf_at + 16 + 4, &[0xff; 4]),
        skip,
        "points outside its page",
    );
    s.all_refuse(
        &changed("key", leaf_at + 16 + 8, &[0xff; 4]),
        skip,
        "points outside its page",
    );
    // Two meta pages of another page size, with their checksums.
    let mut metas = sound.to_vec();
    for page in [0, 1] {
        let meta = page * PAGE + 16;
        metas[meta + 8..meta + 12].copy_from_slice(&123u32.to_le_bytes());
        let sum = metas[meta..meta + 56]
            .iter()
            .fold(0xcbf2_9ce4_8422_2325u64, |sum, byte| {
                (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
        metas[meta + 56..meta + 64].copy_from_slice(&sum.to_le_bytes());
    }
    s.all_refuse(&s.write("page-size", &metas), skip, "pages of 123 bytes");
    s.all_refuse(
        &s.write("half", &sound[..sound.len() / 2 / PAGE * PAGE]),
        skip,
        "bytes are there",
    );
}

fn count(page: &[u8]) -> usize {
    usize::from(u16::from_le_bytes([page[10], page[11]]))
}

/// The pages that the newer meta's trees use, found by walking them.
fn used_pages(file: &[u8]) -> Vec<usize> {
    let number = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("eight bytes"));
    let meta = if number(16 + 48) > number(PAGE + 16 + 48) {
        16
    } else {
        PAGE + 16
    };
    let mut used = Vec::new();
    let mut open = vec![number(meta + 16) as usize];
    while let Some(page) = open.pop() {
        used.push(page);
        let at = page * PAGE;
        let elements = (0..count(&file[at..])).map(|element| at + 16 + element * 16);
        for element in elements {
            let short = |offset: usize| {
                u32::from_le_bytes(
                    file[element + offset..element + offset + 4]
                        .try_into()
                        .expect("four bytes"),
                ) as usize
            };
            match (file[at + 8], short(0)) {
                (1, _) => open.push(number(element + 8) as usize),
                (2, 1) => {
                    let root = number(element + short(4) + short(8)) as usize;
                    open.extend((root != 0).then_some(root));
                }
                _ => {}
            }
        }
    }
    used
}

#[test]
fn files_changed_at_random_are_read_or_refused_and_never_more() {
    let suite = "random damage of a snapshot file";
    let s = need!(suite, scratch(suite));
    let etcdutl = need!(suite, programs::peer("etcd-3.5.1", "etcdutl"));
    let (seed, rounds) = (number("QUORATE_SEED", 20), number("QUORATE_ROUNDS", 60));
    note(&format!("{suite}: seed {seed}, {rounds} rounds"));
    let mut dice = Dice(seed);
    let sound = &s.sound[..s.sound.len() - 32];
    let used = used_pages(sound);
    let mut refused = 0;
    for round in 0..rounds {
        let mut bytes = sound.to_vec();
        for _ in 0..=dice.below(3) {
            mutate(&mut dice, &mut bytes, &used);
        }
        let file = s.write("changed.db", &bytes);
        let [status, ..] = s.try_all(&file, &["--skip-hash-check"]);
        refused += u64::from(status.code == 1);
        // Where both read the file, both read the same. Real etcdutl may also crash on such a file; ours may not.
        let real = Tool::real(&etcdutl).run(&["snapshot", "status", text(&file), "-w", "json"]);
        if status.code == 0 && real.code == 0 {
            let ours = s.tool().status(&file);
            assert_eq!(
                ours["hash"],
                json(&real)["hash"],
                "seed {seed}, round {round}"
            );
        }
    }
    assert!(
        refused > rounds / 10,
        "{refused} of {rounds} refused: the damage is not damage"
    );
}

/// Changes a used page: a bit, a number in its header or table, or all of it; or cuts the file.
fn mutate(dice: &mut Dice, bytes: &mut Vec<u8>, used: &[usize]) {
    let page = |dice: &mut Dice| used[dice.below(used.len() as u64) as usize] * PAGE;
    let at = page(dice);
    if at + PAGE > bytes.len() {
        return;
    }
    match dice.below(8) {
        0..3 => bytes[at + dice.below(PAGE as u64) as usize] ^= 1 << dice.below(8),
        3..5 => {
            let offset = at + dice.below(40) as usize * 4;
            let numbers = [0, 1, 2, 16, 0xffff, 0x1_0000, 0x7fff_ffff, u32::MAX];
            let number = numbers[dice.below(8) as usize];
            bytes[offset..offset + 4].copy_from_slice(&number.to_le_bytes());
        }
        5 => {
            let from = page(dice);
            if from + PAGE <= bytes.len() {
                bytes.copy_within(from..from + PAGE, at);
            }
        }
        6 => bytes[at..at + PAGE].fill(0),
        _ if dice.below(4) == 0 => bytes.truncate(at + dice.below(PAGE as u64) as usize),
        _ => bytes[at..at + PAGE / 2].fill(0xff),
    }
}

#[test]
fn an_unreadable_file_and_a_full_or_forbidden_target_leave_nothing() {
    let suite = "restore that cannot end";
    let s = need!(suite, scratch(suite));
    let sound = s.folder.path().join("sound.db");
    // A target below a file.
    let blocked = s.write("a-file", b"").join("below");
    let answer = s.tool().run(&[
        "snapshot",
        "restore",
        text(&sound),
        "--data-dir",
        text(&blocked),
    ]);
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.err.contains("a-file"), "{answer:?}");
    // Not enough room: a limit on the size of files stands for a full disk.
    let target = s.folder.path().join("new/target");
    for blocks in [1, 100, 2000] {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
        let done = Command::new("sh")
            .args(["-c", &script, "sh"])
            .arg(&s.quorate.path)
            .args([
                "etcdutl",
                "snapshot",
                "restore",
                text(&sound),
                "--data-dir",
                text(&target),
            ])
            .output()
            .expect("sh is there");
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        assert!(
            !target.exists() && !s.folder.path().join("new").exists(),
            "{blocks}: {done:?}"
        );
    }
    // The same target, with room.
    let answer = s.tool().run(&[
        "snapshot",
        "restore",
        text(&sound),
        "--data-dir",
        text(&target),
    ]);
    assert_eq!(answer.code, 0, "{answer:?}");
}

#[test]
fn a_restore_that_was_killed_does_not_stand_in_the_way_of_the_next() {
    let suite = "killed restore";
    let s = need!(suite, scratch(suite));
    let sound = s.folder.path().join("sound.db");
    let [target, wal_dir] = ["target", "log"].map(|name| s.folder.path().join(name));
    let args = [
        "etcdutl",
        "snapshot",
        "restore",
        text(&sound),
        "--data-dir",
        text(&target),
        "--wal-dir",
        text(&wal_dir),
    ];
    // A sound directory has been left at some moment; a kill may come before or after it.
    let mut unfinished = 0;
    for ms in [0, 1, 2, 4, 6, 8, 12, 16, 24, 40] {
        let mut restore = Command::new(&s.quorate.path)
            .args(args)
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("it starts");
        std::thread::sleep(std::time::Duration::from_millis(ms));
        let _ = restore.kill();
        restore.wait().expect("it was started");
        let is_whole = target.join("member").exists();
        unfinished += u32::from(target.exists() && !is_whole);
        if !is_whole {
            let answer = s.tool().run(&args[1..]);
            assert_eq!(answer.code, 0, "after {ms} ms: {answer:?}");
        }
        let sound = Command::new(&s.quorate.path)
            .arg("verify")
            .arg(&target)
            .arg("--wal-dir")
            .arg(&wal_dir)
            .output()
            .expect("it starts");
        assert!(sound.status.success(), "{sound:?}");
        for folder in [&target, &wal_dir] {
            std::fs::remove_dir_all(folder).expect("a restored folder");
        }
    }
    note(&format!("{suite}: {unfinished} of 10 were killed half way"));
}
