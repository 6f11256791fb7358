//! Feature gates: which of etcd 3.7's optional features are on.
//!
//! Source: upstream `server/features/etcd_features.go`, `pkg/featuregate`.

use super::value::{quote, read_bool};

/// How settled a feature is; the groups `AllAlpha` and `AllBeta` switch by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Off unless asked for.
    Alpha,
    /// On unless switched off.
    Beta,
}

/// A feature of etcd 3.7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Its name in `--feature-gates`.
    pub name: &'static str,
    /// Its stage, which also says its default.
    pub stage: Stage,
    /// What it has Quorate do, or why it cannot.
    pub effect: Effect,
}

/// What switching a [`Gate`] away from its default does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing yet; the text says what is missing.
    NotYet(&'static str),
    /// Nothing, ever; the text says why.
    None(&'static str),
}

/// Every gate.
#[rustfmt::skip]
pub const GATES: &[Gate] = &[
    Gate { name: "StopGRPCServiceOnDefrag", stage: Stage::Alpha, effect: Effect::None("defragmentation does not stop service") },
    Gate { name: "InitialCorruptCheck", stage: Stage::Alpha, effect: Effect::NotYet("members do not compare hashes yet") },
    Gate { name: "CompactHashCheck", stage: Stage::Alpha, effect: Effect::NotYet("members do not compare hashes yet") },
    Gate { name: "TxnModeWriteWithSharedBuffer", stage: Stage::Beta, effect: Effect::None("there is no read buffer to share") },
    Gate { name: "LeaseCheckpoint", stage: Stage::Alpha, effect: Effect::NotYet("remaining TTLs are not replicated yet") },
    Gate { name: "LeaseCheckpointPersist", stage: Stage::Alpha, effect: Effect::NotYet("remaining TTLs are not replicated yet") },
    Gate { name: "SetMemberLocalAddr", stage: Stage::Alpha, effect: Effect::NotYet("the address that peers see is the system's choice") },
    Gate { name: "FastLeaseKeepAlive", stage: Stage::Beta, effect: Effect::NotYet("a keepalive cannot be made to wait") },
    Gate { name: "PriorityRequest", stage: Stage::Alpha, effect: Effect::NotYet("requests are admitted in their order") },
];

/// The state of all gates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureGates {
    /// What was said about each of [`GATES`], by position.
    chosen: [Option<bool>; GATES.len()],
    all_alpha: Option<bool>,
    all_beta: Option<bool>,
}

impl FeatureGates {
    /// Applies `Name=bool,…` on top of what was set before, with upstream's error texts. A gate named itself wins over the
    /// groups `AllAlpha` and `AllBeta`, in any order.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim(), value.trim()),
                None => return Err(format!("missing bool value for {}", part.trim())),
            };
            let Some(on) = read_bool(value) else {
                let why = format!(
                    "strconv.ParseBool: parsing {}: invalid syntax",
                    quote(value)
                );
                return Err(format!("invalid value of {name}={value}, err: {why}"));
            };
            match (name, GATES.iter().position(|gate| gate.name == name)) {
                ("AllAlpha", _) => self.all_alpha = Some(on),
                ("AllBeta", _) => self.all_beta = Some(on),
                (_, Some(index)) => self.chosen[index] = Some(on),
                (_, None) => return Err(format!("unrecognized feature gate: {name}")),
            }
        }
        Ok(())
    }

    /// Whether a gate is on. An unknown name is off.
    pub fn on(&self, name: &str) -> bool {
        GATES
            .iter()
            .position(|gate| gate.name == name)
            .is_some_and(|index| self.state(index))
    }

    /// Lines about gates that are switched away from their default without effect.
    pub fn without_effect(&self) -> impl Iterator<Item = String> + '_ {
        GATES
            .iter()
            .enumerate()
            .filter(|(index, gate)| self.state(*index) != (gate.stage == Stage::Beta))
            .map(|(index, gate)| {
                let (Effect::NotYet(why) | Effect::None(why)) = gate.effect;
                format!(
                    "--feature-gates={}={} has no effect: {why}",
                    gate.name,
                    self.state(index)
                )
            })
    }

    fn state(&self, index: usize) -> bool {
        let gate = GATES[index];
        let group = match gate.stage {
            Stage::Alpha => self.all_alpha,
            Stage::Beta => self.all_beta,
        };
        self.chosen[index]
            .or(group)
            .unwrap_or(gate.stage == Stage::Beta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> Result<FeatureGates, String> {
        let mut gates = FeatureGates::default();
        gates.set(text).map(|()| gates)
    }

    #[test]
    fn a_named_gate_wins_over_its_group_in_any_order() {
        for text in [
            "AllAlpha=true,LeaseCheckpoint=false",
            "LeaseCheckpoint=false,AllAlpha=true",
        ] {
            let gates = set(text).expect("valid");
            assert!(
                !gates.on("LeaseCheckpoint") && gates.on("PriorityRequest"),
                "{text}"
            );
        }
        assert!(
            !set("AllBeta=false")
                .expect("valid")
                .on("FastLeaseKeepAlive")
        );
        assert!(FeatureGates::default().on("FastLeaseKeepAlive"));
    }

    #[test]
    fn errors_are_those_of_etcd() {
        assert_eq!(set("X=true"), Err("unrecognized feature gate: X".into()));
        assert_eq!(
            set("LeaseCheckpoint"),
            Err("missing bool value for LeaseCheckpoint".into())
        );
        assert_eq!(
            set("LeaseCheckpoint=maybe"),
            Err("invalid value of LeaseCheckpoint=maybe, err: strconv.ParseBool: parsing \"maybe\": invalid syntax".into())
        );
    }
}
