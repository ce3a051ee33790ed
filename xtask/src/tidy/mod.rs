//! The house rules that neither rustc nor clippy keeps, as a test. A finding reads `path:line: what, use what`.
//!
//! Each rule is a function from text to findings and is shown failing on a bad snippet in its own `mod test`.

mod documents;
mod edges;
mod limits;
mod mask;
mod words;

use anyhow::Context;
use std::fmt;
use std::path::Path;
use std::process::Command;

/// One broken rule.
#[derive(Debug)]
pub struct Finding {
    path: String,
    line: usize,
    what: String,
}

/// A Rust file: as written, and with comments and literals blanked out.
pub struct SourceFile {
    path: String,
    text: String,
    masked: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

impl SourceFile {
    fn new(path: &str, text: String) -> Self {
        Self { path: path.to_owned(), masked: mask::mask(&text), text }
    }
}

/// What is wrong with the tree at `root`, one line each.
///
/// # Errors
/// When the tree cannot be read, or git or cargo cannot be run.
pub fn run(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    let mut sources = Vec::new();
    for path in tracked(root)? {
        // A file that is staged but deleted again has nothing to say.
        let Ok(bytes) = std::fs::read(root.join(&path)) else {
            continue;
        };
        findings.extend(documents::blob(&path, bytes.len()));
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        findings.extend(words::machine_paths(&path, &text));
        if path.ends_with(".rs") && !path.starts_with("fuzz/") {
            sources.push(SourceFile::new(&path, text));
        }
    }
    for file in &sources {
        findings.extend(words::banned(file));
        findings.extend(words::unsafe_walls(file));
        findings.extend(words::module_doc(file));
    }
    let read = |path: &str| std::fs::read_to_string(root.join(path)).with_context(|| format!("reading {path}"));
    match limits::read_ratchet(&read("xtask/ratchet.txt")?) {
        Ok(ratchet) => findings.extend(limits::check(&sources, &ratchet)),
        Err(finding) => findings.push(finding),
    }
    findings.extend(documents::changelog(&read("CHANGELOG.md")?));
    findings.extend(documents::room_table(&read("ARCHITECTURE.md")?));
    let packages = edges::packages(root)?;
    findings.extend(edges::check(&packages));
    findings.extend(edges::dead(&packages, &sources, &read("Cargo.toml")?));
    findings.extend(documents::bug_classes(&sources, &read("docs/bug-classes.md")?));
    findings.extend(documents::rfd_list(&tracked(root)?, &read("docs/rfd/README.md")?));
    for package in &packages {
        findings.extend(edges::manifest(package, &read(&package.manifest)?));
    }
    Ok(findings.iter().map(ToString::to_string).collect())
}

/// The files git knows or would add.
fn tracked(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut command = Command::new("git");
    command.args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]).current_dir(root);
    let listed = command.output().context("running git ls-files")?;
    anyhow::ensure!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut paths: Vec<String> = names.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    paths.sort();
    paths.dedup();
    Ok(paths)
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: the rules hold in this tree. Method: run them all.
    #[test]
    fn the_tree_is_tidy() {
        let findings = run(&crate::root()).unwrap();
        assert!(findings.is_empty(), "\n{}", findings.join("\n"));
    }
}
