//! The program: picks the role.

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use dataplane::ctl::CtlArguments;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::filter::LevelFilter;

/// A few ordinary servers become one redundant VM cluster.
#[derive(Parser)]
#[command(name = "muskox", version, arg_required_else_help = true, propagate_version = true)]
#[command(after_help = cli::EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Machines of the cluster: make one, join, list, remove; and the daemon.
    #[command(subcommand)]
    Node(NodeVerb),
    #[command(flatten)]
    Ask(cli::Noun),
    /// Ask a target, an initiator or a dead-man directly, over its control socket.
    Ctl(CtlArguments),
    /// Print a script with which a shell completes these words.
    #[command(after_help = "Example:\n  muskox completions bash > /etc/bash_completion.d/muskox")]
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Serve volumes from this machine's disks over NBD.
    Target(DaemonArguments),
    /// Keep a VM's disks attached to their targets, and serve them to its QEMU.
    Initiator(DaemonArguments),
    /// Hold this machine's lease, pause its guests when it is alone, and be a witness of the others.
    Deadman(DaemonArguments),
    /// Freeze this host's guests when the lease ended and the dead-man has not stopped them.
    Guard {
        /// What the dead-man writes: `deadman.lease` beside its control socket.
        #[arg(long, value_name = "FILE")]
        record: PathBuf,
        /// The folders of this host's VMs.
        #[arg(long, value_name = "DIR")]
        vms: PathBuf,
        /// Log more.
        #[arg(short, long)]
        verbose: bool,
    },
}

/// What every process of the data plane is told on its command line.
#[derive(clap::Args)]
struct DaemonArguments {
    /// The configuration, in TOML.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only read the configuration and the certificates, and say whether it would start with them.
    #[arg(long)]
    check: bool,
    /// Log more.
    #[arg(short, long)]
    verbose: bool,
}

impl DaemonArguments {
    fn log_to<W: std::io::Write + 'static>(&self, writer: impl Fn() -> W + Send + Sync + 'static) {
        log_to(self.verbose, writer);
    }
}

/// What touches this machine's files is the node's own; everything else asks it.
#[derive(Subcommand)]
enum NodeVerb {
    /// Make a cluster of this one machine; it will hold the store.
    Init(node::InitArguments),
    /// Make this machine a member of a cluster.
    Join(node::JoinArguments),
    /// Serve: the daemon of every machine.
    Run(node::RunArguments),
    /// Write the store's objects into a file, also while the node runs.
    StoreBackup(node::BackupArguments),
    /// Bring a backup of the store back, while the node does not run.
    StoreRestore(node::RestoreArguments),
    /// Have systemd run the daemon.
    Install(node::InstallArguments),
    #[command(flatten)]
    Ask(cli::NodeVerb),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    if let Err(complaint) = plant_bug() {
        eprintln!("error: {complaint}");
        return ExitCode::FAILURE;
    }
    match arguments.role {
        Role::Ctl(ctl) => dataplane::ctl::run(&ctl),
        Role::Node(NodeVerb::Init(init)) => init.run(),
        Role::Node(NodeVerb::Join(join)) => join.run(),
        Role::Node(NodeVerb::Run(run)) => {
            log_to_stderr(run.verbose);
            run.run()
        }
        Role::Node(NodeVerb::StoreBackup(backup)) => backup.run(),
        Role::Node(NodeVerb::StoreRestore(restore)) => restore.run(),
        Role::Node(NodeVerb::Install(install)) => install.run(),
        Role::Node(NodeVerb::Ask(ask)) => ask.run(),
        Role::Ask(ask) => ask.run(),
        Role::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "muskox", &mut script);
            // A closed pipe is not worth a complaint.
            let _ = std::io::stdout().write_all(&script);
            ExitCode::SUCCESS
        }
        Role::Target(daemon) => {
            daemon.log_to(std::io::stderr);
            let role = if daemon.check { dataplane::target::check } else { dataplane::target::run };
            ended(role(&daemon.config).map_err(|error| (error.to_string(), error.hint())))
        }
        Role::Deadman(daemon) => {
            daemon.log_to(|| dataplane::deadman::Unhurried);
            let role = if daemon.check { dataplane::deadman::check } else { dataplane::deadman::run };
            ended(role(&daemon.config).map_err(|error| (error.to_string(), error.hint())))
        }
        Role::Guard { record, vms, verbose } => {
            log_to(verbose, || dataplane::deadman::Unhurried);
            ended(dataplane::guard::run(&record, &vms).map_err(|error| (error.to_string(), String::new())))
        }
        Role::Initiator(daemon) => {
            daemon.log_to(std::io::stderr);
            let role = if daemon.check { dataplane::initiator::check } else { dataplane::initiator::run };
            ended(role(&daemon.config).map_err(|error| (error.to_string(), error.hint())))
        }
    }
}

