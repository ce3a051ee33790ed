//! The shelf: all disks, the operations that wait, and the log; what FUSE and the control socket both work on.
//!
//! One lock a disk. Operations that go are done under it, in the order they arrived, so a held operation that is
//! released cannot overtake itself. Answers are sent outside of it.

use super::applied::{Applied, AppliedLine, now_us};
use super::cache::Survive;
use super::control::{Answer, Command, DiskStatus};
use super::disk::{Disk, Eio, Verdict, Work};
use super::journal::{Journal, Line, TAG_BYTES, parse_tag, stamps};
use super::stamp;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

/// Called once with what was read, or an errno.
pub type Reply = Box<dyn FnOnce(Result<Vec<u8>, i32>) + Send>;

/// An operation on its way.
pub struct Operation {
    /// What it does.
    pub work: Work,
    /// The insertion its handle was opened under.
    pub insertion: u64,
    /// Whether the handle was opened with O_DIRECT.
    pub direct: bool,
    /// Where the answer goes.
    pub reply: Reply,
}

struct Waiting {
    id: u64,
    operation: Operation,
    /// The lines about the stamps it carries.
    stamped: Vec<AppliedLine>,
}

struct Slot {
    disk: Disk,
    held: Vec<Waiting>,
}

/// All disks.
pub struct Shelf {
    slots: Vec<Mutex<Slot>>,
    journal: Journal,
    watched: RwLock<Vec<[u8; TAG_BYTES]>>,
    next_id: AtomicU64,
    rogues: Option<Rogues>,
}

/// What is done about stamped writes.
pub struct Rogues {
    /// Where they are logged.
    pub log: Applied,
    /// How long each is on its way, so that a fence has something to drain.
    pub delay_ms: AtomicU64,
}

impl Shelf {
    /// Puts disks on a shelf.
    pub fn new(disks: Vec<Disk>, journal: Journal, rogues: Option<Rogues>) -> Self {
        let slots = disks.into_iter().map(|disk| Mutex::new(Slot { disk, held: Vec::new() })).collect();
        Self { slots, journal, watched: RwLock::default(), next_id: AtomicU64::new(1), rogues }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.slots.len()
    }

    /// Looks at or changes one disk.
    pub fn with<T>(&self, number: usize, look: impl FnOnce(&mut Disk) -> T) -> T {
        look(&mut self.slots[number].lock().expect("no panic under this lock").disk)
    }

