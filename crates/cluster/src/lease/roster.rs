//! Which lists of witnesses are possible. Whoever admits a machine and whoever is told of all machines ask here, so that
//! what was admitted is never refused later.

use std::net::SocketAddr;
use units::{HostKey, NodeName};

/// The most machines of a cluster. Each is a witness: it is asked by each other one four times a second on each network, by
/// processes of real-time priority.
pub const MEMBERS_MAX: usize = 32;
/// The most storage segments that a machine has addresses on.
pub const SEGMENTS_MAX: usize = 8;
/// The most addresses of a machine: one on each storage segment, and its node's.
pub const ADDRESSES_MAX: usize = SEGMENTS_MAX + 1;

/// A machine with a vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voter {
    /// Its identity.
    pub key: HostKey,
    /// Its name.
    pub name: NodeName,
    /// Where its dead-man listens, on each network.
    pub portals: Vec<SocketAddr>,
}

/// Why a list of witnesses is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// Nobody, or too many.
    #[error("1 to {MEMBERS_MAX} machines, not {0}")]
    Count(usize),
    /// Two machines share their identity.
    #[error("'{0}' and '{1}' have the same key")]
    SameKey(NodeName, NodeName),
    /// Two machines share their name.
    #[error("two machines have the name '{0}'")]
    SameName(NodeName),
    /// Two machines, or one machine twice, listen at one place.
    #[error("'{0}' and '{1}' have the same address {2}")]
    SameAddress(NodeName, NodeName, SocketAddr),
    /// No address, or too many.
    #[error(
        "'{name}' has {count} addresses; a machine has 1 to {ADDRESSES_MAX}: one on each storage segment, and its node's"
    )]
    Addresses {
        /// Which machine.
        name: NodeName,
        /// How many it has.
        count: usize,
    },
}

impl RosterError {
    /// The later of the machines that it is about; none, if it is about all.
    #[must_use]
    pub fn machine(&self) -> Option<&NodeName> {
        match self {
            Self::Count(_) => None,
            Self::SameName(name) | Self::Addresses { name, .. } => Some(name),
            Self::SameKey(_, later) | Self::SameAddress(_, later, _) => Some(later),
        }
    }
}

/// Whether these machines can be each other's witnesses.
///
/// # Errors
/// [`RosterError`]: the first thing that is wrong.
pub fn check_roster(voters: &[Voter]) -> Result<(), RosterError> {
    if voters.is_empty() || voters.len() > MEMBERS_MAX {
        return Err(RosterError::Count(voters.len()));
    }
    for (index, voter) in voters.iter().enumerate() {
        let name = || voter.name.clone();
        if voter.portals.is_empty() || voter.portals.len() > ADDRESSES_MAX {
            return Err(RosterError::Addresses { name: name(), count: voter.portals.len() });
        }
        for earlier in &voters[..index] {
            if earlier.key == voter.key {
                return Err(RosterError::SameKey(earlier.name.clone(), name()));
            }
            if earlier.name == voter.name {
                return Err(RosterError::SameName(name()));
            }
            if let Some(same) = voter.portals.iter().find(|portal| earlier.portals.contains(portal)) {
                return Err(RosterError::SameAddress(earlier.name.clone(), name(), *same));
            }
        }
        let twice = voter.portals.iter().enumerate().find(|(at, portal)| voter.portals[..*at].contains(portal));
        if let Some((_, portal)) = twice {
            return Err(RosterError::SameAddress(name(), name(), *portal));
        }
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    fn voter(n: u8) -> Voter {
        let portals = vec![SocketAddr::new([192, 0, 2, n].into(), 10_812)];
        Voter { key: HostKey([n; 32]), name: format!("m{n}").parse().expect("a name"), portals }
    }

    /// Goal: each thing that two machines must not share, and each count, is refused with the name of the later machine.
    /// Method: lists that are right but for one thing.
    #[test]
    fn lists_that_are_wrong_in_one_thing_are_refused() {
        let all: Vec<Voter> = (1..=32).map(voter).collect();
        assert_eq!(check_roster(&all), Ok(()));
        let spoilt = |spoil: &dyn Fn(&mut Voter)| {
            let mut list = all[..3].to_vec();
            spoil(&mut list[2]);
            check_roster(&list).expect_err("it is spoilt")
        };
        let at = |text: &str| -> SocketAddr { text.parse().expect("an address") };
        for (error, words) in [
            (check_roster(&[]).expect_err("nobody"), "1 to 32 machines, not 0"),
            (check_roster(&(1..=33).map(voter).collect::<Vec<_>>()).expect_err("too many"), "1 to 32 machines, not 33"),
            (spoilt(&|it| it.key = HostKey([1; 32])), "'m1' and 'm3' have the same key"),
            (spoilt(&|it| it.name = voter(2).name), "two machines have the name 'm2'"),
            (
                spoilt(&|it| it.portals.push(at("192.0.2.2:10812"))),
                "'m2' and 'm3' have the same address 192.0.2.2:10812",
            ),
            (spoilt(&|it| it.portals.push(at("192.0.2.3:10812"))), "'m3' and 'm3' have the same address"),
            (spoilt(&|it| it.portals.clear()), "'m3' has 0 addresses"),
            (
                spoilt(&|it| it.portals = (1..=10).map(|n| at(&format!("10.0.0.{n}:1"))).collect()),
                "'m3' has 10 addresses",
            ),
        ] {
            assert!(error.to_string().contains(words), "{error}");
            let later = error.machine().is_none_or(|name| ["m2", "m3"].contains(&name.as_str()));
            assert!(later, "{error}");
        }
    }

    /// Goal: the same port on two machines, and two ports on one address, are no clash here: whoever names ports may. Method: both.
    #[test]
    fn only_the_same_address_and_port_clash() {
        let (mut one, mut two) = (voter(1), voter(2));
        one.portals = vec!["127.0.0.1:1".parse().expect("an address")];
        two.portals = vec!["127.0.0.1:2".parse().expect("an address")];
        assert_eq!(check_roster(&[one, two]), Ok(()));
    }
}
