//! Who is dead, by this machine's dead-man: how long each host is silent, and what the witnesses say of one.
//!
//! A vote's validity counts from before its question. The dead-man asks the witnesses when it is asked, so the moment before
//! *it* was asked is early enough.

use super::witnesses::{self, verdict_by_all};
use super::{Desk, Later};
use crate::control;
use crate::past;
use crate::registry;
use crate::root::Root;
use api::{Code, Problem};
use cluster::ha::{Answer, Verdict};
use cluster::lease::{Unsure, Vote};
use cluster::store::Engine;
use host::runtime::now;
use std::path::PathBuf;
use std::time::Duration;
use units::{HostKey, Millis, Moment};
use wire::control::{CastReport, Doubt, Reply, Request, VoteReport};

/// The dead-man gives its witnesses 400 ms.
const PATIENCE: Duration = Duration::from_millis(1_000);
/// A verdict that still holds for so long is used again: longer than a fence takes.
const LONG_ENOUGH: Millis = Millis(5_000);

/// A host that was voted dead.
#[derive(Clone, Copy, Debug)]
pub struct VotedDead {
    /// The votes hold until then.
    pub until: Moment,
    /// How many.
    pub votes: usize,
    /// Of how many.
    pub of: usize,
}

impl VotedDead {
    fn verdict(self) -> Verdict {
        Verdict::Dead { until: self.until, votes: self.votes, of: self.of }
    }
}

/// What is asked of the dead-man.
pub trait Ballot {
    /// How long each other machine has been silent, on every network.
    fn silence(&self) -> Later<'_, Result<Vec<(HostKey, Millis)>, Problem>>;

    /// What the witnesses say about a host. Votes for dead bind them.
    fn votes(&self, host: HostKey) -> Later<'_, Result<Vec<Answer>, Problem>>;
}

/// The dead-man's process, by its control socket.
pub struct DeadMan {
    socket: PathBuf,
}

impl DeadMan {
    /// The one of the machine with these files.
    #[must_use]
    pub fn new(root: &Root) -> Self {
        Self { socket: root.below("run/muskox/deadman.sock") }
    }
}

impl DeadMan {
    async fn ask(&self, request: Request) -> Result<Reply, Problem> {
        let answer = control::ask("dead-man", &self.socket, request, PATIENCE).await;
        let hint = "see its log; without it no host is declared dead";
        answer.map_err(|refusal| Problem::new(Code::Unreachable, refusal.text, hint))
    }
}

impl Ballot for DeadMan {
    fn silence(&self) -> Later<'_, Result<Vec<(HostKey, Millis)>, Problem>> {
        Box::pin(async {
            match self.ask(Request::Status).await? {
                // Who was never heard is silent since this dead-man began to listen.
                Reply::Deadman(report) => Ok(report
                    .peers
                    .iter()
                    .filter(|peer| peer.witness != report.me)
                    .map(|peer| (peer.witness, peer.heard.unwrap_or(report.up)))
                    .collect()),
                other => Err(foreign(&other)),
            }
        })
    }

    fn votes(&self, host: HostKey) -> Later<'_, Result<Vec<Answer>, Problem>> {
        Box::pin(async move {
            let before = now();
            match self.ask(Request::Votes { host }).await? {
                Reply::Votes(casts) => Ok(casts.iter().filter_map(|cast| answer(cast, before)).collect()),
                other => Err(foreign(&other)),
            }
        })
    }
}

/// A vote as it counts; none if the witness did not answer.
fn answer(cast: &CastReport, before: Moment) -> Option<Answer> {
    let vote = match cast.vote? {
        VoteReport::Dead(valid_for) => Vote::Dead { valid_for },
        VoteReport::Alive(silent_for) => Vote::Alive { silent_for },
        VoteReport::Unsure(Doubt::Alone) => Vote::Unsure(Unsure::Alone),
        VoteReport::Unsure(Doubt::Grace(left)) => Vote::Unsure(Unsure::Grace(left)),
        VoteReport::Unsure(Doubt::TooFew) => Vote::Unsure(Unsure::TooFew),
    };
    Some(Answer { by: cast.witness, asked: before, vote })
}

fn foreign(reply: &Reply) -> Problem {
    let text = format!("the dead-man answered something else: {reply:?}");
    Problem::new(Code::Failed, text, "run the same muskox version for all processes")
}

impl Desk {
    /// What the witnesses' votes on a host come to. Votes bind who gave them, so a verdict that has long to go is not asked
    /// for again: a failover is by one round of questions quicker.
    ///
    /// # Errors
    /// Whoever should know cannot be asked, or a store that was brought back has not heard enough machines: then nobody is dead.
    pub async fn verdict(&self, host: HostKey) -> Result<Verdict, Problem> {
        let known = self.verdicts.borrow().get(&host).copied();
        if let Some(known) = known.filter(|known| known.until.since(now()) >= LONG_ENOUGH) {
            return Ok(known.verdict());
        }
        let answers = self.ballot.votes(host).await?;
        let read = |engine: &mut dyn Engine| {
            past::check_heard(engine)?;
            let members = registry::members(engine)?;
            witnesses::sets(engine, &members)
        };
        let sets = self.store.ask(read).await?;
        let verdict = verdict_by_all(&answers, &sets, now());
        let mut verdicts = self.verdicts.borrow_mut();
        if let Verdict::Dead { until, votes, of } = verdict {
            verdicts.insert(host, VotedDead { until, votes, of });
        } else {
            verdicts.remove(&host);
        }
        Ok(verdict)
    }

    /// How long each other machine has been silent.
    ///
    /// # Errors
    /// The dead-man does not answer.
    pub async fn silence(&self) -> Result<Vec<(HostKey, Millis)>, Problem> {
        self.ballot.silence().await
    }
}
