//! `muskox pool …`: disks of a storage machine that protect each other.

use crate::client::{Ask, block_on};
use crate::print::{Ended, ended, finish};
use crate::progress;
use crate::watch::{Interrupts, Watch};
use api::{
    Call, Code, Pool, PoolAddRequest, PoolCreateRequest, PoolList, PoolMember, PoolReplaceRequest, PoolStartRequest,
    PoolState, Problem,
};
use clap::{Args, Subcommand};
use std::process::ExitCode;
use units::table;
use units::{ByteLen, NodeName, PoolName};

/// A pool's words.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Make a pool of disks of one machine: a mirror with an empty volume group on it.
    #[command(after_help = "Examples:
  muskox pool create fast /dev/disk/by-id/ata-A /dev/disk/by-id/ata-B
  muskox pool create fast /dev/disk/by-id/ata-A /dev/disk/by-id/ata-B --node store1 --wipe

A disk that holds something is refused; --wipe uses it all the same, and what it held is lost.
The pool is as large as its smallest disk.")]
    Create {
        /// Its name.
        name: PoolName,
        /// Block devices or files, by their absolute paths on the machine that has them.
        #[arg(required = true, value_name = "DISK", value_parser = absolute)]
        disks: Vec<String>,
        /// The machine that has the disks; without it the only one with role storage.
        #[arg(long)]
        node: Option<NodeName>,
        /// Use the disks even if they hold something: that is lost.
        #[arg(long)]
        wipe: bool,
        /// One disk is meant: no mirror, and lost with that disk.
        #[arg(long)]
        single: bool,
    },
    /// All pools.
    List,
    /// One pool: its members, and how far a resync is.
    Show {
        /// Its name.
        name: PoolName,
    },
    /// Put a disk in the place of one that failed or is missing, or take that one back; a resync follows.
    #[command(after_help = "Example:
  muskox pool add fast /dev/disk/by-id/ata-B --wait

A member that failed gets what was written since, not everything. One that only was missing comes back by itself.")]
    Add {
        /// The pool's name.
        name: PoolName,
        /// The disk.
        #[arg(value_parser = absolute)]
        disk: String,
        /// Use the disk even if it holds something: that is lost.
        #[arg(long)]
        wipe: bool,
        /// Wait until the disk is in sync.
        #[arg(long)]
        wait: bool,
    },
    /// Put a new disk in the place of another; a resync follows.
    #[command(after_help = "Example:
  muskox pool replace fast /dev/disk/by-id/ata-B /dev/disk/by-id/ata-C --wait")]
    Replace {
        /// The pool's name.
        name: PoolName,
        /// The disk that goes; it may have failed or be missing.
        #[arg(value_parser = absolute)]
        old: String,
        /// The disk that comes.
        #[arg(value_parser = absolute)]
        new: String,
        /// Use the new disk even if it holds something: that is lost.
        #[arg(long)]
        wipe: bool,
        /// Wait until the new disk is in sync.
        #[arg(long)]
        wait: bool,
    },
    /// Assemble a pool that was stopped, or lost too many members.
    Start {
        /// Its name.
        name: PoolName,
        /// Where to look besides the paths known already.
        #[arg(value_name = "DISK", value_parser = absolute)]
        disks: Vec<String>,
        /// Start although members are missing that may hold newer data: what only they hold is lost for good. With disks
        /// named, on these alone: says which of two members to go on with that each ran without the other.
        #[arg(long)]
        degraded: bool,
    },
    /// End serving a pool and leave its disks clean; refused while a VM that runs uses it.
    Stop {
        /// Its name.
        name: PoolName,
    },
}

impl Arguments {
    /// Asks and prints the answer.
    pub fn run(&self) -> ExitCode {
        let ask = &self.ask;
        let call = |call, name: &PoolName| ask.call::<Pool>(Call::named(call), name.as_str(), None::<&()>);
        match &self.verb {
            Verb::Create { name, disks, node, wipe, single } => {
                let (name, node, members) = (name.clone(), node.clone(), disks.clone());
                let request = PoolCreateRequest { name, node, members, wipe: *wipe, single: *single };
                finish(ask.json, ask.call(Call::named("pool_create"), "", Some(&request)), show)
            }
            Verb::List => finish(ask.json, ask.call(Call::named("pool_list"), "", None::<&()>), list),
            Verb::Show { name } => finish(ask.json, call("pool_show", name), show),
            Verb::Add { name, disk, wipe, wait } => {
                let request = PoolAddRequest { disk: disk.clone(), wipe: *wipe };
                let begin = ask.ask(Call::named("pool_add"), name.as_str(), Some(&request));
                ended(ask.json, block_on(filled(ask, name, begin, disk, *wait)), show)
            }
            Verb::Replace { name, old, new, wipe, wait } => {
                let request = PoolReplaceRequest { old: old.clone(), new: new.clone(), wipe: *wipe };
                let begin = ask.ask(Call::named("pool_replace"), name.as_str(), Some(&request));
                ended(ask.json, block_on(filled(ask, name, begin, new, *wait)), show)
            }
            Verb::Start { name, disks, degraded } => {
                let request = PoolStartRequest { members: disks.clone(), degraded: *degraded };
                finish(ask.json, ask.call(Call::named("pool_start"), name.as_str(), Some(&request)), show)
            }
            Verb::Stop { name } => finish(ask.json, call("pool_stop", name), show),
        }
    }
}

