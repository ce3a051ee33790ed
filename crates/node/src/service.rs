//! What a running node knows and answers. On the machine that holds the store the calls are decided here; elsewhere the
//! local ones go on to that machine, and others are told to ask there.

use crate::agent::Agent;
use crate::audit::Audit;
use crate::authority::{Authority, key_of_request};
use crate::backup;
use crate::client::{self, Answer};
use crate::clock::now_s;
use crate::director::{Director, FRESH};
use crate::doctor;
use crate::identity::{Identity, Seat, StoreAt, check_address, check_portals};
use crate::image;
use crate::peer::{Ask, Lines, Reply, SyncReport};
use crate::registry::{self, Record, Standing};
use crate::rights::{self, Caller};
use crate::root::Root;
use crate::secret::Secret;
use crate::storage::{self, Names, claims};
use crate::store::Store;
use crate::suggest::suggest;
use crate::token::JoinToken;
use crate::vms;
use crate::works::Works;
use api::{
    Call, Certificate, Code, Done, JoinRequest, Joined, Member, NodeList, NodeState, Problem, RenewRequest, Token,
    TokenRequest, Who,
};
use host::net::TlsFiles;
use host::runtime::now;
use hyper::body::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::RefCell;
use std::collections::BTreeMap;
use units::{HostKey, Millis, Moment, NodeName};

/// A week: a token is for the machine that is being set up now.
const TOKEN_MAX_S: u64 = 7 * 86_400;
/// A node calls every [`crate::keep::SYNC_EVERY`]; after ten missed calls it counts as silent.
const SILENT_AFTER: Millis = Millis(10_000);

/// A node, as its tasks share it.
pub struct Node {
    /// Its files.
    pub root: Root,
    /// Who it is.
    pub identity: Identity,
    /// Its own key's identity.
    pub key: HostKey,
    /// What it does on its own machine.
    pub agent: Agent,
    /// Connections to other nodes that are kept.
    pub lines: Lines,
    /// What only the machine has that holds the store.
    pub keeper: Option<Keeper>,
    /// When the certificate in use ends; its owner is [`crate::keep`].
    pub certificate_until_s: RefCell<u64>,
    heard: RefCell<BTreeMap<NodeName, Heard>>,
    /// Long work that goes on here.
    pub works: Works,
    /// Pools and volumes that something is being done to.
    pub names: Names,
    /// Who asked for what.
    pub audit: Audit,
}

/// What holding the store takes.
pub struct Keeper {
    /// The store.
    pub store: Store,
    /// The CA.
    pub authority: Authority,
    /// Who decides.
    pub director: Director,
}

struct Heard {
    when: Moment,
    certificate_until_s: u64,
    version: String,
}

impl Node {
    /// A node that has heard nobody yet.
    #[must_use]
    pub fn new(root: Root, identity: Identity, key: HostKey, keeper: Option<Keeper>) -> Self {
        let (certificate_until_s, heard) = (RefCell::new(0), RefCell::default());
        let agent = Agent::new(&root, &identity, key);
        let (lines, works, names) = (Lines::default(), Works::new(root.run().join("works")), Names::default());
        let audit = Audit::new(&root.state());
        Self { root, identity, key, agent, lines, keeper, certificate_until_s, heard, works, names, audit }
    }

    /// The files of its TLS.
    #[must_use]
    pub fn tls_files(&self) -> TlsFiles {
        TlsFiles { certificate: self.root.certificate(), key: self.root.key(), ca: self.root.ca() }
    }

    /// Answers a peer's words, that came over the wire.
    pub async fn peer(&self, caller: Caller, body: Bytes) -> Answer {
        self.hear_peer(caller, body).await.map_or_else(|problem| refusal(&problem), |reply| done(&reply))
    }

