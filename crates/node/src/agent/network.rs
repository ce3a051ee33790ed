//! The network of this host: its bridges, and the taps of its guests.

use super::host_config::{Bridge, HostConfig};
use super::place::Place;
use crate::peer::Brief;
use host::net::{bridges, check_uplink, keep_bridge, keep_tap, remove_tap};
use host::vm::{NICS_MAX, Nic, Owner};
use units::VmName;

/// Keeps the bridges of `host.toml`; what is wrong with them, each with what to do.
#[must_use]
pub fn keep_bridges(place: &Place) -> Vec<(String, String)> {
    let file = place.etc("host.toml");
    let edit = format!("correct '{}'; the node reads it again by itself", file.display());
    match HostConfig::load(&file) {
        Err(text) => vec![(text, edit)],
        Ok(config) => config.bridges.iter().filter_map(|bridge| keep(bridge, &edit)).collect(),
    }
}

fn keep(Bridge { name, ports }: &Bridge, edit: &str) -> Option<(String, String)> {
    if let Err(error) = keep_bridge(name, ports) {
        return Some((error.to_string(), edit.to_owned()));
    }
    let why = check_uplink(name, ports).err()?;
    let hint = "plug the cable in, or take the port out of host.toml; until then no VM with this bridge is placed here";
    Some((format!("the bridge '{name}' leads nowhere: {why}"), hint.to_owned()))
}

/// The bridges there are that lead where they should, and those that do not, each with why.
#[must_use]
pub fn there(place: &Place) -> (Vec<String>, Vec<(String, String)>) {
    let kept = place.bridges();
    let mut names = bridges().unwrap_or_default();
    names.extend(kept.iter().map(|bridge| bridge.name.clone()));
    names.sort();
    names.dedup();
    let ports = |name: &String| kept.iter().find(|bridge| bridge.name == *name).map_or(&[][..], |it| &it.ports[..]);
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for name in names {
        match check_uplink(&name, ports(&name)) {
            Ok(()) => good.push(name),
            Err(why) => bad.push((name, why)),
        }
    }
    (good, bad)
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

    /// Goal: A23: a bridge that leads nowhere is not among those that guests are sent to, and the reason is; also while host.toml cannot be
    /// read. Method: a bridge that there is not, by the file, and when the file is spoilt.
    #[test]
    fn a_bridge_that_leads_nowhere_is_named() {
        let base = std::env::temp_dir().join(format!("muskox-bridges-{}", std::process::id()));
        let root = crate::root::Root::new(&base);
        root.make_folders().unwrap();
        let seat = crate::identity::Seat {
            name: "box".parse().unwrap(),
            address: "127.0.0.1:1".parse().unwrap(),
            portals: Vec::new(),
            roles: vec![api::Role::Host],
        };
        let identity = crate::identity::Identity::new(units::CaFingerprint([0; 32]), seat, None);
        let place = Place::new(&root, &identity, units::HostKey([0; 32]));
        let file = place.etc("host.toml");
        let missing = ("mxnowhere".to_owned(), "there is none".to_owned());
        assert!(!there(&place).1.contains(&missing), "nobody wants it yet");
        for text in ["[[bridge]]\nname = \"mxnowhere\"\nports = [\"mxeth9\"]\n", "torn ["] {
            std::fs::write(&file, text).unwrap();
            let (good, bad) = there(&place);
            assert!(bad.contains(&missing) && !good.contains(&missing.0), "{text}: {good:?} {bad:?}");
        }
        assert_eq!(keep_bridges(&place).len(), 1, "the file is complained of");
        std::fs::remove_dir_all(base).unwrap();
    }

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
