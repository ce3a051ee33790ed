//! Line tables of what QEMU 10.0.2 and 7.2 really said, and noise.

use super::*;
use serde_json::{Value, json};

const GREETING_10: &str = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "Debian 1:10.0.2+ds-2+deb13u1~bpo12+1"}, "capabilities": ["oob"]}}"#;
const GREETING_7: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2+dfsg-7+deb12u18"}, "capabilities": ["oob"]}}"#;

fn hear(client: &mut Client, text: &str) -> Result<Vec<Incoming>, QmpError> {
    let (mut input, mut heard) = (text.as_bytes(), Vec::new());
    while let Some(incoming) = client.receive(&mut input)? {
        heard.push(incoming);
    }
    assert!(input.is_empty(), "what was not a whole line is kept inside");
    Ok(heard)
}

/// A connection past its beginning.
fn ready(want_out_of_band: bool) -> Client {
    let mut client = Client::new(want_out_of_band);
    assert_eq!(hear(&mut client, &format!("{GREETING_10}\r\n")).unwrap(), []);
    let _ = client.take_output();
    assert_eq!(hear(&mut client, "{\"return\": {}, \"id\": 0}\r\n").unwrap().len(), 1);
    client
}

fn output(client: &mut Client) -> String {
    String::from_utf8(client.take_output()).unwrap()
}

/// Goal: the beginning works with both versions, with and without out-of-band. Method: real greetings, byte by byte.
#[test]
fn the_beginning_is_spoken_as_both_versions_want_it() {
    for (greeting, major) in [(GREETING_10, 10), (GREETING_7, 7)] {
        for (want, expect) in [
            (true, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]},\"id\":0}\n"),
            (false, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[]},\"id\":0}\n"),
        ] {
            let mut client = Client::new(want);
            for byte in format!("{greeting}\r\n").bytes() {
                assert_eq!(client.receive(&mut &[byte][..]), Ok(None));
            }
            assert_eq!(output(&mut client), expect);
            assert_eq!(client.execute(&Stop {}), Err(QmpError::NotReady { command: "stop" }));
            let heard = hear(&mut client, "{\"return\": {}, \"id\": 0}\r\n").unwrap();
            let [Incoming::Ready(ready)] = &heard[..] else { panic!("{heard:?}") };
            assert_eq!((ready.version.qemu.major, ready.out_of_band), (major, want));
            assert_eq!(client.execute(&Yank { instances: vec![] }).is_ok(), want, "only where it was agreed");
        }
    }
}

/// Goal: every command goes out as QEMU's schema has it. Method: a table of lines.
#[test]
fn commands_are_the_lines_of_the_manual() {
    fn check<C: Command>(command: &C, expect: &Value) {
        let mut client = ready(true);
        client.execute(command).unwrap();
        let sent = output(&mut client);
        assert!(sent.ends_with('\n') && sent.matches('\n').count() == 1);
        assert_eq!(serde_json::from_str::<Value>(&sent).unwrap(), *expect);
    }
    let plain = |name: &str| json!({"execute": name, "arguments": {}, "id": 1});
    let with = |name: &str, arguments: Value| json!({"execute": name, "arguments": arguments, "id": 1});
    check(&QueryStatus {}, &plain("query-status"));
    check(&Stop {}, &plain("stop"));
    check(&Cont {}, &plain("cont"));
    check(&Quit {}, &plain("quit"));
    check(&SystemPowerdown {}, &plain("system_powerdown"));
    check(&SystemReset {}, &plain("system_reset"));
    check(&QueryMigrate {}, &plain("query-migrate"));
    check(&MigrateCancel {}, &plain("migrate_cancel"));
    check(&QueryBlock {}, &plain("query-block"));
    check(&QueryBlockStats {}, &plain("query-blockstats"));
    check(&QueryVersion {}, &plain("query-version"));
    check(&QueryCpusFast {}, &plain("query-cpus-fast"));
    check(&QueryMachines {}, &plain("query-machines"));
    check(&QueryCpuDefinitions {}, &plain("query-cpu-definitions"));
    let model = json!({"type": "full", "model": {"name": "max"}});
    check(&QueryCpuModelExpansion::of("max"), &with("query-cpu-model-expansion", model));
    check(
        &MigrateSetCapabilities::on(&[Capability::Events, Capability::PauseBeforeSwitchover]),
        &with(
            "migrate-set-capabilities",
            json!({"capabilities": [{"capability": "events", "state": true},
            {"capability": "pause-before-switchover", "state": true}]}),
        ),
    );
    let parameters = MigrateSetParameters {
        downtime_limit_ms: Some(100),
        max_bandwidth_bytes: Some(1 << 30),
        multifd_channels: Some(2),
        multifd_compression: Some(Compression::Zstd),
        tls_creds: Some("tls0".into()),
    };
    let expect = json!({"downtime-limit": 100, "max-bandwidth": 1 << 30, "multifd-channels": 2,
        "multifd-compression": "zstd", "tls-creds": "tls0"});
    check(&parameters, &with("migrate-set-parameters", expect));
    check(&Migrate { uri: "unix:m".into() }, &with("migrate", json!({"uri": "unix:m"})));
    check(&MigrateIncoming { uri: "unix:m".into() }, &with("migrate-incoming", json!({"uri": "unix:m"})));
    let state = MigrationStatus::PreSwitchover;
    check(&MigrateContinue { state }, &with("migrate-continue", json!({"state": "pre-switchover"})));
    check(
        &Yank { instances: vec![YankInstance::Migration, YankInstance::BlockNode { node_name: "disk0".into() }] },
        &json!({"exec-oob": "yank", "arguments": {"instances": [{"type": "migration"},
            {"type": "block-node", "node-name": "disk0"}]}, "id": 1}),
    );
}

