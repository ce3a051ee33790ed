//! Our end of one connection to a monitor, without the socket: bytes in, messages out; commands in, bytes out.

use super::command::VersionInfo;
use super::event::{Event, EventKind, Timestamp};
use super::line::Lines;
use super::text::shown;
use super::{Command, CommandError, QmpError};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Questions without an answer. QEMU itself stops reading at 8 (`QMP_REQ_QUEUE_LEN_MAX` of `monitor/qmp.c`).
pub const PENDING_MAX: usize = 32;

/// The id of `qmp_capabilities`; ours begin above.
const NEGOTIATION: u64 = 0;

/// A question, within one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

/// A connection that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Which QEMU.
    pub version: VersionInfo,
    /// Whether commands may go out of band.
    pub out_of_band: bool,
}

/// What a monitor said.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// Commands may be sent from here on.
    Ready(Ready),
    /// An answer.
    Reply {
        /// To which question.
        id: Id,
        /// What; read it with [`Client::decode`].
        result: Result<Value, CommandError>,
    },
    /// Something happened.
    Event(Event),
}

#[derive(Debug)]
enum Phase {
    Greeting,
    Negotiating(Ready),
    Ready { out_of_band: bool },
}

/// Our end of a connection.
#[derive(Debug)]
pub struct Client {
    lines: Lines,
    phase: Phase,
    want_out_of_band: bool,
    output: Vec<u8>,
    last_id: u64,
    /// Names of the commands that wait for an answer.
    pending: BTreeMap<u64, &'static str>,
}

#[derive(Serialize)]
struct Request<'a, C> {
    #[serde(skip_serializing_if = "Option::is_none")]
    execute: Option<&'static str>,
    #[serde(rename = "exec-oob", skip_serializing_if = "Option::is_none")]
    exec_oob: Option<&'static str>,
    arguments: &'a C,
    id: u64,
}

#[derive(Serialize)]
struct QmpCapabilities {
    enable: &'static [&'static str],
}

#[derive(Deserialize)]
struct Greeting {
    version: VersionInfo,
    #[serde(default)]
    capabilities: Vec<Value>,
}

#[derive(Deserialize)]
struct RawError {
    class: String,
    desc: String,
}

impl Client {
    /// A connection just made. `want_out_of_band`: whether to ask for the right to overtake commands that hang.
    #[must_use]
    pub fn new(want_out_of_band: bool) -> Self {
        Self {
            lines: Lines::default(),
            phase: Phase::Greeting,
            want_out_of_band,
            output: Vec::new(),
            last_id: NEGOTIATION,
            pending: BTreeMap::new(),
        }
    }

    /// Puts `command` into the output; its answer will carry this id.
    ///
    /// # Errors
    /// If the monitor is not ready for it, or too many commands wait. Nothing was put out then.
    pub fn execute<C: Command>(&mut self, command: &C) -> Result<Id, QmpError> {
        let Phase::Ready { out_of_band } = self.phase else {
            return Err(QmpError::NotReady { command: C::NAME });
        };
        if C::OUT_OF_BAND && !out_of_band {
            return Err(QmpError::NotReady { command: C::NAME });
        }
        if self.pending.len() >= PENDING_MAX {
            return Err(QmpError::TooMany);
        }
        self.last_id += 1;
        self.put(C::NAME, C::OUT_OF_BAND, command, self.last_id);
        self.pending.insert(self.last_id, C::NAME);
        Ok(Id(self.last_id))
    }

    /// The bytes to send now.
    #[must_use]
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Takes from `input` up to the first whole message, if there is one. Call it again until it returns `None`.
    ///
    /// # Errors
    /// If the monitor does not speak QMP; the connection is to be closed then.
    pub fn receive(&mut self, input: &mut &[u8]) -> Result<Option<Incoming>, QmpError> {
        while let Some(line) = self.lines.next(input)? {
            if line.trim_ascii().is_empty() {
                continue;
            }
            if let Some(incoming) = self.message(&line)? {
                return Ok(Some(incoming));
            }
        }
        Ok(None)
    }