    /// Whether this key may speak as a peer: a member to the machine with the store, and that machine to everybody.
    ///
    /// # Errors
    /// [`Code::NotAMember`], [`Code::Removed`], [`Code::NotTheStore`].
    pub async fn check_peer(&self, key: HostKey) -> Result<(), Problem> {
        match (&self.keeper, &self.identity.store) {
            (Some(keeper), _) => member(keeper, key).await.map(drop),
            (None, Some(store)) if store.key == key => Ok(()),
            (None, store) => Err(not_the_store(store.as_ref())),
        }
    }

    /// Answers a peer, or this machine itself.
    pub async fn answer_peer(&self, from: HostKey, ask: Ask) -> Reply {
        let store = self.identity.store.as_ref().map_or(self.key, |store| store.key);
        if let Err(problem) = rights::check_peer(from, store, &ask) {
            return Reply::Problem { problem };
        }
        let answered = match ask {
            Ask::Act(act) => Ok(Reply::Acted(self.agent.act(*act).await)),
            Ask::Adopt(adopt) => self.agent.adopt(&adopt).map(|()| Reply::Done),
            Ask::Forget { vm } => self.agent.forget_unknown(&vm).await.map(|()| Reply::Done),
            Ask::Target { request } => Ok(Reply::Target { answer: self.agent.target(request).await }),
            Ask::Look => {
                let mut report = self.agent.look().await;
                doctor::look(&self.root, &mut report);
                Ok(Reply::Look(Box::new(report)))
            }
            Ask::Tell(told) => match self.speaker(from).await {
                Ok((keeper, from)) => {
                    keeper.director.told(self, &from, told).await;
                    Ok(Reply::Heard)
                }
                Err(problem) => Err(problem),
            },
            Ask::Sync(report) => match self.speaker(from).await {
                Ok((keeper, from)) => {
                    self.heard(from.name.clone(), &report);
                    keeper.director.synced(self, &from, *report).await.map(|it| Reply::Synced(Box::new(it)))
                }
                Err(problem) => Err(problem),
            },
            Ask::Filling { volume } => Ok(Reply::Filling { goes_on: self.works.fills(&volume) }),
            ask @ (Ask::Claim { .. } | Ask::Release { .. } | Ask::Claims) => match self.speaker(from).await {
                Ok((keeper, from)) => self.claims(keeper, &from, ask).await,
                Err(problem) => Err(problem),
            },
        };
        answered.unwrap_or_else(|problem| Reply::Problem { problem })
    }

    async fn claims(&self, keeper: &Keeper, from: &Record, ask: Ask) -> Result<Reply, Problem> {
        match ask {
            Ask::Claim { volume, user } => {
                let entry = self.audit.asked((&from.name, user), ("claim", volume.as_str())).await?;
                let claimed = claims::claim(self, keeper, from, volume).await;
                self.audit.ended(&entry, outcome(claimed.as_ref().err())).await;
                claimed.map(Reply::Claimed)
            }
            Ask::Release { volume, epoch } => {
                claims::release(self, keeper, from, volume, epoch).await.map(|()| Reply::Released)
            }
            _ => claims::of_machine(keeper, &from.name).await.map(|claims| Reply::Claims { claims }),
        }
    }

    /// Who speaks to the machine with the store.
    async fn speaker(&self, from: HostKey) -> Result<(&Keeper, Record), Problem> {
        let keeper = self.keeper.as_ref().ok_or_else(|| not_the_store(self.identity.store.as_ref()))?;
        match keeper.store.ask(move |engine| registry::standing(engine, from)).await? {
            Standing::Member(record) => Ok((keeper, record)),
            _ => Err(Problem::new(Code::NotAMember, format!("the key {from} belongs to no member"), "")),
        }
    }

    /// Answers a call.
    pub async fn answer(&self, caller: Caller, call: &'static Call, path: &str, name: &str, body: Bytes) -> Answer {
        let answered = match call.who {
            Who::Owner => self.own(caller, call, name, &body).await,
            Who::Members | Who::Anybody => self.decided(caller, call, path, name, body).await,
        };
        answered.unwrap_or_else(|problem| refusal(&problem))
    }

