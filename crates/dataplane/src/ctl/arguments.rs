//! The words of `muskox ctl` and the requests they stand for.

use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::time::Duration;
use units::{ByteLen, Epoch, HostKey, Mode, PoolName, VolumeName, parse_size};
use wire::control::{Code, Owner, Refusal, Request};

/// Asks a target, an initiator or a dead-man directly over its control socket.
#[derive(Args, Debug)]
pub struct CtlArguments {
    /// The process's control socket.
    #[arg(long, value_name = "PATH", default_value = "/run/muskox/target.sock", global = true)]
    pub socket: PathBuf,
    /// Print the reply as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Give up waiting for an answer after this many seconds (the target goes on).
    #[arg(long, value_name = "SECONDS", default_value_t = 60, global = true)]
    pub timeout: u32,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Subcommand, Debug)]
enum Noun {
    /// Everything at a glance.
    Status,
    /// A dead-man only: read its configuration again.
    Reload,
    /// Mirrors of disks.
    #[command(subcommand)]
    Pool(PoolVerb),
    /// Disks for guests, on pools.
    #[command(subcommand)]
    Volume(VolumeVerb),
    /// Who may use a volume.
    #[command(subcommand)]
    Grant(GrantVerb),
}

#[derive(Subcommand, Debug)]
enum PoolVerb {
    /// Make a mirror of disks; its resync starts at once.
    Create {
        /// The new pool's name.
        name: PoolName,
        /// Two or more block devices or files; one with --single.
        #[arg(required = true, num_args = 1..)]
        disks: Vec<PathBuf>,
        /// Overwrite what the disks hold.
        #[arg(long)]
        wipe: bool,
        /// One disk is meant: no mirror, lost with that disk.
        #[arg(long)]
        single: bool,
    },
    /// Assemble a stopped pool, or one that another machine made.
    Start {
        /// The pool's name.
        name: PoolName,
        /// Where to look for members.
        disks: Vec<PathBuf>,
        /// Start although members are missing that may hold newer data: they are lost for good. With disks named, on
        /// these alone: says which of two members to go on with that each ran without the other.
        #[arg(long)]
        degraded: bool,
    },
    /// All pools.
    List,
    /// One pool with its members.
    Show {
        /// The pool's name.
        name: PoolName,
    },
    /// Take a member out of use for good.
    Fail {
        /// The pool's name.
        name: PoolName,
        /// The member's path.
        disk: PathBuf,
    },
    /// Fail a member and put another disk in its place.
    Replace {
        /// The pool's name.
        name: PoolName,
        /// The member that goes.
        old: PathBuf,
        /// The disk that comes.
        new: PathBuf,
        /// Overwrite what the new disk holds.
        #[arg(long)]
        wipe: bool,
    },
    /// Put a disk in the place of a failed or missing member.
    Add {
        /// The pool's name.
        name: PoolName,
        /// The disk.
        disk: PathBuf,
        /// Overwrite what the disk holds.
        #[arg(long)]
        wipe: bool,
    },
    /// Stop serving and leave the members clean.
    Stop {
        /// The pool's name.
        name: PoolName,
    },
}

#[derive(Subcommand, Debug)]
enum VolumeVerb {
    /// Make a volume of zeroes.
    Create {
        /// On this pool.
        pool: PoolName,
        /// The new volume's name.
        name: VolumeName,
        /// How big: 10G, 512M, 1T or bytes.
        #[arg(value_parser = parse_size)]
        size: ByteLen,
    },
    /// All volumes.
    List {
        /// Only this pool's.
        #[arg(long)]
        pool: Option<PoolName>,
    },
    /// Give a volume's space back. What it holds is lost.
    Remove {
        /// The volume's name.
        name: VolumeName,
    },
}

#[derive(Subcommand, Debug)]
enum GrantVerb {
    /// Who owns a volume, and at which epoch.
    Show {
        /// The volume's name.
        volume: VolumeName,
    },
    /// Grant an epoch; answers when nothing older can reach a disk any more.
    Raise {
        /// The volume's name.
        volume: VolumeName,
        /// The epoch to grant.
        epoch: u64,
        /// Who gets it: HOSTKEY or HOSTKEY:ro; again for more.
        #[arg(long = "owner", value_name = "HOSTKEY[:ro]", value_parser = parse_owner, required_unless_present = "nobody")]
        owners: Vec<Owner>,
        /// Nobody gets it: a hand-over is in progress.
        #[arg(long, conflicts_with = "owners")]
        nobody: bool,
        /// Allow several writers.
        #[arg(long)]
        shared: bool,
    },
    /// Promise a higher epoch to one host, which may then attach as standby.
    Reserve {
        /// The volume's name.
        volume: VolumeName,
        /// The promised epoch.
        epoch: u64,
        /// To this host.
        host: HostKey,
    },
    /// Tell the target the store's epoch: nothing older may write.
    Floor {
        /// The volume's name.
        volume: VolumeName,
        /// The store's epoch.
        epoch: u64,
    },
    /// Serve a degraded volume without knowing its floor. Data may be lost: the missing member may hold a newer grant.
    Override {
        /// The volume's name.
        volume: VolumeName,
        /// Who says so and why; it is recorded.
        #[arg(long)]
        word: String,
    },
}

impl CtlArguments {
    /// How long to wait for an answer.
    #[must_use]
    pub fn patience(&self) -> Duration {
        Duration::from_secs(u64::from(self.timeout.max(1)))
    }

    /// What is to be asked.
    ///
    /// # Errors
    /// A path that is not text.
    pub fn request(&self) -> Result<Request, Refusal> {
        match &self.noun {
            Noun::Status => Ok(Request::Status),
            Noun::Reload => Ok(Request::Reload),
            Noun::Pool(verb) => verb.request(),
            Noun::Volume(verb) => Ok(verb.request()),
            Noun::Grant(verb) => Ok(verb.request()),
        }
    }
}