/// Goal: disks and objects go out as QEMU's schema has them. Method: a table of lines.
#[test]
fn disks_are_raw_and_uncached_whatever_they_hold() {
    let node = NbdNode { name: "d".into(), socket: "/run/d,=\"".into(), export: "vg/v".into(), reconnect_delay_s: 660 };
    let expect = json!({"driver": "raw", "node-name": "d", "read-only": false,
        "cache": {"direct": true, "no-flush": false},
        "file": {"driver": "nbd", "node-name": "d-nbd", "server": {"type": "unix", "path": "/run/d,=\""},
            "export": "vg/v", "reconnect-delay": 660, "cache": {"direct": true, "no-flush": false}}});
    let node = BlockNode::Nbd(node);
    assert_eq!(serde_json::from_str::<Value>(&node.to_json()).unwrap(), expect);
    assert_eq!(serde_json::to_value(BlockdevAdd(node)).unwrap(), expect);
    let del = serde_json::to_value(BlockdevDel { node_name: "d".into() }).unwrap();
    assert_eq!(del, json!({"node-name": "d"}));
    let client =
        TlsCredsPsk { id: "t".into(), dir: "/run/t".into(), endpoint: TlsEnd::Client, username: Some("move".into()) };
    let server = TlsCredsPsk { endpoint: TlsEnd::Server, username: None, ..client.clone() };
    let expect = json!({"qom-type": "tls-creds-psk", "id": "t", "dir": "/run/t", "endpoint": "client",
        "username": "move"});
    assert_eq!(serde_json::to_value(ObjectAdd(Object::TlsCredsPsk(client))).unwrap(), expect);
    let expect = json!({"qom-type": "tls-creds-psk", "id": "t", "dir": "/run/t", "endpoint": "server"});
    assert_eq!(serde_json::to_value(ObjectAdd(Object::TlsCredsPsk(server))).unwrap(), expect);
}

fn answer<C: Command>(command: &C, value: &str) -> C::Reply {
    let mut client = ready(true);
    let asked = client.execute(command).unwrap();
    let heard = hear(&mut client, &format!("{{\"return\": {value}, \"id\": 1}}\r\n")).unwrap();
    let [Incoming::Reply { id, result: Ok(value) }] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(*id, asked);
    Client::decode::<C>(value.clone()).unwrap()
}

