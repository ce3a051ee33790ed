//! The power button: pressed by `muskox vm stop`, it shuts the guest down. Debian leaves that to systemd-logind, which
//! needs D-Bus; a guest that boots in seconds has neither.
//!
//! Source: the kernel's `uapi/linux/input.h` (`struct input_event`) and `input-event-codes.h`.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// Two words of time, type, code, value.
const EVENT_BYTES: usize = 24;
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
/// udev loads the button's driver some time after us.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Starts listening in a thread of its own.
pub fn start() {
    std::thread::spawn(|| {
        loop {
            if let Some(mut device) = find().and_then(|path| File::open(path).ok()) {
                listen(&mut device);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    });
}

fn find() -> Option<PathBuf> {
    let names = std::fs::read_dir("/sys/class/input").ok()?.flatten().map(|entry| entry.file_name());
    let is_button = |name: &std::ffi::OsString| {
        let path = PathBuf::from("/sys/class/input").join(name).join("device/name");
        std::fs::read_to_string(path).is_ok_and(|name| name.trim() == "Power Button")
    };
    names.into_iter().find(is_button).map(|name| PathBuf::from("/dev/input").join(name))
}

/// Until the device is gone.
fn listen(device: &mut File) {
    let mut event = [0; EVENT_BYTES];
    while device.read_exact(&mut event).is_ok() {
        let half = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
        let value = i32::from_ne_bytes(event[20..].try_into().expect("four bytes"));
        if half(16) == EV_KEY && half(18) == KEY_POWER && value == 1 {
            // systemctl speaks to systemd itself when there is no D-Bus.
            let _ = Command::new("systemctl").arg("poweroff").status();
        }
    }
}
