//! A member that may have forgotten what it promised asks before it takes part. The rule: [`crate::past`].

use proto::raftpb;
use storage::planted;

use super::{ASK_AGAIN_US, Replica};
use crate::past::{self, Past};
use crate::{Effect, Now};

impl Replica {
    /// Whether somebody speaks of a past that this member does not know of, and may have forgotten.
    pub(super) fn is_doubtful(&mut self, message: &raftpb::Message) -> bool {
        self.settle();
        if self.newcomer.is_none() || planted!(WipedMemberVotes) {
            return false;
        }
        let (term, vote) = self.core.vote();
        past::is_shown(message, term, vote)
    }

    /// An entry of a leader in the log ends all doubt, and answers that were on their way: they may tell of what this member has
    /// published since.
    pub(super) fn settle(&mut self) {
        if self.newcomer.is_some() && self.core.last_term() > past::FOUNDING_TERM {
            self.newcomer = None;
        }
    }

    pub(super) fn ask_past(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let newcomer = self.newcomer.as_mut().expect("only a newcomer doubts");
        let is_due = |asked: u64| now.monotonic_us >= asked + ASK_AGAIN_US;
        if newcomer.asked_us.is_none_or(is_due) {
            newcomer.asked_us = Some(now.monotonic_us);
            effects.push(Effect::AskPast);
        }
    }

    pub(super) fn past_is(&mut self, past: Past, effects: &mut Vec<Effect>) {
        self.settle();
        match past {
            Past::Nothing => self.newcomer = None,
            Past::Started if self.newcomer.is_some() => {
                let fault = past::lost(self.config.member);
                self.stop(fault, effects);
            }
            Past::Started | Past::Unknown => {}
        }
    }
}
