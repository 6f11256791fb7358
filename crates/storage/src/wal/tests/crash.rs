//! Crash-state enumeration: a script of appends, rolls, releases and spares runs on a recording disk; after every disk
//! operation every crash is tried, the log is opened, and what it holds is compared with what was promised. Then the
//! recovered log goes on writing and crashes again.
//!
//! The planted defects show that the comparison can fail.

use super::*;
use crate::disk::enumerate::{Limits, Rng, crash_states};

/// What a log holds, as the model sees it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    hard_state: HardState,
    marker: Option<Marker>,
    entries: Vec<Entry>,
    last_index: u64,
}

impl Model {
    fn covered(&self) -> u64 {
        self.marker.as_ref().map_or(0, |marker| marker.index)
    }

    /// Every state that a batch passes through, the last one being all of it.
    fn after(&self, step: &Step) -> Vec<Model> {
        let mut states = Vec::new();
        let mut now = self.clone();
        if let Some(state) = &step.hard_state {
            let kept = step.entries.first().map_or(now.last_index, |first| {
                now.last_index.min(first.index() - 1)
            });
            now.hard_state = HardState {
                commit: Some(state.commit().min(kept)),
                ..*state
            };
            states.push(now.clone());
        }
        if let Some(marker) = &step.marker {
            if marker.restart {
                now.entries.clear();
                now.last_index = marker.index;
            }
            now.marker = Some(Marker {
                restart: false,
                ..marker.clone()
            });
            states.push(now.clone());
        }
        if let Some(first) = step.entries.first() {
            now.entries.retain(|entry| entry.index() < first.index());
            now.entries.extend(step.entries.iter().cloned());
            now.last_index = step.entries.last().unwrap().index();
            states.push(now.clone());
        }
        if let Some(state) = step.hard_state.filter(|state| *state != now.hard_state) {
            now.hard_state = state;
            states.push(now);
        }
        states
    }

    /// Whether recovery gave back this state. Entries at or below the marker may have been released.
    fn is(&self, recovered: &Recovered) -> bool {
        let mut hard_state = self.hard_state;
        if hard_state != HardState::default() || self.covered() > 0 {
            hard_state.commit = Some(hard_state.commit().max(self.covered()));
        }
        let behind = |entries: &[Entry]| {
            entries
                .iter()
                .filter(|e| e.index() > self.covered())
                .cloned()
                .collect::<Vec<_>>()
        };
        let mut old = recovered
            .entries
            .iter()
            .filter(|e| e.index() <= self.covered());
        hard_state == recovered.hard_state
            && self.marker == recovered.marker
            && self.last_index == recovered.last_index
            && behind(&self.entries) == behind(&recovered.entries)
            && old.all(|entry| self.entries.contains(entry))
    }
}

/// One append, and what is done after it.
#[derive(Clone, Debug, Default)]
struct Step {
    hard_state: Option<HardState>,
    marker: Option<Marker>,
    entries: Vec<Entry>,
    sync: bool,
    release: Option<u64>,
    spare: bool,
}

impl Step {
    fn batch(&self) -> Batch<'_> {
        Batch {
            hard_state: self.hard_state.as_ref(),
            marker: self.marker.as_ref(),
            entries: &self.entries,
            sync: self.sync,
        }
    }
}

