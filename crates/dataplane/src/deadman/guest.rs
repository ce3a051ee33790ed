//! One guest: stopped, asked for, let go on, killed.

use super::marks::Marks;
use crate::guests::{Live, Mark, Marked, own_group};
use host::net::connect_unix;
use host::runtime::now;
use host::vm::{Identity, Monitor, MonitorError, Qmp, Signal};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use units::{Millis, Moment};
use wire::control::{Answer, Ask, Decoder, HeldState, InitiatorReport, Reply, Request, VERSION, encode};
use wire::qmp::{Cont, QueryStatus, RunState, Stop};

/// An initiator on this machine answers within a millisecond.
const ASK_MAX: Duration = Duration::from_millis(400);
/// From a thaw to a `cont` that was carried out.
const RESUME_MAX: Millis = Millis(1_000);
/// A killed process is gone within milliseconds, or hangs in the kernel and is looked for again.
const KILL_MAX: Millis = Millis(500);
/// The control socket of a machine's initiator, in its folder.
const INITIATOR: &str = "initiator.sock";
const READ_BYTES: usize = 4 << 10;

/// A machine with a live QEMU.
pub struct Guest {
    live: Rc<Live>,
    marks: Rc<Marks>,
}

/// What a stop came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It is stopped, and we did it.
    ByUs,
    /// It does not run, and that is not our doing.
    ByOthers,
    /// It may run on.
    No,
}

/// What asking came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It goes on, or is where others put it.
    GoesOn,
    /// It was destroyed, or had ended.
    Gone,
    /// Not yet; why.
    Waits(String),
}

impl Guest {
    /// The guest of a live QEMU.
    pub fn new(live: Rc<Live>, marks: &Rc<Marks>) -> Self {
        Self { live, marks: Rc::clone(marks) }
    }

    /// Its VM's name.
    pub fn name(&self) -> &str {
        &self.live.name
    }

    /// Who its QEMU is.
    pub fn identity(&self) -> &Identity {
        self.live.identity()
    }

    /// Whether, and how, it was stopped here.
    pub fn mark(&self) -> Marked {
        self.marks.of(&self.live)
    }

    fn done_to_it(&self) -> Mark {
        match self.mark() {
            Marked::Yes(mark) => mark,
            Marked::No | Marked::Foreign(_) | Marked::Unread(_) => Mark::default(),
        }
    }

    /// Stops it within `cost`: `stop`, and if QEMU does not answer in half of the time, it is frozen.
    pub async fn stop(&self, cost: Millis) -> Stopped {
        if self.done_to_it().frozen {
            // Also one that somebody thawed.
            return self.freeze(Millis(cost.0 / 4)).await;
        }
        let limit = Millis(cost.0 / 2);
        match tokio::time::timeout(limit.into(), self.quiet(limit)).await {
            Ok(Ok(stopped)) => return stopped,
            Ok(Err(error)) => tracing::warn!(guest = self.name(), "QEMU is frozen, it cannot be asked: {error}"),
            Err(_) => tracing::warn!(guest = self.name(), "QEMU is frozen, it did not answer within {limit}"),
        }
        self.marks.put(&self.live, Mark { stopped: false, frozen: true });
        self.freeze(Millis(cost.0 / 4)).await
    }

    /// Asks its initiator whose the volumes are, and does what follows. `since`: what was heard before does not count.
    pub async fn settle(&self, since: Moment) -> Settled {
        let asked = now();
        let report = match tokio::time::timeout(ASK_MAX, self.ask_initiator()).await {
            Ok(Ok(report)) => report,
            Ok(Err(why)) => return Settled::Waits(format!("its initiator cannot be asked: {why}")),
            Err(_) => return Settled::Waits("its initiator does not answer".to_owned()),
        };
        match judge(&report, asked, since) {
            Verdict::Ours => self.go_on().await,
            Verdict::Fenced => {
                tracing::warn!(guest = self.name(), "it was started elsewhere: this one is destroyed");
                self.kill().await
            }
            Verdict::Unknown(why) => Settled::Waits(why),
        }
    }

