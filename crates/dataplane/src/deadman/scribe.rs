//! Writes the record on a thread of its own: a write that hangs (memory that has to be found first, a file system that was put
//! in the place of `/run`) keeps no guest running, and no vote from being withheld.

use super::record::{Record, Written};
use host::urgent::{Priority, real_time};
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;
use tokio::sync::watch;

/// What waits to be written. More than one is waiting only while a write hangs; what is newer holds all that is older.
const WAITING_MAX: usize = 4;
/// How long a vote waits until it is written; all votes together have 400 ms.
const WRITE_MAX: Duration = Duration::from_millis(300);
const STACK_BYTES: usize = 256 << 10;

/// The writer.
pub struct Scribe {
    to: SyncSender<(u64, Written)>,
    /// The newest that was written, or could not be, and why not.
    done: watch::Receiver<(u64, Option<String>)>,
}

impl Scribe {
    /// Begins to write.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(record: Record) -> io::Result<Self> {
        let (to, from) = sync_channel::<(u64, Written)>(WAITING_MAX);
        let (tell, done) = watch::channel((0, None));
        let write = move || {
            // So that whoever waits for it does not wait for ordinary processes. Refused, it is as slow as they are.
            let _ = real_time(Priority::First);
            while let Ok((number, written)) = from.recv() {
                let failed = record.save(&written).err().map(|error| error.to_string());
                if tell.send((number, failed)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("scribe".to_owned()).stack_size(STACK_BYTES).spawn(write)?;
        Ok(Self { to, done })
    }

    /// Has this written; whether it was taken. Nothing is waited for.
    pub fn write(&self, number: u64, written: Written) -> bool {
        self.to.try_send((number, written)).is_ok()
    }

    /// The newest that was written or failed, and why it failed.
    pub fn newest(&self) -> (u64, Option<String>) {
        self.done.borrow().clone()
    }

    /// Waits until this, or what came after it, is in the file.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn is_written(&self, number: u64) -> Result<(), String> {
        let mut done = self.done.clone();
        let written = async {
            let (_, failed) = done.wait_for(|(at, _)| *at >= number).await.map_err(|_| "its writer has ended")?.clone();
            failed.map_or(Ok(()), Err)
        };
        let late = |_| Err(format!("the write has not ended within {} ms", WRITE_MAX.as_millis()));
        tokio::time::timeout(WRITE_MAX, written).await.unwrap_or_else(late)
    }
}
