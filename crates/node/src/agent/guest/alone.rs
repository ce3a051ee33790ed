//! A guest that waits before the switch-over while nobody directs its move: it runs on by itself where that is safe, else it
//! stays stopped and says why. What is safe decides `cluster::migrate::Waiting`; here the dead-man and the targets are asked.

use super::{Guest, Wish};
use crate::agent::{deadman, initiator};
use crate::secret::Secret;
use cluster::job::Guest as State;
use cluster::migrate::{Limits, Stays, Waiting};
use host::runtime::now;
use std::rc::Rc;
use units::{Millis, Moment};
use wire::control::{HeldState, StandingReport};

/// Between two looks at whether it may run on: each asks two processes.
const AGAIN: Millis = Millis(100);

/// What is known of who directs a move of this guest.
#[derive(Default)]
pub struct Direction {
    /// When an order was heard last.
    spoken: Option<Moment>,
    /// When it was first seen to wait before the switch-over.
    waits: Option<Moment>,
    /// When it was last looked at whether it may run on.
    looked: Option<Moment>,
    /// The migration was begun in this life, and QEMU was not told to send the rest.
    holds_back: bool,
    /// The move that goes on, and the one that was given up here, by the hashes of their keys: whoever waited for that one is
    /// gone.
    goes_on: Option<String>,
    given_up: Option<String>,
}

impl Direction {
    /// An order was heard.
    pub fn spoken(&mut self) {
        self.spoken = Some(now());
    }

    /// QEMU is told to begin the move of this key.
    ///
    /// # Errors
    /// That was given up here; for people.
    pub fn begins(&mut self, key: &Secret) -> Result<(), String> {
        let key = Some(key.hash());
        if self.given_up == key {
            return Err(format!(
                "nobody directed the move for {}, so it was given up here and the guest ran on",
                Limits::SILENCE
            ));
        }
        (self.holds_back, self.goes_on, self.waits) = (true, key, None);
        Ok(())
    }

    /// QEMU is told to send the rest: from here on nobody runs on by himself.
    pub fn sends_on(&mut self) {
        self.holds_back = false;
    }

    /// For how long nobody has spoken while it waited, until this moment.
    fn silent(&mut self, at: Moment) -> Millis {
        let waits = *self.waits.get_or_insert(at);
        at.since(self.spoken.map_or(waits, |spoken| spoken.max(waits)))
    }
}

impl Guest {
    /// Looks whether a guest that waits before the switch-over has to be let run on.
    pub(super) async fn mind_silence(self: &Rc<Self>) {
        let at = now();
        {
            let mut facts = self.facts.borrow_mut();
            if facts.state != State::PreSwitchover {
                facts.direction.waits = None;
                return;
            }
            let late = facts.direction.looked.is_none_or(|looked| at.since(looked) >= AGAIN);
            if facts.direction.silent(at) < Limits::SILENCE || !late {
                return;
            }
            facts.direction.looked = Some(at);
        }
        match self.may_run_on().await {
            Ok(()) if self.wanted.borrow().is_none() => self.wish(Wish::RunOn),
            Ok(()) | Err(Stays::Directed) => {}
            Err(stays) => {
                let silence = Limits::SILENCE;
                self.because(Some(format!("nobody has directed its move for {silence}; it stays stopped: {stays}")));
            }
        }
    }

    /// Gives the move up, if nobody has spoken meanwhile: the guest runs on as it did.
    pub(super) async fn run_on(self: &Rc<Self>) -> Result<(), String> {
        {
            let mut facts = self.facts.borrow_mut();
            if facts.state != State::PreSwitchover || facts.direction.silent(now()) < Limits::SILENCE {
                return Ok(());
            }
            facts.direction.holds_back = false;
            facts.direction.given_up = facts.direction.goes_on.take();
        }
        tracing::warn!(vm = %self.name, "nobody directs its move: it is given up, and the guest runs on");
        self.cancel().await?;
        self.because(Some(format!(
            "nobody directed its move for {}: it was given up, and the guest ran on",
            Limits::SILENCE
        )));
        Ok(())
    }

    async fn may_run_on(&self) -> Result<(), Stays> {
        let report = deadman::status(&self.shared.place).await;
        let leased = report.is_ok_and(|report| matches!(report.standing, StandingReport::Running(_)));
        let asked = now();
        let heard = self.heard_of_targets().await;
        let mut facts = self.facts.borrow_mut();
        let (guest, holds_back) = (facts.state, facts.direction.holds_back);
        // The ages were taken after `asked`, so counted from `asked` they are older than they are: never younger.
        let silent = facts.direction.silent(asked);
        Waiting { guest, silent, holds_back, leased, heard }.may_run_on()
    }

    /// How long ago the question was sent that the last of its targets answered at its epoch.
    async fn heard_of_targets(&self) -> Option<Millis> {
        let epoch = self.epoch()?;
        let report = initiator::status(&self.shared.place, &self.name).await?;
        let open = report.volumes.iter().all(|held| held.state == HeldState::Up && held.epoch == epoch);
        let ages: Option<Vec<Millis>> = report.volumes.iter().map(|held| held.heard).collect();
        ages.filter(|_| open)?.into_iter().max()
    }
}
