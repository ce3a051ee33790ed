//! Volumes: which there are and whose, and their making and removal.

use super::object::{self, Found, VolumeObject, decide, volume_key};
use super::pools::with_machine;
use super::targets::{self, Looked, look_at_all};
use crate::registry::{Record, absent, put};
use crate::service::{Keeper, Node};
use api::{Code, Done, OtherVolume, PoolState, Problem, Volume, VolumeCreateRequest, VolumeList, VolumeState};
use cluster::job::VolumeFloor;
use cluster::store::{Engine, Op, UnknownFields};
use units::{ByteLen, PoolName, VolumeId, VolumeName};
use wire::control::{Reply, Request, ServeState, VolumeReport};

/// All volumes; those of a machine that does not answer are `unknown`.
pub async fn list(node: &Node, keeper: &Keeper) -> Result<VolumeList, Problem> {
    let looked = look_at_all(node, keeper).await?;
    let volumes = keeper.store.ask(object::volumes).await?;
    let others = others(&volumes, &looked);
    Ok(VolumeList { volumes: volumes.iter().map(|volume| shown(volume, &looked)).collect(), others })
}

/// What pools have and the cluster does not know. Nothing that takes room is left out without a word.
fn others(known: &[VolumeObject], looked: &Looked) -> Vec<OtherVolume> {
    let targets = looked.iter().filter_map(|(node, status)| Some((node, status.as_ref().ok()?)));
    let all = targets.flat_map(|(node, status)| status.volumes.iter().map(move |report| (node, report)));
    let others = all.filter(|(node, report)| {
        !known.iter().any(|volume| volume.node == **node && volume.name.as_str() == report.volume)
    });
    let others = others.map(|(node, report)| OtherVolume {
        name: report.volume.clone(),
        pool: report.pool.clone(),
        node: node.clone(),
        size: report.size.0,
        reason: report.reason.clone().filter(|_| report.state == ServeState::Offline).unwrap_or_else(|| {
            "the cluster does not know it: it is served to nobody (`muskox doctor` says what to do)".to_owned()
        }),
    });
    others.collect()
}

/// One volume.
pub async fn show(node: &Node, keeper: &Keeper, name: &VolumeName) -> Result<Volume, Problem> {
    let (volume, machine) = with_its_machine(keeper, name).await?;
    let looked = targets::look_at(node, &machine).await;
    Ok(shown(&volume, &Looked::from([(machine.name, looked)])))
}

/// A volume as its target says that it is.
fn shown(volume: &VolumeObject, looked: &Looked) -> Volume {
    let with = |state, reason, report: Option<&VolumeReport>| Volume {
        name: volume.name.clone(),
        pool: volume.pool.clone(),
        node: volume.node.clone(),
        size: report.map_or(volume.size, |report| report.size).0,
        state,
        reason,
        epoch: report.map_or(0, |report| report.epoch.0),
        vm: volume.vm.clone(),
        sessions: report.map_or(0, |report| u64::from(report.sessions)),
        zeroing: report.and_then(|report| report.zeroing).map(targets::progress),
    };
    let status = match looked.get(&volume.node) {
        None => {
            let why = format!("'{}' has no role storage in this cluster", volume.node);
            return with(VolumeState::Unknown, Some(why), None);
        }
        Some(Err(problem)) => return with(VolumeState::Unknown, Some(problem.text.clone()), None),
        Some(Ok(status)) => status,
    };
    let report = status.volumes.iter().find(|report| report.volume == volume.name.as_str());
    let pool = status.pools.iter().find(|pool| pool.pool == volume.pool);
    match (volume.id, report) {
        (Some(id), Some(report)) if report.id != id => {
            let why = format!("its target has another volume of this name: {}, not {id}", report.id);
            with(VolumeState::Blocked, Some(why), None)
        }
        (Some(_), Some(report)) => {
            let (state, reason) = targets::volume_state(report);
            with(state, reason, Some(report))
        }
        (None, _) => {
            let why = "it was being made or removed when something failed: ask for the same again";
            with(VolumeState::Down, Some(why.to_owned()), report)
        }
        (Some(_), None) => {
            let why = pool.map_or("its target does not know its pool".to_owned(), |pool| {
                format!("its pool is {}", pool.state.word())
            });
            with(VolumeState::Down, Some(why), None)
        }
    }
}

