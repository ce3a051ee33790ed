//! What befalls a migration, and when. All of it is decided by the seed before the migration begins.

use crate::disks::cache::Dice;
use crate::machine::Role;
use crate::net::{Network, SEGMENTS};
use serde::Serialize;
use std::time::Duration;

/// A dead-man stops its guests when its lease of 2.5 s is over (docs/runbooks/deadman.md), and whoever was silent for
/// 3 s is voted dead. A host that is alone for less is left alone; the margin is for the lab's own slowness.
const LEASE_MAY_END: Duration = Duration::from_millis(2_300);

/// The begin of a longer phase.
const BEGIN_MS: u64 = 150;

/// What befalls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Nothing.
    Nothing,
    /// Somebody cancels the job.
    Cancel,
    /// The QEMU that the guest comes from is killed.
    SourceQemu,
    /// The QEMU that it moves to is killed.
    DestinationQemu,
    /// The initiator beside the first is killed.
    SourceInitiator,
    /// The initiator beside the second is killed.
    DestinationInitiator,
    /// The node of the first host is killed and started again.
    SourceNode,
    /// The node of the second host is.
    DestinationNode,
    /// The node of the machine with the store is: nobody directs the job meanwhile.
    StorageNode,
    /// The first host is cut off the control network, which carries the guest's memory too.
    SourceControl,
    /// It is cut off both storage segments.
    SourceStorage,
    /// It is cut off both of these.
    SourceBoth,
    /// The second host is cut off the control network.
    DestinationControl,
    /// It is cut off both storage segments.
    DestinationStorage,
    /// It is cut off both of these.
    DestinationBoth,
    /// The first host stands still for a moment.
    SourceFreeze,
    /// The second one does.
    DestinationFreeze,
    /// The dead-man of the first host is killed; its supervisor starts it again.
    SourceDeadman,
    /// That of the second one is.
    DestinationDeadman,
    /// The dead-man of the first host hangs: it is stopped, and goes on in the end.
    SourceDeadmanHangs,
    /// That of the second one does.
    DestinationDeadmanHangs,
    /// Each of the above in turn, in an order that the seed decides.
    All,
}

/// Each of them.
pub const EACH: [Kind; 21] = [
    Kind::Nothing,
    Kind::Cancel,
    Kind::SourceQemu,
    Kind::DestinationQemu,
    Kind::SourceInitiator,
    Kind::DestinationInitiator,
    Kind::SourceNode,
    Kind::DestinationNode,
    Kind::StorageNode,
    Kind::SourceControl,
    Kind::SourceStorage,
    Kind::SourceBoth,
    Kind::DestinationControl,
    Kind::DestinationStorage,
    Kind::DestinationBoth,
    Kind::SourceFreeze,
    Kind::DestinationFreeze,
    Kind::SourceDeadman,
    Kind::DestinationDeadman,
    Kind::SourceDeadmanHangs,
    Kind::DestinationDeadmanHangs,
];

/// What is done to the machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Nothing.
    Nothing,
    /// The job is cancelled.
    Cancel,
    /// The VM's QEMU is killed there.
    Qemu(Role),
    /// The VM's initiator is killed there.
    Initiator(Role),
    /// The node is killed there, and started again.
    Node(Role),
    /// The machine is cut off these networks.
    Cut(Role, &'static [Network]),
    /// The machine stands still.
    Freeze(Role),
    /// Its dead-man is killed.
    Deadman(Role),
    /// Its dead-man is stopped, and goes on.
    DeadmanHangs(Role),
}

const CONTROL: [Network; 1] = [Network::Control];
const BOTH: [Network; 3] = [SEGMENTS[0], SEGMENTS[1], Network::Control];

