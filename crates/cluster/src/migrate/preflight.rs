//! Whether a migration can be begun: facts in, refusals with texts out, all of them at once.

use std::collections::BTreeSet;
use units::{ByteLen, HostKey, VmName};

/// What was found out about one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// Which host.
    pub host: HostKey,
    /// Its name, for people.
    pub name: String,
    /// It answered just now.
    pub answers: bool,
    /// QEMU's version (major, minor), if it has one.
    pub qemu: Option<(u32, u32)>,
    /// The machine type or CPU model that the VM needs and its QEMU does not offer.
    pub lacks: Option<String>,
    /// What a guest like this sees there; none: it does not say.
    pub processor: Option<Processor>,
    /// Memory free for guests.
    pub free: ByteLen,
    /// Bridges the VM is plugged into that this host does not have or that lead nowhere there, each with why.
    pub missing_bridges: Vec<(String, String)>,
    /// Volumes of the VM whose target it cannot reach.
    pub unreachable_volumes: Vec<String>,
    /// It is being drained: nothing new is placed there.
    pub draining: bool,
}

/// The processor that a guest sees on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processor {
    /// Who runs its instructions: `kvm` or `tcg`.
    pub accelerator: String,
    /// As `GenuineIntel`.
    pub vendor: String,
    /// All flags that a guest can get there.
    pub flags: BTreeSet<String>,
    /// The flags of the VM's CPU model that it does not get there; none: its model is all that there is.
    pub model_lacks: Option<BTreeSet<String>>,
}

impl Processor {
    /// Flags that a guest has here and would miss there.
    fn missing_at(&self, there: &Self) -> Vec<String> {
        match (&self.model_lacks, &there.model_lacks) {
            (Some(here), Some(there)) => there.difference(here).cloned().collect(),
            _ => self.flags.difference(&there.flags).cloned().collect(),
        }
    }
}

/// What was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The VM's owner and the side it runs on.
    Source(Side),
    /// Where it is to go.
    Destination(Side),
    /// The VM does not run.
    NotRunning,
    /// A job works on it.
    Busy(String),
    /// The VM's memory.
    Memory(ByteLen),
    /// A device that cannot be moved.
    Pinned(String),
    /// Some target of it does not keep its fences at present.
    FenceBlocked(String),
}

/// What can be done for a guest whose processor must not change while it runs.
const ANEW: &str = "stop the VM and start it there";

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// See the text.
    #[error("VM '{0}' does not run: nothing moves; use `muskox vm start` with the host that you want")]
    NotRunning(VmName),
    /// See the text.
    #[error("VM '{vm}' is being worked on by job {job}: wait for it or cancel it with `muskox job cancel {job}`")]
    Busy {
        /// Which VM.
        vm: VmName,
        /// By which job.
        job: String,
    },
    /// See the text.
    #[error("VM '{vm}' runs on {host} already")]
    SameHost {
        /// Which VM.
        vm: VmName,
        /// Where.
        host: String,
    },
    /// See the text.
    #[error("host {0} does not answer: see `muskox node list`")]
    Silent(String),
    /// See the text.
    #[error("host {0} is being drained: choose another one")]
    Draining(String),
    /// See the text.
    #[error("host {0} has no QEMU: run `muskox doctor` there")]
    NoQemu(String),
    /// A destination older than the source need not understand its stream.
    #[error("host {host} has QEMU {}.{}, older than the source's {}.{}: update it first", .there.0, .there.1, .here.0, .here.1)]
    OlderQemu {
        /// Where.
        host: String,
        /// The destination's.
        there: (u32, u32),
        /// The source's.
        here: (u32, u32),
    },
    /// See the text.
    #[error("the QEMU of host {host} does not offer {what}, which the VM has")]
    Machine {
        /// Where.
        host: String,
        /// What.
        what: String,
    },
    /// See the text.
    #[error(
        "host {0} does not say which processor guests see there: ask again in some seconds; if it runs an older muskox, update it"
    )]
    ProcessorUnknown(String),
    /// A guest that runs cannot change who runs its instructions.
    #[error("host {host} runs guests by {there} and the source by {here}: {ANEW}")]
    Accelerator {
        /// Where.
        host: String,
        /// The destination's.
        there: String,
        /// The source's.
        here: String,
    },
    /// See the text.
    #[error("the processor of host {host} is of {there} and the source's of {here}: {ANEW}")]
    Vendor {
        /// Where.
        host: String,
        /// The destination's.
        there: String,
        /// The source's.
        here: String,
    },
    /// A guest that runs uses the flags that it has seen.
    #[error(
        "guests on host {host} do not get the CPU flags {missing}, which the VM may use: {ANEW}, or give it a `cpu` model that both have"
    )]
    Flags {
        /// Where.
        host: String,
        /// Which.
        missing: String,
    },
    /// See the text.
    #[error("host {host} has {free} of memory free for guests and VM '{vm}' needs {needs}, QEMU's own share with it")]
    Memory {
        /// Where.
        host: String,
        /// Which VM.
        vm: VmName,
        /// There.
        free: ByteLen,
        /// Here.
        needs: ByteLen,
    },
    /// See the text.
    #[error("host {host} cannot give the VM its bridge '{bridge}': {why}")]
    Bridge {
        /// Where.
        host: String,
        /// Which.
        bridge: String,
        /// Why not.
        why: String,
    },
    /// See the text.
    #[error("host {host} cannot reach the target of volume '{volume}': see `muskox path show`")]
    Volume {
        /// Where.
        host: String,
        /// Which.
        volume: String,
    },
    /// See the text.
    #[error("the VM has {0}, which cannot be moved")]
    Pinned(String),
    /// See the text.
    #[error("target {0} has not acknowledged an earlier fence: nothing moves until it has")]
    FenceBlocked(String),
}

