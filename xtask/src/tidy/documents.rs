//! Documents keep their form: the changelog (Keep a Changelog 1.1.0), the room table, and no large blobs.

use super::{Finding, SourceFile, edges};

const BLOB_BYTES: usize = 256 << 10;
const KINDS: [&str; 6] = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];

/// A file too large for a repository people clone.
pub fn blob(path: &str, bytes: usize) -> Option<Finding> {
    let text =
        format!("{} KiB, make it by a script or keep it out of git (at most {} KiB)", bytes >> 10, BLOB_BYTES >> 10);
    (bytes > BLOB_BYTES).then(|| Finding::new(path, 1, text))
}

/// `# Changelog`, `## [Unreleased]` first, releases as `## [1.2.3] - 2026-11-21`, changes under the six kinds.
pub fn changelog(text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut find = |line: usize, what: String| findings.push(Finding::new("CHANGELOG.md", line, what));
    if !text.starts_with("# Changelog\n") {
        find(1, "begins otherwise, use '# Changelog'".into());
    }
    let (mut releases, mut kind_seen) = (0, false);
    for (index, line) in text.lines().enumerate() {
        if let Some(kind) = line.strip_prefix("### ") {
            kind_seen = true;
            if !KINDS.contains(&kind) {
                find(index + 1, format!("'{kind}' is no kind of change, use one of {}", KINDS.join(", ")));
            }
        } else if let Some(release) = line.strip_prefix("## ") {
            if (releases == 0) != (release == "[Unreleased]") || releases > 0 && !is_release(release) {
                find(index + 1, format!("'{release}': use '[Unreleased]' first, then '[1.2.3] - 2026-11-21'"));
            }
            (releases, kind_seen) = (releases + 1, false);
        } else if line.starts_with("- ") && !kind_seen {
            find(index + 1, "a change without a kind, put it under '### Added' or the like".into());
        }
    }
    if releases == 0 {
        find(1, "no '## [Unreleased]', add it".into());
    }
    findings
}

fn is_release(title: &str) -> bool {
    let Some((version, date)) = title.strip_prefix('[').and_then(|rest| rest.split_once("] - ")) else {
        return false;
    };
    let numbers = |text: &str, by: char, count: usize| {
        let parts: Vec<&str> = text.split(by).collect();
        parts.len() == count && parts.iter().all(|part| part.parse::<u32>().is_ok())
    };
    numbers(version, '.', 3) && numbers(date, '-', 3)
}

/// The table under "## Rooms" in ARCHITECTURE.md says exactly what [`edges::ROOMS`] says.
pub fn room_table(text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let Some(folder) = cells[0].strip_prefix('`').and_then(|cell| cell.strip_suffix('`')) else {
            continue;
        };
        let Some(room) = edges::ROOMS.iter().find(|room| room.folder == folder) else {
            continue;
        };
        let said: Vec<&str> =
            cells.get(2).unwrap_or(&"").split([' ', ',']).filter(|word| !["", "–"].contains(word)).collect();
        let (mut said_sorted, mut may_use) = (said.clone(), room.may_use.to_vec());
        said_sorted.sort_unstable();
        may_use.sort_unstable();
        if said_sorted != may_use {
            let what = format!(
                "{folder} may use '{}' here, '{}' in xtask/src/tidy/edges.rs: make them equal",
                said.join(" "),
                room.may_use.join(" ")
            );
            findings.push(Finding::new("ARCHITECTURE.md", index + 1, what));
        }
        seen.push(folder);
    }
    let missing = edges::ROOMS.iter().filter(|room| !seen.contains(&room.folder));
    findings.extend(
        missing.map(|room| {
            Finding::new("ARCHITECTURE.md", 1, format!("{} is not in the room table, add it", room.folder))
        }),
    );
    findings
}