impl Kind {
    /// Its name, as on the command line.
    pub fn name(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self).expect("no kind is hidden");
        value.get_name().to_owned()
    }

    /// What it means for a migration from `source` to `destination`.
    pub fn deed(self, source: Role, destination: Role) -> Deed {
        match self {
            Self::Nothing | Self::All => Deed::Nothing,
            Self::Cancel => Deed::Cancel,
            Self::SourceQemu => Deed::Qemu(source),
            Self::DestinationQemu => Deed::Qemu(destination),
            Self::SourceInitiator => Deed::Initiator(source),
            Self::DestinationInitiator => Deed::Initiator(destination),
            Self::SourceNode => Deed::Node(source),
            Self::DestinationNode => Deed::Node(destination),
            Self::StorageNode => Deed::Node(Role::Storage),
            Self::SourceControl => Deed::Cut(source, &CONTROL),
            Self::SourceStorage => Deed::Cut(source, &SEGMENTS),
            Self::SourceBoth => Deed::Cut(source, &BOTH),
            Self::DestinationControl => Deed::Cut(destination, &CONTROL),
            Self::DestinationStorage => Deed::Cut(destination, &SEGMENTS),
            Self::DestinationBoth => Deed::Cut(destination, &BOTH),
            Self::SourceFreeze => Deed::Freeze(source),
            Self::DestinationFreeze => Deed::Freeze(destination),
            Self::SourceDeadman => Deed::Deadman(source),
            Self::DestinationDeadman => Deed::Deadman(destination),
            Self::SourceDeadmanHangs => Deed::DeadmanHangs(source),
            Self::DestinationDeadmanHangs => Deed::DeadmanHangs(destination),
        }
    }

    fn freezes(self) -> bool {
        matches!(self, Self::SourceFreeze | Self::DestinationFreeze)
    }

    /// For how long two copies may be seen: a host that stood still shows what it had said before late.
    pub fn overlap_max_us(self) -> u64 {
        if self.freezes() { 250_000 } else { 0 }
    }

    /// The stages in which it can hit somebody: who cancels a job that goes back cancels nothing.
    fn phases(self) -> &'static [Phase] {
        if matches!(self, Self::Nothing | Self::Cancel) { &PHASES[..FORWARD] } else { &PHASES }
    }

    /// Whether a fault that fell in this stage hit somebody. `hit` is the job's stage as [`super::round`] saw it.
    pub fn hit_somebody(self, hit: &str) -> bool {
        self == Self::Nothing || Phase::named(hit).is_some()
    }
}

/// A stage of the job, as docs/rfd/0009-migration.md names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The destination gets ready.
    Prepare,
    /// The memory is copied while the guest runs.
    Copy,
    /// Nobody owns the guest, the rest is sent.
    HandOver,
    /// The destination owns it.
    Commit,
    /// The source is cleared.
    Clear,
    /// Nothing was closed yet, everything is put back.
    Undo,
    /// The source's epoch is closed; the destination has to go.
    Retreat,
    /// The source owns it again.
    GiveBack,
}

/// Every stage: those of the way there, then those of the ways back.
pub const PHASES: [Phase; 8] = [
    Phase::Prepare,
    Phase::Copy,
    Phase::HandOver,
    Phase::Commit,
    Phase::Clear,
    Phase::Undo,
    Phase::Retreat,
    Phase::GiveBack,
];
/// How many of them lead there.
const FORWARD: usize = 5;

impl Phase {
    /// As the store names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Copy => "copy",
            Self::HandOver => "hand-over",
            Self::Commit => "commit",
            Self::Clear => "clear",
            Self::Undo => "undo",
            Self::Retreat => "retreat",
            Self::GiveBack => "give-back",
        }
    }

    /// Where the job is cancelled, so that it comes to this stage; none for a stage of the way there.
    pub fn cancelled_in(self) -> Option<Self> {
        match self {
            Self::Undo => Some(Self::Copy),
            Self::Retreat | Self::GiveBack => Some(Self::HandOver),
            Self::Prepare | Self::Copy | Self::HandOver | Self::Commit | Self::Clear => None,
        }
    }

    /// Whether a job in `stage` is where a fault waits for it, or cannot come there any more.
    pub fn is_reached(self, stage: Self) -> bool {
        let goes_back = stage >= Self::Undo;
        match (self.cancelled_in(), goes_back) {
            (None, _) => stage >= self,
            // It was not cancelled in time.
            (Some(_), false) => stage >= Self::Commit,
            (Some(_), true) => stage >= self || (stage == Self::Undo) != (self == Self::Undo),
        }
    }

    /// By its name in the store.
    pub fn named(name: &str) -> Option<Self> {
        PHASES.into_iter().find(|phase| phase.name() == name)
    }

    /// About how long it lasts, in milliseconds: the fault falls in the first part of this, mostly.
    fn lasts_ms(self) -> u64 {
        match self {
            Self::Prepare => 400,
            Self::Copy => 600,
            Self::HandOver => 50,
            Self::Commit | Self::Clear => 30,
            Self::Undo | Self::Retreat | Self::GiveBack => 50,
        }
    }
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub kind: Kind,
    /// It waits for this phase,
    pub phase: Phase,
    /// then for this long,
    pub delay: Duration,
    /// and is over after this.
    pub lasts: Duration,
}