/// A raft-like history: appends of all sizes, overwrites, commits without a sync, checkpoints and releases, and now and then
/// a received snapshot.
fn script(seed: u64, steps: usize) -> Vec<Step> {
    let mut rng = Rng(seed);
    let (mut term, mut last, mut commit, mut covered) = (1, 0u64, 0, 0);
    let mut script = Vec::new();
    for _ in 0..steps {
        let mut step = Step {
            sync: rng.below(3) > 0,
            spare: rng.below(2) == 0,
            ..Step::default()
        };
        match rng.below(12) {
            0 if last > commit => {
                // A new leader overwrites what was not committed.
                term += 1;
                last = commit + rng.below(last - commit) + 1;
                step.hard_state = Some(state(term, commit));
                step.entries = vec![entry(last, term, &payload(&mut rng))];
            }
            1 if last > covered => {
                commit = last;
                covered += 1 + rng.below(last - covered);
                step.hard_state = Some(state(term, commit));
                step.marker = Some(marker(covered, 0));
                step.release = Some(covered);
            }
            2 => {
                last += 5;
                (commit, covered) = (last, last);
                term += 1;
                step.hard_state = Some(state(term, commit));
                step.marker = Some(Marker {
                    restart: true,
                    ..marker(last, term)
                });
            }
            3 | 4 => {
                commit = last;
                step.hard_state = Some(state(term, commit));
                step.sync = false;
            }
            _ => {
                for _ in 0..1 + rng.below(2) {
                    last += 1;
                    step.entries.push(entry(last, term, &payload(&mut rng)));
                }
                if rng.below(3) == 0 {
                    commit = last;
                    step.hard_state = Some(state(term, commit));
                }
            }
        }
        script.push(step);
    }
    fix_marker_terms(&mut script);
    script
}

/// A checkpoint carries the term of its entry, which the generator does not track.
fn fix_marker_terms(script: &mut [Step]) {
    let mut model = Model::default();
    for step in script {
        if let Some(marker) = &mut step.marker
            && !marker.restart
        {
            let entry = model
                .entries
                .iter()
                .find(|entry| entry.index() == marker.index);
            marker.term = entry
                .map(Entry::term)
                .expect("the generator checkpoints what is in the log");
        }
        if let Some(next) = model.after(step).pop() {
            model = next;
        }
    }
}

fn payload(rng: &mut Rng) -> Vec<u8> {
    let len = match rng.below(4) {
        0 => rng.below(40),
        1 | 2 => 100 + rng.below(500),
        _ => 600 + rng.below(1200),
    };
    (0..len).map(|_| (1 + rng.below(255)) as u8).collect()
}

/// The states of one run, and which of them a crash may leave after which disk operation.
struct History {
    states: Vec<Model>,
    /// After so many disk operations, at least this state was promised.
    promised: Vec<(usize, usize)>,
    /// Before so many disk operations, nothing beyond this state was begun.
    begun: Vec<(usize, usize)>,
    /// The state before each step.
    before: Vec<usize>,
}

impl History {
    fn new(start: Model) -> History {
        History {
            states: vec![start],
            promised: vec![(0, 0)],
            begun: vec![(0, 0)],
            before: Vec::new(),
        }
    }

    /// Runs one step and notes what it promises.
    fn run(&mut self, disk: &MemDisk, wal: &mut Wal, step: &Step) {
        let before = self.states.len() - 1;
        let states = self.states[before].after(step);
        self.before.push(before);
        self.begun.push((disk.recorded(), before + states.len()));
        self.states.extend(states);
        wal.append(&step.batch()).unwrap();
        if step.sync {
            self.promised.push((disk.recorded(), self.states.len() - 1));
        }
        if let Some(index) = step.release
            && wal.release(index).unwrap() > 0
        {
            self.promised.push((disk.recorded(), self.states.len() - 1));
        }
        if step.spare
            && let Some(job) = wal.spare_job()
        {
            wal.install_spare(job.run()).unwrap();
        }
    }

    /// The states that a crash right after `operations` disk operations may leave.
    fn allowed(&self, operations: usize) -> std::ops::RangeInclusive<usize> {
        let least = self
            .promised
            .iter()
            .filter(|(at, _)| *at <= operations)
            .map(|(_, state)| *state)
            .max()
            .unwrap();
        let most = self
            .begun
            .iter()
            .filter(|(at, _)| *at < operations)
            .map(|(_, state)| *state)
            .max()
            .unwrap_or(0);
        least..=most.max(least)
    }
}

#[derive(Default)]
struct Outcome {
    states: u64,
    violations: Vec<String>,
}

impl Outcome {
    fn violation(&mut self, text: String) {
        if self.violations.len() < 20 {
            self.violations.push(text);
        }
    }
}

