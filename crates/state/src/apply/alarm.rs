//! Asking for, raising and clearing alarms.

use proto::error;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::alarm_request::AlarmAction;
use storage::catalog::Table;

use super::{Answer, Yield};
use crate::State;
use crate::alarm::row_key;
use crate::outcome::{Fact, Response, reject};

/// An action that does not exist is refused; etcd answers with nothing, and its edge stops at that.
pub(super) fn apply(state: &mut State, request: &pb::AlarmRequest, yields: &mut Yield) -> Answer {
    let (member, kind) = (request.member_id, request.alarm);
    let none = kind == pb::AlarmType::None as i32;
    let changed = vec![pb::AlarmMember {
        member_id: member,
        alarm: kind,
    }];
    let alarms = match AlarmAction::try_from(request.action) {
        Ok(AlarmAction::Get) => state.small.alarms.get(kind),
        Ok(AlarmAction::Activate) if none => Vec::new(),
        Ok(AlarmAction::Activate) => {
            if state.small_mut().alarms.raise(member, kind) {
                state
                    .tables
                    .set(Table::Alarm, row_key(member, kind), Vec::new());
                yields.facts.push(Fact::AlarmRaised { member, kind });
            }
            changed
        }
        Ok(AlarmAction::Deactivate) => {
            if state.small_mut().alarms.clear(member, kind) {
                state.tables.remove(Table::Alarm, row_key(member, kind));
                yields.facts.push(Fact::AlarmCleared { member, kind });
                changed
            } else {
                Vec::new()
            }
        }
        Err(_) => return reject(&error::UNKNOWN_METHOD),
    };
    Ok(Response::Alarm(pb::AlarmResponse {
        header: None,
        alarms,
    }))
}
