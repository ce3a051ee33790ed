//! The guest's image: a real Debian of this machine's own release and mirror, made by `mmdebstrap`, that boots by BIOS
//! from its disk. `mke2fs -d`, `mtools` and `syslinux --install` work on files.
//!
//! ```text
//!   0       MBR: syslinux's mbr.bin, partition table
//!   1 MiB   FAT16, active: syslinux, syslinux.cfg, vmlinuz, initrd
//!  49 MiB   ext4: Debian, with the guest's program in it, to the end
//! ```
//! Two steps, each kept in the cache under the hash of what it is made of: the *base* (a minute), and the base with the
//! guest's program (a second).

mod disk;
mod recipe;

pub(super) use disk::at_root;
#[cfg(test)]
pub(super) use disk::write_table;

use crate::image::Workshop;
use crate::image::debian::{Debian, check_libc};
use crate::image::files::{copy_sparse, insert};
use anyhow::Context;
use std::path::{Path, PathBuf};

/// How large the image is: under 600 MB, of which Debian uses 300, and records get the rest.
pub const IMAGE_BYTES: u64 = 560 << 20;
/// Where its root partition begins.
pub const ROOT_AT: u64 = 49 << 20;

/// Where and with what the image is built.
pub struct Builder<'a> {
    /// Where, and how it is broken off.
    pub workshop: Workshop<'a>,
    /// The guest's program, built for this machine.
    pub program: &'a Path,
}

impl Builder<'_> {
    /// The image, from the cache if it is there. It is for reading: whoever boots it makes a copy.
    ///
    /// # Errors
    /// When a tool is missing or fails, the guest could not run the program, or the run is over.
    pub fn image(&self) -> anyhow::Result<PathBuf> {
        let Workshop { cache, .. } = self.workshop;
        std::fs::create_dir_all(cache).with_context(|| format!("making {}", cache.display()))?;
        let debian = Debian::of_this_machine()?;
        let recipe = recipe::hash(&debian);
        let base = cache.join(format!("guest-base-{recipe}.raw"));
        if !base.exists() {
            self.workshop.made(&base, |folder| self.base(&debian, folder))?;
        }
        let program = std::fs::read(self.program)
            .with_context(|| format!("reading {}: `cargo build -p lab` builds it", self.program.display()))?;
        let key = crate::image::hash(&[recipe.as_bytes(), &program]);
        let image = cache.join(format!("guest-{key}.raw"));
        if !image.exists() {
            self.workshop.made(&image, |folder| self.with_program(&base, folder))?;
        }
        self.workshop.prune("guest-", &[&base, &image])?;
        Ok(image)
    }

    fn base(&self, debian: &Debian, folder: &Path) -> anyhow::Result<PathBuf> {
        let suite = debian.suite();
        (self.workshop.say)(&format!("the guest's Debian ({suite}) is not in the cache: building it takes a minute"));
        let overlay = folder.join("overlay");
        recipe::lay_out(&overlay)?;
        let tree = folder.join("tree");
        self.workshop.finish("mmdebstrap", &mut debian.mmdebstrap(recipe::PACKAGES, &overlay, &tree, folder)?)?;
        check_libc(&tree)?;
        recipe::settle(&tree)?;
        (self.workshop.say)("guest: making its disk");
        disk::make(&self.workshop, &tree, folder)
    }

    fn with_program(&self, base: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
        (self.workshop.say)("guest: putting its program into the image");
        let image = folder.join("image.raw");
        copy_sparse(base, &image)?;
        insert(&at_root(&image)?, self.program, recipe::PROGRAM)?;
        Ok(image)
    }
}
