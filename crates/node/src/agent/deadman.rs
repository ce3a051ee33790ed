//! This machine's dead-man: its configuration, its process, and its leave to let guests run.
//!
//! Invariant: where enough witnesses can vote a host dead, no guest is let run without the dead-man's word: it would run
//! on while others are sure that it does not.

use super::configuration::Configuration;
use super::place::{ENVIRONMENT, Place};
use super::unit::Unit;
use crate::control::ask;
use crate::install;
use crate::peer::{Synced, WitnessAt};
use crate::ports;
use crate::root::{Root, read_text};
use api::Role;
use cluster::lease::{LeaseTiming, WITNESSES_MIN};
use host::vm::Daemon;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use units::{HostKey, NodeName};
use wire::control::{DeadmanReport, Refusal, Reply, Request, StandingReport};

/// It answers from memory.
const STATUS_MAX: Duration = Duration::from_secs(1);
/// It gives its disk some time, and answers then.
const RELOAD_MAX: Duration = Duration::from_secs(10);

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
        arguments: arguments(place.root()),
        environment: ENVIRONMENT.to_vec(),
        note: place.run("deadman.process"),
        log: place.log("deadman"),
        cgroups: Vec::new(),
    }
}

/// What it is told on its command line.
#[must_use]
pub fn arguments(root: &Root) -> Vec<OsString> {
    vec!["deadman".into(), "--config".into(), file_of(root).into()]
}

/// Its configuration file, which is written as soon as the machine is told of witnesses.
#[must_use]
pub fn file_of(root: &Root) -> PathBuf {
    root.below("etc/muskox/deadman.toml")
}

/// Who keeps it where systemd runs.
#[must_use]
pub fn unit(place: &Place) -> Unit {
    Unit::of(place, install::DEADMAN_UNIT)
}

/// Its configuration file.
#[must_use]
pub fn configuration(place: &Place) -> Configuration {
    Configuration { role: "deadman", file: file(place), secret: false }
}

/// What the file should say, by what was told of witnesses and times.
#[must_use]
pub fn wanted(place: &Place, synced: &Synced) -> String {
    let files = place.tls();
    let mut ips = place.storage.clone();
    if !ips.contains(&place.ip) {
        ips.insert(0, place.ip);
    }
    let witness = |it: &WitnessAt| Witness { key: it.key, name: it.name.clone(), portals: it.portals.clone() };
    let config = Config {
        control: control(place),
        listen: ips.into_iter().map(|ip| SocketAddr::new(ip, ports::DEADMAN)).collect(),
        vms: place.is(Role::Host).then(|| place.run("vm")),
        tls: Files { certificate: files.certificate, key: files.key, ca: files.ca },
        timing: synced.timing,
        witness: synced.witnesses.iter().map(witness).collect(),
    };
    let text = toml::to_string(&config).expect("plain values are TOML");
    format!("# Written by `muskox node run`; do not edit.\n{text}")
}

/// Whether there is anything for it to do yet: it knows witnesses.
#[must_use]
pub fn is_configured(place: &Place) -> bool {
    witness_count(place).is_ok_and(|count| count > 0)
}

/// Has it read its configuration again.
///
/// # Errors
/// Why it did not. [`wire::control::Code::Invalid`]: what changed is read by a new life only.
pub async fn reload(place: &Place) -> Result<(), Refusal> {
    ask("dead-man", &control(place), Request::Reload, RELOAD_MAX).await.map(drop)
}

/// Whether it answers.
pub async fn answers(place: &Place) -> bool {
    status(place).await.is_ok()
}

/// What it says: the process, not its file.
///
/// # Errors
/// Why it does not, for people.
pub async fn status(place: &Place) -> Result<DeadmanReport, String> {
    match ask("dead-man", &control(place), Request::Status, STATUS_MAX).await {
        Ok(Reply::Deadman(report)) => Ok(report),
        Ok(other) => Err(format!("the dead-man answered something else: {other:?}")),
        Err(refusal) => Err(refusal.text),
    }
}

/// The witnesses that it goes by, sorted.
#[must_use]
pub fn witnesses_of(report: &DeadmanReport) -> Vec<HostKey> {
    let mut known: Vec<HostKey> = report.peers.iter().map(|peer| peer.witness).collect();
    known.sort_unstable();
    known
}

/// Whether a guest may be let run now.
pub async fn leave(place: &Place) -> Leave {
    match witness_count(place) {
        // Nobody can be voted dead, and nobody has to stop.
        Ok(count) if count < WITNESSES_MIN => return Leave::Given,
        Ok(_) => {}
        Err(why) => return Leave::Withheld(why),
    }
    let judge = |report: DeadmanReport| withheld(report.standing).map_or(Leave::Given, Leave::Withheld);
    status(place).await.map_or_else(Leave::Withheld, judge)
}

/// How many witnesses it was told of. A file that cannot be read is not one that names nobody.
///
/// # Errors
/// Why that is not known.
pub fn witness_count(place: &Place) -> Result<usize, String> {
    let file = file(place);
    if matches!(file.try_exists(), Ok(false)) {
        return Ok(0);
    }
    let unread = |why: &dyn std::fmt::Display| format!("who the witnesses are cannot be read: {why}");
    let text = read_text(&file).map_err(|problem| unread(&problem))?;
    toml::from_str::<Config>(&text)
        .map(|config| config.witness.len())
        .map_err(|error| unread(&crate::versions::toml_mistake(&text, &error)))
}

/// Why no guest is let run where the dead-man stands like this; none: they may run.
#[must_use]
pub fn withheld(standing: StandingReport) -> Option<String> {
    let why = match standing {
        StandingReport::Running(_) | StandingReport::Unwatched => return None,
        StandingReport::Paused => "the dead-man pauses all guests: no majority of witnesses grants",
        StandingReport::Asking => "the dead-man makes sure first that every guest stands",
    };
    Some(why.to_owned())
}

fn file(place: &Place) -> PathBuf {
    file_of(place.root())
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::identity::{Identity, Seat};
    use crate::root::Root;

    /// Goal: witnesses that cannot be read are not taken for none: a guest that runs without the dead-man's word might be
    /// voted dead. Method: no file; one that is torn; one of three witnesses whose dead-man does not answer.
    #[tokio::test]
    async fn a_torn_configuration_gives_no_leave() {
        let base = std::env::temp_dir().join(format!("muskox-leave-{}", std::process::id()));
        std::fs::create_dir_all(base.join("etc/muskox")).unwrap();
        let (address, roles) = ("127.0.0.1:1".parse().unwrap(), vec![Role::Host]);
        let seat = Seat { name: "alpha".parse().unwrap(), address, portals: Vec::new(), roles };
        let identity = Identity::new(units::CaFingerprint([1; 32]), seat, None);
        let place = Place::new(&Root::new(&base), &identity, HostKey([1; 32]));
        assert_eq!(leave(&place).await, Leave::Given, "nobody is a witness yet");
        std::fs::write(file(&place), "control = \"").unwrap();
        let torn = leave(&place).await;
        assert!(matches!(&torn, Leave::Withheld(why) if why.contains("cannot be read")), "{torn:?}");
        assert!(!is_configured(&place));
        std::fs::remove_dir_all(base).unwrap();
    }
}
