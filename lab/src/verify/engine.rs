//! The load's loop: one thread that keeps requests in flight, repeats the unanswered ones on a new connection as QEMU
//! does with `reconnect-delay`, and tells the model what begins and ends.

use super::client::{Ask, Client};
use super::model::{Model, Reading, Violation, Wrong};
use super::stamp::BLOCK;
use super::{Order, Settings, Shared};
use crate::disks::cache::Dice;
use anyhow::Context;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// So long between two looks at a socket that is not there, and at orders while nothing comes.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// A read-back of everything, and the first write of everything, use requests of this many blocks.
const SWEEP_BLOCKS: u64 = 16;
/// A load that was stopped by a stall does not make up for more than this of its rate.
const CATCH_UP: Duration = Duration::from_millis(50);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Job {
    Write(Range<u64>, bool),
    Read(Range<u64>),
    Flush,
}

struct Flight {
    job: Job,
    /// A write's sequence.
    sequence: u64,
    reading: Option<Reading>,
    /// When it was asked for the first time.
    since: Instant,
    /// Its place in the order of asking.
    number: u64,
}

/// The load.
pub struct Engine {
    settings: Settings,
    shared: Arc<Shared>,
    model: Model,
    dice: Dice,
    client: Option<Client>,
    lost_at: Instant,
    flights: Vec<Option<Flight>>,
    /// What comes before anything random.
    planned: VecDeque<Job>,
    sweeping: bool,
    asked: u64,
    begun: Instant,
    next_at: Instant,
}