/// Goal: answers of QEMU are read, also where a version says more or less. Method: real lines, cut down.
#[test]
fn answers_are_read() {
    let status = answer(&QueryStatus {}, r#"{"status": "postmigrate", "singlestep": false, "running": false}"#);
    assert_eq!(status, StatusInfo { status: RunState::Postmigrate, running: false });
    let status = answer(&QueryStatus {}, r#"{"status": "a-new-one", "running": true}"#);
    assert_eq!(status, StatusInfo { status: RunState::Unknown, running: true });
    let cpus =
        r#"[{"thread-id": 22697, "props": {"core-id": 0}, "qom-path": "/m", "cpu-index": 0, "target": "x86_64"}]"#;
    assert_eq!(answer(&QueryCpusFast {}, cpus), [CpuInfo { cpu_index: 0, thread_id: 22697 }]);
    assert_eq!(answer(&QueryMigrate {}, "{}"), MigrationInfo::default());
    let active = r#"{"expected-downtime": 300, "status": "active", "setup-time": 3, "total-time": 52, "ram": {"total":
        118702080, "postcopy-requests": 0, "dirty-sync-count": 1, "multifd-bytes": 0, "pages-per-second": 0, "page-size":
        4096, "remaining": 116441088, "mbps": 0.5, "transferred": 39081, "duplicate": 544, "dirty-pages-rate": 7}}"#;
    let active = answer(&QueryMigrate {}, &active.replace('\n', " "));
    assert_eq!((active.status, active.total_ms), (Some(MigrationStatus::Active), Some(52)));
    let ram = active.ram.unwrap();
    assert_eq!((ram.remaining, ram.rounds, ram.transferred), (116_441_088, 1, 39_081));
    let capabilities = answer(
        &QueryMigrateCapabilities {},
        r#"[{"state": true, "capability": "multifd"},
        {"state": false, "capability": "x-colo"}]"#
            .replace('\n', " ")
            .as_str(),
    );
    assert_eq!(capabilities[0], CapabilityState { capability: Capability::Multifd, state: true });
    assert_eq!(capabilities[1].capability, Capability::Unknown);
    let block = r#"[{"io-status": "failed", "device": "", "locked": false, "removable": false, "inserted": {"iops_rd": 0,
        "ro": false, "node-name": "disk0", "drv": "raw"}, "qdev": "/machine/peripheral/vd0/virtio-backend"}]"#;
    let block = answer(&QueryBlock {}, &block.replace('\n', " "));
    assert_eq!(block[0].io_status.as_deref(), Some("failed"));
    assert_eq!(block[0].inserted.as_ref().unwrap().node_name.as_deref(), Some("disk0"));
}

