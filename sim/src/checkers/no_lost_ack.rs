//! I3: reads are linearisable per sector, and what was acknowledged durable is returned after any tolerated fault.
//!
//! Each sector is a register with the set of writes a read may return. A write leaves the set when something else has
//! certainly replaced it: a later write that was acknowledged, or a read that saw another one although both had
//! ended. A power cut brings back what no *durable* write replaced: durable by an acknowledged FUA, or by a flush that
//! began after the acknowledgement (docs/rfd/0002-block-device.md, rule 2). With unique stamps this is the usual
//! single-register linearisability test, done as the answers come.
//!
//! What it excuses, because nobody promises it: while a write is in flight (from its start to its answer, or for ever if
//! nobody was told), reads may see it, then what was there before, then it again, as members differ and each read asks one of
//! them. A discard may leave what was there or zeroes. Zeroes carry no stamp: where two writes of zeroes may be meant, a
//! read of zeroes settles nothing.

use super::history::{History, Op, Stamp, WriteId};
use super::{Invariant, Tick, Verdict};
use crate::disk::SECTOR;
use std::collections::BTreeMap;

/// The registers of one volume.
#[derive(Clone, Default)]
pub struct NoLostAck {
    registers: BTreeMap<u32, Register>,
}

#[derive(Clone, Default)]
struct Register {
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy)]
struct Candidate {
    write: WriteId,
    /// No read that begins after this may return it.
    dead: Option<Tick>,
}

const NEVER_WRITTEN: WriteId = WriteId(0);

impl Register {
    fn fresh() -> Self {
        Self { candidates: vec![Candidate { write: NEVER_WRITTEN, dead: None }] }
    }

    fn begin(&mut self, write: WriteId) {
        self.candidates.push(Candidate { write, dead: None });
    }

    /// `write` replaced whatever ended before `began`.
    fn replaced(&mut self, write: WriteId, began: Tick, now: Tick, history: &History) {
        for other in self.candidates.iter_mut().filter(|other| other.write != write && other.dead.is_none()) {
            let ended = history.op(other.write).map_or(Some(Tick(0)), |op| op.ended);
            if ended.is_some_and(|ended| ended < began) {
                other.dead = Some(now);
            }
        }
    }
}

impl NoLostAck {
    fn register(&mut self, sector: u32) -> &mut Register {
        self.registers.entry(sector).or_insert_with(Register::fresh)
    }

    /// A write begins.
    pub fn begin(&mut self, write: WriteId, op: &Op) {
        for sector in op.sector..op.sector + op.sectors {
            self.register(sector).begin(write);
        }
    }

    /// A write was acknowledged: it replaced what ended before it began.
    pub fn acked(&mut self, write: WriteId, now: Tick, history: &History) {
        let Some(op) = history.op(write) else { return };
        for sector in op.sector..op.sector + op.sectors {
            self.register(sector).replaced(write, op.invoked, now, history);
        }
    }

    /// A write was refused at the gate: it must never be seen.
    pub fn refused(&mut self, write: WriteId, history: &History) {
        let Some(op) = history.op(write) else { return };
        for sector in op.sector..op.sector + op.sectors {
            self.register(sector).candidates.retain(|candidate| candidate.write != write);
        }
    }

    /// A read that began at `began` returned `bytes` from `sector` on.
    ///
    /// # Errors
    /// I3, if one of the sectors holds something that no order of the writes explains.
    pub fn read(&mut self, began: Tick, now: Tick, sector: u32, bytes: &[u8], history: &History) -> Verdict {
        for (sector, content) in (sector..).zip(bytes.chunks_exact(SECTOR)) {
            let seen = Self::seen(sector, content)?;
            let register = self.register(sector);
            let is_seen = |candidate: &&Candidate| {
                let zeroes = history.op(candidate.write).is_none_or(|op| op.zeroes);
                candidate.write == seen || seen == NEVER_WRITTEN && zeroes
            };
            let may = |candidate: &&Candidate| candidate.dead.is_none_or(|dead| dead >= began);
            let mut all = register.candidates.iter().filter(is_seen);
            if all.clone().next().is_none() {
                return Err((
                    Invariant::I3,
                    format!("sector {sector} returns {}, which cannot be there", named(seen, history)),
                ));
            }
            let mut fit = all.by_ref().filter(may);
            let (first, others) = (fit.next().copied(), fit.count());
            let Some(candidate) = first else {
                let may: Vec<_> = register.candidates.iter().filter(|c| c.dead.is_none()).map(|c| c.write.0).collect();
                let what = named(seen, history);
                return Err((
                    Invariant::I3,
                    format!("sector {sector} returns {what}, replaced for certain; may be {may:?}"),
                ));
            };
            // While a write is in flight its members differ, and reads of two members may see it, miss it and see it:
            // md's mirror does the same. Once it has ended, who saw it has settled what came before. Zeroes that more
            // than one write may have made settle nothing.
            if others == 0 && history.op(candidate.write).is_none_or(|op| op.ended.is_some()) {
                register.replaced(candidate.write, began, now, history);
            }
        }
        Ok(())
    }

