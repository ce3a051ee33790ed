//! dpkg and apt-get, without questions.

use anyhow::Context;
use std::collections::HashMap;
use std::process::{Command, Stdio};

/// Another apt may be at work (unattended upgrades after boot): wait that long for its lock.
const LOCK_WAIT: &str = "DPkg::Lock::Timeout=120";

/// Those of `names` that are installed, with their versions.
///
/// # Errors
/// When there is no dpkg: this is not Debian.
pub fn installed(names: &[&str]) -> anyhow::Result<HashMap<String, String>> {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${Package} ${db:Status-Abbrev} ${Version}\\n"]).args(names).stdin(Stdio::null());
    // It fails if it does not know one of them, and still lists the others.
    let listed =
        query.output().context("running dpkg-query: setup is for Debian; elsewhere install the tools by hand")?;
    Ok(read_installed(&String::from_utf8_lossy(&listed.stdout)))
}

fn read_installed(listed: &str) -> HashMap<String, String> {
    let mut versions = HashMap::new();
    for line in listed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [name, "ii", version] = words[..] {
            versions.insert(name.to_owned(), version.to_owned());
        }
    }
    versions
}

/// Installs packages, from `suite` if given. Package lists are fetched if there are none, or if it fails without.
///
/// # Errors
/// When apt-get fails twice; it has said why.
pub fn install(names: &[&str], suite: Option<&str>) -> anyhow::Result<()> {
    let mut arguments = vec!["install", "--yes", "--no-install-recommends", "--quiet"];
    if let Some(suite) = suite {
        arguments.extend(["--target-release", suite]);
    }
    arguments.extend(names);
    if has_lists(suite) && apt_get(&arguments).is_ok() {
        return Ok(());
    }
    apt_get(&["update", "--quiet"])?;
    apt_get(&arguments)
}

/// Whether package lists were ever fetched (for `suite`).
fn has_lists(suite: Option<&str>) -> bool {
    let Ok(lists) = std::fs::read_dir("/var/lib/apt/lists") else {
        return false;
    };
    let names = lists.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .into_iter()
        .any(|name| name.contains("_Packages") && suite.is_none_or(|suite| name.contains(&format!("_{suite}_"))))
}

fn apt_get(arguments: &[&str]) -> anyhow::Result<()> {
    println!("running: apt-get {}", arguments.join(" "));
    let mut command = Command::new("apt-get");
    command.args(["-o", LOCK_WAIT, "-o", "Dpkg::Use-Pty=0"]).args(arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C").stdin(Stdio::null());
    let ended = command.status().context("running apt-get")?;
    anyhow::ensure!(ended.success(), "apt-get {} failed ({ended})", arguments.join(" "));
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn only_what_is_wholly_installed_counts() {
        let versions = read_installed("mdadm ii  4.2-5\nlvm2 rc  2.03\nqemu-system-common un \nnbdkit iU  1.32\n");
        assert_eq!(versions.len(), 1);
        assert_eq!(versions["mdadm"], "4.2-5");
    }
}
