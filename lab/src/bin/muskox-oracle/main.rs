//! `muskox-oracle`: the first process of the oracle guest, which has Debian's kernel, mdadm, lvm2, nbd-client and fio. It runs
//! what the host says, one command after the other, and answers what came of it.
//!
//! Called as another process it is one of those commands: `stamp` writes blocks that say who wrote them, `check` looks for
//! those that were acknowledged, `disk` waits for a disk. It does *not* know what any of them is for.

mod disk;
mod init;
mod serve;
mod stamp;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        [] if std::process::id() == 1 => init::run().and_then(|port| serve::run(&port)),
        ["disk", target] => disk::wait(target),
        ["stamp", device, run, first, count] => stamp::write(device, run, first, count),
        ["check", device, run, count] => stamp::check(device, run, count),
        _ => Err(anyhow::anyhow!(
            "muskox-oracle is process 1 of a guest, or: disk TARGET, stamp DEVICE RUN FIRST COUNT, check DEVICE RUN COUNT"
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("muskox-oracle: {error:#}");
            ExitCode::FAILURE
        }
    }
}
