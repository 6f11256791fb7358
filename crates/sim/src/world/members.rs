//! Who belongs to the cluster: operators that add learners, promote them when they are ready, and remove members.
//!
//! A new member is a new machine, with an empty disk and an id that never was. One that is removed never starts again; if it was away
//! when that happened, the others tell it when it comes back, as etcd's do with "410 Gone".

use proto::raftpb::{ConfChange, ConfChangeType};
use replica::members::{self, HEALTHY_US};
use replica::past::{Past, judge};
use replica::{Input, MemberId, Reply, Request as Ask, Ticket};
use state::Response;
use state::membership::{ChangeContext, Member, Membership};
use storage::disk::MemDisk;

use super::machine::{Life, Machine};
use super::{Event, Mend, Moment, World};

/// Machines that may be bought in one world.
const MACHINES_MAX: usize = 14;
/// By then a member that has started has told its name, and the others have it in a checkpoint.
const STARTED_US: u64 = 20_000_000;
/// A cluster is not made smaller than this.
const VOTERS_MIN: usize = 3;

impl World {
    pub(super) fn schedule_change(&mut self) {
        let mean = self.plan.change_us;
        if mean > 0 && self.plan.members >= VOTERS_MIN {
            let wait = self.dice.members.between(mean / 4, mean * 2);
            self.schedule(wait, Event::Change);
        }
    }

    /// An operator asks the leader for a change.
    pub(super) fn change_members(&mut self) {
        if !self.is_safety_phase {
            return;
        }
        self.schedule_change();
        let now_us = self.now_us;
        let leader = self.machines.iter().position(|machine| {
            let leads = |life: &Life| life.status.is_leader;
            machine.paused_until_us <= now_us && machine.life.as_ref().is_some_and(leads)
        });
        let Some(leader) = leader else { return };
        let known = self.life(leader).view.members().clone();
        let Some(mut change) = self.draw_change(&known) else {
            return;
        };
        let reached = |id: u64| {
            let other = id as usize - 1;
            let is_up =
                |machine: &Machine| machine.life.is_some() && machine.paused_until_us <= now_us;
            let is_open = self.links.is_open(leader, other) && self.links.is_open(other, leader);
            (is_open && is_up(&self.machines[other])).then_some(HEALTHY_US)
        };
        let me = MemberId(leader as u64 + 1);
        if members::may_change(&known, &change, me, reached).is_err() {
            return self.note(leader, "change refused", change.node_id(), 0);
        }
        let life = self.life(leader);
        change.id = Some(life.ids.next());
        life.ticket_last += 1;
        let ticket = Ticket(life.ticket_last);
        life.asides.insert(ticket);
        let committed = life.status.committed;
        let is_promotion = change.r#type() == ConfChangeType::ConfChangeAddNode;
        if is_promotion {
            let key = (leader, self.machines[leader].lives, ticket);
            self.promotions.insert(key, (change.node_id(), committed));
        }
        let (id, kind) = (change.node_id(), change.r#type.unwrap_or_default() as u64);
        self.changes_asked.retain(|id, is_removal| {
            let is_learner = |member: &Member| member.is_learner;
            !known.removed.contains(id) && (*is_removal || known.get(*id).is_some_and(is_learner))
        });
        match change.r#type() {
            ConfChangeType::ConfChangeRemoveNode => drop(self.changes_asked.insert(id, true)),
            ConfChangeType::ConfChangeAddNode => drop(self.changes_asked.insert(id, false)),
            _ => {}
        }
        self.note(leader, "change", id, kind);
        self.input(leader, Input::Client(ticket, Ask::ChangeMembers { change }));
    }

    /// Whether the cluster goes on without this member: of the voters, those are enough that are sound, this one and whoever may be
    /// about to change aside. A member that is alone may be lost: what its clients saw until then must be right.
    pub(super) fn can_do_without(&self, member: usize) -> bool {
        self.newest_members().is_some_and(|known| {
            known.members.len() == 1 || self.goes_on(&known, member as u64 + 1)
        })
    }

