//! What the store says while the demo runs: its changes, asked for again and again over the API of the machine that
//! holds it, kept as evidence and in memory.

use super::evidence::{StoreChange, Writer, now_us};
use super::http;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// While the machine with the store is away.
const EVERY_WHEN_AWAY: Duration = Duration::from_millis(100);

/// An object as it was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When this value was first seen.
    pub at_us: u64,
    /// Its revision.
    pub revision: u64,
    /// Which object.
    pub key: String,
    /// Its value.
    pub value: Value,
}

#[derive(Default)]
struct Memory {
    newest: u64,
    objects: BTreeMap<String, Seen>,
    all: Vec<Seen>,
}

/// The store, watched by a thread of its own.
pub struct Feed {
    memory: Arc<Mutex<Memory>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Feed {
    /// Watches from now on. Moments that come from here are late by at most `every`, and the time of a call.
    ///
    /// # Errors
    /// When the kernel gives no thread.
    pub fn start(socket: PathBuf, writer: Arc<Writer>, every: Duration) -> anyhow::Result<Self> {
        let (memory, over) = (Arc::new(Mutex::new(Memory::default())), Arc::new(AtomicBool::new(false)));
        let (shared, end) = (Arc::clone(&memory), Arc::clone(&over));
        let watch = move || {
            let mut looked = None;
            while !end.load(Ordering::Relaxed) {
                let began = now_us();
                let from = shared.lock().expect("no panic under this lock").newest;
                let pause = match http::call(&socket, "GET", &format!("/v1/store/changes/{from}"), None) {
                    Ok(reply) => {
                        take(&shared, &writer, &reply, looked)?;
                        looked = Some(began);
                        every
                    }
                    Err(_) => EVERY_WHEN_AWAY,
                };
                std::thread::sleep(pause);
            }
            Ok(())
        };
        let thread = std::thread::Builder::new().name("feed".into()).spawn(watch)?;
        Ok(Self { memory, over, thread: Some(thread) })
    }

    /// The newest revision that was seen.
    pub fn revision(&self) -> u64 {
        self.memory.lock().expect("no panic under this lock").newest
    }

    /// An object as it was seen last.
    pub fn object(&self, key: &str) -> Option<Seen> {
        self.memory.lock().expect("no panic under this lock").objects.get(key).cloned()
    }

    /// The first change after `revision` that `wanted` says yes to.
    pub fn first_after(&self, revision: u64, wanted: impl Fn(&Seen) -> bool) -> Option<Seen> {
        let memory = self.memory.lock().expect("no panic under this lock");
        memory.all.iter().find(|seen| seen.revision > revision && wanted(seen)).cloned()
    }

    /// Every change after `revision` that `wanted` says yes to, the oldest first.
    pub fn all_after(&self, revision: u64, wanted: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        let memory = self.memory.lock().expect("no panic under this lock");
        let from = memory.all.partition_point(|seen| seen.revision <= revision);
        memory.all[from..].iter().filter(|seen| wanted(seen)).cloned().collect()
    }

    /// Ends watching.
    ///
    /// # Errors
    /// When evidence could not be written.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.over.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(watched)) => watched,
            _ => anyhow::bail!("the thread that watches the store panicked"),
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn take(memory: &Mutex<Memory>, writer: &Writer, reply: &Value, looked: Option<u64>) -> anyhow::Result<()> {
    let at_us = now_us();
    let mut memory = memory.lock().expect("no panic under this lock");
    for change in reply["changes"].as_array().into_iter().flatten() {
        let revision = change["revision"].as_u64().unwrap_or_default();
        let key = change["key"].as_str().unwrap_or_default().to_owned();
        let value: Option<Value> = Some(change["value"].clone()).filter(|value| !value.is_null());
        writer.store(&StoreChange { revision, key: key.clone(), value: value.clone(), not_before_us: looked })?;
        let value = value.unwrap_or(Value::Null);
        let seen = Seen { at_us, revision, key: key.clone(), value };
        memory.all.push(seen.clone());
        memory.objects.insert(key, seen);
    }
    memory.newest = reply["next"].as_u64().unwrap_or(memory.newest).max(memory.newest);
    Ok(())
}
