//! The network of this host: its bridges, and the taps of its guests.

use super::host_config::HostConfig;
use super::place::Place;
use crate::peer::Brief;
use host::net::{bridges, keep_bridge, keep_tap, remove_tap};
use host::vm::{NICS_MAX, Nic, Owner};
use units::VmName;

/// Keeps the bridges of `host.toml`; what is wrong with them, each with what to do.
#[must_use]
pub fn keep_bridges(place: &Place) -> Vec<(String, String)> {
    let file = place.etc("host.toml");
    let edit = format!("correct '{}'; the node reads it again by itself", file.display());
    match HostConfig::load(&file) {
        Err(text) => vec![(text, edit)],
        Ok(config) => {
            let kept = config.bridges.iter().map(|bridge| keep_bridge(&bridge.name, &bridge.ports));
            kept.filter_map(Result::err).map(|error| (error.to_string(), edit.clone())).collect()
        }
    }
}

/// The bridges there are.
#[must_use]
pub fn there() -> Vec<String> {
    bridges().unwrap_or_default()
}

/// Makes the taps of a VM, for the user of its QEMU, and plugs them in.
///
/// # Errors
/// What is wrong, for people.
pub fn plug(place: &Place, brief: &Brief, owner: Option<Owner>) -> Result<Vec<Nic>, String> {
    let owner = owner.map(|owner| owner.uid);
    let nic = |(index, nic): (usize, &crate::peer::BriefNic)| {
        let tap = tap_name(place, &brief.vm, index);
        let mac = mac(&nic.mac).ok_or_else(|| format!("'{}' is no address of a network interface", nic.mac))?;
        keep_tap(&tap, &nic.bridge, owner).map_err(|error| error.to_string())?;
        Ok(Nic { tap, mac })
    };
    brief.nics.iter().enumerate().map(nic).collect()
}

/// Removes the taps of a VM whose QEMU is gone.
///
/// # Errors
/// Which one stays, for people.
pub fn unplug(place: &Place, brief: &Brief) -> Result<(), String> {
    remove_taps((0..brief.nics.len()).map(|index| tap_name(place, &brief.vm, index)))
}

/// Removes all taps that a VM may have had: what it was is not known.
///
/// # Errors
/// As [`unplug`].
pub fn unplug_all(place: &Place, vm: &VmName) -> Result<(), String> {
    remove_taps((0..NICS_MAX).map(|index| tap_name(place, vm, index)))
}

fn remove_taps(taps: impl Iterator<Item = String>) -> Result<(), String> {
    let removed: Vec<_> =
        taps.map(|tap| remove_tap(&tap).map_err(|error| format!("the tap '{tap}': {error}"))).collect();
    removed.into_iter().collect()
}

/// A name of its own for each interface, 14 bytes; also where several hosts rehearse on one machine.
fn tap_name(place: &Place, vm: &VmName, index: usize) -> String {
    format!("mx{}", short_hash(&format!("{} {vm} {index}", place.name)))
}

/// Twelve hexadecimal digits that differ where the text does.
#[must_use]
pub fn short_hash(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref()[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn addresses_and_names() {
        assert_eq!(mac("52:54:00:ab:01:fe"), Some([0x52, 0x54, 0, 0xab, 1, 0xfe]));
        for bad in ["", "52:54", "52:54:00:ab:01:fe:00", "52:54:00:ab:01:xx"] {
            assert_eq!(mac(bad), None, "{bad}");
        }
        assert_ne!(short_hash("a 1"), short_hash("a 2"));
        assert_eq!(short_hash("a").len(), 12);
    }
}
