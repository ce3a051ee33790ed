//! On which disks a pool's members were: so that a missing one can be named, and one that was only away is known to be no
//! failed one. One small file per array in the state folder, `disks-ARRAY.json`.
//!
//! Losing it loses no data: a missing member has no name then, and waits for `pool add`. The superblocks cannot say it: a
//! member that is not there and one that failed are marked alike in those that went on.

use block::raid::{ArrayStatus, Standing};
use host::replace::{Outlives, replace};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use units::ArrayId;

const VERSION: u16 = 1;
/// A member that comes and goes wears out the others with resyncs, and its cable or its power is sick: a person looks.
const RETURNS_MAX: usize = 3;
const HOUR_S: u64 = 3600;
/// Members remembered: the numbers that a superblock of ours can hold.
const MEMBERS_MAX: usize = 128;

/// What is remembered, and where.
#[derive(Debug)]
pub struct Places {
    path: PathBuf,
    document: Document,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Document {
    version: u16,
    /// By device number.
    members: BTreeMap<u32, Place>,
    /// What a newer version wrote.
    #[serde(flatten)]
    more: BTreeMap<String, serde_json::Value>,
}

/// Where one member was last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its slot then.
    pub slot: Option<usize>,
    /// The path it was taken by.
    pub path: PathBuf,
    /// Its name in `/dev/disk/by-id`, which stays when other disks come and go.
    pub lasting: Option<PathBuf>,
    /// It was at work and then not there at a start; it did not fail.
    pub absent: bool,
    /// When it was tried to be taken back without anybody's word, in seconds since 1970, the last hour.
    #[serde(default)]
    pub returned_s: Vec<u64>,
    #[serde(flatten)]
    more: BTreeMap<String, serde_json::Value>,
}

impl Place {
    /// What people look for.
    pub fn name(&self) -> &Path {
        self.lasting.as_deref().unwrap_or(&self.path)
    }
}

