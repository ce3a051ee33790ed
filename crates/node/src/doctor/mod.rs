//! `muskox doctor`: looks at every machine at once, for a short time, and says what is wrong and what to do.
//!
//! Here it is asked and read; what that comes to is judged in `machines` and `storage`, from [`Findings`] alone.

mod alone;
mod guests;
mod local;
mod machines;
mod storage;

pub use alone::examine_alone;
pub use local::look;

use crate::clock::now_s;
use crate::director::{Desk, View, facts_of};
use crate::past;
use crate::peer::{self, Ask, HostReport, Reply};
use crate::registry;
use crate::service::{Keeper, Node};
use crate::storage::look_at_all;
use crate::storage::object::{ClaimObject, PoolObject, VolumeObject};
use crate::store::{Store, failed, parse_object};
use api::{Check, Code, Doctor, Grade, Member, Problem};
use cluster::store::{Engine, Entry, Key};
use futures_util::future::join_all;
use guests::{JobAtAGlance, VmAtAGlance};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::time::Duration;
use units::{NodeName, VmName, VolumeName};
use wire::control::StatusReport;

/// A machine that is well answers in milliseconds.
const LOOK_WITHIN: Duration = Duration::from_secs(4);

/// Everything that was asked and read.
struct Findings {
    now_s: u64,
    /// How long a certificate is good.
    certificate_s: u64,
    /// The machine with the store: what concerns the whole cluster is said of it.
    store: NodeName,
    members: Vec<Member>,
    looks: BTreeMap<NodeName, Result<HostReport, Problem>>,
    targets: BTreeMap<NodeName, Result<StatusReport, Problem>>,
    pools: Vec<PoolObject>,
    volumes: Vec<VolumeObject>,
    claims: Vec<ClaimObject>,
    /// Volumes that some machine says it fills right now.
    filling: Vec<VolumeName>,
    vms: Vec<VmAtAGlance>,
    jobs: Vec<JobAtAGlance>,
    /// Objects of the store that cannot be read, and why.
    unreadable: Vec<(Key, String)>,
    /// VMs on which the store is behind, and what shows it.
    behind: Vec<(VmName, Problem)>,
    /// Machines that have not said what they keep since the store was brought back.
    unheard: Vec<NodeName>,
}

impl Findings {
    /// Nothing was asked or read yet.
    fn empty(store: NodeName, now_s: u64) -> Self {
        Self {
            now_s,
            certificate_s: 0,
            store,
            members: Vec::new(),
            looks: BTreeMap::new(),
            targets: BTreeMap::new(),
            pools: Vec::new(),
            volumes: Vec::new(),
            claims: Vec::new(),
            filling: Vec::new(),
            vms: Vec::new(),
            jobs: Vec::new(),
            unreadable: Vec::new(),
            behind: Vec::new(),
            unheard: Vec::new(),
        }
    }
}

/// What lies in the store, read at one moment.
pub struct Stored {
    certificate_s: u64,
    pools: Vec<PoolObject>,
    volumes: Vec<VolumeObject>,
    claims: Vec<ClaimObject>,
    /// VMs.
    pub vms: Vec<VmAtAGlance>,
    /// Jobs.
    pub jobs: Vec<JobAtAGlance>,
    unreadable: Vec<(Key, String)>,
}

/// Looks at everything.
///
/// # Errors
/// [`Code::StoreFailed`]; a machine that does not answer is a finding.
pub async fn examine(node: &Node, keeper: &Keeper) -> Result<Doctor, Problem> {
    let desk = keeper.director.desk();
    let stored = stored(&keeper.store, desk.as_ref().ok().map(|desk| &***desk)).await?;
    let unheard = keeper.store.ask(past::unheard).await?.into_iter().map(|member| member.name).collect();
    let members = node.members(keeper).await?.nodes;
    let behind = match desk {
        Ok(desk) => desk.all_behind().await?,
        // It has just begun, and knows of nobody yet.
        Err(_) => Vec::new(),
    };
    let filling = filling(node, keeper, &stored.claims);
    let (looks, targets, filling) = tokio::join!(looks(node, keeper), look_at_all(node, keeper), filling);
    let Stored { certificate_s, pools, volumes, claims, vms, jobs, unreadable } = stored;
    let findings = Findings {
        now_s: now_s(),
        certificate_s,
        store: node.identity.name.clone(),
        members,
        looks: looks?,
        targets: targets?,
        pools,
        volumes,
        claims,
        filling: filling?,
        vms,
        jobs,
        unreadable,
        behind,
        unheard,
    };
    Ok(Doctor { checks: judge(&findings) })
}

/// What the store says, and what the director says of jobs that wait.
///
/// # Errors
/// [`Code::StoreFailed`].
pub async fn stored(store: &Store, desk: Option<&Desk>) -> Result<Stored, Problem> {
    let mut stored = store.ask(read).await?;
    if let Some(desk) = desk {
        stored.jobs.iter_mut().for_each(|job| job.ask(desk));
    }
    Ok(stored)
}

/// A store that was brought back may have forgotten who was removed, and by whom hosts hold their leases.
fn unheard(name: &NodeName) -> Check {
    let text =
        "since the store was brought back it has not said whom the cluster removed and by which witnesses hosts go";
    let hint = "start its node; if the machine is gone for good, remove it (`muskox node remove`)";
    check(name, "restore", Grade::Warning, text, hint)
}

