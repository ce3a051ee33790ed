//! One call over the node's Unix socket, within a time.

use api::{BODY_MAX_BYTES, Call, Code, JSON, Problem, SOCKET};
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{Connection, SendRequest};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::error::Error;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// What a request sends.
pub type Body = Full<Bytes>;

/// How to reach the node, and how to print.
#[derive(Args, Clone, Debug)]
pub struct Ask {
    /// The folder that the node was started with (`muskox node run --root DIR`).
    #[arg(long, value_name = "DIR", default_value = "/", global = true)]
    root: PathBuf,
    /// Print the reply as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Give up waiting for an answer after this many seconds (the node goes on).
    #[arg(long, value_name = "SECONDS", default_value_t = 30, global = true)]
    timeout: u32,
}

impl Ask {
    /// Calls this machine's node, and does nothing else meanwhile.
    ///
    /// # Errors
    /// The node's problem, or ours with reaching it.
    pub fn call<T: DeserializeOwned>(
        &self,
        call: &Call,
        name: &str,
        request: Option<&impl Serialize>,
    ) -> Result<T, Problem> {
        block_on(self.ask(call, name, request))
    }

    /// Calls this machine's node.
    ///
    /// # Errors
    /// The node's problem, or ours with reaching it.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        call: &Call,
        name: &str,
        request: Option<&impl Serialize>,
    ) -> Result<T, Problem> {
        let socket = self.socket();
        let body = request.map_or_else(Vec::new, |request| serde_json::to_vec(request).expect("requests are JSON"));
        let exchanged = tokio::time::timeout(self.patience(), exchange(&socket, call, name, body)).await;
        let (status, body) = exchanged.unwrap_or_else(|_| Err(self.silent()))?;
        let foreign = |error| not_understood(&socket, &error);
        if status == 200 {
            serde_json::from_slice(&body).map_err(foreign)
        } else {
            Err(serde_json::from_slice::<Problem>(&body).map_err(foreign)?)
        }
    }

    /// Where the node listens.
    pub fn socket(&self) -> PathBuf {
        self.root.join(SOCKET)
    }

    /// How long an answer may take.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }

    /// The problem of an answer that does not come.
    pub fn silent(&self) -> Problem {
        let text =
            format!("{} has not answered within {} s; it may still do it", self.socket().display(), self.timeout);
        Problem::new(Code::Unreachable, text, "look with `muskox node list`, then ask again with a longer --timeout")
    }
}

/// Runs what waits, on this thread.
///
/// # Errors
/// Its own; that the kernel gives us nothing to wait with.
pub fn block_on<T>(work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Problem::new(Code::Failed, format!("cannot start: {error}"), ""))?;
    runtime.block_on(work)
}

/// A connection to the node, for one request.
///
/// # Errors
/// [`Code::Unreachable`].
pub async fn connect(socket: &Path) -> Result<(SendRequest<Body>, Connection<TokioIo<UnixStream>, Body>), Problem> {
    let stream = UnixStream::connect(socket).await.map_err(|error| unreached(socket, &error))?;
    hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| lost(socket, &error))
}

/// Reads a reply to its end.
///
/// # Errors
/// [`Code::Unreachable`] if it breaks off or is too long.
pub async fn collect(socket: &Path, body: Incoming) -> Result<Bytes, Problem> {
    let body = Limited::new(body, BODY_MAX_BYTES).collect().await.map_err(|error| lost(socket, &*error))?;
    Ok(body.to_bytes())
}

/// The problem of a node that cannot be talked to.
pub fn lost(socket: &Path, error: &dyn Error) -> Problem {
    let text = format!("the node at {} cannot be talked to: {error}", socket.display());
    let hint = "check that `muskox node run` runs here with the same --root, and that you are root";
    Problem::new(Code::Unreachable, text, hint)
}

/// The problem of a node that does not answer at all: as a rule there is none yet, or who asks is not root.
fn unreached(socket: &Path, error: &std::io::Error) -> Problem {
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => "be root",
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            "start it with `muskox node install`, or `muskox node run --root DIR` with the same DIR; a machine of no \
             cluster needs `muskox node init` or `muskox node join` first"
        }
        _ => return lost(socket, error),
    };
    Problem { hint: hint.to_owned(), ..lost(socket, error) }
}

/// The problem of a reply that is not what it should be.
pub fn not_understood(socket: &Path, error: &serde_json::Error) -> Problem {
    let text = format!("the reply of {} is not understood: {error}", socket.display());
    Problem::new(Code::Failed, text, "use the muskox program that the node runs")
}

async fn exchange(socket: &Path, call: &Call, name: &str, body: Vec<u8>) -> Result<(u16, Bytes), Problem> {
    let request = Request::builder().method(call.method.as_str()).uri(call.path_for(name));
    let request = request.header("host", "muskox").header("content-type", JSON).body(Full::new(Bytes::from(body)));
    let request = request.map_err(|error| lost(socket, &error))?;
    let (mut sender, connection) = connect(socket).await?;
    // The connection's own error comes out of the request as well.
    let driver = tokio::spawn(async move { drop(connection.await) });
    let reply = sender.send_request(request).await.map_err(|error| lost(socket, &error))?;
    let status = reply.status().as_u16();
    let body = collect(socket, reply.into_body()).await?;
    driver.abort();
    Ok((status, body))
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: a stranger on a machine without a node hears what to do. Method: each kind of error that connecting gives.
    #[test]
    fn who_finds_no_node_hears_what_to_do() {
        let hint = |kind: ErrorKind| unreached(Path::new("/run/muskox/node.sock"), &kind.into()).hint;
        assert!(hint(ErrorKind::NotFound).contains("`muskox node init`"));
        assert!(hint(ErrorKind::ConnectionRefused).contains("`muskox node install`"));
        assert_eq!(hint(ErrorKind::PermissionDenied), "be root");
        assert!(hint(ErrorKind::TimedOut).contains("`muskox node run`"));
    }
}
