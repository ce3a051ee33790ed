//! The control plane as the gate sees it: takes epochs from the store, raises, waits for the ack, tells hosts.

use super::call::{Cut, call};
use super::hosts;
use super::target::{Declined, Target};
use super::{Assignment, Phase, World};
use crate::checkers::Invariant;
use crate::rng::Rng;
use std::rc::Rc;
use units::{Epoch, Incarnation};

/// Between two attempts of a raise that could not be acknowledged.
const RETRY_US: u64 = 100_000;

/// Moves the volume from host to host while there is chaos.
pub async fn manage(world: Rc<World>, mut rng: Rng) {
    raise_to(&world, 0, &mut rng).await;
    let Some(failover_ms) = world.knobs.failover_ms else {
        return;
    };
    while world.phase.get() == Phase::Chaos {
        world.exec.sleep_us(rng.between(1, 2 * failover_ms) * 1000).await;
        if world.phase.get() != Phase::Chaos {
            return;
        }
        let host = u8::try_from(rng.below(u64::from(world.knobs.hosts))).expect("few hosts");
        raise_to(&world, host, &mut rng).await;
        world.did(if host == world.owner.get().host { "a raise is acknowledged" } else { "a raise is overtaken" });
    }
}

/// One failover: take an epoch, raise until it is acknowledged, only then tell the new owner.
async fn raise_to(world: &Rc<World>, host: u8, rng: &mut Rng) {
    let epoch = world.store.get().next();
    world.store.set(epoch);
    world.referee.raise_asked(epoch);
    if world.knobs.standby && rng.coin() {
        prepare(world, host, epoch, rng).await;
    }
    while !raise(world, epoch, host).await {
        world.exec.sleep_us(RETRY_US).await;
        if world.store.get() > epoch {
            return; // Somebody took a higher one: this one will never be acknowledged.
        }
    }
    world.owner.set(Assignment { host, epoch });
    world.told.borrow_mut().insert(host, epoch);
    world.changed.wake_all();
    if rng.chance(3000) {
        world.did("a raise is repeated");
        raise(world, epoch, host).await;
    }
    if rng.chance(2000) && epoch > Epoch(1) {
        refuse_lower(world, Epoch(epoch.0 - 1), host).await;
    }
}

/// Reserves the epoch and lets the host attach ahead: a standby that may not write yet.
async fn prepare(world: &Rc<World>, host: u8, epoch: Epoch, rng: &mut Rng) {
    let target = world.running().await;
    let far = Rc::clone(&target);
    let asked = async move { far.reserve(epoch, host).await };
    if let Some(Ok(())) = call(target.process(), &Rc::default(), asked).await {
        world.did("an epoch is reserved for a standby");
        world.told.borrow_mut().insert(host, epoch);
        world.changed.wake_all();
        world.exec.sleep_us(rng.between(1, 500) * 1000).await;
    }
}

/// One attempt; true when it was acknowledged.
async fn raise(world: &Rc<World>, epoch: Epoch, host: u8) -> bool {
    let target = world.running().await;
    let far = Rc::clone(&target);
    let asked = async move { far.raise(epoch, host).await };
    let answer = call(target.process(), &Rc::default(), asked).await;
    world.say(|| format!("raise to {epoch} for host {host}: {answer:?}"));
    match answer {
        Some(Ok(())) => {
            world.referee.fenced(epoch);
            world.did("a fence is acknowledged");
            true
        }
        Some(Err(Declined::ForEver(_))) if world.store.get() > epoch => {
            world.did("a raise is overtaken by a higher one");
            false
        }
        Some(Err(Declined::ForEver(why))) => {
            let detail = format!("a raise to {epoch}, the highest there is, is declined: {why}");
            world.referee.note(Invariant::I12, detail);
            false
        }
        Some(Err(Declined::Later)) => {
            world.did("a raise has to wait");
            false
        }
        None => false,
    }
}

/// An old manager comes late: the volume must not go back.
async fn refuse_lower(world: &Rc<World>, epoch: Epoch, host: u8) {
    let target = world.running().await;
    let far = Rc::clone(&target);
    let asked = async move { far.raise(epoch, host).await };
    match call(target.process(), &Rc::default(), asked).await {
        Some(Ok(())) => world.referee.note(Invariant::I12, format!("a raise back to {epoch} is acknowledged")),
        _ => world.did("a raise to a lower epoch is declined"),
    }
}

/// The liveness phase: a last raise, a last owner, everything read back, members equal.
pub async fn converge(world: &Rc<World>, mut rng: Rng) {
    loop {
        let target = world.running().await;
        if target.is_whole() && !world.blind.get() {
            break;
        }
        world.exec.sleep_us(RETRY_US).await;
    }
    world.say(|| "the array is whole".to_owned());
    let last = world.knobs.hosts; // A host of its own, which reads only.
    raise_to(world, last, &mut rng).await;
    world.phase.set(Phase::Rest);
    world.changed.wake_all();
    loop {
        let target = world.running().await;
        if world.pending.get() == 0 && target.is_whole() && read_back(world, &target, last).await {
            break;
        }
        world.exec.sleep_us(RETRY_US).await;
    }
    world.did("everything converges and is read back");
}

async fn read_back(world: &Rc<World>, target: &Rc<Target>, host: u8) -> bool {
    let (far, epoch) = (Rc::clone(target), world.owner.get().epoch);
    let asked = async move { far.attach(host, epoch, Incarnation(1)).await };
    let Some(Ok(session)) = call(target.process(), &Rc::<Cut>::default(), asked).await else {
        return false;
    };
    let read = hosts::read_all(world, &session, target).await;
    session.close();
    if read != Some(Ok(())) {
        return false;
    }
    world.referee.compare(true);
    world.referee.stands_at(target.epoch());
    true
}
