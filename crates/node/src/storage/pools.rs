//! Pools: which machine has which, and the deeds of its target on them.

use super::object::{self, Found, PoolObject, decide, pool_key};
use super::targets::{self, Looked, look_at_all};
use crate::registry::{Record, absent, members, put};
use crate::service::{Keeper, Node};
use api::{
    Code, Pool, PoolAddRequest, PoolCreateRequest, PoolList, PoolReplaceRequest, PoolStartRequest, PoolState, Problem,
    Role,
};
use cluster::store::Op;
use units::{NodeName, PoolName};
use wire::control::{Reply, Request};

/// All pools; those of a machine that does not answer are `unknown`.
pub async fn list(node: &Node, keeper: &Keeper) -> Result<PoolList, Problem> {
    let looked = look_at_all(node, keeper).await?;
    let pools = keeper.store.ask(object::pools).await?;
    Ok(PoolList { pools: pools.iter().map(|pool| shown(pool, &looked)).collect() })
}

/// One pool.
pub async fn show(node: &Node, keeper: &Keeper, name: &PoolName) -> Result<Pool, Problem> {
    let (pool, machine) = with_machine(keeper, name).await?;
    let looked = targets::look_at(node, &machine).await;
    Ok(shown(&pool, &Looked::from([(machine.name, looked)])))
}

/// A pool as its target says that it is.
fn shown(pool: &PoolObject, looked: &Looked) -> Pool {
    let alone = |state, reason: String| Pool {
        name: pool.name.clone(),
        node: pool.node.clone(),
        state,
        reason: Some(reason),
        note: None,
        size: None,
        free: None,
        members: Vec::new(),
        resync: None,
    };
    match looked.get(&pool.node) {
        None => alone(PoolState::Unknown, format!("'{}' has no role storage in this cluster", pool.node)),
        Some(Err(problem)) => alone(PoolState::Unknown, problem.text.clone()),
        Some(Ok(status)) => match status.pools.iter().find(|report| report.pool == pool.name) {
            Some(report) => targets::pool(&pool.node, report.clone()),
            None => {
                let why = "its target does not know it: if it was never made, make it again; if the target's state was \
                           lost, start it and name its disks";
                alone(PoolState::Failed, why.to_owned())
            }
        },
    }
}

/// Makes a pool. Asked again for the same disks after a crash or a lost answer it goes on where it was.
pub async fn create(node: &Node, keeper: &Keeper, request: PoolCreateRequest) -> Result<Pool, Problem> {
    let PoolCreateRequest { name, node: wanted, members, wipe, single } = request;
    let _name = node.names.take("pool", &name)?;
    let machine = storage_machine(keeper, wanted).await?;
    let object = PoolObject { version: object::FORM, name: name.clone(), node: machine.name.clone() };
    let fresh = intend(keeper, object).await?;
    let asked = Request::PoolCreate { pool: name.clone(), members: members.clone(), wipe, single };
    let refused = match targets::ask(node, &machine, asked).await {
        Ok(Reply::Pool(report)) => return Ok(targets::pool(&machine.name, report)),
        Ok(other) => return Err(targets::astray(&machine.name, &other)),
        Err(problem) => problem,
    };
    // Whether the target has it is a fact of the target's; without that fact the intent stays, and asking again mends it.
    let Ok(status) = targets::look_at(node, &machine).await else { return Err(refused) };
    match status.pools.into_iter().find(|report| report.pool == name) {
        Some(report) if refused.code == Code::Exists && same_disks(&report, &members) => {
            return Ok(targets::pool(&machine.name, report));
        }
        // The cluster had it before this call, or it is being made still.
        _ if !fresh => {}
        Some(_) if refused.code != Code::Exists => {}
        // Never made, or the target has another of that name that the cluster does not know.
        _ => drop(keeper.store.ask(move |engine| forget(engine, &name)).await?),
    }
    Err(refused)
}

fn same_disks(report: &wire::control::PoolReport, members: &[String]) -> bool {
    let mut here: Vec<&str> = report.members.iter().map(|member| member.path.as_str()).collect();
    let mut wanted: Vec<&str> = members.iter().map(String::as_str).collect();
    here.sort_unstable();
    wanted.sort_unstable();
    !wanted.is_empty() && here == wanted
}

/// Writes down that there shall be this pool; whether that is new.
async fn intend(keeper: &Keeper, wanted: PoolObject) -> Result<bool, Problem> {
    let work = move |engine: &mut dyn cluster::store::Engine| {
        let key = pool_key(&wanted.name);
        match object::find::<PoolObject>(engine, &key)? {
            None if decide(engine, vec![absent(&key)], vec![put(&key, &wanted)])? => Ok(true),
            None => Err(object::changed_meanwhile()),
            Some(Found { value, .. }) if value == wanted => Ok(false),
            Some(Found { value, .. }) => {
                let text = format!("there is a pool '{}' already, on '{}'", value.name, value.node);
                Err(Problem::new(Code::Exists, text, "choose another name; `muskox pool list` shows all"))
            }
        }
    };
    keeper.store.ask(work).await
}

