//! Calls about jobs, and about the store's changes.

use super::Desk;
use super::view::get;
use crate::store::failed;
use api::{Code, Job, JobList, JobNote, MigrationReceipt, Problem, StoreChange, StoreChanges};
use cluster::job::{JobError, JobId, Outcome, PREFIX, Plan, Record, Task, cancel};
use cluster::store::{Engine, Entry, Revision, StoreError};
use host::runtime::now;
use std::rc::Rc;
use units::Millis;

/// A wish to cancel meets the job's own saves; each is one transaction of several a second.
const TRIES: u32 = 16;
/// Changes in one answer.
const CHANGES_MAX: usize = 500;
/// Bytes of values in one answer: with their keys and quotes they fit a reply's 1 MiB.
const CHANGES_MAX_BYTES: usize = 400 << 10;
/// Objects that are nobody's to read: a token's hash proves nothing, but it is none of an audit's business.
const SECRET: [&str; 1] = ["/token/"];

impl Desk {
    /// All jobs, the newest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn job_list(&self) -> Result<JobList, Problem> {
        let range = |engine: &mut dyn Engine| engine.range(PREFIX).map_err(|error| failed(&error));
        let mut entries = self.store.ask(range).await?.entries;
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.created));
        // One that cannot be read is a newer muskox's.
        let jobs = entries.iter().filter_map(|entry| Record::<Task>::read(&entry.value).ok());
        let jobs = jobs.map(|it| self.as_of_now(&it));
        Ok(JobList { jobs: jobs.collect() })
    }

    /// One job.
    ///
    /// # Errors
    /// [`Code::NotFound`].
    pub async fn job_show(&self, name: &str) -> Result<Job, Problem> {
        let id = parse_id(name)?;
        let record = self.store.ask(move |engine| read(engine, &id).map(|(_, record)| record)).await?;
        Ok(self.as_of_now(&record))
    }

    /// What it waits for right now says more than what was recorded; and its time goes on between two records.
    fn as_of_now(&self, record: &Record<Task>) -> Job {
        let job = shown(record);
        let since = match record.outcome {
            None => record.silence(&self.clock, now()).unwrap_or_default(),
            Some(_) => Millis(0),
        };
        Job { blocked: self.waits_for(&record.id).or(job.blocked), spent_ms: job.spent_ms + since.0, ..job }
    }

    /// Wishes that a job be undone.
    ///
    /// # Errors
    /// [`Code::NotFound`]; [`Code::NotPossible`]: it has ended.
    pub async fn job_cancel(self: &Rc<Self>, name: &str) -> Result<Job, Problem> {
        let id = parse_id(name)?;
        for _ in 0..TRIES {
            let key = id.clone();
            if self.store.ask(move |engine| wish_undone(engine, &key)).await? {
                self.reread(&id);
                return self.job_show(name).await;
            }
        }
        Err(Problem::new(Code::Busy, format!("job {id} moves too fast"), "ask again"))
    }

    /// Changes of the store after a revision.
    ///
    /// # Errors
    /// [`Code::BadRequest`]; [`Code::NotPossible`]: they are no longer kept.
    pub async fn store_changes(&self, from: &str) -> Result<StoreChanges, Problem> {
        let from = from.parse::<u64>().map(Revision).map_err(|_| {
            Problem::new(Code::BadRequest, format!("'{from}' is no revision"), "give a number; zero is the beginning")
        })?;
        self.store.ask(move |engine| changes(engine, from)).await
    }
}

fn parse_id(name: &str) -> Result<JobId, Problem> {
    name.parse()
        .map_err(|error: units::IdentError| Problem::new(Code::BadRequest, error.to_string(), "see `muskox job list`"))
}

fn read(engine: &mut dyn Engine, id: &JobId) -> Result<(Entry, Record<Task>), Problem> {
    let missing = || Problem::new(Code::NotFound, format!("there is no job '{id}'"), "see `muskox job list`");
    let entry = get(engine, &Record::<Task>::key(id))?.ok_or_else(missing)?;
    let foreign =
        |error: JobError| Problem::new(Code::StoreFailed, error.to_string(), "run the muskox version that wrote it");
    let record = Record::<Task>::read(&entry.value).map_err(foreign)?;
    Ok((entry, record))
}

/// Whether the wish is written down; not, if the job moved on meanwhile.
fn wish_undone(engine: &mut dyn Engine, id: &JobId) -> Result<bool, Problem> {
    let (entry, record) = read(engine, id)?;
    if record.cancel && record.outcome.is_none() {
        return Ok(true);
    }
    let ended = |error: JobError| Problem::new(Code::NotPossible, error.to_string(), "see `muskox job show`");
    let txn = cancel::<Task>(&entry).map_err(ended)?;
    engine.txn(&txn).map(|outcome| outcome.held).map_err(|error| failed(&error))
}

