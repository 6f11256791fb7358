//! Users, roles and permissions under a seed: random entries by random callers, on two states and a model.
//!
//! One state lives through; the other is stopped and started from its checkpoint, or replaced by a snapshot of itself, now and then. Both
//! must give the same answers and facts and have the same rows. The model knows which keys there are and who may do what, in the
//! plainest way there is: every place between two keys is looked at on its own.
//!
//! A whole world is not needed for it: what an entry does depends on the entries before it and on nothing else. Start with [`run`].

mod entries;
mod model;

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::InternalRaftRequest;
use proto::raftpb::{Entry, EntryType};
use state::{Applied, Importer, Params, State};
use storage::catalog::Catalog;
use storage::disk::MemDisk;
use storage::segments::SegmentsOptions;

use crate::dice::Dice;

/// Runs one seed and says what is wrong, if anything is.
///
/// # Errors
/// What was expected and what came, with the number of the entry.
pub fn run(seed: u64) -> Result<(), String> {
    let mut dice = Dice::new(seed, CONCERN);
    let mut model = model::Model::default();
    let (mut steady, mut restarted) = (Member::new(), Member::new());
    for index in 1..=ENTRIES {
        let request = entries::draw(&mut dice, &model);
        let wanted = model.apply(&request);
        let entry = entry(index, &request);
        let (answer, again) = (steady.apply(&entry), restarted.apply(&entry));
        let told = |what: String| format!("auth: seed {seed}, entry {index}: {what}\n{request:?}");
        if format!("{answer:?}") != format!("{again:?}") {
            return Err(told(format!("members differ: {answer:?} and {again:?}")));
        }
        let is_done = answer.outcome.is_ok();
        if is_done != wanted {
            let (model, answer) = (if wanted { "permitted" } else { "refused" }, answer.outcome);
            return Err(told(format!("to be {model}, but answered {answer:?}")));
        }
        if steady.keys() != model.keys() || restarted.rows() != steady.rows() {
            return Err(told("other keys or rows than they should be".to_owned()));
        }
        match dice.below(16) {
            0 => restarted.restart(),
            1 => restarted.replace(),
            _ => {}
        }
    }
    Ok(())
}

/// Entries per seed.
const ENTRIES: u64 = 250;
/// The number of this concern's dice.
const CONCERN: u64 = 0xa0;

fn entry(index: u64, request: &InternalRaftRequest) -> Entry {
    Entry {
        r#type: Some(EntryType::EntryNormal as i32),
        term: Some(1),
        index: Some(index),
        data: Some(request.encode_to_vec().into()),
    }
}

/// A state on its disk.
struct Member {
    state: State,
    disk: Arc<MemDisk>,
    catalog: Catalog,
}

impl Member {
    fn new() -> Member {
        let disk = Arc::new(MemDisk::new());
        let (catalog, _) = Catalog::open(disk.clone(), "data").expect("an empty disk");
        let options = SegmentsOptions::default();
        let state = State::create(Params::default(), disk.clone(), "data", options);
        Member {
            state: state.expect("an empty disk"),
            disk,
            catalog,
        }
    }

    fn apply(&mut self, entry: &Entry) -> Applied {
        self.state.apply(entry).expect("no fault")
    }

    /// Stops and starts.
    fn restart(&mut self) {
        let done = self.state.checkpoint().run(&mut self.catalog);
        self.state.checkpointed(done.expect("the disk is sound"));
        let (catalog, recovered) = Catalog::open(self.disk.clone(), "data").expect("it is sound");
        self.catalog = catalog;
        self.state = State::open(
            Params::default(),
            recovered.expect("there was a checkpoint"),
            self.disk.clone(),
            "data",
            SegmentsOptions::default(),
        )
        .expect("the data is sound");
    }

    /// Goes on from a snapshot, on an empty disk.
    fn replace(&mut self) {
        let rows = self.rows();
        let mut member = Member::new();
        let disk = Arc::new(MemDisk::new());
        let (mut catalog, _) = Catalog::open(disk.clone(), "data").expect("an empty disk");
        let options = SegmentsOptions::default();
        let importer = Importer::new(Params::default(), disk.clone(), "data", options);
        let mut importer = importer.expect("an empty disk");
        for (bucket, key, value) in rows {
            importer.row(bucket, &key, value).expect("a sound row");
        }
        let (state, job) = importer.finish().expect("sound rows");
        member.state = state;
        let done = job.run(&mut catalog).expect("the disk is sound");
        member.state.checkpointed(done);
        (member.disk, member.catalog) = (disk, catalog);
        *self = member;
    }

    fn rows(&self) -> Vec<(&'static str, Vec<u8>, Bytes)> {
        let mut rows = Vec::new();
        let visit = |bucket: &'static str, key: &[u8], value: &[u8]| {
            rows.push((bucket, key.to_vec(), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        };
        self.state.view().rows(visit).expect("sound data");
        rows
    }

    /// Which of the model's keys there are.
    fn keys(&self) -> Vec<u8> {
        let view = self.state.view();
        let exists = |key: &u8| view.count(&[*key], &[], 0).is_ok_and(|count| count == 1);
        model::KEYS.into_iter().filter(exists).collect()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn members_and_the_model_agree_about_users_and_permissions() {
        for seed in 1..=40 {
            super::run(seed).expect("no difference");
        }
    }
}
