//! VMs as text.

use crate::print::printable_lines;
use api::{Vm, VmDetails, VmList};
use units::ByteLen;
use units::table::{self, printable};

/// All VMs.
pub fn list(list: &VmList) -> String {
    let row = |vm: &Vm| {
        [
            vm.name.to_string(),
            vm.state.to_string(),
            host(vm),
            ByteLen(vm.memory).to_string(),
            vm.vcpus.to_string(),
            volumes(vm),
            vm.job.clone().unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = list.vms.iter().map(row).collect();
    let mut text = table::render(["NAME", "STATE", "HOST", "MEMORY", "VCPUS", "VOLUMES", "JOB"], &rows);
    for vm in list.vms.iter().filter(|vm| !vm.pending.is_empty()) {
        text.push_str(&format!("note: {} at its next start: {}\n", vm.name, printable(&vm.pending.join(", "))));
    }
    text
}

/// What a VM is after it was made or changed.
pub fn short(details: &VmDetails) -> String {
    let vm = &details.vm;
    let (memory, volumes) = (ByteLen(vm.memory), volumes(vm));
    let cpus = if vm.vcpus == 1 { "1 vcpu".to_owned() } else { format!("{} vcpus", vm.vcpus) };
    format!("'{}': {}, {memory}, {cpus}, volumes {volumes}\n", vm.name, vm.state)
}

/// After its description was taken in: at a glance, and what to know about that.
pub fn taken(details: &VmDetails) -> String {
    short(details) + &notes(details)
}

/// What to know about a description that was taken in.
pub fn notes(details: &VmDetails) -> String {
    details.notes.iter().map(|note| format!("note: {}\n", printable(note))).collect()
}

/// One VM with all that is known.
pub fn details(details: &VmDetails) -> String {
    let vm = &details.vm;
    let mut text = table::facts(&[
        ("vm", vm.name.to_string()),
        ("state", vm.state.to_string()),
        ("wish", if vm.wished { "to run".into() } else { "not to run".into() }),
        ("host", host(vm)),
        ("job", vm.job.clone().unwrap_or_default()),
        ("memory", ByteLen(vm.memory).to_string()),
        ("vcpus", vm.vcpus.to_string()),
        ("pending", pending(vm)),
        ("volumes", volumes(vm)),
        ("epoch", vm.epoch.to_string()),
        ("uuid", details.uuid.clone()),
        ("macs", details.macs.join(", ")),
    ]);
    if !details.history.is_empty() {
        text.push_str("\nlately:\n");
        text.extend(details.history.iter().map(|line| format!("  {}\n", printable(line))));
    }
    text.push_str("\ndescription:\n");
    text.extend(printable_lines(&details.spec).lines().map(|line| format!("  {line}").trim_end().to_owned() + "\n"));
    text
}

/// What holds from the next start on.
fn pending(vm: &Vm) -> String {
    if vm.pending.is_empty() { String::new() } else { format!("{} at the next start", vm.pending.join(", ")) }
}

fn host(vm: &Vm) -> String {
    vm.host.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)
}

fn volumes(vm: &Vm) -> String {
    vm.volumes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
pub mod test {
    use super::*;
    use api::VmState;

    /// A VM that runs.
    pub fn running() -> VmDetails {
        VmDetails {
            vm: Vm {
                name: "web1".parse().unwrap(),
                state: VmState::Running,
                wished: true,
                host: Some("host1".parse().unwrap()),
                epoch: 4,
                memory: 1 << 30,
                vcpus: 2,
                volumes: vec!["web1-root".parse().unwrap(), "canary".parse().unwrap()],
                job: None,
                pending: vec!["memory 2 GiB".into(), "vcpus 4".into()],
            },
            spec: "name = \"web1\"\n\nmemory = \"1\u{1b}G\"\n".into(),
            uuid: "6f1c".into(),
            macs: vec!["52:54:00:00:00:01".into()],
            history: vec!["moved to host1\u{7}".into()],
            events: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Goal: VMs as a table, and one with all that is known. Method: golden text.
    #[test]
    fn vms_are_shown() {
        let mut stopped = running().vm;
        (stopped.state, stopped.host, stopped.job) = (VmState::Stopped, None, Some("job-1".into()));
        stopped.pending.clear();
        let expect = "\
NAME  STATE    HOST   MEMORY  VCPUS  VOLUMES           JOB
web1  running  host1  1 GiB   2      web1-root,canary
web1  stopped  -      1 GiB   2      web1-root,canary  job-1
note: web1 at its next start: memory 2 GiB, vcpus 4
";
        assert_eq!(list(&VmList { vms: vec![running().vm, stopped] }), expect);
        let expect = "\
vm:       web1
state:    running
wish:     to run
host:     host1
memory:   1 GiB
vcpus:    2
pending:  memory 2 GiB, vcpus 4 at the next start
volumes:  web1-root,canary
epoch:    4
uuid:     6f1c
macs:     52:54:00:00:00:01

lately:
  moved to host1\u{fffd}

description:
  name = \"web1\"

  memory = \"1\u{fffd}G\"
";
        assert_eq!(details(&running()), expect);
        assert_eq!(short(&running()), "'web1': running, 1 GiB, 2 vcpus, volumes web1-root,canary\n");
    }
}
