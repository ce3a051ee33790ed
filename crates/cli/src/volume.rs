//! `muskox volume …`: what a VM sees as its disks.

use crate::client::{Ask, block_on};
use crate::print::{Ended, ended, finish, refused};
use crate::watch::{Interrupts, Watch};
use crate::{confirm, progress};
use api::{Call, Code, Done, OtherVolume, Problem, Volume, VolumeCreateRequest, VolumeList, VolumeState};
use clap::{Args, Subcommand};
use std::process::ExitCode;
use units::table::{self, printable};
use units::{ByteLen, PoolName, VolumeName, parse_size};

/// A volume's words.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Make a volume; it can be used when its zeroing is over.
    #[command(after_help = "Examples:
  muskox volume create web1-root 20G
  muskox volume create web1-data 512MiB --pool fast --wait

Sizes are binary: 4G, 512MiB, 1.5T, or a number of bytes.")]
    Create {
        /// Its name, unique in the cluster.
        name: VolumeName,
        /// How long; rounded up to whole extents.
        #[arg(value_parser = parse_size)]
        size: ByteLen,
        /// On which pool; without it the only one.
        #[arg(long)]
        pool: Option<PoolName>,
        /// Wait until it can be used.
        #[arg(long)]
        wait: bool,
    },
    /// All volumes.
    List,
    /// One volume.
    Show {
        /// Its name.
        name: VolumeName,
    },
    /// Remove a volume and what it holds, for good; asks for its name. Refused while it belongs to a VM.
    Remove {
        /// Its name.
        name: VolumeName,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

impl Arguments {
    /// Asks and prints the answer.
    pub fn run(&self) -> ExitCode {
        let ask = &self.ask;
        match &self.verb {
            Verb::Create { name, size, pool, wait } => {
                let request = VolumeCreateRequest { name: name.clone(), pool: pool.clone(), size: size.0 };
                ended(ask.json, block_on(create(ask, &request, *wait)), show)
            }
            Verb::List => finish(ask.json, ask.call(Call::named("volume_list"), "", None::<&()>), list),
            Verb::Show { name } => {
                finish(ask.json, ask.call(Call::named("volume_show"), name.as_str(), None::<&()>), show)
            }
            Verb::Remove { name, yes } => {
                if let Err(problem) = confirm::by_name(*yes, "volume", name.as_str()) {
                    return refused(ask.json, &problem);
                }
                let done = ask.call::<Done>(Call::named("volume_remove"), name.as_str(), None::<&()>);
                finish(ask.json, done, |done| format!("{}\n", printable(&done.text)))
            }
        }
    }
}

async fn create(ask: &Ask, request: &VolumeCreateRequest, wait: bool) -> Result<Ended<Volume>, Problem> {
    let mut interrupts = Interrupts::new()?;
    let begun = interrupts.during(ask.ask(Call::named("volume_create"), "", Some(request))).await?;
    if !wait {
        return Ok(Ended::Done(begun));
    }
    let name = &request.name;
    let mut meter = progress::Meter::default();
    let waited = Watch::new(ask, "volume_show", name.as_str())
        .until::<Volume>(&mut interrupts, |volume, shown| {
            if let Some(zeroing) = &volume.zeroing {
                let rate = meter.rate(shown.now, zeroing.done);
                shown.progress(&format!("zeroing  {}", progress::line(zeroing, rate)));
            }
            made(volume).is_some()
        })
        .await?;
    let left = format!("the zeroing of '{name}' goes on: muskox volume show {name}");
    Ok(waited.judged(&left, |volume| made(volume).unwrap_or(Ok(()))))
}

/// Whether a new volume can be used; none: that is not settled yet. Nobody has a grant for it, so it serves nobody.
fn made(volume: &Volume) -> Option<Result<(), Problem>> {
    match volume.state {
        VolumeState::Zeroing | VolumeState::Unknown => None,
        VolumeState::Serving | VolumeState::Raising | VolumeState::Blocked => Some(Ok(())),
        VolumeState::Down => {
            let why = volume.reason.as_deref().unwrap_or("its pool does not serve");
            let hint = format!("see `muskox pool show {}`", volume.pool);
            Some(Err(Problem::new(Code::Failed, format!("the volume '{}' is down: {why}", volume.name), hint)))
        }
    }
}

fn list(list: &VolumeList) -> String {
    let row = |volume: &Volume| {
        [
            volume.name.to_string(),
            volume.pool.to_string(),
            volume.node.to_string(),
            ByteLen(volume.size).to_string(),
            volume
                .zeroing
                .as_ref()
                .map_or_else(|| volume.state.to_string(), |it| format!("zeroing {}", progress::bar(it))),
            volume.vm.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
            volume.reason.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = list.volumes.iter().map(row).collect();
    let text = table::render(["NAME", "POOL", "NODE", "SIZE", "STATE", "VM", "REASON"], &rows);
    if list.others.is_empty() {
        return text;
    }
    let row = |other: &OtherVolume| {
        let size = ByteLen(other.size).to_string();
        [other.name.clone(), other.pool.to_string(), other.node.to_string(), size, other.reason.clone()]
    };
    let rows: Vec<_> = list.others.iter().map(row).collect();
    format!("{text}\nnot served by the cluster:\n{}", table::render(["NAME", "POOL", "NODE", "SIZE", "REASON"], &rows))
}

fn show(volume: &Volume) -> String {
    table::facts(&[
        ("volume", volume.name.to_string()),
        ("pool", volume.pool.to_string()),
        ("node", volume.node.to_string()),
        ("size", ByteLen(volume.size).to_string()),
        ("state", volume.state.to_string()),
        ("reason", volume.reason.clone().unwrap_or_default()),
        ("zeroing", volume.zeroing.as_ref().map_or_else(String::new, |zeroing| progress::line(zeroing, None))),
        ("vm", volume.vm.as_ref().map_or_else(String::new, ToString::to_string)),
        ("epoch", volume.epoch.to_string()),
        ("sessions", volume.sessions.to_string()),
    ])
}

#[cfg(test)]
mod test {
    use super::*;
    use api::Progress;

    fn zeroing() -> Volume {
        Volume {
            name: "web1-root".parse().unwrap(),
            pool: "fast".parse().unwrap(),
            node: "store1".parse().unwrap(),
            size: 4 << 30,
            state: VolumeState::Zeroing,
            reason: None,
            epoch: 7,
            vm: Some("web1".parse().unwrap()),
            sessions: 2,
            zeroing: Some(Progress { done: 1 << 30, total: 4 << 30, left_ms: None }),
        }
    }

    /// Goal: volumes as a table and one alone. Method: golden text.
    #[test]
    fn volumes_are_shown() {
        let expect = "\
NAME       POOL  NODE    SIZE   STATE                                     VM    REASON
web1-root  fast  store1  4 GiB  zeroing [######..................]  25 %  web1
";
        assert_eq!(list(&VolumeList { volumes: vec![zeroing()], others: vec![] }), expect);
        let expect = "\
volume:    web1-root
pool:      fast
node:      store1
size:      4 GiB
state:     zeroing
zeroing:   [######..................]  25 %  1 GiB of 4 GiB
vm:        web1
epoch:     7
sessions:  2
";
        assert_eq!(show(&zeroing()), expect);
    }

    /// A19: goal: a volume that takes room and is not served is listed with its reason. Method: golden text.
    #[test]
    fn volumes_that_are_left_out_are_listed_with_their_reason() {
        let (pool, node) = ("fast".parse().unwrap(), "store1".parse().unwrap());
        let reason = "it is of the type 'thin'".to_owned();
        let other = OtherVolume { name: "Root+1\u{1b}".into(), pool, node, size: 1 << 30, reason };
        let expect = "\
NAME  POOL  NODE  SIZE  STATE  VM  REASON

not served by the cluster:
NAME     POOL  NODE    SIZE   REASON
Root+1\u{fffd}  fast  store1  1 GiB  it is of the type 'thin'
";
        assert_eq!(list(&VolumeList { volumes: vec![], others: vec![other] }), expect);
    }

    #[test]
    fn a_volume_is_made_when_its_zeroing_is_over() {
        let mut volume = zeroing();
        assert!(made(&volume).is_none());
        volume.state = VolumeState::Blocked;
        assert_eq!(made(&volume), Some(Ok(())));
        volume.state = VolumeState::Down;
        assert!(made(&volume).unwrap().unwrap_err().text.contains("its pool does not serve"));
    }
}
