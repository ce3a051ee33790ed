//! Who watches the guest from its start to its end: referee, prober, lookout.

use super::beacon::{Console, Lookout};
use super::evidence::{BEACONS, Beacon, GUEST_ERRORS, PROBE, REFEREE, Writer};
use super::guest::ECHO_PORT;
use super::guest::config::Config;
use super::guest::record::Boot;
use super::now_us;
use super::probe::Prober;
use super::referee::Referee;
use crate::machine::{Role, Site};
use anyhow::Context;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Mutex;

const SECOND_US: u64 = 1_000_000;

/// The watchers.
pub struct Watch {
    referee: Referee,
    prober: Prober,
    lookout: Lookout,
    /// Since when, with how many records then, and how many came in the second before.
    pace: Mutex<(u64, u64, u32)>,
}

impl Watch {
    /// Begins, before the guest is started.
    ///
    /// # Errors
    /// When a port or a file cannot be had.
    pub fn start(site: &Site, guest: &str, consoles: Vec<(String, PathBuf)>, writer: &Writer) -> anyhow::Result<Self> {
        let client = site.machine(Role::Client).namespace();
        let guest: IpAddr = guest.parse().context("the guest's address")?;
        let referee = Referee::start(Some(&client), Config::of_the_lab().referee, &writer.path(REFEREE))?;
        let prober = Prober::start(Some(&client), SocketAddr::new(guest, ECHO_PORT), &writer.path(PROBE))?;
        let consoles = consoles.into_iter().map(|(host, log)| Console { host, log }).collect();
        let lookout = Lookout::start(consoles, &writer.path(BEACONS), &writer.path(GUEST_ERRORS))?;
        Ok(Self { referee, prober, lookout, pace: Mutex::new((now_us(), 0, 0)) })
    }

    /// Records acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.referee.heard().acked
    }

    /// Records acknowledged in the last whole second.
    pub fn acked_a_second(&self) -> u32 {
        let (now, acked) = (now_us(), self.acked());
        let mut pace = self.pace.lock().expect("no panic under this lock");
        let passed = now - pace.0;
        if passed >= SECOND_US {
            let came = u32::try_from((acked - pace.1) * SECOND_US / passed).unwrap_or(u32::MAX);
            *pace = (now, acked, came);
        }
        pace.2
    }

    /// The boot of the guest that was heard last.
    pub fn boot(&self) -> Option<Boot> {
        self.referee.heard().last.map(|receipt| receipt.boot)
    }

    /// How long the last answer to a probe is ago, in milliseconds.
    pub fn silent_ms(&self) -> Option<u64> {
        self.prober.last().map(|answer| now_us().saturating_sub(answer.at_us) / 1000)
    }

    /// When a record was acknowledged last.
    pub fn acked_at_us(&self) -> Option<u64> {
        self.referee.heard().last.map(|receipt| receipt.at_us)
    }

    /// The longest time between two answers to probes since this was asked last.
    pub fn take_longest_silence_us(&self) -> u64 {
        self.prober.take_longest_us()
    }

    /// Which boots move now, and where.
    pub fn moving(&self) -> Vec<Beacon> {
        self.lookout.moving()
    }

    /// How often the guest complained about a disk.
    pub fn errors(&self) -> u64 {
        self.lookout.errors()
    }

    /// Ends; the logs are whole then.
    ///
    /// # Errors
    /// When one could not be written.
    pub fn end(self) -> anyhow::Result<()> {
        self.referee.end()?;
        self.prober.end()?;
        self.lookout.end()
    }
}
