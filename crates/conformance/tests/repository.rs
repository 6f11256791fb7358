//! The rules of the repository: who may depend on whom, what core crates never do, what every file must have.
//!
//! These are plain scans of the sources, so they run on any machine and say which file and line breaks which rule. The
//! `clippy.toml` of each core crate forbids the same things with the compiler's eyes.

use conformance::programs::repository;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which crate may use which (normal and build dependencies). Crates of core first.
const ARROWS: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("storage", &["proto"]),
    ("state", &["proto", "storage"]),
    ("replica", &["proto", "storage", "state"]),
    ("server", &["proto", "storage", "state", "replica"]),
    ("ctl", &["proto", "storage", "state"]),
    ("quorate", &["server", "ctl"]),
    ("sim", &["proto", "storage", "state", "replica"]),
    // `sim` for its checker, which also judges what real clients saw.
    ("conformance", &["proto", "sim"]),
    ("bench", &["proto"]),
];

/// Crates that are functions of their inputs.
const CORE: &[&str] = &["proto", "storage", "state", "replica"];

/// What core crates never name, and why. The one place that may is `OS_DISK`.
const FORBIDDEN_IN_CORE: &[(&str, &str)] = &[
    ("Instant::now", "time comes in as an argument"),
    ("SystemTime", "time comes in as an argument"),
    ("time::Instant", "time comes in as an argument"),
    ("thread::spawn", "the server owns the threads"),
    ("thread::sleep", "nothing waits in a core crate"),
    ("thread::Builder", "the server owns the threads"),
    ("thread_rng", "randomness comes in as an argument"),
    ("rand::rng", "randomness comes in as an argument"),
    ("rand::random", "randomness comes in as an argument"),
    ("getrandom", "randomness comes in as an argument"),
    ("OsRng", "randomness comes in as an argument"),
    ("RandomState", "iteration order is behaviour"),
    (
        "HashMap",
        "iteration order is behaviour: BTreeMap or a sorted Vec",
    ),
    (
        "HashSet",
        "iteration order is behaviour: BTreeSet or a sorted Vec",
    ),
    ("std::net", "the server owns the sockets"),
    ("std::process", "a core crate starts and ends nothing"),
    ("std::env", "configuration comes in as an argument"),
    ("tokio", "core crates are synchronous"),
    ("std::fs", "bytes go down through trait Disk"),
    ("fs::File", "bytes go down through trait Disk"),
];

/// The file that is the disk of the operating system: the only one in core that opens, reads or writes one.
const OS_DISK: &[&str] = &["crates/storage/src/disk/os.rs"];

/// Longest file, in lines. Generated and table-like files have no exception: they can be split.
const LINES_MAX: usize = 900;

