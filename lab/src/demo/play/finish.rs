//! The end: the VM stops, its disks are looked at by tools that know nothing of muskox, all that was said is kept.

use super::super::evidence::{ORACLES, OracleRun, RECORDS, REFEREE, Receipt, RecordsCheck, What};
use super::super::{check_disk, lines, oracles};
use super::{CANARY, Play, ROOT, VM};
use crate::logs;
use crate::machine::Role;
use anyhow::Context;
use std::path::PathBuf;
use std::time::Duration;

const STOP_MAX: Duration = Duration::from_secs(90);

impl Play {
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        self.inspect().map(drop)
    }

    /// Stops the VM and looks at its disks; what is there, and whether every tool agrees.
    pub(crate) fn inspect(&mut self) -> anyhow::Result<(RecordsCheck, bool)> {
        self.writer.event(What::WorkEnd)?;
        self.cluster.cli(Role::Storage, &["vm", "stop", VM])?;
        self.wait(STOP_MAX, "the VM is stopped", |play| {
            play.cluster.get(&format!("/v1/vms/{VM}")).is_ok_and(|it| it["vm"]["state"] == "stopped")
        })?;
        self.keep_documents()?;
        self.cluster.cli(Role::Storage, &["pool", "stop", super::POOL])?;
        let members: Vec<PathBuf> = self.members.iter().map(|number| self.cluster.disk(*number)).collect();
        let images = self.writer.path("images");
        std::fs::create_dir_all(&images).with_context(|| format!("making {}", images.display()))?;
        let found = oracles::look(&members, &[ROOT, CANARY], &images, &self.writer)?;
        let mut runs = found.runs;
        let [root, canary] = &found.volumes[..] else { anyhow::bail!("two volumes were asked for") };
        let receipts: Vec<Receipt> = lines::read(&self.writer.path(REFEREE))?;
        let checked = check_disk::check(root, Some(canary), &receipts, &self.folder)?;
        let place = self.writer.output("e2fsck", &checked.e2fsck)?;
        let (command, status) = ("e2fsck -fn".to_owned(), i32::from(!checked.e2fsck_clean));
        runs.push(OracleRun { oracle: "e2fsck".into(), command, status, output: place, agrees: checked.e2fsck_clean });
        checked.problems.iter().try_for_each(|problem| self.note(problem))?;
        let records = RecordsCheck { acked: checked.acked, missing: checked.missing, torn: checked.torn };
        let agree = runs.iter().all(|run| run.agrees);
        self.writer.document(RECORDS, &records)?;
        self.writer.document(ORACLES, &runs)?;
        self.outcome =
            format!("{} records acknowledged, {} missing, {} torn", checked.acked, checked.missing, checked.torn);
        Ok((records, agree))
    }

    /// What the product says at the end: jobs, VMs, grants; and the logs of its programs.
    pub(super) fn keep_documents(&mut self) -> anyhow::Result<()> {
        for (name, path) in [("jobs.json", "/v1/jobs"), ("vms.json", "/v1/vms")] {
            if let Ok(reply) = self.cluster.get(path) {
                self.writer.document(name, &reply)?;
            }
        }
        let target = self.target_state();
        if target.join("grants.jsonl").exists() {
            self.writer.grants(Role::Storage.name(), &target)?;
        }
        for role in super::super::cluster::MEMBERS {
            let logs = self.cluster.root(role).join("var/log/muskox");
            for entry in std::fs::read_dir(&logs).into_iter().flatten().flatten() {
                let name = format!("{}-{}", role.name(), entry.file_name().to_string_lossy());
                self.writer.output(&name, &logs::tail(&entry.path()))?;
            }
        }
        Ok(())
    }
}
