//! The lab's own timeline: what it did, and what it was told, when.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// One line: `{"at_us":1,"kind":"inject","fault":1,"cause":"freeze","host":"host2","revision":40}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Map<String, Value>", try_from = "Map<String, Value>")]
pub struct Event {
    /// When.
    pub at_us: u64,
    /// What.
    pub what: What,
}

/// What can happen. Faults and migrations are numbered from 1 through the whole run; a rogue's stamps carry its fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum What {
    /// The run begins.
    RunBegin {
        /// How often the steps of a round are done.
        rounds: u32,
        /// The planted bug.
        sabotage: Option<String>,
        /// The VM.
        vm: String,
        /// Each host's name and its key, as grants and the store name it.
        hosts: BTreeMap<String, String>,
    },
    /// A step begins; rounds count from 1, what is done once is in round 1.
    Phase {
        /// Which.
        step: Step,
        /// In which round.
        round: u32,
    },
    /// A step is done: everything it promises was seen.
    Done {
        /// Which.
        step: Step,
        /// In which round.
        round: u32,
    },
    /// A step could not be done.
    Failed {
        /// Which.
        step: Step,
        /// In which round.
        round: u32,
        /// Why.
        text: String,
    },
    /// The guest is asked to stop: from here on nobody expects records.
    WorkEnd,
    /// A fault begins, at this moment.
    Inject {
        /// Its number.
        fault: u32,
        /// What it is.
        cause: Cause,
        /// Whom it hits, if not everybody.
        host: Option<String>,
        /// The store's revision before.
        revision: u64,
    },
    /// The fault is taken back: the last port is in, the power is on, the host is thawed.
    End {
        /// Its number.
        fault: u32,
    },
    /// Everything has come to rest after the fault.
    Settled {
        /// Its number.
        fault: u32,
        /// The store's revision then.
        revision: u64,
    },
    /// The verdict on the host was recorded.
    Verdict {
        /// The fault.
        fault: u32,
    },
    /// A target acknowledged a raise of the failover. It counts only where no grant log tells.
    Fenced {
        /// The fault.
        fault: u32,
        /// Which storage box.
        machine: String,
        /// Which volume.
        volume: String,
        /// The new epoch.
        epoch: u64,
    },
    /// A QEMU's vCPUs run (RESUME).
    Running {
        /// Where.
        host: String,
        /// The epoch it was started or let go on under.
        epoch: u64,
        /// The fault, if it runs because of one.
        fault: Option<u32>,
    },
    /// A migration was asked for.
    MigrateBegin {
        /// Its number.
        migration: u32,
        /// From this host.
        from: String,
        /// To this one.
        to: String,
    },
    /// It is done.
    MigrateEnd {
        /// Its number.
        migration: u32,
        /// As the job's receipt says.
        total_ms: u64,
        /// Sent over the migration stream.
        bytes: u64,
        /// The source's STOP to the destination's RESUME, as the job's receipt says.
        blackout_ms: u64,
    },
    /// The pool's state changed.
    Pool {
        /// For example `degraded`.
        state: String,
        /// A sentence, for example the resync's ETA.
        text: String,
    },
    /// Anything worth a line.
    Note {
        /// The line.
        text: String,
    },
}

/// A step of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Machines, processes, a cluster of them.
    Cluster,
    /// A pool of two disks, a volume.
    Pool,
    /// The image is imported.
    Import,
    /// The VM runs and works.
    Start,
    /// It migrates to the second host.
    Migrate,
    /// A disk fails, is replaced, the resync ends.
    Disk,
    /// The second host's power goes, the VM runs on the first.
    Poweroff,
    /// The host is back and the VM migrates to it.
    Rejoin,
    /// The host is frozen and thawed, a rogue writer tries.
    Freeze,
    /// The VM's host is cut off and comes back.
    Cut,
    /// The whole switch is off.
    Switch,
    /// The storage box is off.
    Storage,
    /// The VM is stopped and everything is looked at.
    Check,
}

