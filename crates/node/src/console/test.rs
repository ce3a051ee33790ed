//! Consoles through real doors: a Unix socket, and TLS with real certificates. QEMU's socket is played by the test.

use super::*;
use crate::door;
use crate::identity::{Identity, Seat, StoreAt};
use crate::init::init;
use crate::root::Root;
use host::net::{Listener, ServerTls};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;

/// A machine with a cluster of its own.
struct Machine {
    base: PathBuf,
    address: SocketAddr,
}

impl Machine {
    fn new(name: &str) -> Self {
        let base = std::env::temp_dir().join(format!("muskox-console-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&base);
        std::fs::create_dir_all(&base).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let seat = Seat { name: "alpha".parse().unwrap(), address, portals: Vec::new(), roles: vec![api::Role::Host] };
        init(&Root::new(&base), &seat, 3600).unwrap();
        Self { base, address }
    }

    /// Its node, which believes that another machine holds the store, at `store`.
    fn node(&self, store: Option<SocketAddr>) -> Rc<Node> {
        let root = Root::new(&self.base);
        let mut node = crate::run::open(root.clone(), Identity::load(&root).unwrap()).unwrap();
        if let Some(address) = store {
            let seat = node.identity.seat();
            let at = StoreAt { address, key: node.key };
            node.identity = Identity::new(node.identity.cluster, seat, Some(at));
            node.keeper = None;
        }
        Rc::new(node)
    }

    /// The visits of the audit log: whose console, and what came of it.
    fn visits(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.base.join("var/lib/muskox/audit.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let end = |id: &serde_json::Value| lines.iter().find(|it| it["id"] == *id && it["result"].is_string()).unwrap();
        let begun = lines.iter().filter(|it| it["call"] == "console");
        let said = |it: &serde_json::Value, key: &str| it[key].as_str().unwrap().to_owned();
        begun.map(|it| (said(it, "name"), said(end(&it["id"]), "result"))).collect()
    }

    /// What QEMU would have: a console that says a word and then what it hears, in capitals.
    fn console(&self, vm: &str) {
        let folder = self.base.join("run/muskox/vm").join(vm);
        std::fs::create_dir_all(&folder).unwrap();
        let listener = UnixListener::bind(folder.join("console.sock")).unwrap();
        tokio::task::spawn_local(async move {
            loop {
                let (mut visitor, _) = listener.accept().await.unwrap();
                visitor.write_all(b"login: ").await.unwrap();
                let mut bytes = [0; 64];
                while let Ok(len @ 1..) = visitor.read(&mut bytes).await {
                    visitor.write_all(&bytes[..len].to_ascii_uppercase()).await.unwrap();
                }
            }
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.base);
    }
}

/// Runs a test as the node runs.
fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let set = tokio::task::LocalSet::new();
    let timed = set.run_until(async { tokio::time::timeout(Duration::from_secs(60), test).await });
    runtime.block_on(timed).expect("nothing here takes longer");
}

async fn request(node: &Rc<Node>, head: &str) -> UnixStream {
    let socket = node.root.socket();
    let _ = std::fs::remove_file(&socket);
    tokio::task::spawn_local(door::serve(Rc::clone(node), Listener::unix(&socket).unwrap(), None));
    let mut stream = UnixStream::connect(&socket).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn read_until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with(end) {
        assert_eq!(stream.read(&mut byte).await.unwrap(), 1, "it ended after {text:?}");
        text.push(char::from(byte[0]));
    }
    text
}

const HEAD: &str =
    "POST /v1/vms/web1/console HTTP/1.1\r\nhost: muskox\r\nconnection: upgrade\r\nupgrade: muskox-console\r\n\r\n";

/// Goal: bytes go both ways until Ctrl-], also while the store is away. Method: a node whose store does not answer, a
/// visit over its Unix socket in raw HTTP.
#[test]
fn a_vm_of_this_machine_is_visited_without_the_store() {
    local(async {
        let machine = Machine::new("here");
        // Nobody listens at the store's address.
        let node = machine.node(Some(machine.address));
        machine.console("web1");
        let mut visit = request(&node, HEAD).await;
        let head = read_until(&mut visit, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("upgrade: muskox-console"), "{head}");
        read_until(&mut visit, "login: ").await;
        visit.write_all(b"root\n").await.unwrap();
        read_until(&mut visit, "ROOT\n").await;
        visit.write_all(&[host::vm::DETACH]).await.unwrap();
        assert_eq!(visit.read(&mut [0]).await.unwrap(), 0, "Ctrl-] ends it");
        assert_eq!(machine.visits(), [("web1".to_owned(), "opened".to_owned())], "also then it is written down");
    });
}

/// Goal: a visit is passed on to the host's node over mTLS, which asks who calls. Method: a machine that is its own
/// host, with a TLS door; a key that the cluster does not know is refused, and a member without an upgrade as well.
#[test]
fn a_visit_is_passed_on_to_a_member_only() {
    local(async {
        let machine = Machine::new("there");
        let node = machine.node(None);
        machine.console("web1");
        let tls = ServerTls::load_for_strangers_too(&node.tls_files()).unwrap();
        let listener = Listener::tcp(machine.address).unwrap();
        tokio::task::spawn_local(door::serve(Rc::clone(&node), listener, Some(Rc::new(RefCell::new(tls)))));
        let (alpha, web1) = ("alpha".parse().unwrap(), "web1".parse().unwrap());
        let mut far = TokioIo::new(pass_on(&node, 0, &alpha, &web1).await.unwrap());
        read_until(&mut far, "login: ").await;
        far.write_all(b"hello").await.unwrap();
        read_until(&mut far, "HELLO").await;
        drop(far);
        let problem = pass_on(&node, 0, &alpha, &"web2".parse().unwrap()).await.expect_err("there is no such VM");
        assert!(problem.code == Code::NotPossible && problem.text.contains("'web2'"), "{problem:?}");
        let problem = pass_on(&node, 0, &"beta".parse().unwrap(), &web1).await.expect_err("there is no such machine");
        assert_eq!(problem.code, Code::NotFound);
        let protocol = HeaderValue::from_static(CONSOLE_PROTOCOL);
        let visit = async |key, user| {
            let visit = open(&node, Caller::Machine { key, user }, "web1", Some(&protocol)).await;
            visit.err().map(|problem| problem.code)
        };
        assert_eq!(visit(units::HostKey([7; 32]), Some(0)).await, Some(Code::NotAMember), "its key was removed");
        assert_eq!(visit(node.key, None).await, Some(Code::Forbidden), "CA14: a machine by itself visits nobody");
        assert_eq!(visit(node.key, Some(0)).await, None);
        let (opened, refused) = (("web1".into(), "opened".into()), ("web2".into(), "not_possible".into()));
        assert_eq!(machine.visits(), [opened.clone(), refused, opened], "whoever may not visit leaves no line");
        let transport = client::as_stranger(node.identity.cluster, machine.address).await.unwrap();
        assert_eq!(upgrade(transport, Some(0), &web1).await.expect_err("a stranger").code, Code::Forbidden);
    });
}

/// Goal: what is no visit is refused as a problem, and the node goes on. Method: raw HTTP with one mistake each.
#[test]
fn what_is_no_visit_is_refused() {
    local(async {
        let machine = Machine::new("bad");
        let node = machine.node(Some(machine.address));
        let cases = [
            ("POST /v1/vms/web1/console HTTP/1.1\r\nhost: muskox\r\n\r\n", "400", "Upgrade: muskox-console"),
            (&HEAD.replace("web1", "WEB1"), "400", "bad_request"),
            (&HEAD.replace("web1", "a/b"), "404", "no_such_call"),
            (HEAD, "503", "store_unreachable"),
        ];
        for (head, status, expect) in cases {
            let mut visit = request(&node, head).await;
            let mut answer = String::new();
            visit.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(expect), "{answer}");
        }
    });
}

/// Goal: D16: whoever asks for the console of a VM that is off hears that, not of a socket that is not there. Method: each state, with
/// and without an owner.
#[test]
fn a_vm_that_is_off_has_no_console() {
    let vm = |state: VmState, host: Option<&str>| api::Vm {
        name: "web1".parse().unwrap(),
        state,
        wished: true,
        host: host.map(|host| host.parse().unwrap()),
        epoch: 1,
        memory: 0,
        vcpus: 1,
        volumes: Vec::new(),
        job: None,
        pending: Vec::new(),
    };
    for state in VmState::ALL {
        let off = matches!(state, VmState::Stopped | VmState::Down);
        let asked = host_of(vm(*state, Some("host1")));
        assert_eq!(asked.is_err(), off, "{state}");
        if let Err(problem) = asked {
            assert_eq!(problem.text, format!("VM 'web1' is {state}: it has no console"));
        }
        assert!(host_of(vm(*state, None)).is_err(), "{state}");
    }
}
