//! Alarms: which member has run out of space or found its data corrupt, until somebody clears it.
//!
//! An alarm changes what every member answers, so it is raised and cleared through the log. What it forbids stands in
//! [`Table::refuses`]. Source of the rules: upstream `server/etcdserver/api/v3alarm/alarms.go`, `apply/capped.go`, `apply/corrupt.go`.

use std::collections::BTreeSet;

use prost::Message;
use proto::error;
use proto::etcdserverpb::{AlarmMember, AlarmType};

use crate::outcome::Rejected;

/// The alarms that are on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Kind and member, in this order. The kind may be a number this version has no name for.
    on: BTreeSet<(i32, u64)>,
}

/// What a request would do, as far as alarms care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Reads through the log, deletes, compacts or revokes.
    Touches,
    /// Adds data: refused without space.
    Grows,
}

impl Table {
    /// Alarms of one kind, or all for `None` as the kind.
    #[must_use]
    pub fn get(&self, kind: i32) -> Vec<AlarmMember> {
        let wanted = self
            .on
            .iter()
            .filter(|(on, _)| kind == AlarmType::None as i32 || kind == *on);
        wanted
            .map(|&(alarm, member_id)| AlarmMember { member_id, alarm })
            .collect()
    }

    /// Whether any member has this alarm.
    #[must_use]
    pub fn is_on(&self, kind: AlarmType) -> bool {
        self.on.iter().any(|(on, _)| *on == kind as i32)
    }

    /// Turns an alarm on; false if it was.
    pub(crate) fn raise(&mut self, member: u64, kind: i32) -> bool {
        self.on.insert((kind, member))
    }

    /// Turns an alarm off; false if it was.
    pub(crate) fn clear(&mut self, member: u64, kind: i32) -> bool {
        self.on.remove(&(kind, member))
    }

    /// The answer to a request that an alarm forbids.
    pub(crate) fn refuses(&self, effect: Effect) -> Result<(), Rejected> {
        if self.is_on(AlarmType::Corrupt) {
            return Err(Rejected(&error::CORRUPT));
        }
        if effect == Effect::Grows && self.is_on(AlarmType::Nospace) {
            return Err(Rejected(&error::NO_SPACE));
        }
        Ok(())
    }
}

/// The key of an alarm's table row; the value is empty.
pub(crate) fn row_key(member_id: u64, alarm: i32) -> Vec<u8> {
    AlarmMember { member_id, alarm }.encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corruption_forbids_more_than_lack_of_space() {
        let mut table = Table::default();
        let texts = |table: &Table| {
            [Effect::Touches, Effect::Grows]
                .map(|effect| table.refuses(effect).err().map(|no| no.0.text))
        };
        assert_eq!(texts(&table), [None, None]);
        assert!(
            table.raise(1, AlarmType::Nospace as i32) && !table.raise(1, AlarmType::Nospace as i32)
        );
        assert_eq!(texts(&table), [None, Some(error::NO_SPACE.text)]);
        table.raise(0, AlarmType::Corrupt as i32);
        assert_eq!(texts(&table), [Some(error::CORRUPT.text); 2]);
        assert_eq!(table.get(0).len(), 2);
        assert!(
            table.clear(0, AlarmType::Corrupt as i32) && !table.clear(0, AlarmType::Corrupt as i32)
        );
        assert_eq!(texts(&table), [None, Some(error::NO_SPACE.text)]);
    }
}