    fn seen(sector: u32, content: &[u8]) -> Result<WriteId, (Invariant, String)> {
        if content.iter().all(|&byte| byte == 0) {
            return Ok(NEVER_WRITTEN);
        }
        match Stamp::of(content) {
            Some(stamp) if stamp.sector == sector => Ok(stamp.write),
            Some(stamp) => {
                Err((Invariant::I3, format!("sector {sector} returns what was written to {}", stamp.sector)))
            }
            None => Err((Invariant::I3, format!("sector {sector} returns bytes nobody wrote"))),
        }
    }

    /// The power went: what no durable write replaced may be back.
    pub fn power_cut(&mut self, history: &History) {
        for register in self.registers.values_mut() {
            let durable: Vec<Tick> = register
                .candidates
                .iter()
                .filter_map(|candidate| history.op(candidate.write))
                .filter(|op| op.durable.is_some())
                .map(|op| op.invoked)
                .collect();
            for candidate in &mut register.candidates {
                let ended = history.op(candidate.write).map_or(Some(Tick(0)), |op| op.ended);
                let replaced = ended.is_some_and(|ended| durable.iter().any(|&began| ended < began));
                if !replaced {
                    candidate.dead = None;
                }
            }
        }
    }

    /// The sectors somebody wrote to.
    pub fn sectors(&self) -> impl Iterator<Item = u32> {
        self.registers.keys().copied()
    }
}

fn named(write: WriteId, history: &History) -> String {
    match history.op(write) {
        None if write == NEVER_WRITTEN => "zeroes".to_owned(),
        None => format!("write {} which nobody made", write.0),
        Some(op) => format!(
            "write {} (host {}, {}, {}, told {:?}, durable {})",
            write.0,
            op.host,
            op.epoch,
            op.incarnation,
            op.told.map(|(_, outcome)| outcome),
            op.durable.is_some()
        ),
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::checkers::Outcome;
    use units::{Epoch, Incarnation};

    struct Bench {
        history: History,
        checker: NoLostAck,
        now: u64,
    }

    impl Bench {
        fn new() -> Self {
            Self { history: History::default(), checker: NoLostAck::default(), now: 0 }
        }

        fn tick(&mut self) -> Tick {
            self.now += 1;
            Tick(self.now)
        }

        fn begin(&mut self) -> WriteId {
            let op = Op {
                host: 1,
                epoch: Epoch(1),
                incarnation: Incarnation(1),
                sector: 0,
                sectors: 1,
                fua: false,
                zeroes: false,
                invoked: self.tick(),
                told: None,
                ended: None,
                durable: None,
            };
            let write = self.history.begin(op);
            self.checker.begin(write, &op);
            write
        }

        fn ack(&mut self, write: WriteId, durable: bool) {
            let now = self.tick();
            let op = self.history.op_mut(write);
            (op.told, op.ended) = (Some((now, Outcome::Acked)), Some(now));
            op.durable = durable.then_some(now);
            self.checker.acked(write, now, &self.history);
        }

        fn write(&mut self, durable: bool) -> WriteId {
            let write = self.begin();
            self.ack(write, durable);
            write
        }

        fn read(&mut self, write: WriteId) -> Verdict {
            let mut sector = [0; SECTOR];
            if write != NEVER_WRITTEN {
                Stamp { write, sector: 0, epoch: Epoch(1) }.fill(&mut sector);
            }
            let (began, now) = (self.tick(), self.tick());
            self.checker.read(began, now, 0, &sector, &self.history)
        }
    }

    /// Goal: an acknowledged write hides the older ones, and a concurrent one may win until somebody looked.
    #[test]
    fn reads_follow_one_order() {
        let mut bench = Bench::new();
        let first = bench.write(false);
        assert!(bench.read(first).is_ok());
        assert!(bench.read(NEVER_WRITTEN).is_err());

        let (left, right) = (bench.begin(), bench.begin());
        assert!(bench.read(first).is_ok(), "neither is done");
        assert!(bench.read(left).is_ok() && bench.read(first).is_ok(), "members differ while a write is in flight");
        bench.ack(left, false);
        bench.ack(right, false);
        assert!(bench.read(first).is_err());
        assert!(bench.read(left).is_ok());
        assert!(bench.read(right).is_err(), "left was seen after both had ended");
    }

    /// Goal: a power cut takes back what was not durable and nothing else.
    #[test]
    fn a_power_cut_brings_back_only_what_was_not_replaced_durably() {
        let mut bench = Bench::new();
        let (first, durable, volatile) = (bench.write(false), bench.write(true), bench.write(false));
        assert!(bench.read(durable).is_err(), "replaced while the power was on");
        bench.checker.power_cut(&bench.history);
        assert!(bench.read(first).is_err(), "replaced durably");
        assert!(bench.read(durable).is_ok());
        assert!(bench.read(volatile).is_err(), "the older one was seen, so this one is lost for good");
    }
}
