//! Bridges that guests are plugged into.

use super::{duties, link};
use std::io;

/// Keeps a bridge: made if it is missing, without delay, its ports on it, all up. A port that is refused keeps no other one off.
///
/// # Errors
/// What the kernel refuses, with the interface that it concerns; a port that this machine needs for itself, or that is on the
/// bridge and would be needed.
pub fn keep_bridge(name: &str, ports: &[String]) -> io::Result<()> {
    if !link::exists(name) {
        link::make_bridge(name).map_err(|error| about(name, "cannot be made", &error))?;
        // A guest that has moved must be heard at once; loops are the business of the switches.
        set(name, "forward_delay", "0")?;
        set(name, "stp_state", "0")?;
    }
    check_is_bridge(name)?;
    link::set_up(name).map_err(|error| about(name, "cannot be taken up", &error))?;
    all(ports.iter().map(|port| check_port(name, port).and_then(|()| plug(name, port)).and_then(|()| check_kept(port))))
}

/// Whether a bridge could be kept with these ports, as things are now. Nothing is changed.
///
/// # Errors
/// As [`keep_bridge`].
pub fn check_bridge(name: &str, ports: &[String]) -> io::Result<()> {
    if link::exists(name) {
        check_is_bridge(name)?;
    }
    all(ports.iter().map(|port| check_port(name, port).and_then(|()| check_kept(port))))
}

/// Whether what guests send leaves this machine: one of the ports that the bridge should have is on it and has a carrier. A bridge that
/// should have none is judged by the ports it has beside taps, if any; one for guests of this machine alone has none.
///
/// # Errors
/// Why not, as the end of a sentence on the bridge.
pub fn check_uplink(name: &str, ports: &[String]) -> Result<(), String> {
    if !link::sysfs(name).join("bridge").exists() {
        return Err("there is none".to_owned());
    }
    let ports = if ports.is_empty() { uplinks(name) } else { ports.to_vec() };
    let wrong = |port: &String| match link::master(port) {
        Some(master) if master == name && link::has_carrier(port) => None,
        Some(master) if master == name => Some(format!("its port '{port}' has no carrier")),
        _ => Some(format!("its port '{port}' is not on it")),
    };
    let reasons: Vec<String> = ports.iter().filter_map(wrong).collect();
    if reasons.is_empty() || reasons.len() < ports.len() { Ok(()) } else { Err(reasons.join(", ")) }
}

/// The ports of a bridge that are no guest's.
fn uplinks(bridge: &str) -> Vec<String> {
    let listed = std::fs::read_dir(link::sysfs(bridge).join("brif")).into_iter().flatten().filter_map(Result::ok);
    let names = listed.filter_map(|entry| entry.file_name().into_string().ok());
    // Source: the kernel's `drivers/net/tun.c`, `tun_flags`: only taps and tuns have it.
    names.filter(|port| !link::sysfs(port).join("tun_flags").exists()).collect()
}

fn check_is_bridge(name: &str) -> io::Result<()> {
    if link::sysfs(name).join("bridge").exists() {
        return Ok(());
    }
    Err(io::Error::other(format!("the interface '{name}' is no bridge")))
}

/// Whether an interface may be put on a bridge, or is on it.
fn check_port(bridge: &str, port: &str) -> io::Result<()> {
    check_plug(bridge, port)?;
    if link::master(port).is_some() {
        return Ok(());
    }
    let needed = needed(port)?;
    if needed.is_empty() {
        return Ok(());
    }
    let text = format!("'{port}' carries {needed}; on the bridge '{bridge}' this machine would lose that");
    Err(io::Error::other(text))
}

/// Whether an interface that is on a bridge is the bridge's alone.
fn check_kept(port: &str) -> io::Result<()> {
    let needed = needed(port)?;
    if needed.is_empty() {
        return Ok(());
    }
    let text = format!("'{port}' is on a bridge and carries {needed}, where nothing arrives for this machine any more");
    Err(io::Error::other(text))
}

fn needed(port: &str) -> io::Result<String> {
    let duties = duties(port).map_err(|error| about(port, "may be needed: its addresses cannot be listed", &error))?;
    Ok(duties.join(", "))
}

fn check_plug(bridge: &str, port: &str) -> io::Result<()> {
    if !link::exists(port) {
        return Err(io::Error::other(format!("there is no interface '{port}' for the bridge '{bridge}'")));
    }
    match link::master(port) {
        Some(master) if master != bridge => {
            Err(io::Error::other(format!("'{port}' is on '{master}' already, not on '{bridge}'")))
        }
        _ => Ok(()),
    }
}

/// Puts an interface on a bridge and takes it up.
pub(super) fn plug(bridge: &str, port: &str) -> io::Result<()> {
    check_plug(bridge, port)?;
    if link::master(port).is_none() {
        link::enslave(bridge, port)
            .map_err(|error| about(port, &format!("cannot be put on the bridge '{bridge}'"), &error))?;
    }
    link::set_up(port).map_err(|error| about(port, "cannot be taken up", &error))
}

/// All that failed, as one error.
fn all(done: impl Iterator<Item = io::Result<()>>) -> io::Result<()> {
    let failed: Vec<String> = done.filter_map(Result::err).map(|error| error.to_string()).collect();
    if failed.is_empty() { Ok(()) } else { Err(io::Error::other(failed.join("; "))) }
}

/// The bridges there are.
///
/// # Errors
/// If they cannot be listed.
pub fn bridges() -> io::Result<Vec<String>> {
    let listed = std::fs::read_dir("/sys/class/net")?.filter_map(Result::ok);
    let bridges = listed.filter(|entry| entry.path().join("bridge").exists());
    let mut names: Vec<String> = bridges.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

fn set(bridge: &str, key: &str, value: &str) -> io::Result<()> {
    let path = link::sysfs(bridge).join("bridge").join(key);
    std::fs::write(path, value).map_err(|error| about(bridge, &format!("takes no {key} of {value}"), &error))
}

fn about(name: &str, what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("'{name}' {what}: {error}"))
}
