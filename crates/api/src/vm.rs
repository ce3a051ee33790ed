//! Virtual machines, the jobs that work on them, and why they are as they are.

use crate::schema::{message, words};
use units::{NodeName, VmName, VolumeName};

words! {
    /// How a VM is.
    pub enum VmState {
        /// It runs.
        Running = "running",
        /// It does not run and should not.
        Stopped = "stopped",
        /// It is being started or brought back.
        Starting = "starting",
        /// It is being shut down.
        Stopping = "stopping",
        /// It moves while it runs.
        Migrating = "migrating",
        /// It has a QEMU whose vCPUs stand still: an I/O error, the dead-man, a hand-over.
        Paused = "paused",
        /// It should run and does not.
        Down = "down",
        /// Its host does not answer, or cannot tell; or the store is older than what runs.
        Unknown = "unknown",
    }
}

message! {
    /// A VM at a glance.
    pub struct Vm {
        /// Its name.
        pub name: VmName,
        /// How it is.
        pub state: VmState,
        /// Whether it should run.
        pub wished: bool,
        /// The host that owns it.
        pub host: Option<NodeName>,
        /// The epoch of its volumes.
        pub epoch: u64,
        /// Its memory, in bytes; of one that runs, what it runs with.
        pub memory: u64,
        /// Its virtual CPUs; of one that runs, what it runs with.
        pub vcpus: u64,
        /// Its volumes, in the order of its disks.
        pub volumes: Vec<VolumeName>,
        /// The job that works on it.
        pub job: Option<String>,
        /// What its description says otherwise since it was started: it holds from the next start on. For people, one entry a change.
        #[serde(default)]
        pub pending: Vec<String>,
    }
}

message! {
    /// All VMs.
    pub struct VmList {
        /// By name.
        pub vms: Vec<Vm>,
    }
}

message! {
    /// A VM with its description.
    pub struct VmDetails {
        /// At a glance.
        pub vm: Vm,
        /// Its description, in TOML, as it was given.
        pub spec: String,
        /// Its UUID.
        pub uuid: String,
        /// The addresses of its network interfaces, in order.
        pub macs: Vec<String>,
        /// What happened to it lately, for people.
        pub history: Vec<String>,
        /// The same, for programs; the newest first.
        #[serde(default)]
        pub events: Vec<Event>,
        /// In the answer to a new description: what to know about it, for people.
        #[serde(default)]
        pub notes: Vec<String>,
    }
}

message! {
    /// Asks for a VM, or for another description of it.
    #[serde(deny_unknown_fields)]
    pub struct VmSpecRequest {
        /// The description, in TOML; see docs/runbooks/vm.md.
        pub spec: String,
    }
}

message! {
    /// Asks that a VM run.
    #[serde(deny_unknown_fields)]
    pub struct VmStartRequest {
        /// Where; without it where there is the most room.
        pub host: Option<NodeName>,
        /// Start it although the cluster would then not survive the loss of one host.
        #[serde(default)]
        pub overcommit: bool,
    }
}

message! {
    /// Asks that a VM not run.
    #[serde(deny_unknown_fields)]
    pub struct VmStopRequest {
        /// How long the guest may take to shut down, in milliseconds, before it is switched off; none: as described.
        pub patience_ms: Option<u64>,
    }
}

message! {
    /// Asks that a VM move to another host while it runs.
    #[serde(deny_unknown_fields)]
    pub struct VmMigrateRequest {
        /// Where to; without it where there is the most room.
        pub host: Option<NodeName>,
        /// After this long it is undone, in milliseconds; none: 60 s and more for more memory.
        pub deadline_ms: Option<u64>,
    }
}

message! {
    /// A job was begun.
    pub struct Begun {
        /// Its id, for `job show`; none if there was nothing to do.
        pub job: Option<String>,
        /// What happens now, for people.
        pub text: String,
    }
}

