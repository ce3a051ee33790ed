//! The image's disk: partition table, boot loader, file systems.

use super::{Builder, IMAGE_BYTES, ROOT_AT, recipe, tool};
use anyhow::Context;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SECTOR: u64 = 512;
const BOOT_AT: u64 = 1 << 20;
/// Boot code of Debian's package syslinux-common; it starts the active partition.
const MBR_CODE: &str = "/usr/lib/syslinux/mbr/mbr.bin";
/// Code ends where the partition table begins. Source: the PC's master boot record: 446 bytes, four entries of 16, 55 aa.
const TABLE_AT: usize = 446;
const MBR_CODE_MAX: usize = 440;
const ACTIVE: u8 = 0x80;
/// FAT16 with LBA; Linux.
const KIND_FAT16: u8 = 0x0e;
const KIND_LINUX: u8 = 0x83;
const COPY_BYTES: usize = 1 << 20;
const BLOCK_BYTES: usize = 4096;
const ZEROES: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// Makes the disk of a tree.
pub fn make(builder: &Builder<'_>, tree: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    let image = folder.join("base.raw");
    let file = File::create_new(&image)?;
    file.set_len(IMAGE_BYTES)?;
    let code = std::fs::read(MBR_CODE).with_context(|| format!("reading {MBR_CODE}: syslinux-common has it"))?;
    file.write_all_at(&first_sector(&code)?, 0)?;
    let boot = boot_partition(tree, folder)?;
    write_sparse(&boot, &file, BOOT_AT)?;
    for entry in ["boot", "vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old"] {
        let path = tree.join(entry);
        // The kernel is on the other partition now; links to it lead nowhere.
        let removed = if entry == "boot" { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("removing {}", path.display()));
            }
            _ => {}
        }
    }
    let blocks = format!("{}k", (IMAGE_BYTES - ROOT_AT) / 1024);
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", "root"]);
    mke2fs.args(["-E", &format!("offset={ROOT_AT},lazy_itable_init=0,lazy_journal_init=0"), "-d"]).arg(tree);
    builder.finish("mke2fs", mke2fs.arg(&image).arg(blocks))?;
    Ok(image)
}

/// Code and partition table. Addresses by cylinder, head and sector are the highest there are: by block is meant.
fn first_sector(code: &[u8]) -> anyhow::Result<[u8; 512]> {
    anyhow::ensure!(code.len() <= MBR_CODE_MAX, "{MBR_CODE} has {} bytes", code.len());
    let mut sector = [0; 512];
    sector[..code.len()].copy_from_slice(code);
    let entry = |active: u8, kind: u8, from: u64, to: u64| -> anyhow::Result<Vec<u8>> {
        let (first, many) = (u32::try_from(from / SECTOR)?, u32::try_from((to - from) / SECTOR)?);
        let head = [active, 0xfe, 0xff, 0xff, kind, 0xfe, 0xff, 0xff];
        Ok([&head[..], &first.to_le_bytes(), &many.to_le_bytes()].concat())
    };
    let table = [entry(ACTIVE, KIND_FAT16, BOOT_AT, ROOT_AT)?, entry(0, KIND_LINUX, ROOT_AT, IMAGE_BYTES)?].concat();
    sector[TABLE_AT..TABLE_AT + table.len()].copy_from_slice(&table);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    Ok(sector)
}

/// The partition that the BIOS starts from, as a file of its own.
fn boot_partition(tree: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
    let path = folder.join("boot.fat");
    File::create_new(&path)?.set_len(ROOT_AT - BOOT_AT)?;
    let hidden = (BOOT_AT / SECTOR).to_string();
    tool(Command::new("mkfs.fat").args(["-F", "16", "-n", "BOOT", "-h", &hidden]).arg(&path))?;
    let config = folder.join("syslinux.cfg");
    std::fs::write(&config, recipe::SYSLINUX)?;
    let kernel = newest(&tree.join("boot"), "vmlinuz-")?;
    let initrd = newest(&tree.join("boot"), "initrd.img-")?;
    for (from, to) in [(kernel, "::vmlinuz"), (initrd, "::initrd"), (config, "::syslinux.cfg")] {
        tool(Command::new("mcopy").arg("-i").arg(&path).arg(&from).arg(to))
            .with_context(|| format!("putting {} on the boot partition", from.display()))?;
    }
    tool(Command::new("syslinux").arg("--install").arg(&path))?;
    Ok(path)
}

fn newest(folder: &Path, prefix: &str) -> anyhow::Result<PathBuf> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?.flatten();
    let found = entries
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
    found.max().with_context(|| format!("Debian put no {prefix}… into {}", folder.display()))
}

