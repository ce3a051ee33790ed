//! A guest moves: the destination waits for it, the source copies, stops, sends the rest, or takes it back. Commands only;
//! how far it is, QEMU's events say (`watch`). The order, and why: docs/rfd/0009-migration.md.

use super::Guest;
use super::start::COMMAND_MAX;
use crate::peer::Other;
use crate::ports;
use crate::secret::Secret;
use crate::service::random;
use cluster::job::Guest as State;
use cluster::migrate::Measured;
use host::vm::{MonitorError, Start, Vm};
use std::net::SocketAddr;
use std::rc::Rc;
use units::{Epoch, Millis};
use wire::qmp::{
    Capability, Compression, Migrate, MigrateCancel, MigrateContinue, MigrateIncoming, MigrateSetCapabilities,
    MigrateSetParameters, MigrationStatus, QueryMigrate, QueryMigrateCapabilities, QueryStatus, RunState, TlsEnd, Yank,
    YankInstance,
};

/// What a switch-over may take of memory that is still dirty.
const DOWNTIME_MS: u64 = 50;
/// More than any network of ours.
const BANDWIDTH_BYTES: u64 = 100 << 30;
/// Streams besides the main one: two fill a fast network and keep a slow processor free.
const STREAMS: u8 = 2;
/// A monitor that does not answer by then hangs in the migration.
const HANGS: Millis = Millis(500);
/// How long a guest that was taken back may take to stay running: its disk's path is made anew.
const BACK_MAX: Millis = Millis(60_000);
/// The dead-man is asked anew this often meanwhile.
const BACK_STEP: Millis = Millis(1_000);
/// Between two steps: an error comes at once where QEMU is gone.
const BACK_PAUSE: Millis = Millis(100);

impl Guest {
    /// Starts a QEMU that waits for memory, attached standby.
    pub(super) async fn incoming(self: &Rc<Self>, epoch: Epoch) -> Result<(), String> {
        let waits = matches!(self.state(), State::Incoming | State::Loaded | State::Running);
        if waits && self.vm().is_some() && self.epoch() == Some(epoch) {
            return Ok(());
        }
        self.not_newer(epoch)?;
        self.destroy().await?;
        let waiting = async {
            let vm = self.launch(epoch, Start::Incoming).await?;
            let key = Secret::new(random().map_err(|problem| problem.to_string())?);
            let port = self.listen(&vm, &key).await?;
            self.is_secured();
            {
                let mut facts = self.facts.borrow_mut();
                (facts.port, facts.move_key) = (Some(port), Some(key));
            }
            self.hold(vm);
            Ok(())
        };
        let waiting: Result<(), String> = waiting.await;
        if waiting.is_err() {
            self.destroy().await?;
        }
        waiting
    }

