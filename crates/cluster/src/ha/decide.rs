//! Whether a VM is taken from its host, and who gets it: asked before the first transaction.

use super::{Recovery, Verdict};
use crate::job::Ownership;
use units::{ByteLen, HostKey, Moment};

/// A host that might take a VM over, as it answered just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub host: HostKey,
    /// It answered, and its dead-man may run guests.
    pub ready: bool,
    /// It reaches the targets of all of the VM's volumes.
    pub reaches_volumes: bool,
    /// Free memory.
    pub free: ByteLen,
    /// It is being drained.
    pub draining: bool,
}

/// What to do about a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Begin this job, with this ownership, now: the verdict ends.
    Recover(Box<Recovery>, Ownership),
    /// Nothing, and this is why.
    Nothing(Quiet),
}

/// Why nothing is done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Quiet {
    /// A job works on it.
    #[error("a job works on it already")]
    Busy,
    /// Nobody owns it, or it is not meant to run.
    #[error("it has no owner")]
    NoOwner,
    /// Too few votes: alive, or nobody knows.
    #[error("{dead} of {needed} witnesses needed say that its host is dead")]
    NotDead {
        /// Valid votes for dead.
        dead: usize,
        /// How many it takes.
        needed: usize,
    },
    /// The verdict is over.
    #[error("the verdict ended before it could be used")]
    Stale,
    /// Fencing it would leave it nowhere to run.
    #[error("no other host is ready, reaches its volumes and has {0} of memory free")]
    NoDestination(ByteLen),
}

/// Decides about a VM whose host is suspected. The destination is looked for first: without one, nobody is fenced.
#[must_use]
pub fn decide(
    owned: &Ownership,
    verdict: Verdict,
    candidates: &[Candidate],
    (memory, power): (ByteLen, bool),
    now: Moment,
) -> Decision {
    let Some(owner) = owned.owner else {
        return Decision::Nothing(Quiet::NoOwner);
    };
    if owned.job.is_some() {
        return Decision::Nothing(Quiet::Busy);
    }
    match verdict {
        Verdict::NotDead { dead, needed } => return Decision::Nothing(Quiet::NotDead { dead, needed }),
        Verdict::Dead { until, .. } if now >= until => return Decision::Nothing(Quiet::Stale),
        Verdict::Dead { .. } => {}
    }
    let mut fit: Vec<&Candidate> = candidates.iter().filter(|it| it.host != owner && it.fits(memory)).collect();
    fit.sort_unstable_by_key(|it| (std::cmp::Reverse(it.free), it.host));
    let others: Vec<HostKey> = fit.iter().map(|it| it.host).collect();
    match others.split_first() {
        Some((to, spare)) => {
            let (plan, owned) = Recovery::new(owned, *to, spare.to_vec(), power);
            Decision::Recover(Box::new(plan), owned)
        }
        None => Decision::Nothing(Quiet::NoDestination(memory)),
    }
}

impl Candidate {
    /// Whether a VM of this size can start there.
    #[must_use]
    pub fn fits(&self, memory: ByteLen) -> bool {
        self.ready && self.reaches_volumes && !self.draining && self.free >= memory
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn key(n: u8) -> HostKey {
        HostKey([n; 32])
    }

    fn candidate(n: u8, free: u64) -> Candidate {
        let (ready, reaches_volumes, draining) = (true, true, false);
        Candidate { host: key(n), ready, reaches_volumes, free: ByteLen::mib(free), draining }
    }

    /// Goal: nothing is done without a verdict that holds and a destination that is ready; otherwise the host with the
    /// most free memory gets it at a new epoch. Method: the cases one by one.
    #[test]
    fn no_verdict_or_no_destination_means_nothing() {
        let fresh = Ownership::new("web1".parse().expect("a name"), Vec::new()).expect("no volumes");
        let owned = fresh.moved(units::Epoch(4), Some(key(1)), Vec::new());
        let dead = Verdict::Dead { until: Moment(100), votes: 2, of: 3 };
        let ask = |owned: &Ownership, verdict, candidates: &[Candidate]| {
            decide(owned, verdict, candidates, (ByteLen::mib(512), false), Moment(50))
        };
        let all = [candidate(1, 9_000), candidate(2, 600), candidate(3, 800), candidate(4, 100)];
        let nothing = |why| Decision::Nothing(why);
        let few = Verdict::NotDead { dead: 1, needed: 2 };
        assert_eq!(ask(&owned, few, &all), nothing(Quiet::NotDead { dead: 1, needed: 2 }));
        assert_eq!(ask(&owned, Verdict::Dead { until: Moment(50), votes: 2, of: 3 }, &all), nothing(Quiet::Stale));
        assert_eq!(ask(&owned, dead, &all[..1]), nothing(Quiet::NoDestination(ByteLen::mib(512))));
        let busy = Ownership { job: Some("j1".parse().expect("an id")), ..owned.clone() };
        assert_eq!(ask(&busy, dead, &all), nothing(Quiet::Busy));
        assert_eq!(ask(&fresh, dead, &all), nothing(Quiet::NoOwner));
        let Decision::Recover(plan, after) = ask(&owned, dead, &all) else {
            panic!("two hosts are ready");
        };
        assert_eq!((plan.to, plan.spare.clone()), (key(3), vec![key(2)]));
        assert_eq!((after.epoch, after.owner, after.unsettled), (units::Epoch(5), Some(key(3)), vec![key(1)]));
    }
}
