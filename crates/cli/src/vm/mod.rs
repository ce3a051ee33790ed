//! `muskox vm …`: make, start, stop, move and look at VMs.

mod begin;
mod show;

pub use show::notes;

use crate::client::{Ask, block_on};
use crate::print::{ended, finish, refused};
use crate::{confirm, console, edit, spec};
use api::{Call, Done, Problem, VmDetails, VmMigrateRequest, VmSpecRequest, VmStartRequest, VmStopRequest};
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use units::table::printable;
use units::{NodeName, VmName};

/// A VM's words.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Make a VM from a description; it does not run yet.
    #[command(after_help = "Examples:
  muskox vm create web1.toml
  sed s/web1/web2/ web1.toml | muskox vm create -")]
    Create {
        /// The description, in TOML; '-' reads the standard input.
        file: PathBuf,
    },
    /// Start a VM and keep it running: it is started again after its QEMU, its host or everything died.
    Start(Start),
    /// Shut a VM down; it stays down until it is started.
    Stop(Stop),
    /// Give a VM another description; it holds from the next start on.
    #[command(after_help = "Without FILE the present description is opened in $VISUAL, $EDITOR or vi. Left as it was:
nothing is done. A text that is refused is kept, and its path told.")]
    Edit {
        /// The VM's name.
        name: VmName,
        /// The description, in TOML; '-' reads the standard input.
        file: Option<PathBuf>,
    },
    /// Move a VM to another host while it runs.
    Migrate(Migrate),
    /// All VMs.
    List,
    /// One VM with its description and what happened to it lately.
    Show {
        /// Its name.
        name: VmName,
    },
    /// Open a VM's serial console, wherever it runs. Ctrl-] leaves.
    Console {
        /// The VM's name.
        name: VmName,
    },
    /// Make the store agree with who really runs a VM, after it was brought back from an older backup; have a host that cannot
    /// tell about the VM take over what runs there.
    #[command(
        after_help = "The owner becomes the host that has the guest at the highest epoch, and a guest that is there is wished to
run. Every host and every target of its volumes is asked: refused if one does not answer (a host that the witnesses
have voted dead is done without), if two hosts have the guest at the same epoch, or if the store is not behind. What is behind: muskox doctor."
    )]
    Adopt {
        /// The VM's name.
        name: VmName,
    },
    /// End what runs of a VM on a host that cannot tell about it; asks for its name. The VM is started again if it should run.
    #[command(
        after_help = "A host cannot tell about a VM if what it kept of it is damaged, was removed, or was written by a newer muskox:
`muskox why vm NAME`. To let the guest run on, use `muskox vm adopt`. Refused if its QEMU cannot be ended for certain."
    )]
    Forget {
        /// The VM's name.
        name: VmName,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Remove a VM that does not run; asks for its name. Its volumes stay.
    #[command(alias = "delete")]
    Remove {
        /// Its name.
        name: VmName,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Args, Debug)]
struct Start {
    /// The VM's name.
    name: VmName,
    /// Where; without it where there is the most room.
    #[arg(long)]
    host: Option<NodeName>,
    /// Start it although the cluster would then not survive the loss of one host.
    #[arg(long)]
    overcommit: bool,
    /// Only begin it.
    #[arg(long)]
    no_wait: bool,
}

