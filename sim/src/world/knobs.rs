//! What a run is like: which faults are on, how often, how many hosts and disks. Swarm testing: a fault that is always
//! on hides what only happens without it, so each kind is off in some runs (Groce and others, "Swarm testing", 2012).

use crate::disk::Model;
use crate::rng::Rng;
use crate::stack::MODEL;

/// The settings of one run, drawn from its seed.
#[derive(Clone, Copy, Debug)]
pub struct Knobs {
    /// Members of the mirror: 2 or 3.
    pub slots: usize,
    /// Disks in the box: as many, or one more, which may take the place of one.
    pub disks: usize,
    /// What the disks are like.
    pub model: Model,
    /// The volume lies in a volume group on the array; else it is the array.
    pub group: bool,
    /// The hosts are stock clients: no epoch, no incarnation, a retry on another path.
    pub stock: bool,
    /// Hosts that want the volume: 2 or 3.
    pub hosts: u8,
    /// Operations one host keeps in flight.
    pub depth: u64,
    /// The longest pause between two operations of one slot.
    pub pause_us: u64,
    /// How long faults go on.
    pub chaos_ms: u64,
    /// Between two deeds of the nemesis, on average.
    pub nemesis_ms: u64,
    /// Between two failovers, on average; `None`: the first host keeps the volume.
    pub failover_ms: Option<u64>,
    /// Between two restarts of an initiator, on average.
    pub restart_ms: Option<u64>,
    /// Sectors clients write to: few means many conflicts.
    pub sectors: u32,
    /// Parts of 10 000 of the operations that are reads, flushes, or writes with FUA.
    pub reads: u32,
    /// See `reads`.
    pub flushes: u32,
    /// See `reads`.
    pub fuas: u32,
    /// Parts of 10 000 of the operations that are discards or write zeroes.
    pub zeroes: u32,
    /// The target is killed.
    pub kill: bool,
    /// The box loses its power.
    pub power: bool,
    /// A power cut tears writes at 512 bytes.
    pub torn: bool,
    /// A member answers one EIO.
    pub eio: bool,
    /// A member breaks for good.
    pub breaks: bool,
    /// A member hangs for seconds.
    pub hang: bool,
    /// Members are up to 1000 times slower for a while.
    pub slow: bool,
    /// Flushes take seconds for a while, and the disk does nothing else meanwhile.
    pub flush: bool,
    /// Sectors of a member become unreadable.
    pub sectors_fail: bool,
    /// A bit of a member's metadata turns before a start.
    pub rot: bool,
    /// Two members of three are harmed at once.
    pub pair: bool,
    /// A start is cut in its middle.
    pub again: bool,
    /// A member is missing at a restart.
    pub missing: bool,
    /// The state folder takes no file for a while.
    pub full: bool,
    /// The store is out of reach at some restarts: no floor.
    pub no_floor: bool,
    /// Session connections are torn.
    pub tear: bool,
    /// A higher epoch is reserved, and a standby attaches, before it is raised.
    pub standby: bool,
}

impl Knobs {
    /// The knobs of a run.
    #[must_use]
    pub fn draw(rng: &mut Rng) -> Self {
        let mut on = |parts| rng.chance(parts);
        let (kill, power, torn) = (on(6500), on(5000), on(5000));
        let (eio, breaks, hang, slow) = (on(5000), on(5000), on(4000), on(4000));
        let (missing, no_floor, tear, standby) = (on(5000), on(4000), on(5000), on(4000));
        let (failover, restart, full) = (on(8000), on(6000), on(3000));
        let (flush, sectors_fail, rot, pair, again) = (on(3000), on(7000), on(3000), on(5000), on(4000));
        let (spare, group, stock, discard) = (on(3000), on(3000), on(2500), on(3000));
        let block_bytes = if on(2500) { 4096 } else { 512 };
        let slots = if rng.chance(7000) { 2 } else { 3 };
        Self {
            slots,
            disks: slots + usize::from(spare),
            model: Model { block_bytes, discard, ..MODEL },
            group,
            stock,
            hosts: if rng.coin() { 2 } else { 3 },
            depth: rng.between(1, 4),
            pause_us: [2_000, 10_000, 40_000, 400_000][rng.index(4)],
            chaos_ms: rng.between(3_000, 12_000),
            nemesis_ms: rng.between(200, 2_000),
            failover_ms: failover.then(|| rng.between(300, 4_000)),
            restart_ms: (restart && !stock).then(|| rng.between(300, 4_000)),
            // What a stock client's old path delivers late matters where it has written since.
            sectors: [16, 64, 1600, 16_000][rng.index(if stock { 2 } else { 4 })],
            reads: [1000, 3000, 6000][rng.index(3)],
            flushes: [0, 300, 1500][rng.index(3)],
            fuas: [0, 1000, 4000][rng.index(3)],
            zeroes: [0, 300, 1500][rng.index(3)],
            kill,
            power,
            torn,
            eio,
            breaks,
            hang,
            slow,
            flush,
            // Where a member may be failed while the other one cannot be read everywhere, something is lost.
            sectors_fail: sectors_fail && !hang && !slow && !flush,
            rot,
            pair,
            again,
            missing,
            full,
            no_floor,
            tear: tear || stock,
            standby,
        }
    }
}
