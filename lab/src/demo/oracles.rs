//! What stock tools say about the disks when everything has ended: mdadm about the array, LVM2 about the volumes. They
//! see the members' files and nothing of muskox; where a volume's bytes lie is what *they* say.

use super::evidence::{OracleRun, Writer};
use anyhow::Context;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Source: md's unit, `mdadm --examine` prints sectors of 512 bytes.
const SECTOR: u64 = 512;
/// Copied at a time; blocks of zeroes of this size become holes.
const PIECE: usize = 1 << 20;

/// What was found.
pub struct Found {
    /// What each tool said.
    pub runs: Vec<OracleRun>,
    /// The volumes' content, as files.
    pub volumes: Vec<PathBuf>,
}

/// A loop device on a part of a file, read-only; detached when dropped.
struct Loop(String);

impl Loop {
    fn attach(file: &Path, offset: u64) -> anyhow::Result<Self> {
        let mut command = tool("losetup");
        command.args(["--find", "--show", "--read-only", "--offset", &offset.to_string()]).arg(file);
        Ok(Self(printed(&mut command)?.trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = tool("losetup").args(["--detach", &self.0]).status();
    }
}

/// Asks mdadm about every member and LVM2 about the first, and copies the volumes out of it.
///
/// # Errors
/// When a tool cannot be run, or what it says cannot be used: then nothing can be checked.
pub fn look(members: &[PathBuf], volumes: &[&str], folder: &Path, writer: &Writer) -> anyhow::Result<Found> {
    let mut runs = Vec::new();
    let mut offsets = Vec::new();
    for (number, member) in members.iter().enumerate() {
        let (run, text) = examine(member, number, writer)?;
        offsets.push(field(&text, "Data Offset").context("mdadm says no data offset")?);
        runs.push(run);
    }
    let (member, offset) = (members.first().context("no member is left")?, offsets[0] * SECTOR);
    let device = Loop::attach(member, offset)?;
    runs.push(asked("lvm", lvm(&device.0, folder, &["pvck", "--dump", "metadata"], true), "pvck", writer)?.0);
    let fields = "lv_name,lv_size,seg_pe_ranges,seg_start_pe,vg_extent_size";
    let words = ["lvs", "--noheadings", "--nosuffix", "--units", "b", "--separator", "|", "--segments", "-o", fields];
    let (run, text) = asked("lvm", lvm(&device.0, folder, &words, false), "lvs", writer)?;
    runs.push(run);
    // It tells of LVs and of PVs not at the same time.
    let words = ["pvs", "--noheadings", "--nosuffix", "--units", "b", "-o", "pe_start"];
    let (run, begin) = asked("lvm", lvm(&device.0, folder, &words, false), "pvs", writer)?;
    runs.push(run);
    let begin = begin.trim().parse::<u64>().with_context(|| format!("pvs says no begin of the extents: '{begin}'"))?;
    let offset = offset + begin;
    let mut copies = Vec::new();
    for volume in volumes {
        let to = folder.join(format!("{volume}.img"));
        copy_volume(member, offset, &text, volume, &to)?;
        copies.push(to);
    }
    Ok(Found { runs, volumes: copies })
}

fn examine(member: &Path, number: usize, writer: &Writer) -> anyhow::Result<(OracleRun, String)> {
    let mut command = tool("mdadm");
    command.arg("--examine").arg(member);
    let (mut run, text) = asked("mdadm", command, &format!("mdadm-{number}"), writer)?;
    // Both members there and up to date: `Array State : AA`.
    let whole = text.lines().any(|line| line.contains("Array State : AA"));
    run.agrees &= whole && text.contains("raid1") && text.contains("correct");
    Ok((run, text))
}

/// `Name : 8192 sectors`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.trim_start().starts_with(name))?;
    line.split_once(':')?.1.split_whitespace().next()?.parse().ok()
}

/// An LVM2 command that sees only this device and keeps its files in `folder`.
fn lvm(device: &str, folder: &Path, words: &[&str], names_device: bool) -> Command {
    let place = folder.display();
    let config = format!(
        "devices {{ filter=[\"a|^{device}$|\",\"r|.*|\"] use_devicesfile=0 scan_lvs=0 hints=\"none\" }} \
         global {{ use_lvmpolld=0 event_activation=0 locking_dir=\"{place}\" use_lvmlockd=0 }} \
         activation {{ udev_sync=0 udev_rules=0 monitoring=0 }} \
         backup {{ backup=0 archive=0 backup_dir=\"{place}\" archive_dir=\"{place}\" }}"
    );
    let mut command = tool(words[0]);
    command.args(["--driverloaded", "n", "--config", &config]).args(&words[1..]);
    command.env("LVM_SUPPRESS_FD_WARNINGS", "1").env("LVM_SYSTEM_DIR", folder);
    if names_device {
        command.arg(device);
    }
    command
}

/// Copies a volume out of a member, by what `lvs` says: its one segment's extents and their size. The first extent begins
/// at `offset`.
fn copy_volume(member: &Path, offset: u64, lvs: &str, volume: &str, to: &Path) -> anyhow::Result<()> {
    let row = lvs.lines().map(|line| line.trim().split('|').collect::<Vec<_>>()).find(|row| row[0] == volume);
    let row = row.filter(|row| row.len() == 5).with_context(|| format!("lvs knows no volume {volume}:\n{lvs}"))?;
    // `/dev/loop0:16-31`.
    let extents =
        row[2].rsplit(':').next().and_then(|range| range.split('-').next()).and_then(|n| n.parse::<u64>().ok());
    let number = |text: &str| text.parse::<u64>().with_context(|| format!("lvs says '{text}', not a number"));
    let begin = extents.with_context(|| format!("lvs says extents '{}'", row[2]))?;
    let start = offset + begin * number(row[4])?;
    copy(member, start, number(row[1])?, to)
}

/// Copies a part of a file; zeroes become holes.
fn copy(from: &Path, start: u64, len: u64, to: &Path) -> anyhow::Result<()> {
    let mut source = File::open(from).with_context(|| format!("opening {}", from.display()))?;
    source.seek(SeekFrom::Start(start))?;
    let mut source = source.take(len);
    let mut target = File::create(to).with_context(|| format!("making {}", to.display()))?;
    let mut piece = vec![0; PIECE];
    loop {
        let got = source.read(&mut piece)?;
        if got == 0 {
            break;
        }
        if piece[..got].iter().all(|byte| *byte == 0) {
            target.seek(SeekFrom::Current(i64::try_from(got).expect("a piece is small")))?;
        } else {
            target.write_all(&piece[..got])?;
        }
    }
    target.set_len(len)?;
    Ok(())
}

fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("PATH", format!("{}:/sbin:/usr/sbin", std::env::var("PATH").unwrap_or_default())).env("LC_ALL", "C");
    command
}

