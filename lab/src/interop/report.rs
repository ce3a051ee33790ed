//! What was tried and what came of it: `kernel.json` for programs, a table for people.

use anyhow::Context;
use serde::Serialize;
use std::path::Path;
use units::table;

/// More of a case's complaints say nothing new.
const DETAILS_MAX: usize = 12;

/// A detail is to be read in a table.
const DETAIL_MAX: usize = 600;

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// One case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its name; a finding's number stands first.
    pub name: String,
    /// How many things were as they have to be.
    pub pass: u32,
    /// How many were not.
    pub fail: u32,
    /// How many could not be tried.
    pub skip: u32,
    /// What was not as it has to be; else what was measured.
    pub detail: String,
}

/// What a case finds while it runs.
#[derive(Default)]
pub struct Verdict {
    pass: u32,
    wrong: Vec<String>,
    notes: Vec<String>,
}

impl Verdict {
    /// Something that has to be so; `what` says it as it should be.
    pub fn expect(&mut self, so: bool, what: impl Into<String>) {
        if so {
            self.pass += 1;
        } else {
            self.wrong.push(format!("not so: {}", what.into()));
        }
    }

    /// Two things that have to be the same.
    pub fn same<T: PartialEq + std::fmt::Debug>(&mut self, got: &T, want: &T, what: &str) {
        if got == want {
            self.pass += 1;
        } else {
            self.wrong.push(format!("{what}: {got:?}, not {want:?}"));
        }
    }

    /// Words that have to be among those of a tool or of muskox, and others that must not.
    pub fn says(&mut self, words: &str, with: &[&str], without: &[&str], whose: &str) {
        let missing = with.iter().filter(|word| !words.contains(*word));
        let missing: Vec<String> = missing.map(|word| format!("'{word}' is missing in: {}", one_line(words))).collect();
        let line_of = |word: &&&str| words.lines().find(|line| line.contains(**word));
        let unwanted = without.iter().filter_map(|word| Some((word, line_of(&word)?)));
        let unwanted: Vec<String> = unwanted.map(|(word, line)| format!("'{word}' is there: {line}")).collect();
        let wrong = [missing, unwanted].concat();
        if wrong.is_empty() {
            self.pass += 1;
        } else {
            self.wrong.push(format!("{whose}: {}", wrong.join(", ")));
        }
    }

    /// Something that was measured.
    pub fn note(&mut self, what: impl Into<String>) {
        self.notes.push(what.into());
    }

    /// The entry; `ended`: why the case ended before its time.
    #[must_use]
    pub fn entry(mut self, name: &str, ended: Option<String>) -> Entry {
        self.wrong.extend(ended.map(|why| format!("ended early: {why}")));
        let fail = u32::try_from(self.wrong.len()).unwrap_or(u32::MAX);
        self.wrong.truncate(DETAILS_MAX);
        let detail = if self.wrong.is_empty() { self.notes.join("; ") } else { self.wrong.join("; ") };
        let detail: String = one_line(&detail).chars().take(DETAIL_MAX).collect();
        // A case that found nothing out has proved nothing.
        let skip = u32::from(fail == 0 && self.pass == 0);
        Entry { name: name.to_owned(), pass: self.pass, fail, skip, detail }
    }
}

/// Whether all of it is as it has to be.
#[must_use]
pub fn is_fine(entries: &[Entry]) -> bool {
    !entries.is_empty() && entries.iter().all(|entry| entry.fail == 0 && entry.skip == 0 && entry.pass > 0)
}

/// For people.
#[must_use]
pub fn shown(entries: &[Entry]) -> String {
    let row = |entry: &Entry| {
        let [pass, fail, skip] = [entry.pass, entry.fail, entry.skip].map(|count| count.to_string());
        [entry.name.clone(), pass, fail, skip, entry.detail.clone()]
    };
    table::render(["case", ">pass", ">fail", ">skip", "detail"], &entries.iter().map(row).collect::<Vec<_>>())
}

/// Writes `kernel.json`.
///
/// # Errors
/// When the disk refuses.
pub fn write(entries: &[Entry], path: &Path) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(entries)? + "\n";
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: what is not so, what ended early and what found nothing out is never well. Method: a verdict of each kind.
    #[test]
    fn a_case_that_proves_nothing_is_not_well() {
        let good = || {
            let mut verdict = Verdict::default();
            verdict.expect(true, "");
            verdict.same(&1, &1, "one");
            verdict.says("newer than the array", &["newer"], &["add it again"], "pool show");
            verdict.note("1 s");
            verdict
        };
        let entry = good().entry("a", None);
        assert_eq!((entry.pass, entry.fail, entry.skip, entry.detail.as_str()), (3, 0, 0, "1 s"));
        assert!(is_fine(std::slice::from_ref(&entry)));
        assert!(!is_fine(&[entry.clone(), Verdict::default().entry("nothing", None)]));
        assert!(!is_fine(&[entry.clone(), good().entry("early", Some("no guest".into()))]));
        assert!(!is_fine(&[]));
        let mut bad = good();
        bad.says("stale: add it again", &["newer"], &["add it again"], "pool show");
        let bad = bad.entry("bad", None);
        assert!(
            bad.fail == 1 && bad.detail.contains("'newer' is missing in: stale: add it again, 'add it again' is there"),
            "{}",
            bad.detail
        );
        assert!(shown(&[entry, bad]).lines().count() == 3);
    }
}
