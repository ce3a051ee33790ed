//! Claims: a machine fills a volume that is nobody's. It owns the volume for that time, at an epoch of its own.
//!
//! ```text
//!  claim:   volume nobody's ─▶ /claim + floor e+1 ─▶ raise(e+1, the machine)      release: floor e+2 ─▶ raise(e+2, nobody) ─▶ /claim gone
//! ```
//! A claim whose machine died stays visible. It ends when that machine's node is back, or when another machine claims the
//! volume: at a higher epoch, so that the former one's writes are refused.

use super::object::{self, ClaimObject, claim_key, decide};
use super::targets;
use super::volumes::{floor_op, with_its_machine};
use crate::clock::now_s;
use crate::peer::{self, Ask, Claimed, Reply};
use crate::registry::{Record, absent, put};
use crate::service::{Keeper, Node};
use api::{Code, Problem};
use cluster::job::VolumeFloor;
use cluster::store::{Engine, Op};
use std::net::SocketAddr;
use units::{Epoch, Mode, NodeName, VolumeId, VolumeName};
use wire::control::{Owner, Request};

/// Grants a volume that is nobody's to `by`, at a new epoch.
///
/// # Errors
/// [`Code::NotFound`], [`Code::InUse`], what the target refuses: there is no claim then.
pub async fn claim(node: &Node, keeper: &Keeper, by: &Record, volume: VolumeName) -> Result<Claimed, Problem> {
    let _name = node.names.take("volume", &volume)?;
    let (it, machine) = with_its_machine(keeper, &volume).await?;
    if let Some(other) = other_claim(keeper, by, &volume).await? {
        refuse_if_it_goes_on(node, keeper, &other).await?;
    }
    let (name, filler) = (volume.clone(), by.name.clone());
    let epoch = keeper.store.ask(move |engine| write_claim(engine, &name, filler)).await?;
    let owners = vec![Owner { host: by.key, mode: Mode::Rw }];
    let raise = Request::Raise { volume: volume.clone(), epoch, owners, shared: false };
    if let Err(problem) = targets::ask(node, &machine, raise).await {
        // Nobody attaches by this claim. Should the target have heard all the same, the next epoch is above it.
        let (name, filler) = (volume.clone(), by.name.clone());
        keeper.store.ask(move |engine| give_up(engine, &name, &filler, epoch)).await?;
        return Err(problem);
    }
    tracing::info!("'{}' fills the volume '{volume}' at {epoch}", by.name);
    let portal = |ip| SocketAddr::new(ip, wire::nbd::constant::PORT);
    let portals = machine.storage_ips().into_iter().map(portal).collect();
    Ok(Claimed { epoch, portals, target: machine.key, size: it.size })
}

/// Takes the volume back from `by`, if its claim is still the one of this epoch.
///
/// # Errors
/// What the target refuses: the claim stays visible.
pub async fn release(
    node: &Node,
    keeper: &Keeper,
    by: &Record,
    volume: VolumeName,
    epoch: Epoch,
) -> Result<(), Problem> {
    let _name = node.names.take("volume", &volume)?;
    let (name, filler) = (volume.clone(), by.name.clone());
    let Some(after) = keeper.store.ask(move |engine| close_claim(engine, &name, &filler, epoch)).await? else {
        return Ok(());
    };
    match with_its_machine(keeper, &volume).await {
        Ok((_, machine)) => {
            let raise = Request::Raise { volume: volume.clone(), epoch: after, owners: Vec::new(), shared: false };
            targets::ask(node, &machine, raise).await?;
        }
        // The volume is gone: nothing is left to be taken back.
        Err(problem) if problem.code == Code::NotFound => {}
        Err(problem) => return Err(problem),
    }
    tracing::info!("'{}' has filled the volume '{volume}'", by.name);
    keeper.store.ask(move |engine| end_claim(engine, &volume, after)).await
}

/// The claims of one machine: for its node to end those of a former life.
///
/// # Errors
/// [`Code::StoreFailed`].
pub async fn of_machine(keeper: &Keeper, by: &NodeName) -> Result<Vec<(VolumeName, Epoch)>, Problem> {
    let all = keeper.store.ask(object::claims).await?.into_iter();
    Ok(all.filter(|claim| claim.machine == *by).map(|claim| (claim.volume, claim.epoch)).collect())
}

