//! A machine moves between two QEMUs of this machine while it writes, by the very sequence of commands and capabilities
//! that the hand-over uses. The fence between the steps is the caller's; here only the places where it goes are shown.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod vm_guest;

use host::vm::{Heard, Launch, MonitorError, Patience, Qmp, Start, Stopped, Vm};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use units::{Millis, Moment};
use vm_guest::support::{Scratch, have};
use vm_guest::{Guest, NbdDisk, Reaper, hear, launch, said, wrote};
use wire::qmp::{
    Capability, Compression, Cont, EventKind, Migrate, MigrateCancel, MigrateContinue, MigrateIncoming,
    MigrateSetCapabilities, MigrateSetParameters, MigrationInfo, MigrationStatus, Object, ObjectAdd, ObjectDel,
    QueryMigrate, RunState, TlsCredsPsk, TlsEnd, Yank, YankInstance,
};

const COMMAND: Millis = Millis(5000);
/// 96 MB over a Unix socket take under a second; the machine may be busy.
const PHASE_MAX: Duration = Duration::from_secs(30);

async fn moment(events: &mut tokio::sync::broadcast::Receiver<Heard>, wanted: EventKind) -> Moment {
    let search = async {
        loop {
            let heard = events.recv().await.expect("the connection holds and the test keeps up");
            if heard.event.kind == wanted {
                return heard.at;
            }
        }
    };
    tokio::time::timeout(PHASE_MAX, search).await.unwrap_or_else(|_| panic!("{wanted:?} comes"))
}

