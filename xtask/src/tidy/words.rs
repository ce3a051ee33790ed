//! Words that do not belong: left-over markers, ignored tests, paths of somebody's machine, `unsafe` outside its walls,
//! and modules that do not say what they are.

use super::{Finding, SourceFile};

/// What may not stand in code, and what to do instead. Written in halves so that this file does not find itself.
const BANNED: [(&str, &str); 5] = [
    (concat!("FIX", "ME"), "do it now, or open an issue and cite it"),
    (concat!("dbg", "!"), "use tracing::debug!"),
    (concat!("to", "do!("), "write the code or leave the branch out"),
    (concat!("unimple", "mented!("), "return an error the caller can act on"),
    (concat!("#[ig", "nore"), "delete the test or make it run"),
];

/// Where `unsafe` may stand (STYLE.md, rule 15).
const UNSAFE_ROOMS: [&str; 2] = ["crates/host/", "crates/block/src/raid/simd"];

/// Folders that exist only on one machine. `/dev`, `/proc`, `/sys`, `/run` and `/var/lib` are the product's business.
const MACHINE_PATHS: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/tm", "p/")];

/// Left-over markers and ignored tests; the marker words count in comments too.
pub fn banned(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, (line, masked)) in file.text.lines().zip(file.masked.lines()).enumerate() {
        for (word, instead) in BANNED {
            let in_text = word == BANNED[0].0 && line.contains(word);
            if in_text || masked.contains(word) {
                findings.push(Finding::new(&file.path, index + 1, format!("'{word}': {instead}")));
            }
        }
    }
    findings
}

/// `unsafe` outside the rooms that may have it.
pub fn unsafe_walls(file: &SourceFile) -> Vec<Finding> {
    if UNSAFE_ROOMS.iter().any(|room| file.path.starts_with(room)) {
        return Vec::new();
    }
    let has_word =
        |line: &str| line.split(|char: char| !char.is_alphanumeric() && char != '_').any(|word| word == "unsafe");
    let lines = file.masked.lines().enumerate().filter(|(_, line)| has_word(line));
    lines
        .map(|(index, _)| Finding::new(&file.path, index + 1, "unsafe code: ask crates/host for a safe call"))
        .collect()
}

/// A module says what it is before anything else.
pub fn module_doc(file: &SourceFile) -> Option<Finding> {
    let first = file.text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!["))?;
    (!first.starts_with("//!"))
        .then(|| Finding::new(&file.path, 1, "no module doc, open with `//!`: its job, its invariant"))
}

/// Absolute paths of a machine, in any text file; documents may speak of them.
pub fn machine_paths(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for folder in MACHINE_PATHS {
            let stands_alone =
                |at: usize| !line[..at].ends_with(|char: char| char.is_alphanumeric() || "./_-*}".contains(char));
            if line.match_indices(folder).any(|(at, _)| stands_alone(at)) {
                findings.push(Finding::new(
                    path,
                    index + 1,
                    format!("'{folder}' is a path of one machine: use target/, a test directory or an argument"),
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod test {
    use super::*;

    fn file(path: &str, source: &str) -> SourceFile {
        SourceFile::new(path, source.to_owned())
    }

    #[test]
    fn banned_words_are_found_in_code_only() {
        for (word, _) in BANNED {
            let findings = banned(&file("a.rs", &format!("//! A.\nfn f() {{ {word} }}\n")));
            assert_eq!(findings.len(), 1, "{word}");
            assert!(findings[0].to_string().starts_with("a.rs:2: "), "{}", findings[0]);
        }
        let spoken = format!("//! Never `{}`.\nfn f() {{ say(\"{}\") }}\n", BANNED[1].0, BANNED[2].0);
        assert!(banned(&file("a.rs", &spoken)).is_empty());
        assert_eq!(banned(&file("a.rs", &format!("// {} later\n", BANNED[0].0))).len(), 1, "a marker in a comment");
    }

    #[test]
    fn unsafe_stays_in_its_rooms() {
        let source = concat!("fn f() { un", "safe { g() } }");
        assert_eq!(unsafe_walls(&file("crates/wire/src/a.rs", source)).len(), 1);
        assert!(unsafe_walls(&file("crates/host/src/a.rs", source)).is_empty());
        assert!(unsafe_walls(&file("crates/wire/src/a.rs", "// un\u{73}afe\nfn f() { is_unsafe_here() }")).is_empty());
    }

    #[test]
    fn a_module_without_doc_is_found() {
        assert!(module_doc(&file("a.rs", "fn f() {}")).is_some());
        assert!(module_doc(&file("a.rs", "// A.\nfn f() {}")).is_some());
        assert!(module_doc(&file("a.rs", "#![allow(unsafe_code)]\n//! A.\nfn f() {}")).is_none());
    }

    #[test]
    fn paths_of_a_machine_are_found() {
        for folder in MACHINE_PATHS {
            assert_eq!(machine_paths("a.md", &format!("see {folder}x")).len(), 1, "{folder}");
            assert_eq!(machine_paths("a.rs", &format!("\"{folder}x\"")).len(), 1, "{folder}");
        }
        assert!(
            machine_paths("a.md", concat!("target/tm", "p/x, /dev/null, /run/muskox, /var/lib/muskox, net/wo", "rk/x"))
                .is_empty()
        );
    }
}
