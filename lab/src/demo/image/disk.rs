//! The image's disk: partition table, boot loader, file systems.

use super::{IMAGE_BYTES, ROOT_AT, recipe};
use crate::image::files::{newest, write_sparse};
use crate::image::{Workshop, tool};
use anyhow::Context;
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

/// Makes the disk of a tree.
pub fn make(workshop: &Workshop<'_>, tree: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
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
    workshop.finish("mke2fs", mke2fs.arg(&image).arg(blocks))?;
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
}
