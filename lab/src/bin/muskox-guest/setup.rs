//! Name, keys and address from the seed, on every boot: the same seed gives the same guest, a new one a new guest.

use anyhow::Context;
use lab::demo::guest::config::{Config, IMAGE_PATH, SEED_FILE};
use lab::demo::guest::seed::Seed;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const MOUNT_POINT: &str = "/run/muskox-seed";
/// How long a network card may take to appear.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Does all of it, and says in `config` what image and seed say. A guest without a seed keeps what it has.
pub fn run(config: &mut Config) -> anyhow::Result<()> {
    let baked = std::fs::read_to_string(IMAGE_PATH).unwrap_or_default();
    config.overlay(&baked).map_err(anyhow::Error::msg).context(IMAGE_PATH)?;
    let Some(disk) = seed_disk() else { return Ok(()) };
    let files = ["meta-data", "user-data", "network-config", SEED_FILE];
    let [meta, user, network, ours] = read_files(&disk, files)?;
    config.overlay(&ours).map_err(anyhow::Error::msg).with_context(|| format!("{SEED_FILE} in the seed"))?;
    let seed = Seed::read(&meta, &user, &network);
    if let Some(name) = &seed.hostname {
        std::fs::write("/proc/sys/kernel/hostname", name).context("setting the host name")?;
        write_if_new(Path::new("/etc/hostname"), &format!("{name}\n"), 0o644)?;
    }
    if !seed.ssh_keys.is_empty() {
        let folder = Path::new("/root").join(".ssh");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        write_if_new(&folder.join("authorized_keys"), &(seed.ssh_keys.join("\n") + "\n"), 0o600)?;
    }
    connect(&seed)
}

/// A file system labelled CIDATA, the whole of a disk. Source: Microsoft's fatgen103, `BS_VolLab` of FAT12 and FAT16.
fn seed_disk() -> Option<PathBuf> {
    let disks = std::fs::read_dir("/sys/block").ok()?.flatten();
    let paths = disks.map(|entry| Path::new("/dev").join(entry.file_name()));
    paths.into_iter().find(|path| {
        let mut sector = [0; 512];
        let read = std::fs::File::open(path).and_then(|mut disk| disk.read_exact(&mut sector));
        read.is_ok() && sector[510..] == [0x55, 0xaa] && sector[43..54].eq_ignore_ascii_case(b"CIDATA     ")
    })
}

fn read_files<const MANY: usize>(disk: &Path, names: [&str; MANY]) -> anyhow::Result<[String; MANY]> {
    std::fs::create_dir_all(MOUNT_POINT)?;
    mount(disk, MOUNT_POINT, c"vfat", MountFlags::RDONLY, None).context("mounting the seed")?;
    let texts = names.map(|name| std::fs::read_to_string(Path::new(MOUNT_POINT).join(name)).unwrap_or_default());
    unmount(MOUNT_POINT, UnmountFlags::empty()).context("unmounting the seed")?;
    Ok(texts)
}

fn write_if_new(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}

/// The first network card gets the address.
fn connect(seed: &Seed) -> anyhow::Result<()> {
    if seed.addresses.is_empty() {
        return Ok(());
    }
    let begun = Instant::now();
    let card = loop {
        if let Some(card) = first_card() {
            break card;
        }
        anyhow::ensure!(begun.elapsed() < PATIENCE, "no network card within {} s", PATIENCE.as_secs());
        std::thread::sleep(LOOK_AGAIN);
    };
    // Replace, not add: this program may have been here before in this boot.
    let mut commands: String =
        seed.addresses.iter().map(|address| format!("address replace {address} dev {card}\n")).collect();
    commands += &format!("link set dev {card} up\n");
    if let Some(gateway) = seed.gateway {
        commands += &format!("route replace default via {gateway}\n");
    }
    ip(&commands)
}

fn first_card() -> Option<String> {
    let names = std::fs::read_dir("/sys/class/net").ok()?.flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| name != "lo").min()
}

/// Many commands in one process: starting one takes a tenth of a second on an emulated CPU.
fn ip(commands: &str) -> anyhow::Result<()> {
    let mut ip = Command::new("ip");
    ip.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = ip.spawn().context("running ip")?;
    // An `ip` that refused already reads no more; its own words are the better report.
    let _ = child.stdin.take().expect("stdin was piped above").write_all(commands.as_bytes());
    let done = child.wait_with_output()?;
    let words = String::from_utf8_lossy(&done.stderr);
    anyhow::ensure!(done.status.success(), "ip {commands:?}: {}", words.trim());
    Ok(())
}
