//! What goes wrong, what an operator does about it, and who looks at the members meanwhile.
//!
//! The nemesis keeps to what RAID 1 promises to survive: a member is harmed only while the array is whole, so that no
//! two faults ever meet on the last good copy. It counts what it did.

use super::call::call;
use super::target::{Start, Target};
use super::{Phase, World};
use crate::checkers::Witness;
use crate::disk::{EIO, ENODEV, Manners, Media};
use crate::rng::Rng;
use crate::stack::{self, Thread};
use std::cell::Cell;
use std::rc::Rc;

/// A disk that is well.
const WELL: Manners = Manners::WELL;

/// What the nemesis can do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Harm {
    Kill,
    Power,
    Eio,
    Breaks,
    Vanishes,
    Hangs,
    Sectors,
    Slow,
    Flush,
    Full,
}

/// Makes the array and starts the first target.
pub async fn create(world: &Rc<World>, mut rng: Rng) {
    world.disks.iter().for_each(|disk| disk.manners.set(WELL));
    let target = Target::create(world, Thread::new(&world.exec), &mut rng).await;
    enter(world, target, false);
}

/// Does harm until the faults stop.
pub async fn harm(world: Rc<World>, mut rng: Rng) {
    while world.phase.get() == Phase::Chaos {
        let filling = wait(&world, &mut rng).await;
        if world.phase.get() != Phase::Chaos {
            break;
        }
        let choices = choices(&world);
        if filling && (world.knobs.kill || world.knobs.power) {
            world.did("the target goes down while a member is being filled");
            let power = world.knobs.power && (!world.knobs.kill || rng.coin());
            restart(&world, &mut rng, power).await;
            continue;
        }
        if choices.is_empty() {
            continue;
        }
        match choices[rng.index(choices.len())] {
            Harm::Kill => restart(&world, &mut rng, false).await,
            Harm::Power => restart(&world, &mut rng, true).await,
            Harm::Slow => slow(&world, &mut rng).await,
            Harm::Flush => slow_flushes(&world, &mut rng).await,
            Harm::Full => full(&world, &mut rng).await,
            Harm::Sectors => spoil(&world, &mut rng),
            member if world.knobs.pair && world.knobs.slots == 3 => {
                let other = [Harm::Eio, Harm::Breaks, Harm::Vanishes, Harm::Hangs][rng.index(4)];
                let (mut left, mut right, first) = (rng.fork(), rng.fork(), rng.index(3));
                let disks = at_work(&world);
                if let (true, [_, _, _]) = (whole(&world), &disks[..]) {
                    world.did("two members are harmed at once");
                    let one = harm_member(&world, member, disks[first], &mut left);
                    stack::both(one, harm_member(&world, other, disks[(first + 1) % 3], &mut right)).await;
                }
            }
            member => {
                let disks = at_work(&world);
                if let Some(disk) = disks.get(rng.index(disks.len().max(1))) {
                    harm_member(&world, member, *disk, &mut rng).await;
                }
            }
        }
    }
}

/// Waits for the next deed; true if it shall be one while a member is being filled: resync is where mirrors lose data.
async fn wait(world: &Rc<World>, rng: &mut Rng) -> bool {
    const SLICE_US: u64 = 2_000;
    let until_us = world.exec.now_us() + rng.between(1, 2 * world.knobs.nemesis_ms) * 1000;
    let cruel = rng.chance(4000);
    while world.exec.now_us() < until_us {
        world.exec.sleep_us(rng.between(1, SLICE_US)).await;
        if cruel && world.target.borrow().as_ref().is_some_and(|target| target.is_filling()) {
            world.exec.sleep_us(rng.below(40_000)).await;
            return world.target.borrow().as_ref().is_some_and(|target| target.is_filling());
        }
    }
    false
}

/// Waits until a host has just asked for a write, for a while: a crash is worst in the middle of one.
async fn until_a_write(world: &Rc<World>, rng: &mut Rng) {
    const LOOK_US: u64 = 100;
    const LOOKS_MAX: u32 = 5_000;
    let before = world.referee.writes();
    for _ in 0..LOOKS_MAX {
        if world.referee.writes() > before {
            break;
        }
        world.exec.sleep_us(LOOK_US).await;
    }
    world.exec.sleep_us(rng.below(2_000)).await;
}