fn output(command: &mut Command) -> anyhow::Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.output().with_context(|| format!("running {name}: `cargo xtask setup` installs it"))
}

fn printed(command: &mut Command) -> anyhow::Result<String> {
    let done = output(command)?;
    anyhow::ensure!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Runs a tool and keeps what it said; it agrees if it ended well.
fn asked(oracle: &str, mut command: Command, name: &str, writer: &Writer) -> anyhow::Result<(OracleRun, String)> {
    let done = output(&mut command)?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let place = writer.output(name, &format!("{text}{}", String::from_utf8_lossy(&done.stderr)))?;
    let words: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let line = format!("{} {}", command.get_program().to_string_lossy(), words.join(" "));
    let status = done.status.code().unwrap_or(-1);
    let run = OracleRun { oracle: oracle.to_owned(), command: line, status, output: place, agrees: status == 0 };
    Ok((run, text))
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: where a volume lies is read out of the tools' words. Method: their words, a member with a mark there.
    #[test]
    fn a_volume_is_found_where_the_tools_say() {
        assert_eq!(field("   Data Offset : 8192 sectors\n", "Data Offset"), Some(8192));
        let folder = std::env::temp_dir().join(format!("muskox-lab-oracles-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let (member, volume) = (folder.join("member"), folder.join("web1.img"));
        let mut bytes = vec![0_u8; 4 << 20];
        let start = 8192 + 4096 + 3 * 65536;
        bytes[start..start + 4].copy_from_slice(b"mark");
        std::fs::write(&member, &bytes).expect("a member");
        let lvs = "  other|65536|/dev/loop0:0-0|0|65536\n  web1|131072|/dev/loop0:3-4|0|65536\n";
        copy_volume(&member, 8192 + 4096, lvs, "web1", &volume).expect("it is there");
        let read = std::fs::read(&volume).expect("it was made");
        assert_eq!((read.len(), &read[..4]), (131_072, b"mark".as_slice()));
        assert!(copy_volume(&member, 8192, lvs, "web2", &volume).is_err());
        let _ = std::fs::remove_dir_all(&folder);
    }
}
