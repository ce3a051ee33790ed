//! A VM's initiator: its configuration for one epoch, its process, and whether every volume is attached.
//!
//! Invariant: a process serves one epoch; another epoch is another process on the same sockets.

use super::configuration::Configuration;
use super::place::{ENVIRONMENT, Place};
use super::supervise;
use crate::control::ask;
use crate::peer::{Brief, BriefDisk, DiskTell};
use host::vm::{Cgroup, Daemon};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use units::{Epoch, HostKey, Millis, Mode, VmName, VolumeName};
use wire::control::{HeldReport, HeldState, InitiatorReport, Reply, Request};

/// How long a guest waits for a path before it is stopped: longer than a switch reboots or a storage box restarts.
pub const HOLD: Millis = Millis(600_000);
/// An attach takes tens of milliseconds; a failover waits for it.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// A target that does not come back by then is somebody's to look at; until then it is waited for and said so.
const ATTACH_MAX: Duration = Duration::from_secs(600);
/// It answers from memory.
const STATUS_MAX: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Config {
    control: PathBuf,
    state_dir: PathBuf,
    tls: Tls,
    volume: Vec<Volume>,
}

#[derive(Serialize)]
struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

#[derive(Serialize)]
struct Volume {
    name: VolumeName,
    epoch: Epoch,
    mode: Mode,
    portals: Vec<SocketAddr>,
    target: HostKey,
    socket: PathBuf,
    hold_ms: Millis,
}

/// Where QEMU finds a disk. By its number: a path of a socket has 107 bytes, and names are long.
#[must_use]
pub fn socket(place: &Place, vm: &VmName, index: usize) -> PathBuf {
    place.machine(vm).join(format!("disk{index}.sock"))
}

/// Where an initiator is asked.
#[must_use]
pub fn control(place: &Place, vm: &VmName) -> PathBuf {
    place.machine(vm).join("initiator.sock")
}

/// The process of a VM's initiator. Its configuration is not in the folder of QEMU's user, who must not choose what it
/// does.
#[must_use]
pub fn daemon(place: &Place, vm: &VmName, cgroup: Option<Cgroup>) -> Daemon {
    Daemon {
        program: place.program.clone(),
        arguments: vec!["initiator".into(), "--config".into(), configuration(place, vm).file.into()],
        environment: ENVIRONMENT.to_vec(),
        note: place.beside(vm).join("initiator.process"),
        log: place.log(&format!("initiator-{vm}")),
        cgroups: cgroup.into_iter().collect(),
    }
}

/// Whether it was ever told what to attach.
#[must_use]
pub fn is_configured(place: &Place, vm: &VmName) -> bool {
    // What cannot be looked at may be there: it is tried.
    !matches!(place.beside(vm).join("initiator.toml").try_exists(), Ok(false))
}

/// How it is, if it answers.
pub async fn status(place: &Place, vm: &VmName) -> Option<InitiatorReport> {
    match ask("initiator", &control(place, vm), Request::Status, STATUS_MAX).await {
        Ok(Reply::Initiator(report)) => Some(report),
        _ => None,
    }
}

/// The epoch of an initiator that runs.
pub async fn epoch(place: &Place, vm: &VmName) -> Option<Epoch> {
    status(place, vm).await?.volumes.first().map(|held| held.epoch)
}

/// Whether every volume is attached at this epoch; else why not.
pub async fn attached(place: &Place, brief: &Brief, epoch: Epoch) -> Result<(), String> {
    if brief.disks.is_empty() {
        return Ok(());
    }
    let report = status(place, &brief.vm).await.ok_or("its initiator does not answer")?;
    judge(&report, epoch).unwrap_or_else(Err)
}

