//! What QEMU says of its guest becomes what is told: by its events, and by asking where they are known to be late.

use super::Guest;
use super::start::COMMAND_MAX;
use crate::agent::deadman::{self, Leave};
use crate::agent::initiator;
use crate::peer::DiskTell;
use cluster::job::Guest as State;
use host::vm::{Heard, Vm};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use units::{ByteLen, Millis};
use wire::qmp::{EventKind, MigrationInfo, MigrationStatus, QueryMigrate, QueryStatus, RunState, StatusInfo};

/// Between looks where nothing is expected.
const CALM: Duration = Duration::from_secs(1);
/// While a migration ends: an event comes before the state that it means is there.
const TENSE: Duration = Duration::from_millis(20);
/// Longer than any answer of a monitor that does not hang.
const LOOK_MAX: Millis = Millis(1_000);
/// It answers from memory; QEMU's events are not kept waiting.
const DISKS_WITHIN: Duration = Duration::from_millis(300);
/// Once may be a busy machine.
const HANGS_MIN: u32 = 2;

impl Guest {
    /// Watches a QEMU until it is gone.
    pub(super) async fn watch(self: Rc<Self>, vm: Rc<Vm>) {
        let mut events = vm.qmp().events();
        let mut off = self.look(&vm).await;
        let mut untrimmed = None;
        loop {
            if off {
                return self.switched_off(&vm).await;
            }
            self.trim_logs(&vm, &mut untrimmed);
            let pause = self.pace();
            tokio::select! {
                biased;
                ended = vm.ended() => match ended {
                    Ok(ended) => return self.ended(Some(ended.to_string())).await,
                    // That we cannot wait for it says nothing about it.
                    Err(error) => {
                        self.because(Some(error.to_string()));
                        tokio::time::sleep(pause).await;
                    }
                },
                heard = events.recv() => match heard {
                    Ok(heard) => off = self.hear(&heard),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return self.monitor_lost(&vm).await,
                },
                () = tokio::time::sleep(pause) => {}
            }
            while let Ok(heard) = events.try_recv() {
                off |= self.hear(&heard);
            }
            off |= self.look(&vm).await;
            self.mind_silence().await;
            if pause == CALM {
                self.look_at_disks().await;
            }
        }
    }

    /// Keeps what the guest and its QEMU say within bounds, so that it goes on being recorded. `last`: why it could not be done
    /// the last time, which is said once.
    fn trim_logs(&self, vm: &Vm, last: &mut Option<String>) {
        let folder = vm.folder();
        for log in [folder.console_log(), folder.qemu_log()] {
            if let Err(error) = host::vm::trim_log(&log) {
                let text = format!("{} is not trimmed, and ends at its limit: {error}", log.display());
                if last.as_ref() != Some(&text) {
                    tracing::warn!(vm = %self.name, "{text}");
                    *last = Some(text);
                }
            }
        }
    }

    fn pace(&self) -> Duration {
        let facts = self.facts.borrow();
        // An incoming machine is told of its switch by nobody.
        let tense = matches!(facts.state, State::PreSwitchover | State::Switching)
            || facts.state == State::Incoming && facts.port.is_some();
        if tense { TENSE } else { CALM }
    }

    /// Takes an event; whether the guest switched itself off.
    fn hear(&self, heard: &Heard) -> bool {
        tracing::debug!(vm = %self.name, "event: {:?}", heard.event.kind);
        match &heard.event.kind {
            EventKind::Stop => self.facts.borrow_mut().stopped = Some(heard.at),
            EventKind::Resume => {
                {
                    let mut facts = self.facts.borrow_mut();
                    (facts.resumed, facts.paused) = (Some(heard.at), false);
                }
                if self.state() != State::Copying {
                    self.is_now(State::Running);
                }
            }
            EventKind::Shutdown { guest: true, .. } => return true,
            EventKind::BlockIoError { node_name, operation, reason, .. } => {
                let node = node_name.as_deref().unwrap_or("a disk");
                self.because(Some(format!("{node} failed a {operation:?}, so it stands: {reason}")));
            }
            EventKind::GuestPanicked { action } => self.because(Some(format!("the guest panicked ({action})"))),
            _ => {}
        }
        false
    }

    /// Asks how it is; whether the guest has switched itself off. A monitor that hangs changes nothing.
    async fn look(&self, vm: &Vm) -> bool {
        let secured = self.facts.borrow().secured;
        let Ok(status) = vm.qmp().run(QueryStatus {}, LOOK_MAX).await else {
            self.hangs(vm);
            return false;
        };
        self.facts.borrow_mut().hangs = 0;
        let Ok(info) = vm.qmp().run(QueryMigrate {}, LOOK_MAX).await else { return false };
        if status.status == RunState::Shutdown {
            return true;
        }
        if let (Some(ram), true) = (info.ram, is_source(&info, status)) {
            let measured = &mut self.facts.borrow_mut().measured;
            (measured.bytes, measured.rounds) = (Some(ByteLen(ram.transferred)), Some(ram.rounds));
        }
        if let (Some(MigrationStatus::Failed), Some(error)) = (info.status, &info.error_desc) {
            self.because(Some(format!("the migration failed: {error}")));
        }
        let state = judge(status, info.status);
        // What came by a migration and has run since is not waiting to be let go.
        let has_run = self.facts.borrow().resumed.is_some();
        let state = if state == State::Loaded && has_run { State::Stopped } else { state };
        if matches!(state, State::Stopped | State::Running) {
            let paused = state == State::Stopped && deadman::leave(&self.shared.place).await != Leave::Given;
            self.facts.borrow_mut().paused = paused;
        }
        self.is_now(state);
        self.unsecure_after_move(vm, state, secured).await;
        false
    }