    /// Has the machine with the store answer a call.
    async fn decided(
        &self,
        caller: Caller,
        call: &'static Call,
        path: &str,
        name: &str,
        body: Bytes,
    ) -> Result<Answer, Problem> {
        match (&self.keeper, &self.identity.store) {
            (Some(keeper), _) => self.decide(keeper, caller, call, name, &body).await,
            (None, Some(store)) if is_here(caller) && call.who == Who::Members => {
                rights::check_call(caller, call)?;
                let answer = self.pass_on(store, caller, (call, path), body).await;
                match answer {
                    // What is asked when something is wrong is answered all the same, by what is seen from here.
                    Err(problem) if call.name == "doctor" && problem.code == Code::StoreUnreachable => {
                        Ok(done(&doctor::examine_alone(self, &problem).await))
                    }
                    answer => answer,
                }
            }
            (None, store) => Err(not_the_store(store.as_ref())),
        }
    }

    async fn pass_on(
        &self,
        store: &StoreAt,
        caller: Caller,
        (call, path): (&Call, &str),
        body: Bytes,
    ) -> Result<Answer, Problem> {
        let exchange = async {
            let transport = client::as_member(&self.tls_files(), store.address, store.key).await?;
            client::exchange(transport, (call.method.as_str(), path), caller.user(), body).await
        };
        exchange.await.map_err(|problem| match problem.code {
            Code::Unreachable => Problem::new(
                Code::StoreUnreachable,
                format!("the machine that holds the store ({}) does not answer: {}", store.address, problem.text),
                "nothing can be decided until `muskox node run` runs there again; what runs, runs on, and `muskox doctor` says \
                 what this machine sees",
            ),
            _ => problem,
        })
    }

    async fn decide(
        &self,
        keeper: &Keeper,
        caller: Caller,
        call: &'static Call,
        name: &str,
        body: &[u8],
    ) -> Result<Answer, Problem> {
        let member = if call.who == Who::Members { self.admitted(keeper, caller).await? } else { None };
        rights::check_call(caller, call)?;
        if call.method == api::Method::Get || call.who != Who::Members {
            return self.decide_or_suggest(keeper, member, call, name, body).await;
        }
        let asks = member.as_ref().map_or(&self.identity.name, |member| &member.name).clone();
        let entry = self.audit.asked((&asks, caller.user()), (call.name, name)).await?;
        let decided = self.decide_or_suggest(keeper, member, call, name, body).await;
        self.audit.ended(&entry, outcome(decided.as_ref().err())).await;
        decided
    }

    /// With the name that was meant, if nobody has the one that was given.
    async fn decide_or_suggest(
        &self,
        keeper: &Keeper,
        member: Option<Record>,
        call: &'static Call,
        name: &str,
        body: &[u8],
    ) -> Result<Answer, Problem> {
        match self.decide_admitted(keeper, member, call, name, body).await {
            Err(problem) if problem.code == Code::NotFound => {
                let (name, without) = (name.to_owned(), problem.clone());
                let suggested = keeper.store.ask(move |engine| Ok(suggest(engine, call, &name, problem))).await;
                Err(suggested.unwrap_or(without))
            }
            decided => decided,
        }
    }

    async fn decide_admitted(
        &self,
        keeper: &Keeper,
        member: Option<Record>,
        call: &'static Call,
        name: &str,
        body: &[u8],
    ) -> Result<Answer, Problem> {
        match call.name {
            "node_list" => self.list(keeper).await.map(|list| done(&list)),
            "node_remove" => self.remove(keeper, parse_name(name)?).await.map(|it| done(&it)),
            "token_create" => self.make_token(keeper, &parse(body)?).await.map(|it| done(&it)),
            "join" => self.join(keeper, parse(body)?).await.map(|it| done(&it)),
            "renew" => self.renew(keeper, parse(body)?).await.map(|it| done(&it)),
            _ if vms::answers(call) => vms::answer(keeper, call, name, body, &self.who(member.as_ref())).await,
            "doctor" => doctor::examine(self, keeper).await.map(|it| done(&it)),
            _ if storage::answers(call) => storage::answer(self, keeper, call, name, body).await,
            other => unreachable!("'{other}' is in the table of calls and nobody answers it"),
        }
    }