/// Asks for a disk to be taken in, and waits until it is in sync if that is wanted.
async fn filled(
    ask: &Ask,
    name: &PoolName,
    begin: impl Future<Output = Result<Pool, Problem>>,
    disk: &str,
    wait: bool,
) -> Result<Ended<Pool>, Problem> {
    let mut interrupts = Interrupts::new()?;
    let begun = interrupts.during(begin).await?;
    if !wait {
        return Ok(Ended::Done(begun));
    }
    let waited = Watch::new(ask, "pool_show", name.as_str())
        .until::<Pool>(&mut interrupts, |pool, shown| {
            if let Some(resync) = &pool.resync {
                shown.progress(&format!("resync  {}", progress::line(resync, None)));
            }
            taken_in(pool, disk).is_some()
        })
        .await?;
    let left = format!("the resync of '{name}' goes on: muskox pool show {name}");
    Ok(waited.judged(&left, |pool| taken_in(pool, disk).unwrap_or(Ok(()))))
}

/// Whether the new disk is what it should be; none: that is not settled yet.
fn taken_in(pool: &Pool, new: &str) -> Option<Result<(), Problem>> {
    let failed = |what: String| {
        let hint = format!("see `muskox pool show {}` and `muskox doctor`", pool.name);
        Some(Err(Problem::new(Code::Failed, what, hint)))
    };
    let why = |reason: &Option<String>| reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
    match pool.state {
        PoolState::Healthy => return Some(Ok(())),
        PoolState::Failed | PoolState::Stopped => {
            return failed(format!("the pool '{}' is {}{}", pool.name, pool.state, why(&pool.reason)));
        }
        PoolState::Degraded | PoolState::Recovering | PoolState::Unknown => {}
    }
    match pool.members.iter().find(|member| member.path == new)?.state.as_str() {
        // Another member may still be missing: that is not what was asked for.
        "in-sync" => Some(Ok(())),
        "failed" | "missing" => failed(format!("the new disk {new} has failed{}", why(&pool.reason))),
        _ => None,
    }
}

fn list(list: &PoolList) -> String {
    let row = |pool: &Pool| {
        [
            pool.name.to_string(),
            pool.node.to_string(),
            pool.state.to_string(),
            bytes(pool.size),
            bytes(pool.free),
            members(pool),
            pool.resync.as_ref().map_or_else(|| "-".to_owned(), progress::bar),
        ]
    };
    let rows: Vec<_> = list.pools.iter().map(row).collect();
    table::render(["NAME", "NODE", "STATE", "SIZE", "FREE", "MEMBERS", "RESYNC"], &rows)
}

/// What is not known is a dash, and not nothing.
fn bytes(of: Option<u64>) -> String {
    of.map_or_else(|| "-".to_owned(), |bytes| ByteLen(bytes).to_string())
}

fn members(pool: &Pool) -> String {
    let in_sync = pool.members.iter().filter(|member| member.state == "in-sync").count();
    match pool.members.len() {
        0 => "-".to_owned(),
        1 => format!("{in_sync} of 1, no mirror"),
        all => format!("{in_sync} of {all}"),
    }
}

fn show(pool: &Pool) -> String {
    let mut text = table::facts(&[
        ("pool", pool.name.to_string()),
        ("node", pool.node.to_string()),
        ("state", pool.state.to_string()),
        ("reason", pool.reason.clone().unwrap_or_default()),
        ("note", pool.note.clone().unwrap_or_default()),
        ("size", pool.size.map_or_else(String::new, |_| bytes(pool.size))),
        ("free", pool.free.map_or_else(String::new, |_| bytes(pool.free))),
        ("resync", pool.resync.as_ref().map_or_else(String::new, |resync| progress::line(resync, None))),
    ]);
    let slot = |member: &PoolMember| member.slot.map_or_else(|| "-".to_owned(), |slot| slot.to_string());
    let row = |member: &PoolMember| [slot(member), member.state.clone(), member.path.clone()];
    text.push_str(&table::render(["SLOT", "STATE", "DISK"], &pool.members.iter().map(row).collect::<Vec<_>>()));
    text
}

