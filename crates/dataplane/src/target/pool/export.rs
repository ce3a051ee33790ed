//! The volumes of a pool as exports: who may open one, as what, and which sessions run.

use super::thread::Pool;
use super::{Claim, Knock, Names, Opened};
use crate::session::{Admission, Connections, Ended, Leave, Meter, Session, export_info};
use block::gate::{
    Attachment, GatedVolume, Refusal as GateRefusal, Refused, Request as AttachRequest, Session as GateSession,
};
use block::volume::{VolumeGroup, ZeroProgress};
use block::{BlockDevice, DeviceError};
use host::net::Transport;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use units::{HostKey, Mode, VolumeId, VolumeName};
use wire::control::SessionReport;
use wire::nbd::{ListedExport, NoEntry, OpenFor, Refusal as NbdRefusal};

/// An admitted session waits so long for its connection: the rest of the handshake is one message.
const CLAIM_MAX: Duration = Duration::from_secs(15);
/// An attach waits for drains, a raise or a slow disk; a client that waits longer should rather hear why.
const ATTACH_MAX: Duration = Duration::from_secs(30);

/// The volumes of a pool and the sessions on them.
pub struct Exports {
    /// Their metadata. Held across a change, never across an operation of a guest.
    pub group: tokio::sync::Mutex<VolumeGroup>,
    volumes: RefCell<BTreeMap<VolumeName, Export>>,
    names: Names,
    sessions: RefCell<BTreeMap<u64, Entry>>,
    next_session: Cell<u64>,
    closed: watch::Sender<bool>,
    count: watch::Sender<usize>,
}

/// How a volume stands.
#[derive(Clone)]
pub enum Export {
    /// Behind its gate.
    Ready(Served),
    /// Being zeroed.
    Zeroing(Rc<Progress>),
    /// Not served, and why.
    Unusable(String),
}

/// A volume behind its gate.
#[derive(Clone)]
pub struct Served {
    /// The gate.
    pub gate: GatedVolume,
    /// Which volume.
    pub id: VolumeId,
    /// LVM2 lets nobody write to it.
    pub read_only: bool,
}

/// How far a zeroing is.
pub struct Progress {
    /// Done and total.
    pub now: Cell<ZeroProgress>,
    /// When it began.
    pub started: units::Moment,
}

struct Entry {
    volume: VolumeName,
    peer: String,
    attachment: Attachment,
    meter: Rc<Meter>,
}

impl Exports {
    /// The exports of a group, none open yet.
    pub fn new(group: VolumeGroup, names: Names) -> Self {
        Self {
            group: tokio::sync::Mutex::new(group),
            volumes: RefCell::default(),
            names,
            sessions: RefCell::default(),
            next_session: Cell::new(1),
            closed: watch::Sender::new(false),
            count: watch::Sender::new(0),
        }
    }

    /// Puts a volume in, in place of what stood under its name.
    pub fn put(&self, name: &VolumeName, export: Export) {
        self.volumes.borrow_mut().insert(name.clone(), export);
        self.publish();
    }

    /// Takes a volume out.
    pub fn take(&self, name: &VolumeName) -> Option<Export> {
        let taken = self.volumes.borrow_mut().remove(name);
        self.publish();
        taken
    }

    /// A volume.
    pub fn get(&self, name: &VolumeName) -> Option<Export> {
        self.volumes.borrow().get(name).cloned()
    }

    /// All of them.
    pub fn all(&self) -> Vec<(VolumeName, Export)> {
        self.volumes.borrow().iter().map(|(name, export)| (name.clone(), export.clone())).collect()
    }

    /// How many sessions a volume has.
    pub fn session_count(&self, volume: &VolumeName) -> u32 {
        let sessions = self.sessions.borrow();
        let count = sessions.values().filter(|entry| entry.volume == *volume).count();
        u32::try_from(count).expect("sessions are bounded by the gates")
    }

    /// Tells every session to end, and lets no new one in.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Waits until no session is left.
    pub async fn emptied(&self) {
        let mut count = self.count.subscribe();
        // The sender lives as long as this.
        let _ = count.wait_for(|count| *count == 0).await;
    }

    /// Who is attached.
    pub fn session_reports(&self) -> Vec<SessionReport> {
        let sessions = self.sessions.borrow();
        let reports = sessions.values().map(|entry| SessionReport {
            volume: entry.volume.clone(),
            host: entry.attachment.host,
            peer: entry.peer.clone(),
            epoch: entry.attachment.epoch,
            incarnation: entry.attachment.incarnation,
            mode: entry.attachment.mode,
            in_flight: entry.meter.in_flight.get(),
            answered: entry.meter.answered.get(),
        });
        reports.collect()
    }

