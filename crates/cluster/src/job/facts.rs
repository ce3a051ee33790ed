//! What was heard in the present stage. Forgotten at every save and by whoever takes over: it is all asked again.

use super::{Action, Guest, Proof, Report};
use crate::migrate::Measured;
use std::collections::BTreeMap;
use units::{Epoch, HostKey, Moment};

/// What is known.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    done: Vec<Action>,
    refused: Option<(Action, String)>,
    guests: BTreeMap<HostKey, (Guest, Option<Epoch>)>,
    proofs: BTreeMap<HostKey, Proof>,
    measured: Measured,
}

impl Facts {
    /// Takes note of a report.
    pub fn hear(&mut self, report: Report) {
        match report {
            Report::Done(action) if self.is_done(&action) => {}
            Report::Done(action) => self.done.push(action),
            Report::Refused(action, text) => self.refused = Some((action, text)),
            Report::Guest { host, guest, epoch } => drop(self.guests.insert(host, (guest, epoch))),
            Report::Gone { host, proof } => self.prove(host, proof),
            Report::Measured(measured) => self.measured.merge(measured),
        }
    }

    /// A proof for good is not replaced by one that ends.
    fn prove(&mut self, host: HostKey, proof: Proof) {
        match (self.proofs.get(&host), proof) {
            (Some(Proof::Power | Proof::Word), _) => {}
            (Some(Proof::Votes { until: old }), Proof::Votes { until }) if *old > until => {}
            _ => drop(self.proofs.insert(host, proof)),
        }
    }

    /// Whether the targets did this.
    #[must_use]
    pub fn is_done(&self, action: &Action) -> bool {
        self.done.contains(action)
    }

    /// Why something cannot be done.
    #[must_use]
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_ref().map(|(_, why)| why.as_str())
    }

    /// Why a target refuses to be raised: it knows a newer epoch.
    #[must_use]
    pub fn refused_raise(&self) -> Option<&str> {
        self.refused.as_ref().filter(|(action, _)| matches!(action, Action::Raise { .. })).map(|(_, why)| why.as_str())
    }

    /// Why this host refuses to start it. What others cannot do is no reason to start it elsewhere.
    #[must_use]
    pub fn refused_start(&self, host: HostKey) -> Option<&str> {
        let start = |action: &Action| matches!(action, Action::Start { host: at, .. } if *at == host);
        self.refused.as_ref().filter(|(action, _)| start(action)).map(|(_, why)| why.as_str())
    }

    /// How the guest is there, if heard.
    #[must_use]
    pub fn guest(&self, host: HostKey) -> Option<Guest> {
        self.guests.get(&host).map(|(guest, _)| *guest)
    }

    /// Whether the guest runs there, attached at this epoch. One that runs at another is of the past: its targets refuse
    /// it, and whoever was asked to let it run has not done so yet.
    #[must_use]
    pub fn runs_at(&self, host: HostKey, epoch: Epoch) -> bool {
        self.guests.get(&host) == Some(&(Guest::Running, Some(epoch)))
    }

    /// Whether the host as a whole is known not to run guests.
    #[must_use]
    pub fn gone(&self, host: HostKey, now: Moment) -> bool {
        match self.proofs.get(&host) {
            Some(Proof::Votes { until }) => now < *until,
            Some(Proof::Power | Proof::Word) => true,
            None => false,
        }
    }

    /// Whether the VM certainly does not run there.
    #[must_use]
    pub fn settled(&self, host: HostKey, now: Moment) -> bool {
        self.guest(host) == Some(Guest::Absent) || self.gone(host, now)
    }

    /// What was measured.
    #[must_use]
    pub fn measured(&self) -> Measured {
        self.measured
    }
}