    /// By its monitor: stopped if it runs.
    async fn quiet(&self, limit: Millis) -> Result<Stopped, MonitorError> {
        let qmp = Qmp::connect(&self.live.folder.monitor(Monitor::Deadman), false, limit).await?;
        let stopped = if qmp.run(QueryStatus {}, limit).await?.running {
            // Before the order: who ends in between leaves a guest that goes on, not one that waits for ever.
            self.marks.put(&self.live, Mark { stopped: true, frozen: false });
            qmp.run(Stop {}, limit).await?;
            tracing::warn!(guest = self.name(), "stopped");
            Stopped::ByUs
        } else if self.mark() != Marked::No {
            Stopped::ByUs
        } else {
            Stopped::ByOthers
        };
        qmp.close();
        Ok(stopped)
    }

    async fn freeze(&self, limit: Millis) -> Stopped {
        if let Some(group) = own_group(self.identity().pid) {
            match group.freeze(limit).await {
                Ok(()) => return Stopped::ByUs,
                Err(error) => tracing::error!(guest = self.name(), %error, "its control group does not freeze"),
            }
        }
        match self.live.process.signal(Signal::STOP) {
            Ok(()) => Stopped::ByUs,
            Err(error) => {
                tracing::error!(guest = self.name(), %error, "it cannot be frozen");
                Stopped::No
            }
        }
    }

    /// Undoes what was done here and nothing else.
    async fn go_on(&self) -> Settled {
        let mark = match self.mark() {
            Marked::Yes(mark) => mark,
            Marked::No => return Settled::GoesOn,
            Marked::Unread(why) => return Settled::Waits(format!("how it was stopped is not known: {why}")),
            Marked::Foreign(why) => {
                let what = "this muskox does not know what was done to it, so it is a person's to let it go on";
                return Settled::Waits(format!("{why}; {what} (docs/runbooks/deadman.md)"));
            }
        };
        if mark.frozen {
            if let Some(group) = own_group(self.identity().pid)
                && let Err(error) = group.thaw()
            {
                return Settled::Waits(format!("its control group does not thaw: {error}"));
            }
            if let Err(error) = self.live.process.signal(Signal::CONT) {
                return Settled::Waits(format!("it cannot be thawed: {error}"));
            }
            self.marks.thawed(&self.live, mark);
        }
        if mark.stopped {
            match tokio::time::timeout(RESUME_MAX.into(), self.cont()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Settled::Waits(format!("QEMU does not let it go on: {error}")),
                Err(_) => return Settled::Waits(format!("QEMU did not let it go on within {RESUME_MAX}")),
            }
        }
        self.marks.remove(&self.live);
        Settled::GoesOn
    }

    /// Only what `stop` makes is undone by `cont`: a guest that migrated away in the meantime must never run again here.
    async fn cont(&self) -> Result<(), MonitorError> {
        let qmp = Qmp::connect(&self.live.folder.monitor(Monitor::Deadman), false, RESUME_MAX).await?;
        let status = qmp.run(QueryStatus {}, RESUME_MAX).await?;
        if status.status == RunState::Paused {
            qmp.run(Cont {}, RESUME_MAX).await?;
        }
        qmp.close();
        Ok(())
    }

    /// For good; what is left of it is the node's to clean up.
    async fn kill(&self) -> Settled {
        let frozen = self.done_to_it().frozen;
        let group = if frozen { own_group(self.identity().pid) } else { None };
        let killed = match group {
            Some(group) => group.kill(KILL_MAX).await.map_err(|error| error.to_string()),
            None => self.live.process.signal(Signal::KILL).map_err(|error| error.to_string()),
        };
        if let Err(error) = killed {
            return Settled::Waits(format!("it cannot be destroyed: {error}"));
        }
        match tokio::time::timeout(KILL_MAX.into(), self.live.process.ended()).await {
            Ok(_) => {
                self.marks.remove(&self.live);
                Settled::Gone
            }
            Err(_) => Settled::Waits("it was killed and hangs in the kernel".to_owned()),
        }
    }

