//! Keys and certificates for a run, made by `openssl`: a CA, and one certificate for each machine.

use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How long the certificates are good for: longer than any run.
const DAYS: &str = "30";

/// A machine's files.
pub struct Keys {
    certificate: PathBuf,
    key: PathBuf,
    ca: PathBuf,
    /// SHA-256 of its public key in DER, in hexadecimal: how grants name it.
    pub identity: String,
}

impl Keys {
    /// Makes a CA and certificates for `names` in `folder`.
    ///
    /// # Errors
    /// When `openssl` is missing or refuses.
    pub fn make<const N: usize>(folder: &Path, names: [&str; N]) -> anyhow::Result<[Self; N]> {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"];
        let mut ca = openssl(folder, &["req", "-x509", "-days", DAYS, "-subj", "/CN=muskox lab"]);
        ca.args(new_key).args(["-keyout", "ca.key", "-out", "ca.pem"]);
        output(&mut ca)?;
        let mut made = Vec::new();
        for name in names {
            made.push(Self::machine(folder, name, &new_key)?);
        }
        Ok(made.try_into().unwrap_or_else(|_| unreachable!("one was made for each name")))
    }

    fn machine(folder: &Path, name: &str, new_key: &[&str]) -> anyhow::Result<Self> {
        let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
        let mut command = openssl(folder, &["req", "-x509", "-days", DAYS, "-CA", "ca.pem", "-CAkey", "ca.key"]);
        command.args(new_key).args(["-subj", &format!("/CN={name}"), "-keyout", &key, "-out", &certificate]);
        command.args(["-addext", &format!("subjectAltName=DNS:{name}")]);
        command.args(["-addext", "basicConstraints=critical,CA:false"]);
        output(&mut command)?;
        let script =
            "openssl x509 -in \"$0\" -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -r";
        let printed = output(Command::new("sh").current_dir(folder).args(["-c", script, &certificate]))?;
        let identity = printed.split_whitespace().next().context("openssl printed no digest")?.to_owned();
        anyhow::ensure!(identity.len() == 64, "openssl printed '{identity}' where a SHA-256 should be");
        let here = |file: &str| folder.join(file);
        Ok(Self { certificate: here(&certificate), key: here(&key), ca: here("ca.pem"), identity })
    }

    /// Certificate, key and CA.
    #[must_use]
    pub fn files(&self) -> [&Path; 3] {
        [&self.certificate, &self.key, &self.ca]
    }

    /// For a configuration: `certificate = …`, `key = …`, `ca = …`.
    pub fn toml(&self) -> [String; 3] {
        let line = |name: &str, path: &Path| format!("{name} = {:?}", path.display().to_string());
        [line("certificate", &self.certificate), line("key", &self.key), line("ca", &self.ca)]
    }
}

fn openssl(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.current_dir(folder).args(words);
    command
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let done = command.stdin(Stdio::null()).output().context("running openssl: Debian's package openssl has it")?;
    let words = String::from_utf8_lossy(&done.stderr).into_owned();
    anyhow::ensure!(done.status.success(), "{command:?}: {words}");
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
