//! The words of `muskox node init`, `join` and `run`: what touches this machine's files and so is not the API's.

use crate::agent::HostConfig;
use crate::backup;
use crate::identity::Seat;
use crate::init::init;
use crate::install;
use crate::join::join;
use crate::root::{Root, read_secret};
use crate::run::run;
use crate::token::JoinToken;
use api::{Code, PORT, Problem, Role};
use clap::Args;
use std::future::Future;
use std::io::{BufRead, IsTerminal, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::task::LocalSet;
use units::NodeName;

/// Exit code of what was refused or failed; clap's own for wrong usage is 2.
const EXIT_REFUSED: u8 = 1;
/// What a new member's owner does next.
const NEXT: &str = "`muskox node install` here (without systemd: `muskox node run`)";
/// A month; renewed after two thirds of it.
const CERTIFICATE_DEFAULT: &str = "30d";
/// Many times as long as a token.
const TOKEN_MAX_BYTES: u64 = 1024;
/// Shorter ones end before they are renewed; longer ones are of no use.
const CERTIFICATE_S: std::ops::RangeInclusive<u64> = 6..=825 * 86_400;

/// Where a node's files are.
#[derive(Args, Debug)]
pub struct Place {
    /// Keep everything under this folder: for rehearsals, several nodes on one machine.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

/// Who the machine will be.
#[derive(Args, Debug)]
struct Machine {
    /// Where the other machines find it: IP address, or address and port.
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    address: SocketAddr,
    /// Its own addresses on the storage segments, if they are others; several with commas.
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    portals: Vec<IpAddr>,
    /// What it is for: storage, host, witness; several with commas.
    #[arg(long, value_name = "ROLES", value_delimiter = ',', default_value = "storage,host,witness")]
    roles: Vec<Role>,
    /// A bridge that this host keeps for its guests, and an interface on it; several times for several.
    #[arg(long = "bridge", value_name = "NAME=PORT")]
    bridges: Vec<String>,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// Makes a cluster of this one machine; it will hold the store.
#[derive(Args, Debug)]
pub struct InitArguments {
    /// This machine's name in the cluster.
    name: NodeName,
    /// How long the machines' certificates are good; they are renewed after two thirds of it.
    #[arg(long, value_name = "TIME", default_value = CERTIFICATE_DEFAULT, value_parser = parse_certificate_time)]
    certificate_lifetime: u64,
    #[command(flatten)]
    machine: Machine,
}

/// Makes this machine a member of a cluster.
#[derive(Args, Debug)]
pub struct JoinArguments {
    /// A file with what `muskox node token` printed on a member, for its owner only; '-' reads it from the standard input. Never the
    /// token itself: every user sees it in `ps`.
    #[arg(value_name = "TOKEN_FILE")]
    token: PathBuf,
    /// This machine's name in the cluster; without it the host's name.
    #[arg(long)]
    name: Option<NodeName>,
    #[command(flatten)]
    machine: Machine,
}

/// Serves: the daemon of every machine.
#[derive(Args, Debug)]
pub struct RunArguments {
    #[command(flatten)]
    place: Place,
    /// Log more.
    #[arg(short, long)]
    pub verbose: bool,
}

/// Writes the store's objects into a file, also while the node runs.
#[derive(Args, Debug)]
pub struct BackupArguments {
    /// The new file; only its owner may read it.
    file: PathBuf,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// Brings a backup of the store back, while the node does not run. No epoch goes back.
#[derive(Args, Debug)]
pub struct RestoreArguments {
    /// What `store-backup` wrote.
    file: PathBuf,
    /// Print the outcome as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// Has systemd run the daemon from now on.
#[derive(Args, Debug)]
pub struct InstallArguments {
    /// Only print the unit.
    #[arg(long)]
    print: bool,
    /// Print the outcome as JSON.
    #[arg(long, conflicts_with = "print")]
    json: bool,
    #[command(flatten)]
    place: Place,
}

impl BackupArguments {
    /// Does it and prints the outcome.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        let done = in_runtime(backup::backup(&Root::new(&self.place.root), &self.file));
        finish(self.json, done, |done| format!("{}\n", done.text))
    }
}

impl RestoreArguments {
    /// Does it and prints the outcome.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        let done = in_runtime(backup::restore(&Root::new(&self.place.root), &self.file));
        finish(self.json, done, |done| format!("{}\nnext: start the node\n", done.text))
    }
}

impl InstallArguments {
    /// Does it and prints the outcome.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        if self.print {
            return finish(false, install::printed(&self.place.root), String::clone);
        }
        finish(self.json, install::install(&self.place.root), |done| format!("{}\n", done.text))
    }
}

impl InitArguments {
    /// Does it and prints the outcome.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        let machine = &self.machine;
        let root = Root::new(&machine.place.root);
        let made = in_runtime(async {
            let bridges = HostConfig::from_words(&machine.bridges)?;
            bridges.check_bridges()?;
            let made = init(&root, &machine.seat(&self.name), self.certificate_lifetime)?;
            bridges.save_if_any(&root).map(|()| made)
        });
        finish(machine.json, made, |made| {
            format!(
                "cluster {} is made; '{}' holds its store\nnext: {NEXT}, then `muskox node token` for each other machine\n",
                made.cluster, made.name
            )
        })
    }
}

