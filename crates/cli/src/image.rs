//! `muskox image import`: a disk's image into a volume, by this machine's node. Ctrl-C ends the work itself: half an
//! image is nobody's wish.

use crate::client::{Ask, block_on};
use crate::print::{Ended, ended, finish};
use crate::progress::{self, Meter};
use crate::watch::{Interrupts, Waited, Watch};
use api::{Call, Code, ImageImportRequest, Problem, Work, WorkList, WorkState};
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use units::table::{self, printable};
use units::{ByteLen, PoolName, VolumeName, parse_size};

/// An image's words.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Copy an image file of this machine into a volume. Ctrl-C cancels it.
    #[command(after_help = "Examples:
  muskox image import debian-12.qcow2 web1-root --size 20G
  muskox image import old-server.img web1-root --pool fast
  muskox image import database.img web1-data --raw

The volume is made if there is none; otherwise it must be nobody's and large enough. What is plainly no disk is refused.")]
    Import {
        /// The image file.
        file: PathBuf,
        /// The volume.
        volume: VolumeName,
        /// On which pool a new volume is made; without it the only one.
        #[arg(long)]
        pool: Option<PoolName>,
        /// How long a new volume is; without it as long as the image's disk.
        #[arg(long, value_parser = parse_size)]
        size: Option<ByteLen>,
        /// What the file is; without it what it looks like.
        #[arg(long, value_parser = PossibleValuesParser::new(["raw", "qcow2"]))]
        format: Option<String>,
        /// The same as --format raw: its bytes are the disk's, whatever they look like.
        #[arg(long, conflicts_with = "format")]
        raw: bool,
        /// Only begin it.
        #[arg(long)]
        no_wait: bool,
    },
    /// Imports of this machine that go on, and the newest that have ended since its node was started.
    List,
}

impl Arguments {
    /// Asks and prints the answer.
    pub fn run(&self) -> ExitCode {
        let Verb::Import { file, volume, pool, size, format, raw, no_wait } = &self.verb else {
            let works = self.ask.call(Call::named("work_list"), "", None::<&()>);
            return finish(self.ask.json, works, list);
        };
        let (ask, format) = (&self.ask, if *raw { Some("raw".to_owned()) } else { format.clone() });
        let request = absolute(file).map(|path| {
            let (volume, pool) = (volume.clone(), pool.clone());
            ImageImportRequest { path, format, volume, pool, size: size.map(|size| size.0) }
        });
        let outcome = request.and_then(|request| block_on(import(ask, &request, *no_wait)));
        ended(ask.json, outcome, text)
    }
}

fn text(work: &Work) -> String {
    match work.state {
        WorkState::Running => format!("work {}: {}\n", printable(&work.id), printable(&work.what)),
        _ => format!("{}\n", printable(&work.text)),
    }
}

fn list(list: &WorkList) -> String {
    let row = |work: &Work| {
        let done = work.progress.as_ref().filter(|progress| progress.total > 0);
        let done = done.map_or_else(
            || "-".to_owned(),
            |progress| format!("{} %", u128::from(progress.done) * 100 / u128::from(progress.total)),
        );
        [work.id.clone(), work.state.to_string(), done, work.what.clone(), work.text.clone()]
    };
    let rows: Vec<_> = list.works.iter().map(row).collect();
    table::render(["ID", "STATE", "DONE", "WHAT", "TEXT"], &rows)
}

/// The node has another working directory.
fn absolute(file: &Path) -> Result<String, Problem> {
    let unusable =
        |what: &str| Problem::new(Code::Files, format!("'{}' {what}", file.display()), "give the file another name");
    let path = std::path::absolute(file).map_err(|error| unusable(&format!("is no file's name: {error}")))?;
    path.to_str().map(str::to_owned).ok_or_else(|| unusable("is not UTF-8"))
}

async fn import(ask: &Ask, request: &ImageImportRequest, no_wait: bool) -> Result<Ended<Work>, Problem> {
    let mut interrupts = Interrupts::new()?;
    // Not interrupted: without its number it could not be cancelled.
    let work: Work = ask.ask(Call::named("image_import"), "", Some(request)).await?;
    if no_wait {
        return Ok(Ended::Done(work));
    }
    let mut watch = Watch::new(ask, "work_show", &work.id);
    let mut meter = Meter::default();
    let mut over = |work: &Work, shown: &mut crate::watch::Shown<'_>| {
        if let Some(progress) = &work.progress {
            let rate = meter.rate(shown.now, progress.done);
            shown.progress(&progress::line(progress, rate));
        }
        work.state != WorkState::Running
    };
    let left = match watch.until(&mut interrupts, &mut over).await? {
        Waited::Over(work) => return Ok(judged(work)),
        Waited::Interrupted(seen) => seen,
    };
    if !ask.json {
        eprintln!("cancelling …");
    }
    cancel(ask, &work.id).await?;
    match watch.until(&mut interrupts, &mut over).await? {
        Waited::Over(work) => Ok(judged(work)),
        Waited::Interrupted(seen) => {
            Ok(Ended::Left(seen.or(left), format!("work {} was told to end and has not yet", work.id)))
        }
    }
}

async fn cancel(ask: &Ask, id: &str) -> Result<(), Problem> {
    let told = ask.ask::<Work>(Call::named("work_cancel"), id, None::<&()>).await;
    told.map(drop).map_err(|problem| {
        let text = format!("work {id} could not be told to end, it may go on: {}", problem.text);
        Problem { text, ..problem }
    })
}

fn judged(work: Work) -> Ended<Work> {
    match work.state {
        WorkState::Done | WorkState::Running => Ended::Done(work),
        WorkState::Failed => {
            let problem = Problem::new(Code::Failed, work.text.clone(), "");
            Ended::Failed(work, problem)
        }
        WorkState::Cancelled => {
            let text = if work.text.is_empty() { "cancelled".to_owned() } else { format!("cancelled: {}", work.text) };
            Ended::Failed(work, Problem::new(Code::Failed, text, ""))
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use api::Progress;

    /// D18. Goal: imports are looked at without their number. Method: golden text.
    #[test]
    fn imports_are_a_table() {
        let work = |id: &str, state, progress| Work {
            id: id.into(),
            what: "copy the raw image 'a' into the volume 'v'".into(),
            state,
            progress,
            text: "said\u{1b}so".into(),
        };
        let half = Progress { done: 1 << 61, total: 1 << 63, left_ms: None };
        let works = vec![work("import-2", WorkState::Running, Some(half)), work("import-1", WorkState::Failed, None)];
        let expect = "\
ID        STATE    DONE  WHAT                                        TEXT
import-2  running  25 %  copy the raw image 'a' into the volume 'v'  said\u{fffd}so
import-1  failed   -     copy the raw image 'a' into the volume 'v'  said\u{fffd}so
";
        assert_eq!(list(&WorkList { works }), expect);
    }
}
