//! `muskox vm edit NAME`: the present description in an editor. Nothing is done for a text that is left as it was; a
//! text that is refused stays where it is: somebody's work is not thrown away.

use crate::client::Ask;
use crate::print::Ended;
use crate::spec;
use api::{Call, Code, Problem, VmDetails, VmSpecRequest};
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use units::VmName;

/// Names tried for the editor's file.
const NAMES_MAX: u32 = 100;

/// What came of it.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Edited {
    details: VmDetails,
    #[serde(skip)]
    changed: bool,
}

impl Edited {
    /// For people.
    pub fn text(&self, name: &VmName) -> String {
        if self.changed {
            let notes = crate::vm::notes(&self.details);
            format!("'{name}' has a new description; it holds from the next start on\n{notes}")
        } else {
            format!("'{name}' is left as it was\n")
        }
    }
}

/// Shows the description, lets it be changed, sends it.
///
/// # Errors
/// The node's problem; that there is no editor. What was typed is kept, and its path told.
pub fn run(ask: &Ask, name: &VmName) -> Result<Ended<Edited>, Problem> {
    let look = || ask.call::<VmDetails>(Call::named("vm_show"), name.as_str(), None::<&()>);
    let before = look()?;
    let path = write_new(name, &before.spec)?;
    let kept = |problem: Problem| {
        let hint = format!("your text is kept: {}; {}", path.display(), problem.hint);
        Problem { hint: hint.trim_end_matches("; ").to_owned(), ..problem }
    };
    open_editor(&path).map_err(kept)?;
    let spec = spec::read(&path).map_err(kept)?;
    if spec.text == before.spec {
        drop(std::fs::remove_file(&path));
        return Ok(Ended::Done(Edited { details: before, changed: false }));
    }
    let now = look().map_err(kept)?;
    if now.spec != before.spec {
        let text = format!("the description of '{name}' was changed by somebody else meanwhile");
        return Err(kept(Problem::new(Code::Busy, text, format!("look at it with `muskox vm show {name}`"))));
    }
    let sent = ask.call(Call::named("vm_edit"), name.as_str(), Some(&VmSpecRequest { spec: spec.text }));
    let details = sent.map_err(|problem| kept(spec::blame(&spec.from, problem)))?;
    drop(std::fs::remove_file(&path));
    Ok(Ended::Done(Edited { details, changed: true }))
}

/// A file that nobody else has, for its owner only: a description may name keys.
fn write_new(name: &VmName, text: &str) -> Result<PathBuf, Problem> {
    let folder = std::env::temp_dir();
    let mut made = Err(std::io::Error::other("no name is free"));
    let mut path = folder.clone();
    for number in 0..NAMES_MAX {
        path = folder.join(format!("muskox-{name}-{}-{number}.toml", std::process::id()));
        made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        match &made {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            _ => break,
        }
    }
    let written = made.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map(|()| path).map_err(|error| {
        let text = format!("no file for the editor in {}: {error}", folder.display());
        Problem::new(Code::Files, text, "set TMPDIR, or use `muskox vm edit NAME FILE`")
    })
}

/// `$VISUAL` and `$EDITOR` are commands with arguments, for the shell, as other programs take them.
fn open_editor(path: &Path) -> Result<(), Problem> {
    let set = |name| std::env::var(name).ok().filter(|editor| !editor.trim().is_empty());
    let editor = set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| "vi".to_owned());
    let ended = Command::new("sh").args(["-c", &format!("{editor} \"$1\""), "sh"]).arg(path).status();
    let failed = |what: String| Problem::new(Code::Files, format!("the editor '{editor}': {what}"), "set EDITOR");
    match ended {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(status.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}
