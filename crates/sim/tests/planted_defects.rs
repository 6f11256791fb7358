//! Does the simulator notice what is wrong? Plants one known defect after the other in the production code that it runs, and
//! looks for the first seed that tells.
//!
//! A program of its own, not a list of tests: `scripts/planted-defects.sh [NAME..]` builds it with `--cfg planted` and runs it.
//! Built without, as by `cargo test`, it says so and ends. It fails if a defect is not noticed by [`SEEDS_MAX`] seeds, if what is
//! noticed is not what the defect must lead to, or if fault is found with the member as it should be.

#[cfg(not(planted))]
fn main() {
    println!(
        "planted defects: skipped, nothing is planted in this build; run scripts/planted-defects.sh"
    );
}

#[cfg(planted)]
fn main() -> std::process::ExitCode {
    hunt::main()
}

#[cfg(planted)]
#[allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the edge of the simulator reads arguments and a clock"
)]
mod hunt {
    use std::panic::{self, AssertUnwindSafe};
    use std::process::ExitCode;
    use std::sync::{Mutex, PoisonError};
    use std::time::Instant;

    use sim::auth;
    use sim::checker;
    use sim::plan::{Options, Theme};
    use sim::world;
    use storage::planted::{Defect, choose};

    /// So many seeds have to be enough, from 1 on.
    const SEEDS_MAX: u64 = 1_000;
    /// So many find no fault where there is none, with the overflow checks that a release build has not.
    const SEEDS_UNPLANTED: u64 = 100;

