//! Outages that hit everybody: nothing is to be done but to wait, and nothing is done.

use super::super::evidence::{Cause, What};
use super::{ANSWER_MAX, Play};
use crate::machine::Role;
use std::time::Duration;

/// How long the switch is off.
const SWITCH_OFF: Duration = Duration::from_secs(60);
/// Within this time its ports come back, in random order.
const PORTS_BACK: Duration = Duration::from_secs(10);
/// How long the storage box is off.
const STORAGE_OFF: Duration = Duration::from_secs(10);

impl Play {
    pub(super) fn switch(&mut self) -> anyhow::Result<()> {
        let fault = self.inject(Cause::Switch, None)?;
        {
            let site = &self.cluster.site;
            site.switch.cut(&site.ports())?;
        }
        self.nap(SWITCH_OFF)?;
        let count = self.cluster.site.ports().len();
        let pause = PORTS_BACK / u32::try_from(count).expect("a lab has few ports");
        for number in shuffled(count, &mut self.seed) {
            {
                let site = &self.cluster.site;
                site.switch.put_back(&[site.ports()[number]])?;
            }
            self.nap(pause)?;
        }
        self.writer.event(What::End { fault })?;
        self.goes_on(fault)
    }

    pub(super) fn storage(&mut self) -> anyhow::Result<()> {
        let fault = self.inject(Cause::Storage, None)?;
        self.cluster.power_off(Role::Storage)?;
        self.nap(STORAGE_OFF)?;
        self.writer.event(What::End { fault })?;
        self.cluster.power_on(Role::Storage)?;
        self.goes_on(fault)
    }

    /// The guest works on; what the store says by then is compared with what it said before.
    fn goes_on(&mut self, fault: u32) -> anyhow::Result<()> {
        let acked = self.watch().acked();
        self.wait(ANSWER_MAX, "the guest works on", |play| play.watch().acked() > acked + 20)?;
        for role in super::super::cluster::MEMBERS {
            self.member_is_up(role)?;
        }
        self.witness_again()?;
        self.settled(fault)
    }
}

/// 0 to `count`, in an order that the seed decides.
fn shuffled(count: usize, seed: &mut u64) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        // Source: Marsaglia, "Xorshift RNGs" (2003): the triple 13, 7, 17.
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        let other = usize::try_from(*seed % (last as u64 + 1)).expect("below a count");
        numbers.swap(last, other);
    }
    numbers
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn every_port_comes_back_once_in_another_order() {
        let mut seed = 7;
        let (first, second) = (shuffled(13, &mut seed), shuffled(13, &mut seed));
        assert_ne!(first, second);
        for mut order in [first, second] {
            order.sort_unstable();
            assert_eq!(order, (0..13).collect::<Vec<_>>());
        }
    }
}