    /// What the answer to a `C` says.
    ///
    /// # Errors
    /// If it is not an answer to a `C`.
    pub fn decode<C: Command>(value: Value) -> Result<C::Reply, QmpError> {
        serde_json::from_value(value).map_err(|error| malformed(&format!("answer to {}: {error}", C::NAME)))
    }

    fn put<A: Serialize>(&mut self, name: &'static str, out_of_band: bool, arguments: &A, id: u64) {
        let (execute, exec_oob) = if out_of_band { (None, Some(name)) } else { (Some(name), None) };
        let request = Request { execute, exec_oob, arguments, id };
        serde_json::to_writer(&mut self.output, &request)
            .expect("our commands always serialize, and memory takes them");
        self.output.push(b'\n');
    }

    fn message(&mut self, line: &[u8]) -> Result<Option<Incoming>, QmpError> {
        let mut fields: Map<String, Value> =
            serde_json::from_slice(line).map_err(|error| malformed(&format!("{error}")))?;
        if let Some(greeting) = fields.remove("QMP") {
            return self.greeted(greeting).map(|()| None);
        }
        if let Some(name) = fields.get("event").and_then(Value::as_str) {
            let timestamp = fields.get("timestamp").and_then(|stamp| Timestamp::deserialize(stamp).ok());
            let timestamp = timestamp.ok_or_else(|| malformed("an event without a time"))?;
            let data = fields.get("data").cloned().unwrap_or_default();
            return Ok(Some(Incoming::Event(Event { timestamp, kind: EventKind::decode(name, data) })));
        }
        let result = match (fields.remove("return"), fields.remove("error")) {
            (Some(value), None) => Ok(value),
            (None, Some(error)) => {
                let error: RawError = serde_json::from_value(error).map_err(|error| malformed(&format!("{error}")))?;
                Err(CommandError::new(&error.class, &error.desc))
            }
            _ => return Err(malformed("neither greeting, event, answer nor error")),
        };
        self.answered(fields.get("id"), result)
    }

    fn greeted(&mut self, greeting: Value) -> Result<(), QmpError> {
        if !matches!(self.phase, Phase::Greeting) {
            return Err(malformed("a second greeting"));
        }
        let greeting: Greeting = serde_json::from_value(greeting).map_err(|error| malformed(&format!("{error}")))?;
        let offered = greeting.capabilities.iter().any(|capability| capability == "oob");
        let out_of_band = offered && self.want_out_of_band;
        let enable: &[&str] = if out_of_band { &["oob"] } else { &[] };
        self.put("qmp_capabilities", false, &QmpCapabilities { enable }, NEGOTIATION);
        let mut version = greeting.version;
        version.package = shown(&version.package);
        self.phase = Phase::Negotiating(Ready { version, out_of_band });
        Ok(())
    }

    fn answered(
        &mut self,
        id: Option<&Value>,
        result: Result<Value, CommandError>,
    ) -> Result<Option<Incoming>, QmpError> {
        let Some(id) = id else {
            return Err(result.err().map_or_else(|| malformed("an answer without an id"), QmpError::Unread));
        };
        let number = id.as_u64();
        if let (Phase::Negotiating(ready), Some(NEGOTIATION)) = (&self.phase, number) {
            result.map_err(QmpError::Refused)?;
            let ready = ready.clone();
            self.phase = Phase::Ready { out_of_band: ready.out_of_band };
            return Ok(Some(Incoming::Ready(ready)));
        }
        let number = number.filter(|number| self.pending.remove(number).is_some());
        let number = number.ok_or_else(|| QmpError::UnknownId { id: shown(&id.to_string()) })?;
        Ok(Some(Incoming::Reply { id: Id(number), result }))
    }
}

fn malformed(what: &str) -> QmpError {
    QmpError::Malformed { what: shown(what) }
}