async fn other_claim(keeper: &Keeper, by: &Record, volume: &VolumeName) -> Result<Option<ClaimObject>, Problem> {
    let (key, by) = (claim_key(volume), by.name.clone());
    let found = keeper.store.ask(move |engine| object::find::<ClaimObject>(engine, &key)).await?;
    Ok(found.map(|found| found.value).filter(|claim| claim.machine != by))
}

/// A machine that says that it fills the volume is left alone; one that says nothing is fenced by the next epoch.
async fn refuse_if_it_goes_on(node: &Node, keeper: &Keeper, claim: &ClaimObject) -> Result<(), Problem> {
    let Ok(machine) = targets::machine(keeper, &claim.machine).await else { return Ok(()) };
    match peer::ask(node, &machine, Ask::Filling { volume: claim.volume.clone() }).await {
        Ok(Reply::Filling { goes_on: true }) => {
            let text = format!("'{}' copies an image into the volume '{}'", claim.machine, claim.volume);
            Err(Problem::new(Code::InUse, text, "wait until that is over, or cancel it there"))
        }
        _ => Ok(()),
    }
}

fn write_claim(engine: &mut dyn Engine, name: &VolumeName, machine: NodeName) -> Result<Epoch, Problem> {
    let volume = object::volume(engine, name)?;
    check_free(name, volume.value.vm.as_ref().map(units::VmName::as_str), volume.value.id)?;
    let floor = object::floor(engine, name)?;
    let epoch = floor.value.epoch.next();
    let former = object::find::<ClaimObject>(engine, &claim_key(name))?;
    let claim = ClaimObject { version: object::FORM, volume: name.clone(), machine, epoch, since_s: now_s() };
    let unclaimed = former.map_or_else(|| absent(&claim_key(name)), |former| former.unchanged);
    let then = vec![put(&claim_key(name), &claim), floor_op(name, &VolumeFloor::new(epoch, None))];
    let held = decide(engine, vec![volume.unchanged, floor.unchanged, unclaimed], then)?;
    if held { Ok(epoch) } else { Err(object::changed_meanwhile()) }
}

fn check_free(name: &VolumeName, vm: Option<&str>, id: Option<VolumeId>) -> Result<(), Problem> {
    if let Some(vm) = vm {
        let text = format!("the volume '{name}' belongs to the VM '{vm}'");
        return Err(Problem::new(Code::InUse, text, "use another volume, or delete the VM first"));
    }
    if id.is_none() {
        let text = format!("the volume '{name}' was being made or removed when something failed");
        return Err(Problem::new(Code::NotPossible, text, "make it or remove it again first"));
    }
    Ok(())
}

/// The floor above the claim's epoch; none: the claim is not (any more) this one.
fn close_claim(
    engine: &mut dyn Engine,
    name: &VolumeName,
    machine: &NodeName,
    epoch: Epoch,
) -> Result<Option<Epoch>, Problem> {
    let Some(claim) = object::find::<ClaimObject>(engine, &claim_key(name))? else { return Ok(None) };
    if claim.value.machine != *machine || claim.value.epoch != epoch {
        return Ok(None);
    }
    let floor = object::floor(engine, name)?;
    if floor.value.vm.is_some() {
        // It belongs to a VM by now: to raise it would fence that VM. The claim is only forgotten.
        let held = decide(engine, vec![claim.unchanged, floor.unchanged], vec![Op::Delete(claim_key(name))])?;
        return if held { Ok(None) } else { Err(object::changed_meanwhile()) };
    }
    // Asked again after a crash the floor is above already.
    let after = floor.value.epoch.max(epoch.next());
    let then = vec![floor_op(name, &VolumeFloor::new(after, None))];
    let held = decide(engine, vec![claim.unchanged, floor.unchanged], then)?;
    if held { Ok(Some(after)) } else { Err(object::changed_meanwhile()) }
}

fn give_up(engine: &mut dyn Engine, name: &VolumeName, machine: &NodeName, epoch: Epoch) -> Result<(), Problem> {
    match close_claim(engine, name, machine, epoch)? {
        Some(after) => end_claim(engine, name, after),
        None => Ok(()),
    }
}

