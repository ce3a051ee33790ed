//! `muskox job …`: work of several steps that goes on without whoever began it; and waiting for one.

use crate::client::Ask;
use crate::print::{Ended, finish};
use crate::watch::{Interrupts, Watch};
use api::{Call, Code, Job, JobList, MigrationReceipt, Problem};
use clap::{Args, Subcommand};
use std::process::ExitCode;
use units::table::{self, printable};
use units::{ByteLen, Millis};

/// A job's words.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Jobs that go on, and the newest that have ended.
    List,
    /// One job with its history.
    Show {
        /// Its id.
        #[arg(value_parser = id)]
        id: String,
    },
    /// Cancel a job, if it can still be undone.
    Cancel {
        /// Its id.
        #[arg(value_parser = id)]
        id: String,
    },
}

impl Arguments {
    /// Asks and prints the answer.
    pub fn run(&self) -> ExitCode {
        let ask = &self.ask;
        match &self.verb {
            Verb::List => finish(ask.json, ask.call(Call::named("job_list"), "", None::<&()>), list),
            Verb::Show { id } => finish(ask.json, ask.call(Call::named("job_show"), id, None::<&()>), show),
            Verb::Cancel { id } => finish(ask.json, ask.call(Call::named("job_cancel"), id, None::<&()>), show),
        }
    }
}

/// An id goes into a path: nothing in it may end the segment.
fn id(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !text.is_empty() && text.len() <= 128 && text.chars().all(plain) && text.chars().any(|c| c != '.') {
        return Ok(text.to_owned());
    }
    Err("that is no id of a job: see `muskox job list`".into())
}

/// Waits until a job has ended and shows its stages as they come.
///
/// # Errors
/// The node's problem with looking, if it stays.
pub async fn wait(ask: &Ask, id: &str, interrupts: &mut Interrupts) -> Result<Ended<Job>, Problem> {
    let mut told = 0;
    let mut blocked: Option<String> = None;
    let waited = Watch::new(ask, "job_show", id)
        .until::<Job>(interrupts, |job, shown| {
            for line in stages(job).skip(told) {
                shown.line(&line);
            }
            told = told.max(job.history.len());
            if job.blocked != blocked {
                blocked.clone_from(&job.blocked);
                if let Some(what) = &job.blocked {
                    shown.line(&format!("           waits: {what}"));
                }
            }
            job.outcome.is_some()
        })
        .await?;
    Ok(waited.judged(&format!("job {id} goes on: muskox job show {id}"), judge))
}

/// Only `done` is what was asked for.
fn judge(job: &Job) -> Result<(), Problem> {
    let outcome = job.outcome.as_deref().unwrap_or("still going on");
    if outcome == "done" {
        return Ok(());
    }
    let why = job.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    let hint = format!("see `muskox job show {}` and `muskox why vm {}`", job.id, job.vm);
    let text = match (job.kind.as_str(), outcome) {
        ("recover", "lost" | "undone") => format!("'{}' could not be started{why}", job.vm),
        ("migrate", "undone") => format!("'{}' was not moved{why}", job.vm),
        (kind, outcome) => format!("{kind} of '{}': {outcome}{why}", job.vm),
    };
    Err(Problem::new(Code::Failed, text, hint))
}

/// A line for each step; the note of the end names the stage that it ended in, which was said, so it says how it ended.
fn stages(job: &Job) -> impl Iterator<Item = String> + '_ {
    let notes = &job.history;
    notes.iter().enumerate().map(|(index, note)| {
        let again = index > 0 && index + 1 == notes.len() && notes[index - 1].stage == note.stage;
        let end = job.outcome.as_deref().filter(|_| again);
        let why = note.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        format!("{:>9}  {}{why}", Millis(note.after_ms).to_string(), end.unwrap_or(&note.stage))
    })
}

/// For people a VM that is brought back is started, as one is for the first time.
fn kind(job: &Job) -> String {
    if job.kind == "recover" { "start".to_owned() } else { job.kind.clone() }
}

