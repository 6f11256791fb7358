//! The differential tester: the same random operations to real etcd and to ours, every field of every answer compared.
//!
//! It lives outside the repository (`QUORATE_DIFFTEST_DIR`, else `../shared/tools/difftest` beside it). What may differ
//! stands in `difftest/quorate.rules`, each line with its reason. A fresh seed per run; `QUORATE_SEED` and `QUORATE_OPS`
//! repeat or extend one.

use conformance::need;
use conformance::programs::{self, Program, repository};
use conformance::suite::{note, number, seed};
use std::path::PathBuf;
use std::process::Command;

#[test]
fn random_operations_get_etcds_answers() {
    let suite = "difftest";
    let (tester, python, reference, ours) = need!(suite, tools());
    let seed = seed();
    let operations = number("QUORATE_OPS", 20_000);
    note(&format!(
        "difftest: QUORATE_SEED={seed} QUORATE_OPS={operations}, against {}",
        reference.name
    ));
    let mut command = Command::new(&python.path);
    command.arg(tester.join("difftest.py"));
    command.args([
        "--spawn-a",
        &reference.path.to_string_lossy(),
        "--spawn-b",
        &ours.path.to_string_lossy(),
    ]);
    command.args([
        "--features",
        "kv,txn,lease,watch,maint,raw",
        "--ops",
        &operations.to_string(),
        "--seed",
        &seed.to_string(),
    ]);
    command.arg("--ignore").arg(rules());
    run(suite, &mut command);
}

#[test]
fn the_corpus_of_old_divergences_and_poison_passes() {
    let suite = "difftest corpus";
    let (tester, python, reference, ours) = need!(suite, tools());
    let mut command = Command::new(&python.path);
    command.arg(tester.join("difftest.py"));
    command.args([
        "--spawn-a",
        &reference.path.to_string_lossy(),
        "--spawn-b",
        &ours.path.to_string_lossy(),
    ]);
    command
        .arg("--ignore")
        .arg(rules())
        .arg("--replay")
        .arg(tester.join("corpus"));
    run(suite, &mut command);
}

fn tools() -> Result<(PathBuf, Program, Program, Program), String> {
    let beside = repository().join("../shared/tools/difftest");
    let folder = std::env::var_os("QUORATE_DIFFTEST_DIR").map_or(beside, PathBuf::from);
    if !folder.join("difftest.py").is_file() {
        return Err(format!("there is no difftest.py in {}", folder.display()));
    }
    Ok((
        folder,
        programs::peer("python", "bin/python")?,
        programs::etcd_reference()?,
        programs::quorate()?,
    ))
}

fn rules() -> PathBuf {
    repository().join("crates/conformance/difftest/quorate.rules")
}

fn run(suite: &str, command: &mut Command) {
    let done = command
        .output()
        .unwrap_or_else(|error| panic!("{suite}: {error}"));
    let (out, err) = (
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr),
    );
    for line in out
        .lines()
        .rev()
        .take(3)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
    {
        note(&format!("{suite}: {line}"));
    }
    assert!(
        done.status.success(),
        "{suite}: {}\n{out}\n{err}",
        done.status
    );
}
