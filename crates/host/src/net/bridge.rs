//! Bridges that guests are plugged into.

use super::link;
use std::io;

/// Keeps a bridge: made if it is missing, without delay, its ports on it, all up.
///
/// # Errors
/// What the kernel refuses, with the interface that it concerns.
pub fn keep_bridge(name: &str, ports: &[String]) -> io::Result<()> {
    if !link::exists(name) {
        link::make_bridge(name).map_err(|error| about(name, "cannot be made", &error))?;
        // A guest that has moved must be heard at once; loops are the business of the switches.
        set(name, "forward_delay", "0")?;
        set(name, "stp_state", "0")?;
    }
    if !link::sysfs(name).join("bridge").exists() {
        return Err(io::Error::other(format!("the interface '{name}' is no bridge")));
    }
    link::set_up(name).map_err(|error| about(name, "cannot be taken up", &error))?;
    ports.iter().try_for_each(|port| plug(name, port))
}

/// Puts an interface on a bridge and takes it up.
pub(super) fn plug(bridge: &str, port: &str) -> io::Result<()> {
    if !link::exists(port) {
        return Err(io::Error::other(format!("there is no interface '{port}' for the bridge '{bridge}'")));
    }
    let master = std::fs::read_link(link::sysfs(port).join("master")).ok();
    match master.as_ref().and_then(|path| path.file_name()) {
        Some(master) if master == bridge => {}
        Some(master) => {
            let text = format!("'{port}' is on '{}' already, not on '{bridge}'", master.to_string_lossy());
            return Err(io::Error::other(text));
        }
        None => link::enslave(bridge, port)
            .map_err(|error| about(port, &format!("cannot be put on the bridge '{bridge}'"), &error))?,
    }
    link::set_up(port).map_err(|error| about(port, "cannot be taken up", &error))
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
