//! Running a tool on a file from a stranger: it gets that one file, its standard streams, and nothing else worth having.
//!
//! As root the tool is run as a user that nobody else has, in namespaces of its own for network, IPC and host name (Unix sockets
//! are found by path and still work), always without new privileges, with small limits and without the
//! system calls of [`crate::seccomp`], and it dies with the thread that
//! started it. It does *not* hide the files that everybody may read.
#![allow(unsafe_code, reason = "pre_exec is unsafe by its signature")]

use crate::seccomp::Filter;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Gid, Pid, Resource, Rlimit, Signal, Uid, set_parent_process_death_signal, setrlimit};
use rustix::thread::{UnshareFlags, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// What a tool says beyond this is not kept.
const OUTPUT_MAX_BYTES: usize = 1 << 20;
/// Threads, libraries and a few sockets.
const FILES_MAX: u64 = 256;
/// A process whose pipes are closed is gone within a moment.
const GONE_PAUSE: Duration = Duration::from_millis(5);

/// What a tool may use up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Address space.
    pub memory_bytes: u64,
    /// Processor time.
    pub cpu_s: u64,
}

/// Who a tool is, and where.
#[derive(Clone, Copy, Debug)]
pub struct Confinement<'a> {
    /// Its user and group; `None`: ours, unless that is root.
    pub user: Option<u32>,
    /// The folder that it runs in, which need not be open to its user from above; `None`: the root.
    pub folder: Option<&'a Path>,
}

/// A tool that runs. Dropped, it is killed.
pub struct Confined {
    child: Child,
    output: Receiver,
    errors: Receiver,
}

/// How a tool ended.
#[derive(Debug)]
pub struct Finished {
    /// Its status.
    pub status: ExitStatus,
    /// What it printed, as far as it was kept.
    pub output: Vec<u8>,
    /// What it complained.
    pub errors: String,
}

impl Confined {
    /// Starts `program` with `input` as its standard input, which it can open again as `/dev/fd/0`.
    ///
    /// # Errors
    /// There is no such program, it would be root, or the kernel refuses one of the walls: then it was not started.
    pub fn start(
        program: &str,
        arguments: &[&OsStr],
        input: File,
        limits: Limits,
        confinement: Confinement<'_>,
    ) -> io::Result<Self> {
        let root = rustix::process::geteuid().is_root();
        if root && confinement.user.is_none_or(|user| user == 0) {
            return Err(io::Error::other(format!("{program} is not run as root: it needs a user of its own")));
        }
        let user = confinement.user.filter(|_| root);
        let filter = Filter::for_tools();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = confinement.folder.map(|folder| rustix::fs::open(folder, flags, Mode::empty())).transpose()?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
        command.current_dir("/").stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let parent = rustix::process::getpid();
        // SAFETY: the closure runs in the child after fork, where only async-signal-safe work is allowed. It makes raw
        // system calls only (see `wall_in`), touches no lock, allocates nothing and borrows nothing: it owns folder and filter.
        unsafe { command.pre_exec(move || wall_in(parent, user, folder.as_ref(), limits, &filter)) };
        let mut child = command.spawn()?;
        let pipes = (child.stdout.take().expect("it is piped"), child.stderr.take().expect("it is piped"));
        let output = Receiver::from_owned_fd(pipes.0.into());
        let errors = Receiver::from_owned_fd(pipes.1.into());
        match (output, errors) {
            (Ok(output), Ok(errors)) => Ok(Self { child, output, errors }),
            (Err(error), _) | (_, Err(error)) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// Waits until it ends; `heard` gets what it prints as it comes.
    ///
    /// # Errors
    /// The kernel's.
    pub async fn finish(mut self, mut heard: impl FnMut(&[u8])) -> io::Result<Finished> {
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let (mut from_output, mut from_errors) = ([0; 4096], [0; 4096]);
        let (mut output_open, mut errors_open) = (true, true);
        while output_open || errors_open {
            tokio::select! {
                read = self.output.read(&mut from_output), if output_open => {
                    let new = &from_output[..read?];
                    output_open = !new.is_empty();
                    heard(new);
                    keep(&mut output, new);
                }
                read = self.errors.read(&mut from_errors), if errors_open => {
                    let new = &from_errors[..read?];
                    errors_open = !new.is_empty();
                    keep(&mut errors, new);
                }
            }
        }
        // A tool that closed its pipes and lives on is killed when whoever waits here gives up.
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None => tokio::time::sleep(GONE_PAUSE).await,
            }
        };
        Ok(Finished { status, output, errors: String::from_utf8_lossy(&errors).into_owned() })
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        // Not collected yet, so its number is nobody else's; after SIGKILL the wait is short.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn keep(kept: &mut Vec<u8>, new: &[u8]) {
    let room = OUTPUT_MAX_BYTES.saturating_sub(kept.len());
    kept.extend_from_slice(&new[..new.len().min(room)]);
}

/// In the child, before the tool: first what needs root, then no way back.
fn wall_in(
    parent: Pid,
    user: Option<u32>,
    folder: Option<&OwnedFd>,
    limits: Limits,
    filter: &Filter,
) -> io::Result<()> {
    let limit = |bound: u64| Rlimit { current: Some(bound), maximum: Some(bound) };
    setrlimit(Resource::Core, limit(0))?;
    setrlimit(Resource::Fsize, limit(0))?;
    setrlimit(Resource::Nofile, limit(FILES_MAX))?;
    setrlimit(Resource::As, limit(limits.memory_bytes))?;
    setrlimit(Resource::Cpu, limit(limits.cpu_s))?;
    if let Some(user) = user {
        let own = UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
        // SAFETY: none of the child's descriptors or memory is unshared, only the network, IPC and host name it would see.
        unsafe { rustix::thread::unshare_unsafe(own)? };
        set_thread_groups(&[])?;
        let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
        // A thread's identity is the process's here: after fork there is one thread.
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)?;
    }
    if let Some(folder) = folder {
        rustix::process::fchdir(folder)?;
    }
    // After the change of user, which clears it (prctl(2), PR_SET_PDEATHSIG).
    end_with(parent)?;
    set_no_new_privs(true)?;
    filter.enter()
}