impl Engine {
    /// Connects for the first time.
    ///
    /// # Errors
    /// When nobody is there within the bound, or the export is too small.
    pub fn start(settings: Settings, shared: Arc<Shared>) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let client = loop {
            match Client::connect(&settings.socket, &settings.export) {
                Ok(client) => break client,
                Err(error) if begun.elapsed() > settings.bound => return Err(error),
                Err(_) => std::thread::sleep(LOOK_AGAIN),
            }
        };
        let blocks = client.size().min(settings.span_bytes) / BLOCK as u64;
        anyhow::ensure!(blocks >= 2 * SWEEP_BLOCKS, "the export has only {} bytes", client.size());
        let mut dice = Dice::new(settings.seed);
        let run = u32::try_from(dice.throw() >> 32).expect("32 bits are left");
        let model = Model::new(run, usize::try_from(blocks).context("a span that fits memory")?);
        let flights = std::iter::repeat_with(|| None).take(settings.depth).collect();
        let mut engine = Self {
            settings,
            shared,
            model,
            dice,
            client: Some(client),
            lost_at: begun,
            flights,
            planned: VecDeque::new(),
            sweeping: false,
            asked: 0,
            begun,
            next_at: begun,
        };
        let all = engine.all();
        engine.planned.extend(all.map(|blocks| Job::Write(blocks, false)));
        Ok(engine)
    }

    /// Runs until it is told to stop and everything was read back; gives up at silence beyond the bound.
    pub fn run(mut self) {
        while !self.is_done() {
            if self.is_silent() {
                return;
            }
            self.obey();
            self.connect();
            self.submit();
            let pumped = self.pump();
            if let Err(error) = pumped {
                self.disconnect(&error);
            }
            self.tell();
        }
    }

    fn obey(&mut self) {
        if let Some(rages) = self.shared.storm_order() {
            self.model.storm(rages);
        }
        match self.shared.order() {
            Order::Stop if !self.sweeping && self.planned.is_empty() && self.is_idle() => {
                self.plan_sweep();
            }
            Order::Sweep if !self.sweeping && self.planned.is_empty() => self.plan_sweep(),
            _ => {}
        }
        if self.sweeping && self.planned.is_empty() && self.is_idle() {
            self.sweeping = false;
            self.shared.swept();
        }
    }

    fn plan_sweep(&mut self) {
        self.sweeping = true;
        self.planned.push_back(Job::Flush);
        let all = self.all();
        self.planned.extend(all.map(Job::Read));
    }

    fn all(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let blocks = self.model.blocks();
        (0..blocks.div_ceil(SWEEP_BLOCKS)).map(move |index| {
            let start = index * SWEEP_BLOCKS;
            start..blocks.min(start + SWEEP_BLOCKS)
        })
    }

    fn is_idle(&self) -> bool {
        self.flights.iter().all(Option::is_none)
    }

    fn is_done(&self) -> bool {
        self.shared.order() == Order::Done && self.is_idle()
    }

    /// Whether something waited longer than it may; that is a violation, and the end.
    fn is_silent(&mut self) -> bool {
        let bound = self.settings.bound;
        let oldest = self.flights.iter().flatten().min_by_key(|flight| flight.since);
        let too_old = oldest.filter(|flight| flight.since.elapsed() > bound).map(|flight| describe(&flight.job));
        let gone = self.client.is_none() && self.lost_at.elapsed() > bound;
        let since = oldest.map_or(self.lost_at, |flight| flight.since);
        let Some(what) = too_old.or_else(|| gone.then(|| "a connection".to_owned())) else { return false };
        let violation = Violation {
            wrong: Wrong::Silence,
            block: None,
            expected: format!("an answer within {} ms", bound.as_millis()),
            got: format!("nothing for {what}"),
            at_ms: 0,
        };
        self.shared.stalled(since);
        self.report(violation);
        true
    }

    fn connect(&mut self) {
        if self.client.is_some() {
            return;
        }
        let Ok(client) = Client::connect(&self.settings.socket, &self.settings.export) else {
            std::thread::sleep(LOOK_AGAIN);
            return;
        };
        let client = self.client.insert(client);
        if client.size() / (BLOCK as u64) < self.model.blocks() {
            let (expected, got) = (format!("{} blocks", self.model.blocks()), format!("{} bytes", client.size()));
            self.report(Violation { wrong: Wrong::Foreign, block: None, expected, got, at_ms: 0 });
        }
        // A request that came meanwhile would have waited so long; ours wait for the connection before they are asked.
        self.shared.stalled(self.lost_at);
        self.shared.with(|stats| stats.reconnects += 1);
        let mut again: Vec<(u64, usize)> = self
            .flights
            .iter()
            .enumerate()
            .filter_map(|(slot, flight)| Some((flight.as_ref()?.number, slot)))
            .collect();
        again.sort_unstable();
        again.iter().for_each(|(_, slot)| self.send(*slot));
    }

    fn disconnect(&mut self, error: &anyhow::Error) {
        self.client = None;
        self.lost_at = Instant::now();
        self.shared.with(|stats| stats.last_disconnect = format!("{error:#}"));
    }

    fn submit(&mut self) {
        while let Some(slot) = self.flights.iter().position(Option::is_none) {
            let Some(job) = self.next_job() else { return };
            let (mut sequence, mut reading) = (0, None);
            match &job {
                Job::Write(blocks, _) => sequence = self.model.begin_write(blocks),
                Job::Read(blocks) => reading = Some(self.model.begin_read(blocks)),
                Job::Flush => {}
            }
            self.asked += 1;
            self.flights[slot] = Some(Flight { job, sequence, reading, since: Instant::now(), number: self.asked });
            self.send(slot);
        }
    }

    /// What is asked next, if anything may be: not without a connection, so that what waits for one is what was in
    /// flight when it broke, and a stall is one request's wait.
    fn next_job(&mut self) -> Option<Job> {
        self.client.as_ref()?;
        if let Some(job) = self.planned.front() {
            let may = !matches!(job, Job::Write(blocks, _) if !self.model.may_write(blocks));
            return if may { self.planned.pop_front() } else { None };
        }
        let now = Instant::now();
        if self.shared.order() != Order::Run || self.sweeping || now < self.next_at {
            return None;
        }
        let job = self.random_job();
        if self.settings.rate > 0 {
            let step = Duration::from_secs(1) / self.settings.rate;
            self.next_at = (self.next_at + step).max(now.checked_sub(CATCH_UP).unwrap_or(now));
        }
        job
    }

    fn random_job(&mut self) -> Option<Job> {
        let kind = self.dice.below(100);
        if kind < 3 {
            return Some(Job::Flush);
        }
        // Mostly one block; sometimes many, so that requests cross chunks. A part of the disk is hot: a block that is
        // written again soon after is where an overtaken write shows.
        let len = if self.dice.below(8) == 0 { 1 + self.dice.below(SWEEP_BLOCKS) } else { 1 };
        let places = if self.dice.below(2) == 0 { 4 * SWEEP_BLOCKS } else { self.model.blocks() };
        let start = self.dice.below(places.min(self.model.blocks()) - len.min(SWEEP_BLOCKS));
        let blocks = start..start + len;
        if kind < 50 {
            return Some(Job::Read(blocks));
        }
        let fua = self.dice.below(10) == 0;
        self.model.may_write(&blocks).then_some(Job::Write(blocks, fua))
    }

    fn send(&mut self, slot: usize) {
        let (Some(client), Some(flight)) = (&mut self.client, &self.flights[slot]) else { return };
        let place = |blocks: &Range<u64>| {
            let len = u32::try_from((blocks.end - blocks.start) * BLOCK as u64).expect("requests are small");
            (blocks.start * BLOCK as u64, len)
        };
        let cookie = slot as u64;
        match &flight.job {
            Job::Flush => client.ask(Ask::Flush, cookie, 0, 0, |_| {}),
            Job::Read(blocks) => {
                let (at, len) = place(blocks);
                client.ask(Ask::Read, cookie, at, len, |_| {});
            }
            Job::Write(blocks, fua) => {
                let (at, len) = place(blocks);
                let fill = |into: &mut Vec<u8>| self.model.payload(blocks, flight.sequence, into);
                client.ask(Ask::Write { fua: *fua }, cookie, at, len, fill);
            }
        }
    }

    fn pump(&mut self) -> anyhow::Result<()> {
        let Some(mut client) = self.client.take() else { return Ok(()) };
        client.pump(LOOK_AGAIN)?;
        let flights = &self.flights;
        let payload = |cookie: u64| {
            let flight = usize::try_from(cookie).ok().and_then(|slot| flights.get(slot)?.as_ref());
            match &flight.context("an answer to what was never asked")?.job {
                Job::Read(blocks) => Ok(usize::try_from(blocks.end - blocks.start)? * BLOCK),
                _ => Ok(0),
            }
        };
        let mut taken: Vec<(u64, u32, Vec<u8>)> = Vec::new();
        while let Some(answer) = client.next_answer(payload)? {
            // Its slot must not be asked for twice by a server that answers twice.
            anyhow::ensure!(taken.iter().all(|(cookie, ..)| *cookie != answer.cookie), "one request, two answers");
            taken.push((answer.cookie, answer.error, client.payload(&answer).to_vec()));
        }
        for (cookie, error, data) in taken {
            self.land(usize::try_from(cookie).expect("it was looked up above"), error, &data);
        }
        self.client = Some(client);
        Ok(())
    }

    fn land(&mut self, slot: usize, error: u32, data: &[u8]) {
        let flight = self.flights[slot].take().expect("it was looked up before");
        self.shared.stalled(flight.since);
        self.shared.with(|stats| {
            stats.operations += 1;
            match &flight.job {
                Job::Read(_) => stats.reads += 1,
                Job::Write(..) => stats.writes += 1,
                Job::Flush => stats.flushes += 1,
            }
            stats.errors += u64::from(error != 0);
        });
        if error != 0 {
            let (expected, got) = (format!("{} done", describe(&flight.job)), format!("error {error}"));
            self.report(Violation { wrong: Wrong::Error, block: flight.job.block(), expected, got, at_ms: 0 });
            return;
        }
        match (&flight.job, &flight.reading) {
            (Job::Write(blocks, _), _) => self.model.end_write(blocks),
            (Job::Read(_), Some(reading)) => {
                let wrong = self.model.end_read(reading, data);
                wrong.into_iter().for_each(|violation| self.report(violation));
            }
            _ => {}
        }
    }

    fn report(&self, mut violation: Violation) {
        violation.at_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.shared.violated(violation);
    }

    fn tell(&self) {
        let oldest = self.flights.iter().flatten().map(|flight| flight.since).min();
        self.shared.set_oldest(oldest.or(self.client.is_none().then_some(self.lost_at)));
    }
}

impl Job {
    fn block(&self) -> Option<u64> {
        match self {
            Self::Write(blocks, _) | Self::Read(blocks) => Some(blocks.start),
            Self::Flush => None,
        }
    }
}

fn describe(job: &Job) -> String {
    match job {
        Job::Write(blocks, fua) => format!("a{} write of blocks {blocks:?}", if *fua { " durable" } else { "" }),
        Job::Read(blocks) => format!("a read of blocks {blocks:?}"),
        Job::Flush => "a flush".to_owned(),
    }
}
