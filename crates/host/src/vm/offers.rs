//! What guests get from this host's QEMU and processor: asked of a QEMU that runs no guest (`-machine none`).

use super::Owner;
use super::accelerator::PROBE_MAX;
use super::machine::{Accelerator, MACHINE_TYPE};
use super::monitor::{MonitorError, Qmp};
use super::process::Process;
use super::spawn::Program;
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use units::Millis;
use wire::qmp::{QueryCpuDefinitions, QueryCpuModelExpansion, QueryMachines, Quit};

/// Properties of a CPU that are true or false and are switches of QEMU's own, not flags that a guest's programs use.
/// Source: QEMU 10.0 `target/i386/cpu.c`, `x86_cpu_properties`.
const SWITCHES: [&str; 15] = [
    "acpi",
    "check",
    "cpuid-0xb",
    "cr8legacy",
    "enforce",
    "fill-mtrr-mask",
    "full-cpuid-auto-level",
    "host-cache-info",
    "host-phys-bits",
    "kvm",
    "l3-cache",
    "legacy-cache",
    "migratable",
    "pmu",
    "tcg-cpuid",
];
/// The model that a VM has without one of its own: all that there is.
const ALL: &str = "max";

/// What guests get here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offers {
    /// QEMU has the machine type that ours are made of.
    pub has_machine_type: bool,
    /// Whose processor guests see, as `GenuineIntel`.
    pub vendor: String,
    /// The flags of the model `max`.
    pub flags: BTreeSet<String>,
    /// All models, each with its flags that guests do not get here.
    pub lacking: BTreeMap<String, BTreeSet<String>>,
}

/// Asks `qemu`, run as `owner` in the folder `scratch`, what it offers with `accelerator`. It writes nothing.
///
/// # Errors
/// If QEMU cannot be started, or does not answer.
pub async fn offers(qemu: &Path, scratch: &Path, accelerator: Accelerator, owner: Option<Owner>) -> io::Result<Offers> {
    let (ours, its) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let machine = format!("none,accel={}", accelerator.word());
    let arguments = ["-no-user-config", "-nodefaults", "-display", "none", "-machine", &machine, "-qmp", "stdio"];
    let program = Program {
        program: qemu.to_owned(),
        arguments: arguments.into_iter().map(Into::into).collect(),
        talk: Some(its.into()),
        log: File::options().write(true).open("/dev/null")?,
        owner,
        folder: Some(rustix::fs::open(scratch, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?),
        cgroups: Vec::new(),
        environment: Vec::new(),
        ends_with_us: true,
        limits: Some(super::spawn::Limits { file_bytes: 1 << 20 }),
    };
    let mut child = program.start()?;
    let Some(process) = Process::of_child(&mut child)? else {
        let status = child.wait()?;
        return Err(io::Error::other(format!("QEMU ended at once ({status})")));
    };
    let stream = tokio::net::UnixStream::from_std(ours)?;
    let asked = tokio::time::timeout(PROBE_MAX, ask(stream)).await;
    let ended = tokio::time::timeout(Duration::from_secs(1), process.ended()).await;
    if ended.is_err() {
        process.signal(Signal::KILL)?;
        process.ended().await?;
    }
    match asked {
        Ok(answered) => answered.map_err(io::Error::other),
        Err(_) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("QEMU says nothing for {} s", PROBE_MAX.as_secs())))
        }
    }
}

async fn ask(stream: tokio::net::UnixStream) -> Result<Offers, MonitorError> {
    let limit = Millis(u64::try_from(PROBE_MAX.as_millis()).expect("seconds"));
    let qmp = Qmp::over(stream, false).await?;
    let machines = qmp.run(QueryMachines {}, limit).await?;
    let models = qmp.run(QueryCpuDefinitions {}, limit).await?;
    let all = qmp.run(QueryCpuModelExpansion::of(ALL), limit).await?.model.props;
    // Whoever does not end is killed.
    let _ = qmp.run(Quit {}, limit).await;
    let is = |name: &str| name == MACHINE_TYPE;
    Ok(Offers {
        has_machine_type: machines.iter().any(|it| is(&it.name) || it.alias.as_deref().is_some_and(is)),
        vendor: all.get("vendor").and_then(|it| it.as_str()).unwrap_or_default().to_owned(),
        flags: all.iter().filter(|(name, has)| is_flag(name) && **has == true).map(|(name, _)| name.clone()).collect(),
        lacking: models.into_iter().map(|it| (it.name, it.unavailable_features.into_iter().collect())).collect(),
    })
}

/// Each flag once, by the name that QEMU's list of models has: others are its older names.
fn is_flag(name: &str) -> bool {
    !name.starts_with("x-") && !name.contains(['_', '.']) && !SWITCHES.contains(&name)
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: CA9, A33: what guests get here is found out from QEMU itself, and a QEMU that does not answer is an error. Method: this
    /// machine's QEMU under TCG, which every machine has; programs that are none.
    #[tokio::test]
    async fn qemu_says_what_guests_get() {
        let scratch = std::env::temp_dir();
        let ask = |qemu: &'static str| {
            let scratch = scratch.clone();
            async move { offers(Path::new(qemu), &scratch, Accelerator::Tcg, None).await }
        };
        let found = ask("/usr/bin/qemu-system-x86_64").await.unwrap();
        assert!(found.has_machine_type && !found.vendor.is_empty(), "{found:?}");
        for flag in ["sse2", "lm", "nx"] {
            assert!(found.flags.contains(flag), "{flag}: {:?}", found.flags);
        }
        for none in ["migratable", "kvm", "sse4_1", "x-vendor-cpuid-only"] {
            assert!(!found.flags.contains(none), "{none}: {:?}", found.flags);
        }
        assert!(found.lacking[ALL].is_empty(), "{:?}", found.lacking[ALL]);
        // TCG has no transactional memory: Source: QEMU's `target/i386/cpu.c`, `TCG_7_0_EBX_FEATURES`.
        assert!(found.lacking["Haswell"].contains("rtm"), "{:?}", found.lacking["Haswell"]);
        assert!(ask("/bin/true").await.is_err());
        assert_eq!(ask("/nonexistent").await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