/// In a child: it is killed when the thread that made it ends. One whose parent ended before this was said would live on for ever.
///
/// # Errors
/// If the parent has ended already.
pub(crate) fn end_with(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
}

#[cfg(test)]
mod test {
    use super::*;
    use std::io::Write;

    const LIMITS: Limits = Limits { memory_bytes: 1 << 30, cpu_s: 10 };

    /// A user that is nobody's.
    const USER: u32 = 2_100_600_000;
    const OWN: Confinement<'_> = Confinement { user: Some(USER), folder: None };

    async fn shell(script: &str, input: &[u8]) -> Finished {
        let path = std::env::temp_dir().join(format!("muskox-sandbox-{}-{}", std::process::id(), script.len()));
        let mut file = File::create(&path).unwrap();
        file.write_all(input).unwrap();
        drop(file);
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let arguments = ["-c", script].map(OsStr::new);
        Confined::start("sh", &arguments, file, LIMITS, OWN).unwrap().finish(|_| {}).await.unwrap()
    }

    /// Goal: the tool reads its file, and writes no other. Method: a shell in the sandbox tries; what it may use, it uses.
    #[tokio::test]
    async fn a_tool_has_its_input_and_little_else() {
        let read = shell("cat /dev/fd/0; echo again; cat", b"hello").await;
        assert!(read.status.success(), "{read:?}");
        assert_eq!(read.output, b"helloagain\nhello");
        let dir = std::env::temp_dir();
        let wrote = shell(&format!("echo x > {}/muskox-sandbox-out", dir.display()), b"").await;
        assert!(!wrote.status.success(), "{wrote:?}");
        assert!(shell("ulimit -n; ulimit -c", b"").await.output.starts_with(b"256\n0"));
        let own = shell("unshare --user true", b"").await;
        assert!(own.errors.contains("not permitted"), "no namespace of its own: {own:?}");
        if !rustix::process::geteuid().is_root() {
            return;
        }
        assert_eq!(shell("id -u; id -G", b"").await.output, format!("{USER}\n{USER}\n").as_bytes());
        let net = shell("cat /proc/net/dev", b"").await;
        assert_eq!(String::from_utf8_lossy(&net.output).lines().count(), 3, "only a loopback that is down: {net:?}");
        assert!(!shell("cat /etc/shadow", b"").await.status.success());
        let file = || File::open("/dev/null").unwrap();
        for user in [None, Some(0)] {
            let refused = Confined::start("id", &[], file(), LIMITS, Confinement { user, folder: None });
            assert!(refused.is_err_and(|error| error.to_string().contains("not run as root")), "{user:?}");
        }
    }

    /// Goal: a tool that hangs ends with whoever waits for it. Method: give up, then look for it.
    #[tokio::test]
    async fn who_gives_up_ends_the_tool() {
        let file = File::open("/dev/null").unwrap();
        let arguments = ["-c", "exec sleep 60"].map(OsStr::new);
        let tool = Confined::start("sh", &arguments, file, LIMITS, OWN).unwrap();
        let pid = i32::try_from(tool.child.id()).unwrap();
        let late = tokio::time::timeout(Duration::from_millis(50), tool.finish(|_| {})).await;
        assert!(late.is_err());
        assert_eq!(crate::vm::Identity::of(pid).unwrap(), None, "it is gone");
    }

    /// Goal: a program that should end with its parent does not outlive one that ended before it could say so: a probe's QEMU was
    /// left behind for ever. Method: it starts as the child of another process than the one named.
    #[test]
    fn who_lost_its_parent_does_not_begin() {
        let started_by = |parent: Pid| {
            let mut command = Command::new("true");
            // SAFETY: two system calls, in the child after fork.
            unsafe { command.pre_exec(move || end_with(parent)) };
            command.status()
        };
        assert!(started_by(rustix::process::getpid()).unwrap().success());
        let grandparent = rustix::process::getppid().unwrap();
        assert_eq!(started_by(grandparent).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }
}
