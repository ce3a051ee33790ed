//! `muskox node install`: one systemd unit for the daemon. What the daemon starts (targets, dead-men, initiators, QEMUs) lives
//! in the unit's control group and outlives the daemon. The folders and the users of QEMUs are settled here as well.

use crate::agent::HostConfig;
use crate::root::{Root, unusable, write_public};
use api::{Code, Problem};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The unit's name.
pub const UNIT: &str = "muskox-node.service";
/// There if and only if systemd runs the machine. Source: sd_booted(3).
const SYSTEMD_RUNS: &str = "/run/systemd/system";

/// What was done.
#[derive(Debug, Serialize)]
pub struct Installed {
    /// Where the unit is.
    pub unit: PathBuf,
    /// What was done, for people.
    pub text: String,
}

/// The unit's text. Its sandbox is what QEMU, disks, taps and control groups leave: children inherit it.
#[must_use]
pub fn unit(program: &Path, root: Option<&Path>) -> String {
    let quoted = |path: &Path| format!("\"{}\"", path.display().to_string().replace('%', "%%").replace('$', "$$"));
    let place = root.map_or_else(String::new, |root| format!(" --root {}", quoted(root)));
    let program = quoted(program);
    format!(
        "# Written by `muskox node install`; changes belong in `systemctl edit muskox-node`.\n\
         [Unit]\n\
         Description=muskox control plane\n\
         Wants=network-online.target\n\
         After=network-online.target time-sync.target\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         ExecStart={program} node run{place}\n\
         Restart=always\n\
         RestartSec=2\n\
         # Guests, targets and dead-men live on when the daemon ends; its successor adopts them.\n\
         KillMode=process\n\
         Delegate=yes\n\
         TasksMax=infinity\n\
         LimitNOFILE=65536\n\
         LimitMEMLOCK=infinity\n\
         # What children need stays open: /dev, /sys/fs/cgroup, network, images in people's folders (for reading).\n\
         ProtectSystem=true\n\
         ProtectHome=read-only\n\
         ProtectHostname=yes\n\
         LockPersonality=yes\n\
         SystemCallArchitectures=native\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

/// The unit for this program.
///
/// # Errors
/// [`Code::Failed`]: where the program is cannot be told.
pub fn own_unit(base: &Path) -> Result<String, Problem> {
    let failed = |error: std::io::Error| Problem::new(Code::Failed, format!("where am I? {error}"), "");
    let program = std::env::current_exe().map_err(failed)?;
    let base = std::path::absolute(base).map_err(failed)?;
    Ok(unit(&program, Some(base.as_path()).filter(|base| *base != Path::new("/"))))
}

/// Writes the unit, and has systemd start it if systemd runs this machine and the node's files are the machine's own.
///
/// # Errors
/// [`Code::Files`]; [`Code::NotPossible`]: the unit is written, and nobody is here to run it; [`Code::Failed`]: systemd says no.
pub fn install(base: &Path) -> Result<Installed, Problem> {
    let root = Root::new(base);
    root.make_folders()?;
    let users = HostConfig::settle_users(&root)?;
    let folder = root.units();
    std::fs::create_dir_all(&folder).map_err(|error| unusable(&folder, "made", &error))?;
    let unit = folder.join(UNIT);
    write_public(&unit, &own_unit(base)?)?;
    let last = users.first + (users.count - 1);
    let written = format!("'{}' is written; QEMUs run as users {} to {last}", unit.display(), users.first);
    if base != Path::new("/") {
        let text = format!("{written}; systemd was not told: everything is under '{}'", base.display());
        return Ok(Installed { unit, text });
    }
    if !Path::new(SYSTEMD_RUNS).is_dir() {
        let hint = "have your service manager run `muskox node run` as root, restart it when it ends, and end no other process with it";
        return Err(Problem::new(Code::NotPossible, format!("{written}, but systemd does not run this machine"), hint));
    }
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", "--now", UNIT])?;
    let text = format!("{written}, started, and starts with the machine; see `journalctl -u muskox-node`");
    Ok(Installed { unit, text })
}

fn systemctl(words: &[&str]) -> Result<(), Problem> {
    let command = format!("systemctl {}", words.join(" "));
    let hint = format!("run `{command}` by hand; the unit is written");
    let done = Command::new("systemctl").args(words).output();
    let done = done.map_err(|error| Problem::new(Code::Failed, format!("`{command}`: {error}"), hint.clone()))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(Problem::new(Code::Failed, format!("`{command}`: {}", said.trim()), hint))
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: what must never be missing from the unit is there, and odd paths stay one word. Method: the text.
    #[test]
    fn the_unit_leaves_guests_alone() {
        let text = unit(Path::new("/opt/50% $off/muskox"), Some(Path::new("/srv/a b")));
        for line in
            ["KillMode=process", "Delegate=yes", "Restart=always", "After=network-online.target time-sync.target"]
        {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(text.contains("ExecStart=\"/opt/50%% $$off/muskox\" node run --root \"/srv/a b\"\n"), "{text}");
        for harmful in
            ["PrivateDevices", "PrivateTmp", "PrivateNetwork", "ProtectControlGroups", "ProtectClock", "DeviceAllow"]
        {
            assert!(!text.contains(harmful), "{harmful} would take from guests what they need");
        }
    }
}
