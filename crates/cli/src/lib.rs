//! The command line: turns words into calls of the API and its replies into tables or JSON.
//!
//! A noun a file; what waiting verbs share is in `watch`, exit codes are in `print`. A client of the API and nothing
//! else: it does *not* know files of the node, stores or other machines; it speaks to this machine's node over its
//! socket.

mod client;
mod confirm;
mod console;
mod doctor;
mod edit;
mod image;
mod job;
mod node;
mod pool;
mod print;
mod progress;
mod spec;
mod store;
mod vm;
mod volume;
mod watch;
mod why;

pub use node::NodeVerb;
pub use print::{EXIT_CODES, say_usage};

use clap::Subcommand;
use std::process::ExitCode;

/// What can be asked of the cluster, besides its machines.
#[derive(Subcommand, Debug)]
pub enum Noun {
    /// Pools: disks of a storage machine that protect each other.
    Pool(pool::Arguments),
    /// Volumes: what a VM sees as its disks.
    Volume(volume::Arguments),
    /// Images of disks: import one into a volume.
    Image(image::Arguments),
    /// VMs: make, start, stop, move, look at them.
    Vm(vm::Arguments),
    /// Jobs: work of several steps that goes on without whoever began it.
    Job(job::Arguments),
    /// Why something is as it is, from recorded facts.
    Why(why::Arguments),
    /// Look at every machine and say what is wrong and what to do.
    Doctor(doctor::Arguments),
    /// The cluster's store: what was changed in it.
    Store(store::Arguments),
}

impl Noun {
    /// Asks and prints the answer.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        match self {
            Self::Pool(arguments) => arguments.run(),
            Self::Volume(arguments) => arguments.run(),
            Self::Image(arguments) => arguments.run(),
            Self::Vm(arguments) => arguments.run(),
            Self::Job(arguments) => arguments.run(),
            Self::Why(arguments) => arguments.run(),
            Self::Doctor(arguments) => arguments.run(),
            Self::Store(arguments) => arguments.run(),
        }
    }
}

#[cfg(test)]
mod test;
