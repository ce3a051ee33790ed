//! The guest's image: a real Debian of this machine's own release and mirror, made by `mmdebstrap`, that boots by BIOS
//! from its disk. Nothing is mounted by us and no loop device is used: `mke2fs -d`, `mtools` and `syslinux --install`
//! work on files.
//!
//! ```text
//!   0       MBR: syslinux's mbr.bin, partition table
//!   1 MiB   FAT16, active: syslinux, syslinux.cfg, vmlinuz, initrd
//!  49 MiB   ext4: Debian, with the guest's program in it, to the end
//! ```
//! Two steps, each kept in the cache under the hash of what it is made of: the *base* (a minute), and the base with the
//! guest's program (a second). What is in the cache is whole: it is made under another name and renamed.

mod debian;
mod disk;
mod recipe;

#[cfg(test)]
pub(super) use disk::write_table;
pub(super) use disk::{at_root, copy_sparse};

use crate::kills::stop::Stop;
use crate::ledger::{Ledger, Thing};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How large the image is: under 600 MB, of which Debian uses 300, and records get the rest.
pub const IMAGE_BYTES: u64 = 560 << 20;
/// Where its root partition begins.
pub const ROOT_AT: u64 = 49 << 20;

/// How long an image is kept that another recipe or program has replaced.
const KEPT_FOR: Duration = Duration::from_secs(3600);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Where and with what an image is built.
pub struct Builder<'a> {
    /// Where images are kept from run to run: `target/lab/cache`.
    pub cache: &'a Path,
    /// The guest's program, built for this machine.
    pub program: &'a Path,
    /// Takes away what a broken-off build leaves.
    pub ledger: &'a Ledger,
    /// Breaks a build off.
    pub stop: &'a Stop,
    /// Told what is being done.
    pub say: &'a (dyn Fn(&str) + Sync),
}

