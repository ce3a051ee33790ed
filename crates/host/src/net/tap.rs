//! Taps: a guest's end of a cable to a bridge.

use super::{bridge, link};
use std::io;

/// The user who may open a tap; `None`: only root.
pub type TapOwner = Option<u32>;

/// Makes a tap that stays, or takes the one there is, and plugs it into a bridge.
///
/// # Errors
/// What the kernel refuses.
pub fn keep_tap(name: &str, bridge: &str, owner: TapOwner) -> io::Result<()> {
    if !link::sysfs(bridge).join("bridge").exists() {
        return Err(io::Error::other(format!("there is no bridge '{bridge}'")));
    }
    if !link::exists(name) {
        let failed =
            |error: io::Error| io::Error::new(error.kind(), format!("the tap '{name}' cannot be made: {error}"));
        link::make_tap(name, owner).map_err(failed)?;
    }
    bridge::plug(bridge, name)
}

/// Removes a tap, if there is one and nobody holds it.
///
/// # Errors
/// What the kernel refuses.
pub fn remove_tap(name: &str) -> io::Result<()> {
    if link::exists(name) { link::unmake_tap(name) } else { Ok(()) }
}
