//! What a control request does to a pool: its members and its volumes, and what it shows of them.

use super::array::{random, refuse_raid, refuse_volume, same_disk, unix_seconds};
use super::export::{Export, Progress, Served};
use super::places::Places;
use super::thread::Pool;
use block::gate::{Blocked, Found, GatedVolume, Parts, State};
use block::raid::{ArrayState, ArrayStatus, Member, MemberStatus, Standing};
use block::volume::{VolumeError, VolumeState, ZeroProgress};
use host::disk::Machine;
use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use units::{ByteLen, Epoch, Millis, VolumeId, VolumeName};
use wire::control::{
    Advice, Code, MemberReport, MemberState, PoolReport, PoolState, Refusal, Reply, Request, ServeState, VolumeReport,
    WorkReport,
};

/// Why a volume of stock tools is left out; the name itself says what is wrong with it.
const ODD_NAME: &str = "its name is not possible in muskox (1 to 63 of a-z 0-9 - _ ., first a letter or digit): `lvrename` gives it another";
/// Beside the state of a volume that is served all the same.
const READ_ONLY: &str = "read-only in LVM2: attached with mode=ro only";
/// Disks of one kind differ by less than this part of their length.
const UNUSED_SHARE: u64 = 100;
/// Below this the speed of a work that has just begun says nothing about its end.
const GUESS_AFTER: Millis = Millis(1000);

/// Where a member that somebody named is or was.
enum Stood {
    In(usize),
    /// It is missing.
    Gone,
}

impl Pool {
    /// Does what a control request asks of this pool.
    pub async fn answer(self: &Rc<Self>, request: Request) -> Result<Reply, Refusal> {
        match request {
            Request::MemberFail { member, .. } => {
                // One step, that may come at any moment by itself: what changes just now may hang on this very disk.
                let outcome = self.fail(&member).await;
                self.remember_places().await;
                outcome?;
                Ok(Reply::Pool(self.report().await))
            }
            Request::MemberAdd { member, wipe, .. } => {
                let _changing = self.changing.lock().await;
                let outcome = self.add(&member, wipe).await;
                self.remember_places().await;
                outcome?;
                Ok(Reply::Pool(self.report().await))
            }
            Request::MemberReplace { old, new, wipe, .. } => {
                let _changing = self.changing.lock().await;
                let outcome = self.replace(&old, &new, wipe).await;
                self.remember_places().await;
                outcome?;
                Ok(Reply::Pool(self.report().await))
            }
            Request::VolumeCreate { volume, size, .. } => self.create_volume(&volume, size).await,
            Request::VolumeRemove { volume } => self.remove_volume(&volume).await,
            request => self.answer_grant(request).await,
        }
    }

    async fn fail(&self, member: &str) -> Result<(), Refusal> {
        match self.standing_of(member)? {
            Stood::In(slot) => self.array.array.fail(slot).await.map_err(|error| refuse_raid(&error))?,
            Stood::Gone => {
                let text = format!("'{member}' is missing: there is nothing to fail");
                return Err(Refusal::advised(Code::Invalid, text, Advice::ReplaceDisk));
            }
        }
        tracing::warn!(pool = %self.name, member, "failed by an operator");
        Ok(())
    }

    async fn add(&self, path: &str, wipe: bool) -> Result<(), Refusal> {
        self.take_in(self.array.member(path).await?, path, wipe).await
    }

    async fn take_in(&self, member: Member, path: &str, wipe: bool) -> Result<(), Refusal> {
        let slot = self.array.array.add(member, wipe, random()?).await.map_err(|error| refuse_raid(&error))?;
        // Half of a mirror that ran elsewhere may bring higher epochs.
        self.found_again();
        tracing::info!(pool = %self.name, path, slot, "added");
        Ok(())
    }

    /// The new disk is opened and looked at before the old member goes: a typing error, or a disk that holds something,
    /// must not cost redundancy. An old one that is missing has gone already.
    async fn replace(&self, old: &str, new: &str, wipe: bool) -> Result<(), Refusal> {
        let stood = self.standing_of(old)?;
        let member = self.array.member(new).await?;
        self.array.array.check_successor(&member, wipe).await.map_err(|error| refuse_raid(&error))?;
        if let Stood::In(_) = stood {
            self.fail(old).await?;
        }
        self.take_in(member, new, wipe).await.map_err(|refusal| {
            let text = format!("'{old}' was failed, but '{new}' was not added: {}", refusal.text);
            Refusal::advised(refusal.code, text, Advice::AddDisk)
        })
    }

