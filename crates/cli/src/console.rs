//! `muskox vm console NAME`: this terminal becomes the VM's. Bytes both ways over one connection to the node, which
//! carries them on to wherever the VM runs; Ctrl-] leaves.
//!
//! Invariant: the terminal is left as it was found, however the visit ends. What the guest says is shown as it is: that
//! is what a console is for.

use crate::client::{Ask, Body, collect, connect, lost, not_understood};
use crate::watch::Interrupts;
use api::{CONSOLE_PROTOCOL, Code, Problem};
use hyper::header::{CONNECTION, HOST, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{IsTerminal, Read, Stdin, Write, stdin, stdout};
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use units::VmName;

/// Ctrl-]: leaves, as in telnet and `virsh console`.
const DETACH: u8 = 0x1d;
/// Pieces typed and not yet sent: a paste of some size, then the keyboard waits.
const TYPED_MAX: usize = 16;

/// How a visit ended.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    /// By Ctrl-], or by a signal.
    Visitor,
    /// The console did: the VM ended or moved.
    Console,
}

/// Visits a console until one side has enough.
///
/// # Errors
/// The node's problem; that the connection broke.
pub async fn visit(ask: &Ask, name: &VmName) -> Result<(), Problem> {
    let mut interrupts = Interrupts::new()?;
    let socket = ask.socket();
    let opened = tokio::time::timeout(ask.patience(), open(&socket, name));
    let console = interrupts.during(async { opened.await.unwrap_or_else(|_| Err(ask.silent())) }).await?;
    if stdin().is_terminal() {
        eprintln!("at the console of '{name}': Ctrl-] leaves; press Enter if nothing is shown");
    }
    let raw = Raw::enter()?;
    let mut keys = keyboard();
    let left = tokio::select! {
        () = interrupts.next() => Ok(Left::Visitor),
        left = carry(TokioIo::new(console), &mut keys) => left,
    };
    drop(raw);
    let left = left.map_err(|error| {
        let text = format!("the console of '{name}' broke off: {error}");
        Problem::new(Code::Unreachable, text, "ask again; it may have moved to another host")
    })?;
    eprintln!("\n{}", if left == Left::Visitor { "left" } else { "the console ended: the VM ended or moved" });
    Ok(())
}

async fn open(socket: &Path, name: &VmName) -> Result<Upgraded, Problem> {
    let request = Request::post(format!("/v1/vms/{name}/console")).header(HOST, "muskox");
    let request = request.header(CONNECTION, "upgrade").header(UPGRADE, CONSOLE_PROTOCOL).body(Body::default());
    let request = request.map_err(|error| lost(socket, &error))?;
    let (mut sender, connection) = connect(socket).await?;
    tokio::spawn(async move { drop(connection.with_upgrades().await) });
    let reply = sender.send_request(request).await.map_err(|error| lost(socket, &error))?;
    if reply.status() == StatusCode::SWITCHING_PROTOCOLS {
        return hyper::upgrade::on(reply).await.map_err(|error| lost(socket, &error));
    }
    let body = collect(socket, reply.into_body()).await?;
    Err(serde_json::from_slice(&body).map_err(|error| not_understood(socket, &error))?)
}

/// Bytes both ways. When the keyboard ends (`</dev/null`) the console is shown on.
async fn carry(console: TokioIo<Upgraded>, keys: &mut mpsc::Receiver<Vec<u8>>) -> std::io::Result<Left> {
    let (mut said, mut heard) = tokio::io::split(console);
    let mut bytes = [0; 4096];
    let mut typing = true;
    loop {
        tokio::select! {
            typed = keys.recv(), if typing => match typed {
                None => typing = false,
                Some(typed) => {
                    let leaves = typed.iter().position(|byte| *byte == DETACH);
                    heard.write_all(&typed[..leaves.unwrap_or(typed.len())]).await?;
                    heard.flush().await?;
                    if leaves.is_some() {
                        return Ok(Left::Visitor);
                    }
                }
            },
            len = said.read(&mut bytes) => match len? {
                0 => return Ok(Left::Console),
                len => {
                    let mut screen = stdout().lock();
                    screen.write_all(&bytes[..len])?;
                    screen.flush()?;
                }
            },
        }
    }
}

/// Reads the keyboard on a thread of its own: a terminal cannot be waited for together with a socket in every case (it
/// may be a file). The thread ends with the program.
fn keyboard() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(TYPED_MAX);
    std::thread::spawn(move || {
        let mut bytes = [0; 1024];
        loop {
            match stdin().lock().read(&mut bytes) {
                Ok(0) | Err(_) => return,
                Ok(len) if sender.blocking_send(bytes[..len].to_vec()).is_err() => return,
                Ok(_) => {}
            }
        }
    });
    receiver
}

/// A terminal whose keys go to the guest, Ctrl-C too; as it was before when this is dropped.
struct Raw(Option<(Stdin, Termios)>);

impl Raw {
    fn enter() -> Result<Self, Problem> {
        let input = stdin();
        if !input.is_terminal() {
            return Ok(Self(None));
        }
        let failed = |error: rustix::io::Errno| {
            Problem::new(Code::Failed, format!("the terminal cannot be made raw: {error}"), "use another terminal")
        };
        let before = tcgetattr(&input).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&input, OptionalActions::Drain, &raw).map_err(failed)?;
        Ok(Self(Some((input, before))))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some((input, before)) = &self.0 {
            // Nobody can be told: the terminal is what would show it.
            let _ = tcsetattr(input, OptionalActions::Drain, before);
        }
    }
}