    /// Has a QEMU wait for memory from whoever has this key; the port.
    async fn listen(&self, vm: &Vm, key: &Secret) -> Result<u16, String> {
        let mut capabilities = vec![Capability::Events, Capability::ReturnPath, Capability::LateBlockActivate];
        let streams = streams(vm).await?;
        capabilities.extend(streams.is_some().then_some(Capability::Multifd));
        run(vm, MigrateSetCapabilities::on(&capabilities)).await?;
        let secured = self.secure(vm, TlsEnd::Server, key).await?;
        run(vm, with_streams(secured, streams)).await?;
        for port in ports::MIGRATION {
            let uri = format!("tcp:{}", SocketAddr::new(self.shared.place.ip, port));
            match vm.qmp().run(MigrateIncoming { uri }, COMMAND_MAX).await {
                Ok(_) => return Ok(port),
                Err(MonitorError::Refused { error, .. }) if error.desc.contains("in use") => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(format!("no port of {} to {} is free", ports::MIGRATION.start(), ports::MIGRATION.end()))
    }

    /// Copies the memory to `to`; a migration that is under way goes on.
    pub(super) async fn migrate(&self, to: Option<&Other>) -> Result<(), String> {
        let Some(vm) = self.vm() else { return Ok(()) };
        let to = to.ok_or("it is not said where to")?;
        // Not known yet is not wrong: it is asked again.
        let Some(port) = to.port else { return Ok(()) };
        let peer = SocketAddr::new(to.ip, port);
        self.facts.borrow_mut().peer = Some(peer);
        if self.state() != State::Running {
            return Ok(());
        }
        let key = to.move_key.as_ref().ok_or("the destination made no key for this move: update muskox there")?;
        {
            let mut facts = self.facts.borrow_mut();
            facts.direction.begins(key)?;
            (facts.stopped, facts.measured) = (None, Measured::default());
        }
        let mut capabilities = vec![Capability::Events, Capability::ReturnPath, Capability::PauseBeforeSwitchover];
        let streams = streams(&vm).await?;
        capabilities.extend(streams.is_some().then_some(Capability::Multifd));
        run(&vm, MigrateSetCapabilities::on(&capabilities)).await?;
        let sending = self.send(&vm, key, peer, streams).await;
        match sending {
            Ok(()) => self.is_secured(),
            Err(_) => self.unsecure(&vm).await,
        }
        sending
    }

    async fn send(
        &self,
        vm: &Vm,
        key: &Secret,
        peer: SocketAddr,
        streams: Option<(u8, Compression)>,
    ) -> Result<(), String> {
        let secured = self.secure(vm, TlsEnd::Client, key).await?;
        let bounds = MigrateSetParameters {
            downtime_limit_ms: Some(DOWNTIME_MS),
            max_bandwidth_bytes: Some(BANDWIDTH_BYTES),
            ..with_streams(secured, streams)
        };
        run(vm, bounds).await?;
        run(vm, Migrate { uri: format!("tcp:{peer}") }).await
    }

    /// Lets a source that waits before switching over send the rest.
    pub(super) async fn continue_migration(&self) -> Result<(), String> {
        let Some(vm) = self.vm() else { return Ok(()) };
        let info = vm.qmp().run(QueryMigrate {}, COMMAND_MAX).await.map_err(|error| error.to_string())?;
        match info.status {
            Some(state @ MigrationStatus::PreSwitchover) => {
                self.facts.borrow_mut().direction.sends_on();
                run(&vm, MigrateContinue { state }).await
            }
            _ => Ok(()),
        }
    }

    /// Gives a migration up before the epoch was closed: the guest runs on as it did.
    pub(super) async fn cancel(self: &Rc<Self>) -> Result<(), String> {
        let Some(vm) = self.vm() else { return Ok(()) };
        run(&vm, MigrateCancel {}).await?;
        let status = vm.qmp().run(QueryStatus {}, COMMAND_MAX).await.map_err(|error| error.to_string())?;
        match status.status {
            // Gone, or waiting to hear more: not ours to decide.
            RunState::Postmigrate | RunState::Inmigrate | RunState::Shutdown => return Ok(()),
            // QEMU goes on by itself, but without an event if the other end died while it waited.
            _ if status.running => {}
            RunState::FinishMigrate => vm.running(COMMAND_MAX).await.map(drop).map_err(|error| error.to_string())?,
            _ => self.go_on().await?,
        }
        self.unsecure(&vm).await;
        Ok(())
    }

    /// Takes the guest back after its epoch was closed: a monitor that hangs is freed, a new initiator attaches at the new
    /// epoch behind the same sockets, and it runs on.
    pub(super) async fn come_back(self: &Rc<Self>, epoch: Epoch) -> Result<(), String> {
        let Some(mut vm) = self.vm() else { return Ok(()) };
        self.not_newer(epoch)?;
        if vm.qmp().run(QueryStatus {}, HANGS).await.is_err() {
            tracing::warn!(vm = %self.name, "its monitor hangs: the migration is torn");
            let out_of_band = vm.out_of_band(COMMAND_MAX).await.map_err(|error| error.to_string())?;
            let torn = Yank { instances: vec![YankInstance::Migration] };
            // Refused where nothing is left to tear.
            let _ = out_of_band.run(torn, COMMAND_MAX).await;
            self.let_go();
            let freed = Vm::adopt(&self.folder()?).await.map_err(|error| error.to_string())?;
            self.hold(freed.ok_or("its QEMU is gone")?);
            vm = self.vm().expect("it is held");
        }
        // Refused where there is none.
        let _ = vm.qmp().run(MigrateCancel {}, COMMAND_MAX).await;
        self.remember(|memory| memory.epoch = Some(epoch))?;
        self.attach(epoch).await?;
        self.resume(&vm).await?;
        self.unsecure(&vm).await;
        self.because(None);
        Ok(())
    }

    /// Lets it go on again and again until it stays running, each time with the dead-man's leave: who pauses it in between
    /// is not undone.
    async fn resume(&self, vm: &Vm) -> Result<(), String> {
        let mut spent = Millis(0);
        loop {
            self.leave_given().await;
            match vm.resume(BACK_STEP).await {
                Ok(()) => return Ok(()),
                Err(error) if spent >= BACK_MAX => return Err(error.to_string()),
                Err(_) => tokio::time::sleep(BACK_PAUSE.into()).await,
            }
            spent = spent + BACK_STEP;
        }
    }
}

/// How many streams, and how packed, if this QEMU can.
async fn streams(vm: &Vm) -> Result<Option<(u8, Compression)>, String> {
    let known = vm.qmp().run(QueryMigrateCapabilities {}, COMMAND_MAX).await.map_err(|error| error.to_string())?;
    let multifd = known.iter().any(|it| it.capability == Capability::Multifd);
    Ok(multifd.then_some((STREAMS, Compression::Zstd)))
}

fn with_streams(parameters: MigrateSetParameters, streams: Option<(u8, Compression)>) -> MigrateSetParameters {
    let (channels, compression) = streams.unzip();
    MigrateSetParameters { multifd_channels: channels, multifd_compression: compression, ..parameters }
}

async fn run<C: wire::qmp::Command + Send + 'static>(vm: &Vm, command: C) -> Result<(), String> {
    vm.qmp().run(command, COMMAND_MAX).await.map(drop).map_err(|error| error.to_string())
}
