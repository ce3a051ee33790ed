//! What is decided, in one place: `cluster::lease` with this process's clock, and what it leaves to its next life.

use super::config::{Config, Peer};
use super::record::Record;
use cluster::lease::{Holder, HolderPast, Renewal, Standing, Unsure, Vote, Witness};
use host::runtime::now;
use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeMap;
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
    record: Record,
    record_fails: Cell<bool>,
    state: RefCell<State>,
    kind: watch::Sender<Kind>,
}

struct State {
    peers: Vec<Peer>,
    holder: Holder,
    witness: Witness,
    standing: Standing,
    since: Moment,
    refused: BTreeMap<HostKey, Moment>,
    late: u64,
}

impl Core {
    /// Goes on where the former life stood, or knows nothing. `guests_wait`: a former life stopped guests that still wait.
    pub fn new(config: &Config, me: HostKey, record: Record, guests_wait: bool) -> Self {
        let (now, timing) = (now(), config.timing);
        let keys: Vec<HostKey> = config.witnesses.iter().map(|peer| peer.key).collect();
        let (holder, witness) = match record.load() {
            Ok((held, voted)) => {
                let held = HolderPast { paused: held.paused || guests_wait, ..held };
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
            since: now,
            refused: BTreeMap::new(),
            late: 0,
        };
        let (kind, _) = watch::channel(Kind::Running);
        let core = Self { me, started: now, record, record_fails: Cell::new(false), state: RefCell::new(state), kind };
        core.beat();
        core
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
    pub fn peers(&self) -> Ref<'_, [Peer]> {
        Ref::map(self.state.borrow(), |state| state.peers.as_slice())
    }

    /// Whether this is a witness's key.
    pub fn knows(&self, key: HostKey) -> bool {
        self.peers().iter().any(|peer| peer.key == key)
    }

    /// Other witnesses are configured.
    pub fn set_peers(&self, peers: &[Peer]) {
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

    /// Since when guests stand as they do.
    pub fn since(&self) -> Moment {
        self.state.borrow().since
    }

    /// To be called every heartbeat and when the lease ends: what holds now, and when to come again at the latest.
    pub fn beat(&self) -> Option<Moment> {
        let (standing, before) = {
            let (now, state) = (now(), &mut *self.state.borrow_mut());
            state.witness.tick(now);
            let standing = state.holder.tick(now);
            let before = std::mem::replace(&mut state.standing, standing);
            if kind(standing) != kind(before) {
                state.since = now;
            }
            let late = state.witness.late();
            if std::mem::replace(&mut state.late, late) != late {
                tracing::warn!(late, "this process was not scheduled in time: silence is counted from zero again");
            }
            (standing, before)
        };
        self.remember();
        let changed = self.kind.send_if_modified(|known| std::mem::replace(known, kind(standing)) != kind(standing));
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
    /// If it cannot be written down; it binds this life all the same.
    pub fn vote(&self, host: HostKey) -> Result<VoteReport, Refusal> {
        let vote = self.state.borrow_mut().witness.vote(host, now());
        Ok(match vote {
            Vote::Dead { valid_for } => {
                tracing::warn!(%host, "voted dead, which binds this witness for {valid_for}");
                if !self.remember() {
                    let text = "the vote cannot be written down, so it is not given";
                    return Err(Refusal::new(Code::Failed, text, "see the log of `muskox deadman` for the reason"));
                }
                VoteReport::Dead(valid_for)
            }
            Vote::Alive { silent_for } => VoteReport::Alive(silent_for),
            Vote::Unsure(why) => VoteReport::Unsure(doubt(why)),
        })
    }

    /// Every guest was let go on or destroyed.
    pub fn resumed(&self) {
        self.state.borrow_mut().holder.resumed();
        self.beat();
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
    pub fn peer_report(&self, peer: &Peer) -> PeerReport {
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

    /// Writes down what the next life has to know; whether it could be.
    fn remember(&self) -> bool {
        let (held, voted) = {
            let state = self.state.borrow();
            (state.holder.past(), state.witness.past(now()))
        };
        let saved = self.record.save(&held, &voted);
        let failed = saved.is_err();
        match (saved, self.record_fails.replace(failed)) {
            (Err(error), false) => tracing::error!(%error, "cannot write down leases and votes: no vote is given"),
            (Ok(()), true) => tracing::info!("leases and votes are written down again"),
            _ => {}
        }
        !failed
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