fn choices(world: &World) -> Vec<Harm> {
    let knobs = &world.knobs;
    let all = [
        (knobs.kill, Harm::Kill),
        (knobs.power, Harm::Power),
        (knobs.eio, Harm::Eio),
        (knobs.breaks, Harm::Breaks),
        (knobs.breaks, Harm::Vanishes),
        (knobs.hang, Harm::Hangs),
        (knobs.sectors_fail, Harm::Sectors),
        (knobs.flush, Harm::Flush),
        (knobs.slow, Harm::Slow),
        (knobs.full, Harm::Full),
    ];
    all.into_iter().filter(|(on, _)| *on).map(|(_, harm)| harm).collect()
}

fn whole(world: &World) -> bool {
    let target = world.target.borrow();
    let well = world.disks.iter().all(|disk| disk.manners.get().broken.is_none());
    well && target.as_ref().is_some_and(|target| target.process().alive() && target.is_whole())
}

/// The disks that work in the running array.
fn at_work(world: &World) -> Vec<usize> {
    world.target.borrow().as_ref().map(|target| target.at_work()).unwrap_or_default()
}

/// Whether every disk but this one can be read everywhere.
fn others_are_clean(world: &World, number: usize) -> bool {
    world.disks.iter().all(|disk| disk.number == number || disk.bad_sectors() == 0)
}

/// Some sectors of the volume cannot be read any more on one member, which the others have.
fn spoil(world: &Rc<World>, rng: &mut Rng) {
    let disks = at_work(world);
    if !whole(world) || disks.is_empty() {
        return;
    }
    let disk = &world.disks[disks[rng.index(disks.len())]];
    if !others_are_clean(world, disk.number) {
        return;
    }
    world.did("sectors of a member become unreadable");
    let start = world.target.borrow().as_ref().map_or(0, |target| target.data_offset());
    for _ in 0..[2, 8, 18][rng.index(3)] {
        disk.spoil(usize::try_from(start / 512 + rng.below(u64::from(world.knobs.sectors))).expect("small"));
    }
}

/// One member, and only while the others are good.
async fn harm_member(world: &Rc<World>, harm: Harm, number: usize, rng: &mut Rng) {
    if !whole(world) || !others_are_clean(world, number) {
        return;
    }
    let disk = Rc::clone(&world.disks[number]);
    let manners = match harm {
        Harm::Eio => Manners { eio_once: [50, 250, 450][rng.index(3)], eio_read: 600, ..WELL },
        Harm::Hangs => Manners { hang: 500, hang_ms: rng.between(100, 6_000), ..WELL },
        Harm::Breaks => Manners { broken: Some(EIO), ..WELL },
        _ => Manners { broken: Some(ENODEV), ..WELL },
    };
    if harm == Harm::Vanishes {
        disk.power_cut(world.knobs.torn);
        world.did("a member vanishes with its cache");
    } else if harm == Harm::Breaks {
        world.did("a member breaks for good");
    }
    world.say(|| format!("disk {} from now on: {manners:?}", disk.number));
    disk.manners.set(manners);
    // Single errors and hangs end by themselves as soon as they cost the array its member.
    let mut left_ms = rng.between(50, 3_000);
    while harm != Harm::Breaks && harm != Harm::Vanishes && left_ms > 0 && whole(world) {
        world.exec.sleep_us(1_000).await;
        left_ms -= 1;
    }
    if harm == Harm::Eio || harm == Harm::Hangs {
        disk.manners.set(WELL);
    }
}

/// All disks are slow for a while: the queues are long, drains take their time.
async fn slow(world: &Rc<World>, rng: &mut Rng) {
    world.did("disks are slow for a while");
    let slower = [3, 10, 100, 1000][rng.index(4)];
    for disk in &world.disks {
        let manners = disk.manners.get();
        if manners.broken.is_none() && rng.coin() {
            disk.manners.set(Manners { slower, ..manners });
        }
    }
    world.exec.sleep_us(rng.between(100, 3_000) * 1000).await;
    for disk in &world.disks {
        disk.manners.set(Manners { slower: 1, ..disk.manners.get() });
    }
}

/// Flushes take seconds for a while, and nothing else is done meanwhile.
async fn slow_flushes(world: &Rc<World>, rng: &mut Rng) {
    world.did("flushes last for a while");
    let flush_ms = [100, 1_000, 4_000][rng.index(3)];
    for disk in &world.disks {
        if rng.coin() {
            disk.manners.set(Manners { flush_ms, ..disk.manners.get() });
        }
    }
    world.exec.sleep_us(rng.between(100, 5_000) * 1000).await;
    for disk in &world.disks {
        disk.manners.set(Manners { flush_ms: 0, ..disk.manners.get() });
    }
}

