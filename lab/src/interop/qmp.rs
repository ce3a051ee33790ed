//! QEMU's monitor, as far as disks need it. Source: QEMU's docs/interop/qmp-spec.rst.

use anyhow::Context;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A command takes milliseconds.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A connection to it.
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects to its socket.
    ///
    /// # Errors
    /// When nobody is there.
    pub fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        let mut this = Self { stream: BufReader::new(stream) };
        this.next()?;
        this.run("qmp_capabilities", &json!({}))?;
        Ok(this)
    }

    /// Runs a command; what it returned.
    ///
    /// # Errors
    /// QEMU's words, if it refuses.
    pub fn run(&mut self, command: &str, arguments: &Value) -> anyhow::Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments }).to_string() + "\n";
        self.stream.get_mut().write_all(line.as_bytes()).context("telling QEMU")?;
        loop {
            let answer = self.next()?;
            if let Some(error) = answer.get("error") {
                anyhow::bail!("QEMU refuses {command} {arguments}: {}", error["desc"]);
            }
            // Events come in between.
            if let Some(done) = answer.get("return") {
                return Ok(done.clone());
            }
        }
    }

    fn next(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        let len = self.stream.read_line(&mut line).context("waiting for QEMU")?;
        anyhow::ensure!(len > 0, "QEMU hung up");
        serde_json::from_str(&line).context("reading what QEMU says")
    }
}
