//! The store on its own thread. It is spoken to by messages: a message is a piece of work on the engine, done in turn,
//! so a decision sees the store as nobody else changes it meanwhile; its transaction compares all the same.

use api::{Code, Problem};
use cluster::store::{Engine, Entry, StoreError};
use host::store::Sqlite;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::ops::ControlFlow;
use std::path::Path;
use tokio::sync::{mpsc, oneshot, watch};

/// Work that waits: more than all machines of a cluster ask at once.
const INBOX_MAX: usize = 256;
/// Every object's form so far.
const FORM: u32 = 1;

/// Says whether the thread goes on.
type Work = Box<dyn FnOnce(&mut dyn Engine) -> ControlFlow<()> + Send>;

/// A way to the store's thread.
#[derive(Clone)]
pub struct Store {
    to: mpsc::Sender<Work>,
    /// The sender is the thread's: it is gone when the engine is closed.
    open: watch::Receiver<()>,
}

impl Store {
    /// Opens the store that is there, and starts its thread. The thread ends when every way to it is gone.
    ///
    /// # Errors
    /// [`Code::StoreFailed`]: there is none, or it is damaged. A missing store is never made anew.
    pub fn open(path: &Path) -> Result<Self, Problem> {
        if !path.is_file() {
            return Err(Problem::new(
                Code::StoreFailed,
                format!("the store '{}' is gone", path.display()),
                "bring it back from a backup; without it this cluster has forgotten who may do what",
            ));
        }
        Self::serve(Sqlite::open(path).map_err(|error| failed(&error))?)
    }

    /// Starts the thread of an engine.
    ///
    /// # Errors
    /// [`Code::Failed`] if there can be no more threads.
    pub fn serve(engine: impl Engine + Send + 'static) -> Result<Self, Problem> {
        let (to, mut inbox) = mpsc::channel::<Work>(INBOX_MAX);
        let (is_open, open) = watch::channel(());
        let serve = move || {
            let mut engine = engine;
            while let Some(work) = inbox.blocking_recv() {
                if work(&mut engine).is_break() {
                    break;
                }
            }
            drop(engine);
            drop(is_open);
        };
        let started = std::thread::Builder::new().name("store".into()).spawn(serve);
        started.map_err(|error| {
            Problem::new(Code::Failed, format!("no thread for the store: {error}"), "see ulimit -u")
        })?;
        Ok(Self { to, open })
    }

    /// Closes the engine, after what was asked before: its file is whole by itself then. Nothing can be asked any more.
    pub async fn close(&self) {
        let last: Work = Box::new(|_| ControlFlow::Break(()));
        let _ = self.to.send(last).await;
        // The thread's end is the answer.
        let _ = self.open.clone().changed().await;
    }

    /// Has `work` done on the engine and waits for what it comes to.
    ///
    /// # Errors
    /// What `work` says; [`Code::StoreFailed`] if the thread is gone.
    pub async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Engine) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let (answer_to, answer) = oneshot::channel();
        let work: Work = Box::new(move |engine| {
            // Who asked may have gone away; what was decided stays decided.
            let _ = answer_to.send(work(engine));
            ControlFlow::Continue(())
        });
        let gone = || Problem::new(Code::StoreFailed, "the store's thread has ended", "restart `muskox node run`");
        self.to.send(work).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// A store's error as a problem.
#[must_use]
pub fn failed(error: &StoreError) -> Problem {
    let hint = "nothing was changed; see to the disk under it; keep the file as it is, and bring back a backup if it is damaged";
    Problem::new(Code::StoreFailed, error.to_string(), hint)
}

/// What an object says.
///
/// # Errors
/// [`Code::StoreFailed`]: a newer muskox wrote it.
pub fn parse_object<T: DeserializeOwned>(entry: &Entry) -> Result<T, Problem> {
    #[derive(Deserialize)]
    struct Form {
        version: u32,
    }
    let wrong = |what: String| {
        let text = format!("the store's object {} is not understood: {what}", entry.key);
        Problem::new(Code::StoreFailed, text, "run the muskox version that wrote it")
    };
    let form: Form = serde_json::from_str(&entry.value).map_err(|error| wrong(error.to_string()))?;
    if form.version != FORM {
        return Err(wrong(format!("its version is {}, this muskox knows {FORM}", form.version)));
    }
    serde_json::from_str(&entry.value).map_err(|error| wrong(error.to_string()))
}