    fn publish(&self) {
        let names = self.volumes.borrow().keys().cloned().collect();
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }

    fn enter(&self, entry: Entry) -> u64 {
        let id = self.next_session.replace(self.next_session.get() + 1);
        self.sessions.borrow_mut().insert(id, entry);
        self.count.send_replace(self.sessions.borrow().len());
        id
    }

    fn leave(&self, id: u64) {
        self.sessions.borrow_mut().remove(&id);
        self.count.send_replace(self.sessions.borrow().len());
    }
}

impl Pool {
    /// What a host may see: the volumes it owns or was promised.
    pub fn visible_to(&self, host: HostKey) -> Vec<ListedExport> {
        let all = self.exports.all().into_iter().filter_map(|(name, export)| match export {
            Export::Ready(served) => Some((name, served.gate)),
            Export::Zeroing(_) | Export::Unusable(_) => None,
        });
        let mine = all.filter(|(_, volume)| granted_mode(volume, host).is_some());
        mine.map(|(name, _)| ListedExport { name: name.to_string(), description: String::new() }).collect()
    }

    /// Opens an export: for a look at it, or with a session that waits for its connection.
    pub async fn open_export(self: &Rc<Self>, knock: Knock) -> Result<Opened, NbdRefusal> {
        let name = &knock.name.volume;
        let refused = |why: &dyn std::fmt::Display| {
            tracing::info!(peer = knock.peer, host = %knock.host, "refused: {why}");
            not_here(name, knock.host)
        };
        let served = match self.exports.get(name) {
            Some(Export::Ready(served)) => served,
            // Nobody has been granted these.
            Some(Export::Zeroing(_)) => return Err(refused(&format_args!("volume {name} is being zeroed"))),
            Some(Export::Unusable(why)) => return Err(refused(&format_args!("volume {name} is not served: {why}"))),
            None => return Err(refused(&format_args!("there is no volume {name}"))),
        };
        if *self.exports.closed.borrow() {
            return Err(NbdRefusal::shutdown("the pool stops"));
        }
        if knock.why == OpenFor::Info {
            return self.look_at(&served, &knock).await;
        }
        let volume = &served.gate;
        let request = attach_request(&served, &knock)?;
        let attached = tokio::time::timeout(ATTACH_MAX, volume.attach(request)).await;
        let session = match attached {
            Ok(Ok(session)) => session,
            Ok(Err(refusal)) => {
                let hidden = granted_mode(volume, knock.host).is_none() && tells_of_the_volume(&refusal.why);
                let not_here = refused(&refusal);
                return Err(if hidden { not_here } else { no_entry(&refusal) });
            }
            Err(_elapsed) => {
                let text = format!("volume {name} did not let you in within {} s: try again", ATTACH_MAX.as_secs());
                return Err(NbdRefusal::shutdown(text));
            }
        };
        let info = export_info(session.geometry(), session.attachment().mode, Connections::One);
        let (claim, claimed) = oneshot::channel();
        tokio::task::spawn_local(Rc::clone(self).host_session(knock, session, claimed));
        Ok(Opened { info, claim: Some(claim) })
    }

    /// A look changes nothing: no session, no incarnation. Who has no business with the volume learns nothing about it.
    async fn look_at(&self, served: &Served, knock: &Knock) -> Result<Opened, NbdRefusal> {
        let name = &knock.name.volume;
        let Some(granted) = mode_for(served, knock.host) else {
            return Err(not_here(name, knock.host));
        };
        let disk = self.exports.group.lock().await.volume(served.id);
        let geometry = disk.map_err(|error| NbdRefusal::shutdown(error.to_string()))?.geometry();
        let said = knock.name.attach.map_or(granted, |say| say.mode);
        let mode = if served.read_only { Mode::Ro } else { said };
        Ok(Opened { info: export_info(geometry, mode, Connections::One), claim: None })
    }

