//! What this machine's own node and people ask, over the control socket.

use super::DeadmanError;
use super::config::Config;
use super::core::Core;
use super::door::Doors;
use super::keeper::Keeper;
use super::link::Link;
use crate::control::Answering;
use crate::credentials::Credentials;
use crate::trouble::Troubles;
use cluster::lease::Voter;
use host::net::{Listener, NetError, when_there};
use host::runtime::now;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::AbortHandle;
use units::{HostKey, Millis};
use wire::control::{CastReport, Code, DeadmanReport, PeerReport, Refusal, Reply, Request, VoteReport};

/// How long all witnesses together have for their votes: an answer takes a journey, and who is silent is not waited for.
const VOTES_MAX: Millis = Millis(400);
/// How long reading the configuration may take.
const RELOAD_MAX: Duration = Duration::from_secs(5);

/// The whole process, as who asks sees it.
pub struct Local {
    pub file: PathBuf,
    pub config: RefCell<Config>,
    pub core: Rc<Core>,
    pub credentials: Rc<Credentials>,
    pub doors: Rc<Doors>,
    pub keeper: Option<Rc<Keeper>>,
    pub links: RefCell<BTreeMap<(HostKey, SocketAddr), Link>>,
    pub listening: RefCell<BTreeMap<SocketAddr, AbortHandle>>,
    pub troubles: Rc<Troubles>,
}

impl Answering for Local {
    async fn answer(&self, request: Request) -> Result<Reply, Refusal> {
        match request {
            Request::Status => Ok(Reply::Deadman(self.report())),
            Request::Votes { host } => Ok(Reply::Votes(self.votes(host).await)),
            Request::Reload => self.reload().await.map(|()| Reply::Done),
            _ => {
                let text = "a dead-man can be asked for its status, for votes, and to reload";
                Err(Refusal::new(Code::Invalid, text, "ask the target, or the initiator"))
            }
        }
    }
}

impl Local {
    /// Connections and listeners as configured; those that stay are not touched.
    pub fn begin(&self, config: &Config) {
        self.doors.know(&config.witnesses);
        self.listen(config);
        self.connect(config);
    }

    /// Listeners as configured. An address that cannot be had, which may come later, is tried again all the time: guests are
    /// watched meanwhile, and the other addresses are enough for the others.
    fn listen(&self, config: &Config) {
        let mut listening = self.listening.borrow_mut();
        listening.retain(|address, task| {
            let stays = config.listen.contains(address);
            if !stays {
                task.abort();
                self.troubles.note(&listening_on(*address), None);
            }
            stays
        });
        for address in &config.listen {
            let (address, doors, troubles) = (*address, Rc::clone(&self.doors), Rc::clone(&self.troubles));
            listening.entry(address).or_insert_with(|| {
                tokio::task::spawn_local(async move {
                    let told = |wrong: Option<&NetError>| {
                        troubles.note(&listening_on(address), wrong.map(ToString::to_string));
                    };
                    let listener = when_there(|| Listener::tcp(address), told).await;
                    tracing::info!("listening on {address}");
                    doors.serve(listener).await;
                })
                .abort_handle()
            });
        }
    }

    /// Connections as configured: those that stay are not touched.
    fn connect(&self, config: &Config) {
        let others = config.witnesses.iter().filter(|peer| peer.key != self.core.me());
        let wanted = others.flat_map(|peer| peer.portals.iter().map(|portal| (peer.key, *portal)));
        let wanted: Vec<(HostKey, SocketAddr)> = wanted.collect();
        let mut links = self.links.borrow_mut();
        links.retain(|way, _| wanted.contains(way));
        for (peer, portal) in wanted {
            links.entry((peer, portal)).or_insert_with(|| {
                let (core, credentials) = (Rc::clone(&self.core), Rc::clone(&self.credentials));
                Link::start(peer, portal, config.timing.heartbeat_ms, core, credentials)
            });
        }
    }

