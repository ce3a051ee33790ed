//! Long work of this machine, as people see it: what goes on, how far it is, what it came to. Kept as long as the node
//! runs; what a former life left behind is cleared away when it starts, and what it did not finish is said to have failed.

use crate::clock::now_s;
use crate::image;
use crate::service::Node;
use api::{Code, Problem, Progress, Work, WorkList, WorkState};
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc};
use units::VolumeName;
use units::sabotage::{Bug, planted};

/// Remembered, the newest.
const WORKS_MAX: usize = 100;
/// Imports at a time: more only wait for the same disks.
const AT_A_TIME: usize = 2;
/// Imports that wait for their turn.
const WAITING_MAX: usize = 32;
/// The machine with the store may be away when this node starts.
const CLEAR_PAUSE: Duration = Duration::from_secs(5);

/// The table of works.
pub struct Works {
    /// A note of each piece of work that goes on, for the next life.
    folder: PathBuf,
    table: RefCell<VecDeque<Row>>,
    count: Cell<u64>,
    since_s: u64,
    to: mpsc::Sender<(Ticket, image::Import)>,
    inbox: RefCell<Option<mpsc::Receiver<(Ticket, image::Import)>>>,
}

/// What goes on, for the node that is started after this one was killed.
#[derive(Serialize, Deserialize)]
struct Note {
    work: Work,
    volume: VolumeName,
}

struct Row {
    work: Work,
    volume: VolumeName,
    cancel: Rc<Cancel>,
}

#[derive(Default)]
struct Cancel {
    wished: Cell<bool>,
    told: Notify,
}

/// A piece of work's own hold on its row.
pub struct Ticket {
    id: String,
    cancel: Rc<Cancel>,
}

impl Works {
    /// What a former life left in `folder`, as failed; nothing else yet.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        let (to, inbox) = mpsc::channel(WAITING_MAX);
        let table = RefCell::new(former(&folder));
        Self { folder, table, count: Cell::new(0), since_s: now_s(), to, inbox: RefCell::new(Some(inbox)) }
    }

    /// All of it, the newest first.
    #[must_use]
    pub fn list(&self) -> WorkList {
        WorkList { works: self.table.borrow().iter().rev().map(|row| row.work.clone()).collect() }
    }

    /// Puts an import in the queue.
    ///
    /// # Errors
    /// [`Code::InUse`]: one into the same volume goes on; [`Code::Busy`]: too many wait.
    pub fn begin(&self, import: image::Import) -> Result<Work, Problem> {
        if self.fills(&import.volume) {
            let text = format!("an image is being copied into the volume '{}' already", import.volume);
            return Err(Problem::new(Code::InUse, text, "wait until that is over, or cancel it"));
        }
        let full = |_| Problem::new(Code::Busy, "too many imports wait for their turn", "ask again when some are done");
        let place = self.to.try_reserve().map_err(full)?;
        self.count.set(self.count.get() + 1);
        // After a restart of the node an old number finds nothing, rather than other work.
        let id = format!("import-{:x}-{}", self.since_s, self.count.get());
        let work = Work {
            id: id.clone(),
            what: format!("copy the {} image '{}' into the volume '{}'", import.format, import.path, import.volume),
            state: WorkState::Running,
            progress: None,
            text: "waits for its turn".to_owned(),
        };
        let cancel = Rc::new(Cancel::default());
        let mut table = self.table.borrow_mut();
        table.push_back(Row { work: work.clone(), volume: import.volume.clone(), cancel: Rc::clone(&cancel) });
        if table.len() > WORKS_MAX
            && let Some(oldest) = table.iter().position(|row| row.work.state != WorkState::Running)
        {
            table.remove(oldest);
        }
        self.note(&Note { work: work.clone(), volume: import.volume.clone() });
        place.send((Ticket { id, cancel }, import));
        Ok(work)
    }

    /// Without the note the next life does not know of it; that is no reason not to begin.
    fn note(&self, note: &Note) {
        let text = serde_json::to_string(note).expect("plain values are JSON");
        let path = self.path(&note.work.id);
        let written = std::fs::create_dir_all(&self.folder).and_then(|()| std::fs::write(&path, text));
        if let Err(error) = written {
            tracing::warn!("'{}' could not be written: {error}", path.display());
        }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    /// Whether something goes on that fills this volume.
    #[must_use]
    pub fn fills(&self, volume: &VolumeName) -> bool {
        self.table.borrow().iter().any(|row| row.volume == *volume && row.work.state == WorkState::Running)
    }

    /// One piece of work.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn show(&self, id: &str) -> Result<Work, Problem> {
        self.with(id, |row| row.work.clone())
    }

    /// Wishes that it end; it says by itself when it has.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub fn cancel(&self, id: &str) -> Result<Work, Problem> {
        self.with(id, |row| {
            row.cancel.wished.set(true);
            row.cancel.told.notify_one();
            row.work.clone()
        })
    }

    /// How far it is.
    pub fn tell(&self, ticket: &Ticket, text: &str, progress: Option<Progress>) {
        // A row that goes on is never forgotten.
        let _ = self.with(&ticket.id, |row| {
            text.clone_into(&mut row.work.text);
            row.work.progress = progress;
        });
    }

    fn end(&self, ticket: &Ticket, outcome: Result<String, Problem>) {
        let (state, text) = match outcome {
            Ok(text) => (WorkState::Done, text),
            Err(problem) if ticket.cancel.wished.get() => (WorkState::Cancelled, problem.text),
            Err(problem) if problem.hint.is_empty() => (WorkState::Failed, problem.text),
            Err(problem) => (WorkState::Failed, format!("{}; {}", problem.text, problem.hint)),
        };
        tracing::info!("{}: {state}: {text}", ticket.id);
        let _ = std::fs::remove_file(self.path(&ticket.id));
        let _ = self.with(&ticket.id, |row| {
            row.work.state = state;
            row.work.text = text;
        });
    }

    fn with<T>(&self, id: &str, deed: impl FnOnce(&mut Row) -> T) -> Result<T, Problem> {
        let mut table = self.table.borrow_mut();
        let missing = || {
            let text = format!("this machine knows no work '{id}'");
            Problem::new(
                Code::NotFound,
                text,
                "`muskox image list` has what it knows; what ended is forgotten when the node is restarted",
            )
        };
        table.iter_mut().find(|row| row.work.id == id).map(deed).ok_or_else(missing)
    }
}