/// Makes a volume; it is zeroed afterwards. Asked again for the same after a crash or a lost answer it goes on.
pub async fn create(node: &Node, keeper: &Keeper, request: VolumeCreateRequest) -> Result<Volume, Problem> {
    let VolumeCreateRequest { name, pool, size } = request;
    let size = ByteLen(size);
    if size.0 == 0 {
        return Err(Problem::new(Code::BadRequest, "a volume of 0 bytes is none", "give a size, as in 10G"));
    }
    let _name = node.names.take("volume", &name)?;
    let (pool, machine) = with_machine(keeper, &which_pool(keeper, pool).await?).await?;
    let wanted = VolumeObject {
        version: object::FORM,
        name: name.clone(),
        id: None,
        pool: pool.name.clone(),
        node: machine.name.clone(),
        size,
        vm: None,
        unknown_fields: UnknownFields::default(),
    };
    let known = {
        let name = name.clone();
        keeper.store.ask(move |engine| known(engine, &name)).await?
    };
    if known.is_none() {
        check_room(node, &machine, &wanted).await?;
    }
    let repeated = known.is_some();
    intend(keeper, wanted.clone(), known).await?;
    let asked = Request::VolumeCreate { pool: pool.name.clone(), volume: name.clone(), size };
    let report = match targets::ask(node, &machine, asked).await {
        Ok(Reply::Volume(report)) => report,
        Ok(other) => return Err(targets::astray(&machine.name, &other)),
        Err(refused) => match made_already(node, &machine, &wanted).await {
            Ok(Some(report)) if repeated => report,
            // Never made; or somebody else's of that name is there, and a new volume is not one with old content.
            Ok(_) if !repeated => {
                keeper.store.ask(move |engine| forget(engine, &name)).await?;
                return Err(refused);
            }
            // Not known whether it was made, now or by an earlier call: the intent stays, and asking again mends it.
            _ => return Err(refused),
        },
    };
    let made = record(keeper, &name, Some(report.id), report.size).await?;
    let (state, reason) = targets::volume_state(&report);
    let looked = Volume { state, reason, ..shown(&made, &Looked::new()) };
    Ok(Volume { zeroing: report.zeroing.map(targets::progress), epoch: report.epoch.0, ..looked })
}

fn known(engine: &mut dyn Engine, name: &VolumeName) -> Result<Option<VolumeObject>, Problem> {
    Ok(object::find::<VolumeObject>(engine, &volume_key(name))?.map(|found| found.value))
}

/// A volume that the target has already is the one that is meant if it is as long on the same pool: what an earlier call
/// made before its answer was lost. A whole extent is added at most, so lengths are compared by extents of 4 MiB.
async fn made_already(node: &Node, machine: &Record, wanted: &VolumeObject) -> Result<Option<VolumeReport>, Problem> {
    let volumes = targets::look_at(node, machine).await?.volumes;
    let same = |report: &VolumeReport| {
        let longer = report.size.0.checked_sub(wanted.size.0);
        report.volume == wanted.name.as_str()
            && report.pool == wanted.pool
            && longer.is_some_and(|more| more < EXTENT_BYTES)
    };
    Ok(volumes.into_iter().find(same))
}

/// What a volume's length is rounded up to; docs/formats/lvm2.md.
const EXTENT_BYTES: u64 = 4 << 20;

/// Writes down that there shall be this volume.
async fn intend(keeper: &Keeper, wanted: VolumeObject, known: Option<VolumeObject>) -> Result<(), Problem> {
    if let Some(known) = known {
        let longer = known.size.0.checked_sub(wanted.size.0);
        let same = known.pool == wanted.pool && longer.is_some_and(|more| more < EXTENT_BYTES);
        if same && known.vm.is_none() {
            return Ok(());
        }
        let text = format!("there is a volume '{}' already: {} on the pool '{}'", known.name, known.size, known.pool);
        return Err(Problem::new(Code::Exists, text, "choose another name; `muskox volume list` shows all"));
    }
    let work = move |engine: &mut dyn Engine| {
        let key = volume_key(&wanted.name);
        let pool = object::pool(engine, &wanted.pool)?;
        // A floor outlives its volume: what was promised for the name once stays below.
        let floor = object::floor(engine, &wanted.name)?;
        let then = vec![put(&key, &wanted), floor_op(&wanted.name, &VolumeFloor::new(floor.value.epoch, None))];
        let compares = vec![absent(&key), pool.unchanged, floor.unchanged];
        if decide(engine, compares, then)? { Ok(()) } else { Err(object::changed_meanwhile()) }
    };
    keeper.store.ask(work).await
}

/// Writes a floor.
#[must_use]
pub fn floor_op(volume: &VolumeName, floor: &VolumeFloor) -> Op {
    Op::Put { key: VolumeFloor::key(volume), value: floor.value(), lease: None }
}

/// Writes down what the target made of it; whose it is stays as it is.
async fn record(
    keeper: &Keeper,
    name: &VolumeName,
    id: Option<VolumeId>,
    size: ByteLen,
) -> Result<VolumeObject, Problem> {
    let name = name.clone();
    let work = move |engine: &mut dyn Engine| {
        let found = object::volume(engine, &name)?;
        let made = VolumeObject { id, size, ..found.value };
        let then = vec![put(&volume_key(&name), &made)];
        if decide(engine, vec![found.unchanged], then)? { Ok(made) } else { Err(object::changed_meanwhile()) }
    };
    keeper.store.ask(work).await
}

fn forget(engine: &mut dyn Engine, name: &VolumeName) -> Result<bool, Problem> {
    let Some(found) = object::find::<VolumeObject>(engine, &volume_key(name))? else { return Ok(true) };
    decide(engine, vec![found.unchanged], vec![Op::Delete(volume_key(name))])
}

