//! One call of muskox's API over a node's Unix socket, as any program could make it.

use anyhow::Context;
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A node that decides answers within milliseconds, a busy one within seconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest reply is a list; the API's own bound is 1 MiB.
const REPLY_MAX_BYTES: u64 = 2 << 20;

/// Asks and reads the reply.
///
/// # Errors
/// When nobody answers, or the answer is a problem: its text and hint.
pub fn call(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let body = body.map_or_else(String::new, Value::to_string);
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: muskox\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut text = String::new();
    stream.take(REPLY_MAX_BYTES).read_to_string(&mut text).with_context(|| format!("reading {method} {path}"))?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("{method} {path}: not HTTP: {text:?}"))?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    let value: Value = serde_json::from_str(body).with_context(|| format!("{method} {path}: not JSON: {body:?}"))?;
    if status == "200" {
        return Ok(value);
    }
    let say = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    anyhow::bail!("{method} {path}: {} {}", say("detail"), say("hint"));
}

#[cfg(test)]
mod test {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// Goal: a reply is read, a problem is an error with its words. Method: a server that says both, once each.
    #[test]
    fn replies_and_problems() {
        let folder = std::env::temp_dir().join(format!("muskox-lab-http-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let socket = folder.join("s");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let server = std::thread::spawn(move || {
            for answer in [
                "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{\"a\": 1 }",
                "HTTP/1.1 404 Not Found\r\n\r\n{\"detail\":\"no such VM\",\"hint\":\"look\"}",
            ] {
                let (mut stream, _) = listener.accept().expect("a caller");
                let mut head = [0; 400];
                let len = stream.read(&mut head).expect("a request");
                assert!(head[..len].starts_with(b"GET /v1/x HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).expect("it listens");
            }
        });
        assert_eq!(call(&socket, "GET", "/v1/x", None).expect("a reply")["a"], 1);
        let problem = call(&socket, "GET", "/v1/x", None).expect_err("a problem").to_string();
        assert!(problem.contains("no such VM look"), "{problem}");
        server.join().expect("both were answered");
        let _ = std::fs::remove_dir_all(&folder);
    }
}