/// All reasons against it; none: it can begin.
#[must_use]
pub fn refusals(vm: &VmName, facts: &[Fact]) -> Vec<Refusal> {
    let mut found = Vec::new();
    let side = |want_source: bool| {
        facts.iter().find_map(|fact| match fact {
            Fact::Source(side) if want_source => Some(side),
            Fact::Destination(side) if !want_source => Some(side),
            _ => None,
        })
    };
    if let (Some(source), Some(destination)) = (side(true), side(false)) {
        between(vm, source, destination, &mut found);
    }
    for fact in facts {
        match fact {
            Fact::Source(side) if !side.answers => found.push(Refusal::Silent(side.name.clone())),
            Fact::Destination(side) => against_destination(side, &mut found),
            Fact::NotRunning => found.push(Refusal::NotRunning(vm.clone())),
            Fact::Busy(job) => found.push(Refusal::Busy { vm: vm.clone(), job: job.clone() }),
            Fact::Memory(needs) => {
                if let Some(Side { name, free, .. }) = side(false).filter(|side| side.free < *needs) {
                    let (host, vm) = (name.clone(), vm.clone());
                    found.push(Refusal::Memory { host, vm, free: *free, needs: *needs });
                }
            }
            Fact::Pinned(device) => found.push(Refusal::Pinned(device.clone())),
            Fact::FenceBlocked(target) => found.push(Refusal::FenceBlocked(target.clone())),
            Fact::Source(_) => {}
        }
    }
    found
}

fn between(vm: &VmName, source: &Side, destination: &Side, found: &mut Vec<Refusal>) {
    if source.host == destination.host {
        found.push(Refusal::SameHost { vm: vm.clone(), host: source.name.clone() });
    }
    if let (Some(here), Some(there)) = (source.qemu, destination.qemu)
        && there < here
    {
        found.push(Refusal::OlderQemu { host: destination.name.clone(), there, here });
    }
    if source.host != destination.host && source.answers && destination.answers && destination.qemu.is_some() {
        processors(source, destination, found);
    }
}

/// A guest takes its processor with it: what it has seen at the source must be there.
fn processors(source: &Side, destination: &Side, found: &mut Vec<Refusal>) {
    let (Some(from), Some(to)) = (&source.processor, &destination.processor) else {
        let silent = [source, destination].into_iter().filter(|side| side.processor.is_none());
        found.extend(silent.map(|side| Refusal::ProcessorUnknown(side.name.clone())));
        return;
    };
    let host = destination.name.clone();
    if from.accelerator != to.accelerator {
        let (there, here) = (to.accelerator.clone(), from.accelerator.clone());
        found.push(Refusal::Accelerator { host, there, here });
        return;
    }
    if from.vendor != to.vendor {
        let (host, there, here) = (host.clone(), to.vendor.clone(), from.vendor.clone());
        found.push(Refusal::Vendor { host, there, here });
    }
    let missing = from.missing_at(to);
    if !missing.is_empty() {
        found.push(Refusal::Flags { host, missing: missing.join(", ") });
    }
}

fn against_destination(side: &Side, found: &mut Vec<Refusal>) {
    let name = || side.name.clone();
    if !side.answers {
        // Nothing else is known of it.
        found.push(Refusal::Silent(name()));
        return;
    }
    if side.draining {
        found.push(Refusal::Draining(name()));
    }
    if side.qemu.is_none() {
        found.push(Refusal::NoQemu(name()));
    } else if let Some(what) = side.lacks.clone() {
        found.push(Refusal::Machine { host: name(), what });
    }
    let bridge =
        |(bridge, why): &(String, String)| Refusal::Bridge { host: name(), bridge: bridge.clone(), why: why.clone() };
    found.extend(side.missing_bridges.iter().map(bridge));
    let volume = |volume: &String| Refusal::Volume { host: name(), volume: volume.clone() };
    found.extend(side.unreachable_volumes.iter().map(volume));
}

#[cfg(test)]
mod test {
    use super::*;

    fn set(flags: &[&str]) -> BTreeSet<String> {
        flags.iter().map(ToString::to_string).collect()
    }