    /// Where the member of this path, or of another one that leads to the same disk, stands or stood.
    fn standing_of(&self, path: &str) -> Result<Stood, Refusal> {
        let status = self.array.array.status();
        let machine = Machine::default();
        let exact = status.members.iter().find(|member| member.label == path);
        let is = |member: &&MemberStatus| same_disk(&machine, Path::new(path), Path::new(&member.label));
        if let Some(member) = exact.or_else(|| status.members.iter().find(is)) {
            return Ok(Stood::In(member.slot));
        }
        let reports = members_of(&status, &self.places.borrow());
        let gone = reports.iter().find(|it| it.state == MemberState::Missing && it.path == path);
        if gone.is_some() {
            return Ok(Stood::Gone);
        }
        let paths: Vec<&str> = reports.iter().map(|it| it.path.as_str()).collect();
        let text = format!("'{path}' is not a member of the pool '{}'", self.name);
        Err(Refusal::new(Code::NotFound, text, format!("its members are {}", paths.join(", "))))
    }

    /// Puts every volume of the group behind its gate, and goes on with those whose zeroing did not end.
    pub async fn open_volumes(self: &Rc<Self>) {
        let volumes = self.exports.group.lock().await.list();
        for volume in volumes {
            let Ok(name) = volume.name.parse::<VolumeName>() else {
                tracing::warn!(pool = %self.name, volume = volume.name, "not served: {ODD_NAME}");
                continue;
            };
            match volume.state {
                VolumeState::Ready => {
                    let found = self.array.found(volume.id);
                    self.serve_volume(&name, volume.id, &found).await;
                }
                VolumeState::Zeroing => self.zero(&name, volume.id).await,
                VolumeState::Foreign(why) => self.exports.put(&name, Export::Unusable(why)),
            }
        }
    }

    async fn serve_volume(&self, name: &VolumeName, id: VolumeId, found: &Found) {
        let (disk, read_only) = {
            let mut group = self.exports.group.lock().await;
            let read_only = group.find(name.as_str()).is_some_and(|volume| volume.read_only);
            (group.volume(id), read_only)
        };
        let export = match disk {
            Ok(disk) => {
                let parts = Parts { id, name: name.clone(), disk, store: self.array.store(), rt: Rc::clone(&self.rt) };
                Export::Ready(Served { gate: GatedVolume::open(parts, found, None), id, read_only })
            }
            Err(error) => Export::Unusable(error.to_string()),
        };
        self.exports.put(name, export);
    }

    async fn create_volume(self: &Rc<Self>, name: &VolumeName, size: ByteLen) -> Result<Reply, Refusal> {
        let _changing = self.changing.lock().await;
        let id = VolumeId(random()?);
        let made = self.exports.group.lock().await.create_volume(name, id, size, unix_seconds()).await;
        let volume = made.map_err(|error| refuse_volume(&error))?;
        tracing::info!(pool = %self.name, volume = %name, %id, size = %volume.size, "made; being zeroed");
        self.zero(name, id).await;
        let all = self.volumes().await;
        let report = all.into_iter().find(|report| report.volume == name.as_str());
        report.map(Reply::Volume).ok_or_else(|| Refusal::new(Code::Failed, "the volume vanished", "see the log"))
    }