    /// Answers a call about this machine itself.
    async fn own(&self, caller: Caller, call: &'static Call, name: &str, body: &[u8]) -> Result<Answer, Problem> {
        rights::check_call(caller, call)?;
        match call.name {
            "image_import" => image::begin(self, caller, parse(body)?).await.map(|it| done(&it)),
            "store_backup" => backup::answer(self, parse(body)?).await.map(|it| done(&it)),
            "work_list" => Ok(done(&self.works.list())),
            "work_show" => self.works.show(name).map(|it| done(&it)),
            "work_cancel" => self.works.cancel(name).map(|it| done(&it)),
            other => unreachable!("'{other}' is in the table of calls and nobody answers it"),
        }
    }

    /// Makes a members' call for whoever asked this machine for something, wherever the store is.
    ///
    /// # Errors
    /// The answer's, or what stands between.
    pub async fn call<T: DeserializeOwned>(
        &self,
        caller: Caller,
        call: &'static Call,
        name: &str,
        request: Option<&impl Serialize>,
    ) -> Result<T, Problem> {
        let body = request.map_or_else(Vec::new, |request| serde_json::to_vec(request).expect("requests are JSON"));
        let answer = self.decided(caller, call, &call.path_for(name), name, body.into()).await?;
        let foreign = |error: serde_json::Error| {
            let text = format!("the reply to '{}' is not understood: {error}", call.name);
            Problem::new(Code::Failed, text, "run the same muskox version on all machines")
        };
        if answer.status == 200 {
            return serde_json::from_slice(&answer.body).map_err(foreign);
        }
        Err(serde_json::from_slice::<Problem>(&answer.body).map_err(foreign)?)
    }

    /// Whether the caller may make members' calls; which machine it is, if it is not this one's owner.
    async fn admitted(&self, keeper: &Keeper, caller: Caller) -> Result<Option<Record>, Problem> {
        match caller {
            Caller::Machine { key, .. } => member(keeper, key).await.map(Some),
            // Of somebody without a key nothing has to be looked up: the rights refuse it.
            Caller::Local(_) | Caller::Itself | Caller::Nobody => Ok(None),
        }
    }

    /// A caller, for people.
    fn who(&self, member: Option<&Record>) -> String {
        member.map_or_else(|| format!("the owner of {}", self.identity.name), |it| format!("the owner of {}", it.name))
    }

    async fn list(&self, keeper: &Keeper) -> Result<NodeList, Problem> {
        let records = keeper.store.ask(registry::members).await?;
        let desk = keeper.director.desk().ok();
        let dead = |record: &Record| desk.is_some_and(|desk| desk.voted_dead(record.key).is_some());
        let nodes = records.into_iter().map(|record| self.member(dead(&record), record)).collect();
        Ok(NodeList { cluster: self.identity.cluster, nodes })
    }

    fn member(&self, voted_dead: bool, record: Record) -> Member {
        let heard = self.heard.borrow();
        let own = record.name == self.identity.name;
        let heard = heard.get(&record.name);
        let heard_ms = heard.map(|heard| now().since(heard.when));
        let state = if own { NodeState::Store } else { state_of(heard_ms, voted_dead) };
        let certificate = heard.map(|heard| heard.certificate_until_s);
        Member {
            state,
            heard_ms: heard_ms.map(|ago| ago.0),
            certificate_until_s: if own { Some(*self.certificate_until_s.borrow()) } else { certificate },
            version: if own { Some(crate::VERSION.to_owned()) } else { heard.map(|heard| heard.version.clone()) },
            name: record.name,
            address: record.address,
            portals: record.portals,
            roles: record.roles,
            key: record.key,
            joined_s: record.joined_s,
        }
    }