/// Waits until a side's migration and its guest are in these states; the event may come before the state is there.
async fn settled(vm: &Vm, phase: MigrationStatus, state: RunState) -> MigrationInfo {
    let begun = Instant::now();
    loop {
        let info = vm.qmp().run(QueryMigrate {}, COMMAND).await.unwrap();
        let status = vm.status().await.unwrap().status;
        if info.status == Some(phase) && status == state {
            return info;
        }
        assert!(begun.elapsed() < PHASE_MAX, "{info:?} {status:?}, not {phase:?} {state:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn set(qmp: &Qmp, capabilities: &[Capability]) {
    qmp.run(MigrateSetCapabilities::on(capabilities), COMMAND).await.unwrap();
}

/// A destination that waits for the machine of `launch`.
async fn waiting(launch: &Launch) -> Vm {
    let destination = Vm::start(launch).await.unwrap();
    assert_eq!(destination.status().await.unwrap().status, RunState::Inmigrate);
    set(destination.qmp(), &[Capability::Events, Capability::ReturnPath, Capability::LateBlockActivate]).await;
    destination
}

/// Sends the source to `destination` until it is stopped, drained and flushed; when it stopped.
async fn to_the_switch(source: &Vm, destination: &Vm, uri: &str) -> Moment {
    destination.qmp().run(MigrateIncoming { uri: uri.into() }, COMMAND).await.unwrap();
    sent_to_the_switch(source, uri).await
}

async fn sent_to_the_switch(source: &Vm, uri: &str) -> Moment {
    let mut left = source.qmp().events();
    source.qmp().run(Migrate { uri: uri.into() }, COMMAND).await.unwrap();
    let stopped = moment(&mut left, EventKind::Stop).await;
    moment(&mut left, EventKind::Migration(MigrationStatus::PreSwitchover)).await;
    stopped
}

/// A migration given up before the switch: the source runs on, the destination ends by itself. Another destination.
async fn given_up(source: &Vm, destination: Vm, to: &Launch, uri: &str) -> Vm {
    let mut back = source.qmp().events();
    to_the_switch(source, &destination, uri).await;
    source.qmp().run(MigrateCancel {}, COMMAND).await.unwrap();
    moment(&mut back, EventKind::Resume).await;
    assert!(source.status().await.unwrap().running);
    let ended = tokio::time::timeout(PHASE_MAX, destination.ended()).await.expect("the destination ends by itself");
    println!("given up: the destination {}", ended.unwrap().how);
    // Out of band works beside the ordinary monitor, and there is nothing left to tear.
    let out_of_band = source.out_of_band(COMMAND).await.unwrap();
    let refused = out_of_band.run(Yank { instances: vec![YankInstance::Migration] }, COMMAND).await;
    assert!(matches!(refused, Err(MonitorError::Refused { command: "yank", .. })), "{refused:?}");
    waiting(to).await
}

/// Goal: the guest goes on where it stopped, having lost nothing, and stands still only briefly; before the switch a
/// migration can be given up and the source resumes. Method: QEMUs on one NBD disk, a writer; first cancelled in
/// pre-switchover, then carried through, then back under TLS.
#[tokio::test]
async fn a_machine_moves_while_it_writes() {
    assert!(have("qemu-system-x86_64") && have("busybox") && have("nbdkit"));
    let scratch = Scratch::new("vm-migrate");
    let nbd = NbdDisk::serve(&scratch);
    let folders = ["from", "to"].map(|name| host::vm::Folder::new(&scratch.path(name)).unwrap());
    let _reapers = folders.map(Reaper);
    let mut machine = Guest::get().machine("web1", "write");
    machine.disks = vec![nbd.disk()];
    let from = launch(machine.clone(), &scratch, "from");
    machine.start = Start::Incoming;
    let to = launch(machine, &scratch, "to");
    // Where QEMU's user may make it.
    let uri = format!("unix:{}", to.folder.path().join("migrate.sock").display());
    let (source, destination) = (Vm::start(&from).await.unwrap(), waiting(&to).await);
    hear(&from.folder, "WROTE 20", |said| said.contains("WROTE 20\n")).await;

    // 1. The same on both sides, but for who pauses and who waits with its disks.
    set(source.qmp(), &[Capability::Events, Capability::ReturnPath, Capability::PauseBeforeSwitchover]).await;
    let parameters =
        MigrateSetParameters { downtime_limit_ms: Some(50), max_bandwidth_bytes: Some(10 << 30), ..Default::default() };
    source.qmp().run(parameters, COMMAND).await.unwrap();
    let destination = given_up(&source, destination, &to, &uri).await;

    let begun = Instant::now();
    let (mut arrived, stopped) = (destination.qmp().events(), to_the_switch(&source, &destination, &uri).await);
    // 2. Here the source's epoch is closed. 3.
    let state = MigrationStatus::PreSwitchover;
    source.qmp().run(MigrateContinue { state }, COMMAND).await.unwrap();
    // 4.
    settled(&destination, MigrationStatus::Completed, RunState::Paused).await;
    let info = settled(&source, MigrationStatus::Completed, RunState::Postmigrate).await;
    assert_eq!(wrote(&to.folder), 0, "the destination says nothing before it is let go");
    // 5. Here the destination becomes the owner. 6.
    destination.qmp().run(Cont {}, COMMAND).await.unwrap();
    let resumed = moment(&mut arrived, EventKind::Resume).await;
    let blackout = resumed.since(stopped);
    let total_ms = begun.elapsed().as_millis();
    let sent = info.ram.expect("a migration has copied memory").transferred;
    println!(
        "moved in {total_ms} ms, {sent} bytes; blackout (STOP to RESUME) {blackout}; QEMU says {:?} ms",
        info.downtime_ms
    );
    assert!(sent > 1 << 20 && blackout < Millis(5000));

    let handed_over = wrote(&from.folder);
    assert_eq!(source.shutdown(Patience { guest: COMMAND, quit: COMMAND }).await.unwrap(), Stopped::ByQuit);
    hear(&to.folder, "writes at the destination", |_| wrote(&to.folder) > handed_over + 20).await;

    let mut back = launch(to.machine.clone(), &scratch, "back");
    back.machine.start = Start::Incoming;
    let _reaper = Reaper(back.folder.clone());
    let returned = back_over_tls(&scratch, &destination, &back).await;
    let handed_over = wrote(&to.folder);
    hear(&back.folder, "writes after the return", |_| wrote(&back.folder) > handed_over + 20).await;
    returned.kill().await.unwrap();
    let last = wrote(&back.folder);
    let silent = [&from, &to, &back].into_iter().all(|launch| !said(&launch.folder).contains("GUEST ERROR"));
    assert!(silent, "the guest met no error");
    assert_eq!(nbd.first_wrong(last), None, "every write up to {last} is there");
}

/// Moves once more, over TCP with a key of this move and several compressed streams. Who has another key sends nothing.
async fn back_over_tls(scratch: &Scratch, source: &Vm, to: &Launch) -> Vm {
    let (key, wrong) = (move_key(scratch, "right", 'a'), move_key(scratch, "wrong", 'b'));
    let streams = MigrateSetParameters {
        downtime_limit_ms: Some(50),
        multifd_channels: Some(2),
        multifd_compression: Some(Compression::Zstd),
        tls_creds: Some("tls0".into()),
        ..Default::default()
    };
    let destination = waiting(to).await;
    set(destination.qmp(), &[Capability::Multifd]).await;
    destination.qmp().run(creds(&key, TlsEnd::Server), COMMAND).await.unwrap();
    destination.qmp().run(streams.clone(), COMMAND).await.unwrap();

    let both = [Capability::Events, Capability::ReturnPath, Capability::PauseBeforeSwitchover, Capability::Multifd];
    set(source.qmp(), &both).await;
    source.qmp().run(streams, COMMAND).await.unwrap();

    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let uri = format!("tcp:127.0.0.1:{port}");
    destination.qmp().run(MigrateIncoming { uri: uri.clone() }, COMMAND).await.unwrap();
    source.qmp().run(creds(&wrong, TlsEnd::Client), COMMAND).await.unwrap();
    source.qmp().run(Migrate { uri: uri.clone() }, COMMAND).await.unwrap();
    let failed = settled(source, MigrationStatus::Failed, RunState::Running).await;
    println!("another key: {:?}", failed.error_desc);
    source.qmp().run(ObjectDel { id: "tls0".into() }, COMMAND).await.unwrap();
    source.qmp().run(creds(&key, TlsEnd::Client), COMMAND).await.unwrap();
    // A client has read it.
    std::fs::remove_dir_all(scratch.path("wrong")).unwrap();
    let mut arrived = destination.qmp().events();
    let begun = Instant::now();
    let stopped = sent_to_the_switch(source, &uri).await;
    let state = MigrationStatus::PreSwitchover;
    source.qmp().run(MigrateContinue { state }, COMMAND).await.unwrap();
    settled(&destination, MigrationStatus::Completed, RunState::Paused).await;
    settled(source, MigrationStatus::Completed, RunState::Postmigrate).await;
    destination.qmp().run(Cont {}, COMMAND).await.unwrap();
    let blackout = moment(&mut arrived, EventKind::Resume).await.since(stopped);
    println!("TLS, multifd, zstd: moved in {} ms, blackout {blackout}", begun.elapsed().as_millis());
    source.qmp().run(ObjectDel { id: "tls0".into() }, COMMAND).await.expect("it is no longer used");
    source.kill().await.unwrap();
    destination
}

/// Goal: a destination that goes silent while they shake hands does not stop a guest for longer than it takes to notice.
/// Method: a peer that accepts and says nothing; QEMU hangs with its guest, until the connection is torn.
#[tokio::test]
async fn a_silent_destination_is_torn_off() {
    assert!(have("qemu-system-x86_64") && have("busybox") && have("nbdkit"));
    let scratch = Scratch::new("vm-silent");
    let nbd = NbdDisk::serve(&scratch);
    let _reaper = Reaper(host::vm::Folder::new(&scratch.path("from")).unwrap());
    let mut machine = Guest::get().machine("web1", "write");
    machine.disks = vec![nbd.disk()];
    let from = launch(machine, &scratch, "from");
    let source = Vm::start(&from).await.unwrap();
    hear(&from.folder, "WROTE 20", |said| said.contains("WROTE 20\n")).await;
    let key = move_key(&scratch, "key", 'a');
    source.qmp().run(creds(&key, TlsEnd::Client), COMMAND).await.unwrap();
    set(source.qmp(), &[Capability::Events, Capability::ReturnPath, Capability::PauseBeforeSwitchover]).await;
    let secured = MigrateSetParameters { tls_creds: Some("tls0".into()), ..Default::default() };
    source.qmp().run(secured, COMMAND).await.unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = silent.local_addr().unwrap();
    source.qmp().run(Migrate { uri: format!("tcp:{peer}") }, COMMAND).await.unwrap();
    let (_kept, _) = silent.accept().unwrap();
    let hangs = async {
        while source.qmp().run(QueryMigrate {}, Millis(500)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // Should a newer QEMU not hang, there is nothing to free it from: it is still let go below.
    let hung = tokio::time::timeout(Duration::from_secs(5), hangs).await.is_ok();
    println!("its main loop hangs: {hung}");
    assert!(source.process().tear(peer).unwrap() > 0);
    settled(&source, MigrationStatus::Failed, RunState::Running).await;
    let before = wrote(&from.folder);
    hear(&from.folder, "it writes on", |_| wrote(&from.folder) > before + 20).await;
    source.kill().await.unwrap();
}

/// A folder with a pre-shared key, as QEMU wants it.
fn move_key(scratch: &Scratch, folder: &str, digit: char) -> PathBuf {
    let folder = scratch.path(folder);
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("keys.psk"), format!("move:{}\n", digit.to_string().repeat(64))).unwrap();
    folder
}

fn creds(folder: &Path, endpoint: TlsEnd) -> ObjectAdd {
    let (dir, client) = (folder.to_str().unwrap().to_owned(), endpoint == TlsEnd::Client);
    let username = client.then(|| "move".to_owned());
    ObjectAdd(Object::TlsCredsPsk(TlsCredsPsk { id: "tls0".into(), dir, endpoint, username }))
}