/// Every `B-11` that a source cites has its row in `docs/bug-classes.md`.
pub fn bug_classes(sources: &[SourceFile], page: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in sources.iter().filter(|file| !file.path.starts_with("xtask/")) {
        for (index, line) in file.text.lines().enumerate() {
            for (at, _) in line.match_indices("B-") {
                let id = line.get(at..at + 4).unwrap_or_default();
                let cited = at == 0 || !line.as_bytes()[at - 1].is_ascii_alphanumeric();
                let number = id.len() == 4 && id[2..].bytes().all(|byte| byte.is_ascii_digit());
                if cited && number && !page.contains(&format!("| {id} |")) {
                    let what = format!("{id} is not in docs/bug-classes.md, add its row");
                    findings.push(Finding::new(&file.path, index + 1, what));
                }
            }
        }
    }
    findings
}

/// Every page of `docs/rfd/` is in the list there.
pub fn rfd_list(tracked: &[String], list: &str) -> Vec<Finding> {
    let pages = tracked.iter().filter_map(|path| path.strip_prefix("docs/rfd/")).filter(|page| *page != "README.md");
    let missing = pages.filter(|page| !list.contains(&format!("({page})")));
    missing.map(|page| Finding::new("docs/rfd/README.md", 1, format!("{page} is not in the list, add it"))).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn large_files_are_found() {
        assert!(blob("a.img", BLOB_BYTES).is_none());
        assert!(blob("a.img", BLOB_BYTES + 1).is_some());
    }

    #[test]
    fn a_changelog_keeps_its_form() {
        let check = |text: &str, expect: &str| {
            let findings: Vec<String> = changelog(text).iter().map(ToString::to_string).collect();
            assert!(findings.iter().any(|finding| finding.contains(expect)), "{findings:?}");
        };
        let good = "# Changelog\n\n## [Unreleased]\n\n### Added\n- a\n\n## [0.1.0] - 2026-11-21\n\n### Fixed\n- b\n";
        assert!(changelog(good).is_empty());
        check(&good.replace("# Changelog\n", "# News\n"), "begins otherwise");
        check(&good.replace("Added", "New things"), "no kind of change");
        check(&good.replace("### Added\n", ""), "without a kind");
        check(&good.replace(" - 2026-11-21", ""), "'[0.1.0]'");
        check(&good.replace("[Unreleased]", "Soon"), "use '[Unreleased]' first");
        check("# Changelog\n", "no '## [Unreleased]'");
    }

    #[test]
    fn bug_classes_are_told_somewhere() {
        let source = |text: &str| [SourceFile::new("crates/block/src/lib.rs", text.into())];
        let page = "| B-11 | a stale write |\n";
        assert!(bug_classes(&source("// keeps B-11 away; GIB-12, B-1, B-x1"), page).is_empty());
        let found = bug_classes(&source("\n// as in B-12: lost"), page);
        assert_eq!(found[0].to_string(), "crates/block/src/lib.rs:2: B-12 is not in docs/bug-classes.md, add its row");
    }

    #[test]
    fn pages_that_are_not_listed_are_found() {
        let tracked = ["docs/rfd/0001-layout.md", "docs/rfd/README.md", "docs/rfd/0002-disk.md"].map(str::to_owned);
        let found = rfd_list(&tracked, "| [0001](0001-layout.md) | Rooms |");
        assert_eq!(found.len(), 1);
        assert!(found[0].to_string().contains("0002-disk.md"));
    }

    #[test]
    fn the_room_table_is_the_codes() {
        let row = |room: &edges::Room| format!("| `{}` | it | {} | – |\n", room.folder, room.may_use.join(" "));
        let good: String = edges::ROOMS.iter().map(row).collect();
        assert!(room_table(&good).is_empty());
        let less: String = edges::ROOMS.iter().skip(1).map(row).collect();
        assert!(room_table(&less)[0].to_string().contains("not in the room table"));
        let wrong = good.replace("| `crates/wire` | it | units |", "| `crates/wire` | it | units, block |");
        assert!(room_table(&wrong)[0].to_string().contains("make them equal"));
    }
}