    async fn remove(&self, keeper: &Keeper, name: NodeName) -> Result<Done, Problem> {
        let holder = self.identity.name.clone();
        let work = move |engine: &mut dyn cluster::store::Engine| {
            let members = registry::members(engine)?;
            storage::check_free(engine, &members, &name)?;
            registry::remove(engine, &name, &holder, now_s())
        };
        let removed = keeper.store.ask(work).await?;
        self.heard.borrow_mut().remove(&removed.name);
        tracing::info!("'{}' ({}) was removed", removed.name, removed.key);
        Ok(Done { text: format!("'{}' is removed: its key {} is refused from now on", removed.name, removed.key) })
    }

    async fn make_token(&self, keeper: &Keeper, request: &TokenRequest) -> Result<Token, Problem> {
        if !(1..=TOKEN_MAX_S).contains(&request.lifetime_s) {
            let text = format!("a token is good for 1 s to {TOKEN_MAX_S} s, not {} s", request.lifetime_s);
            return Err(Problem::new(Code::BadRequest, text, "make one when the machine is there"));
        }
        let secret = Secret::new(random()?);
        let (hash, now_s) = (secret.hash(), now_s());
        let until_s = now_s + request.lifetime_s;
        keeper.store.ask(move |engine| registry::add_token(engine, &hash, until_s, now_s)).await?;
        let token = JoinToken { ca: self.identity.cluster, secret, address: self.identity.address };
        Ok(Token { token: token.reveal(), until_s })
    }

    async fn join(&self, keeper: &Keeper, request: JoinRequest) -> Result<Joined, Problem> {
        check_address(request.address)?;
        check_portals(&request.portals)?;
        let unreadable =
            || Problem::new(Code::BadRequest, "the token's secret is not 64 hexadecimal digits", "copy it whole");
        let hash = request.secret.parse::<Secret>().map_err(|()| unreadable())?.hash();
        let key = key_of_request(&request.request_pem)?;
        if request.roles.is_empty() {
            return Err(Problem::new(Code::BadRequest, "a machine has at least one role", "storage, host or witness"));
        }
        let (mut roles, now_s) = (request.roles, now_s());
        roles.sort_unstable();
        roles.dedup();
        let seat = Seat { name: request.name, address: request.address, portals: request.portals, roles };
        let wanted = Record::new(seat, key, now_s);
        let record = keeper.store.ask(move |engine| registry::admit(engine, &hash, &wanted)).await?;
        tracing::info!("'{}' at {} ({}) joined", record.name, record.address, record.key);
        Ok(Joined {
            certificate: issue(keeper, &request.request_pem, &record).await?,
            ca_pem: keeper.authority.ca_pem().to_owned(),
            store: self.key,
            members: self.list(keeper).await?,
        })
    }

    async fn renew(&self, keeper: &Keeper, request: RenewRequest) -> Result<Certificate, Problem> {
        let key = key_of_request(&request.request_pem)?;
        let record = member(keeper, key).await?;
        issue(keeper, &request.request_pem, &record).await
    }

    /// All machines, for whoever is told who belongs to the cluster.
    ///
    /// # Errors
    /// [`Code::StoreFailed`].
    pub async fn members(&self, keeper: &Keeper) -> Result<NodeList, Problem> {
        self.list(keeper).await
    }

    fn heard(&self, name: NodeName, report: &SyncReport) {
        let version = report.version.chars().take(40).collect();
        let heard = Heard { when: now(), certificate_until_s: report.certificate_until_s, version };
        self.heard.borrow_mut().insert(name, heard);
    }
}

