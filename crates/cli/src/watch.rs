//! Waiting for what was begun: looks again and again until it is over, or somebody presses Ctrl-C.
//!
//! Invariant: a wait changes nothing. The node may be away for a while (it is restarted, the store's machine is): that is
//! said once, and the wait goes on.

use crate::client::Ask;
use crate::print::Ended;
use crate::progress::Screen;
use api::{Call, Code, Problem};
use serde::de::DeserializeOwned;
use std::io::Stderr;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often it is looked at: quick enough to be followed by eye, and nothing to a node.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A node that is restarted, or a store that is brought back, is away for less.
const AWAY_MAX: Duration = Duration::from_secs(300);
/// Jobs have deadlines of their own; a wait of more than a day is one that somebody forgot.
const WAIT_MAX: Duration = Duration::from_secs(86_400);

/// Ctrl-C, and whatever else asks politely. Made before anything is begun, so that no press is lost.
pub struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Takes the signals over.
    ///
    /// # Errors
    /// [`Code::Failed`].
    pub fn new() -> Result<Self, Problem> {
        let take = |kind| {
            signal(kind).map_err(|error| Problem::new(Code::Failed, format!("signals cannot be taken: {error}"), ""))
        };
        Ok(Self { interrupt: take(SignalKind::interrupt())?, terminate: take(SignalKind::terminate())? })
    }

    /// Waits for an answer, if nobody interrupts.
    ///
    /// # Errors
    /// The work's own; that it was interrupted.
    pub async fn during<T>(&mut self, work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
        tokio::select! {
            biased;
            () = self.next() => {
                let text = "interrupted before there was an answer: it may be done all the same";
                Err(Problem::new(Code::Failed, text, "look with `muskox job list`"))
            }
            done = work => done,
        }
    }

    /// The next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What is looked at, and where that is shown.
pub struct Watch<'a> {
    ask: &'a Ask,
    call: &'static Call,
    name: &'a str,
    begun: Instant,
    /// None with `--json`.
    screen: Option<Screen<Stderr>>,
}

/// How waiting ended.
pub enum Waited<T> {
    /// It is over.
    Over(T),
    /// An interrupt came; what was seen last.
    Interrupted(Option<T>),
}

impl<T> Waited<T> {
    /// For waits that Ctrl-C ends while the work goes on: judges how it ended.
    pub fn judged(self, left: &str, judge: impl FnOnce(&T) -> Result<(), Problem>) -> Ended<T> {
        match self {
            Self::Interrupted(seen) => Ended::Left(seen, left.to_owned()),
            Self::Over(seen) => match judge(&seen) {
                Ok(()) => Ended::Done(seen),
                Err(problem) => Ended::Failed(seen, problem),
            },
        }
    }
}

impl<'a> Watch<'a> {
    /// Will look by this call.
    pub fn new(ask: &'a Ask, call: &'static str, name: &'a str) -> Self {
        let screen = (!ask.json).then(Screen::stderr);
        Self { ask, call: Call::named(call), name, begun: Instant::now(), screen }
    }

    /// Looks until `over` says so; `over` may show what it sees.
    ///
    /// # Errors
    /// The node's problem with looking, if it stays.
    pub async fn until<T: DeserializeOwned>(
        &mut self,
        interrupts: &mut Interrupts,
        mut over: impl FnMut(&T, &mut Shown<'_>) -> bool,
    ) -> Result<Waited<T>, Problem> {
        let mut last = None;
        let mut away_since: Option<Instant> = None;
        while self.begun.elapsed() < WAIT_MAX {
            let looked = tokio::select! {
                biased;
                () = interrupts.next() => {
                    self.clear();
                    return Ok(Waited::Interrupted(last));
                }
                looked = self.ask.ask::<T>(self.call, self.name, None::<&()>) => looked,
            };
            match looked {
                Ok(seen) => {
                    away_since = None;
                    let over = over(&seen, &mut Shown { now: self.begun.elapsed(), screen: self.screen.as_mut() });
                    if over {
                        self.clear();
                        return Ok(Waited::Over(seen));
                    }
                    last = Some(seen);
                }
                Err(problem) => self.away(problem, &mut away_since)?,
            }
            tokio::select! {
                biased;
                () = interrupts.next() => {
                    self.clear();
                    return Ok(Waited::Interrupted(last));
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        let text = format!("still not over after {} h", WAIT_MAX.as_secs() / 3600);
        Err(Problem::new(Code::Failed, text, "look with `muskox job list` and `muskox doctor`"))
    }

    /// Whether that passes by itself.
    fn away(&mut self, problem: Problem, since: &mut Option<Instant>) -> Result<(), Problem> {
        let passes =
            matches!(problem.code, Code::Unreachable | Code::StoreUnreachable | Code::StoreFailed | Code::Busy);
        if !passes || since.is_some_and(|since| since.elapsed() > AWAY_MAX) {
            self.clear();
            return Err(problem);
        }
        if since.is_none() {
            *since = Some(Instant::now());
            if let Some(screen) = &mut self.screen {
                screen.line(&format!("no answer for now, still waiting: {}", problem.text));
            }
        }
        Ok(())
    }

    fn clear(&mut self) {
        if let Some(screen) = &mut self.screen {
            screen.clear();
        }
    }
}

/// Where a look may show what it sees.
pub struct Shown<'a> {
    /// Since the wait began.
    pub now: Duration,
    screen: Option<&'a mut Screen<Stderr>>,
}

impl Shown<'_> {
    /// A line that stays.
    pub fn line(&mut self, text: &str) {
        if let Some(screen) = &mut self.screen {
            screen.line(text);
        }
    }

    /// A line that is drawn again.
    pub fn progress(&mut self, text: &str) {
        if let Some(screen) = &mut self.screen {
            screen.progress(self.now, text);
        }
    }
}
