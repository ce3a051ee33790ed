//! This machine's target: its configuration and its process.

use super::configuration::Configuration;
use super::place::{ENVIRONMENT, Place};
use crate::ports;
use host::vm::Daemon;
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Serialize)]
struct Config {
    control: PathBuf,
    state_dir: PathBuf,
    listen: Vec<Listen>,
}

#[derive(Serialize)]
struct Listen {
    nbd: SocketAddr,
    tls: Files,
}

#[derive(Serialize)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

/// Where it is asked.
#[must_use]
pub fn control(place: &Place) -> PathBuf {
    place.run("target.sock")
}

/// Its process.
#[must_use]
pub fn daemon(place: &Place) -> Daemon {
    Daemon {
        program: place.program.clone(),
        arguments: vec!["target".into(), "--config".into(), configuration(place).file.into()],
        environment: ENVIRONMENT.to_vec(),
        note: place.run("target.process"),
        log: place.log("target"),
        cgroups: Vec::new(),
    }
}

/// Its configuration file.
#[must_use]
pub fn configuration(place: &Place) -> Configuration {
    Configuration { role: "target", file: place.etc("target.toml"), secret: false }
}

/// What the file should say.
#[must_use]
pub fn wanted(place: &Place) -> String {
    let listen = |ip: &std::net::IpAddr| {
        let files = place.tls();
        let tls = Files { certificate: files.certificate, key: files.key, ca: files.ca };
        Listen { nbd: SocketAddr::new(*ip, ports::TARGET), tls }
    };
    let config = Config {
        control: control(place),
        state_dir: place.kept("target"),
        listen: place.storage.iter().map(listen).collect(),
    };
    let text = toml::to_string(&config).expect("plain values are TOML");
    format!("# Written by `muskox node run`; do not edit.\n{text}")
}
