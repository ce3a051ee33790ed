//! What a new description may ask for. Names and texts are judged by [`host::vm::description`], which the host that starts the VM asks too;
//! here each mistake gets its place.

use super::{MANUAL, Mistake, Raw, RawDisk, RawFile, RawSeed, Spec};
use cluster::job::VOLUMES_MAX;
use host::vm::description::{self, FILES_MAX, KEYS_MAX, MEMORY_MIN_MIB, Wrong};
use host::vm::{DISKS_MAX, NICS_MAX, VCPUS_MAX};
use std::ops::{Range, RangeInclusive};
use toml::Spanned;

/// Above this a guest is a typing mistake.
const MEMORY_MAX_MIB: u32 = 4 << 20;
/// Source: Linux `include/uapi/linux/if.h`, `IFNAMSIZ` 16 with the closing zero.
const BRIDGE_MAX_BYTES: usize = 15;
/// An hour: who waits longer for a shutdown waits for somebody.
const SHUTDOWN_MAX_S: u64 = 3_600;

/// Whether this description, which was read from `text`, can be taken in.
pub(super) fn check(text: &str, raw: &Raw, spec: &Spec) -> Result<(), Mistake> {
    within("memory", raw.memory.span(), spec.memory_mib.into(), MEMORY_MIN_MIB.into()..=MEMORY_MAX_MIB.into(), "MiB")?;
    within("vcpus", raw.vcpus.span(), spec.vcpus.into(), 1..=VCPUS_MAX.into(), "virtual CPUs")?;
    if let Some(seconds) = &raw.shutdown_s {
        within("shutdown_s", seconds.span(), *seconds.get_ref(), 1..=SHUTDOWN_MAX_S, "seconds")?;
    }
    if let Some(cpu) = &raw.cpu {
        judged("cpu", cpu, description::cpu)?;
    }
    if let Some(hosts) = raw.hosts.as_ref().filter(|hosts| hosts.get_ref().is_empty()) {
        let hint = "leave it out: then any host may".to_owned();
        return Err((hosts.span(), "hosts: no host may run this VM".to_owned(), hint));
    }
    disks(&raw.disk, spec)?;
    nics(raw)?;
    match &raw.seed {
        None => Ok(()),
        Some(seed) => seed_of(text, raw, seed),
    }
}

fn disks(raw: &[Spanned<RawDisk>], spec: &Spec) -> Result<(), Mistake> {
    let most = VOLUMES_MAX.min(DISKS_MAX);
    let one_too_many = raw.get(most);
    if raw.is_empty() || one_too_many.is_some() {
        let what = format!("disk: a VM has 1 to {most} disks, this one {}", raw.len());
        let place = one_too_many.map_or(0..0, Spanned::span);
        return Err((place, what, "write [[disk]] and below it volume = \"NAME\"".to_owned()));
    }
    for (place, (disk, described)) in raw.iter().map(Spanned::get_ref).zip(&spec.disks).enumerate() {
        if spec.disks[..place].iter().any(|other| other.volume == described.volume) {
            let what = format!("disk.volume: '{}' is there twice", described.volume);
            return Err((disk.volume.span(), what, "a volume is one disk".to_owned()));
        }
        if let Some(serial) = &disk.serial {
            judged("disk.serial", serial, description::serial)?;
        }
    }
    let serials = spec.disks.iter().map(|disk| disk.serial.as_str());
    description::serials(serials, spec.seed.is_some()).map_err(|(place, wrong)| {
        let disk = raw[place].get_ref();
        let at = disk.serial.as_ref().map_or_else(|| disk.volume.span(), Spanned::span);
        mistake("disk.serial", at, &wrong)
    })
}

