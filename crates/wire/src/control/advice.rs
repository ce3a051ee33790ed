//! What to do about a refusal, where the same deed has one verb at the process (`muskox ctl`) and another in the cluster.
//!
//! A refusal carries the word; each door says it in its own verbs, so that nobody is sent to the other one.

use serde::{Deserialize, Deserializer, Serialize};

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Advice {
    /// See which pools there are.
    ListPools,
    /// See a pool's members.
    ShowPool,
    /// See a pool's members, and what the kernel says of them.
    LookAtDisks,
    /// Assemble a pool.
    StartPool,
    /// Name a pool's disks.
    NameDisks,
    /// See to the disks, then assemble.
    CheckDisks,
    /// Bring disks that are missing, or go on without them.
    BringDisks,
    /// Choose one of two that each ran alone.
    ChooseHalf,
    /// Take a disk in by another call.
    AddDisk,
    /// Put another disk in the place of one.
    ReplaceDisk,
    /// See which volumes there are.
    ListVolumes,
}

impl Advice {
    /// Every one.
    pub const ALL: [Self; 11] = [
        Self::ListPools,
        Self::ShowPool,
        Self::LookAtDisks,
        Self::StartPool,
        Self::NameDisks,
        Self::CheckDisks,
        Self::BringDisks,
        Self::ChooseHalf,
        Self::AddDisk,
        Self::ReplaceDisk,
        Self::ListVolumes,
    ];

    /// For who asks a target directly.
    #[must_use]
    pub const fn for_target(self) -> &'static str {
        self.both().0
    }

    /// For who asks the cluster.
    #[must_use]
    pub const fn for_cluster(self) -> &'static str {
        self.both().1
    }

    const fn both(self) -> (&'static str, &'static str) {
        /// The same words behind either program's name.
        macro_rules! both {
            ($before:literal, $after:literal) => {
                (concat!($before, "`muskox ctl ", $after), concat!($before, "`muskox ", $after))
            };
        }
        match self {
            Self::ListPools => both!("", "pool list` shows all"),
            Self::ShowPool => both!("", "pool show NAME` lists the members"),
            Self::LookAtDisks => both!("look at `dmesg` of the machine with the disks, and at ", "pool show NAME`"),
            Self::StartPool => both!("", "pool start NAME` assembles it"),
            Self::NameDisks => both!("name its disks: ", "pool start NAME DISK…`"),
            Self::CheckDisks => both!("check the disks' cables and paths, then ", "pool start NAME DISK…`"),
            Self::BringDisks => both!(
                "bring the missing disks: it starts by itself then; only if they are lost for good, ",
                "pool start NAME --degraded`"
            ),
            Self::ChooseHalf => (
                "`muskox ctl pool start NAME DISK --degraded` goes on with that disk alone; then `muskox ctl pool add NAME OTHER --wipe`",
                "`muskox pool start NAME DISK --degraded` goes on with that disk alone; then `muskox pool add NAME OTHER --wipe`",
            ),
            Self::AddDisk => both!("put it right, then ", "pool add NAME DISK`"),
            Self::ReplaceDisk => both!("", "pool replace NAME OLD NEW` puts another disk in its place"),
            Self::ListVolumes => both!("", "volume list` shows all, and how far a new one is"),
        }
    }
}

/// A word that this version does not know is none: the hint says it.
pub(super) fn known<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Advice>, D::Error> {
    let word = Option::<String>::deserialize(from)?;
    Ok(word.and_then(|word| serde_json::from_value(serde_json::Value::String(word)).ok()))
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::control::{Code, Refusal};

    /// Goal: each door says its own verbs. Method: every advice: the target's words name `muskox ctl`, the cluster's never do.
    #[test]
    fn each_door_has_its_own_verbs() {
        for advice in Advice::ALL {
            assert!(advice.for_target().contains("`muskox ctl "), "{advice:?}");
            assert!(advice.for_cluster().contains("`muskox ") && !advice.for_cluster().contains("ctl"), "{advice:?}");
        }
    }

    /// Goal: versions that know more or less understand each other. Method: a refusal of each kind there and back; a word that
    /// nobody knows; a refusal of a version without advice.
    #[test]
    fn unknown_advice_is_none() {
        for advice in Advice::ALL {
            let refusal = Refusal::advised(Code::Busy, "it is busy", advice);
            let text = serde_json::to_string(&refusal).expect("words");
            assert_eq!(serde_json::from_str::<Refusal>(&text).expect("the same"), refusal);
        }
        let plain = Refusal::new(Code::Busy, "it is busy", "wait");
        let text = serde_json::to_string(&plain).expect("words");
        assert!(!text.contains("advice"), "{text}");
        for more in ["", r#","advice":"dance""#, r#","advice":null"#] {
            let text = text.replace("}", &format!("{more}}}"));
            assert_eq!(serde_json::from_str::<Refusal>(&text).expect("read"), plain);
        }
    }
}