    /// A session from its admission to its end.
    async fn host_session(self: Rc<Self>, knock: Knock, session: Rc<GateSession>, claimed: oneshot::Receiver<Claim>) {
        let Ok(Ok(claim)) = tokio::time::timeout(CLAIM_MAX, claimed).await else { return };
        let Knock { name, peer, .. } = knock;
        let stream = match Transport::from_parts(claim.connection) {
            Ok(stream) => stream,
            Err(error) => return tracing::warn!(peer, %error, "a connection was lost on its way to the pool's thread"),
        };
        let attachment = session.attachment();
        let leave = leave(session.revoked(), self.exports.closed.subscribe());
        let work = Session::new(stream, &claim.received, &claim.negotiated, session.disk(), leave);
        let work = work.admitted_by(session);
        let entry = Entry { volume: name.volume.clone(), peer: peer.clone(), attachment, meter: work.meter() };
        let id = self.exports.enter(entry);
        let Attachment { host, epoch, incarnation, mode } = attachment;
        tracing::info!(volume = %name.volume, peer, %host, %epoch, %incarnation, %mode, "attached");
        let ended = work.await;
        self.exports.leave(id);
        match ended {
            Ended::Broken(error) => tracing::warn!(volume = %name.volume, peer, "ended: {error}"),
            Ended::Lost(error) => tracing::info!(volume = %name.volume, peer, "connection lost: {error}"),
            Ended::Disconnected => tracing::info!(volume = %name.volume, peer, "detached"),
            Ended::Closed => tracing::info!(volume = %name.volume, peer, "closed without a word"),
            Ended::Revoked => tracing::info!(volume = %name.volume, peer, "revoked"),
            Ended::Stopped => tracing::info!(volume = %name.volume, peer, "ended by the pool's stop"),
        }
    }
}

impl Admission for GateSession {
    fn heard(&self) {
        self.heard();
    }

    fn standing(&self) -> Result<(), DeviceError> {
        self.standing()
    }
}

async fn leave(revoked: impl Future<Output = ()>, mut closed: watch::Receiver<bool>) -> Leave {
    tokio::select! {
        () = revoked => Leave::Revoked,
        // An error is the end of the pool itself.
        _ = closed.wait_for(|closed| *closed) => Leave::Stopping,
    }
}

/// A stock client says neither epoch nor mode: it gets the most that it was granted and that the volume gives.
fn attach_request(served: &Served, knock: &Knock) -> Result<AttachRequest, NbdRefusal> {
    let (name, host) = (&knock.name.volume, knock.host);
    match knock.name.attach {
        Some(say) if say.mode == Mode::Rw && served.read_only => {
            let text =
                format!("volume {name} is read-only in LVM2: attach it with mode=ro, or `lvchange --permission rw`");
            Err(NbdRefusal::policy(text))
        }
        Some(say) => {
            let (epoch, incarnation, mode) = (say.epoch, say.incarnation, say.mode);
            Ok(AttachRequest::Exact(Attachment { host, epoch, incarnation, mode }))
        }
        None => Ok(AttachRequest::Stock { host, mode: mode_for(served, host).unwrap_or(Mode::Rw) }),
    }
}

/// What a host may do with a volume now or, promised, later; `None` if it has no business there.
fn mode_for(served: &Served, host: HostKey) -> Option<Mode> {
    let granted = granted_mode(&served.gate, host)?;
    Some(if served.read_only { Mode::Ro } else { granted })
}

fn granted_mode(volume: &GatedVolume, host: HostKey) -> Option<Mode> {
    let status = volume.status();
    let owner = status.owners.iter().find(|owner| owner.host == host).map(|owner| owner.mode);
    owner.or_else(|| status.reservation.filter(|promise| promise.host == host).map(|_| Mode::Rw))
}

/// What everybody hears who has no business with a volume, whether there is one or not: names and epochs are not for strangers.
pub fn not_here(volume: &VolumeName, host: HostKey) -> NbdRefusal {
    NbdRefusal::policy(format!(
        "there is no volume '{volume}' here that is granted to {host}: check its name, and that it is served and granted"
    ))
}

/// Whether a host without a right would learn of the volume by this. That its epoch is over it must hear: it may have had it, and waits
/// in vain. That the gate is blocked it hears, for then its right may not be known.
fn tells_of_the_volume(why: &Refused) -> bool {
    !matches!(why, Refused::OldEpoch { .. } | Refused::Blocked(_))
}

/// A refusal for people; where there is no point in trying again, also for the initiator.
fn no_entry(refusal: &GateRefusal) -> NbdRefusal {
    let text = refusal.to_string();
    match refusal.why {
        Refused::OldEpoch { held, current } => NoEntry::EpochOver { held, current }.refusal(&text),
        _ => NbdRefusal::policy(text),
    }
}
