//! This machine's target: its configuration and its process.

use super::place::{ENVIRONMENT, Place};
use crate::root::{read_text, write_public};
use api::Problem;
use host::vm::Daemon;
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// NBD's port (IANA).
const PORT: u16 = 10_809;

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
        arguments: vec!["target".into(), "--config".into(), place.etc("target.toml").into()],
        environment: ENVIRONMENT.to_vec(),
        note: place.run("target.process"),
        log: place.log("target"),
        cgroups: Vec::new(),
    }
}

/// Writes its configuration, if it changed; whether it did.
///
/// # Errors
/// [`api::Code::Files`].
pub fn configure(place: &Place) -> Result<bool, Problem> {
    let listen = |ip: &std::net::IpAddr| {
        let files = place.tls();
        let tls = Files { certificate: files.certificate, key: files.key, ca: files.ca };
        Listen { nbd: SocketAddr::new(*ip, PORT), tls }
    };
    let config = Config {
        control: control(place),
        state_dir: place.kept("target"),
        listen: place.storage.iter().map(listen).collect(),
    };
    let text = format!(
        "# Written by `muskox node run`; do not edit.\n{}",
        toml::to_string(&config).expect("plain values are TOML")
    );
    let path = place.etc("target.toml");
    if read_text(&path).is_ok_and(|held| held == text) {
        return Ok(false);
    }
    write_public(&path, &text).map(|()| true)
}