    /// Starts zeroing a volume in the background; it is served when that is over.
    async fn zero(self: &Rc<Self>, name: &VolumeName, id: VolumeId) {
        let zeroing = match self.exports.group.lock().await.zeroing(id) {
            Ok(zeroing) => zeroing,
            Err(error) => return self.exports.put(name, Export::Unusable(error.to_string())),
        };
        let begin = ZeroProgress { done: ByteLen(0), total: ByteLen(0) };
        let progress = Rc::new(Progress { now: Cell::new(begin), started: self.rt.now() });
        self.exports.put(name, Export::Zeroing(Rc::clone(&progress)));
        let (pool, name) = (Rc::clone(self), name.clone());
        tokio::task::spawn_local(async move {
            let outcome = match zeroing.run(|now| progress.now.set(now)).await {
                Ok(zeroed) => {
                    let _changing = pool.changing.lock().await;
                    let published = pool.exports.group.lock().await.publish(zeroed, unix_seconds()).await;
                    published.map(drop).map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            match outcome {
                // Nobody had this volume before: no missing member can hold a grant of it.
                Ok(()) => pool.serve_volume(&name, id, &Found { records: Vec::new(), complete: true }).await,
                Err(why) => pool.exports.put(&name, Export::Unusable(format!("zeroing failed: {why}"))),
            }
        });
    }

    async fn remove_volume(&self, name: &VolumeName) -> Result<Reply, Refusal> {
        let _changing = self.changing.lock().await;
        if self.exports.session_count(name) > 0 {
            let text = format!("the volume '{name}' has sessions");
            return Err(Refusal::new(Code::Busy, text, "detach its clients first: `muskox ctl status` shows them"));
        }
        let Some(export) = self.exports.take(name) else {
            return Err(Refusal::new(Code::NotFound, format!("there is no volume '{name}'"), ""));
        };
        let outcome = {
            let mut group = self.exports.group.lock().await;
            match group.find(name.as_str()) {
                Some(volume) => {
                    let kept = keep(&export);
                    drop(export);
                    let removed = group.remove_volume(volume.id, unix_seconds()).await;
                    removed.map(|()| volume.id).map_err(|error| (refuse_removal(name, &error), kept, volume.id))
                }
                None => return Err(Refusal::new(Code::NotFound, format!("there is no volume '{name}'"), "")),
            }
        };
        match outcome {
            Ok(id) => {
                tracing::info!(pool = %self.name, volume = %name, %id, "removed");
                let forgotten = self.array.array.facts().forget(id).await;
                forgotten.map(|()| Reply::Done).map_err(|error| refuse_raid(&error))
            }
            Err((refusal, kept, id)) => {
                match kept {
                    Some(zeroing) => self.exports.put(name, zeroing),
                    None => self.serve_volume(name, id, &self.array.found(id)).await,
                }
                Err(refusal)
            }
        }
    }

    /// How the pool is.
    pub async fn report(&self) -> PoolReport {
        let status = self.array.array.status();
        let (size, free, frozen) = {
            let group = self.exports.group.lock().await;
            (group.capacity(), group.free(), group.frozen().map(|why| format!("its volumes cannot be changed: {why}")))
        };
        let (state, reason) = state_of(&status);
        let more = self.why_not_whole(&status).into_iter().chain(frozen);
        let reason = more.fold(reason, |reason, more| with_more(reason, Some(&more)));
        PoolReport {
            pool: self.name.clone(),
            array: Some(status.id),
            state,
            reason,
            note: note_of(&status),
            size,
            free,
            members: members_of(&status, &self.places.borrow()),
            resync: status.resync.map(|resync| WorkReport {
                done: resync.copied,
                total: resync.copied + resync.left,
                left: resync.eta,
            }),
        }
    }

    /// How its volumes are.
    pub async fn volumes(&self) -> Vec<VolumeReport> {
        let all = self.exports.group.lock().await.list();
        let witness = self.array.array.status().witness_blocked;
        let reports = all.into_iter().map(|volume| {
            let name = volume.name.parse::<VolumeName>().ok();
            let export = name.as_ref().and_then(|name| self.exports.get(name));
            let (state, reason, epoch) = match name {
                Some(_) => serving(export.as_ref()),
                None => (ServeState::Offline, Some(ODD_NAME.to_owned()), Epoch(0)),
            };
            let reason = with_more(reason, witness.as_deref());
            VolumeReport {
                sessions: name.map_or(0, |name| self.exports.session_count(&name)),
                volume: volume.name,
                id: volume.id,
                pool: self.name.clone(),
                size: volume.size,
                state,
                reason,
                epoch,
                zeroing: match export {
                    Some(Export::Zeroing(progress)) => Some(self.zeroing_report(&progress, volume.size)),
                    _ => None,
                },
            }
        });
        reports.collect()
    }

    fn zeroing_report(&self, progress: &Progress, size: ByteLen) -> WorkReport {
        let now = progress.now.get();
        let spent = self.rt.now().since(progress.started);
        let ahead = u128::from(size.0.saturating_sub(now.done.0)) * u128::from(spent.0);
        let left = ahead.checked_div(u128::from(now.done.0)).and_then(|left| u64::try_from(left).ok());
        WorkReport { done: now.done, total: size, left: left.filter(|_| spent >= GUESS_AFTER).map(Millis) }
    }
}

/// What has to be put back if a removal fails: the progress of a zeroing; a served volume is opened again.
fn keep(export: &Export) -> Option<Export> {
    match export {
        Export::Ready(..) => None,
        Export::Zeroing(_) | Export::Unusable(_) => Some(export.clone()),
    }
}

fn serving(export: Option<&Export>) -> (ServeState, Option<String>, Epoch) {
    match export {
        Some(Export::Ready(served)) => {
            let status = served.gate.status();
            let (state, reason) = serve_state(status.state);
            let read_only = served.read_only.then(|| READ_ONLY.to_owned());
            (state, with_more(reason, read_only.as_deref()), status.epoch)
        }
        Some(Export::Zeroing(_)) => (ServeState::Zeroing, None, Epoch(0)),
        Some(Export::Unusable(why)) => (ServeState::Offline, Some(why.clone()), Epoch(0)),
        None => (ServeState::Offline, None, Epoch(0)),
    }
}

/// A reason and one more, as why nothing new is answered below a volume.
pub fn with_more(reason: Option<String>, more: Option<&str>) -> Option<String> {
    let all: Vec<String> = reason.into_iter().chain(more.map(str::to_owned)).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// A gate's state for a report.
pub fn serve_state(state: State) -> (ServeState, Option<String>) {
    match state {
        State::Serving => (ServeState::Serving, None),
        State::Raising => (ServeState::Raising, None),
        State::Blocked(why) => {
            let word = match why {
                Blocked::Floor => ServeState::BlockedFloor,
                Blocked::Fence => ServeState::BlockedFence,
                Blocked::Store | Blocked::Witness => ServeState::BlockedStore,
            };
            (word, Some(why.to_string()))
        }
    }
}

fn state_of(status: &ArrayStatus) -> (PoolState, Option<String>) {
    let outsiders = status.outsiders.iter().map(|(label, why)| format!("{label}: {why}"));
    let failed = status
        .members
        .iter()
        .filter_map(|member| member.cause.as_ref().map(|cause| format!("{}: {cause}", member.label)));
    let blocked = status.witness_blocked.iter().chain(&status.resync_blocked).cloned();
    let lacking = status.members.iter().filter_map(MemberStatus::lacks);
    let reasons: Vec<String> = blocked.chain(failed).chain(lacking).chain(outsiders).collect();
    let recovering = status.members.iter().any(|member| member.standing == Standing::Recovering);
    let state = match status.state {
        ArrayState::Clean | ArrayState::Active => PoolState::Healthy,
        ArrayState::Degraded if recovering => PoolState::Recovering,
        ArrayState::Degraded => PoolState::Degraded,
        ArrayState::Resyncing => PoolState::Recovering,
        ArrayState::Failed => PoolState::Failed,
        ArrayState::Stopped => PoolState::Stopped,
    };
    (state, Some(reasons.join("; ")).filter(|text| !text.is_empty()))
}

/// What nobody should have to find out by losing a disk, or by looking for room.
fn note_of(status: &ArrayStatus) -> Option<String> {
    let alone = (status.slots == 1).then(|| "1 of 1 disk, no mirror: what is on this pool is lost with it".to_owned());
    let worth_a_word = status.size.0 / UNUSED_SHARE;
    let unused = status.members.iter().filter(|member| member.unused.0 > worth_a_word);
    let unused = unused.map(|member| {
        format!("{} of {} are not used: a mirror is as large as its smallest disk", member.unused, member.label)
    });
    let all: Vec<String> = alone.into_iter().chain(unused).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// Every slot, with the disk that is or was in it.
pub fn members_of(status: &ArrayStatus, places: &Places) -> Vec<MemberReport> {
    let slots = 0..status.slots;
    let reports = slots.map(|slot| {
        let member = status.members.iter().find(|member| member.slot == slot);
        MemberReport {
            path: member.map_or_else(|| gone_from(slot, status, places), |member| member.label.clone()),
            slot: u32::try_from(slot).ok(),
            state: member.map_or(MemberState::Missing, |member| match member.standing {
                Standing::InSync => MemberState::InSync,
                Standing::Recovering => MemberState::Recovering,
                Standing::Faulty => MemberState::Failed,
            }),
        }
    });
    reports.collect()
}

fn gone_from(slot: usize, status: &ArrayStatus, places: &Places) -> String {
    let name = places.gone_from(slot, status).map(|place| place.name().display().to_string());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "-".to_owned())
}

/// Somebody's operation, or a session that is ending, holds the disk for a moment.
fn refuse_removal(name: &VolumeName, error: &VolumeError) -> Refusal {
    match error {
        VolumeError::InUse(_) => {
            Refusal::new(Code::Busy, format!("the volume '{name}' is in use"), "wait a moment and ask again")
        }
        error => refuse_volume(error),
    }
}
