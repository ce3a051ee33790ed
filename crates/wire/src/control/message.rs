//! The requests a process takes and the replies it gives.

use crate::control::advice::{self, Advice};
use crate::control::deadman::{CastReport, DeadmanReport, RenewalReport, VoteReport};
use crate::control::report::{GrantReport, InitiatorReport, PoolReport, StatusReport, VolumeReport};
use serde::{Deserialize, Serialize};
use units::{ByteLen, Epoch, HostKey, Mode, PoolName, VolumeName};

/// What both sides must speak. A process refuses another version with [`Code::Version`] and its own number in the text.
pub const VERSION: u16 = 1;

/// A request on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// [`VERSION`] of who asks.
    pub version: u16,
    /// Chosen by who asks, repeated in the answer.
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// An answer on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`] of who answers.
    pub version: u16,
    /// The id of what was asked.
    pub id: u64,
    /// `{"reply":…}` or `{"refusal":…}`.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Done or not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was done; here is what there is to say.
    Reply(Reply),
    /// It was not done and, unless the text says otherwise, nothing was changed.
    Refusal(Refusal),
}

/// What a process can be asked: a target, an initiator, a dead-man. Each refuses what is not for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Everything at a glance, with the progress of long work.
    Status,
    /// Makes a mirror of these disks with an empty volume group on it.
    PoolCreate {
        /// Its name.
        pool: PoolName,
        /// Paths of block devices or files.
        members: Vec<String>,
        /// Use them even if they hold something.
        #[serde(default)]
        wipe: bool,
        /// One disk is enough: no mirror. Left out where it is not so: an older target does not know it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        single: bool,
    },
    /// Assembles a pool that was stopped, or that another machine made: its members say what they belong to.
    PoolStart {
        /// Its name.
        pool: PoolName,
        /// Where to look besides the paths known already.
        #[serde(default)]
        members: Vec<String>,
        /// Start although members are missing that may hold newer data: they are lost for good.
        #[serde(default)]
        degraded: bool,
    },
    /// All pools.
    PoolList,
    /// One pool with its members.
    PoolShow {
        /// Which.
        pool: PoolName,
    },
    /// Ends serving and leaves the members clean, until the next start.
    PoolStop {
        /// Which.
        pool: PoolName,
    },
    /// Takes a member out of use for good.
    MemberFail {
        /// Which pool.
        pool: PoolName,
        /// The member's path.
        member: String,
    },
    /// Adds a disk in the place of a failed or missing one; a resync follows.
    MemberAdd {
        /// Which pool.
        pool: PoolName,
        /// The new disk's path.
        member: String,
        /// Use it even if it holds something.
        #[serde(default)]
        wipe: bool,
    },
    /// Fails a member and adds a disk in its place.
    MemberReplace {
        /// Which pool.
        pool: PoolName,
        /// The path of the member that goes.
        old: String,
        /// The path of the disk that comes.
        new: String,
        /// Use the new disk even if it holds something.
        #[serde(default)]
        wipe: bool,
    },
    /// Makes a volume; it is usable when its zeroing, shown by `Status`, is over.
    VolumeCreate {
        /// On which pool.
        pool: PoolName,
        /// Its name, unique on this target.
        volume: VolumeName,
        /// How long, rounded up to whole extents.
        size: ByteLen,
    },
    /// All volumes, or those of one pool.
    VolumeList {
        /// Only this pool's.
        #[serde(default)]
        pool: Option<PoolName>,
    },
    /// Gives a volume's space back. Refused while somebody is attached.
    VolumeRemove {
        /// Which.
        volume: VolumeName,
    },
    /// Who owns a volume.
    GrantShow {
        /// Which.
        volume: VolumeName,
    },
    /// Tells the target that the store knows this epoch: nothing older may write.
    Floor {
        /// Which volume.
        volume: VolumeName,
        /// The store's epoch.
        epoch: Epoch,
    },
    /// Promises a higher epoch to one host, which may then attach as standby.
    Reserve {
        /// Which volume.
        volume: VolumeName,
        /// The promised epoch.
        epoch: Epoch,
        /// To whom.
        host: HostKey,
    },
    /// Grants an epoch. Answered when nothing older can reach a disk any more.
    Raise {
        /// Which volume.
        volume: VolumeName,
        /// The epoch granted.
        epoch: Epoch,
        /// To whom; nobody is a valid answer (a hand-over in progress).
        owners: Vec<Owner>,
        /// Allow several writers.
        #[serde(default)]
        shared: bool,
    },
    /// A person's word that a degraded volume without a floor may be served from what is there.
    Override {
        /// Which volume.
        volume: VolumeName,
        /// What the person wants recorded: who and why.
        word: String,
    },
    /// Between dead-men: grant the lease to the machine whose key this connection has.
    Renew,
    /// Between dead-men: is this host dead? A vote that says so binds the witness.
    Vote {
        /// Which.
        host: HostKey,
    },
    /// To a dead-man, on its own machine: ask all witnesses at once whether this host is dead.
    Votes {
        /// Which.
        host: HostKey,
    },
    /// To a dead-man: read the configuration again.
    Reload,
}

/// One identity of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// Who.
    pub host: HostKey,
    /// What it may do.
    pub mode: Mode,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Done, nothing more to say.
    Done,
    /// To `Status`.
    Status(StatusReport),
    /// To `PoolList`.
    Pools(Vec<PoolReport>),
    /// To what concerns one pool.
    Pool(PoolReport),
    /// To `VolumeList`.
    Volumes(Vec<VolumeReport>),
    /// To `VolumeCreate`.
    Volume(VolumeReport),
    /// To what concerns a grant, as it is after the request.
    Grant(GrantReport),
    /// To `Status`, from an initiator.
    Initiator(InitiatorReport),
    /// To `Renew`.
    Renewal(RenewalReport),
    /// To `Vote`.
    Vote(VoteReport),
    /// To `Votes`.
    Votes(Vec<CastReport>),
    /// To `Status`, from a dead-man.
    Deadman(DeadmanReport),
}