    /// Whether a member has started in a way that every other voter knows and will not forget, not even in a restart. What a member did
    /// before that, it could not be told: see decision 0010.
    pub(super) fn is_known_as_started(&self, member: usize) -> bool {
        let machine = &self.machines[member];
        let is_old = machine
            .began_us
            .is_some_and(|began| self.now_us >= began + STARTED_US);
        let Some(known) = self.newest_members() else {
            return false;
        };
        let knows = |other: &Member| {
            let life = self.machines[other.id as usize - 1].life.as_ref();
            let listed = |life: &Life| {
                life.view
                    .members()
                    .get(machine.id)
                    .is_some_and(Member::is_started)
            };
            other.id == machine.id || other.is_learner || life.is_some_and(listed)
        };
        is_old && known.members.len() > 1 && known.members.values().all(knows)
    }

    /// What the edge asks before it starts a member with an empty directory, if it does.
    pub(super) fn past_at_start(&mut self, member: usize) -> Past {
        match self.dice.members.chance(500) {
            true => self.past_of(member),
            false => Past::Unknown,
        }
    }

    /// A member wants to know what the others say of it.
    pub(super) fn ask_past(&mut self, member: usize) {
        let wait = self.dice.members.delay(1_000, 100_000);
        self.after(member, wait, Moment::Past);
    }

    pub(super) fn past_answered(&mut self, member: usize) {
        let past = self.past_of(member);
        self.note(member, "past", past as u64, 0);
        self.input(member, Input::Past(past));
    }

    /// As whom the members that this one reaches list it.
    fn past_of(&self, member: usize) -> Past {
        let is_reached = |other: usize| {
            other != member
                && self.links.is_open(member, other)
                && self.links.is_open(other, member)
                && self.machines[other].paused_until_us <= self.now_us
        };
        let mut answers = Vec::new();
        for (other, machine) in self.machines.iter().enumerate() {
            if let Some(life) = machine.life.as_ref().filter(|_| is_reached(other)) {
                let list = life.view.members().members.values().cloned().collect();
                answers.push((MemberId(machine.id), list));
            }
        }
        judge(MemberId(self.machines[member].id), &answers)
    }

    fn goes_on(&self, known: &Membership, without: u64) -> bool {
        let counts = |member: &&Member| {
            !member.is_learner
                || self.changes_asked.contains_key(&member.id)
                || member.id == without
        };
        let voters = known
            .members
            .values()
            .filter(counts)
            .map(|member| member.id);
        // One that has not started cannot help: the others may be too few to tell whether it is new.
        let is_sound = |id: u64| {
            id != without
                && known.get(id).is_some_and(Member::is_started)
                && !self.changes_asked.contains_key(&id)
                && !self.machines[id as usize - 1].is_impaired()
        };
        let (all, sound) = voters.fold((0, 0), |(all, sound), id| {
            (all + 1, sound + usize::from(is_sound(id)))
        });
        sound > all / 2
    }

    fn draw_change(&mut self, known: &Membership) -> Option<ConfChange> {
        let ids = |is_learner: bool| -> Vec<u64> {
            let those = known
                .members
                .values()
                .filter(|m| m.is_learner == is_learner);
            those.map(|member| member.id).collect()
        };
        let (voters, learners) = (ids(false), ids(true));
        let lost = |id: &u64| self.machines[*id as usize - 1].is_lost;
        let lost = voters.iter().chain(&learners).copied().find(lost);
        let goes_on = |id: &u64| self.goes_on(known, *id);
        let dispensable: Vec<u64> = voters.iter().copied().filter(goes_on).collect();
        let learners: Vec<u64> = learners.into_iter().filter(goes_on).collect();
        let dice = &mut self.dice.members;
        let draw = dice.below(10);
        let (kind, id, is_promote) = match draw {
            // A member that will not come back makes room for another.
            _ if let Some(lost) = lost => (ConfChangeType::ConfChangeRemoveNode, lost, false),
            0..6 if !learners.is_empty() => (ConfChangeType::ConfChangeAddNode, learners[0], true),
            6 if !learners.is_empty() => (ConfChangeType::ConfChangeRemoveNode, learners[0], false),
            0..5 if voters.len() <= self.plan.members && self.machines.len() < MACHINES_MAX => (
                ConfChangeType::ConfChangeAddLearnerNode,
                self.buy_machine(),
                false,
            ),
            7 => {
                let all: Vec<u64> = known.members.keys().copied().collect();
                (
                    ConfChangeType::ConfChangeUpdateNode,
                    *dice.pick(&all),
                    false,
                )
            }
            _ if voters.len() > VOTERS_MIN && !dispensable.is_empty() => (
                ConfChangeType::ConfChangeRemoveNode,
                *dice.pick(&dispensable),
                false,
            ),
            _ => return None,
        };
        let round = self.now_us / 1_000;
        let peer_urls = match kind {
            ConfChangeType::ConfChangeUpdateNode => format!("http://10.0.{round}.{id}:2380"),
            _ => format!("http://10.0.0.{id}:2380"),
        };
        let member = Member {
            id,
            peer_urls: (!is_promote).then(|| vec![peer_urls]),
            is_learner: kind == ConfChangeType::ConfChangeAddLearnerNode,
            ..Member::default()
        };
        Some(ConfChange {
            r#type: Some(kind as i32),
            node_id: Some(id),
            context: Some(ChangeContext { member, is_promote }.to_json().into()),
            ..Default::default()
        })
    }

