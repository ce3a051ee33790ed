//! This machine's dead-man: its configuration, its process, and its leave to let guests run.
//!
//! Invariant: where enough witnesses can vote a host dead, no guest is let run without the dead-man's word: it would run
//! on while others are sure that it does not.

use super::ask::ask;
use super::place::{ENVIRONMENT, Place};
use crate::peer::{Synced, WitnessAt};
use crate::root::{read_text, write_public};
use api::{Problem, Role};
use cluster::lease::{LeaseTiming, WITNESSES_MIN};
use host::vm::Daemon;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use units::{HostKey, NodeName};
use wire::control::{Reply, Request, StandingReport};

/// Its port.
const PORT: u16 = 10_812;
/// It answers from memory.
const STATUS_MAX: Duration = Duration::from_secs(1);

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Config {
    control: PathBuf,
    listen: Vec<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    vms: Option<PathBuf>,
    tls: Files,
    timing: LeaseTiming,
    #[serde(default)]
    witness: Vec<Witness>,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Witness {
    key: HostKey,
    name: NodeName,
    portals: Vec<SocketAddr>,
}

/// What the dead-man says about guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leave {
    /// They may run.
    Given,
    /// They may not, and why.
    Withheld(String),
}

/// Where it is asked.
#[must_use]
pub fn control(place: &Place) -> PathBuf {
    place.run("deadman.sock")
}

/// Its process.
#[must_use]
pub fn daemon(place: &Place) -> Daemon {
    Daemon {
        program: place.program.clone(),
        arguments: vec!["deadman".into(), "--config".into(), file(place).into()],
        environment: ENVIRONMENT.to_vec(),
        note: place.run("deadman.process"),
        log: place.log("deadman"),
        cgroups: Vec::new(),
    }
}

/// Writes what was told of witnesses and times, if it changed; whether it did.
///
/// # Errors
/// [`api::Code::Files`].
pub fn configure(place: &Place, synced: &Synced) -> Result<bool, Problem> {
    let files = place.tls();
    let mut ips = place.storage.clone();
    if !ips.contains(&place.ip) {
        ips.insert(0, place.ip);
    }
    let witness = |it: &WitnessAt| Witness { key: it.key, name: it.name.clone(), portals: it.portals.clone() };
    let config = Config {
        control: control(place),
        listen: ips.into_iter().map(|ip| SocketAddr::new(ip, PORT)).collect(),
        vms: place.is(Role::Host).then(|| place.run("vm")),
        tls: Files { certificate: files.certificate, key: files.key, ca: files.ca },
        timing: synced.timing,
        witness: synced.witnesses.iter().map(witness).collect(),
    };
    let text = toml::to_string(&config).expect("plain values are TOML");
    let text = format!("# Written by `muskox node run`; do not edit.\n{text}");
    if read_text(&file(place)).is_ok_and(|held| held == text) {
        return Ok(false);
    }
    write_public(&file(place), &text).map(|()| true)
}

/// Whether there is anything for it to do yet: it knows witnesses.
#[must_use]
pub fn is_configured(place: &Place) -> bool {
    witnesses(place) > 0
}

/// Has it read its configuration again.
///
/// # Errors
/// Why it did not: then it has to be started anew.
pub async fn reload(place: &Place) -> Result<(), String> {
    ask("deadman", &control(place), Request::Reload, STATUS_MAX).await.map(drop).map_err(|refusal| refusal.text)
}

/// Whether it answers.
pub async fn answers(place: &Place) -> bool {
    ask("deadman", &control(place), Request::Status, STATUS_MAX).await.is_ok()
}

/// Whether a guest may be let run now.
pub async fn leave(place: &Place) -> Leave {
    if witnesses(place) < WITNESSES_MIN {
        // Nobody can be voted dead, and nobody has to stop.
        return Leave::Given;
    }
    match ask("deadman", &control(place), Request::Status, STATUS_MAX).await {
        Ok(Reply::Deadman(report)) => judge(report.standing),
        Ok(other) => Leave::Withheld(format!("the dead-man answered something else: {other:?}")),
        Err(refusal) => Leave::Withheld(refusal.text),
    }
}

/// How many witnesses it was told of.
fn witnesses(place: &Place) -> usize {
    let config = read_text(&file(place)).ok().and_then(|text| toml::from_str::<Config>(&text).ok());
    config.map_or(0, |config| config.witness.len())
}

fn judge(standing: StandingReport) -> Leave {
    match standing {
        StandingReport::Running(_) | StandingReport::Unwatched => Leave::Given,
        StandingReport::Paused => {
            Leave::Withheld("the dead-man pauses all guests: no majority of witnesses grants".into())
        }
        StandingReport::Asking => Leave::Withheld("the dead-man asks the targets whose the volumes are".into()),
    }
}

fn file(place: &Place) -> PathBuf {
    place.etc("deadman.toml")
}