/// Disks may be another machine's: what is relative here means nothing there.
fn absolute(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        return Ok(text.to_owned());
    }
    Err("give the absolute path on the machine that has the disk, best one of /dev/disk/by-id".into())
}

#[cfg(test)]
pub mod test {
    use super::*;
    use api::Progress;

    /// A pool in recovery.
    pub fn recovering() -> Pool {
        let member = |path: &str, slot, state: &str| PoolMember { path: path.into(), slot, state: state.into() };
        Pool {
            name: "fast".parse().unwrap(),
            node: "store1".parse().unwrap(),
            state: PoolState::Recovering,
            reason: None,
            note: None,
            size: Some(8 << 30),
            free: Some(3 << 30),
            members: vec![
                member("/dev/sda", Some(0), "in-sync"),
                member("/dev/sdd", Some(1), "recovering"),
                member("/dev/sdb\u{1b}", None, "failed"),
            ],
            resync: Some(Progress { done: 2 << 30, total: 8 << 30, left_ms: Some(95_000) }),
        }
    }

    /// Goal: a pool shows its members and how far the resync is. Method: golden text.
    #[test]
    fn a_pool_is_shown_with_its_members_and_the_resync() {
        let expect = "\
pool:    fast
node:    store1
state:   recovering
size:    8 GiB
free:    3 GiB
resync:  [######..................]  25 %  2 GiB of 8 GiB  1 min 35 s left
SLOT  STATE       DISK
0     in-sync     /dev/sda
1     recovering  /dev/sdd
-     failed      /dev/sdb\u{fffd}
";
        assert_eq!(show(&recovering()), expect);
    }

    /// D6: nobody takes a single disk for a mirror, and unequal disks are said. Method: the target's note, and the list.
    #[test]
    fn a_pool_of_one_disk_says_so() {
        let mut pool = recovering();
        assert!(!show(&pool).contains("note:"));
        pool.members.truncate(1);
        pool.note = Some("1 of 1 disk, no mirror".into());
        assert!(show(&pool).contains("note:    1 of 1 disk, no mirror\n"), "{}", show(&pool));
        assert!(list(&PoolList { pools: vec![pool] }).contains("1 of 1, no mirror"));
    }

    /// D11 (d): what is not known of a pool is a dash, not nothing. Method: a pool whose machine does not answer.
    #[test]
    fn a_pool_that_cannot_be_asked_shows_no_size() {
        let silent =
            Pool { state: PoolState::Unknown, size: None, free: None, members: vec![], resync: None, ..recovering() };
        let listed = list(&PoolList { pools: vec![silent.clone()] });
        assert!(listed.ends_with("fast  store1  unknown  -     -     -        -\n"), "{listed}");
        assert!(!show(&silent).contains("size") && !show(&silent).contains("free"), "{}", show(&silent));
    }

    #[test]
    fn pools_are_a_table() {
        let expect = "\
NAME  NODE    STATE       SIZE   FREE   MEMBERS  RESYNC
fast  store1  recovering  8 GiB  3 GiB  1 of 3   [######..................]  25 %
";
        assert_eq!(list(&PoolList { pools: vec![recovering()] }), expect);
    }

    /// Goal: `--wait` ends when the new disk is in sync or never will be, and not before. Method: each state.
    #[test]
    fn a_replacement_is_over_when_the_new_disk_is_in_sync_or_lost() {
        let mut pool = recovering();
        assert!(taken_in(&pool, "/dev/sdd").is_none());
        assert!(taken_in(&pool, "/dev/other").is_none(), "its path is not there yet");
        pool.members[1].state = "in-sync".into();
        assert_eq!(taken_in(&pool, "/dev/sdd"), Some(Ok(())));
        pool.members[1].state = "failed".into();
        assert!(taken_in(&pool, "/dev/sdd").unwrap().unwrap_err().text.contains("/dev/sdd has failed"));
        pool.state = PoolState::Healthy;
        assert_eq!(taken_in(&pool, "/dev/other"), Some(Ok(())));
        pool.state = PoolState::Failed;
        pool.reason = Some("too few members".into());
        assert!(taken_in(&pool, "/dev/sdd").unwrap().unwrap_err().text.ends_with("failed: too few members"));
    }
}