impl Ticket {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Waits until it is cancelled.
    pub async fn cancelled(&self) -> Problem {
        while !self.cancel.wished.get() {
            self.cancel.told.notified().await;
        }
        Problem::new(Code::Failed, "the volume holds a part of the image", "")
    }
}

/// What a former life did not finish. Its notes go: they are in the table now.
fn former(folder: &Path) -> VecDeque<Row> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut rows: Vec<Row> = entries
        .filter_map(|entry| {
            let note = std::fs::read_to_string(entry.path()).ok().and_then(|text| serde_json::from_str(&text).ok());
            let _ = std::fs::remove_file(entry.path());
            let Note { work, volume } = note?;
            let text = format!(
                "this machine's node was ended meanwhile: the volume '{volume}' may hold a part of the image; import it again, or remove \
                 the volume"
            );
            let work = Work { state: WorkState::Failed, text, ..work };
            Some(Row { work, volume, cancel: Rc::new(Cancel::default()) })
        })
        .collect();
    rows.sort_by(|one, other| one.work.id.cmp(&other.work.id));
    rows.into()
}

/// Clears away what a former life left, then does what is in the queue, for ever.
pub async fn run(node: Rc<Node>) {
    let Some(mut inbox) = node.works.inbox.borrow_mut().take() else { return };
    image::end_former(&node);
    tokio::task::spawn_local(release(Rc::clone(&node)));
    let places = Rc::new(Semaphore::new(AT_A_TIME));
    while let Some((ticket, import)) = inbox.recv().await {
        let (node, places) = (Rc::clone(&node), Rc::clone(&places));
        tokio::task::spawn_local(async move {
            let outcome = tokio::select! {
                problem = ticket.cancelled() => Err(problem),
                place = places.acquire() => {
                    let _place = place.expect("nobody closes it");
                    image::run(&node, &ticket, import).await
                }
            };
            node.works.end(&ticket, outcome);
        });
    }
}

async fn release(node: Rc<Node>) {
    assert!(!planted(Bug::TaskPanics), "planted");
    while let Err(problem) = image::release_former(&node).await {
        tracing::warn!("claims of a former life are not released yet: {problem}");
        tokio::time::sleep(CLEAR_PAUSE).await;
    }
}