fn list(list: &JobList) -> String {
    let row = |job: &Job| {
        [
            job.id.clone(),
            kind(job),
            job.vm.to_string(),
            job.outcome.clone().unwrap_or_else(|| if job.cancel { "cancelling".into() } else { "goes on".into() }),
            job.stage.clone(),
            Millis(job.spent_ms).to_string(),
            job.why.clone().or_else(|| job.blocked.as_ref().map(|what| format!("waits: {what}"))).unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = list.jobs.iter().map(row).collect();
    table::render(["ID", "KIND", "VM", "OUTCOME", "STAGE", "TIME", "WHY"], &rows)
}

/// A job with all that is known.
pub fn show(job: &Job) -> String {
    let mut text = table::facts(&[
        ("job", job.id.clone()),
        ("kind", kind(job)),
        ("vm", job.vm.to_string()),
        ("stage", job.stage.clone()),
        ("outcome", job.outcome.clone().unwrap_or_default()),
        ("why", job.why.clone().unwrap_or_default()),
        ("waits", job.blocked.clone().unwrap_or_default()),
        ("cancel", if job.cancel { "wished".into() } else { String::new() }),
        ("time", Millis(job.spent_ms).to_string()),
    ]);
    for line in stages(job) {
        text.push_str(&printable(&line));
        text.push('\n');
    }
    text + &job.receipt.as_ref().map_or_else(String::new, receipt)
}

/// What a migration cost.
pub fn receipt(receipt: &MigrationReceipt) -> String {
    let time = |span: Option<u64>| span.map_or_else(|| "-".to_owned(), |ms| Millis(ms).to_string());
    table::facts(&[
        ("total", Millis(receipt.total_ms).to_string()),
        ("blackout", time(receipt.cpu_blackout_ms)),
        ("hand-over", time(receipt.hand_over_ms)),
        ("bytes", receipt.bytes.map_or_else(|| "-".to_owned(), |bytes| ByteLen(bytes).to_string())),
        ("rounds", receipt.rounds.map_or_else(|| "-".to_owned(), |rounds| rounds.to_string())),
    ])
}

#[cfg(test)]
pub mod test {
    use super::*;
    use api::JobNote;

    /// A migration that was done.
    pub fn migrated() -> Job {
        let note = |after_ms, stage: &str, why: Option<&str>| JobNote {
            after_ms,
            stage: stage.into(),
            why: why.map(str::to_owned),
        };
        Job {
            id: "migrate-web1-3".into(),
            kind: "migrate".into(),
            vm: "web1".parse().unwrap(),
            stage: "done".into(),
            outcome: Some("done".into()),
            why: None,
            blocked: None,
            cancel: false,
            spent_ms: 4_210,
            history: vec![note(12, "prepare", None), note(4_210, "done", Some("said\u{1b}so"))],
            receipt: Some(MigrationReceipt {
                total_ms: 4_210,
                bytes: Some(300 << 20),
                rounds: Some(3),
                cpu_blackout_ms: Some(87),
                hand_over_ms: None,
            }),
        }
    }

    /// Goal: a job tells its history and what it cost. Method: golden text.
    #[test]
    fn a_job_is_shown() {
        let expect = "\
job:      migrate-web1-3
kind:     migrate
vm:       web1
stage:    done
outcome:  done
time:     4.2 s
    12 ms  prepare
    4.2 s  done: said\u{fffd}so
total:      4.2 s
blackout:   87 ms
hand-over:  -
bytes:      300 MiB
rounds:     3
";
        assert_eq!(show(&migrated()), expect);
    }

    /// Goal: no stage is said twice: the last line is the end. Method: a job as it is recorded, on its way and ended.
    #[test]
    fn the_last_line_is_how_it_ended() {
        let mut job = migrated();
        let note = |after_ms, stage: &str| JobNote { after_ms, stage: stage.into(), why: None };
        job.history = vec![note(0, "prepare"), note(5, "clear"), note(7, "clear")];
        assert_eq!(stages(&job).collect::<Vec<_>>(), ["     0 ms  prepare", "     5 ms  clear", "     7 ms  done"]);
        job.outcome = None;
        assert_eq!(stages(&job).last().unwrap(), "     7 ms  clear");
    }

    #[test]
    fn jobs_are_a_table() {
        let mut waiting = migrated();
        waiting.outcome = None;
        waiting.kind = "recover".into();
        waiting.stage = "raise".into();
        waiting.blocked = Some("store1 does not answer".into());
        let expect = "\
ID              KIND     VM    OUTCOME  STAGE  TIME   WHY
migrate-web1-3  migrate  web1  done     done   4.2 s
migrate-web1-3  start    web1  goes on  raise  4.2 s  waits: store1 does not answer
";
        assert_eq!(list(&JobList { jobs: vec![migrated(), waiting] }), expect);
    }

    /// Goal: only `done` is what was asked for. Method: each outcome.
    #[test]
    fn outcomes_are_judged() {
        let mut job = migrated();
        assert!(judge(&job).is_ok());
        job.why = Some("the deadline is over".into());
        for (kind, outcome, text) in [
            ("migrate", "undone", "'web1' was not moved: the deadline is over"),
            ("migrate", "lost", "migrate of 'web1': lost: the deadline is over"),
            ("migrate", "conflict", "migrate of 'web1': conflict: the deadline is over"),
            // D1: what a start failed by is said as it is.
            ("recover", "lost", "'web1' could not be started: the deadline is over"),
        ] {
            (job.kind, job.outcome) = (kind.into(), Some(outcome.into()));
            assert_eq!(judge(&job).unwrap_err().text, text);
        }
    }

    #[test]
    fn an_id_stays_within_its_place_in_the_path() {
        assert!(id("migrate-web1-3").is_ok() && id("7").is_ok());
        for bad in ["", ".", "..", "a/b", "a?b", "a b", "a#", "%2e", &"a".repeat(129)] {
            assert!(id(bad).is_err(), "{bad}");
        }
    }
}