/// Before a start, one member's metadata is not what was written: a bit turned, or sectors cannot be read.
fn harm_metadata(world: &World, rng: &mut Rng) {
    let disk = &world.disks[rng.index(world.disks.len())];
    if !others_are_clean(world, disk.number) {
        return;
    }
    // The superblock, the bitmap, the facts' two slots.
    let at = [4096, 8192, 1 << 20, (1 << 20) + (512 << 10)][rng.index(4)] + rng.below(256);
    let at = usize::try_from(at).expect("small");
    if world.knobs.rot {
        world.did("a bit of a member's metadata turns");
        disk.rot(at, rng.word().to_le_bytes()[0]);
    } else {
        world.did("a member's metadata cannot be read at a start");
        disk.spoil(at / 512);
    }
}

/// The state folder takes no file for a while: nothing that needs a new membership is answered meanwhile.
async fn full(world: &Rc<World>, rng: &mut Rng) {
    world.did("the state folder is full for a while");
    world.memory.be_full(true);
    let (world, left_us) = (Rc::clone(world), rng.between(100, 4_000) * 1000);
    // In the background, so that a member may fail meanwhile.
    let exec = world.exec.clone();
    exec.machine().go(async move {
        world.exec.sleep_us(left_us).await;
        world.memory.be_full(false);
    });
}

/// The target is killed, or the box loses its power; the successor waits for what the kernel still has.
async fn restart(world: &Rc<World>, rng: &mut Rng, power: bool) {
    if rng.coin() {
        until_a_write(world, rng).await;
    }
    let Some(target) = world.target.borrow_mut().take() else {
        return;
    };
    // Who came in while the state folder was full is not remembered yet: the others are needed to start.
    let was_whole = target.is_whole()
        && world.memory.names(world.knobs.slots)
        && world.disks.iter().all(|disk| disk.manners.get().broken.is_none());
    let members = target.at_work();
    target.process().kill();
    world.referee.target(None);
    if power {
        world.did("the box loses its power");
        cut_power(world);
    } else {
        world.did("the target is killed");
    }
    world.changed.wake_all();
    drop(target);
    world.exec.sleep_us(rng.between(10, 2_000) * 1000).await;
    for disk in &world.disks {
        disk.quiet().await;
    }
    let absent = (world.knobs.missing && was_whole && rng.coin()).then(|| members[rng.index(members.len())]);
    let absent = absent.filter(|absent| others_are_clean(world, *absent));
    let metadata = world.knobs.rot || world.knobs.sectors_fail;
    if metadata && absent.is_none() && was_whole && rng.chance(3000) {
        harm_metadata(world, rng);
    }
    if let Some(disk) = absent {
        world.did("a member is missing at a restart");
        world.disks[disk].manners.set(Manners { broken: Some(ENODEV), ..WELL });
    }
    // Of a mirror that is not whole, one member at random is found late: what is there may be old.
    let late = (world.knobs.missing && !was_whole && rng.coin()).then(|| rng.index(world.disks.len()));
    let floor_known = !(world.knobs.no_floor && rng.coin());
    if let Some(disk) = late {
        let start = Start { absent: Some(disk), floor: floor_known.then(|| world.store.get()) };
        // A disk that had no slot is not missed.
        let lacks = members.contains(&disk) || members.len() < world.knobs.slots;
        if try_boot(world, start, lacks).await {
            world.did("a member of a degraded mirror starts alone");
            return;
        }
        world.did("an old or unfinished member is not started alone");
    }
    if world.knobs.again && rng.coin() {
        half_boot(world, Start { absent, floor: floor_known.then(|| world.store.get()) }, rng).await;
    }
    boot(world, absent, floor_known).await;
}

fn cut_power(world: &World) {
    world.disks.iter().for_each(|disk| disk.power_cut(world.knobs.torn));
    world.memory.power_cut();
    world.referee.power_cut();
}

/// A start that is cut in its middle, by a kill or with the power.
async fn half_boot(world: &Rc<World>, start: Start, rng: &mut Rng) {
    world.did("a start is cut in its middle");
    let (thread, starting) = (Thread::new(&world.exec), Rc::clone(world));
    let (process, its_thread) = (thread.process.clone(), thread.clone());
    process.go(async move {
        let _target = Target::start(&starting, its_thread, start).await;
        std::future::pending::<()>().await;
    });
    world.exec.sleep_us(rng.below(20_000)).await;
    process.kill();
    if world.knobs.power && rng.coin() {
        cut_power(world);
    }
    for disk in &world.disks {
        disk.quiet().await;
    }
}

