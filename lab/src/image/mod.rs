//! Images of guests: real Debians of this machine's own release and mirror, made by `mmdebstrap`. Nothing is mounted by us
//! and no loop device is used.
//!
//! Each is kept in the cache under the hash of what it is made of. What is in the cache is whole: it is made under another
//! name and renamed.

pub mod debian;
pub mod files;

use crate::kills::stop::Stop;
use crate::ledger::{Ledger, Thing};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long an image is kept that another recipe or program has replaced.
const KEPT_FOR: Duration = Duration::from_secs(3600);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Where and with what images are made.
pub struct Workshop<'a> {
    /// Where images are kept from run to run: `target/lab/cache`.
    pub cache: &'a Path,
    /// Takes away what a broken-off build leaves.
    pub ledger: &'a Ledger,
    /// Breaks a build off.
    pub stop: &'a Stop,
    /// Told what is being done.
    pub say: &'a (dyn Fn(&str) + Sync),
}

impl Workshop<'_> {
    /// Makes `path` by `work` in a folder of its own, whole or not at all.
    ///
    /// # Errors
    /// What `work` fails of, or the disk.
    pub fn made(&self, path: &Path, work: impl FnOnce(&Path) -> anyhow::Result<PathBuf>) -> anyhow::Result<()> {
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

    /// Removes what nobody asks for any more, of the files that begin so. A run beside ours may just be about to copy a young
    /// one.
    ///
    /// # Errors
    /// When the cache cannot be read or changed.
    pub fn prune(&self, prefix: &str, wanted: &[&Path]) -> anyhow::Result<()> {
        for path in std::fs::read_dir(self.cache)?.flatten().map(|entry| entry.path()) {
            let is_ours = path.file_name().unwrap_or_default().to_string_lossy().starts_with(prefix);
            let age = path.metadata().and_then(|facts| facts.modified()).map(|made| made.elapsed().unwrap_or_default());
            if is_ours && !wanted.contains(&path.as_path()) && age.is_ok_and(|age| age > KEPT_FOR) {
                let removed = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
                removed.with_context(|| format!("removing {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Runs a tool to its end, or to the run's; tells what it says about its progress.
    ///
    /// # Errors
    /// When it is missing, fails, or the run is over.
    pub fn finish(&self, name: &str, command: &mut Command) -> anyhow::Result<()> {
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

/// Runs a quick tool to its end; what it printed.
///
/// # Errors
/// When it is missing, or its own words.
pub fn tool(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.stdin(Stdio::null()).output();
    let done = done.with_context(|| format!("running {name}: `cargo xtask setup` installs it"))?;
    let words = String::from_utf8_lossy(&done.stderr);
    anyhow::ensure!(done.status.success(), "{name} failed ({}): {}", done.status, words.trim());
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// FNV-1a of 64 bits (Fowler, Noll, Vo): names cache entries; nobody attacks them.
#[must_use]
pub fn hash(parts: &[&[u8]]) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        // The length keeps parts apart.
        for byte in (part.len() as u64).to_le_bytes().iter().chain(*part) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod test {
    use super::hash;

    /// Goal: parts are told apart. Method: the same bytes, cut elsewhere.
    #[test]
    fn other_parts_are_another_hash() {
        assert_ne!(hash(&[b"ab", b"c"]), hash(&[b"a", b"bc"]));
        // FNV's own test vector for "a" is af63dc4c8601ec8c; ours has the length before it.
        assert_ne!(hash(&[b"a"]), "af63dc4c8601ec8c");
    }
}
