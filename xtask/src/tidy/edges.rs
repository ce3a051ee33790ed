//! Which room may use which: the walls of the house (docs/rfd/0001-layout.md; the picture is in ARCHITECTURE.md).
//! Read from `cargo metadata`, so that no way of writing a dependency escapes.

use super::{Finding, SourceFile};
use anyhow::Context;
use std::path::Path;
use std::process::Command;

/// A room, and whom it may use in the program; tests may use more.
pub struct Room {
    /// Its folder.
    pub folder: &'static str,
    /// Packages of the workspace that it may depend on.
    pub may_use: &'static [&'static str],
    /// More of them, in tests only.
    pub tests_may_use: &'static [&'static str],
}

/// The table. A room that does not exist yet has no row, a new one brings its own.
pub const ROOMS: [Room; 13] = [
    room("crates/units", &[], &[]),
    room("crates/wire", &["units"], &[]),
    room("crates/block", &["units"], &[]),
    room("crates/cluster", &["units"], &[]),
    room("crates/host", &["units", "wire", "block", "cluster"], &[]),
    room("crates/dataplane", &["units", "wire", "block", "cluster", "host"], &[]),
    room("crates/api", &["units"], &[]),
    room("crates/node", &["units", "wire", "cluster", "api", "host"], &["dataplane"]),
    room("crates/cli", &["units", "api"], &[]),
    room("bin/muskox", &["dataplane", "node", "cli"], &["units", "wire", "host"]),
    room("sim", &["units", "wire", "block"], &[]),
    room("lab", &["units", "api"], &[]),
    room("xtask", &[], &[]),
];

/// Rooms that are handed time, bytes and randomness: the crates that would bring their own are kept out.
const THINKING: [&str; 5] = ["crates/units", "crates/wire", "crates/block", "crates/cluster", "sim"];
const TOUCHING_GUESTS: [&str; 9] =
    ["tokio", "io-uring", "rustix", "libc", "nix", "socket2", "getrandom", "rustls", "tracing-subscriber"];

const fn room(folder: &'static str, may_use: &'static [&'static str], tests_may_use: &'static [&'static str]) -> Room {
    Room { folder, may_use, tests_may_use }
}

/// A package of the workspace as cargo sees it.
pub struct Package {
    folder: String,
    /// Its Cargo.toml, from the root.
    pub manifest: String,
    dependencies: Vec<Dependency>,
    default_features: Vec<String>,
}

struct Dependency {
    name: String,
    of_the_house: bool,
    tests_only: bool,
}

/// What cargo knows about the workspace at `root`.
///
/// # Errors
/// When cargo cannot read it.
pub fn packages(root: &Path) -> anyhow::Result<Vec<Package>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(root);
    let done = command.output().context("running cargo metadata")?;
    anyhow::ensure!(done.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&done.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&done.stdout).context("reading cargo metadata")?;
    let root = metadata["workspace_root"].as_str().context("cargo metadata without workspace_root")?.to_owned();
    let packages = metadata["packages"].as_array().context("cargo metadata without packages")?;
    Ok(packages.iter().map(|package| read_package(package, &root)).collect())
}

fn read_package(package: &serde_json::Value, root: &str) -> Package {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let manifest = text(&package["manifest_path"]).trim_start_matches(root).trim_start_matches('/').to_owned();
    let dependency = |value: &serde_json::Value| Dependency {
        name: text(&value["name"]),
        of_the_house: value["path"].is_string(),
        tests_only: value["kind"] == "dev",
    };
    Package {
        folder: manifest.trim_end_matches("/Cargo.toml").to_owned(),
        dependencies: list(&package["dependencies"]).iter().map(dependency).collect(),
        default_features: list(&package["features"]["default"]).iter().map(text).collect(),
        manifest,
    }
}

/// Edges that the table does not have, and planted bugs switched on by default.
pub fn check(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let mut find = |what: String| findings.push(Finding::new(&package.manifest, 1, what));
        let Some(room) = ROOMS.iter().find(|room| room.folder == package.folder) else {
            find(format!("{} is no room: add it to xtask/src/tidy/edges.rs and ARCHITECTURE.md", package.folder));
            continue;
        };
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            let allowed = room.may_use.contains(&name) || dependency.tests_only && room.tests_may_use.contains(&name);
            if dependency.of_the_house && !allowed {
                find(format!("{} may not use {name}: move the code, or change the table with an RFD", room.folder));
            }
            if THINKING.contains(&room.folder) && !dependency.tests_only && TOUCHING_GUESTS.contains(&name) {
                find(format!(
                    "{} is a thinking room, {name} touches the world: put the call into crates/host",
                    room.folder
                ));
            }
        }
        if package.default_features.iter().any(|feature| feature.contains("sabotage")) {
            find("planted bugs are in the default features: take 'sabotage' out".into());
        }
    }
    findings
}