/// Starts targets until one comes up.
async fn boot(world: &Rc<World>, absent: Option<usize>, floor_known: bool) {
    const AGAIN_US: u64 = 200_000;
    loop {
        let floor = floor_known.then(|| world.store.get());
        if try_boot(world, Start { absent, floor }, absent.is_some()).await {
            return;
        }
        world.did("a target cannot start yet");
        world.exec.sleep_us(AGAIN_US).await;
    }
}

/// One attempt; `lacks`: a slot is without its member.
async fn try_boot(world: &Rc<World>, start: Start, lacks: bool) -> bool {
    match Target::start(world, Thread::new(&world.exec), start).await {
        Ok(target) => {
            let blind = start.floor.is_none() && lacks;
            if blind {
                world.did("a target starts with a member missing and no floor");
            }
            enter(world, target, blind);
            true
        }
        Err(why) => {
            world.say(|| why);
            false
        }
    }
}

fn enter(world: &Rc<World>, target: Rc<Target>, blind: bool) {
    world.say(|| format!("a target runs: {}", target.describe()));
    world.blind.set(blind);
    world.referee.target_starts();
    world.referee.target(Some(Rc::<Target>::clone(&target)));
    world.referee.stands_at(target.epoch());
    *world.target.borrow_mut() = Some(target);
    world.changed.wake_all();
}

/// The operator: brings the store back, puts disks back, replaces broken ones, starts the target when it is gone.
pub async fn repair(world: Rc<World>, mut rng: Rng) {
    let healed = Cell::new(false);
    loop {
        let chaos = world.phase.get() == Phase::Chaos;
        world.exec.sleep_us(if chaos { rng.between(100, 3_000) * 1000 } else { 100_000 }).await;
        if !chaos && !healed.replace(true) {
            world.memory.be_full(false);
            world
                .disks
                .iter()
                .filter(|disk| disk.manners.get().broken.is_none())
                .for_each(|disk| disk.manners.set(WELL));
        }
        let Some(target) = world.target.borrow().clone() else {
            continue;
        };
        if !target.knows_floor() {
            world.did("the store is back and tells the floor");
            world.blind.set(false);
            target.floor(world.store.get());
        }
        let at_work = target.at_work();
        let idle: Vec<usize> = (0..world.disks.len()).filter(|disk| !at_work.contains(disk)).collect();
        if at_work.len() < world.knobs.slots {
            put_back(&world, &target, idle[rng.index(idle.len())], &mut rng).await;
        }
    }
}

/// A failed or missing member comes back: as it was (stale), or as a blank replacement.
async fn put_back(world: &Rc<World>, target: &Rc<Target>, number: usize, rng: &mut Rng) {
    let disk = &world.disks[number];
    disk.quiet().await;
    if disk.manners.get().broken == Some(EIO) || rng.chance(3000) {
        world.did("a member is replaced by a blank disk");
        disk.swap_media(Media::new(usize::try_from(world.knobs.model.len.0).expect("fits memory")));
    } else {
        world.did("a member returns as it was");
    }
    disk.manners.set(WELL);
    world.referee.disk_added(number);
    let far = Rc::clone(target);
    let answer = call(target.process(), &Rc::default(), async move { far.add(number, false).await }).await;
    world.say(|| format!("disk {number} is put into the array: {answer:?}"));
}

/// Looks at the members now and then: epochs, and members in sync being equal whenever nothing is to be copied.
pub async fn look(world: Rc<World>) {
    const EVERY_US: u64 = 20_000;
    let mut was_whole = true;
    loop {
        world.exec.sleep_us(EVERY_US).await;
        let Some(target) = world.target.borrow().clone() else {
            continue;
        };
        if !target.process().alive() {
            continue;
        }
        world.referee.stands_at(target.epoch());
        let is_whole = target.is_whole();
        // A member that vanished with its cache is not equal; the array notices with the next operation.
        let all_there = world.disks.iter().all(|disk| disk.manners.get().broken.is_none());
        if is_whole && all_there {
            world.referee.compare(false);
            if !was_whole {
                world.did("the array is whole again");
            }
        }
        was_whole = is_whole;
    }
}
