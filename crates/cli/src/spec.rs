//! Descriptions of VMs as files: read here, understood by the node.

use api::{Code, Problem};
use std::io::Read;
use std::path::Path;

/// No description is longer; the node takes less.
const SPEC_MAX_BYTES: u64 = 64 << 10;

/// A description and where it came from.
pub struct Spec {
    /// What errors call it.
    pub from: String,
    /// The text.
    pub text: String,
}

/// Reads a description; `-` is the standard input.
///
/// # Errors
/// [`Code::Files`], with the file's name.
pub fn read(file: &Path) -> Result<Spec, Problem> {
    let from = if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() };
    let unreadable = |what: String| Problem::new(Code::Files, format!("{from}: {what}"), "nothing was changed");
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        std::io::stdin().lock().take(SPEC_MAX_BYTES + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(file).and_then(|open| open.take(SPEC_MAX_BYTES + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| unreadable(error.to_string()))?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len > SPEC_MAX_BYTES) {
        return Err(unreadable(format!("longer than {SPEC_MAX_BYTES} bytes: that is no description of a VM")));
    }
    let text = String::from_utf8(bytes).map_err(|_| unreadable("not UTF-8".into()))?;
    Ok(Spec { from, text })
}

/// A problem with what a description says, with the file in front: `web1.toml: line 3: …`.
pub fn blame(from: &str, problem: Problem) -> Problem {
    match problem.code {
        Code::BadRequest => Problem { text: format!("{from}: {}", problem.text), ..problem },
        _ => problem,
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: what is wrong with a description is found in its file; other problems are not blamed on it. Method: both.
    #[test]
    fn the_file_is_named_for_what_it_says() {
        let problem = |code| blame("web1.toml", Problem::new(code, "line 3: no such key", ""));
        assert_eq!(problem(Code::BadRequest).text, "web1.toml: line 3: no such key");
        assert_eq!(problem(Code::Exists).text, "line 3: no such key");
    }

    #[test]
    fn a_missing_file_is_named() {
        let problem = read(Path::new("no/such/file.toml")).err().expect("there is none");
        assert!(problem.code == Code::Files && problem.text.starts_with("no/such/file.toml: "), "{problem:?}");
        assert!(read(Path::new("/dev/zero")).err().expect("endless").text.contains("longer than"));
    }
}