    fn processor(accelerator: &str, flags: &[&str], model_lacks: Option<&[&str]>) -> Processor {
        let vendor = "GenuineIntel".to_owned();
        Processor { accelerator: accelerator.to_owned(), vendor, flags: set(flags), model_lacks: model_lacks.map(set) }
    }

    fn side(n: u8) -> Side {
        Side {
            host: HostKey([n; 32]),
            name: format!("host{n}"),
            answers: true,
            qemu: Some((10, 0)),
            lacks: None,
            processor: Some(processor("kvm", &["sse2", "avx2"], None)),
            free: ByteLen::mib(512),
            missing_bridges: Vec::new(),
            unreachable_volumes: Vec::new(),
            draining: false,
        }
    }

    /// Goal: every reason is told at once, in words that say what to do; none if all is well. Method: one of each.
    #[test]
    fn every_reason_is_told() {
        let vm: VmName = "web1".parse().expect("a name");
        let good = [Fact::Source(side(1)), Fact::Destination(side(2)), Fact::Memory(ByteLen::mib(512))];
        assert_eq!(refusals(&vm, &good), []);
        let bad = Side {
            qemu: Some((7, 2)),
            missing_bridges: vec![("lan".into(), "its port 'eth1' has no carrier".into())],
            unreachable_volumes: vec!["web1".into()],
            draining: true,
            ..side(2)
        };
        let facts = [Fact::Source(side(1)), Fact::Destination(bad), Fact::Memory(ByteLen::mib(513))];
        let texts: Vec<String> = refusals(&vm, &facts).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "host host2 has QEMU 7.2, older than the source's 10.0: update it first",
                "host host2 is being drained: choose another one",
                "host host2 cannot give the VM its bridge 'lan': its port 'eth1' has no carrier",
                "host host2 cannot reach the target of volume 'web1': see `muskox path show`",
                "host host2 has 512 MiB of memory free for guests and VM 'web1' needs 513 MiB, QEMU's own share with it",
            ]
        );
        let silent = Side { answers: false, qemu: None, ..side(2) };
        let facts = [Fact::Source(side(1)), Fact::Destination(silent), Fact::Busy("j7".into())];
        assert_eq!(refusals(&vm, &facts).len(), 2, "of a silent host nothing else is said");
        let facts = [Fact::Source(side(1)), Fact::Destination(side(1))];
        assert!(matches!(refusals(&vm, &facts)[..], [Refusal::SameHost { .. }]));
    }

    /// Goal: CA9, A32: a guest never moves to a processor that lacks what it has seen; what it lacks is told. Method: KVM and TCG, two
    /// vendors, fewer flags, more flags; a model by what either host lacks of it; a host that does not say.
    #[test]
    fn a_guest_takes_no_flag_away_from_itself() {
        let vm: VmName = "web1".parse().expect("a name");
        let told = |from: Option<Processor>, to: Option<Processor>| -> Vec<String> {
            let (source, destination) = (Side { processor: from, ..side(1) }, Side { processor: to, ..side(2) });
            let facts = [Fact::Source(source), Fact::Destination(destination)];
            refusals(&vm, &facts).iter().map(ToString::to_string).collect()
        };
        let kvm = |flags: &[&str], lacks| Some(processor("kvm", flags, lacks));
        let (few, many): (&[&str], &[&str]) = (&["sse2"], &["sse2", "avx2", "erms"]);
        assert_eq!(told(kvm(few, None), kvm(many, None)), [""; 0], "more is no harm");
        let refused = told(kvm(many, None), kvm(few, None));
        assert!(refused.len() == 1 && refused[0].contains("host2 do not get the CPU flags avx2, erms,"), "{refused:?}");
        let refused = told(kvm(many, None), Some(processor("tcg", many, None)));
        assert_eq!(refused, ["host host2 runs guests by tcg and the source by kvm: stop the VM and start it there"]);
        let amd = Processor { vendor: "AuthenticAMD".into(), ..processor("kvm", many, None) };
        let refused = told(kvm(many, None), Some(amd));
        assert!(
            refused.len() == 1 && refused[0].contains("is of AuthenticAMD and the source's of GenuineIntel"),
            "{refused:?}"
        );
        assert_eq!(told(kvm(many, Some(&["hle"])), kvm(few, Some(&["hle"]))), [""; 0], "its model is there");
        let refused = told(kvm(many, Some(&["hle"])), kvm(many, Some(&["hle", "rtm"])));
        assert!(refused.len() == 1 && refused[0].contains("the CPU flags rtm,"), "{refused:?}");
        let refused = told(None, kvm(many, None));
        assert!(refused.len() == 1 && refused[0].contains("host1 does not say which processor"), "{refused:?}");
        let facts =
            [Fact::Source(side(1)), Fact::Destination(Side { lacks: Some("the CPU model 'x'".into()), ..side(2) })];
        let texts: Vec<String> = refusals(&vm, &facts).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["the QEMU of host host2 does not offer the CPU model 'x', which the VM has"]);
    }
}