impl Step {
    /// In their order.
    pub const ALL: [Self; 13] = [
        Self::Cluster,
        Self::Pool,
        Self::Import,
        Self::Start,
        Self::Migrate,
        Self::Disk,
        Self::Poweroff,
        Self::Rejoin,
        Self::Freeze,
        Self::Cut,
        Self::Switch,
        Self::Storage,
        Self::Check,
    ];

    /// Whether every round does it again.
    #[must_use]
    pub fn is_repeated(self) -> bool {
        (Self::Migrate..=Self::Storage).contains(&self)
    }

    /// For people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Cluster => "three machines become a cluster",
            Self::Pool => "a pool of two disks, a volume",
            Self::Import => "the image is imported",
            Self::Start => "the VM starts on host1",
            Self::Migrate => "live migration to the other host",
            Self::Disk => "a disk fails and is replaced",
            Self::Poweroff => "the VM's host loses its power",
            Self::Rejoin => "the host is back, the VM moves to it",
            Self::Freeze => "the VM's host freezes, a rogue writer tries",
            Self::Cut => "the VM's host is cut off",
            Self::Switch => "the whole switch is off",
            Self::Storage => "the storage box loses its power",
            Self::Check => "the VM stops, everything is checked",
        }
    }
}

/// What a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A host's power goes.
    Poweroff,
    /// A host stands still.
    Freeze,
    /// A host is cut off from all networks.
    Cut,
    /// The whole switch is off.
    Switch,
    /// The storage box's power goes.
    Storage,
    /// A disk fails.
    Disk,
}

impl Cause {
    /// Whether the VM has to run elsewhere afterwards.
    #[must_use]
    pub fn fails_over(self) -> bool {
        matches!(self, Self::Poweroff | Self::Freeze | Self::Cut)
    }

    /// Whether it takes everybody's network or storage, so that nothing but waiting helps.
    #[must_use]
    pub fn is_outage(self) -> bool {
        matches!(self, Self::Switch | Self::Storage)
    }

    /// As in the report.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Poweroff => "poweroff",
            Self::Freeze => "freeze",
            Self::Cut => "cut",
            Self::Switch => "switch",
            Self::Storage => "storage",
            Self::Disk => "disk",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<Event> for Map<String, Value> {
    fn from(event: Event) -> Self {
        let Ok(Value::Object(what)) = serde_json::to_value(event.what) else {
            unreachable!("a tagged enum of plain fields is an object")
        };
        // The moment first, for who reads the file.
        std::iter::once(("at_us".to_owned(), event.at_us.into())).chain(what).collect()
    }
}

impl TryFrom<Map<String, Value>> for Event {
    type Error = String;

    fn try_from(mut map: Map<String, Value>) -> Result<Self, String> {
        let at_us = map.remove("at_us").as_ref().and_then(Value::as_u64).ok_or("no at_us")?;
        let what = serde_json::from_value(Value::Object(map)).map_err(|error| error.to_string())?;
        Ok(Self { at_us, what })
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: an event is one flat object, and a word too many or a field too few is refused. Method: there and back.
    #[test]
    fn events_are_flat_and_strict() {
        let what = What::Inject { fault: 2, cause: Cause::Freeze, host: Some("host2".into()), revision: 40 };
        let text = serde_json::to_string(&Event { at_us: 5, what: what.clone() }).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["cause"], "freeze");
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), Event { at_us: 5, what });
        for bad in [
            r#"{"kind":"work_end"}"#,
            r#"{"at_us":-1,"kind":"work_end"}"#,
            r#"{"at_us":1,"kind":"explosion"}"#,
            r#"{"at_us":1,"kind":"end"}"#,
            r#"{"at_us":1,"kind":"end","fault":1,"fautl":2}"#,
        ] {
            assert!(serde_json::from_str::<Event>(bad).is_err(), "{bad}");
        }
    }
}