fn nics(raw: &Raw) -> Result<(), Mistake> {
    if let Some(one_too_many) = raw.nic.get(NICS_MAX) {
        let what = format!("nic: a VM has at most {NICS_MAX} network interfaces, this one {}", raw.nic.len());
        return Err((one_too_many.span(), what, "use VLANs in the guest".to_owned()));
    }
    for nic in raw.nic.iter().map(Spanned::get_ref) {
        let bridge = nic.bridge.get_ref();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let named = bridge.starts_with(|c: char| c.is_ascii_alphanumeric()) && bridge.chars().all(plain);
        if !named || bridge.len() > BRIDGE_MAX_BYTES {
            let what = format!("nic.bridge: '{bridge}' is not the name of a bridge (1 to {BRIDGE_MAX_BYTES} bytes)");
            return Err((nic.bridge.span(), what, "as in `ip link show type bridge` on the hosts".to_owned()));
        }
    }
    Ok(())
}

fn seed_of(text: &str, raw: &Raw, seed: &RawSeed) -> Result<(), Mistake> {
    match &seed.hostname {
        Some(hostname) => judged("seed.hostname", hostname, description::hostname)?,
        None => judged("name, which is the guest's host name as well", &raw.name, description::hostname)?,
    }
    seed.ssh_keys.iter().try_for_each(|key| judged("seed.ssh_keys", key, description::ssh_key_of_use))?;
    if let Some(key) = seed.ssh_keys.get(KEYS_MAX) {
        let what = format!("seed.ssh_keys: at most {KEYS_MAX} keys");
        return Err((key.span(), what, "let the guest fetch more by itself".to_owned()));
    }
    let in_text = |key: &str, part: &Option<Spanned<String>>, judge: fn(&str) -> Result<(), Wrong>| {
        let Some(part) = part else { return Ok(()) };
        judge(part.get_ref()).map_err(|wrong| mistake(key, line_in(text, part.span(), wrong.line), &wrong))
    };
    in_text("seed.user_data", &seed.user_data, description::user_data_of_use)?;
    in_text("seed.network_config", &seed.network_config, description::network_config_of_use)?;
    files(&seed.file)
}

fn files(files: &[RawFile]) -> Result<(), Mistake> {
    if let Some(file) = files.get(FILES_MAX) {
        let hint = "make one file of several".to_owned();
        return Err((file.name.span(), format!("seed.file: at most {FILES_MAX} files"), hint));
    }
    for (place, file) in files.iter().enumerate() {
        judged("seed.file.name", &file.name, description::file_name)?;
        let name = file.name.get_ref();
        if files[..place].iter().any(|other| other.name.get_ref() == name) {
            let what = format!("seed.file.name: two files have the name '{name}'");
            return Err((file.name.span(), what, "give one of them another name".to_owned()));
        }
    }
    Ok(())
}

fn judged(key: &str, text: &Spanned<String>, judge: fn(&str) -> Result<(), Wrong>) -> Result<(), Mistake> {
    judge(text.get_ref()).map_err(|wrong| mistake(key, text.span(), &wrong))
}

fn mistake(key: &str, place: Range<usize>, wrong: &Wrong) -> Mistake {
    (place, format!("{key}: {}", wrong.what), wrong.hint.to_owned())
}

/// Where a line of a text is that stands at `place` in a description. In a text of several lines the first one may follow the quotes.
fn line_in(description: &str, place: Range<usize>, line: usize) -> Range<usize> {
    let literal = description.get(place.clone()).unwrap_or_default();
    let quotes = if literal.starts_with("\"\"\"") || literal.starts_with("'''") { 3 } else { 0 };
    let end =
        ["\r\n", "\n"].into_iter().find(|end| quotes > 0 && literal[quotes..].starts_with(end)).unwrap_or_default();
    let skipped = quotes + end.len();
    let start =
        place.start + skipped + literal[skipped..].split_inclusive('\n').take(line).map(str::len).sum::<usize>();
    start..place.end
}

fn within(key: &str, place: Range<usize>, value: u64, allowed: RangeInclusive<u64>, unit: &str) -> Result<(), Mistake> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let what = format!("{key}: {value} is not within {} to {} {unit}", allowed.start(), allowed.end());
    Err((place, what, MANUAL.to_owned()))
}