    /// What a defect must lead to: the beginning of a violation, or a part of what the world, the member at its start, or an
    /// assertion says. Whatever else is found on the way (a loss shows itself in many ways) is counted, and not enough.
    fn expected(defect: Defect) -> &'static [&'static str] {
        match defect {
            Defect::AnswerBeforeSync => &["something committed was lost"],
            Defect::PromiseBeforeSync => &["something committed was lost", "both lead term"],
            // The log itself finds that something is gone that it took for durable.
            Defect::FailedSyncForgotten | Defect::UnsyncedTailTrusted | Defect::LostTailTrusted => {
                &["something committed was lost", "checksum mismatch"]
            }
            Defect::TornRecordBelieved => &["unreadable entries", "another entry"],
            Defect::IndexApartFromData => &["published other changes", "published revision"],
            Defect::OldFileRemovedFirst => &["but there is no such file"],
            Defect::DamageIsServed => &[
                "wrong answer",
                "watch: event",
                "differs from member",
                "a stored pair decodes",
            ],
            Defect::DeletionLostAtCompaction => &["watch: reliable", "watch: atomic"],
            Defect::RevisionGoesBack => &["published other changes", "appended after Some"],
            Defect::CompactedRevisionIsRead => &["read below compaction"],
            Defect::TxnMissesItsOwnWrites => &["wrong answer"],
            Defect::TxnAppliedInPart => &["applied twice"],
            Defect::ProgressOvertakesEvents => &["watch: bookmarkable"],
            Defect::SlowWatcherLosesEvents => &["watch: reliable", "watch: atomic"],
            Defect::EventsAreRepeated => &["watch: unique"],
            Defect::FutureWatchGetsOldEvents => &["watch: unique"],
            Defect::StaleReadAfterPause
            | Defect::ReadJoinsRunningRound
            | Defect::ReadBeforeItIsApplied => &["stale read"],
            Defect::KeepAliveUnconfirmed => &["dead lease"],
            Defect::OldLeaderRevokesLeases | Defect::LeaseClocksRunOn => &["lease over early"],
            Defect::SnapshotSkipsEvents => &["watch: reliable", "watch: atomic"],
            Defect::SnapshotForgetsLeases => &["lost lease", "does not come to rest"],
            Defect::WipedMemberVotes => &["has lost its disk and takes part"],
            Defect::RemovedMemberCounts => {
                &["no recovery", "does not come to rest", "was announced with"]
            }
            Defect::LaggingLearnerPromoted => &["was promoted when it had"],
            Defect::UpdatePromotes => &["and raft has it otherwise"],
            Defect::SnapshotForgetsCompaction => &[
                "read below compaction",
                "wrong answer",
                "compaction:",
                "differs from member",
            ],
            Defect::ForeignMessageTaken => &[
                "stops without a cause",
                "something committed was lost",
                "another entry",
                "both lead term",
            ],
            Defect::SnapshotOverSnapshot => &["does not come to rest"],
            Defect::InstallLeftHalfDone => &["but the store has applied"],
            Defect::AuthNotRestored => &["members differ"],
            Defect::PermissionByKind => &["to be refused"],
        }
    }

    /// What the worlds are about in which it is looked for.
    fn theme(defect: Defect) -> Theme {
        match defect {
            Defect::SnapshotSkipsEvents
            | Defect::SnapshotForgetsLeases
            | Defect::InstallLeftHalfDone
            | Defect::SnapshotForgetsCompaction
            | Defect::SnapshotOverSnapshot => Theme::Snapshots,
            Defect::WipedMemberVotes
            | Defect::RemovedMemberCounts
            | Defect::LaggingLearnerPromoted
            | Defect::UpdatePromotes => Theme::Members,
            Defect::KeepAliveUnconfirmed
            | Defect::OldLeaderRevokesLeases
            | Defect::LeaseClocksRunOn => Theme::Leases,
            _ => Theme::Any,
        }
    }

    static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

    pub fn main() -> ExitCode {
        match check() {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("{why}");
                ExitCode::FAILURE
            }
        }
    }

    fn check() -> Result<(), String> {
        let wanted: Vec<String> = std::env::args().skip(1).collect();
        let names = Defect::ALL.map(name);
        if let Some(unknown) = wanted.iter().find(|wanted| !names.contains(wanted)) {
            return Err(format!(
                "there is no defect {unknown}; there are: {}",
                names.join(" ")
            ));
        }
        panic::set_hook(Box::new(|info| {
            *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = info.to_string();
        }));
        let began = Instant::now();
        for seed in 1..=SEEDS_UNPLANTED {
            if let Some(found) = judge(seed, Theme::Any).first() {
                return Err(format!(
                    "seed {seed} finds fault with the member as it should be: {found}"
                ));
            }
        }
        println!(
            "{SEEDS_UNPLANTED} seeds find no fault with the member as it should be ({:.0} s)",
            began.elapsed().as_secs_f64()
        );
        let mut missed = Vec::new();
        for defect in Defect::ALL {
            if !wanted.is_empty() && !wanted.contains(&name(defect)) {
                continue;
            }
            let began = Instant::now();
            let told = hunt(defect);
            if told.is_err() {
                missed.push(name(defect));
            }
            println!(
                "{:<28} {:>4.1} s  {}",
                name(defect),
                began.elapsed().as_secs_f64(),
                told.unwrap_or_else(|why| why)
            );
        }
        println!("{:.0} s in all", began.elapsed().as_secs_f64());
        if missed.is_empty() {
            Ok(())
        } else {
            Err(format!("not noticed: {}", missed.join(" ")))
        }
    }

    /// Runs seeds until one tells of the defect.
    fn hunt(defect: Defect) -> Result<String, String> {
        let mut otherwise: Option<(u64, String)> = None;
        let theme = theme(defect);
        for seed in 1..=SEEDS_MAX {
            choose(Some(defect));
            let found = judge(seed, theme);
            choose(None);
            let is_expected = |found: &&String| {
                expected(defect)
                    .iter()
                    .any(|expected| found.contains(expected))
            };
            if let Some(found) = found.iter().find(is_expected) {
                if let Some(found) = judge(seed, theme).first() {
                    return Err(format!("seed {seed} finds fault without it: {found}"));
                }
                return Ok(format!("seed {seed:>3}: {}", shorten(found)));
            }
            if let Some(found) = found.first() {
                otherwise.get_or_insert((seed, shorten(found)));
            }
        }
        Err(match otherwise {
            Some((seed, found)) => format!("MISSED; seed {seed} noticed only: {found}"),
            None => "MISSED".to_owned(),
        })
    }

    /// Everything that is wrong in the world of a seed.
    fn judge(seed: u64, theme: Theme) -> Vec<String> {
        let options = Options {
            seed,
            seconds: 200,
            members: None,
            faults: true,
            theme,
        };
        let Ok(run) = panic::catch_unwind(AssertUnwindSafe(|| world::run(&options))) else {
            return vec![
                LAST_PANIC
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone(),
            ];
        };
        let violations = checker::check(&run.history);
        violations
            .iter()
            .map(ToString::to_string)
            .chain(run.failure)
            .chain(auth::run(seed).err())
            .collect()
    }

    /// `AnswerBeforeSync` as `answer_before_sync`.
    fn name(defect: Defect) -> String {
        let mut name = String::new();
        for letter in format!("{defect:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.extend(letter.to_lowercase());
        }
        name
    }

    /// One line, not too long.
    fn shorten(text: &str) -> String {
        const LENGTH_MAX: usize = 160;
        let line = text.replace('\n', " ");
        match line.char_indices().nth(LENGTH_MAX) {
            Some((end, _)) => format!("{}...", &line[..end]),
            None => line,
        }
    }
}
