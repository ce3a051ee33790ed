//! Asking before something is gone for good.

use api::{Code, Problem};
use std::io::{BufRead, IsTerminal, Write};
use units::table::printable;

/// Lets pass who said `--yes`, or types the name.
///
/// # Errors
/// [`Code::NotPossible`]: nobody there to be asked, or the answer was another.
pub fn by_name(yes: bool, what: &str, name: &str) -> Result<(), Problem> {
    by_name_knowing(yes, what, name, String::new)
}

/// The same, with what else would be lost; it is found out only for who is asked.
///
/// # Errors
/// As [`by_name`].
pub fn by_name_knowing(yes: bool, what: &str, name: &str, lost: impl FnOnce() -> String) -> Result<(), Problem> {
    if yes {
        return Ok(());
    }
    let lost = lost();
    if !std::io::stdin().is_terminal() {
        let text = format!("{what} '{name}' would be gone for good{lost}, and there is no terminal to ask at");
        return Err(Problem::new(Code::NotPossible, text, "say --yes; nothing was changed"));
    }
    eprint!("{what} '{name}' will be gone for good{}. Type its name to go on: ", printable(&lost));
    drop(std::io::stderr().flush());
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    read.map_err(|error| Problem::new(Code::Files, format!("the answer cannot be read: {error}"), "say --yes"))?;
    if is_name(&line, name) {
        return Ok(());
    }
    Err(Problem::new(Code::NotPossible, format!("that is not '{name}'"), "nothing was changed"))
}

fn is_name(line: &str, name: &str) -> bool {
    line.trim_end_matches(['\n', '\r']) == name
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn only_the_name_itself_will_do() {
        assert!(is_name("data\n", "data") && is_name("data", "data"));
        for other in ["", "\n", "y\n", "dat\n", "data2\n", "DATA\n", " data\n"] {
            assert!(!is_name(other, "data"), "{other:?}");
        }
        assert!(by_name(true, "volume", "data").is_ok());
    }
}
