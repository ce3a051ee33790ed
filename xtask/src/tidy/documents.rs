//! Documents keep their form: the changelog (Keep a Changelog 1.1.0), the room table, and no large blobs.

use super::{Finding, edges};

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