    /// Starts an operation; its answer comes now, later or never.
    pub fn start(self: &Arc<Self>, number: usize, operation: Operation) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.log(number, id, &operation.work, "received");
        let stamped = self.receive(number, id, &operation.work);
        let waiting = Waiting { id, operation, stamped };
        let mut slot = self.slots[number].lock().expect("no panic under this lock");
        let Operation { work, insertion, direct, .. } = &waiting.operation;
        let verdict = match slot.disk.judge(work, *insertion, *direct) {
            Verdict::Go if !waiting.stamped.is_empty() => self.hold_up(&mut slot.disk),
            verdict => verdict,
        };
        match verdict {
            Verdict::Go => self.finish(number, waiting, slot),
            Verdict::Hold => slot.held.push(waiting),
            Verdict::Fail(errno) => {
                drop(slot);
                self.log(number, id, work, "failed");
                self.complete(&waiting.stamped, true);
                (waiting.operation.reply)(Err(errno));
            }
            Verdict::Delay(delay_ms) => {
                drop(slot);
                let shelf = Arc::clone(self);
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(delay_ms));
                    let slot = shelf.slots[number].lock().expect("no panic under this lock");
                    shelf.finish(number, waiting, slot);
                });
            }
        }
    }

    fn finish(&self, number: usize, waiting: Waiting, mut slot: std::sync::MutexGuard<'_, Slot>) {
        let Operation { work, insertion, reply, .. } = waiting.operation;
        let done = slot.disk.perform(&work, insertion);
        self.log(number, waiting.id, &work, if done.is_ok() { "applied" } else { "failed" });
        self.complete(&waiting.stamped, done.is_err());
        drop(slot);
        reply(done);
    }

    /// Writes down that a stamped write has come.
    fn receive(&self, disk: usize, id: u64, work: &Work) -> Vec<AppliedLine> {
        let (Some(rogues), Work::Write { at, data, .. }) = (&self.rogues, work) else { return Vec::new() };
        let found = stamp::stamps(data);
        if found.is_empty() {
            return Vec::new();
        }
        let received_us = now_us();
        let line = |(distance, stamp)| {
            let offset = at + distance;
            AppliedLine { id, received_us, completed_us: None, failed: false, disk, offset, stamp }
        };
        let lines: Vec<_> = found.into_iter().map(line).collect();
        rogues.log.write(&lines);
        lines
    }

    /// Writes down that it has ended, before anybody is told.
    fn complete(&self, lines: &[AppliedLine], failed: bool) {
        let Some(rogues) = self.rogues.as_ref().filter(|_| !lines.is_empty()) else { return };
        let completed_us = Some(now_us());
        let ended = |line: &AppliedLine| AppliedLine { completed_us, failed, ..line.clone() };
        rogues.log.write(&lines.iter().map(ended).collect::<Vec<_>>());
    }

    /// How long a stamped write is on its way.
    fn hold_up(&self, disk: &mut Disk) -> Verdict {
        match self.rogues.as_ref().map_or(0, |rogues| rogues.delay_ms.load(Ordering::Relaxed)) {
            0 => Verdict::Go,
            delay_ms => {
                disk.counters.held += 1;
                Verdict::Delay(delay_ms)
            }
        }
    }

    fn log(&self, disk: usize, id: u64, work: &Work, event: &str) {
        let (what, data, fua) = match work {
            Work::Read { .. } => return,
            Work::Write { data, fua, .. } => ("write", data.as_slice(), Some(*fua)),
            Work::Zero { .. } => ("zero", &[][..], None),
            Work::Flush => ("flush", &[][..], None),
        };
        let (at, len) = work.range();
        let range = |number| (what != "flush").then_some(number);
        let stamps = stamps(data, &self.watched.read().expect("no panic under this lock"));
        let (event, what) = (event.to_owned(), Some(what.to_owned()));
        self.journal.write(Line { t_ns: 0, disk, id, event, what, at: range(at), len: range(len), fua, stamps });
    }

    fn note(&self, disk: usize, event: &str) {
        let event = event.to_owned();
        self.journal.write(Line {
            t_ns: 0,
            disk,
            id: 0,
            event,
            what: None,
            at: None,
            len: None,
            fua: None,
            stamps: Vec::new(),
        });
    }

    /// Obeys a command.
    pub fn obey(&self, command: &Command) -> Answer {
        let done = match command {
            Command::Status => return Answer { ok: true, error: None, disks: self.status() },
            Command::Watch { tag } => {
                parse_tag(tag).map(|tag| self.watched.write().expect("no panic under this lock").push(tag))
            }
            Command::DelayStamped { ms } => match &self.rogues {
                Some(rogues) => {
                    rogues.delay_ms.store(*ms, Ordering::Relaxed);
                    Ok(())
                }
                None => Err(anyhow::anyhow!("stamps are not looked for: start the disks with --applied")),
            },
            command => self.obey_disks(command),
        };
        Answer { ok: done.is_ok(), error: done.err().map(|error| format!("{error:#}")), disks: Vec::new() }
    }

    fn obey_disks(&self, command: &Command) -> anyhow::Result<()> {
        let numbers = match command.disk() {
            None => 0..self.count(),
            Some(number) if number < self.count() => number..number + 1,
            Some(number) => anyhow::bail!("no disk {number}, there are {}", self.count()),
        };
        // The power goes everywhere at once: nothing may run on one disk while another is already dark.
        let mut slots: Vec<_> =
            numbers.clone().map(|number| self.slots[number].lock().expect("no panic under this lock")).collect();
        let mut freed = Vec::new();
        for (number, slot) in numbers.zip(&mut slots) {
            self.obey_disk(number, &mut slot.disk, command)?;
            if matches!(
                command,
                Command::Release { .. } | Command::Heal { .. } | Command::Vanish { .. } | Command::PowerCut { .. }
            ) {
                freed.extend(slot.held.drain(..).map(|waiting| (number, waiting)));
            }
        }
        drop(slots);
        for (number, waiting) in freed {
            self.finish(number, waiting, self.slots[number].lock().expect("no panic under this lock"));
        }
        Ok(())
    }

    fn obey_disk(&self, number: usize, disk: &mut Disk, command: &Command) -> anyhow::Result<()> {
        match command {
            Command::Eio { on, count, range, .. } => {
                anyhow::ensure!(*count != Some(0), "an error that comes 0 times never comes");
                disk.fail(Eio { on: *on, range: *range, left: *count });
            }
            Command::Hang { on, .. } => disk.hang(*on),
            Command::Release { .. } => disk.release(),
            Command::Heal { .. } => disk.heal(),
            Command::Delay { tag, ms, .. } => disk.delay(parse_tag(tag)?, *ms),
            Command::Snapshot { name, .. } => disk.snapshot(name)?,
            Command::Return { stale, .. } => {
                anyhow::ensure!(!disk.present, "disk {number} is not gone");
                disk.come_back(stale.as_deref())?;
                self.note(number, "returned");
            }
            Command::Vanish { .. } => {
                disk.vanish();
                self.note(number, "vanished");
            }
            Command::PowerCut { seed, .. } => {
                // Each disk has dice of its own, or all would keep the same pattern.
                let survive = seed.map_or(Survive::Nothing, |seed| Survive::Random(seed.wrapping_add(number as u64)));
                disk.power_cut(survive)?;
                self.note(number, "power_cut");
            }
            Command::Status | Command::Watch { .. } | Command::DelayStamped { .. } => {}
        }
        Ok(())
    }

    fn status(&self) -> Vec<DiskStatus> {
        let status = |slot: &Mutex<Slot>| {
            let slot = slot.lock().expect("no panic under this lock");
            let disk = &slot.disk;
            DiskStatus {
                present: disk.present,
                volatile_sectors: disk.content.volatile_sectors(),
                waiting: slot.held.len(),
                counters: disk.counters,
            }
        };
        self.slots.iter().map(status).collect()
    }
}

impl Command {
    fn disk(&self) -> Option<usize> {
        match self {
            Self::Eio { disk, .. }
            | Self::Hang { disk, .. }
            | Self::Release { disk }
            | Self::Vanish { disk }
            | Self::Return { disk, .. }
            | Self::Snapshot { disk, .. }
            | Self::PowerCut { disk, .. }
            | Self::Delay { disk, .. }
            | Self::Heal { disk } => *disk,
            Self::Watch { .. } | Self::DelayStamped { .. } | Self::Status => None,
        }
    }
}