/// Why something was not done, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What a program does about it.
    pub code: Code,
    /// What is wrong, and where.
    pub text: String,
    /// What to do next, for who asks a process directly.
    pub hint: String,
    /// The same as a word, if the cluster has verbs of its own for it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "advice::known")]
    pub advice: Option<Advice>,
}

/// What a program does about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request makes no sense as it stands; the same again will fail again.
    Invalid,
    /// The peer speaks another version.
    Version,
    /// No such pool, volume or member.
    NotFound,
    /// The name is taken.
    Exists,
    /// A disk holds something; asked again with `wipe` it is overwritten.
    HoldsData,
    /// Somebody uses it; later it may work.
    Busy,
    /// Not enough room.
    NoSpace,
    /// The gate says no: an older epoch, other owners.
    Fenced,
    /// The volume serves nobody until its floor is known or an operation ends.
    Blocked,
    /// A disk or the system failed.
    Failed,
}

impl Answer {
    /// An answer to `id` in this version.
    #[must_use]
    pub fn new(id: u64, outcome: Result<Reply, Refusal>) -> Self {
        let outcome = outcome.map_or_else(Outcome::Refusal, Outcome::Reply);
        Self { version: VERSION, id, outcome }
    }

    /// As a result.
    ///
    /// # Errors
    /// The refusal.
    pub fn into_result(self) -> Result<Reply, Refusal> {
        match self.outcome {
            Outcome::Reply(reply) => Ok(reply),
            Outcome::Refusal(refusal) => Err(refusal),
        }
    }
}

impl Refusal {
    /// A refusal of these words.
    pub fn new(code: Code, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, text: text.into(), hint: hint.into(), advice: None }
    }

    /// A refusal whose hint each door says in its own verbs.
    pub fn advised(code: Code, text: impl Into<String>, advice: Advice) -> Self {
        Self { advice: Some(advice), ..Self::new(code, text, advice.for_target()) }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn golden(request: &Request, text: &str) {
        assert_eq!(serde_json::to_string(request).unwrap(), text);
        assert_eq!(&serde_json::from_str::<Request>(text).unwrap(), request);
    }

    /// Goal: the words on the wire do not change by accident. Method: golden texts, both ways.
    #[test]
    fn requests_have_a_fixed_spelling() {
        let volume: VolumeName = "web1".parse().unwrap();
        golden(&Request::Status, r#"{"do":"status"}"#);
        golden(
            &Request::PoolCreate {
                pool: "tank".parse().unwrap(),
                members: vec!["/dev/a".into()],
                wipe: true,
                single: false,
            },
            r#"{"do":"pool-create","pool":"tank","members":["/dev/a"],"wipe":true}"#,
        );
        let host = HostKey([0xaa; 32]);
        let owners = vec![Owner { host, mode: Mode::Rw }];
        golden(
            &Request::Raise { volume, epoch: Epoch(7), owners, shared: false },
            &format!(
                r#"{{"do":"raise","volume":"web1","epoch":7,"owners":[{{"host":"{host}","mode":"rw"}}],"shared":false}}"#
            ),
        );
    }

    /// Goal: the words between dead-men of different versions stay the same. Method: golden texts, both ways.
    #[test]
    fn what_dead_men_say_has_a_fixed_spelling() {
        use crate::control::Doubt;
        use units::Millis;
        let host = HostKey([0xaa; 32]);
        golden(&Request::Renew, r#"{"do":"renew"}"#);
        golden(&Request::Reload, r#"{"do":"reload"}"#);
        golden(&Request::Vote { host }, &format!(r#"{{"do":"vote","host":"{host}"}}"#));
        golden(&Request::Votes { host }, &format!(r#"{{"do":"votes","host":"{host}"}}"#));
        for (reply, text) in [
            (Reply::Renewal(RenewalReport::Granted), r#"{"renewal":"granted"}"#),
            (Reply::Renewal(RenewalReport::Refused(Millis(9))), r#"{"renewal":{"refused":9}}"#),
            (Reply::Vote(VoteReport::Dead(Millis(10_000))), r#"{"vote":{"dead":10000}}"#),
            (Reply::Vote(VoteReport::Alive(Millis(7))), r#"{"vote":{"alive":7}}"#),
            (Reply::Vote(VoteReport::Unsure(Doubt::Grace(Millis(5)))), r#"{"vote":{"unsure":{"grace":5}}}"#),
            (Reply::Vote(VoteReport::Unsure(Doubt::TooFew)), r#"{"vote":{"unsure":"too-few"}}"#),
        ] {
            assert_eq!(serde_json::to_string(&reply).unwrap(), text);
            assert_eq!(serde_json::from_str::<Reply>(text).unwrap(), reply);
        }
    }

    #[test]
    fn unknown_words_and_bad_names_are_refused() {
        for bad in [
            r#"{"do":"explode"}"#,
            r#"{"do":"pool-show","pool":"../etc"}"#,
            r#"{"do":"pool-show","pool":"a","extra":1}"#,
            r#"{"do":"raise","volume":"a","epoch":-1,"owners":[]}"#,
        ] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn answers_survive_both_ways() {
        for outcome in [Ok(Reply::Done), Err(Refusal::new(Code::HoldsData, "a", "b"))] {
            let answer = Answer::new(3, outcome);
            let text = serde_json::to_string(&answer).unwrap();
            assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), answer, "{text}");
        }
    }
}
