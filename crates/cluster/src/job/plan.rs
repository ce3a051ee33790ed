//! What a kind of job must say: given its recorded stage and what was heard in it, what to do now.

use super::{Action, Facts, Outcome, Ownership};
use serde::{Serialize, de::DeserializeOwned};
use units::{Millis, Moment};

/// A kind of job: the part of the record that only it understands.
pub trait Plan: Clone + PartialEq + Serialize + DeserializeOwned {
    /// The kind, as in `muskox job list`.
    fn kind(&self) -> &'static str;

    /// The present stage, for history and people.
    fn stage(&self) -> &'static str;

    /// What to do now. Called after every event; the answer depends on nothing but the arguments.
    fn turn(&self, view: &View<'_>) -> Turn<Self>;
}

/// What a plan sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The VM's ownership, as this job last wrote it.
    pub owned: &'a Ownership,
    /// What was heard in this stage.
    pub facts: &'a Facts,
    /// Somebody wishes that the job be undone.
    pub cancel: bool,
    /// Its time is up.
    pub late: bool,
    /// Time spent in this stage, by everybody who worked on it.
    pub in_stage: Millis,
    /// Now, on this machine's clock: for proofs that end.
    pub now: Moment,
}

/// What a plan wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn<P> {
    /// These done, each asked again until its answer changes the turn; none: just wait.
    Do(Vec<Action>),
    /// The same, and let it be seen what the job waits for. The text has no changing numbers in it.
    Blocked(&'static str, Vec<Action>),
    /// The next stage, recorded first.
    Move(Move<P>),
}

/// The next stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move<P> {
    /// The plan in its new stage.
    pub plan: P,
    /// The VM's ownership, if it changes.
    pub owned: Option<Ownership>,
    /// The job ends.
    pub outcome: Option<Outcome>,
    /// Why, if not for the obvious reason.
    pub why: Option<String>,
}

impl<P> Turn<P> {
    /// The next stage; the ownership stays.
    pub fn to(plan: P) -> Self {
        Self::Move(Move { plan, owned: None, outcome: None, why: None })
    }

    /// The next stage, for this reason.
    pub fn because(plan: P, why: impl Into<String>) -> Self {
        Self::Move(Move { plan, owned: None, outcome: None, why: Some(why.into()) })
    }

    /// The next stage and a new ownership, in one transaction.
    pub fn owning(plan: P, owned: Ownership) -> Self {
        Self::Move(Move { plan, owned: Some(owned), outcome: None, why: None })
    }

    /// The end: the VM is free for the next job.
    pub fn end(plan: P, owned: &Ownership, outcome: Outcome) -> Self {
        let why = outcome.why().map(str::to_owned);
        Self::Move(Move { plan, owned: Some(owned.released()), outcome: Some(outcome), why })
    }
}
