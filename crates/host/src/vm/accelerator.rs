//! Which accelerator really runs a guest here.
//!
//! `/dev/kvm` may exist, open and run a BIOS, and then hang for ever at the first 64-bit code (nested virtualisation
//! does that). So a guest is booted that enters long mode, counts to a million and says so; it has a few seconds.

use super::Owner;
use super::machine::Accelerator;
use super::process::{How, Process};
use super::spawn::{Limits, Program};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::sync::OnceCell;

/// Where KVM works the probe takes under a second. Longer is a hang; then TCG is used, which is slow but runs.
pub(super) const PROBE_MAX: Duration = Duration::from_secs(5);
/// `isa-debug-exit` makes QEMU end with twice the byte written, plus one.
const PASSED: How = How::Exited(0x2a * 2 + 1);

/// A boot sector that enters long mode. AT&T syntax, assembled at 0x7c00; a disk's first 512 bytes, ending in 55 aa.
#[rustfmt::skip]
const CODE: [u8; 0x6e] = [
    0xfa,                                     // cli
    0x31, 0xc0,                               // xor   %ax,%ax
    0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0,       // mov   %ax to %ds, %es, %ss
    0xbc, 0x00, 0x7c,                         // mov   $0x7c00,%sp
    0xbf, 0x00, 0x10, 0xb9, 0x00, 0x18,       // mov   $0x1000,%di; mov $0x1800,%cx
    0xfc, 0xf3, 0xab,                         // cld; rep stosw        three empty page tables
    0xc7, 0x06, 0x00, 0x10, 0x03, 0x20,       // movw  $0x2003,0x1000  level 4 to level 3
    0xc7, 0x06, 0x00, 0x20, 0x03, 0x30,       // movw  $0x3003,0x2000  level 3 to level 2
    0xc7, 0x06, 0x00, 0x30, 0x83, 0x00,       // movw  $0x0083,0x3000  2 MiB at 0
    0x66, 0xb8, 0x00, 0x10, 0x00, 0x00,       // mov   $0x1000,%eax
    0x0f, 0x22, 0xd8,                         // mov   %eax,%cr3
    0x0f, 0x20, 0xe0,                         // mov   %cr4,%eax
    0x66, 0x83, 0xc8, 0x20, 0x0f, 0x22, 0xe0, // or    $0x20,%eax; mov %eax,%cr4        PAE
    0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0,       // mov   $0xc0000080,%ecx                 EFER
    0x0f, 0x32,                               // rdmsr
    0x66, 0x0d, 0x00, 0x01, 0x00, 0x00,       // or    $0x100,%eax                      LME
    0x0f, 0x30,                               // wrmsr
    0x0f, 0x20, 0xc0,                         // mov   %cr0,%eax
    0x66, 0x0d, 0x01, 0x00, 0x00, 0x80,       // or    $0x80000001,%eax                 PE, PG
    0x0f, 0x22, 0xc0,                         // mov   %eax,%cr0
    0x0f, 0x01, 0x16, 0x88, 0x7c,             // lgdt  0x7c88
    0xea, 0x60, 0x7c, 0x08, 0x00,             // ljmp  $8,$0x7c60      64-bit from here on
    0xb9, 0x40, 0x42, 0x0f, 0x00,             // mov   $1000000,%ecx
    0xe2, 0xfe,                               // loop  itself
    0x66, 0xba, 0xf4, 0x00,                   // mov   $0xf4,%dx
    0xb0, 0x2a,                               // mov   $0x2a,%al
    0xee,                                     // out   %al,(%dx)
];
/// At 0x7c6e: hlt, and again.
const HALT: [u8; 3] = [0xf4, 0xeb, 0xfd];
/// At 0x7c80: the descriptor of a 64-bit code segment; at 0x7c88 what lgdt reads: 15 bytes from 0x7c78.
const DESCRIPTORS: [u8; 14] = [0, 0, 0, 0, 0, 0x9a, 0x20, 0, 15, 0, 0x78, 0x7c, 0, 0];

fn boot_sector() -> [u8; 512] {
    let mut sector = [0; 512];
    sector[..CODE.len()].copy_from_slice(&CODE);
    sector[0x6e..0x71].copy_from_slice(&HALT);
    sector[0x80..0x8e].copy_from_slice(&DESCRIPTORS);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// The accelerator to use with `qemu` as `owner` on this machine, found out once in a process's life. `scratch` is a folder for a
/// file of 512 bytes that is removed again.
///
/// # Errors
/// If QEMU cannot be started at all.
pub async fn accelerator(qemu: &Path, scratch: &Path, owner: Option<Owner>) -> io::Result<Accelerator> {
    static FOUND: OnceCell<Accelerator> = OnceCell::const_new();
    let found = FOUND.get_or_try_init(|| async {
        let works = Path::new("/dev/kvm").exists() && boots(Accelerator::Kvm, qemu, scratch, owner).await?;
        Ok::<_, io::Error>(if works { Accelerator::Kvm } else { Accelerator::Tcg })
    });
    found.await.copied()
}

/// Whether the probe's guest boots.
async fn boots(accelerator: Accelerator, qemu: &Path, scratch: &Path, owner: Option<Owner>) -> io::Result<bool> {
    let name = format!("probe-{}-{}.img", accelerator.word(), std::process::id());
    let image = scratch.join(&name);
    std::fs::write(&image, boot_sector())?;
    let machine = format!("q35,accel={},usb=off", accelerator.word());
    let drive = format!("file={name},format=raw,if=floppy,readonly=on");
    let arguments = ["-no-user-config", "-nodefaults", "-display", "none", "-m", "16", "-machine", &machine]
        .into_iter()
        .chain(["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-boot", "a", "-drive", &drive]);
    let null = File::options().write(true).open("/dev/null")?;
    let program = Program {
        program: qemu.to_owned(),
        arguments: arguments.map(Into::into).collect(),
        talk: None,
        log: null,
        owner,
        folder: Some(rustix::fs::open(scratch, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?),
        cgroups: Vec::new(),
        environment: Vec::new(),
        ends_with_us: true,
        limits: Some(Limits { file_bytes: 1 << 20 }),
    };
    let how = run(program).await;
    std::fs::remove_file(&image)?;
    Ok(how? == Some(PASSED))
}

/// How the program ended; `None` if it had to be killed.
async fn run(program: Program) -> io::Result<Option<How>> {
    let mut child = program.start()?;
    let Some(process) = Process::of_child(&mut child)? else {
        return Ok(child.wait()?.code().map(How::Exited));
    };
    if let Ok(ended) = tokio::time::timeout(PROBE_MAX, process.ended()).await {
        return ended.map(Some);
    }
    process.signal(Signal::KILL)?;
    process.ended().await?;
    Ok(None)
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: the probe's guest does boot, so a failure is the accelerator's. Method: it boots under TCG, which always
    /// works; with a byte of its long-mode code broken it does not.
    #[tokio::test]
    async fn the_probes_guest_boots_under_tcg() {
        let scratch = std::env::temp_dir();
        let qemu = Path::new("/usr/bin/qemu-system-x86_64");
        assert!(boots(Accelerator::Tcg, qemu, &scratch, None).await.unwrap());
        let missing = boots(Accelerator::Tcg, Path::new("/nonexistent"), &scratch, None).await;
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