fn shown(record: &Record<Task>) -> Job {
    let outcome = record.outcome.as_ref().map(|outcome| match outcome {
        Outcome::Done => "done",
        Outcome::Undone { .. } => "undone",
        Outcome::Lost { .. } => "lost",
        Outcome::Conflict => "conflict",
    });
    let receipt = match &record.plan {
        Task::Migrate(plan) => Some(MigrationReceipt {
            total_ms: record.spent_ms.0,
            bytes: plan.receipt.measured.bytes.map(|bytes| bytes.0),
            rounds: plan.receipt.measured.rounds,
            cpu_blackout_ms: plan.receipt.measured.cpu_blackout_ms.map(|span| span.0),
            hand_over_ms: plan.receipt.hand_over_ms.map(|span| span.0),
        }),
        Task::Recover(_) => None,
    };
    let note = |note: &cluster::job::Note| JobNote {
        after_ms: note.after_ms.0,
        stage: note.stage.clone(),
        why: note.why.clone(),
    };
    Job {
        id: record.id.to_string(),
        kind: record.plan.kind().to_owned(),
        vm: record.owned.vm.clone(),
        stage: record.plan.stage().to_owned(),
        outcome: outcome.map(str::to_owned),
        why: record.outcome.as_ref().and_then(Outcome::why).map(str::to_owned),
        blocked: record.blocked.clone(),
        cancel: record.cancel,
        spent_ms: record.spent_ms.0,
        history: record.history.iter().map(note).collect(),
        receipt,
    }
}

fn changes(engine: &mut dyn Engine, from: Revision) -> Result<StoreChanges, Problem> {
    let from = match engine.changes("/", from, CHANGES_MAX) {
        // From the beginning means: as far back as they are kept.
        Err(StoreError::Compacted { oldest, .. }) if from == Revision(0) => oldest,
        _ => from,
    };
    let found = engine.changes("/", from, CHANGES_MAX).map_err(|error| match error {
        StoreError::Compacted { .. } => Problem::new(Code::NotPossible, error.to_string(), "ask from zero"),
        error => failed(&error),
    })?;
    // An answer ends between two revisions, never within one, so that the next one misses nothing.
    let (mut kept, mut bytes, mut next) = (Vec::new(), 0, from);
    for group in found.chunk_by(|a, b| a.at == b.at) {
        let whole = group[0].at != found[found.len() - 1].at || found.len() < CHANGES_MAX;
        bytes += group.iter().map(|it| it.value.as_ref().map_or(0, String::len) + it.key.as_str().len()).sum::<usize>();
        if next != from && (!whole || bytes > CHANGES_MAX_BYTES) {
            break;
        }
        kept.extend(group.iter().filter(|it| !SECRET.iter().any(|prefix| it.key.as_str().starts_with(prefix))));
        next = group[0].at;
    }
    let change = |it: &&cluster::store::Change| StoreChange {
        revision: it.at.0,
        key: it.key.to_string(),
        // Every value is JSON; what is not is shown as it is.
        value: it.value.as_ref().map(|text| serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into())),
    };
    Ok(StoreChanges { changes: kept.iter().map(change).collect(), next: next.0 })
}

#[cfg(test)]
mod test {
    use super::*;
    use cluster::store::{Memory, Op, Txn};

    /// Goal: changes are told in pieces that fit together, without secrets. Method: more than fit one answer; the pieces
    /// put together are all of them, in order.
    #[test]
    fn changes_come_in_pieces_without_secrets() {
        let mut engine = Memory::new();
        let put = |key: &str, value: String| Op::Put { key: key.parse().expect("a key"), value, lease: None };
        for n in 0..700 {
            let then = vec![put("/vm/a", n.to_string()), put("/token/x", "1".into())];
            engine.txn(&Txn { then, ..Txn::default() }).expect("plain");
        }
        let (mut from, mut seen) = (Revision(0), Vec::new());
        loop {
            let piece = changes(&mut engine, from).expect("all kept");
            if piece.next == from.0 {
                break;
            }
            assert!(piece.changes.iter().all(|change| change.key == "/vm/a"));
            seen.extend(piece.changes.into_iter().filter_map(|change| change.value.map(|value| value.to_string())));
            from = Revision(piece.next);
        }
        assert_eq!(seen, (0..700).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}
