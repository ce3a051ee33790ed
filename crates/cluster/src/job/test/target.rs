//! A gate, as far as jobs can see it: epochs, one owner, one reservation, acknowledgements after the drain.

use super::world::{Line, Violation};
use units::{Epoch, HostKey};

/// A write that was admitted and has not reached the disk.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    pub lands_at: u64,
    pub epoch: Epoch,
    pub boot: u64,
    pub number: u64,
}

/// A raise that waits for the drain, and whom to tell.
#[derive(Clone, Debug)]
pub struct Pending {
    pub epoch: Epoch,
    pub tell_at: u64,
    pub line: Line,
}

#[derive(Clone, Debug, Default)]
pub struct Target {
    pub epoch: Epoch,
    pub owner: Option<HostKey>,
    pub reserved: Option<(Epoch, HostKey)>,
    pub writes: Vec<Write>,
    pub pending: Vec<Pending>,
    /// Acknowledged: nothing older may land any more.
    pub acked: Epoch,
    /// The newest write of any guest that landed.
    pub last: Option<Write>,
    pub down_until: u64,
}

impl Target {
    pub fn reserve(&mut self, epoch: Epoch, host: HostKey) -> bool {
        let fits = match self.reserved {
            Some((there, whose)) => epoch > there || (epoch, host) == (there, whose),
            None => true,
        };
        if fits && epoch > self.epoch {
            self.reserved = Some((epoch, host));
        }
        fits && epoch > self.epoch
    }

    /// Whether it was taken on; the acknowledgement comes when the older writes have landed.
    pub fn raise(&mut self, epoch: Epoch, owner: Option<HostKey>) -> bool {
        if epoch < self.epoch || (epoch == self.epoch && owner != self.owner) {
            return false;
        }
        (self.epoch, self.owner) = (epoch, owner);
        self.reserved = self.reserved.filter(|(there, _)| *there > epoch);
        true
    }

    pub fn admits(&self, epoch: Epoch, host: HostKey) -> bool {
        epoch == self.epoch && self.owner == Some(host)
    }

    /// Lands what is due; returns who is to be told now.
    pub fn step(&mut self, now: u64, newest_started: Epoch) -> Result<Vec<Line>, Violation> {
        if now < self.down_until {
            return Ok(Vec::new());
        }
        let (due, later) = std::mem::take(&mut self.writes).into_iter().partition(|write| write.lands_at <= now);
        self.writes = later;
        for write in due {
            self.land(write, newest_started)?;
        }
        let drained = |pending: &Pending, writes: &[Write]| writes.iter().all(|write| write.epoch >= pending.epoch);
        let (told, waiting): (Vec<Pending>, Vec<Pending>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|it| it.tell_at <= now && drained(it, &self.writes));
        self.pending = waiting;
        let still: Vec<Pending> = told.into_iter().filter(|it| it.epoch == self.epoch).collect();
        self.acked = still.iter().map(|it| it.epoch).max().unwrap_or_default().max(self.acked);
        Ok(still.into_iter().map(|it| it.line).collect())
    }

    fn land(&mut self, write: Write, newest_started: Epoch) -> Result<(), Violation> {
        if write.epoch < self.acked {
            return Err(Violation("I1", format!("a write of {} landed after the ack of {}", write.epoch, self.acked)));
        }
        if write.epoch < newest_started {
            let text = format!("a write of {} landed although a guest of {newest_started} ran", write.epoch);
            return Err(Violation("I1", text));
        }
        self.last = Some(write);
        Ok(())
    }
}