    /// Reads the file again; a bad one changes nothing.
    async fn reload(&self) -> Result<(), Refusal> {
        let invalid = |text: String, hint: &str| Refusal::new(Code::Invalid, text, hint);
        let file = self.file.clone();
        // On a thread of its own: a disk that hangs must not keep guests running.
        let reading = tokio::task::spawn_blocking(move || Config::load(&file));
        let late = |_| Refusal::new(Code::Failed, "the configuration cannot be read in time", "see to its disk");
        let config = tokio::time::timeout(RELOAD_MAX, reading).await.map_err(late)?;
        let config = config.map_err(|error| Refusal::new(Code::Failed, error.to_string(), ""))?;
        let config = config.map_err(|error| invalid(error.to_string(), &error.hint))?;
        check_own(&config, self.core.me()).map_err(|error| invalid(error.to_string(), &error.hint()))?;
        let old = self.config.borrow().clone();
        let fixed = [
            ("control", config.control != old.control),
            ("vms", config.vms != old.vms),
            ("[timing]", config.timing != old.timing),
        ];
        if let Some((key, _)) = fixed.iter().find(|(_, changed)| *changed) {
            let hint = "restart the dead-man: it goes on where it stood; give every machine the same [timing]";
            return Err(invalid(format!("{key} does not change while it runs"), hint));
        }
        if config.tls != old.tls {
            let replaced = self.credentials.replace(config.tls.clone());
            replaced.map_err(|error| invalid(error.to_string(), "nothing was changed"))?;
        }
        self.begin(&config);
        self.core.set_peers(&config.witnesses);
        tracing::info!(witnesses = config.witnesses.len(), "the configuration was read again");
        *self.config.borrow_mut() = config;
        Ok(())
    }

    /// Asks all witnesses at once, itself included.
    async fn votes(&self, host: HostKey) -> Vec<CastReport> {
        let peers = self.core.peers().to_vec();
        let asked = now();
        let casts = peers.iter().map(|peer| async move {
            let cast = if peer.key == self.core.me() {
                self.core.vote(host).await.map_err(|refusal| refusal.text)
            } else {
                self.vote_of(peer.key, host).await
            };
            (peer, cast)
        });
        let casts = futures_util::future::join_all(casts).await;
        let asked_ago = now().since(asked);
        let report = |(peer, cast): (&Voter, Result<VoteReport, String>)| {
            let (vote, reason) = cast.map_or_else(|why| (None, Some(why)), |vote| (Some(vote), None));
            CastReport { witness: peer.key, name: peer.name.clone(), vote, asked_ago, reason }
        };
        casts.into_iter().map(report).collect()
    }

    /// Over all live connections at once; the first answer counts.
    async fn vote_of(&self, peer: HostKey, host: HostKey) -> Result<VoteReport, String> {
        let asked: Vec<_> = {
            let links = self.links.borrow();
            let live = links.iter().filter(|((key, _), link)| *key == peer && link.is_up());
            live.map(|(_, link)| link.ask(host)).collect()
        };
        if asked.is_empty() {
            return Err("not connected".to_owned());
        }
        let first = tokio::time::timeout(VOTES_MAX.into(), futures_util::future::select_ok(asked)).await;
        match first {
            Ok(Ok((vote, _others))) => vote,
            Ok(Err(_)) => Err("the connection ended before the answer".to_owned()),
            Err(_) => Err(format!("no answer within {VOTES_MAX}")),
        }
    }

    fn report(&self) -> DeadmanReport {
        let (doubt, late) = self.core.doubt();
        let links = self.links.borrow();
        let peers = self.core.peers().to_vec();
        let peers = peers.iter().map(|peer| {
            let ways = links.iter().filter(|((key, _), _)| *key == peer.key);
            PeerReport { portals: ways.map(|(_, link)| link.report()).collect(), ..self.core.peer_report(peer) }
        });
        DeadmanReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            up: now().since(self.core.started()),
            me: self.core.me(),
            standing: self.core.standing(),
            doubt,
            late,
            peers: peers.collect(),
            guests: self.keeper.as_ref().map(|keeper| keeper.report()).unwrap_or_default(),
            troubles: self.troubles.list(),
        }
    }
}

fn listening_on(address: SocketAddr) -> String {
    format!("listening on {address}")
}

/// This machine must be one of the witnesses: every dead-man is one.
///
/// # Errors
/// [`DeadmanError::NotAWitness`].
pub fn check_own(config: &Config, me: HostKey) -> Result<(), DeadmanError> {
    match config.witnesses.iter().any(|peer| peer.key == me) {
        true => Ok(()),
        false => Err(DeadmanError::NotAWitness(me)),
    }
}