fn judge(findings: &Findings) -> Vec<Check> {
    let mut checks = machines::judge(findings);
    checks.extend(storage::judge(findings));
    checks.extend(guests::judge(findings));
    checks.extend(unreadable(findings));
    checks.extend(findings.unheard.iter().map(unheard));
    // By machine, what is bad first.
    checks.sort_by(|one, two| (&one.node, weight(one.grade)).cmp(&(&two.node, weight(two.grade))));
    checks
}

const fn weight(grade: Grade) -> u8 {
    match grade {
        Grade::Bad => 0,
        Grade::Warning => 1,
        Grade::Good => 2,
    }
}

fn check(node: &NodeName, what: &str, grade: Grade, text: impl Into<String>, hint: &str) -> Check {
    Check { node: node.clone(), what: what.to_owned(), grade, text: text.into(), hint: hint.to_owned() }
}

/// The store is looked after on its own machine.
fn unreadable(findings: &Findings) -> impl Iterator<Item = Check> {
    let hint = "run the muskox version that wrote it; if it is damaged, bring the store back from a backup. Until then \
                nothing is done for its VM, and what that needs (memory, addresses) is not counted";
    let one = move |(key, why): &(Key, String)| check(&findings.store, &format!("object {key}"), Grade::Bad, why, hint);
    findings.unreadable.iter().map(one)
}

fn read(engine: &mut dyn Engine) -> Result<Stored, Problem> {
    // Each kind that is looked at here; of whom a VM consists, the director knows.
    let mut unreadable = View::whole(engine)?.unreadable;
    let mut stored = Stored {
        certificate_s: registry::settings(engine)?.certificate_s,
        pools: readable(engine, "/pool/", parse_object, &mut unreadable)?,
        volumes: readable(engine, "/volume/", parse_object, &mut unreadable)?,
        claims: readable(engine, "/claim/", parse_object, &mut unreadable)?,
        vms: readable(engine, "/vm/", glance, &mut unreadable)?,
        jobs: readable(engine, "/job/", glance, &mut unreadable)?,
        unreadable: Vec::new(),
    };
    for vm in &mut stored.vms {
        // Facts are for people: without them the finding is the same.
        vm.down = facts_of(engine, &vm.name).ok().and_then(|facts| cluster::why::down(&facts));
    }
    unreadable.sort();
    unreadable.dedup_by(|one, two| one.0 == two.0);
    Ok(Stored { unreadable, ..stored })
}

/// What can be read of a kind; the rest is a finding, and does not hide what else there is.
fn readable<T>(
    engine: &mut dyn Engine,
    prefix: &str,
    parse: fn(&Entry) -> Result<T, Problem>,
    unreadable: &mut Vec<(Key, String)>,
) -> Result<Vec<T>, Problem> {
    let entries = engine.range(prefix).map_err(|error| failed(&error))?.entries;
    let read = |entry: &Entry| parse(entry).map_err(|problem| unreadable.push((entry.key.clone(), problem.text))).ok();
    Ok(entries.iter().filter_map(read).collect())
}

/// The few fields that matter here of an object that others own.
fn glance<T: DeserializeOwned>(entry: &Entry) -> Result<T, Problem> {
    serde_json::from_str(&entry.value).map_err(|error| {
        let text = format!("the store's object {} is not understood: {error}", entry.key);
        Problem::new(Code::StoreFailed, text, "run the muskox version that wrote it")
    })
}

async fn looks(node: &Node, keeper: &Keeper) -> Result<BTreeMap<NodeName, Result<HostReport, Problem>>, Problem> {
    let machines = keeper.store.ask(registry::members).await?;
    let looks = machines.iter().map(|machine| async {
        let silent = || {
            let text = format!("it has not answered within {} s", LOOK_WITHIN.as_secs());
            Err(Problem::new(Code::Unreachable, text, "check that `muskox node run` runs there"))
        };
        let asked = tokio::time::timeout(LOOK_WITHIN, peer::ask(node, machine, Ask::Look)).await;
        let looked = match asked.unwrap_or_else(|_| silent()) {
            Ok(Reply::Look(report)) => Ok(*report),
            Ok(other) => Err(Problem::new(Code::Failed, format!("it answered something else: {other:?}"), "")),
            Err(problem) => Err(problem),
        };
        (machine.name.clone(), looked)
    });
    Ok(join_all(looks).await.into_iter().collect())
}

async fn filling(node: &Node, keeper: &Keeper, claims: &[ClaimObject]) -> Result<Vec<VolumeName>, Problem> {
    let machines = keeper.store.ask(registry::members).await?;
    let asked = claims.iter().map(|claim| async {
        let machine = machines.iter().find(|machine| machine.name == claim.machine)?;
        let asked = peer::ask(node, machine, Ask::Filling { volume: claim.volume.clone() });
        match tokio::time::timeout(LOOK_WITHIN, asked).await {
            Ok(Ok(Reply::Filling { goes_on: true })) => Some(claim.volume.clone()),
            _ => None,
        }
    });
    Ok(join_all(asked).await.into_iter().flatten().collect())
}

#[cfg(test)]
mod test;