fn end_claim(engine: &mut dyn Engine, name: &VolumeName, after: Epoch) -> Result<(), Problem> {
    let Some(claim) = object::find::<ClaimObject>(engine, &claim_key(name))? else { return Ok(()) };
    if claim.value.epoch >= after {
        return Ok(());
    }
    let held = decide(engine, vec![claim.unchanged], vec![Op::Delete(claim_key(name))])?;
    if held { Ok(()) } else { Err(object::changed_meanwhile()) }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::storage::object::{VolumeObject, volume_key};
    use cluster::store::{Memory, Txn};
    use units::ByteLen;

    fn store(vm: Option<&str>) -> (Memory, VolumeName) {
        let mut engine = Memory::new();
        let name: VolumeName = "web1".parse().unwrap();
        let volume = VolumeObject {
            version: object::FORM,
            name: name.clone(),
            id: Some(VolumeId([1; 16])),
            pool: "tank".parse().unwrap(),
            node: "store1".parse().unwrap(),
            size: ByteLen::mib(64),
            vm: vm.map(|vm| vm.parse().unwrap()),
            unknown_fields: cluster::store::UnknownFields::default(),
        };
        let then = vec![put(&volume_key(&name), &volume)];
        engine.txn(&Txn { then, ..Txn::default() }).unwrap();
        (engine, name)
    }

    /// Goal: who claims later is always above who claimed before, whoever died when; an old release ends nothing of
    /// another's. Method: claim, take over, release by both in the wrong order, claim again.
    #[test]
    fn epochs_of_claims_only_grow() {
        let (mut engine, name) = store(None);
        let (one, two): (NodeName, NodeName) = ("one".parse().unwrap(), "two".parse().unwrap());
        let first = write_claim(&mut engine, &name, one.clone()).unwrap();
        let second = write_claim(&mut engine, &name, two.clone()).unwrap();
        assert!(second > first, "{first} {second}");
        assert_eq!(close_claim(&mut engine, &name, &one, first).unwrap(), None, "it was taken over");
        let after = close_claim(&mut engine, &name, &two, second).unwrap().expect("it is the claim");
        assert!(after > second);
        assert!(
            object::find::<ClaimObject>(&mut engine, &claim_key(&name)).unwrap().is_some(),
            "until the target has heard"
        );
        assert_eq!(close_claim(&mut engine, &name, &two, second).unwrap(), Some(after), "asked again: the same");
        end_claim(&mut engine, &name, after).unwrap();
        assert!(object::claims(&mut engine).unwrap().is_empty());
        let third = write_claim(&mut engine, &name, one).unwrap();
        assert!(third > after);
        end_claim(&mut engine, &name, after).unwrap();
        assert_eq!(object::claims(&mut engine).unwrap().len(), 1, "a late end does not end a newer claim");
    }

    /// Goal: a claim that is left over never fences a VM. Method: the floor becomes a VM's under the claim.
    #[test]
    fn a_late_release_leaves_a_vm_alone() {
        let (mut engine, name) = store(None);
        let one: NodeName = "one".parse().unwrap();
        let epoch = write_claim(&mut engine, &name, one.clone()).unwrap();
        let owned = VolumeFloor::new(epoch.next(), Some("vm1".parse().unwrap()));
        engine.txn(&Txn { then: vec![floor_op(&name, &owned)], ..Txn::default() }).unwrap();
        assert_eq!(close_claim(&mut engine, &name, &one, epoch).unwrap(), None);
        assert_eq!(object::floor(&mut engine, &name).unwrap().value, owned);
        assert!(object::claims(&mut engine).unwrap().is_empty());
    }

    /// Goal: a VM's volume is nobody's to fill, and one that is half made neither.
    #[test]
    fn only_what_is_nobodys_can_be_claimed() {
        let (mut engine, name) = store(Some("vm1"));
        let refused = write_claim(&mut engine, &name, "one".parse().unwrap()).unwrap_err();
        assert!(refused.code == Code::InUse && refused.text.contains("vm1"), "{refused:?}");
        assert_eq!(object::floor(&mut engine, &name).unwrap().value.epoch, Epoch(0), "nothing was changed");
        assert_eq!(check_free(&name, None, None).unwrap_err().code, Code::NotPossible);
    }
}
