//! The kinds of jobs there are, as one plan: what lies under `/job/`.

use super::{Move, Plan, Turn, View};
use crate::ha::Recovery;
use crate::migrate::Migration;
use serde::{Deserialize, Serialize};

/// Any job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Task {
    /// A VM moves while it runs.
    Migrate(Migration),
    /// A VM is started: for the first time, in place, or elsewhere because its host died.
    Recover(Recovery),
}

impl Plan for Task {
    fn kind(&self) -> &'static str {
        match self {
            Self::Migrate(plan) => plan.kind(),
            Self::Recover(plan) => plan.kind(),
        }
    }

    fn stage(&self) -> &'static str {
        match self {
            Self::Migrate(plan) => plan.stage(),
            Self::Recover(plan) => plan.stage(),
        }
    }

    fn turn(&self, view: &View<'_>) -> Turn<Self> {
        match self {
            Self::Migrate(plan) => wrap(plan.turn(view), Self::Migrate),
            Self::Recover(plan) => wrap(plan.turn(view), Self::Recover),
        }
    }
}

fn wrap<P>(turn: Turn<P>, task: impl Fn(P) -> Task) -> Turn<Task> {
    match turn {
        Turn::Do(actions) => Turn::Do(actions),
        Turn::Blocked(what, actions) => Turn::Blocked(what, actions),
        Turn::Move(Move { plan, owned, outcome, why }) => Turn::Move(Move { plan: task(plan), owned, outcome, why }),
    }
}