impl PoolVerb {
    fn request(&self) -> Result<Request, Refusal> {
        Ok(match self {
            Self::Create { name, disks, wipe, single } => {
                Request::PoolCreate { pool: name.clone(), members: all_absolute(disks)?, wipe: *wipe, single: *single }
            }
            Self::Start { name, disks, degraded } => {
                Request::PoolStart { pool: name.clone(), members: all_absolute(disks)?, degraded: *degraded }
            }
            Self::List => Request::PoolList,
            Self::Show { name } => Request::PoolShow { pool: name.clone() },
            Self::Fail { name, disk } => Request::MemberFail { pool: name.clone(), member: absolute(disk)? },
            Self::Replace { name, old, new, wipe } => {
                Request::MemberReplace { pool: name.clone(), old: absolute(old)?, new: absolute(new)?, wipe: *wipe }
            }
            Self::Add { name, disk, wipe } => {
                Request::MemberAdd { pool: name.clone(), member: absolute(disk)?, wipe: *wipe }
            }
            Self::Stop { name } => Request::PoolStop { pool: name.clone() },
        })
    }
}

impl VolumeVerb {
    fn request(&self) -> Request {
        match self {
            Self::Create { pool, name, size } => {
                Request::VolumeCreate { pool: pool.clone(), volume: name.clone(), size: *size }
            }
            Self::List { pool } => Request::VolumeList { pool: pool.clone() },
            Self::Remove { name } => Request::VolumeRemove { volume: name.clone() },
        }
    }
}

impl GrantVerb {
    fn request(&self) -> Request {
        match self {
            Self::Show { volume } => Request::GrantShow { volume: volume.clone() },
            Self::Raise { volume, epoch, owners, shared, nobody: _ } => {
                Request::Raise { volume: volume.clone(), epoch: Epoch(*epoch), owners: owners.clone(), shared: *shared }
            }
            Self::Reserve { volume, epoch, host } => {
                Request::Reserve { volume: volume.clone(), epoch: Epoch(*epoch), host: *host }
            }
            Self::Floor { volume, epoch } => Request::Floor { volume: volume.clone(), epoch: Epoch(*epoch) },
            Self::Override { volume, word } => Request::Override { volume: volume.clone(), word: word.clone() },
        }
    }
}

fn parse_owner(text: &str) -> Result<Owner, String> {
    let (host, mode) = match text.split_once(':') {
        None => (text, Mode::Rw),
        Some((host, "rw")) => (host, Mode::Rw),
        Some((host, "ro")) => (host, Mode::Ro),
        Some((_, mode)) => return Err(format!("'{mode}' is not a mode: write ro or rw")),
    };
    host.parse().map(|host| Owner { host, mode }).map_err(|error: units::IdentError| error.to_string())
}

/// The target has another working folder, so paths leave this process absolute.
fn absolute(path: &Path) -> Result<String, Refusal> {
    let whole = std::path::absolute(path).ok();
    whole.and_then(|whole| whole.into_os_string().into_string().ok()).ok_or_else(|| {
        let text = format!("'{}' is not a path in UTF-8", path.display());
        Refusal::new(Code::Invalid, text, "give the disk's path under /dev/disk/by-id")
    })
}

fn all_absolute(paths: &[PathBuf]) -> Result<Vec<String>, Refusal> {
    paths.iter().map(|path| absolute(path)).collect()
}

#[cfg(test)]
mod test {
    use super::*;
    use clap::Parser;

    #[derive(Parser, Debug)]
    struct Line {
        #[command(flatten)]
        arguments: CtlArguments,
    }

    fn request(line: &str) -> Result<Request, String> {
        let words = std::iter::once("ctl").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        line.arguments.request().map_err(|refusal| refusal.text)
    }

    #[test]
    fn words_become_requests() {
        let host = HostKey([0xab; 32]);
        let (pool, volume): (PoolName, VolumeName) = ("tank".parse().unwrap(), "web1".parse().unwrap());
        let check = |line: &str, expect: Request| assert_eq!(request(line), Ok(expect), "{line}");
        check("status --json", Request::Status);
        check(
            "pool create tank /dev/a /dev/b --wipe",
            Request::PoolCreate {
                pool: pool.clone(),
                members: vec!["/dev/a".into(), "/dev/b".into()],
                wipe: true,
                single: false,
            },
        );
        check(
            "volume create tank web1 10G",
            Request::VolumeCreate { pool, volume: volume.clone(), size: ByteLen(10 << 30) },
        );
        let owners = vec![Owner { host, mode: Mode::Ro }];
        check(
            &format!("grant raise web1 7 --owner {host}:ro"),
            Request::Raise { volume: volume.clone(), epoch: Epoch(7), owners, shared: false },
        );
        let raise = Request::Raise { volume, epoch: Epoch(8), owners: vec![], shared: false };
        check("grant raise web1 8 --nobody", raise);
    }

    #[test]
    fn relative_disks_become_absolute() {
        let Ok(Request::MemberFail { member, .. }) = request("pool fail tank disk0") else { panic!("a request") };
        assert!(member.starts_with('/') && member.ends_with("/disk0"), "{member}");
    }

    #[test]
    fn wrong_words_are_refused_with_a_reason() {
        for (line, words) in [
            ("pool create tank", "required"),
            ("pool create TANK /dev/a", "is not a name"),
            ("volume create tank web1 10X", "10X"),
            ("grant raise web1 7", "--owner"),
            ("grant raise web1 7 --owner abc", "64 hexadecimal"),
            ("grant raise web1 -1 --nobody", "-1"),
        ] {
            let error = request(line).expect_err(line);
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
