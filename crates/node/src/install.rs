//! `muskox node install`: the systemd units of the daemon, the dead-man and the guard. What the daemon starts itself (targets,
//! initiators, QEMUs) lives in its unit's control group and outlives it. The folders and the users of QEMUs are settled here too.
//!
//! Invariant: dead-man and guard need no daemon: systemd starts them again at once when they end, and ends them when they hang.

use crate::agent::{HostConfig, deadman_arguments, deadman_file, guard_arguments};
use crate::root::{Root, unusable, write_public};
use api::{Code, Problem};
use serde::Serialize;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The daemon's unit.
pub const UNIT: &str = "muskox-node.service";
/// The dead-man's unit.
pub const DEADMAN_UNIT: &str = "muskox-deadman.service";
/// The guard's unit.
pub const GUARD_UNIT: &str = "muskox-guard.service";
/// There if and only if systemd runs the machine. Source: sd_booted(3).
pub const SYSTEMD_RUNS: &str = "/run/systemd/system";
/// What dead-man and guard have in common. They say every 250 ms that they are well; four times that is a hang, and the next life is
/// up long before a lease of 2.5 s ends. A dump of a hung one would take longer than that, and has keys in it.
const WATCHED: &str = "\
    Type=notify\n\
    Restart=always\n\
    RestartSec=100ms\n\
    WatchdogSec=1s\n\
    WatchdogSignal=SIGKILL\n\
    OOMScoreAdjust=-1000\n\
    LimitMEMLOCK=infinity\n\
    LimitNOFILE=65536\n\
    # /run is what they write to; guests are frozen by /sys/fs/cgroup.\n\
    ProtectSystem=full\n\
    ProtectHome=read-only\n\
    NoNewPrivileges=yes\n\
    LockPersonality=yes\n\
    SystemCallArchitectures=native\n";

/// What was done.
#[derive(Debug, Serialize)]
pub struct Installed {
    /// Where the units are.
    pub units: Vec<PathBuf>,
    /// What was done, for people.
    pub text: String,
}

/// A unit: its name, and what its file says.
pub struct Unit {
    /// The file's name.
    pub name: &'static str,
    /// What the file says.
    pub text: String,
}

/// The units for this program and these files.
#[must_use]
pub fn units(program: &Path, base: &Path) -> [Unit; 3] {
    let root = Root::new(base);
    [
        Unit { name: UNIT, text: node_unit(program, Some(base).filter(|base| *base != Path::new("/"))) },
        Unit { name: DEADMAN_UNIT, text: deadman_unit(program, &root) },
        Unit { name: GUARD_UNIT, text: guard_unit(program, &root) },
    ]
}

/// Its sandbox is what QEMU, disks, taps and control groups leave: children inherit it.
fn node_unit(program: &Path, root: Option<&Path>) -> String {
    let mut command = vec![program.as_os_str(), "node".as_ref(), "run".as_ref()];
    if let Some(root) = root {
        command.extend(["--root".as_ref(), root.as_os_str()]);
    }
    format!(
        "# Written by `muskox node install`; changes belong in `systemctl edit muskox-node`.\n\
         [Unit]\n\
         Description=muskox control plane\n\
         Wants=network-online.target\n\
         After=network-online.target time-sync.target\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         ExecStart={}\n\
         Restart=always\n\
         RestartSec=2\n\
         # Guests, targets and initiators live on when the daemon ends; its successor adopts them.\n\
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
         WantedBy=multi-user.target\n",
        words(command)
    )
}

/// It starts with the machine, as a witness of the others, also where no daemon comes up.
fn deadman_unit(program: &Path, root: &Root) -> String {
    let arguments = deadman_arguments(root);
    let command = std::iter::once(program.as_os_str()).chain(arguments.iter().map(AsRef::as_ref));
    format!(
        "# Written by `muskox node install`; changes belong in `systemctl edit muskox-deadman`.\n\
         [Unit]\n\
         Description=muskox dead-man: this machine's lease and vote\n\
         After=network.target\n\
         # Written by the daemon as soon as it is told of witnesses; then the daemon has this started.\n\
         ConditionPathExists={}\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         ExecStart={}\n\
         RuntimeDirectory=muskox\n\
         RuntimeDirectoryPreserve=yes\n\
         {WATCHED}\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n",
        escaped(deadman_file(root).as_os_str()),
        words(command)
    )
}

/// The daemon has it started before the first guest: what no daemon started needs no guard.
fn guard_unit(program: &Path, root: &Root) -> String {
    let arguments = guard_arguments(root);
    let command = std::iter::once(program.as_os_str()).chain(arguments.iter().map(AsRef::as_ref));
    format!(
        "# Written by `muskox node install`; changes belong in `systemctl edit muskox-guard`.\n\
         [Unit]\n\
         Description=muskox guard: freezes guests that the dead-man does not stop\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         ExecStart={}\n\
         {WATCHED}",
        words(command)
    )
}

/// A command line as systemd reads it. Source: systemd.service(5), "Command lines"; systemd.syntax(7).
fn words<'a>(words: impl IntoIterator<Item = &'a OsStr>) -> String {
    let quote = |word: &OsStr| {
        let text = escaped(word).replace('$', "$$");
        let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
        if plain { text } else { format!("\"{text}\"") }
    };
    words.into_iter().map(quote).collect::<Vec<String>>().join(" ")
}

/// Without the letters that mean something to systemd.
fn escaped(word: &OsStr) -> String {
    word.to_string_lossy().replace('%', "%%").replace('\\', "\\\\").replace('"', "\\\"")
}

