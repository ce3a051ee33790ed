//! One call over the node's Unix socket, within a time.

use api::{BODY_MAX_BYTES, Call, Code, JSON, Problem, SOCKET};
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// How to reach the node, and how to print.
#[derive(Args, Debug)]
pub struct Ask {
    /// The folder that the node was started with (`muskox node run --root DIR`).
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Print the reply as JSON.
    #[arg(long)]
    pub json: bool,
    /// Give up waiting for an answer after this many seconds (the node goes on).
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u32,
}

impl Ask {
    /// Calls this machine's node.
    ///
    /// # Errors
    /// The node's problem, or ours with reaching it.
    pub fn call<T: DeserializeOwned>(
        &self,
        call: &Call,
        name: &str,
        request: Option<&impl Serialize>,
    ) -> Result<T, Problem> {
        let socket = self.root.join(SOCKET);
        let body = request.map_or_else(Vec::new, |request| serde_json::to_vec(request).expect("requests are JSON"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Problem::new(Code::Failed, format!("cannot start: {error}"), ""))?;
        let (status, body) = runtime.block_on(async {
            let patience = Duration::from_secs(self.timeout.into());
            let exchanged = tokio::time::timeout(patience, exchange(&socket, call, name, body)).await;
            exchanged.unwrap_or_else(|_| Err(self.silent(&socket)))
        })?;
        let foreign = |error: serde_json::Error| {
            let text = format!("the reply of {} is not understood: {error}", socket.display());
            Problem::new(Code::Failed, text, "use the muskox program that the node runs")
        };
        if status == 200 {
            serde_json::from_slice(&body).map_err(foreign)
        } else {
            Err(serde_json::from_slice::<Problem>(&body).map_err(foreign)?)
        }
    }

    fn silent(&self, socket: &Path) -> Problem {
        let text = format!("{} has not answered within {} s; it may still do it", socket.display(), self.timeout);
        Problem::new(Code::Unreachable, text, "look with `muskox node list`, then ask again with a longer --timeout")
    }
}

async fn exchange(socket: &Path, call: &Call, name: &str, body: Vec<u8>) -> Result<(u16, Bytes), Problem> {
    let lost = |error: &dyn Error| {
        let text = format!("the node at {} cannot be talked to: {error}", socket.display());
        Problem::new(
            Code::Unreachable,
            text,
            "check that `muskox node run` runs here with the same --root, and that you are root",
        )
    };
    let request = Request::builder().method(call.method.as_str()).uri(call.path_for(name));
    let request = request.header("host", "muskox").header("content-type", JSON).body(Full::new(Bytes::from(body)));
    let request = request.map_err(|error| lost(&error))?;
    let stream = UnixStream::connect(socket).await.map_err(|error| lost(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| lost(&error))?;
    // The connection's own error comes out of the request as well.
    let driver = tokio::spawn(async move { drop(connection.await) });
    let reply = sender.send_request(request).await.map_err(|error| lost(&error))?;
    let status = reply.status().as_u16();
    let body = Limited::new(reply.into_body(), BODY_MAX_BYTES).collect().await.map_err(|error| lost(&*error))?;
    driver.abort();
    Ok((status, body.to_bytes()))
}