impl Builder<'_> {
    /// The image, from the cache if it is there. It is for reading: whoever boots it makes a copy.
    ///
    /// # Errors
    /// When a tool is missing or fails, the guest could not run the program, or the run is over.
    pub fn image(&self) -> anyhow::Result<PathBuf> {
        std::fs::create_dir_all(self.cache).with_context(|| format!("making {}", self.cache.display()))?;
        let recipe = recipe::Recipe::of_this_machine()?;
        let base = self.cache.join(format!("guest-base-{}.raw", recipe.hash()));
        if !base.exists() {
            self.made(&base, |folder| self.base(&recipe, folder))?;
        }
        let program = std::fs::read(self.program)
            .with_context(|| format!("reading {}: `cargo build -p lab` builds it", self.program.display()))?;
        let key = recipe::hash(&[recipe.hash().as_bytes(), &program]);
        let image = self.cache.join(format!("guest-{key}.raw"));
        if !image.exists() {
            self.made(&image, |folder| self.with_program(&base, folder))?;
        }
        self.prune(&[&base, &image])?;
        Ok(image)
    }

    /// Makes `path` by `work` in a folder of its own, whole or not at all.
    fn made(&self, path: &Path, work: impl FnOnce(&Path) -> anyhow::Result<PathBuf>) -> anyhow::Result<()> {
        let folder = self.cache.canonicalize()?.join(format!("building-{}", self.ledger.run()));
        self.ledger.record(Thing::Folder { path: folder.clone() })?;
        let begun = Instant::now();
        let made = std::fs::create_dir_all(&folder).map_err(anyhow::Error::from).and_then(|()| work(&folder));
        let placed = made.and_then(|made| {
            std::fs::File::open(&made)?.sync_all()?;
            std::fs::rename(&made, path).with_context(|| format!("placing {}", path.display()))
        });
        let removed = std::fs::remove_dir_all(&folder);
        placed.with_context(|| format!("building {}", path.display()))?;
        removed.with_context(|| format!("removing {}", folder.display()))?;
        (self.say)(&format!("{} built in {:.1} s", path.display(), begun.elapsed().as_secs_f64()));
        Ok(())
    }

    fn base(&self, recipe: &recipe::Recipe, folder: &Path) -> anyhow::Result<PathBuf> {
        (self.say)(&format!("the guest's Debian ({}) is not in the cache: building it takes a minute", recipe.suite()));
        let overlay = folder.join("overlay");
        recipe::lay_out(&overlay)?;
        let tree = folder.join("tree");
        self.finish("mmdebstrap", &mut recipe.mmdebstrap(&overlay, &tree, folder)?)?;
        debian::check_libc(&tree)?;
        recipe::settle(&tree)?;
        (self.say)("guest: making its disk");
        disk::make(self, &tree, folder)
    }

    fn with_program(&self, base: &Path, folder: &Path) -> anyhow::Result<PathBuf> {
        (self.say)("guest: putting its program into the image");
        let image = folder.join("image.raw");
        disk::copy_sparse(base, &image)?;
        disk::insert(&image, self.program, recipe::PROGRAM)?;
        Ok(image)
    }

    /// Images that nobody asks for any more. A run beside ours may just be about to copy a young one.
    fn prune(&self, wanted: &[&Path]) -> anyhow::Result<()> {
        for path in std::fs::read_dir(self.cache)?.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_image = name.starts_with("guest-") && name.ends_with(".raw");
            let age = path.metadata().and_then(|facts| facts.modified()).map(|made| made.elapsed().unwrap_or_default());
            if is_image && !wanted.contains(&path.as_path()) && age.is_ok_and(|age| age > KEPT_FOR) {
                std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Runs a tool to its end, or to the run's; tells what it says about its progress.
    fn finish(&self, name: &str, command: &mut Command) -> anyhow::Result<()> {
        let (child, mut words) = self.spawn(name, command)?;
        let told = std::thread::scope(|scope| {
            let listener = scope.spawn(move || listen(self.say, &mut words));
            let ended = self.wait(child);
            (ended, listener.join())
        });
        let (ended, said) = told;
        let ended = ended.with_context(|| format!("{name} was broken off"))?;
        let said = said.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        anyhow::ensure!(ended.success(), "{name} failed ({ended}):\n{said}");
        Ok(())
    }

    fn spawn(&self, name: &str, command: &mut Command) -> anyhow::Result<(Child, std::process::ChildStderr)> {
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.with_context(|| format!("running {name}: `cargo xtask setup` installs it"))?;
        let words = child.stderr.take().expect("stderr was piped above");
        // One that is gone already has nothing to be ended.
        let _ = self.ledger.record_child(child.id());
        Ok((child, words))
    }

    fn wait(&self, mut child: Child) -> anyhow::Result<ExitStatus> {
        loop {
            if let Some(ended) = child.try_wait()? {
                return Ok(ended);
            }
            if let Err(over) = self.stop.nap(LOOK_AGAIN) {
                child.kill()?;
                child.wait()?;
                return Err(over);
            }
        }
    }
}

/// Tells a tool's progress (mmdebstrap's lines begin with `I: `) and returns the end of all it said.
fn listen(say: &(dyn Fn(&str) + Sync), words: &mut impl std::io::Read) -> String {
    use std::io::BufRead;
    const KEPT: usize = 30;
    let mut kept = std::collections::VecDeque::new();
    for line in std::io::BufReader::new(words).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        if let Some(progress) = line.strip_prefix("I: ").filter(|progress| !progress.contains("tmp")) {
            say(&format!("guest: {progress}"));
        }
        kept.push_back(line);
        if kept.len() > KEPT {
            kept.pop_front();
        }
    }
    Vec::from(kept).join("\n")
}

/// Runs a quick tool to its end.
fn tool(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.stdin(Stdio::null()).output();
    let done = done.with_context(|| format!("running {name}: `cargo xtask setup` installs it"))?;
    let words = String::from_utf8_lossy(&done.stderr);
    anyhow::ensure!(done.status.success(), "{name} failed ({}): {}", done.status, words.trim());
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