impl Fault {
    /// The next one; its phase too, unless that is wished.
    pub fn draw(kind: Kind, phase: Option<Phase>, dice: &mut Dice) -> Self {
        let phases = kind.phases();
        let drawn = phases[usize::try_from(dice.below(phases.len() as u64)).expect("there are few")];
        let phase = phase.unwrap_or(drawn);
        // A third of them at the first sight of the phase, a third in its begin, where connections are made.
        let delay_ms = match dice.below(3) {
            0 => 0,
            1 => dice.below(phase.lasts_ms().min(BEGIN_MS)),
            _ => dice.below(phase.lasts_ms()),
        };
        let (least_ms, most_ms) = match kind.deed(Role::Host1, Role::Host2) {
            Deed::Nothing | Deed::Cancel | Deed::Qemu(_) | Deed::Initiator(_) | Deed::Deadman(_) => (0, 1),
            Deed::Node(_) => (0, 2_000),
            Deed::Cut(..) | Deed::DeadmanHangs(_) => (1_000, 8_000),
            Deed::Freeze(_) => (1_000, 2_000),
        };
        let lasts = Duration::from_millis(least_ms + dice.below(most_ms - least_ms));
        Self { kind, phase, delay: Duration::from_millis(delay_ms), lasts }
    }

    /// Whether the guest may have been started anew: only if the QEMU that had it was killed, or its host was alone for
    /// so long that it was given up. `committed`: the destination had become the owner.
    pub fn may_restart(&self, committed: bool) -> bool {
        match self.kind {
            Kind::SourceQemu => !committed,
            Kind::DestinationQemu => committed,
            // A dead-man that hangs renews no lease, and its host is voted dead.
            Kind::SourceBoth | Kind::DestinationBoth | Kind::SourceDeadmanHangs | Kind::DestinationDeadmanHangs => {
                self.lasts >= LEASE_MAY_END
            }
            _ => false,
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let delay = self.delay.as_millis();
        let at = format!("{} at {} + {delay} ms", self.kind.name(), self.phase.name());
        match self.lasts.as_millis() {
            0 => at,
            lasts => format!("{at}, for {lasts} ms"),
        }
    }
}

/// Kinds in an order that the seed decides, each once before one comes again.
pub struct Deck {
    of: Vec<Kind>,
    left: Vec<Kind>,
}

impl Deck {
    /// One kind alone, or each.
    pub fn new(what: Kind) -> Self {
        let of = if what == Kind::All { EACH.to_vec() } else { vec![what] };
        Self { of, left: Vec::new() }
    }

