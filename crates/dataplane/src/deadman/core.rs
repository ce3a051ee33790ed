//! What is decided, in one place: `cluster::lease` with this process's clock, and what it leaves to its next life.

use super::config::Config;
use super::marks::Marks;
use super::record::{Record, Written};
use super::scribe::Scribe;
use crate::trouble::Troubles;
use cluster::lease::{GuardOrder, Holder, LeaseTiming, Renewal, Standing, Unsure, Vote, Voter, Witness};
use host::runtime::now;
use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use tokio::sync::watch;
use units::{HostKey, Millis, Moment};
use wire::control::{Code, Doubt, RenewalReport, StandingReport, VoteReport};
use wire::control::{PeerReport, Refusal};

/// Where guests stand, without the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They may run.
    Running,
    /// They must not.
    Paused,
    /// They may go on once the targets have been asked.
    Asking,
    /// Nobody is ever paused.
    Unwatched,
}

/// The lease's two sides.
pub struct Core {
    me: HostKey,
    started: Moment,
    timing: LeaseTiming,
    scribe: Scribe,
    /// How often something was given to be written, and when what is not written yet was given first.
    written: Cell<(u64, Option<Moment>)>,
    marks: Rc<Marks>,
    troubles: Rc<Troubles>,
    state: RefCell<State>,
    kind: watch::Sender<Kind>,
}

struct State {
    peers: Vec<Voter>,
    holder: Holder,
    witness: Witness,
    standing: Standing,
    /// Every guest was found stopped, under the present standing.
    stopped: bool,
    refused: BTreeMap<HostKey, Moment>,
    late: u64,
}

/// A write takes microseconds. What has hung for so long is said.
const WRITE_TOLD: Millis = Millis(1_000);

impl Core {
    /// Goes on where the former life stood, or knows nothing.
    ///
    /// # Errors
    /// If there can be no thread that writes.
    pub fn new(
        config: &Config,
        me: HostKey,
        record: Record,
        (marks, troubles): (&Rc<Marks>, &Rc<Troubles>),
    ) -> io::Result<Self> {
        let (now, timing) = (now(), config.timing);
        let keys: Vec<HostKey> = config.witnesses.iter().map(|peer| peer.key).collect();
        let (holder, witness) = match record.load() {
            Ok(Written { held, voted, marks: unsaved, .. }) => {
                marks.remember(&unsaved);
                let holder = Holder::resume(me, &keys, timing, &held, now);
                (holder, Witness::resume(me, &keys, timing, &voted, now))
            }
            Err(why) => {
                let hold = timing.vote_hold_ms;
                tracing::info!(
                    "no former life is known ({why}): guests are paused until a majority grants, and this witness grants nothing for {hold}"
                );
                (Holder::new(me, &keys, timing), Witness::new(me, &keys, timing, now))
            }
        };
        let state = State {
            peers: config.witnesses.clone(),
            holder,
            witness,
            standing: Standing::Paused,
            stopped: false,
            refused: BTreeMap::new(),
            late: 0,
        };
        let (kind, _) = watch::channel(Kind::Running);
        let (scribe, marks, troubles) = (Scribe::start(record)?, Rc::clone(marks), Rc::clone(troubles));
        let (written, state) = (Cell::new((0, None)), RefCell::new(state));
        let core = Self { me, started: now, timing, scribe, written, marks, troubles, state, kind };
        core.beat();
        Ok(core)
    }

    /// This machine.
    pub fn me(&self) -> HostKey {
        self.me
    }

    /// When this life began.
    pub fn started(&self) -> Moment {
        self.started
    }

