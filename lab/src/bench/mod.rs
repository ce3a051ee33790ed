//! Benches: our server beside peers, in the same run, in a network namespace of their own.
//! CPU time per request, pinned to one CPU, is the steadiest figure; throughput is measured on two.

mod ground;
mod muskox;
mod nbd;
mod report;
mod servers;

/// Which bench.
#[derive(Debug, clap::Subcommand)]
pub enum Which {
    /// NBD servers: ours, nbdkit, qemu-storage-daemon.
    Nbd(nbd::Options),
}

/// Runs one; returns the exit code.
///
/// # Errors
/// When the machine cannot be prepared, or a server cannot be measured.
pub fn run(which: &Which) -> anyhow::Result<i32> {
    match which {
        Which::Nbd(options) => nbd::run(options),
    }
}
