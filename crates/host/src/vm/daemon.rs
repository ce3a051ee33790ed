//! A process of ours that outlives who started it: its own session, its own log, known by who it is.

use super::VmError;
use super::cgroup::Cgroup;
use super::process::{Identity, Process, read_of};
use super::spawn::Program;
use crate::replace::{Outlives, replace};
use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{
    self,
    ErrorKind::{NotADirectory, NotFound, PermissionDenied},
};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
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
        let noted = match std::fs::read_to_string(&self.note) {
            Ok(text) => Identity::parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(looking(error)),
        };
        if let Some(identity) = noted
            && let Some(process) = Process::find(&identity).map_err(looking)?
        {
            return Ok(Some(process));
        }
        let found = self.listed().map_err(looking)?;
        if let Some(process) = &found {
            self.write_note(process.identity())?;
        }
        Ok(found)
    }

    /// The process by the kernel's list. What cannot be looked at may be it.
    fn listed(&self) -> io::Result<Option<Process>> {
        for entry in std::fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            if !self.is(pid)? || !self.lives_here(pid)? {
                continue;
            }
            if let Some(identity) = Identity::of(pid)?
                && let Some(process) = Process::find(&identity)?
            {
                return Ok(Some(process));
            }
        }
        Ok(None)
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
            talk: None,
            log: self.open_log().map_err(|source| VmError::io(format!("opening {}", self.log.display()), source))?,
            owner: None,
            folder: None,
            cgroups: Vec::new(),
            environment: self.environment.iter().filter_map(kept).collect(),
            ends_with_us: false,
            limits: None,
        };
        let mut child = program.start().map_err(starting)?;
        let Some(process) = Process::of_child(&mut child).map_err(starting)? else {
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
    fn is(&self, pid: i32) -> io::Result<bool> {
        let line = match read_of(pid, "cmdline") {
            // Whoever hides it from us is none of ours.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => None,
            line => line?,
        };
        let Some(line) = line else { return Ok(false) };
        let mut words = line.split('\0').skip(1);
        let same = self.arguments.iter().all(|argument| argument.to_str().is_some_and(|it| words.next() == Some(it)));
        // One that says more is another: it may be about to end.
        Ok(same && words.all(str::is_empty))
    }

    /// Whether a process sees the folder of our note where we see it. One of another container may have the very same command
    /// line, and is the daemon of somebody else.
    fn lives_here(&self, pid: i32) -> io::Result<bool> {
        let folder = self.note.parent().expect("a note lies in a folder");
        let absolute = std::path::absolute(folder)?;
        let seen =
            Path::new("/proc").join(pid.to_string()).join("root").join(absolute.strip_prefix("/").unwrap_or(folder));
        let same = |ours: Metadata, theirs: Metadata| (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino());
        match std::fs::metadata(seen) {
            Ok(theirs) => Ok(same(std::fs::metadata(&absolute)?, theirs)),
            // It has no such folder, is gone, or is none of ours.
            Err(error) if matches!(error.kind(), NotFound | PermissionDenied | NotADirectory) => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn write_note(&self, identity: &Identity) -> Result<(), VmError> {
        let noted = replace(&self.note, identity.to_string().as_bytes(), 0o644, Outlives::Process);
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
        while !daemon.is(started.identity().pid).unwrap() && begun.elapsed().as_secs() < 10 {
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

    /// D20. Goal: a process with the very same command line that lives in another container's folders is not adopted, and so not
    /// ended either. Method: the same words in a mount namespace where another file system lies over the note's folder; needs
    /// root, and is passed over without.
    #[tokio::test]
    async fn another_containers_process_is_not_adopted() {
        if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
            return;
        }
        let dir = std::env::temp_dir().join(format!("muskox-daemon-elsewhere-{}", std::process::id()));
        let daemon = sleeper(&dir);
        let words = daemon.arguments[1].to_str().unwrap();
        let script = format!("mount -t tmpfs none '{}' && exec /bin/sh -c \"$0\"", dir.display());
        let mut elsewhere = std::process::Command::new("unshare");
        let output = std::process::Stdio::null();
        let mut elsewhere =
            elsewhere.args(["--mount", "/bin/sh", "-c", &script, words]).stdout(output).spawn().unwrap();
        let pid = i32::try_from(elsewhere.id()).unwrap();
        let begun = std::time::Instant::now();
        while !daemon.is(pid).unwrap() && begun.elapsed().as_secs() < 10 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(daemon.is(pid).unwrap(), "it has the same command line");
        let found = daemon.find().unwrap().map(|process| process.identity().pid);
        elsewhere.kill().unwrap();
        elsewhere.wait().unwrap();
        assert_eq!(found, None);
        let started = daemon.start().unwrap();
        std::fs::remove_file(&daemon.note).unwrap();
        while !daemon.is(started.identity().pid).unwrap() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(daemon.find().unwrap().unwrap().identity(), started.identity(), "our own is found as ever");
        started.end(Millis(5_000)).await.unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