fn forget(engine: &mut dyn cluster::store::Engine, name: &PoolName) -> Result<bool, Problem> {
    let Some(found) = object::find::<PoolObject>(engine, &pool_key(name))? else { return Ok(true) };
    decide(engine, vec![found.unchanged], vec![Op::Delete(pool_key(name))])
}

/// Puts a disk in the place of one that failed or is missing, or takes that one back.
pub async fn add(node: &Node, keeper: &Keeper, name: PoolName, request: PoolAddRequest) -> Result<Pool, Problem> {
    let PoolAddRequest { disk, wipe } = request;
    let _name = node.names.take("pool", &name)?;
    let (_, machine) = with_machine(keeper, &name).await?;
    told(node, &machine, Request::MemberAdd { pool: name, member: disk, wipe }).await
}

/// Puts a new disk in the place of another.
pub async fn replace(
    node: &Node,
    keeper: &Keeper,
    name: PoolName,
    request: PoolReplaceRequest,
) -> Result<Pool, Problem> {
    let PoolReplaceRequest { old, new, wipe } = request;
    let _name = node.names.take("pool", &name)?;
    let (_, machine) = with_machine(keeper, &name).await?;
    told(node, &machine, Request::MemberReplace { pool: name, old, new, wipe }).await
}

/// Assembles a pool.
pub async fn start(node: &Node, keeper: &Keeper, name: PoolName, request: PoolStartRequest) -> Result<Pool, Problem> {
    let PoolStartRequest { members, degraded } = request;
    let _name = node.names.take("pool", &name)?;
    let (_, machine) = with_machine(keeper, &name).await?;
    told(node, &machine, Request::PoolStart { pool: name, members, degraded }).await
}

/// Ends serving a pool; refused while anybody is attached to one of its volumes.
pub async fn stop(node: &Node, keeper: &Keeper, name: &PoolName) -> Result<Pool, Problem> {
    let _name = node.names.take("pool", name)?;
    let (_, machine) = with_machine(keeper, name).await?;
    let status = targets::look_at(node, &machine).await?;
    let mut attached: Vec<&str> = Vec::new();
    for volume in status.volumes.iter().filter(|volume| volume.pool == *name) {
        if volume.sessions > 0 {
            attached.push(volume.volume.as_str());
        }
    }
    if !attached.is_empty() {
        let text = format!("volumes of the pool '{name}' are attached: {}", attached.join(", "));
        return Err(Problem::new(Code::InUse, text, "stop the VMs that use them first (`muskox vm list`)"));
    }
    targets::ask(node, &machine, Request::PoolStop { pool: name.clone() }).await?;
    show(node, keeper, name).await
}

async fn told(node: &Node, machine: &Record, request: Request) -> Result<Pool, Problem> {
    match targets::ask(node, machine, request).await? {
        Reply::Pool(report) => Ok(targets::pool(&machine.name, report)),
        other => Err(targets::astray(&machine.name, &other)),
    }
}

/// A pool and the machine that has it.
///
/// # Errors
/// [`Code::NotFound`], [`Code::StoreFailed`].
pub async fn with_machine(keeper: &Keeper, name: &PoolName) -> Result<(PoolObject, Record), Problem> {
    let name = name.clone();
    let found = keeper.store.ask(move |engine| object::pool(engine, &name)).await?.value;
    let machine = targets::machine(keeper, &found.node).await?;
    Ok((found, machine))
}

/// The machine that is meant: the one that is named, or the only one that has role storage.
async fn storage_machine(keeper: &Keeper, wanted: Option<NodeName>) -> Result<Record, Problem> {
    let hint = "name the machine with --node; `muskox node list` shows roles";
    if let Some(name) = wanted {
        let machine = targets::machine(keeper, &name).await?;
        if machine.roles.contains(&Role::Storage) {
            return Ok(machine);
        }
        let text = format!("'{name}' is no storage machine: its roles are {}", words(&machine.roles));
        return Err(Problem::new(Code::NotPossible, text, hint));
    }
    let mut able = keeper.store.ask(members).await?;
    able.retain(|machine| machine.roles.contains(&Role::Storage));
    match able.len() {
        1 => Ok(able.remove(0)),
        0 => Err(Problem::new(Code::NotPossible, "no machine has role storage", hint)),
        _ => {
            let names: Vec<&str> = able.iter().map(|machine| machine.name.as_str()).collect();
            let text = format!("several machines have role storage: {}", names.join(", "));
            Err(Problem::new(Code::BadRequest, text, hint))
        }
    }
}

fn words(roles: &[Role]) -> String {
    roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ")
}