message! {
    /// A line of a job's history.
    pub struct JobNote {
        /// Time the job had taken by then, in milliseconds.
        pub after_ms: u64,
        /// The stage that was entered.
        pub stage: String,
        /// Why, if not for the obvious reason.
        pub why: Option<String>,
    }
}

message! {
    /// What a migration cost. Blackouts are spans of one clock.
    pub struct MigrationReceipt {
        /// From the request to its end, in milliseconds.
        pub total_ms: u64,
        /// Bytes sent.
        pub bytes: Option<u64>,
        /// Passes over the memory.
        pub rounds: Option<u64>,
        /// From the source's STOP to the destination's RESUME, in milliseconds.
        pub cpu_blackout_ms: Option<u64>,
        /// From closing the source's epoch to the commit, in milliseconds.
        pub hand_over_ms: Option<u64>,
    }
}

message! {
    /// A job: work of several steps that survives whoever does it.
    pub struct Job {
        /// Its id.
        pub id: String,
        /// `migrate` or `recover`.
        pub kind: String,
        /// The VM that it works on.
        pub vm: VmName,
        /// Where it is.
        pub stage: String,
        /// What it came to: `done`, `undone`, `lost` or `conflict`; none: it goes on.
        pub outcome: Option<String>,
        /// Why it did not end as wished.
        pub why: Option<String>,
        /// What it waits for, longer than it should.
        pub blocked: Option<String>,
        /// Somebody wishes that it be undone.
        pub cancel: bool,
        /// Time taken so far, in milliseconds.
        pub spent_ms: u64,
        /// What happened, oldest first.
        pub history: Vec<JobNote>,
        /// Of a migration: what it cost.
        pub receipt: Option<MigrationReceipt>,
    }
}

message! {
    /// Jobs, the newest first.
    pub struct JobList {
        /// At most 100 that have ended.
        pub jobs: Vec<Job>,
    }
}

message! {
    /// Why a VM is as it is.
    pub struct Why {
        /// Which VM.
        pub vm: VmName,
        /// How it is, then sentences, each from a recorded fact, the newest first.
        pub sentences: Vec<String>,
        /// The recorded facts, for programs; the newest first.
        #[serde(default)]
        pub events: Vec<Event>,
    }
}

message! {
    /// A recorded fact about a VM.
    pub struct Event {
        /// When, by the clock of the machine that wrote it down: RFC 3339, UTC, with milliseconds.
        pub at: String,
        /// What kind; a word never changes its meaning, and new ones may come.
        pub kind: String,
        /// The epoch that it is about.
        pub epoch: Option<u64>,
        /// The host that it is about; of a move where it went to.
        pub host: Option<String>,
        /// What happened, for people.
        pub text: String,
    }
}

words! {
    /// What a check came to.
    pub enum Grade {
        /// As it should be.
        Good = "good",
        /// It works, and something should be done.
        Warning = "warning",
        /// Something does not work.
        Bad = "bad",
    }
}

message! {
    /// One thing that was looked at.
    pub struct Check {
        /// The machine that it is about.
        pub node: NodeName,
        /// What was looked at.
        pub what: String,
        /// What it came to.
        pub grade: Grade,
        /// What was found.
        pub text: String,
        /// What to do.
        pub hint: String,
    }
}

message! {
    /// What `doctor` found.
    pub struct Doctor {
        /// By machine.
        pub checks: Vec<Check>,
    }
}

message! {
    /// One change of the store.
    pub struct StoreChange {
        /// When, in the order of all changes.
        pub revision: u64,
        /// Which object.
        pub key: String,
        /// Its new value, any JSON; none: it was removed. Objects that are secret are left out.
        pub value: Option<serde_json::Value>,
    }
}

message! {
    /// Changes of the store, oldest first: for audits and rehearsals.
    pub struct StoreChanges {
        /// The changes.
        pub changes: Vec<StoreChange>,
        /// Ask from here for more; the same as asked for: there are none yet.
        pub next: u64,
    }
}