    /// Asks its initiator how the disks are reached; one that does not answer is its keeper's.
    async fn look_at_disks(&self) {
        let asked = tokio::time::timeout(DISKS_WITHIN, initiator::status(&self.shared.place, &self.name));
        let Ok(Some(report)) = asked.await else { return };
        let disks: Vec<DiskTell> = report.volumes.into_iter().map(initiator::told).collect();
        let before = std::mem::replace(&mut self.facts.borrow_mut().disks, disks.clone());
        if before != disks {
            self.changed();
        }
    }

    /// A source that hangs before it hands over waits in its main loop for a destination that went silent while they shook
    /// hands; its guest stands. The connection is torn, so that the guest goes on; the migration fails or is tried again.
    fn hangs(&self, vm: &Vm) {
        let mut facts = self.facts.borrow_mut();
        facts.hangs += 1;
        let hands_over = !matches!(facts.state, State::Running | State::Copying);
        let Some(peer) = facts.peer.filter(|_| facts.hangs >= HANGS_MIN && !hands_over) else { return };
        match vm.process().tear(peer) {
            Ok(0) => {}
            Ok(count) => tracing::warn!(vm = %self.name, "it hangs: {count} connections to {peer} are torn"),
            Err(error) => tracing::warn!(vm = %self.name, "it hangs, and {peer} cannot be torn off: {error}"),
        }
    }

    /// The connection is gone, not the process: another one is made.
    async fn monitor_lost(self: &Rc<Self>, vm: &Vm) {
        if let Ok(Ok(ended)) = tokio::time::timeout(CALM, vm.ended()).await {
            return self.ended(Some(ended.to_string())).await;
        }
        loop {
            match Vm::adopt(vm.folder()).await {
                Ok(Some(vm)) => return self.hold_from_within(vm),
                Ok(None) => return self.ended(Some("its QEMU is gone".to_owned())).await,
                Err(error) => self.because(Some(format!("its QEMU does not listen: {error}"))),
            }
            tokio::time::sleep(Duration::from(COMMAND_MAX)).await;
        }
    }

    /// As `hold`, by the watching task itself, which ends right after.
    fn hold_from_within(self: &Rc<Self>, vm: Vm) {
        self.facts.borrow_mut().watching = None;
        self.hold(vm);
    }
}

/// A destination's counters count too, but not what was sent.
fn is_source(info: &MigrationInfo, status: StatusInfo) -> bool {
    match info.status {
        Some(MigrationStatus::Active | MigrationStatus::PreSwitchover | MigrationStatus::Device) => {
            status.status != RunState::Inmigrate
        }
        Some(MigrationStatus::Completed) => status.status == RunState::Postmigrate,
        _ => false,
    }
}

/// What QEMU's two answers mean together.
fn judge(status: StatusInfo, migration: Option<MigrationStatus>) -> State {
    use MigrationStatus as M;
    match (status.status, migration) {
        (RunState::Inmigrate, _) => State::Incoming,
        (RunState::Postmigrate, _) => State::PostMigrate,
        (_, Some(M::PreSwitchover)) => State::PreSwitchover,
        (_, Some(M::Device)) if !status.running => State::Switching,
        (_, Some(M::Setup | M::Active | M::Cancelling)) if status.running => State::Copying,
        // Its vCPUs stand for the switch, which is not announced yet; or it was continued and sends.
        (RunState::FinishMigrate, Some(M::Active)) => State::Copying,
        (RunState::FinishMigrate, _) => State::Switching,
        _ if status.running => State::Running,
        (RunState::Paused, Some(M::Completed)) => State::Loaded,
        _ => State::Stopped,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: QEMU's two answers are read as they were measured (lab). Method: a table of what was seen.
    #[test]
    fn answers_are_read_as_measured() {
        use {MigrationStatus as M, RunState as R};
        let cases = [
            (R::Running, None, State::Running),
            (R::Prelaunch, None, State::Stopped),
            (R::Running, Some(M::Active), State::Copying),
            (R::FinishMigrate, Some(M::Active), State::Copying),
            (R::FinishMigrate, Some(M::PreSwitchover), State::PreSwitchover),
            (R::FinishMigrate, Some(M::Device), State::Switching),
            (R::FinishMigrate, Some(M::Completed), State::Switching),
            (R::Postmigrate, Some(M::Completed), State::PostMigrate),
            (R::Inmigrate, Some(M::Active), State::Incoming),
            (R::Paused, Some(M::Completed), State::Loaded),
            (R::Running, Some(M::Completed), State::Running),
            (R::Running, Some(M::Cancelled), State::Running),
            (R::IoError, Some(M::Failed), State::Stopped),
            (R::Paused, Some(M::Cancelled), State::Stopped),
        ];
        for (status, migration, state) in cases {
            let info = StatusInfo { status, running: status == R::Running };
            assert_eq!(judge(info, migration), state, "{status:?} {migration:?}");
        }
    }
}
