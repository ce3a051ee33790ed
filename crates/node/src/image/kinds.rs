//! Files that are no disk's bytes, by what they begin or end with, and how a disk is made of each.
//!
//! Sources: the specification of each, or file(1)'s magic; where a tool writes it, the tests make one with that tool.

use api::{Code, Problem};

/// As much of a file's end as is looked at.
pub const TAIL_BYTES: u64 = 512;
/// Where a BIOS's boot code ends and the disk's signature and table of partitions begin. Source: UEFI 2.10, section 5.2.1.
const BOOT_CODE_BYTES: usize = 440;

/// What a file is that is not a disk as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// In words that finish "the file is …".
    pub what: &'static str,
    way: Way,
    place: Place,
    magic: &'static [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A command that leaves the disk beside it.
    Unpack(&'static str),
    /// One that lists what is in it, and takes a disk out.
    TakeOut(&'static str),
    /// qemu-img's name for it.
    Convert(&'static str),
    /// There is none.
    No(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// So many bytes from the start.
    Start(usize),
    /// The last so many bytes begin with it.
    End(usize),
}

const fn unpack(what: &'static str, command: &'static str, magic: &'static [u8]) -> Kind {
    Kind { what, way: Way::Unpack(command), place: Place::Start(0), magic }
}

const fn take_out(what: &'static str, command: &'static str, at: usize, magic: &'static [u8]) -> Kind {
    Kind { what, way: Way::TakeOut(command), place: Place::Start(at), magic }
}

const fn convert(what: &'static str, name: &'static str, place: Place, magic: &'static [u8]) -> Kind {
    Kind { what, way: Way::Convert(name), place, magic }
}

const fn no(what: &'static str, hint: &'static str, magic: &'static [u8]) -> Kind {
    Kind { what, way: Way::No(hint), place: Place::Start(0), magic }
}

const VHD: &str = "a VHD image";
const OTHER: &str = "check the path";
const RESTORE: &str = "restore it with the program that made it, then import the disk that this gives";

const KINDS: &[Kind] = &[
    unpack("compressed with gzip", "gunzip -k", b"\x1f\x8b"),
    unpack("compressed with xz", "unxz -k", b"\xfd7zXZ\0"),
    unpack("compressed with zstd", "unzstd", b"\x28\xb5\x2f\xfd"),
    unpack("compressed with bzip2", "bunzip2 -k", b"BZh"),
    unpack("compressed with lz4", "unlz4", b"\x04\x22\x4d\x18"),
    unpack("compressed with lzop", "lzop -d", b"\x89LZO\0\r\n"),
    unpack("compressed with lzip", "lzip -dk", b"LZIP"),
    unpack("compressed with lrzip", "lrunzip", b"LRZI"),
    unpack("compressed with lzma", "unlzma -k", b"\x5d\0\0\x80\0"),
    unpack("compressed with compress", "uncompress -k", b"\x1f\x9d"),
    take_out("a ZIP archive", "unzip", 0, b"PK\x03\x04"),
    take_out("a ZIP archive", "unzip", 0, b"PK\x05\x06"),
    take_out("a 7-Zip archive", "7z x", 0, b"7z\xbc\xaf\x27\x1c"),
    take_out("a RAR archive", "unrar x", 0, b"Rar!\x1a\x07"),
    take_out("a tar archive, as an OVA is", "tar xf", 257, b"ustar"),
    take_out("a cpio archive", "cpio -id <", 0, b"0707"),
    take_out("an ar archive", "ar x", 0, b"!<arch>\n"),
    take_out("a cabinet archive", "cabextract", 0, b"MSCF\0\0\0\0"),
    convert("a VMDK image", "vmdk", Place::Start(0), b"KDMV"),
    convert("a VMDK image", "vmdk", Place::Start(0), b"COWD"),
    convert(
        "the description of a VMDK image, whose data is in another file",
        "vmdk",
        Place::Start(0),
        b"# Disk DescriptorFile",
    ),
    convert("a VHDX image", "vhdx", Place::Start(0), b"vhdxfile"),
    convert("a VDI image", "vdi", Place::Start(64), b"\x7f\x10\xda\xbe"),
    convert("a QED image", "qed", Place::Start(0), b"QED\0"),
    convert("a Parallels image", "parallels", Place::Start(0), b"WithoutFreeSpace"),
    convert("a Parallels image", "parallels", Place::Start(0), b"WithouFreSpacExt"),
    convert("a Bochs image", "bochs", Place::Start(0), b"Bochs Virtual HD Image"),
    // MS-VHD 1.0: a dynamic disk begins with a copy of its footer, a fixed one has only the footer; it is 512 bytes long, or 511 as
    // Virtual PC before 2004 wrote it.
    convert(VHD, "vpc", Place::Start(0), b"conectix"),
    convert(VHD, "vpc", Place::End(512), b"conectix"),
    convert(VHD, "vpc", Place::End(511), b"conectix"),
    convert("a DMG image", "dmg", Place::End(512), b"koly"),
    no("a Proxmox VE backup", "restore it there with `vma extract`, then import the disk that this gives", b"VMA\0"),
    no("a Windows image (WIM)", RESTORE, b"MSWIM\0\0\0"),
    no("an ntfsclone image", RESTORE, b"\0ntfsclone-image"),
    no("a partclone image", RESTORE, b"partclone-image"),
    no("an EnCase image", RESTORE, b"EVF\x09\x0d\x0a\xff\0"),
    no("an Android sparse image", "unpack it first: `simg2img FILE DISK`", b"\x3a\xff\x26\xed"),
    no("a QEMU migration stream", OTHER, b"QEVM"),
    no("a program", OTHER, b"\x7fELF"),
    no("a program", OTHER, b"MZ"),
    no("a script", OTHER, b"#!"),
    no("a PDF document", OTHER, b"%PDF-"),
    no("an RPM package", OTHER, b"\xed\xab\xee\xdb"),
    no("an SQLite database", OTHER, b"SQLite format 3\0"),
];

impl Kind {
    /// What to do with the file at `path`.
    #[must_use]
    pub fn hint(&self, path: &str) -> String {
        match self.way {
            Way::Unpack(command) => format!("unpack it first: `{command} '{path}'`"),
            Way::TakeOut(command) => format!("take the disk out first: `{command} '{path}'`"),
            Way::Convert(name) => {
                format!("convert it first: `qemu-img convert -f {name} -O qcow2 '{path}' disk.qcow2`")
            }
            Way::No(hint) => hint.to_owned(),
        }
    }
}

/// What a file is that begins with `head` and ends with `tail`; none: perhaps a disk's bytes.
#[must_use]
pub fn kind_of(head: &[u8], tail: &[u8]) -> Option<&'static Kind> {
    let holds = |kind: &&Kind| {
        let rest = match kind.place {
            Place::Start(at) => head.get(at..),
            Place::End(at) => tail.len().checked_sub(at).map(|at| &tail[at..]),
        };
        rest.is_some_and(|rest| rest.starts_with(kind.magic))
    };
    // A boot sector may begin as anything: as `MZ` too, and in its table of partitions it says what it is.
    let is_boot_sector = head.get(510..512) == Some(&[0x55, 0xaa]);
    KINDS
        .iter()
        .find(holds)
        .filter(|kind| !is_boot_sector || kind.magic.len() > 2 || matches!(kind.way, Way::Unpack(_)))
}

/// Refuses a file that is known to be something else.
///
/// # Errors
/// [`Code::BadRequest`] with its name and the way to a disk.
pub fn check(path: &str, head: &[u8], tail: &[u8]) -> Result<(), Problem> {
    let Some(kind) = kind_of(head, tail) else { return Ok(()) };
    let hint = format!("{}; or say --raw to copy its bytes as they are", kind.hint(path));
    Err(Problem::new(Code::BadRequest, format!("'{path}' is {}: it is no disk as it stands", kind.what), hint))
}

/// Refuses a file whose bytes are no disk that a guest could read, as far as that can be known; `content` is what stands on it.
///
/// # Errors
/// [`Code::BadRequest`].
pub fn check_content(path: &str, head: &[u8], content: Option<&str>) -> Result<(), Problem> {
    let refuse = |text: String, hint: &str| Err(Problem::new(Code::BadRequest, text, hint));
    match content {
        Some(content) if content.contains("LUKS") || content.contains("BitLocker") => refuse(
            format!("'{path}' holds {content}: nobody can read it without its key"),
            "say --raw if the guest opens it by itself",
        ),
        Some(_) => Ok(()),
        None if is_text(head) => refuse(format!("'{path}' is a text, and no disk"), "check the path"),
        None => refuse(
            format!("'{path}' has no partition table, boot sector or file system that is known"),
            "check the path; say --raw if it is a disk all the same",
        ),
    }
}

/// Whether a BIOS starts something from a disk with this beginning: it has a boot sector, with code in it.
#[must_use]
pub fn has_boot_code(head: &[u8]) -> bool {
    head.get(510..512) == Some(&[0x55, 0xaa]) && head[..BOOT_CODE_BYTES].iter().any(|byte| *byte != 0)
}

/// Whether a file with this beginning is text.
#[must_use]
pub fn is_text(head: &[u8]) -> bool {
    let part = &head[..head.len().min(4096)];
    let valid = match std::str::from_utf8(part) {
        Ok(text) => text,
        // A letter may be cut in two at the end.
        Err(error) if part.len() - error.valid_up_to() < 4 => {
            std::str::from_utf8(&part[..error.valid_up_to()]).expect("it was found valid so far")
        }
        Err(_) => return false,
    };
    !valid.is_empty() && !valid.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{c}' | '\u{1b}'))
}

#[cfg(test)]
mod test {
    use super::*;

    /// A07, A08, D17. Goal: each kind is known at its place, with a way on that names the file; a disk is none of them. Method: each magic.
    #[test]
    fn every_kind_is_known() {
        for kind in KINDS {
            let mut bytes = vec![0; 4096];
            let at = match kind.place {
                Place::Start(at) => at,
                Place::End(at) => bytes.len() - at,
            };
            bytes[at..at + kind.magic.len()].copy_from_slice(kind.magic);
            let found = kind_of(&bytes, &bytes[bytes.len() - 512..]).unwrap_or_else(|| panic!("{kind:?}"));
            assert_eq!(found.what, kind.what);
            assert!(!found.hint("a b.img").is_empty());
        }
        let shown = kind_of(b"conectix", &[]).map(|kind| kind.hint("/a b.vhd"));
        assert_eq!(
            shown.as_deref(),
            Some("convert it first: `qemu-img convert -f vpc -O qcow2 '/a b.vhd' disk.qcow2`")
        );
        let mut disk = vec![0; 512];
        disk[510..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(kind_of(&disk, &disk), None);
        disk[..2].copy_from_slice(b"MZ");
        assert_eq!(kind_of(&disk, &disk), None, "a boot sector, whatever it begins with");
        assert_eq!(kind_of(&[], &[]), None);
    }

    /// D17, A35, A08. Goal: what is no disk, or one that nobody can read, is refused; whether one boots is known.
    #[test]
    fn a_disk_has_something_on_it() {
        let code = |head: &[u8], content| check_content("/x", head, content).map_err(|problem| problem.text);
        assert!(code(b"Dear reader", None).unwrap_err().contains("is a text"));
        assert!(code(&[7, 0, 1], None).unwrap_err().contains("no partition table"));
        assert!(code(&[0; 512], Some("a LUKS volume")).unwrap_err().contains("LUKS"));
        assert_eq!(code(&[0; 512], Some("an ext2/3/4 file system")), Ok(()));
        let mut head = vec![0; 512];
        assert!(!has_boot_code(&head) && !has_boot_code(&[]));
        head[510..].copy_from_slice(&[0x55, 0xaa]);
        assert!(!has_boot_code(&head), "a protective MBR only");
        head[0] = 0xfa;
        assert!(has_boot_code(&head));
    }

    #[test]
    fn text_is_known() {
        assert!(is_text(b"hello\n") && is_text("gr\u{fc}n\r\n".as_bytes()) && is_text(b"<html>\n"));
        assert!(is_text(&[b"x".repeat(4095), "\u{fc}".as_bytes().to_vec()].concat()), "a letter is cut in two");
        assert!(!is_text(b"") && !is_text(&[0; 512]) && !is_text(b"a\0b") && !is_text(b"\xff\xfe\xfd\xfc\xfb"));
    }
}