/// Sees to it that an initiator serves this epoch, and waits until every volume is attached; `waits` hears why not yet.
///
/// # Errors
/// It never will be.
pub async fn attach(
    place: &Place,
    brief: &Brief,
    epoch: Epoch,
    cgroup: Option<Cgroup>,
    waits: impl Fn(String),
) -> Result<(), String> {
    if brief.disks.is_empty() {
        return Ok(());
    }
    let daemon = daemon(place, &brief.vm, cgroup);
    let runs = daemon.find().map_err(|error| error.to_string())?.is_some();
    if !runs || self::epoch(place, &brief.vm).await != Some(epoch) {
        // Whoever serves is not ended for a configuration that nobody could serve by.
        let replaced = configuration(place, &brief.vm).replace(place, &wanted(place, brief, epoch)).await;
        replaced.map_err(|problem| problem.to_string())?;
        supervise::end(&daemon).await?;
        daemon.start().map_err(|error| error.to_string())?;
    }
    let begun = Instant::now();
    loop {
        let now = match status(place, &brief.vm).await {
            Some(report) => judge(&report, epoch).map_err(|fenced| format!("fenced: {fenced}"))?,
            None => still_lives(&daemon)?,
        };
        match now {
            Ok(()) => break,
            Err(reason) if begun.elapsed() > ATTACH_MAX => return Err(reason),
            Err(reason) => waits(reason),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Before it listens it is not heard; one that has ended will not be.
fn still_lives(daemon: &Daemon) -> Result<Result<(), String>, String> {
    match daemon.find() {
        Ok(Some(_)) => Ok(Err("its initiator is starting".to_owned())),
        Ok(None) => Err(format!("its initiator ended; see {}", daemon.log.display())),
        Err(error) => Err(error.to_string()),
    }
}

/// Outer error: it is fenced. Inner one: not yet.
fn judge(report: &InitiatorReport, epoch: Epoch) -> Result<Result<(), String>, String> {
    for held in &report.volumes {
        let reason = held.reason.clone().unwrap_or_else(|| "not attached yet".to_owned());
        let text = format!("volume '{}': {reason}", held.volume);
        if held.epoch != epoch {
            return Ok(Err(format!("volume '{}' is attached at {}, not {epoch}", held.volume, held.epoch)));
        }
        match held.state {
            HeldState::Up => {}
            HeldState::Fenced => return Err(text),
            HeldState::Opening | HeldState::Waiting => return Ok(Err(text)),
        }
    }
    Ok(Ok(()))
}

/// How a disk is reached, for whoever is told.
#[must_use]
pub fn told(held: HeldReport) -> DiskTell {
    let waits = matches!(held.state, HeldState::Opening | HeldState::Waiting | HeldState::Fenced);
    let why = || held.reason.clone().unwrap_or_else(|| "not attached yet".to_owned());
    let waits = waits.then(why);
    let mut told = DiskTell { volume: held.volume, waits, down: Vec::new(), up: Vec::new() };
    for path in held.paths {
        match path.reason {
            Some(why) => told.down.push((path.portal, why)),
            None => told.up.push(path.portal),
        }
    }
    told
}

fn configuration(place: &Place, vm: &VmName) -> Configuration {
    Configuration { role: "initiator", file: place.beside(vm).join("initiator.toml"), secret: true }
}

/// What the file should say.
#[must_use]
pub fn wanted(place: &Place, brief: &Brief, epoch: Epoch) -> String {
    let files = place.tls();
    let volume = |(index, disk): (usize, &BriefDisk)| Volume {
        name: disk.volume.clone(),
        epoch,
        mode: Mode::Rw,
        portals: disk.portals.clone(),
        target: disk.target,
        socket: socket(place, &brief.vm, index),
        hold_ms: HOLD,
    };
    let config = Config {
        control: control(place, &brief.vm),
        state_dir: place.beside(&brief.vm),
        tls: Tls { certificate: files.certificate, key: files.key, ca: files.ca },
        volume: brief.disks.iter().enumerate().map(volume).collect(),
    };
    toml::to_string(&config).expect("plain values are TOML")
}