    /// A machine that belongs to nobody yet; one that was bought before and never used, if there is.
    fn buy_machine(&mut self) -> u64 {
        if let Some(spare) = self.machines.iter().find(|m| m.is_spare) {
            return spare.id;
        }
        let id = self.machines.len() as u64 + 1;
        self.machines.push(Machine {
            is_spare: true,
            ..Machine::new(id, MemDisk::new())
        });
        self.links.grow();
        id
    }

    /// The answer to something that no client asked.
    pub(super) fn aside_answered(
        &mut self,
        member: usize,
        ticket: Ticket,
        answer: Result<Reply, &'static proto::error::RpcError>,
    ) {
        let ticket = (member, self.machines[member].lives, ticket);
        self.note(member, "answered aside", u64::from(answer.is_ok()), 0);
        match answer {
            Ok(Reply::LeaderMoved) => self.links.count("transfer"),
            Ok(Reply::Applied(applied)) => {
                let promoted = self.promotions.remove(&ticket);
                if let Ok(Response::Members(_)) = applied.outcome {
                    self.history
                        .member_changes
                        .push((self.now_us, applied.index));
                    if let Some((learner, asked)) = promoted {
                        self.check_promoted(learner, asked);
                    }
                    self.links.count("change of members");
                    self.start_members();
                }
            }
            _ => {}
        }
    }

    /// A learner that was promoted has most of what the leader had committed when it was asked.
    fn check_promoted(&mut self, learner: u64, asked: u64) {
        let machine = &self.machines[learner as usize - 1];
        let Some(life) = machine.life.as_ref().filter(|_| !machine.is_impaired()) else {
            return;
        };
        // One that has just started says nothing of its log before its first step.
        let committed = life.status.committed.max(life.view.applied().0);
        if committed < asked / 2 {
            self.fail(format!(
                "member {learner} was promoted when it had {committed} of {asked} entries"
            ));
        }
    }

    /// Starts the machines that have become members.
    pub(super) fn start_members(&mut self) {
        let Some(known) = self.newest_members() else {
            return;
        };
        for member in 0..self.machines.len() {
            let machine = &mut self.machines[member];
            if machine.is_spare && known.members.contains_key(&machine.id) {
                machine.is_spare = false;
                let wait = self.dice.members.delay(1_000, 1_000_000);
                self.schedule(wait, Event::Mend(Mend::Restart(member)));
            }
        }
    }

    /// The members as the one knows them that has applied most.
    pub(super) fn newest_members(&self) -> Option<Membership> {
        let lives = self.machines.iter().filter_map(|m| m.life.as_ref());
        let newest = lives.max_by_key(|life| life.view.applied().0)?;
        Some(newest.view.members().clone())
    }

    /// The member is none any more.
    pub(super) fn removed(&mut self, member: usize) {
        self.note(member, "removed", 0, 0);
        self.end_life(member);
        self.machines[member].is_removed = true;
    }

    /// Whether the others know that it was removed.
    pub(super) fn was_removed(&self, member: usize) -> bool {
        let id = self.machines[member].id;
        self.newest_members()
            .is_some_and(|known| known.removed.contains(&id))
    }

    /// Whether a member that this one reaches knows that it was removed, and tells it: etcd's members ask each other for streams all
    /// the time.
    pub(super) fn is_told_of_its_removal(&self, member: usize) -> bool {
        if self.plan.change_us == 0 {
            return false;
        }
        let id = self.machines[member].id;
        self.machines.iter().enumerate().any(|(other, machine)| {
            let knows = |life: &Life| life.view.members().removed.contains(&id);
            machine.life.as_ref().is_some_and(knows)
                && other != member
                && self.links.is_open(member, other)
                && self.links.is_open(other, member)
        })
    }
}