/// Opens a crashed disk and finds which of the allowed states it holds.
fn recover(
    disk: &MemDisk,
    options: &Options,
    history: &History,
    operations: usize,
    outcome: &mut Outcome,
) -> Option<(Wal, Model, usize)> {
    outcome.states += 1;
    let allowed = history.allowed(operations);
    let (wal, recovered) = match Wal::open(Arc::new(disk.clone()), dir(), options.clone()) {
        Ok(opened) => opened,
        Err(fault) => {
            outcome.violation(format!("after operation {operations}: {fault}"));
            return None;
        }
    };
    // Two states may look the same after recovery; the latest is the one that goes on.
    match allowed
        .clone()
        .rev()
        .find(|&at| history.states[at].is(&recovered))
    {
        Some(at) => {
            let model = Model {
                hard_state: recovered.hard_state,
                ..history.states[at].clone()
            };
            Some((wal, model, at))
        }
        None => {
            let show = |h: &HardState, entries: &[Entry], m: &Option<Marker>| {
                let entries: Vec<_> = entries.iter().map(|e| (e.index(), e.term())).collect();
                format!(
                    "term {} commit {} marker {:?} {entries:?}",
                    h.term(),
                    h.commit(),
                    m.as_ref().map(|m| (m.index, m.term))
                )
            };
            let found = show(&recovered.hard_state, &recovered.entries, &recovered.marker);
            let wanted = allowed
                .map(|at| (at, &history.states[at]))
                .map(|(at, m)| (at, show(&m.hard_state, &m.entries, &m.marker)));
            outcome.violation(format!(
                "after operation {operations}: found {found}, none of {:#?}",
                wanted.collect::<Vec<_>>()
            ));
            None
        }
    }
}

/// Runs a script and tries every crash after every operation; from every `again`-th crashed disk goes on with one more
/// step and tries the crashes of that (including those in the middle of the recovery).
fn enumerate(seed: u64, steps: usize, options: &Options, states_max: u64, again: u64) -> Outcome {
    let script = script(seed, steps);
    let disk = MemDisk::new();
    let mut wal = Wal::create(Arc::new(disk.clone()), dir(), options.clone(), ID).unwrap();
    disk.record();
    let mut history = History::new(Model::default());
    for step in &script {
        history.run(&disk, &mut wal, step);
    }
    let mut outcome = Outcome::default();
    let mut turn = 0;
    for (at, (_, after)) in disk.recording().into_iter().enumerate() {
        crash_states(
            &after,
            &Limits {
                states_max,
                seed: seed ^ at as u64,
            },
            |crashed| {
                turn += 1;
                let before = (turn % again == 0).then(|| crashed.fork());
                let Some((_, _, state)) =
                    recover(&crashed, options, &history, at + 1, &mut outcome)
                else {
                    return;
                };
                if let Some(before) = before {
                    let next = next_step(&script, &history, state, turn / again);
                    crash_again(&before, options, &history, at + 1, &next, &mut outcome);
                }
            },
        );
    }
    outcome
}

/// What a recovered member writes next: the very batch that it had been writing (a leader sends it again), or another.
fn next_step(script: &[Step], history: &History, state: usize, turn: u64) -> Step {
    let same = history.before.iter().position(|&before| before == state);
    match same.and_then(|step| script.get(step)) {
        Some(same) if turn.is_multiple_of(2) => Step {
            sync: true,
            release: None,
            spare: false,
            ..same.clone()
        },
        _ => {
            let last = history.states[state].last_index;
            Step {
                entries: vec![entry(last + 1, 99, &[0xee; 700])],
                sync: true,
                ..Step::default()
            }
        }
    }
}

