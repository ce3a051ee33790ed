//! A target on the lab's disks, as processes in a folder of their own.

use lab::ledger;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The disks' process and the target's; both end, and the folder goes, with this.
pub struct Processes {
    /// Where all their files are: `dir/diskN`, `control` and `log` among them.
    pub root: PathBuf,
    children: Vec<Child>,
}

impl Processes {
    /// Two disks of 64 MiB that log what reached them to `applied`, and a target with this configuration beside its socket and state.
    pub fn start(root: PathBuf, applied: &Path, config: &str) -> Self {
        let mut disks = Command::new(env!("CARGO_BIN_EXE_muskox-lab"));
        disks.args(["disks", "--size-mib", "64", "--applied"]).arg(applied);
        for name in ["dir", "backing", "control", "state"] {
            disks.arg(format!("--{name}")).arg(root.join(name));
        }
        let mut this = Self { root, children: vec![disks.stdout(Stdio::piped()).spawn().unwrap()] };
        let mut line = String::new();
        BufReader::new(this.children[0].stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let config = format!("control = \"target.sock\"\nstate_dir = \"target.state\"\n{config}");
        std::fs::write(this.root.join("target.toml"), config).unwrap();
        let log = std::fs::File::create(this.root.join("log")).unwrap();
        let mut target = Command::new(muskox());
        let target = target.args(["target", "--config"]).arg(this.root.join("target.toml")).stderr(log).spawn();
        this.children.push(target.unwrap());
        this
    }

    /// The path of one of the disks.
    pub fn disk(&self, number: u32) -> String {
        self.root.join(format!("dir/disk{number}")).to_str().unwrap().to_owned()
    }

    /// What `muskox ctl` came to.
    pub fn ctl(&self, words: &[&str]) -> Output {
        let socket = self.root.join("target.sock");
        Command::new(muskox()).arg("ctl").arg("--socket").arg(socket).args(words).output().unwrap()
    }

    /// What the target has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.root.join("log")).unwrap_or_default()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for mut child in self.children.drain(..).rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // The killed disks leave their mount.
        let cleaned = ledger::clean(&self.root.join("state"));
        if !std::thread::panicking() {
            cleaned.unwrap();
        }
        if !ledger::is_mounted(&self.root.join("dir")) {
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }
}

/// The program under test lies beside the lab's own.
fn muskox() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_muskox-lab")).with_file_name("muskox");
    assert!(program.exists(), "{} is missing: run `cargo build -p muskox`", program.display());
    program
}