/// Dependencies that no source of their package names, and those of the workspace that no package has: an edge that
/// nobody uses is an open door (block → wire stood open for weeks).
pub fn dead(packages: &[Package], sources: &[SourceFile], workspace: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let inside = format!("{}/", package.folder);
        let own: Vec<&SourceFile> = sources.iter().filter(|file| file.path.starts_with(&inside)).collect();
        for dependency in &package.dependencies {
            let name = dependency.name.replace('-', "_");
            if !own.iter().any(|file| names(&file.masked, &name)) {
                let what = format!("no source of {} uses {}: take it out", package.folder, dependency.name);
                findings.push(Finding::new(&package.manifest, 1, what));
            }
        }
    }
    let table = workspace.split_once("[workspace.dependencies]").map_or("", |(_, rest)| rest);
    for line in table.lines().take_while(|line| !line.starts_with('[')) {
        let Some((name, _)) = line.split_once(" = ") else {
            continue;
        };
        let of_a_room = ROOMS.iter().any(|room| room.folder.ends_with(&format!("/{name}")));
        let used = packages.iter().any(|package| package.dependencies.iter().any(|one| one.name == name));
        if !used && !of_a_room && !name.starts_with('#') {
            findings.push(Finding::new("Cargo.toml", 1, format!("no package uses {name}: take it out")));
        }
    }
    findings
}

/// Whether the code has `name` as a path's first part: `name::`, `use name;`, `use name as`.
fn names(code: &str, name: &str) -> bool {
    let part_of_a_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    code.match_indices(name).any(|(at, _)| {
        let rest = &code[at + name.len()..];
        let begins = at == 0 || !part_of_a_word(code.as_bytes()[at - 1]);
        begins && (rest.starts_with("::") || rest.starts_with(';') || rest.starts_with(" as "))
    })
}

/// A manifest inherits the workspace's lints: cargo does not do it by itself.
pub fn manifest(package: &Package, text: &str) -> Option<Finding> {
    let inherits = text
        .split("\n[")
        .any(|table| table.trim_start_matches('[').replace(' ', "").starts_with("lints]\nworkspace=true"));
    (!inherits).then(|| Finding::new(&package.manifest, 1, "no `[lints] workspace = true`, add it"))
}

#[cfg(test)]
mod test {
    use super::*;

    fn package(folder: &str, dependency: &str, of_the_house: bool, tests_only: bool) -> Package {
        Package {
            folder: folder.into(),
            manifest: format!("{folder}/Cargo.toml"),
            dependencies: vec![Dependency { name: dependency.into(), of_the_house, tests_only }],
            default_features: Vec::new(),
        }
    }

    #[test]
    fn edges_outside_the_table_are_found() {
        let check = |package: Package, expect: &str| {
            let findings: Vec<String> = check(&[package]).iter().map(ToString::to_string).collect();
            assert!(findings.iter().any(|finding| finding.contains(expect)), "{findings:?}");
        };
        check(package("crates/wire", "block", true, false), "crates/wire may not use block");
        check(package("crates/wire", "block", true, true), "crates/wire may not use block");
        check(package("lab", "dataplane", true, false), "lab may not use dataplane");
        check(package("bin/muskox", "host", true, false), "bin/muskox may not use host");
        check(package("crates/attic", "units", true, false), "is no room");
        check(package("crates/block", "tokio", false, false), "thinking room");
    }

    #[test]
    fn edges_of_the_table_are_fine() {
        assert!(check(&[package("crates/block", "units", true, false)]).is_empty());
        assert!(check(&[package("bin/muskox", "host", true, true)]).is_empty());
        assert!(check(&[package("crates/host", "tokio", false, false)]).is_empty());
    }

    #[test]
    fn edges_that_nobody_uses_are_found() {
        let source = |text: &str| vec![SourceFile::new("crates/block/src/lib.rs", text.into())];
        let check = |text: &str, workspace: &str| -> Vec<String> {
            let packages = [package("crates/block", "winnow-kit", false, false)];
            dead(&packages, &source(text), workspace).iter().map(ToString::to_string).collect()
        };
        let none: Vec<String> = Vec::new();
        assert_eq!(check("use winnow_kit::Parser;", ""), none);
        assert_eq!(check("use winnow_kit as kit;", ""), none);
        let dead = "crates/block/Cargo.toml:1: no source of crates/block uses winnow-kit: take it out";
        assert_eq!(check("use a_winnow_kit::Parser; // winnow_kit::Parser", ""), [dead]);
        let table = "[workspace.dependencies]\n# guests\nblock = 1\nwinnow-kit = 1\nwebpki = 1\n\n[lints]\nother = 1\n";
        assert_eq!(check("use winnow_kit::Parser;", table), ["Cargo.toml:1: no package uses webpki: take it out"]);
    }

    #[test]
    fn planted_bugs_are_not_the_default() {
        let mut package = package("crates/block", "units", true, false);
        package.default_features = vec!["sabotage".into()];
        assert!(check(&[package])[0].to_string().contains("planted bugs"));
    }

    #[test]
    fn every_manifest_inherits_the_lints() {
        let package = package("crates/block", "units", true, false);
        assert!(manifest(&package, "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n").is_none());
        assert!(manifest(&package, "[package]\nname = \"a\"\n").is_some());
        assert!(manifest(&package, "[lints]\n[lints.rust]\n").is_some());
    }
}