fn crash_again(
    disk: &MemDisk,
    options: &Options,
    history: &History,
    operations: usize,
    step: &Step,
    outcome: &mut Outcome,
) {
    disk.record();
    let Some((mut wal, model, _)) = recover(disk, options, history, operations, outcome) else {
        return;
    };
    let opened = disk.recorded();
    let mut second = History::new(model);
    second.run(disk, &mut wal, step);
    for (at, (_, after)) in disk.recording().into_iter().enumerate() {
        crash_states(
            &after,
            &Limits {
                states_max: 12,
                seed: at as u64,
            },
            |crashed| {
                if at + 1 < opened {
                    recover(&crashed, options, history, operations, outcome);
                } else {
                    recover(&crashed, options, &second, at + 1, outcome);
                }
            },
        );
    }
}

fn tiny(defect: Option<Defect>) -> Options {
    Options {
        defect,
        ..Options::with_segment_bytes(4096, 4096)
    }
}

#[test]
fn no_crash_loses_a_promise_or_invents_an_entry() {
    let mut states = 0;
    for seed in 0..16 {
        let outcome = enumerate(seed, 40, &tiny(None), 1 << 8, 16);
        assert!(
            outcome.violations.is_empty(),
            "seed {seed}: {:#?}",
            outcome.violations
        );
        states += outcome.states;
    }
    println!("{states} crash states");
    assert!(states > 20_000, "{states}");
}

/// The same with every subset wherever there are at most 2^12, over a short history.
#[test]
fn no_crash_at_all_of_a_short_history_loses_a_promise() {
    for seed in 200..220 {
        let outcome = enumerate(seed, 12, &tiny(None), 1 << 12, 64);
        assert!(
            outcome.violations.is_empty(),
            "seed {seed}: {:#?}",
            outcome.violations
        );
    }
}

#[test]
fn no_crash_of_a_log_with_several_sizes_of_segments_loses_a_promise() {
    for seed in 100..108 {
        let options = Options::with_segment_bytes(3 * 4096, 4096);
        let outcome = enumerate(seed, 60, &options, 1 << 6, 16);
        assert!(
            outcome.violations.is_empty(),
            "seed {seed}: {:#?}",
            outcome.violations
        );
    }
}

#[test]
fn no_crash_while_a_log_is_created_leaves_anything_but_none_or_an_empty_one() {
    let disk = MemDisk::new();
    disk.record();
    drop(create(&disk));
    let operations = disk.recording();
    let last = operations.len() - 1;
    for (at, (_, after)) in operations.into_iter().enumerate() {
        crash_states(&after, &Limits::default(), |crashed| {
            match Wal::exists(&crashed, dir()).unwrap() {
                true => assert_eq!(open(&crashed).unwrap().1.last_index, 0),
                false => {
                    assert!(at < last, "create had returned");
                    drop(create(&crashed));
                    power_cut(&crashed);
                    assert_eq!(open(&crashed).unwrap().1.last_index, 0);
                }
            }
        });
    }
}

/// Whether the enumeration notices the defect within a few seeds.
fn is_noticed(defect: Defect) {
    let found = (0..60).find_map(|seed| {
        let outcome = enumerate(seed, 40, &tiny(Some(defect)), 1 << 6, 3);
        outcome
            .violations
            .into_iter()
            .next()
            .map(|violation| (seed, violation))
    });
    match found {
        Some((seed, violation)) => println!("{defect:?}: seed {seed}: {violation}"),
        None => panic!("{defect:?} was not noticed"),
    }
}

#[test]
fn an_answer_before_the_sync_is_noticed() {
    is_noticed(Defect::AckBeforeSync);
}

#[test]
fn a_torn_tail_left_in_the_file_is_noticed() {
    is_noticed(Defect::NoTailWipe);
}

#[test]
fn records_without_chain_and_salt_are_noticed() {
    is_noticed(Defect::NoSalt);
}

#[test]
fn a_new_segment_without_a_directory_sync_is_noticed() {
    is_noticed(Defect::NoDirSync);
}

#[test]
fn a_roll_that_leaves_the_old_segment_unsynced_is_noticed() {
    is_noticed(Defect::NoSyncAtRoll);
}

#[test]
fn a_release_before_its_marker_is_durable_is_noticed() {
    is_noticed(Defect::ReleaseBeforeSync);
}
