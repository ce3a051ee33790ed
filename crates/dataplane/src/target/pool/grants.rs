//! Control requests about who may use a volume: passed to its gate, answered with the grant as it is afterwards.

use super::admin::{serve_state, with_more};
use super::export::{Export, Served};
use super::thread::Pool;
use crate::target::audit::Deed;
use block::gate::{Claim, Declined, GatedVolume, State};
use units::VolumeName;
use wire::control::{Advice, Code, GrantReport, Owner, Refusal, Reply, Request, ReservationReport};

impl Pool {
    /// Does what a request about a grant asks.
    pub(super) async fn answer_grant(&self, request: Request) -> Result<Reply, Refusal> {
        match request {
            Request::GrantShow { volume } => self.grant_of(&volume),
            Request::Floor { volume, epoch } => {
                let gate = self.gate(&volume)?;
                let before = gate.status();
                gate.floor(epoch);
                let after = gate.status();
                // The store says it again and again; only news are written down.
                if (before.epoch, before.state) != (after.epoch, after.state) {
                    self.audit.record(&volume, &Deed::Floor { epoch }).await;
                }
                self.grant_of(&volume)
            }
            Request::Reserve { volume, epoch, host } => {
                self.gate(&volume)?.reserve(epoch, host).await.map_err(declined)?;
                self.audit.record(&volume, &Deed::Reservation { epoch, host }).await;
                self.grant_of(&volume)
            }
            Request::Raise { volume, epoch, owners, shared } => {
                let (gate, asked_mono_us) = (self.gate(&volume)?, host::runtime::monotonic_us());
                let claimed = owners.iter().map(|owner| (owner.host, owner.mode)).collect();
                gate.raise(Claim { epoch, shared, owners: claimed }).await.map_err(declined)?;
                self.audit.record(&volume, &Deed::Grant { asked_mono_us, epoch, owners, shared }).await;
                self.grant_of(&volume)
            }
            Request::Override { volume, word } => {
                if word.trim().is_empty() {
                    let hint = "say who decides and why: --word \"…\"";
                    return Err(Refusal::new(Code::Invalid, "an override needs a word that can be recorded", hint));
                }
                let gate = self.gate(&volume)?;
                self.audit.record(&volume, &Deed::Override { word: word.clone() }).await;
                gate.override_floor(word);
                self.grant_of(&volume)
            }
            _ => Err(Refusal::new(Code::Invalid, "this is not a pool's business", "")),
        }
    }

    fn gate(&self, volume: &VolumeName) -> Result<GatedVolume, Refusal> {
        match self.exports.get(volume) {
            Some(Export::Ready(served)) => Ok(served.gate),
            Some(Export::Zeroing(_)) => {
                let text = format!("the volume '{volume}' is still being zeroed");
                Err(Refusal::advised(Code::Busy, text, Advice::ListVolumes))
            }
            Some(Export::Unusable(why)) => {
                Err(Refusal::new(Code::Failed, format!("the volume '{volume}' is not served: {why}"), ""))
            }
            None => Err(Refusal::new(Code::NotFound, format!("there is no volume '{volume}'"), "")),
        }
    }

    fn grant_of(&self, volume: &VolumeName) -> Result<Reply, Refusal> {
        let status = self.gate(volume)?.status();
        let (state, reason) = serve_state(status.state);
        let reason = with_more(reason, self.array.array.status().witness_blocked.as_deref());
        Ok(Reply::Grant(GrantReport {
            volume: volume.clone(),
            epoch: status.epoch,
            granted: status.granted,
            owners: status.owners.iter().map(|owner| Owner { host: owner.host, mode: owner.mode }).collect(),
            reservation: status
                .reservation
                .map(|promise| ReservationReport { epoch: promise.epoch, host: promise.host }),
            shared: status.shared,
            state,
            reason,
            overridden: status.overridden,
        }))
    }

    /// Tells the gates what members that came back hold: a gate that waited for them opens, a higher epoch counts.
    pub(super) fn found_again(&self) {
        for (name, export) in self.exports.all() {
            if let Export::Ready(Served { gate, id, .. }) = export {
                if matches!(gate.status().state, State::Blocked(_)) {
                    tracing::info!(volume = %name, "its members have been read again");
                }
                gate.found(self.array.found(id));
            }
        }
    }
}

fn declined(why: Declined) -> Refusal {
    let code = match why {
        Declined::Lower { .. }
        | Declined::OtherOwners { .. }
        | Declined::Superseded { .. }
        | Declined::Promised { .. }
        | Declined::NobodyOwns { .. } => Code::Fenced,
        Declined::NotShared { .. } | Declined::BadOwners(_) => Code::Invalid,
        Declined::Blocked(_) => Code::Blocked,
        Declined::StoreFailed { .. } => Code::Failed,
        Declined::TooMany { .. } => Code::Busy,
    };
    let hint = match code {
        Code::Fenced => "`muskox ctl grant show` tells what it is at",
        Code::Invalid => "a volume that several hosts write to is raised with --shared",
        _ => "",
    };
    Refusal::new(code, why.to_string(), hint)
}