/// Puts a program into the root file system, executable.
pub fn insert(image: &Path, from: &Path, to: &str) -> anyhow::Result<()> {
    let commands = format!("write \"{}\" {to}\nset_inode_field {to} mode 0100755\n", from.display());
    anyhow::ensure!(!from.to_string_lossy().contains(['"', '\n']), "{}: not a path for debugfs", from.display());
    let script = image.with_extension("debugfs");
    std::fs::write(&script, commands)?;
    let at = at_root(image)?;
    tool(Command::new("debugfs").args(["-w", "-f"]).arg(&script).arg(&at))?;
    // debugfs ends well whatever became of its commands.
    let said = tool(Command::new("debugfs").args(["-R", &format!("stat {to}")]).arg(&at))?;
    let size = std::fs::metadata(from)?.len();
    anyhow::ensure!(said.contains(&format!("Size: {size}")), "debugfs did not put {to} into the image: {said}");
    Ok(())
}

/// How e2fsprogs name the root's file system within the image of a disk.
///
/// # Errors
/// When the disk does not have the partitions of the guest's image.
pub fn at_root(image: &Path) -> anyhow::Result<std::ffi::OsString> {
    let mut sector = [0; 512];
    let read = File::open(image).and_then(|file| file.read_exact_at(&mut sector, 0));
    read.with_context(|| format!("reading {}", image.display()))?;
    let ours = first_sector(&[])?;
    anyhow::ensure!(sector[TABLE_AT..] == ours[TABLE_AT..], "{} is no disk of the demo's guest", image.display());
    let mut name = image.as_os_str().to_owned();
    name.push(format!("?offset={ROOT_AT}"));
    Ok(name)
}

/// Partitions a disk of the guest's size as its image is, without anything to boot.
#[cfg(test)]
pub fn write_table(disk: &File) -> anyhow::Result<()> {
    Ok(disk.write_all_at(&first_sector(&[])?, 0)?)
}

/// Copies a file without its zeroes.
pub fn copy_sparse(from: &Path, to: &Path) -> anyhow::Result<()> {
    let file = File::create(to).with_context(|| format!("writing {}", to.display()))?;
    let len = write_sparse(from, &file, 0)?;
    file.set_len(len)?;
    Ok(())
}

/// Writes what is not zero of a file, or of a device, into another from `at` on; returns how long it is. Holes are not
/// even read: most of a guest's disk is one.
fn write_sparse(from: &Path, to: &File, at: u64) -> anyhow::Result<u64> {
    let source = File::open(from).with_context(|| format!("reading {}", from.display()))?;
    let len = seek(&source, SeekFrom::End(0)).with_context(|| format!("measuring {}", from.display()))?;
    let (mut bytes, mut done) = (vec![0; COPY_BYTES], 0);
    while done < len {
        match seek(&source, SeekFrom::Data(done)) {
            // Behind the last data (lseek(2)).
            Err(Errno::NXIO) => break,
            // What knows no holes is data everywhere.
            found => done = found.unwrap_or(done),
        }
        let many = source.read_at(&mut bytes, done).with_context(|| format!("reading {}", from.display()))?;
        anyhow::ensure!(many > 0, "{} ended at byte {done} of {len}", from.display());
        for block in bytes[..many].chunks(BLOCK_BYTES) {
            if block != &ZEROES[..block.len()] {
                to.write_all_at(block, at + done)?;
            }
            done += block.len() as u64;
        }
    }
    Ok(len)
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: the table says where the partitions are. Method: its bytes, by hand.
    #[test]
    fn the_partition_table_is_right() {
        let sector = first_sector(&[0xeb; 440]).unwrap();
        assert_eq!(sector[439..442], [0xeb, 0, 0]);
        let fat = [0x80, 0xfe, 0xff, 0xff, 0x0e, 0xfe, 0xff, 0xff, 0, 8, 0, 0, 0, 0x80, 1, 0];
        let root = [0, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff, 0, 0x88, 1, 0, 0, 0xf8, 0xf, 0];
        assert_eq!(sector[446..462], fat);
        assert_eq!(sector[462..478], root);
        assert_eq!(sector[478..], [vec![0; 32], vec![0x55, 0xaa]].concat());
        assert!(first_sector(&[0; 441]).is_err());
    }

    /// Goal: a copy is the same, and takes no room for zeroes. Method: a file with a hole and an odd end.
    #[test]
    fn a_sparse_copy_is_the_same() {
        let folder = std::env::temp_dir().join(format!("muskox-sparse-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (from, to) = (folder.join("from"), folder.join("to"));
        let bytes = [vec![1; 5000], vec![0; 3 << 20], vec![2; 100], vec![0; 77]].concat();
        std::fs::write(&from, &bytes).unwrap();
        copy_sparse(&from, &to).unwrap();
        let same = std::fs::read(&to).unwrap() == bytes;
        let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&to).unwrap());
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(same && blocks * 512 < 64 << 10, "{blocks}");
    }
}