impl Places {
    /// What the file of an array holds. A damaged one is left out: it only helps.
    pub fn load(dir: &Path, array: ArrayId) -> Self {
        let path = dir.join(format!("disks-{array}.json"));
        let empty = || Document { version: VERSION, members: BTreeMap::new(), more: BTreeMap::new() };
        let document = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!("{}: where the members were is not known: {error}", path.display());
                empty()
            }),
            Err(_) => empty(),
        };
        Self { path, document }
    }

    /// All paths by which members were known.
    pub fn paths(&self) -> Vec<PathBuf> {
        let all = self.document.members.values().filter(|place| !place.path.as_os_str().is_empty());
        all.flat_map(|place| [&place.path].into_iter().chain(&place.lasting)).cloned().collect()
    }

    /// Takes over how the array is now. `lasting` finds a path's other name.
    pub fn note(&mut self, status: &ArrayStatus, lasting: impl Fn(&Path) -> Option<PathBuf>) {
        let members = &mut self.document.members;
        for member in &status.members {
            let (slot, path) = (member.slot, PathBuf::from(&member.label));
            let known = members.remove(&member.number).unwrap_or_default();
            let lasting = if known.path == path && known.lasting.is_some() { known.lasting } else { lasting(&path) };
            members.insert(member.number, Place { slot: Some(slot), path, lasting, absent: false, ..known });
        }
        for &(number, slot) in &status.missing {
            let place = members.entry(number).or_default();
            (place.slot, place.absent) = (Some(slot), true);
        }
        // Whose slot another one has is not missed any more.
        let live = |slot| status.members.iter().any(|it| it.slot == slot && it.standing != Standing::Faulty);
        let here = |number| status.members.iter().any(|it| it.number == number);
        members.retain(|number, place| here(*number) || !place.slot.is_some_and(live));
        while members.len() > MEMBERS_MAX {
            members.pop_first();
        }
    }

    /// Who was in this slot and is not there.
    pub fn gone_from(&self, slot: usize, status: &ArrayStatus) -> Option<&Place> {
        let here = |number: u32| status.members.iter().any(|member| member.number == number);
        let mut gone =
            self.document.members.iter().filter(|(number, place)| place.slot == Some(slot) && !here(**number));
        gone.next_back().map(|(_, place)| place)
    }

    /// Whether a member was only away.
    pub fn is_absent(&self, number: u32) -> bool {
        self.document.members.get(&number).is_some_and(|place| place.absent)
    }

    /// Whether any is.
    pub fn any_absent(&self) -> bool {
        self.document.members.values().any(|place| place.absent)
    }

    /// Whether a member may be taken back once more without anybody's word; that counts.
    pub fn may_return(&mut self, number: u32, now_s: u64) -> bool {
        let Some(place) = self.document.members.get_mut(&number) else { return false };
        // A clock that was set back forgets nothing.
        place.returned_s.retain(|then| now_s < then.saturating_add(HOUR_S));
        if place.returned_s.len() >= RETURNS_MAX {
            return false;
        }
        place.returned_s.push(now_s);
        true
    }

    /// Writes the file. For a thread that may wait.
    pub fn to_write(&self) -> impl FnOnce() + Send + use<> {
        let (path, text) = (self.path.clone(), serde_json::to_vec_pretty(&self.document));
        move || {
            let text = text.expect("numbers, and paths that came as text");
            if let Err(error) = replace(&path, &text, 0o644, Outlives::PowerLoss) {
                tracing::error!("{}: where the members are was not remembered: {error}", path.display());
            }
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use block::raid::{ArrayState, MemberStatus};
    use units::ByteLen;

    fn status(members: &[(usize, u32, &str, Standing)], missing: &[(u32, usize)]) -> ArrayStatus {
        let member = |&(slot, number, label, standing): &(usize, u32, &str, Standing)| MemberStatus {
            slot,
            number,
            label: label.to_owned(),
            standing,
            cause: None,
            lacking: ByteLen(0),
            bad: Vec::new(),
            unused: ByteLen(0),
        };
        ArrayStatus {
            id: ArrayId([7; 16]),
            name: "tank".to_owned(),
            size: ByteLen::mib(1),
            state: ArrayState::Clean,
            slots: 2,
            events: 1,
            members: members.iter().map(member).collect(),
            missing: missing.to_vec(),
            outsiders: Vec::new(),
            resync: None,
            still_busy: Vec::new(),
            resync_blocked: None,
            witness_blocked: None,
        }
    }

    fn none(_: &Path) -> Option<PathBuf> {
        None
    }

    fn places(name: &str) -> (PathBuf, Places) {
        let dir = std::env::temp_dir().join(format!("muskox-places-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let places = Places::load(&dir, ArrayId([7; 16]));
        (dir, places)
    }

    /// Goal: A41: who was away is told from who failed, over restarts, until another one has the place. Method: the life of
    /// a mirror, written and read again at each step.
    #[test]
    fn who_was_away_is_told_from_who_failed() {
        use Standing::{Faulty, InSync};
        let (dir, mut places) = places("life");
        let (a, b) = ((0, 0, "/dev/a", InSync), (1, 1, "/dev/b", InSync));
        let lasting = |path: &Path| Some(PathBuf::from(format!("{}-serial", path.display())));
        places.note(&status(&[a, b], &[]), lasting);
        let mut step = |now: &ArrayStatus| {
            places.note(now, none);
            places.to_write()();
            places = Places::load(&dir, ArrayId([7; 16]));
            let gone = places.gone_from(1, now).map(|place| place.name().to_owned());
            (places.is_absent(1), gone)
        };
        let b_is = |name: &str| Some(PathBuf::from(name));
        assert_eq!(step(&status(&[a], &[(1, 1)])), (true, b_is("/dev/b-serial")), "away at a start");
        assert_eq!(
            step(&status(&[a], &[])),
            (true, b_is("/dev/b-serial")),
            "and at the next, where its role says faulty"
        );
        assert_eq!(step(&status(&[a, (1, 1, "/dev/c", InSync)], &[])), (false, None), "back, by another name");
        assert_eq!(step(&status(&[a, (1, 1, "/dev/c", Faulty)], &[])), (false, None), "failed at work");
        assert_eq!(step(&status(&[a], &[])), (false, b_is("/dev/c")), "and not there at the next start");
        assert_eq!(step(&status(&[a, (1, 2, "/dev/d", InSync)], &[])), (false, None), "another one has its place");
        assert_eq!(step(&status(&[a], &[(2, 1)])), (false, b_is("/dev/d")));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    /// Goal: the issue's bound: a member comes back by itself at most three times an hour. Method: four tries, then later.
    #[test]
    fn a_member_returns_three_times_an_hour() {
        let (dir, mut places) = places("often");
        places.note(&status(&[], &[(1, 1)]), none);
        let tries: Vec<bool> = (0..5).map(|at| places.may_return(1, 1000 + at)).collect();
        assert_eq!(tries, [true, true, true, false, false]);
        assert!(!places.may_return(1, 10), "a clock set back");
        assert!(!places.may_return(1, 4599) && places.may_return(1, 4600) && !places.may_return(1, 4600));
        assert!(!places.may_return(5, 9999), "a stranger");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    /// Goal: the file keeps what a newer version wrote, and reads what lacks a field. Method: one field too many, one too few.
    #[test]
    fn unknown_fields_are_kept() {
        let (dir, places) = places("fields");
        let text = r#"{"version":1,"colour":"red","members":{"1":{"slot":1,"path":"/dev/b","lasting":null,"absent":true,"size":7}}}"#;
        std::fs::write(&places.path, text).unwrap();
        let places = Places::load(&dir, ArrayId([7; 16]));
        assert!(places.is_absent(1));
        places.to_write()();
        let kept = std::fs::read_to_string(&places.path).unwrap();
        assert!(kept.contains("\"colour\"") && kept.contains("\"size\""), "{kept}");
        std::fs::write(&places.path, "{").unwrap();
        assert!(!Places::load(&dir, ArrayId([7; 16])).any_absent());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