    /// The configured witnesses.
    pub fn peers(&self) -> Ref<'_, [Voter]> {
        Ref::map(self.state.borrow(), |state| state.peers.as_slice())
    }

    /// Whether this is a witness's key.
    pub fn knows(&self, key: HostKey) -> bool {
        self.peers().iter().any(|peer| peer.key == key)
    }

    /// Other witnesses are configured.
    pub fn set_peers(&self, peers: &[Voter]) {
        let keys: Vec<HostKey> = peers.iter().map(|peer| peer.key).collect();
        let state = &mut *self.state.borrow_mut();
        state.holder.set_witnesses(&keys);
        state.witness.set_witnesses(&keys, now());
        state.refused.retain(|key, _| keys.contains(key));
        state.peers = peers.to_vec();
    }

    /// Where guests stand, and a way to hear of changes.
    pub fn kinds(&self) -> watch::Receiver<Kind> {
        self.kind.subscribe()
    }

    /// To be called every heartbeat and when the lease ends: what holds now, and when to come again at the latest.
    pub fn beat(&self) -> Option<Moment> {
        let (standing, before) = {
            let (now, state) = (now(), &mut *self.state.borrow_mut());
            state.witness.tick(now);
            let standing = state.holder.tick(now);
            let before = std::mem::replace(&mut state.standing, standing);
            if kind(standing) != kind(before) {
                state.stopped = false;
            }
            let late = state.witness.late();
            if std::mem::replace(&mut state.late, late) != late {
                tracing::warn!(late, "this process was not scheduled in time: silence is counted from zero again");
            }
            (standing, before)
        };
        // First of all: nothing that follows may keep a guest running.
        let changed = self.kind.send_if_modified(|known| std::mem::replace(known, kind(standing)) != kind(standing));
        self.write_down();
        if changed || kind(standing) != kind(before) {
            log(standing);
        }
        match standing {
            Standing::Running { until } => Some(until),
            _ => None,
        }
    }

    /// Something authentic came from a machine.
    pub fn heard(&self, from: HostKey) {
        self.state.borrow_mut().witness.heard(from, now());
    }

    /// A machine asks for its lease.
    pub fn renew(&self, host: HostKey) -> RenewalReport {
        match self.state.borrow_mut().witness.renew(host, now()) {
            Renewal::Granted => RenewalReport::Granted,
            Renewal::Refused(left) => RenewalReport::Refused(left),
        }
    }

    /// A witness granted what was sent at `sent`.
    pub fn granted(&self, by: HostKey, sent: Moment) {
        let state = &mut *self.state.borrow_mut();
        state.holder.granted(by, sent);
        state.refused.remove(&by);
    }

    /// A witness refuses for so long.
    pub fn refused(&self, by: HostKey, left: Millis) {
        let before = self.state.borrow_mut().refused.insert(by, now() + left);
        if before.is_none() {
            tracing::warn!(witness = %by, "grants nothing for {left}: it voted this host dead, or cannot know whether it did");
        }
    }

    /// This machine's own vote. A vote that says dead is written down before it is told.
    ///
    /// # Errors
    /// If it cannot be written down; it binds this life all the same. If the host is no machine of the configuration.
    pub async fn vote(&self, host: HostKey) -> Result<VoteReport, Refusal> {
        if !self.knows(host) {
            // It is not listened to here, so its silence says nothing; and votes need room.
            let text = "this machine's dead-man does not know the one that is asked about";
            return Err(Refusal::new(Code::Invalid, text, "it will, when it has been told of it"));
        }
        let vote = self.state.borrow_mut().witness.vote(host, now());
        Ok(match vote {
            Vote::Dead { valid_for } => {
                tracing::warn!(%host, "voted dead, which binds this witness for {valid_for}");
                let written = match self.write_down() {
                    Some(number) => self.scribe.is_written(number).await,
                    None => Err("an older write hangs".to_owned()),
                };
                if let Err(why) = written {
                    let text = format!("the vote cannot be written down, so it is not given: {why}");
                    return Err(Refusal::new(
                        Code::Failed,
                        text,
                        "make room on /run of that machine; see its dead-man's log",
                    ));
                }
                VoteReport::Dead(valid_for)
            }
            Vote::Alive { silent_for } => VoteReport::Alive(silent_for),
            Vote::Unsure(why) => VoteReport::Unsure(doubt(why)),
        })
    }

    /// No guest runs that was not stopped here: each is asked for by itself, and the lease holds for the host.
    pub fn resumed(&self) {
        self.state.borrow_mut().holder.resumed();
        self.beat();
    }

    /// Whether every guest was found stopped, while they must be: then the guard has nothing to do.
    pub fn guests_stopped(&self, all: bool) {
        let news = std::mem::replace(&mut self.state.borrow_mut().stopped, all) != all;
        if news {
            self.write_down();
        }
    }

    /// Where guests stand, for the status.
    pub fn standing(&self) -> StandingReport {
        match self.state.borrow().standing {
            Standing::Running { until } => StandingReport::Running(until.since(now())),
            Standing::Paused => StandingReport::Paused,
            Standing::Asking => StandingReport::Asking,
            Standing::Unwatched => StandingReport::Unwatched,
        }
    }

    /// What this witness is unsure of, and how often it was late.
    pub fn doubt(&self) -> (Option<Doubt>, u64) {
        let state = self.state.borrow();
        (state.witness.doubt(now()).map(doubt), state.witness.late())
    }

    /// A witness as it is seen from here, its ways not filled in.
    pub fn peer_report(&self, peer: &Voter) -> PeerReport {
        let (now, state) = (now(), self.state.borrow());
        let ago = |moment: Option<Moment>| moment.map(|moment| now.since(moment));
        PeerReport {
            witness: peer.key,
            name: peer.name.clone(),
            heard: ago(state.witness.heard_at(peer.key)),
            granted: ago(state.holder.granted_at(peer.key)),
            refused: state.refused.get(&peer.key).map(|until| until.since(now)).filter(|left| left.0 > 0),
            portals: Vec::new(),
        }
    }

    /// Whether a record of this life is there.
    pub fn has_written(&self) -> bool {
        let (number, failed) = self.scribe.newest();
        number > 0 && failed.is_none()
    }

    /// Has written what the next life and the guard have to know; its number, if it was taken. Nothing is waited for.
    fn write_down(&self) -> Option<u64> {
        let (written, now) = (self.to_write(), now());
        let (done, failed) = self.scribe.newest();
        let (last, waits_since) = self.written.get();
        let number = last + 1;
        let waits_since = if done == last { now } else { waits_since.unwrap_or(now) };
        let taken = self.scribe.write(number, written);
        self.written.set((if taken { number } else { last }, Some(waits_since)));
        let hangs = now.since(waits_since);
        let trouble = match failed {
            Some(error) => Some(format!("{error}: this machine votes nobody dead")),
            None if hangs >= WRITE_TOLD => {
                Some(format!("the write has not ended for {hangs}: this machine votes nobody dead"))
            }
            None => None,
        };
        self.troubles.note("writing down leases and votes", trouble);
        taken.then_some(number)
    }

    fn to_write(&self) -> Written {
        let (state, now) = (self.state.borrow(), now());
        let (witnesses, until) = (state.holder.witnesses(), state.holder.granted_until());
        Written {
            held: state.holder.past(),
            voted: state.witness.past(now),
            order: GuardOrder::new((witnesses, state.standing), until, state.stopped, &self.timing, now),
            marks: self.marks.unsaved(),
        }
    }
}

fn kind(standing: Standing) -> Kind {
    match standing {
        Standing::Running { .. } => Kind::Running,
        Standing::Paused => Kind::Paused,
        Standing::Asking => Kind::Asking,
        Standing::Unwatched => Kind::Unwatched,
    }
}

fn doubt(why: Unsure) -> Doubt {
    match why {
        Unsure::Alone => Doubt::Alone,
        Unsure::Grace(left) => Doubt::Grace(left),
        Unsure::TooFew => Doubt::TooFew,
    }
}

fn log(standing: Standing) {
    match standing {
        Standing::Running { .. } => tracing::info!("a majority grants the lease: guests run"),
        Standing::Paused => tracing::warn!("no majority grants the lease: guests are paused"),
        Standing::Asking => tracing::info!("a majority grants again: asking whose the volumes are"),
        Standing::Unwatched => tracing::info!("fewer than 3 witnesses: nobody is declared dead, nothing is paused"),
    }
}