/// Goal: events are read; unknown and odd ones are kept. Method: real lines.
#[test]
fn events_are_read_and_unknown_ones_kept() {
    let check = |name: &str, data: &str, expect: EventKind| {
        let stamp = r#""timestamp": {"seconds": 1795269019, "microseconds": 111074}"#;
        let line = format!("{{{stamp}, \"event\": \"{name}\"{data}}}\r\n");
        let heard = hear(&mut ready(false), &line).unwrap();
        let timestamp = Timestamp { seconds: 1_795_269_019, microseconds: 111_074 };
        assert_eq!(heard, [Incoming::Event(Event { timestamp, kind: expect })]);
    };
    check("STOP", "", EventKind::Stop);
    check("RESUME", "", EventKind::Resume);
    check(
        "SHUTDOWN",
        r#", "data": {"guest": true, "reason": "guest-shutdown"}"#,
        EventKind::Shutdown { guest: true, reason: "guest-shutdown".into() },
    );
    check(
        "MIGRATION",
        r#", "data": {"status": "pre-switchover"}"#,
        EventKind::Migration(MigrationStatus::PreSwitchover),
    );
    check("MIGRATION_PASS", r#", "data": {"pass": 2}"#, EventKind::MigrationPass(2));
    let error = r#", "data": {"device": "", "nospace": false, "node-name": "disk0", "reason": "Input/output error",
        "operation": "write", "action": "stop", "qom-path": "/machine/peripheral/vd0"}"#;
    let expect = EventKind::BlockIoError {
        device: String::new(),
        node_name: Some("disk0".into()),
        operation: BlockOperation::Write,
        action: BlockAction::Stop,
        nospace: false,
        reason: "Input/output error".into(),
    };
    check("BLOCK_IO_ERROR", &error.replace('\n', " "), expect);
    let kept = |name: &str, data: Value| EventKind::Other { name: name.into(), data };
    check("NEW", r#", "data": {"a": [1]}"#, kept("NEW", json!({"a": [1]})));
    check("MIGRATION", r#", "data": {"status": 7}"#, kept("MIGRATION", json!({"status": 7})));
    check("RTC_CHANGE", "", kept("RTC_CHANGE", Value::Null));
}

/// Goal: what a hostile monitor says ends the connection with a reason. Method: a table of lines.
#[test]
fn hostile_lines_end_the_connection() {
    let check = |line: &str, what: &str| {
        let mut client = ready(true);
        client.execute(&Stop {}).unwrap();
        let error = hear(&mut client, &format!("{line}\n")).unwrap_err().to_string();
        assert!(error.contains(what), "{line:.60}: {error}");
        assert!(error.len() < 1200 && !error.contains('\u{1b}'));
    };
    check("garbage", "not QMP");
    check("[]", "not QMP");
    check("{}", "neither greeting");
    check(GREETING_10, "second greeting");
    check(r#"{"return": {}, "id": 2}"#, "nobody asked");
    check(r#"{"return": {}, "id": 0}"#, "nobody asked");
    check(r#"{"return": {}, "id": "1"}"#, "nobody asked");
    check(r#"{"return": {}}"#, "without an id");
    check(r#"{"return": {}, "error": {"class": "a", "desc": "b"}, "id": 1}"#, "neither greeting");
    check(r#"{"error": {"class": "GenericError", "desc": "JSON\u001b parse error"}}"#, "could not read");
    check(r#"{"error": {"class": 1}, "id": 1}"#, "not QMP");
    check(r#"{"event": "STOP"}"#, "without a time");
    check(&format!("{{\"a\":{}", "[".repeat(5000)), "not QMP");
    check(&"x".repeat(LINE_MAX + 1), "longer than");
    let mut client = ready(true);
    for _ in 0..PENDING_MAX {
        client.execute(&Stop {}).unwrap();
    }
    assert_eq!(client.execute(&Stop {}), Err(QmpError::TooMany));
    assert_eq!(hear(&mut client, "{\"return\": {}, \"id\": 1}\n").unwrap().len(), 1);
    assert!(hear(&mut client, "{\"return\": {}, \"id\": 1}\n").is_err(), "an answer comes once");
}

/// Goal: no bytes make the client panic, and pieces make no difference. Method: a conversation with random bytes
/// changed, from a printed seed, heard whole and in pieces.
#[test]
fn noise_neither_panics_nor_depends_on_pieces() {
    let talk = format!(
        "{GREETING_10}\r\n{{\"return\": {{}}, \"id\": 0}}\r\n{}\r\n{}\r\n\r\n{}\r\n",
        r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "MIGRATION", "data": {"status": "active"}}"#,
        r#"{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "SHUTDOWN", "data": {"guest": true}}"#,
        r#"{"id": 1, "error": {"class": "GenericError", "desc": "no"}}"#,
    );
    for seed in 1..3000_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % u64::try_from(below).unwrap()).unwrap()
        };
        let mut bytes = talk.clone().into_bytes();
        for _ in 0..random(6) {
            let at = random(bytes.len());
            bytes[at] = b"\"{}[]:,\n0a\xff\x00"[random(12)];
        }
        let whole = listen(&bytes, bytes.len());
        let pieces = listen(&bytes, 1 + random(40));
        assert_eq!(whole, pieces, "seed {seed}");
    }
}

/// All that is heard of `bytes` in pieces of `piece` bytes, until the connection ends.
fn listen(bytes: &[u8], piece: usize) -> (Vec<Incoming>, Option<QmpError>) {
    let (mut client, mut heard) = (Client::new(true), Vec::new());
    for part in bytes.chunks(piece) {
        let mut input = part;
        loop {
            match client.receive(&mut input) {
                Ok(Some(Incoming::Ready(ready))) => {
                    heard.push(Incoming::Ready(ready));
                    client.execute(&Stop {}).unwrap();
                }
                Ok(Some(incoming)) => heard.push(incoming),
                Ok(None) => break,
                Err(error) => return (heard, Some(error)),
            }
        }
    }
    (heard, None)
}
