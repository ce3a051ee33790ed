//! What the grant and the store's floor say about a host: pure questions, asked in one place only.

use super::record::{Grant, Owner, Reservation};
use super::refusal::{Declined, Refused};
use super::{Attachment, Claim};
use crate::DeviceError;
use units::{Epoch, HostKey, Incarnation, Mode};

/// The newest grant in memory, and the floor.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    /// May be newer than what is durable; who must know waits for the store.
    pub grant: Grant,
    /// What the store said the epoch is at least.
    pub floor: Option<Epoch>,
}

/// What one host has in one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// The most it may do.
    pub mode: Mode,
    /// The highest incarnation taken.
    pub highest: Incarnation,
}

impl Rights {
    /// The effective epoch (rule 6).
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.grant.epoch.max(self.floor.unwrap_or_default())
    }

    /// What `host` has in `epoch`, as an owner or by the reservation.
    ///
    /// # Errors
    /// Why it has nothing.
    pub fn right(&self, host: HostKey, epoch: Epoch) -> Result<Right, Refused> {
        let current = self.epoch();
        if epoch < current {
            return Err(Refused::OldEpoch { held: epoch, current });
        }
        if epoch == self.grant.epoch {
            let owner = self.grant.owners.iter().find(|owner| owner.host == host);
            let owner = owner.ok_or(Refused::NotGranted { epoch, host })?;
            return Ok(Right { mode: owner.mode, highest: owner.incarnation });
        }
        match self.grant.reservation {
            Some(r) if r.epoch == epoch && r.host == host => Ok(Right { mode: Mode::Rw, highest: r.incarnation }),
            _ if epoch == current => Err(Refused::NobodyOwns { epoch }),
            _ => Err(Refused::NotReserved { held: epoch, current, host }),
        }
    }

    /// Whether `attachment` is covered: its host's right includes the mode, and its incarnation is not too low.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, attachment: &Attachment) -> Result<Right, Refused> {
        let Attachment { host, epoch, incarnation, mode } = *attachment;
        let right = self.right(host, epoch)?;
        if mode == Mode::Rw && right.mode == Mode::Ro {
            return Err(Refused::GrantedReadOnly { epoch, host });
        }
        if incarnation.0 == 0 {
            return Err(Refused::NoIncarnation);
        }
        if incarnation < right.highest {
            return Err(Refused::OldIncarnation { held: incarnation, highest: right.highest });
        }
        Ok(right)
    }

    /// What an admitted session's operations are answered if its right is gone.
    #[must_use]
    pub fn fenced(&self, attachment: &Attachment) -> Option<DeviceError> {
        if attachment.epoch < self.epoch() {
            return Some(DeviceError::Fenced { held: attachment.epoch, current: self.epoch() });
        }
        self.check(attachment).is_err().then_some(DeviceError::Closed)
    }

    /// Whether `attachment` may write once its epoch is raised: not standby, not `ro`.
    #[must_use]
    pub fn may_write(&self, attachment: &Attachment) -> bool {
        attachment.mode == Mode::Rw && attachment.epoch == self.grant.epoch && self.check(attachment).is_ok()
    }

    /// Makes `incarnation` the highest of `host` in `epoch`, which it has a right in.
    pub fn take_incarnation(&mut self, host: HostKey, epoch: Epoch, incarnation: Incarnation) {
        let grant = &mut self.grant;
        let highest = if epoch == grant.epoch {
            grant.owners.iter_mut().find(|owner| owner.host == host).map(|owner| &mut owner.incarnation)
        } else {
            grant.reservation.as_mut().map(|reservation| &mut reservation.incarnation)
        };
        *highest.expect("asked only after check() found the right") = incarnation;
        grant.change += 1;
    }

    /// Takes from another record of the granted epoch what only goes up: incarnations and the promise. A member that was
    /// missing may have admitted more than the ones that were here. Whether there was something.
    pub fn learn(&mut self, other: &Grant) -> bool {
        if other.epoch != self.grant.epoch {
            return false;
        }
        let mut grant = self.grant.clone();
        for owner in &mut grant.owners {
            let theirs = other.owners.iter().find(|theirs| theirs.host == owner.host);
            owner.incarnation = theirs.map_or(owner.incarnation, |theirs| theirs.incarnation.max(owner.incarnation));
        }
        grant.reservation = match (grant.reservation, other.reservation) {
            (Some(ours), Some(theirs)) if (ours.epoch, ours.host) == (theirs.epoch, theirs.host) => {
                Some(Reservation { incarnation: ours.incarnation.max(theirs.incarnation), ..ours })
            }
            // One promise at a time, and a later one is higher.
            (ours, theirs) => {
                if theirs.map(|r| r.epoch) > ours.map(|r| r.epoch) {
                    theirs
                } else {
                    ours
                }
            }
        };
        if grant == self.grant {
            return false;
        }
        grant.change = grant.change.max(other.change) + 1;
        self.grant = grant;
        true
    }

    /// Grants `claim`, higher than the grant. Incarnations start anew, but for a standby that becomes the owner.
    pub fn grant(&mut self, claim: &Claim) {
        let promised = self.grant.reservation;
        let incarnation = |host| match promised {
            Some(r) if r.epoch == claim.epoch && r.host == host => r.incarnation,
            _ => Incarnation(0),
        };
        let mut owners: Vec<Owner> =
            claim.owners.iter().map(|&(host, mode)| Owner { host, mode, incarnation: incarnation(host) }).collect();
        owners.sort_by_key(|owner| owner.host);
        assert!(claim.epoch > self.grant.epoch, "epochs never go back");
        self.grant = Grant {
            epoch: claim.epoch,
            change: self.grant.change + 1,
            shared: claim.shared,
            owners,
            reservation: promised.filter(|r| r.epoch > claim.epoch),
        };
    }

    /// Whether `claim` is exactly what is granted.
    #[must_use]
    pub fn is_granted(&self, claim: &Claim) -> bool {
        let mut asked = claim.owners.clone();
        asked.sort();
        let granted = self.grant.owners.iter().map(|owner| (owner.host, owner.mode));
        claim.epoch == self.grant.epoch && claim.shared == self.grant.shared && granted.eq(asked)
    }
}

impl Claim {
    /// Whether a grant can say this.
    ///
    /// # Errors
    /// [`Declined::BadOwners`], [`Declined::NotShared`].
    pub fn check(&self) -> Result<(), Declined> {
        let mut hosts: Vec<HostKey> = self.owners.iter().map(|&(host, _)| host).collect();
        hosts.sort();
        hosts.dedup();
        if hosts.len() < self.owners.len() || hosts.len() > super::record::OWNERS_MAX {
            return Err(Declined::BadOwners(self.owners.len()));
        }
        let writers = self.owners.iter().filter(|&&(_, mode)| mode == Mode::Rw).count();
        if writers > 1 && !self.shared { Err(Declined::NotShared { writers }) } else { Ok(()) }
    }
}