#[test]
fn crates_depend_only_along_the_allowed_arrows() {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let crates = crates();
    let known: BTreeSet<&str> = allowed.keys().copied().collect();
    let found: BTreeSet<&str> = crates.keys().map(String::as_str).collect();
    assert_eq!(
        found, known,
        "a crate of the workspace without arrows, or arrows without a crate"
    );
    let mut wrong = Vec::new();
    for (name, manifest) in &crates {
        for dependency in manifest
            .dependencies
            .iter()
            .filter(|d| known.contains(d.as_str()))
        {
            if !allowed[name.as_str()].contains(&dependency.as_str()) {
                wrong.push(format!("{name} -> {dependency}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "arrows that the architecture does not have: {}",
        wrong.join(", ")
    );
}

#[test]
fn core_crates_name_no_clock_thread_socket_file_or_random_order() {
    let mut wrong = Vec::new();
    for name in CORE {
        for file in rust_files(&format!("crates/{name}/src")) {
            if OS_DISK.contains(&file.name.as_str()) || file.is_test() {
                continue;
            }
            for (number, line) in file.code_lines() {
                for (word, why) in FORBIDDEN_IN_CORE {
                    if names(&line, word) {
                        wrong.push(format!("{}:{number}: {word} ({why})", file.name));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "in core crates:\n{}", wrong.join("\n"));
}

#[test]
fn core_crates_forbid_unsafe_code_and_carry_the_lint_list() {
    for name in CORE {
        let library = read(&format!("crates/{name}/src/lib.rs"));
        assert!(
            library.contains("#![forbid(unsafe_code)]"),
            "crates/{name}/src/lib.rs does not forbid unsafe code"
        );
        let lints = read(&format!("crates/{name}/clippy.toml"));
        for word in [
            "std::time::Instant",
            "std::collections::HashMap",
            "std::thread::spawn",
            "std::net::TcpStream",
            "std::fs::File",
        ] {
            assert!(
                lints.contains(word),
                "crates/{name}/clippy.toml does not name {word}"
            );
        }
    }
}

#[test]
fn every_source_file_opens_with_what_it_is() {
    let mut wrong = Vec::new();
    for file in all_rust_files() {
        if !file.is_unit_test() && !file.text.trim_start().starts_with("//!") {
            wrong.push(file.name);
        }
    }
    assert!(
        wrong.is_empty(),
        "files that do not open with //! documentation: {}",
        wrong.join(", ")
    );
}

#[test]
fn no_source_file_is_longer_than_one_can_read() {
    let long: Vec<String> = all_rust_files()
        .into_iter()
        .filter(|file| file.text.lines().count() > LINES_MAX)
        .map(|file| format!("{} ({} lines)", file.name, file.text.lines().count()))
        .collect();
    assert!(
        long.is_empty(),
        "longer than {LINES_MAX} lines: {}",
        long.join(", ")
    );
}

#[test]
fn nothing_is_left_to_do_without_a_condition() {
    // Spelt in pieces, so that this file does not find itself.
    let marks = [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["XX", "X"].concat(),
    ];
    let left = ["todo", "unimplemented"].map(|name| format!("{name}!("));
    let mut wrong = Vec::new();
    for file in all_rust_files() {
        for (number, line) in file.text.lines().enumerate() {
            let marked = marks
                .iter()
                .any(|mark| names(line, mark) && !line.contains(&format!("{mark}(when ")));
            if marked || left.iter().any(|word| line.contains(word.as_str())) {
                wrong.push(format!("{}:{}: {}", file.name, number + 1, line.trim()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "say when it is to be done, as in `{}(when …)`, or do it:\n{}",
        marks[0],
        wrong.join("\n")
    );
}

#[test]
fn every_dependency_has_its_sentence() {
    let text = read("docs/dependencies.md");
    let mut sentences: BTreeMap<String, usize> = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("- `")) {
        let (name, sentence) = line
            .split_once("`: ")
            .unwrap_or_else(|| panic!("docs/dependencies.md: not `name`: sentence: {line}"));
        assert!(
            sentence.ends_with('.') && sentence.len() > 20,
            "docs/dependencies.md: {name} has no sentence: {sentence}"
        );
        *sentences.entry(name.to_string()).or_default() += 1;
    }
    let ours: BTreeSet<String> = crates().into_keys().collect();
    let used: BTreeSet<String> = crates()
        .into_values()
        .flat_map(|manifest| manifest.all())
        .filter(|name| !ours.contains(name))
        .collect();
    let told: BTreeSet<String> = sentences.keys().cloned().collect();
    let missing: Vec<_> = used.difference(&told).collect();
    let stale: Vec<_> = told.difference(&used).collect();
    assert!(
        missing.is_empty(),
        "docs/dependencies.md has no sentence for {missing:?}"
    );
    assert!(
        stale.is_empty(),
        "docs/dependencies.md speaks of {stale:?}, which nothing uses"
    );
    let twice: Vec<_> = sentences.iter().filter(|(_, count)| **count > 1).collect();
    assert!(
        twice.is_empty(),
        "docs/dependencies.md names {twice:?} more than once"
    );
}

#[test]
fn the_licence_is_there_and_every_crate_names_it() {
    let text = read("LICENSE");
    assert!(text.contains("Apache License") && text.contains("Version 2.0"));
    for name in crates().keys() {
        assert!(
            read(&format!("crates/{name}/Cargo.toml")).contains("license.workspace = true"),
            "crates/{name} names no licence"
        );
    }
}

#[test]
fn the_rules_see_what_they_forbid() {
    let file = RustFile { name: "x.rs".into(), text: "use std::fs; // std::net\nlet s = \"HashMap\";\n#[cfg(test)]\nmod tests {\n HashMap\n}\n".into() };
    let code: Vec<String> = file.code_lines().map(|(_, line)| line).collect();
    assert_eq!(code.len(), 2);
    assert!(
        names(&code[0], "std::fs") && !names(&code[0], "std::net") && !names(&code[1], "HashMap")
    );
    assert!(
        names("HashMap<u8>", "HashMap")
            && !names("MyHashMap", "HashMap")
            && !names("HashMapper", "HashMap")
    );
}

/// What a manifest depends on: crate names, by kind.
struct Manifest {
    dependencies: BTreeSet<String>,
    dev_dependencies: BTreeSet<String>,
}

impl Manifest {
    fn all(self) -> BTreeSet<String> {
        self.dependencies
            .into_iter()
            .chain(self.dev_dependencies)
            .collect()
    }
}

/// The crates of the workspace, by folder name.
fn crates() -> BTreeMap<String, Manifest> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(repository().join("crates")).expect("crates/ is there") {
        let folder = entry.expect("a folder").path();
        if let Ok(text) = std::fs::read_to_string(folder.join("Cargo.toml")) {
            let name = folder
                .file_name()
                .and_then(|name| name.to_str())
                .expect("a plain name")
                .to_string();
            found.insert(name, parse_manifest(&text));
        }
    }
    found
}

/// Reads the sections `[dependencies]`, `[build-dependencies]`, `[dev-dependencies]` and their `[target.….]` and
/// `[dependencies.name]` forms. Enough TOML for manifests that are written by hand.
fn parse_manifest(text: &str) -> Manifest {
    let mut manifest = Manifest {
        dependencies: BTreeSet::new(),
        dev_dependencies: BTreeSet::new(),
    };
    let mut section = String::new();
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
    {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']').to_string();
            if let Some((kind, name)) = section.rsplit_once("dependencies.") {
                manifest.add(kind.ends_with("dev-"), name);
            }
            continue;
        }
        let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
        if section.ends_with("dependencies") && !name.is_empty() {
            manifest.add(section.ends_with("dev-dependencies"), name);
        }
    }
    manifest
}

impl Manifest {
    fn add(&mut self, dev: bool, name: &str) {
        let to = if dev {
            &mut self.dev_dependencies
        } else {
            &mut self.dependencies
        };
        to.insert(name.to_string());
    }
}

/// A source file, named from the root of the repository.
struct RustFile {
    name: String,
    text: String,
}

impl RustFile {
    /// `tests.rs` beside what it tests says what it is by its name.
    fn is_unit_test(&self) -> bool {
        self.name.ends_with("/tests.rs")
            || self.name.contains("/src/") && self.name.contains("/tests/")
    }

    fn is_test(&self) -> bool {
        self.name.contains("/tests/") || self.name.ends_with("/tests.rs")
    }

    /// Numbered lines without comments, string contents and test modules at the end of the file.
    fn code_lines(&self) -> impl Iterator<Item = (usize, String)> {
        let lines: Vec<&str> = self.text.lines().collect();
        let tests = lines.windows(2).position(|pair| {
            pair[0].trim() == "#[cfg(test)]"
                && pair[1].starts_with("mod ")
                && pair[1].ends_with('{')
        });
        let end = tests.unwrap_or(lines.len());
        lines[..end]
            .iter()
            .map(|line| without_text(line))
            .enumerate()
            .map(|(index, line)| (index + 1, line))
            .collect::<Vec<_>>()
            .into_iter()
    }
}

/// Takes string contents and line comments out of one line.
fn without_text(line: &str) -> String {
    let mut code = String::new();
    let mut characters = line.chars().peekable();
    let mut in_string = false;
    while let Some(character) = characters.next() {
        match character {
            '\\' if in_string => _ = characters.next(),
            '"' => in_string = !in_string,
            '/' if !in_string && characters.peek() == Some(&'/') => break,
            _ if !in_string => code.push(character),
            _ => {}
        }
    }
    code
}

/// True if `line` names `word`, not merely a longer word that contains it.
fn names(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        let before = line[..start].chars().next_back().is_some_and(part_of_word);
        let after = line[start + word.len()..]
            .chars()
            .next()
            .is_some_and(part_of_word);
        !before && !after
    })
}

fn all_rust_files() -> Vec<RustFile> {
    rust_files("crates")
}

fn rust_files(folder: &str) -> Vec<RustFile> {
    let root = repository();
    let mut found = Vec::new();
    let mut folders = vec![root.join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        {
            let path = entry.expect("an entry").path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(RustFile {
                    name: relative(&root, &path),
                    text: std::fs::read_to_string(&path).expect("UTF-8"),
                });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root)
        .expect("below the root")
        .to_string_lossy()
        .into_owned()
}

fn read(name: &str) -> String {
    let path: PathBuf = repository().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}