/// The units for this very program.
///
/// # Errors
/// [`Code::Failed`]: where the program is cannot be told.
pub fn own_units(base: &Path) -> Result<[Unit; 3], Problem> {
    let failed = |error: std::io::Error| Problem::new(Code::Failed, format!("where am I? {error}"), "");
    let program = std::env::current_exe().map_err(failed)?;
    Ok(units(&program, &std::path::absolute(base).map_err(failed)?))
}

/// All of them as one text, each with its file's name, as `systemctl cat` shows them.
///
/// # Errors
/// As [`own_units`].
pub fn printed(base: &Path) -> Result<String, Problem> {
    let folder = Root::new(base).units();
    let text = |unit: &Unit| format!("# {}\n{}", folder.join(unit.name).display(), unit.text);
    Ok(own_units(base)?.iter().map(text).collect::<Vec<String>>().join("\n"))
}

/// Writes the units, and has systemd start the daemon if systemd runs this machine and the node's files are the machine's own. The
/// daemon has the others started.
///
/// # Errors
/// [`Code::Files`]; [`Code::NotPossible`]: the units are written, and nobody is here to run them; [`Code::Failed`]: systemd says no.
pub fn install(base: &Path) -> Result<Installed, Problem> {
    let root = Root::new(base);
    root.make_folders()?;
    let users = HostConfig::settle_users(&root)?;
    let folder = root.units();
    std::fs::create_dir_all(&folder).map_err(|error| unusable(&folder, "made", &error))?;
    let mut units = Vec::new();
    for unit in own_units(base)? {
        let file = folder.join(unit.name);
        write_public(&file, &unit.text)?;
        units.push(file);
    }
    let last = users.first + (users.count - 1);
    let names = [UNIT, DEADMAN_UNIT, GUARD_UNIT].join(", ");
    let written =
        format!("{names} are written to '{}'; QEMUs run as users {} to {last}", folder.display(), users.first);
    if base != Path::new("/") {
        let text = format!("{written}; systemd was not told: everything is under '{}'", base.display());
        return Ok(Installed { units, text });
    }
    if !Path::new(SYSTEMD_RUNS).is_dir() {
        let hint = "have your service manager run `muskox node run` as root, restart it when it ends, and end no other process with \
                    it; it starts dead-man and guard itself then, but a dead-man that hangs is not started anew";
        return Err(Problem::new(Code::NotPossible, format!("{written}, but systemd does not run this machine"), hint));
    }
    systemctl(&["daemon-reload"])?;
    // A dead-man that a daemon started before has to end first: the daemon hands it over.
    systemctl(&["enable", DEADMAN_UNIT])?;
    systemctl(&["enable", "--now", UNIT])?;
    let text = format!("{written}, started, and start with the machine; see `journalctl -u 'muskox-*'`");
    Ok(Installed { units, text })
}

fn systemctl(words: &[&str]) -> Result<(), Problem> {
    let command = format!("systemctl {}", words.join(" "));
    let hint = format!("run `{command}` by hand; the units are written");
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

    /// Goal: what must never be missing from the daemon's unit is there, and odd paths stay one word. Method: the text.
    #[test]
    fn the_unit_leaves_guests_alone() {
        let [node, ..] = units(Path::new("/opt/50% $off/muskox"), Path::new("/srv/a b"));
        let text = node.text;
        for line in
            ["KillMode=process", "Delegate=yes", "Restart=always", "After=network-online.target time-sync.target"]
        {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(text.contains("ExecStart=\"/opt/50%% $$off/muskox\" node run --root \"/srv/a b\"\n"), "{text}");
        assert!(!has_what_takes_from_guests(&text), "{text}");
    }

    /// CA5. Goal: dead-man and guard each have a unit that starts them again within 100 ms, ends them when they hang, and lets them reach
    /// guests; none of them is tied to the daemon's life, and the machine's own watchdog is nobody's. Method: the texts.
    #[test]
    fn dead_man_and_guard_are_watched() {
        let [node, deadman, guard] = units(Path::new("/usr/bin/muskox"), Path::new("/"));
        for unit in [&deadman, &guard] {
            for line in [
                "Type=notify",
                "Restart=always",
                "RestartSec=100ms",
                "WatchdogSec=1s",
                "WatchdogSignal=SIGKILL",
                "StartLimitIntervalSec=0",
            ] {
                assert!(unit.text.lines().any(|found| found == line), "{line} in {}", unit.text);
            }
            assert!(!has_what_takes_from_guests(&unit.text), "{}", unit.text);
            for tie in ["muskox-node", "BindsTo", "PartOf", "Requires"] {
                assert!(!unit.text.contains(tie), "{tie} in {}", unit.text);
            }
        }
        assert!(deadman.text.contains("ExecStart=/usr/bin/muskox deadman --config /etc/muskox/deadman.toml\n"));
        assert!(deadman.text.contains("ConditionPathExists=/etc/muskox/deadman.toml\n"));
        let command = "ExecStart=/usr/bin/muskox guard --record /run/muskox/deadman.lease --vms /run/muskox/vm\n";
        assert!(guard.text.contains(command), "{}", guard.text);
        for unit in [node, deadman, guard] {
            assert!(!unit.text.contains("/dev/watchdog") && !unit.text.contains("RuntimeWatchdog"), "{}", unit.text);
        }
    }

    fn has_what_takes_from_guests(text: &str) -> bool {
        ["PrivateDevices", "PrivateTmp", "PrivateNetwork", "ProtectControlGroups", "ProtectClock", "DeviceAllow"]
            .iter()
            .any(|word| text.contains(word))
    }
}
