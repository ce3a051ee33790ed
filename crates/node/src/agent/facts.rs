//! What this machine is and has, for `look`.

use super::guest::Guest;
use super::place::{Place, kvm_is_roots};
use api::Role;
use host::users::UserRange;
use std::ops::RangeInclusive;
use std::path::Path;
use std::rc::Rc;
use units::ByteLen;

/// Source: proc_meminfo(5).
const MEMINFO: &str = "/proc/meminfo";
/// Source: proc_cpuinfo(5).
const CPUINFO: &str = "/proc/cpuinfo";
/// Source: getconf(1): the page of every machine that QEMU's x86 guests run on.
const PAGE_BYTES: u64 = 4096;

/// Memory that guests never get, so that the kernel does not end a target, an initiator or a QEMU for want of it: a thirty-second
/// part, within these bounds.
const RESERVE: RangeInclusive<ByteLen> = ByteLen::mib(256)..=ByteLen::mib(2048);
const RESERVE_PART: u64 = 32;

/// Memory in all, and what new guests could use: what guests here have not touched yet is theirs.
#[must_use]
pub fn memory(guests: &[Rc<Guest>]) -> (ByteLen, ByteLen) {
    let text = std::fs::read_to_string(MEMINFO).unwrap_or_default();
    let (total, available) = (field(&text, "MemTotal:"), field(&text, "MemAvailable:"));
    let untouched = guests.iter().filter_map(|guest| guest.cost()).map(|(cost, pid)| {
        let resident = pid.and_then(resident_bytes).unwrap_or(0);
        cost.0.saturating_sub(resident)
    });
    (ByteLen(total), free(total, available, untouched.sum()))
}

/// What new guests could use.
fn free(total: u64, available: u64, untouched: u64) -> ByteLen {
    let reserve = (total / RESERVE_PART).clamp(RESERVE.start().0, RESERVE.end().0);
    ByteLen(available.saturating_sub(untouched).saturating_sub(reserve))
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Source: proc_pid_statm(5).
fn resident_bytes(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    Some(text.split_whitespace().nth(1)?.parse::<u64>().ok()? * PAGE_BYTES)
}

/// Processors.
#[must_use]
pub fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX))
}

/// QEMU's version, asked of the program.
pub async fn qemu_version(qemu: &Path) -> Option<(u32, u32)> {
    let qemu = qemu.to_owned();
    let asked = tokio::task::spawn_blocking(move || std::process::Command::new(qemu).arg("--version").output());
    let said = String::from_utf8(asked.await.ok()?.ok()?.stdout).ok()?;
    read_version(&said)
}

fn read_version(said: &str) -> Option<(u32, u32)> {
    let mut parts = said.split("version ").nth(1)?.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// What is not as a host needs it, each with what to do.
#[must_use]
pub fn complaints(place: &Place) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut complain = |text: &str, hint: &str| found.push((text.to_owned(), hint.to_owned()));
    if place.is(Role::Host) {
        if place.qemu().is_none() {
            complain("there is no QEMU", "install it: `apt-get install qemu-system-x86`");
        }
        if !Path::new("/dev/net/tun").exists() {
            complain("/dev/net/tun is missing: guests have no network", "run `modprobe tun`");
        }
        match place.users_range() {
            Err(text) => {
                complain(&format!("no VM can start: {text}"), "correct host.toml; the node reads it again by itself");
            }
            Ok(range) => complain_of_users(range, &mut complain),
        }
        if is_virtual(&std::fs::read_to_string(CPUINFO).unwrap_or_default()) {
            complain(
                "it is a virtual machine: its clock stands while its hypervisor pauses it, so after that its guests may run for up to \
                 3 s beside others that were started in their place",
                "use machines of their own as hosts; otherwise never pause, suspend or snapshot this one while guests run",
            );
        }
        if kvm_is_roots() {
            complain(
                "only root may open /dev/kvm, and QEMU is not root",
                "run `chgrp kvm /dev/kvm; chmod 660 /dev/kvm`, then restart",
            );
        }
    }
    found
}

/// Whether a hypervisor runs this machine. Source: CPUID leaf 1, ECX bit 31, which Linux calls so (`arch/x86/include/asm/cpufeatures.h`).
fn is_virtual(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':'));
    flags.is_some_and(|(_, flags)| flags.split_whitespace().any(|flag| flag == "hypervisor"))
}

fn complain_of_users(range: UserRange, complain: &mut impl FnMut(&str, &str)) {
    let hint = "choose other [users] in host.toml; these numbers are passed over meanwhile";
    match range.conflicts() {
        Ok(conflicts) if conflicts.is_empty() => {}
        Ok(conflicts) => complain(&format!("users of QEMUs are others' too: {}", conflicts.join(", ")), hint),
        Err(error) => complain(&format!("whether users of QEMUs are others' is not known: {error}"), hint),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: A34: a reserve stays, and what guests have not touched is theirs. Method: by hand; a small machine and a large one.
    #[test]
    fn a_reserve_is_not_given_away() {
        let gib = |n: u64| n << 30;
        assert_eq!(free(gib(4), gib(3), gib(1)), ByteLen(gib(2) - (256 << 20)));
        assert_eq!(free(gib(16), gib(10), 0), ByteLen(gib(10) - (512 << 20)));
        assert_eq!(free(gib(512), gib(100), gib(50)), ByteLen(gib(48)));
        assert_eq!(free(gib(4), 150 << 20, 0), ByteLen(0), "nothing is left for a guest");
    }

    #[test]
    fn texts_are_read() {
        let text = "MemTotal:       24678832 kB\nMemFree: 1 kB\nMemAvailable:   22000000 kB\n";
        assert_eq!((field(text, "MemTotal:"), field(text, "MemAvailable:")), (24_678_832 << 10, 22_000_000 << 10));
        assert_eq!(field("", "MemTotal:"), 0);
        assert_eq!(read_version("QEMU emulator version 10.0.2 (Debian 1:10)\nCopyright"), Some((10, 0)));
        assert_eq!(read_version("nothing"), None);
        // control B1: said of a host whose clock somebody else may stop.
        assert!(is_virtual("processor\t: 0\nflags\t\t: fpu vme hypervisor lahf_lm\n"));
        assert!(!is_virtual("model name\t: hypervisor\nflags\t\t: fpu vme hypervisor2\n") && !is_virtual(""));
    }
}