impl JoinArguments {
    /// Does it and prints the outcome.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        let machine = &self.machine;
        let root = Root::new(&machine.place.root);
        let joined = in_runtime(async {
            let bridges = HostConfig::from_words(&machine.bridges)?;
            bridges.check_bridges()?;
            let token: JoinToken = self.token()?.parse()?;
            let joined = join(&root, &token, &machine.seat(&self.name()?)).await?;
            bridges.save_if_any(&root).map(|()| joined)
        });
        finish(machine.json, joined, |joined| {
            format!(
                "'{}' is a member of cluster {} ({} machines)\nnext: {NEXT}\n",
                joined.name, joined.cluster, joined.machines
            )
        })
    }

    fn token(&self) -> Result<String, Problem> {
        if self.token.to_str().is_some_and(|text| text.parse::<JoinToken>().is_ok()) {
            let text = "the token stands on the command line, where every user of this machine may have read it";
            let hint = "make a new one with `muskox node token`, and give it in a file or by the standard input: \
                        `muskox node join - …`";
            return Err(Problem::new(Code::BadRequest, text, hint));
        }
        if self.token.as_os_str() != "-" {
            return read_secret(&self.token);
        }
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            eprint!("token: ");
        }
        let mut text = String::new();
        let read = stdin.lock().take(TOKEN_MAX_BYTES).read_line(&mut text);
        let unread = |error| Problem::new(Code::BadRequest, format!("no token: {error}"), "pipe it in");
        read.map(|_| text).map_err(unread)
    }

    fn name(&self) -> Result<NodeName, Problem> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        // Source: proc(5), /proc/sys/kernel/hostname.
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().to_ascii_lowercase();
        let short = host.trim().split('.').next().unwrap_or_default();
        short.parse().map_err(|error: units::IdentError| {
            Problem::new(Code::BadRequest, format!("this host's name does not do: {error}"), "give one with --name")
        })
    }
}

impl RunArguments {
    /// Serves until told to stop.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        host::daemon::begin();
        let served = in_runtime(run(Root::new(&self.place.root)));
        served.map_or_else(|problem| complain(false, &problem), |()| ExitCode::SUCCESS)
    }
}

impl Machine {
    fn seat(&self, name: &NodeName) -> Seat {
        let mut roles = self.roles.clone();
        roles.sort_unstable();
        roles.dedup();
        Seat { name: name.clone(), address: self.address, portals: self.portals.clone(), roles }
    }
}

fn in_runtime<T>(work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| Problem::new(Code::Failed, format!("cannot start: {error}"), "see `ulimit -a`"))?;
    LocalSet::new().block_on(&runtime, work)
}

fn finish<T: serde::Serialize>(json: bool, outcome: Result<T, Problem>, text: impl FnOnce(&T) -> String) -> ExitCode {
    match outcome {
        Ok(done) => {
            let text = if json { as_json(&done) } else { text(&done) };
            // A closed pipe is not worth a complaint: it was done.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(problem) => complain(json, &problem),
    }
}

fn complain(json: bool, problem: &Problem) -> ExitCode {
    if json {
        let _ = std::io::stdout().write_all(as_json(problem).as_bytes());
    } else {
        eprintln!("error: {problem}");
        if !problem.hint.is_empty() {
            eprintln!(" hint: {}", problem.hint);
        }
    }
    ExitCode::from(EXIT_REFUSED)
}

fn as_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("plain values are JSON") + "\n"
}

/// `192.0.2.1`, `192.0.2.1:10811`, `2001:db8::1`, `[2001:db8::1]:10811`.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let alone = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
    alone.or_else(|_| text.parse()).map_err(|_| "write an IP address, or address:port".to_owned())
}

fn parse_certificate_time(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_s = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err("write 12h, 30d, 90m or 600s".to_owned()),
    };
    let seconds = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit_s));
    let seconds = seconds.filter(|seconds| CERTIFICATE_S.contains(seconds));
    seconds.ok_or_else(|| format!("between {} s and {} days", CERTIFICATE_S.start(), CERTIFICATE_S.end() / 86_400))
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn addresses_and_times_are_read() {
        assert_eq!(parse_address("192.0.2.1"), Ok("192.0.2.1:10811".parse().unwrap()));
        assert_eq!(parse_address("2001:db8::1"), Ok("[2001:db8::1]:10811".parse().unwrap()));
        assert_eq!(parse_address("[::1]:5"), Ok("[::1]:5".parse().unwrap()));
        assert!(parse_address("host:5").is_err());
        assert_eq!(parse_certificate_time("30d"), Ok(2_592_000));
        assert_eq!(parse_certificate_time("20s"), Ok(20));
        for bad in ["", "d", "5", "1s", "900d", "-1d", "99999999999999999999d", "5 d"] {
            assert!(parse_certificate_time(bad).is_err(), "{bad}");
        }
    }
}