    /// The next one.
    pub fn draw(&mut self, dice: &mut Dice) -> Kind {
        if self.left.is_empty() {
            self.left.clone_from(&self.of);
        }
        let index = dice.below(self.left.len() as u64);
        self.left.swap_remove(usize::try_from(index).expect("below a length"))
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: the same seed is the same run, another seed is another one, and every kind comes before one comes again.
    /// Method: three decks.
    #[test]
    fn the_seed_decides() {
        let deck = |seed| {
            let (mut deck, mut dice) = (Deck::new(Kind::All), Dice::new(seed));
            let faults = (0..40).map(|_| {
                let kind = deck.draw(&mut dice);
                Fault::draw(kind, None, &mut dice)
            });
            faults.collect::<Vec<_>>()
        };
        assert_eq!(deck(1), deck(1));
        assert_ne!(deck(1), deck(2));
        let mut first: Vec<Kind> = deck(1).iter().take(EACH.len()).map(|fault| fault.kind).collect();
        first.sort_unstable();
        assert_eq!(first, EACH);
        assert_eq!(Deck::new(Kind::Cancel).draw(&mut Dice::new(1)), Kind::Cancel);
        for fault in deck(3) {
            let most = if fault.kind.freezes() { 2 } else { 8 };
            assert!(fault.lasts < Duration::from_secs(most), "{}", fault.text());
        }
    }

    /// Goal: a restart is excused only where the QEMU that had the guest died, or its host was given up. Method: a table.
    #[test]
    fn a_restart_needs_its_reason() {
        let fault = |kind, lasts_ms| Fault {
            kind,
            phase: Phase::Copy,
            delay: Duration::ZERO,
            lasts: Duration::from_millis(lasts_ms),
        };
        for (kind, lasts_ms, before, after) in [
            (Kind::SourceQemu, 0, true, false),
            (Kind::DestinationQemu, 0, false, true),
            (Kind::SourceBoth, 5_000, true, true),
            (Kind::SourceBoth, 2_000, false, false),
            (Kind::SourceStorage, 7_000, false, false),
            (Kind::SourceControl, 7_000, false, false),
            (Kind::StorageNode, 2_000, false, false),
            (Kind::SourceInitiator, 0, false, false),
            (Kind::DestinationFreeze, 1_900, false, false),
            (Kind::SourceDeadman, 0, false, false),
            (Kind::SourceDeadmanHangs, 5_000, true, true),
            (Kind::DestinationDeadmanHangs, 2_000, false, false),
        ] {
            let fault = fault(kind, lasts_ms);
            assert_eq!((fault.may_restart(false), fault.may_restart(true)), (before, after), "{}", fault.text());
        }
        assert_eq!(Kind::SourceFreeze.overlap_max_us(), 250_000);
        assert_eq!(Kind::SourceBoth.overlap_max_us(), 0);
    }

    /// Goal: phases are known by the store's names. Method: each, and a word that is none.
    #[test]
    fn phases_are_known_by_name() {
        assert!(PHASES.iter().all(|phase| Phase::named(phase.name()) == Some(*phase)));
        assert_eq!(Phase::named("after"), None);
        assert!(PHASES.is_sorted());
    }

    /// CA10: goal: the ways back are struck too, and a fault that fell after the job, or on nobody, struck nothing. Method: what
    /// many draws give; the words of the rounds.
    #[test]
    fn every_stage_is_struck_and_nobody_is_no_stage() {
        let mut dice = Dice::new(1);
        for kind in [Kind::SourceQemu, Kind::StorageNode, Kind::Cancel] {
            let drawn: Vec<Phase> = (0..200).map(|_| Fault::draw(kind, None, &mut dice).phase).collect();
            let all = PHASES.iter().all(|phase| drawn.contains(phase));
            assert_eq!(all, kind != Kind::Cancel, "{}", kind.name());
            assert!(PHASES.iter().all(|phase| kind.hit_somebody(phase.name())));
            assert!(["after", "nobody", "unseen", ""].iter().all(|hit| !kind.hit_somebody(hit)));
        }
        assert!(Kind::Nothing.hit_somebody("after"));
        assert_eq!(Fault::draw(Kind::SourceNode, Some(Phase::Retreat), &mut dice).phase, Phase::Retreat);
    }

    /// Goal: a fault waits for its stage as long as the job can still come to it. Method: a table.
    #[test]
    fn a_stage_that_cannot_come_is_not_waited_for() {
        use Phase::{Clear, Commit, Copy, GiveBack, HandOver, Prepare, Retreat, Undo};
        for (aimed, stage, reached) in [
            (Copy, Prepare, false),
            (Copy, Copy, true),
            (Copy, HandOver, true),
            (Commit, Retreat, true),
            (Prepare, Undo, true),
            (Undo, Copy, false),
            (Undo, HandOver, false),
            (Undo, Commit, true),
            (Undo, Undo, true),
            (Undo, GiveBack, true),
            (GiveBack, HandOver, false),
            (GiveBack, Retreat, false),
            (GiveBack, Clear, true),
            (GiveBack, GiveBack, true),
            (Retreat, Undo, true),
        ] {
            assert_eq!(aimed.is_reached(stage), reached, "{aimed:?} {stage:?}");
        }
    }
}