/// Said before anything is written, in words that have the numbers.
async fn check_room(node: &Node, machine: &Record, wanted: &VolumeObject) -> Result<(), Problem> {
    let pools = targets::look_at(node, machine).await?.pools;
    let Some(pool) = pools.into_iter().find(|pool| pool.pool == wanted.pool) else {
        let text = format!("the target of '{}' does not know the pool '{}'", machine.name, wanted.pool);
        return Err(Problem::new(Code::NotPossible, text, "`muskox pool start` it and name its disks"));
    };
    let shown = targets::pool(&machine.name, pool.clone());
    if matches!(shown.state, PoolState::Failed | PoolState::Stopped) {
        let why = pool.reason.map_or_else(String::new, |reason| format!(": {reason}"));
        let text = format!("the pool '{}' on '{}' is {}{why}", pool.pool, machine.name, pool.state.word());
        return Err(Problem::new(Code::NotPossible, text, "start it with `muskox pool start`"));
    }
    if pool.free >= wanted.size {
        return Ok(());
    }
    let text = format!(
        "'{}' needs {}, and the pool '{}' on '{}' has {} left",
        wanted.name, wanted.size, pool.pool, machine.name, pool.free
    );
    Err(Problem::new(Code::NoRoom, text, "make it smaller, remove a volume, or use another pool"))
}

async fn which_pool(keeper: &Keeper, wanted: Option<PoolName>) -> Result<PoolName, Problem> {
    if let Some(name) = wanted {
        return Ok(name);
    }
    let mut all = keeper.store.ask(object::pools).await?;
    match all.len() {
        1 => Ok(all.remove(0).name),
        0 => Err(Problem::new(Code::NotPossible, "there is no pool yet", "make one with `muskox pool create`")),
        _ => {
            let names: Vec<&str> = all.iter().map(|pool| pool.name.as_str()).collect();
            let text = format!("there are several pools: {}", names.join(", "));
            Err(Problem::new(Code::BadRequest, text, "name one with --pool"))
        }
    }
}

/// Removes a volume that is nobody's. From the first step on it is of no use to anybody; a crash is mended by asking again.
pub async fn remove(node: &Node, keeper: &Keeper, name: &VolumeName) -> Result<Done, Problem> {
    let _name = node.names.take("volume", name)?;
    let (before, machine) = with_its_machine(keeper, name).await?;
    let marked = name.clone();
    keeper.store.ask(move |engine| mark_removed(engine, &marked)).await?;
    match targets::ask(node, &machine, Request::VolumeRemove { volume: name.clone() }).await {
        Ok(_) => {}
        // An earlier call's deed. A pool that does not serve says the same, so it is asked of the pool.
        Err(problem) if problem.code == Code::NotFound && pool_serves(node, &machine, &before.pool).await? => {}
        // It may have been done all the same: only a plain no gives the volume back.
        Err(problem) if matches!(problem.code, Code::Unreachable | Code::Failed) => return Err(problem),
        Err(problem) => {
            record(keeper, name, before.id, before.size).await?;
            return Err(problem);
        }
    }
    let (gone, text) = (name.clone(), format!("the volume '{name}' is removed"));
    keeper.store.ask(move |engine| forget(engine, &gone)).await?;
    tracing::info!("{text}");
    Ok(Done { text })
}

async fn pool_serves(node: &Node, machine: &Record, name: &PoolName) -> Result<bool, Problem> {
    let pools = targets::look_at(node, machine).await?.pools;
    let states =
        pools.into_iter().filter(|pool| pool.pool == *name).map(|pool| targets::pool(&machine.name, pool).state);
    Ok(states.into_iter().any(|state| !matches!(state, PoolState::Failed | PoolState::Stopped)))
}

fn mark_removed(engine: &mut dyn Engine, name: &VolumeName) -> Result<(), Problem> {
    let found = object::volume(engine, name)?;
    if let Some(vm) = &found.value.vm {
        let text = format!("the volume '{name}' belongs to the VM '{vm}'");
        return Err(Problem::new(Code::InUse, text, "delete the VM, or take the volume out of its description, first"));
    }
    if let Some(Found { value: claim, .. }) = object::find::<object::ClaimObject>(engine, &object::claim_key(name))? {
        let text = format!("'{}' copies an image into the volume '{name}'", claim.machine);
        return Err(Problem::new(Code::InUse, text, "wait until that is over, or cancel it there"));
    }
    let marked = VolumeObject { id: None, ..found.value };
    let then = vec![put(&volume_key(name), &marked)];
    let compares = vec![found.unchanged, absent(&object::claim_key(name))];
    if decide(engine, compares, then)? { Ok(()) } else { Err(object::changed_meanwhile()) }
}

/// A volume and the machine that serves it.
///
/// # Errors
/// [`Code::NotFound`], [`Code::StoreFailed`].
pub async fn with_its_machine(keeper: &Keeper, name: &VolumeName) -> Result<(VolumeObject, Record), Problem> {
    let name = name.clone();
    let found = keeper.store.ask(move |engine| object::volume(engine, &name)).await?.value;
    let machine = targets::machine(keeper, &found.node).await?;
    Ok((found, machine))
}