#[derive(Args, Debug)]
struct Stop {
    /// The VM's name.
    name: VmName,
    /// How long the guest may take to shut down before it is switched off; without it as described.
    #[arg(long, value_name = "SECONDS")]
    patience: Option<u32>,
    /// Only begin it.
    #[arg(long)]
    no_wait: bool,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  muskox vm migrate web1              to where there is the most room
  muskox vm migrate web1 host2 --deadline 120

Ctrl-C while waiting leaves the migration alone; `muskox job cancel ID` undoes it.")]
struct Migrate {
    /// The VM's name.
    name: VmName,
    /// Where to; without it where there is the most room.
    host: Option<NodeName>,
    /// After this long it is undone; without it 60 s, and more for more memory.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    deadline: Option<u32>,
    /// Only begin it.
    #[arg(long)]
    no_wait: bool,
}

impl Arguments {
    /// Asks and prints the answer.
    pub fn run(&self) -> ExitCode {
        let ask = &self.ask;
        match &self.verb {
            Verb::Create { file } => finish(ask.json, create(ask, file), show::taken),
            Verb::Start(start) => start.run(ask),
            Verb::Stop(stop) => stop.run(ask),
            Verb::Migrate(migrate) => migrate.run(ask),
            Verb::Edit { name, file: Some(file) } => finish(ask.json, replace(ask, name, file), show::taken),
            Verb::Edit { name, file: None } => ended(ask.json, edit::run(ask, name), |edited| edited.text(name)),
            Verb::List => finish(ask.json, ask.call(Call::named("vm_list"), "", None::<&()>), show::list),
            Verb::Show { name } => {
                let vm = ask.call::<VmDetails>(Call::named("vm_show"), name.as_str(), None::<&()>);
                finish(ask.json, vm, show::details)
            }
            Verb::Console { name } => match block_on(console::visit(ask, name)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(problem) => refused(ask.json, &problem),
            },
            Verb::Adopt { name } => {
                let done = ask.call::<Done>(Call::named("vm_adopt"), name.as_str(), None::<&()>);
                finish(ask.json, done, |done| format!("{}\n", printable(&done.text)))
            }
            Verb::Forget { name, yes } => confirmed(ask, "vm_forget", ("what runs of VM", name), *yes),
            Verb::Remove { name, yes } => confirmed(ask, "vm_delete", ("VM", name), *yes),
        }
    }
}

/// A call that ends something for good: the VM's name is asked for first.
fn confirmed(ask: &Ask, call: &str, (what, name): (&str, &VmName), yes: bool) -> ExitCode {
    if let Err(problem) = confirm::by_name(yes, what, name.as_str()) {
        return refused(ask.json, &problem);
    }
    let done = ask.call::<Done>(Call::named(call), name.as_str(), None::<&()>);
    finish(ask.json, done, |done| format!("{}\n", printable(&done.text)))
}

impl Start {
    fn run(&self, ask: &Ask) -> ExitCode {
        let request = VmStartRequest { host: self.host.clone(), overcommit: self.overcommit };
        let begin = begin::Begin { ask, call: "vm_start", name: &self.name, wait: !self.no_wait };
        let outcome = block_on(begin.run(&request, begin::started));
        ended(ask.json, outcome, |outcome| outcome.text(&format!("'{}' runs", self.name)))
    }
}

impl Stop {
    fn run(&self, ask: &Ask) -> ExitCode {
        let request = VmStopRequest { patience_ms: self.patience.map(milliseconds) };
        let begin = begin::Begin { ask, call: "vm_stop", name: &self.name, wait: !self.no_wait };
        let outcome = block_on(begin.run(&request, begin::stopped));
        ended(ask.json, outcome, |outcome| outcome.text(&format!("'{}' is stopped", self.name)))
    }
}

impl Migrate {
    fn run(&self, ask: &Ask) -> ExitCode {
        let request = VmMigrateRequest { host: self.host.clone(), deadline_ms: self.deadline.map(milliseconds) };
        let begin = begin::Begin { ask, call: "vm_migrate", name: &self.name, wait: !self.no_wait };
        let outcome = block_on(begin.run(&request, begin::started));
        ended(ask.json, outcome, |outcome| outcome.text(&format!("'{}' {}", self.name, moved(outcome))))
    }
}

/// Without a job there was nothing to do.
fn moved(outcome: &begin::Outcome) -> &'static str {
    match outcome {
        begin::Outcome::Vm(_) => "runs there already",
        _ => "has moved",
    }
}

fn milliseconds(seconds: u32) -> u64 {
    u64::from(seconds) * 1000
}

fn create(ask: &Ask, file: &Path) -> Result<VmDetails, Problem> {
    let spec = spec::read(file)?;
    let made = ask.call(Call::named("vm_create"), "", Some(&VmSpecRequest { spec: spec.text }));
    made.map_err(|problem| spec::blame(&spec.from, problem))
}

fn replace(ask: &Ask, name: &VmName, file: &Path) -> Result<VmDetails, Problem> {
    let spec = spec::read(file)?;
    let made = ask.call(Call::named("vm_edit"), name.as_str(), Some(&VmSpecRequest { spec: spec.text }));
    made.map_err(|problem| spec::blame(&spec.from, problem))
}
