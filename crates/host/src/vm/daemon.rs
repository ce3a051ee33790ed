//! A process of ours that outlives who started it: its own session, its own log, known by who it is.

use super::VmError;
use super::cgroup::Cgroup;
use super::process::{Identity, Process};
use super::spawn::Program;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A log longer than this is set aside at the next start.
const LOG_MAX_BYTES: u64 = 8 << 20;

/// A process that is started once and found again.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// The program.
    pub program: PathBuf,
    /// Its arguments; no two processes of a machine have the same.
    pub arguments: Vec<OsString>,
    /// What it needs of our environment, by name.
    pub environment: Vec<&'static str>,
    /// Where it is noted who it is.
    pub note: PathBuf,
    /// Where what it says is kept; an overlong one becomes `NAME.old` at a start.
    pub log: PathBuf,
    /// Into which control groups.
    pub cgroups: Vec<Cgroup>,
}

impl Daemon {
    /// The process of a former life of ours, if it lives: as it was noted, else as the kernel's list of processes says,
    /// for we may have died between the start and the note.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn find(&self) -> Result<Option<Process>, VmError> {
        let looking = |source| VmError::io(format!("looking for the process of {}", self.note.display()), source);
        let noted = std::fs::read_to_string(&self.note).ok().and_then(|text| Identity::parse(&text));
        if let Some(identity) = noted
            && let Some(process) = Process::find(&identity).map_err(looking)?
        {
            return Ok(Some(process));
        }
        let listed = std::fs::read_dir("/proc").map_err(looking)?.filter_map(Result::ok);
        let pids = listed.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let Some(identity) = pids.filter(|pid| self.is(*pid)).find_map(Identity::of) else { return Ok(None) };
        let found = Process::find(&identity).map_err(looking)?;
        if let Some(process) = &found {
            self.write_note(process.identity())?;
        }
        Ok(found)
    }

    /// Starts it.
    ///
    /// # Errors
    /// If it cannot be started, noted or put into its groups; nothing is left behind.
    pub fn start(&self) -> Result<Process, VmError> {
        let starting = |source| VmError::io(format!("starting {}", self.program.display()), source);
        let kept = |name: &&str| std::env::var_os(name).map(|value| (OsString::from(name), value));
        let program = Program {
            program: self.program.clone(),
            arguments: self.arguments.clone(),
            log: self.open_log().map_err(|source| VmError::io(format!("opening {}", self.log.display()), source))?,
            owner: None,
            cgroups: Vec::new(),
            environment: self.environment.iter().filter_map(kept).collect(),
            ends_with_us: false,
            limits: None,
        };
        let mut child = program.start().map_err(starting)?;
        let identity = i32::try_from(child.id()).ok().and_then(Identity::of);
        let process = identity.map(|identity| Process::find(&identity)).transpose().map_err(starting)?.flatten();
        let Some(process) = process else {
            let status = child.wait().map_err(starting)?;
            return Err(starting(io::Error::other(format!("it ended at once ({status})"))));
        };
        let pid = process.identity().pid;
        let joined = self.cgroups.iter().try_for_each(|cgroup| cgroup.take_in(pid));
        if let Err(error) = joined.and_then(|()| self.write_note(process.identity())) {
            let _ = process.signal(rustix::process::Signal::KILL);
            return Err(error);
        }
        Ok(process)
    }

    /// Whether `pid` is this very program with these very arguments.
    fn is(&self, pid: i32) -> bool {
        let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
        let mut words = line.split(|byte| *byte == 0).skip(1);
        self.arguments.iter().all(|argument| words.next() == Some(argument.as_encoded_bytes()))
    }

    fn write_note(&self, identity: &Identity) -> Result<(), VmError> {
        let new = self.note.with_extension("new");
        let noted = std::fs::write(&new, identity.to_string()).and_then(|()| std::fs::rename(&new, &self.note));
        noted.map_err(|source| VmError::io(format!("noting a process in {}", self.note.display()), source))
    }

    fn open_log(&self) -> io::Result<File> {
        if std::fs::metadata(&self.log).is_ok_and(|facts| facts.len() > LOG_MAX_BYTES) {
            std::fs::rename(&self.log, old(&self.log))?;
        }
        OpenOptions::new().create(true).append(true).mode(0o640).open(&self.log)
    }
}

fn old(log: &Path) -> PathBuf {
    let mut old = log.as_os_str().to_owned();
    old.push(".old");
    old.into()
}

#[cfg(test)]
mod test {
    use super::*;
    use units::Millis;

    fn sleeper(dir: &Path) -> Daemon {
        std::fs::create_dir_all(dir).unwrap();
        Daemon {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), format!("echo up; echo $KEPT; sleep 60; : {}", dir.display()).into()],
            environment: Vec::new(),
            note: dir.join("sleeper.process"),
            log: dir.join("sleeper.log"),
            cgroups: Vec::new(),
        }
    }

    /// Goal: a process is found again by its note and, without one, by what it is; a long log is set aside; it ends when
    /// told to. Method: a sleeping shell, its note removed.
    #[tokio::test]
    async fn a_process_is_found_again_and_ends() {
        let dir = std::env::temp_dir().join(format!("muskox-daemon-{}", std::process::id()));
        let daemon = sleeper(&dir);
        File::create(&daemon.log).unwrap().set_len(LOG_MAX_BYTES + 1).unwrap();
        assert!(daemon.find().unwrap().is_none());
        let started = daemon.start().unwrap();
        assert!(old(&daemon.log).exists());
        let begun = std::time::Instant::now();
        // Until it has become the shell it is still a copy of this test.
        while !daemon.is(started.identity().pid) && begun.elapsed().as_secs() < 10 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(daemon.find().unwrap().unwrap().identity(), started.identity());
        std::fs::remove_file(&daemon.note).unwrap();
        assert_eq!(daemon.find().unwrap().unwrap().identity(), started.identity());
        assert!(daemon.note.exists(), "it is noted again");
        started.end(Millis(5_000)).await.unwrap();
        assert!(daemon.find().unwrap().is_none());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