/// What is wrong with the words, for people; with `--json` among them for programs too. Help and the version are results.
fn usage(error: &clap::Error) -> ExitCode {
    let words = std::env::args_os().skip(1).take_while(|word| word != "--");
    if error.use_stderr() && words.into_iter().any(|word| word == "--json") {
        cli::say_usage(&error.to_string());
    } else {
        // A closed pipe is not worth a complaint.
        let _ = error.print();
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// What a role came to, for people and for the shell.
fn ended(outcome: Result<(), (String, String)>) -> ExitCode {
    let Err((error, hint)) = outcome else { return ExitCode::SUCCESS };
    eprintln!("error: {error}");
    if !hint.is_empty() {
        eprintln!(" hint: {hint}");
    }
    ExitCode::FAILURE
}

fn log_to_stderr(verbose: bool) {
    log_to(verbose, std::io::stderr);
}

fn log_to<W: std::io::Write + 'static>(verbose: bool, writer: impl Fn() -> W + Send + Sync + 'static) {
    let level = if verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
    tracing_subscriber::fmt().with_max_level(level).with_writer(writer).with_target(false).init();
}

#[cfg(not(feature = "sabotage"))]
#[allow(clippy::unnecessary_wraps, reason = "with the feature it can fail")]
fn plant_bug() -> Result<(), String> {
    Ok(())
}

/// Plants the bug that `MUSKOX_SABOTAGE` names: the lab's way of seeing its checkers fail.
#[cfg(feature = "sabotage")]
fn plant_bug() -> Result<(), String> {
    let Ok(name) = std::env::var("MUSKOX_SABOTAGE") else { return Ok(()) };
    dataplane::sabotage::plant(&name)
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_arguments_are_sound() {
        Arguments::command().debug_assert();
    }

    /// Commands of ours that a page shows in its blocks, each as its words.
    fn shown(page: &str) -> Vec<String> {
        let blocks = page.split("\n```").skip(1).step_by(2);
        let lines = blocks.filter(|block| block.starts_with("console") || block.starts_with("sh\n"));
        let commands = lines.flat_map(str::lines).filter_map(|line| {
            let line = line.strip_prefix("# ").or_else(|| line.strip_prefix("$ ")).unwrap_or(line);
            let line = line.split("   ").next().unwrap_or_default().split(" #").next().unwrap_or_default().trim();
            line.strip_prefix("muskox ").map(|words| words.trim_end_matches(" &").to_owned())
        });
        // What the shell puts in, and names that a reader puts in.
        commands.map(|words| words.replace("$(date +%F)", "2026-01-01").replace("NAME", "web1")).collect()
    }

    /// Goal: the commands of README and of the manuals are understood as they are printed. Method: every line of every block.
    #[test]
    fn what_our_pages_show_is_understood() {
        let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut pages = vec![top.join("README.md")];
        pages.extend(
            std::fs::read_dir(top.join("docs/runbooks")).expect("it is there").map(|it| it.expect("read").path()),
        );
        let mut count = 0;
        for page in pages {
            for words in shown(&std::fs::read_to_string(&page).expect("a page")) {
                let read = Arguments::try_parse_from(std::iter::once("muskox").chain(words.split_whitespace()));
                assert!(read.is_ok(), "{}: muskox {words}\n{}", page.display(), read.err().expect("it is one"));
                count += 1;
            }
        }
        assert!(count > 25, "they are looked for where they stand: {count}");
    }
}