/// The member that has this key.
///
/// # Errors
/// [`Code::Removed`], [`Code::NotAMember`], [`Code::StoreFailed`].
async fn member(keeper: &Keeper, key: HostKey) -> Result<Record, Problem> {
    match keeper.store.ask(move |engine| registry::standing(engine, key)).await? {
        Standing::Member(record) => Ok(record),
        Standing::Removed(name) => Err(Problem::new(
            Code::Removed,
            format!("this machine ('{name}') was removed from the cluster"),
            "to bring it back: stop its node, delete its etc/muskox folder, and join with a new token",
        )),
        Standing::Stranger => Err(Problem::new(
            Code::NotAMember,
            format!("the key {key} belongs to no member"),
            "join with a token; after a restore of the store, join the machines that the backup did not know",
        )),
    }
}

/// Whether it is asked on this machine.
/// How a machine is that was heard this long ago. One that the witnesses have voted dead is up only if it has called since.
fn state_of(heard_ms: Option<Millis>, voted_dead: bool) -> NodeState {
    match heard_ms {
        None => NodeState::Unheard,
        Some(ago) if ago < FRESH || (ago < SILENT_AFTER && !voted_dead) => NodeState::Up,
        Some(_) => NodeState::Silent,
    }
}

const fn is_here(caller: Caller) -> bool {
    matches!(caller, Caller::Local(_) | Caller::Itself)
}

/// What came of a call, in one word.
fn outcome(refused: Option<&Problem>) -> &'static str {
    refused.map_or("done", |problem| problem.code.as_str())
}

/// A certificate for a member.
///
/// # Errors
/// [`Code::BadRequest`], [`Code::StoreFailed`].
pub async fn issue(keeper: &Keeper, request_pem: &str, record: &Record) -> Result<Certificate, Problem> {
    let settings = keeper.store.ask(registry::settings).await?;
    let times = (now_s(), settings.certificate_s);
    keeper.authority.issue(request_pem, (&record.name, record.address), times, random()?)
}

/// Bytes nobody can guess.
///
/// # Errors
/// [`Code::Failed`] if the kernel has none.
pub fn random<const N: usize>() -> Result<[u8; N], Problem> {
    let mut bytes = [0; N];
    let drawn = getrandom::fill(&mut bytes);
    drawn.map(|()| bytes).map_err(|error| Problem::new(Code::Failed, format!("no random bytes: {error}"), ""))
}

/// A problem as an answer.
#[must_use]
pub fn refusal(problem: &Problem) -> Answer {
    let body = serde_json::to_vec(problem).expect("problems are JSON");
    Answer { status: problem.code.status(), body: body.into() }
}

/// A reply as an answer.
#[must_use]
pub fn done(reply: &impl Serialize) -> Answer {
    Answer { status: 200, body: serde_json::to_vec(reply).expect("replies are JSON").into() }
}

/// A request; nothing at all says nothing of what may be left out.
///
/// # Errors
/// [`Code::BadRequest`].
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(if body.is_empty() { b"{}" } else { body }).map_err(|error| {
        let hint = "docs/openapi.json says what it takes; both sides should be the same muskox version";
        Problem::new(Code::BadRequest, format!("the request is not understood: {error}"), hint)
    })
}

fn parse_name(text: &str) -> Result<NodeName, Problem> {
    text.parse()
        .map_err(|error: units::IdentError| Problem::new(Code::BadRequest, error.to_string(), "see `muskox node list`"))
}

fn not_the_store(store: Option<&StoreAt>) -> Problem {
    let place = store.map_or_else(String::new, |store| store.address.to_string());
    Problem::new(Code::NotTheStore, "this machine does not hold the store", format!("ask {place}"))
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: D11: a machine that was voted dead is not called up, unless it has called since. Method: the edges of both times.
    #[test]
    fn who_was_voted_dead_is_silent() {
        for (heard_ms, dead, expected) in [
            (None, true, NodeState::Unheard),
            (Some(2_999), true, NodeState::Up),
            (Some(3_000), true, NodeState::Silent),
            (Some(3_000), false, NodeState::Up),
            (Some(10_000), false, NodeState::Silent),
        ] {
            assert_eq!(state_of(heard_ms.map(Millis), dead), expected, "{heard_ms:?} {dead}");
        }
    }
}