    async fn ask_initiator(&self) -> Result<InitiatorReport, String> {
        let mut stream =
            connect_unix(&self.live.folder.path().join(INITIATOR)).await.map_err(|error| error.to_string())?;
        let ask = encode(&Ask { version: VERSION, id: 1, request: Request::Status }).expect("a question is short");
        stream.write_all(&ask).await.map_err(|error| error.to_string())?;
        let (mut decoder, mut buffer) = (Decoder::default(), vec![0; READ_BYTES]);
        loop {
            if let Some(answer) = decoder.take_message::<Answer>().map_err(|error| error.to_string())? {
                return match answer.into_result() {
                    Ok(Reply::Initiator(report)) => Ok(report),
                    Ok(_) => Err("it is no initiator".to_owned()),
                    Err(refusal) => Err(refusal.text),
                };
            }
            match stream.read(&mut buffer).await.map_err(|error| error.to_string())? {
                0 => return Err("it closed the connection".to_owned()),
                len => decoder.push(&buffer[..len]),
            }
        }
    }
}

/// Whose a guest's volumes are.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Ours,
    Fenced,
    Unknown(String),
}

/// What a report that was asked for at `asked` proves: every volume's target answered a question of after `since`.
fn judge(report: &InitiatorReport, asked: Moment, since: Moment) -> Verdict {
    if report.volumes.iter().any(|volume| volume.state == HeldState::Fenced) {
        return Verdict::Fenced;
    }
    if report.volumes.is_empty() {
        return Verdict::Unknown("its initiator has no volume whose owner could be asked for".to_owned());
    }
    // The age was taken after `asked`, so counted from `asked` it is older than it is: never younger.
    let proven = |heard: Option<Millis>| heard.is_some_and(|heard| heard < asked.since(since));
    let open = report.volumes.iter().find(|volume| volume.state != HeldState::Up || !proven(volume.heard));
    match open {
        None => Verdict::Ours,
        Some(volume) => Verdict::Unknown(format!("the target of '{}' has not answered yet", volume.volume)),
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use units::{ByteLen, Epoch, Incarnation};
    use wire::control::HeldReport;

    fn report(volumes: &[(HeldState, Option<u64>)]) -> InitiatorReport {
        let held = |(state, heard): &(HeldState, Option<u64>)| HeldReport {
            volume: "web1".parse().unwrap(),
            state: *state,
            waiting: None,
            heard: heard.map(Millis),
            epoch: Epoch(1),
            incarnation: Incarnation(1),
            sessions: 1,
            unflushed: ByteLen(0),
            rewritten: 0,
            reason: None,
            paths: Vec::new(),
        };
        let volumes = volumes.iter().map(held).collect();
        InitiatorReport { version: String::new(), up: Millis(0), volumes }
    }

    /// Goal: a guest goes on only when every target answered after the asking began, and one fenced volume ends it.
    /// Method: asked 300 ms after the asking began, reports of each kind.
    #[test]
    fn only_fresh_answers_of_every_target_count() {
        use HeldState::{Fenced, Opening, Up, Waiting};
        let judge = |volumes: &[(HeldState, Option<u64>)]| judge(&report(volumes), Moment(1_300), Moment(1_000));
        assert_eq!(judge(&[(Up, Some(299)), (Up, Some(0))]), Verdict::Ours);
        assert_eq!(judge(&[(Up, Some(0)), (Fenced, None)]), Verdict::Fenced);
        for unknown in [
            &[][..],
            &[(Up, Some(300))],
            &[(Up, None)],
            &[(Up, Some(1)), (Up, Some(4_000))],
            &[(Waiting, Some(1))],
            &[(Opening, None)],
        ] {
            assert!(matches!(judge(unknown), Verdict::Unknown(_)), "{unknown:?}");
        }
    }
}
