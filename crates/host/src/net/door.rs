//! A door that strangers reach: who comes is let in at once, and who has proven nothing yet holds a place that a newer one may
//! need.
//!
//! ```text
//!  accept ─▶ a place, by address ── spoke ─▶ ── proven ─▶ a place of its own key ─▶ …
//!                 │ no place left: the oldest silent one of whoever has the most goes
//! ```
//! Invariants: accepting never waits for anybody who is in; there are never more places taken than [`Places::all`], nor more of one
//! source than [`Places::of_one`]; what a stranger does writes at most [`LINES_MAX`] lines a minute.

use super::{Listener, Peer, TlsError, Transport};
use crate::runtime::now;
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use units::{HostKey, Millis, Moment};

/// After a failed `accept` (no descriptors left): long enough to close some, short enough not to be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// So many are accepted at once, at most 8000 a second; the kernel's queue holds half a second of those that come faster. So who has one
/// of 2048 places of an address has 250 ms for the first word, whatever comes after it: on a busy machine a process may not run for
/// tens of milliseconds. The rest lets the loop look what was said meanwhile: by itself it would after 61 turns only
/// (`tokio::runtime::Builder::event_interval`).
const ACCEPTS_A_TURN: u32 = 8;
const REST: Duration = Duration::from_millis(1);
/// Lines in [`LINES_WITHIN`] for what strangers do: about 1 MB a day.
const LINES_MAX: u32 = 5;
const LINES_WITHIN: Millis = Millis(60_000);

/// How many may be in at once who have proven nothing yet.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// In all.
    pub all: usize,
    /// Of one source.
    pub of_one: usize,
}

/// Whom a connection is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// An IPv4 address, or a network of 64 bits of IPv6: one machine chooses freely within it.
    Address(IpAddr),
    /// A user of this machine.
    User(u32),
    /// A machine that has proven its key.
    Key(HostKey),
}

impl Source {
    /// What a connection is counted for before anything is proven.
    #[must_use]
    pub fn of(peer: Peer) -> Self {
        match peer {
            Peer::Tcp(from) => Self::of_address(from.ip()),
            Peer::Unix { user, .. } => Self::User(user),
        }
    }

    fn of_address(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(six) if !six.is_unicast_link_local() => {
                let [a, b, c, d, ..] = six.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            other => other,
        })
    }
}

/// Who is in, and who goes. It does not know sockets or time: order alone decides.
struct Seats {
    places: Places,
    /// Sources that go last.
    known: BTreeSet<Source>,
    /// The order in which they came, or last fell silent.
    next: u64,
    seats: HashMap<u64, Seat>,
    /// Seats by source: first the silent ones, then those that have spoken; in their order.
    order: BTreeMap<Source, BTreeSet<(Voice, u64, u64)>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Voice {
    Silent,
    Heard,
}

struct Seat {
    source: Source,
    voice: Voice,
    since: u64,
}

impl Seats {
    fn new(places: Places) -> Self {
        assert!(places.all > 1 && places.of_one > 1, "the newest always has a place, and somebody to take it from");
        Self { places, known: BTreeSet::new(), next: 0, seats: HashMap::new(), order: BTreeMap::new() }
    }

    /// Takes somebody in; their number, and who goes for it.
    fn enter(&mut self, source: Source) -> (u64, Option<u64>) {
        let of_it = self.order.get(&source).map_or(0, BTreeSet::len);
        let goes = if of_it >= self.places.of_one {
            self.first_of(source)
        } else if self.seats.len() >= self.places.all {
            self.first()
        } else {
            None
        };
        if let Some(goes) = goes {
            self.leave(goes);
        }
        let id = self.next;
        self.next += 1;
        self.seats.insert(id, Seat { source, voice: Voice::Silent, since: id });
        self.order.entry(source).or_default().insert((Voice::Silent, id, id));
        (id, goes)
    }

    /// The oldest silent one of whoever has the most, strangers before those that are known.
    fn first(&self) -> Option<u64> {
        let most = self.order.iter().max_by_key(|(source, seats)| {
            let first = seats.first().expect("a source without seats is not kept");
            (!self.known.contains(source), seats.len(), Reverse((first.0, first.1)))
        });
        most.and_then(|(source, _)| self.first_of(*source))
    }

    fn first_of(&self, source: Source) -> Option<u64> {
        self.order.get(&source)?.first().map(|(_, _, id)| *id)
    }

    fn turn(&mut self, id: u64, voice: Voice) {
        let Some(seat) = self.seats.get_mut(&id) else { return };
        let of_it = self.order.get_mut(&seat.source).expect("each seat is in the order");
        of_it.remove(&(seat.voice, seat.since, id));
        (seat.voice, seat.since) = (voice, self.next);
        self.next += 1;
        of_it.insert((seat.voice, seat.since, id));
    }

    fn leave(&mut self, id: u64) {
        let Some(seat) = self.seats.remove(&id) else { return };
        let of_it = self.order.get_mut(&seat.source).expect("each seat is in the order");
        of_it.remove(&(seat.voice, seat.since, id));
        if of_it.is_empty() {
            self.order.remove(&seat.source);
        }
    }
}

/// The places at a door, or at several that share them.
pub struct Lobby {
    seats: RefCell<Seats>,
    /// Whom to tell that they go.
    told: RefCell<HashMap<u64, Rc<Notify>>>,
    log: LogBudget,
}

/// A place in a [`Lobby`], free again when it is dropped.
pub struct Place {
    lobby: Rc<Lobby>,
    id: u64,
    goes: Rc<Notify>,
}

impl Lobby {
    /// With this many places.
    #[must_use]
    pub fn new(places: Places) -> Rc<Self> {
        let seats = RefCell::new(Seats::new(places));
        Rc::new(Self { seats, told: RefCell::default(), log: LogBudget::default() })
    }

    /// Connections from these addresses go last: they are those of machines that belong here.
    pub fn know(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.seats.borrow_mut().known = addresses.into_iter().map(Source::of_address).collect();
    }

    /// Whether somebody comes from one of those.
    #[must_use]
    pub fn knows(&self, peer: Peer) -> bool {
        self.seats.borrow().known.contains(&Source::of(peer))
    }

    /// Takes somebody in. Who has to go for it is told.
    #[must_use]
    pub fn enter(self: &Rc<Self>, source: Source) -> Place {
        let (id, goes) = self.seats.borrow_mut().enter(source);
        self.send_away(goes);
        let told = Rc::new(Notify::new());
        self.told.borrow_mut().insert(id, Rc::clone(&told));
        Place { lobby: Rc::clone(self), id, goes: told }
    }

    /// The oldest silent one goes, as if somebody had come.
    fn make_room(&self) {
        let goes = self.seats.borrow().first();
        if let Some(id) = goes {
            self.seats.borrow_mut().leave(id);
        }
        self.send_away(goes);
    }

    fn send_away(&self, goes: Option<u64>) {
        if let Some(told) = goes.and_then(|id| self.told.borrow_mut().remove(&id)) {
            told.notify_one();
        }
    }

    /// Says something about strangers, unless they had enough said about them.
    pub fn say(&self, text: impl FnOnce() -> String) {
        match self.log.spend(now()) {
            Some(0) => tracing::info!("{}", text()),
            Some(unsaid) => tracing::info!("{} ({unsaid} more like it in the last minute)", text()),
            None => {}
        }
    }

    /// Accepts until the task is dropped, whoever is in; `serve` is a task of its own for each. Those tasks go on.
    pub async fn let_in<F: Future<Output = ()> + 'static>(
        self: &Rc<Self>,
        listener: &Listener,
        serve: impl Fn(Transport, Place) -> F,
    ) {
        let mut accepted = 0;
        loop {
            match listener.accept().await {
                Ok(transport) => {
                    let place = self.enter(Source::of(transport.peer()));
                    tokio::task::spawn_local(serve(transport, place));
                }
                Err(error) => self.cannot_accept(&error).await,
            }
            accepted += 1;
            if accepted % ACCEPTS_A_TURN == 0 {
                tokio::time::sleep(REST).await;
            }
        }
    }

    async fn cannot_accept(&self, error: &io::Error) {
        self.say(|| format!("a connection could not be accepted: {error}"));
        self.make_room();
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

impl Place {
    /// Works while nobody needs the place. `None`: somebody newer has it, and the work was dropped.
    pub async fn hold<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.goes.notified() => None,
            done = work => Some(done),
        }
    }

    /// Waits until something of its handshake is here.
    ///
    /// # Errors
    /// [`TlsError::TooSlow`] after `limit`; what the kernel says.
    pub async fn spoken_to_by(&self, plain: &Transport, limit: Millis) -> Result<(), TlsError> {
        let spoke = tokio::time::timeout(limit.into(), plain.readable()).await;
        spoke.map_err(|_elapsed| TlsError::TooSlow(limit))??;
        self.heard();
        Ok(())
    }

    /// It spoke: it goes after those who have not.
    pub fn heard(&self) {
        self.lobby.seats.borrow_mut().turn(self.id, Voice::Heard);
    }

    /// It has its answer, and is silent since now.
    pub fn answered(&self) {
        self.lobby.seats.borrow_mut().turn(self.id, Voice::Silent);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.lobby.seats.borrow_mut().leave(self.id);
        self.lobby.told.borrow_mut().remove(&self.id);
    }
}

/// How much may be written about what anybody can cause.
#[derive(Default)]
pub struct LogBudget {
    begun: Cell<Option<Moment>>,
    lines: Cell<u32>,
    unsaid: Cell<u64>,
}

impl LogBudget {
    /// Whether a line may be written now; then how many were not written since the one before it.
    #[must_use]
    pub fn spend(&self, now: Moment) -> Option<u64> {
        if self.begun.get().is_none_or(|begun| now.since(begun) >= LINES_WITHIN) {
            self.begun.set(Some(now));
            self.lines.set(0);
        }
        if self.lines.get() >= LINES_MAX {
            self.unsaid.set(self.unsaid.get() + 1);
            return None;
        }
        self.lines.set(self.lines.get() + 1);
        Some(self.unsaid.take())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const PLACES: Places = Places { all: 6, of_one: 3 };

    fn from(last: u8) -> Source {
        Source::of_address(IpAddr::from([192, 0, 2, last]))
    }

    /// DA10, CA4, D13. Goal: the oldest silent one of a source that has too many goes, and of whoever has the most if all places
    /// are taken; who spoke goes last, the newest never. Method: a table of arrivals.
    #[test]
    fn the_oldest_silent_stranger_goes() {
        let mut seats = Seats::new(PLACES);
        for id in 0..3 {
            assert_eq!(seats.enter(from(1)), (id, None));
        }
        seats.turn(0, Voice::Heard);
        // `turn` took a number of the order.
        assert_eq!(seats.enter(from(1)), (4, Some(1)), "the oldest has spoken");
        assert_eq!(seats.enter(from(2)), (5, None));
        assert_eq!(seats.enter(from(3)), (6, None));
        assert_eq!(seats.enter(from(4)), (7, None));
        assert_eq!(seats.enter(from(5)), (8, Some(2)), "whoever has the most gives a place");
        seats.turn(4, Voice::Heard);
        assert_eq!(seats.enter(from(1)).1, Some(0), "of those who spoke, the one that did so first");
    }

    /// Goal: the bounds hold whatever happens, and the newest is always in. Method: random arrivals, words and departures from
    /// a few sources, counted after each.
    #[test]
    fn the_bounds_hold() {
        let mut seats = Seats::new(PLACES);
        let mut state = 7_u64;
        let mut draw = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..20_000 {
            let any = seats.seats.keys().copied().min();
            match (draw(8), any) {
                (0, Some(id)) => seats.turn(id, Voice::Heard),
                (1, Some(id)) => seats.turn(id, Voice::Silent),
                (2, Some(id)) => seats.leave(id),
                _ => {
                    let (id, goes) = seats.enter(from(u8::try_from(draw(5)).unwrap()));
                    assert!(seats.seats.contains_key(&id) && goes.is_none_or(|goes| !seats.seats.contains_key(&goes)));
                }
            }
            assert!(seats.seats.len() <= PLACES.all);
            assert!(seats.order.values().all(|of_it| (1..=PLACES.of_one).contains(&of_it.len())));
            assert_eq!(seats.order.values().map(BTreeSet::len).sum::<usize>(), seats.seats.len());
        }
    }

    /// Goal: a machine that belongs here keeps its place before strangers. Method: all places taken, the known one oldest.
    #[test]
    fn who_belongs_here_goes_last() {
        let mut seats = Seats::new(PLACES);
        seats.known.insert(from(9));
        seats.enter(from(9));
        seats.enter(from(9));
        for n in 1..=4 {
            seats.enter(from(n));
        }
        for n in 10..100 {
            let goes = seats.enter(from(n)).1;
            assert!(goes.is_some_and(|goes| goes > 1), "{goes:?}");
        }
    }

    /// Goal: a machine is one source whatever address it takes within its own network. Method: addresses by pairs.
    #[test]
    fn a_machine_is_one_source() {
        let of = |text: &str| Source::of_address(text.parse().unwrap());
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("::ffff:192.0.2.1", "192.0.2.1", true),
            ("2001:db8:1::1", "2001:db8:1::ffff:1", true),
            ("2001:db8:1::1", "2001:db8:2::1", false),
            ("fe80::1", "fe80::2", false),
        ] {
            assert_eq!(of(one) == of(other), same, "{one} {other}");
        }
    }

    /// Goal: who goes is told, its work is dropped; a place that is left is free. Method: a lobby of two.
    #[tokio::test]
    async fn who_goes_is_told() {
        let lobby = Lobby::new(Places { all: 2, of_one: 2 });
        let (first, second) = (lobby.enter(from(1)), lobby.enter(from(2)));
        let third = lobby.enter(from(3));
        let fourth = lobby.enter(from(3));
        let long = Duration::from_secs(60);
        assert_eq!(first.hold(tokio::time::sleep(long)).await.or(second.hold(tokio::time::sleep(long)).await), None);
        drop((first, second, third, fourth));
        assert!(lobby.seats.borrow().seats.is_empty() && lobby.told.borrow().is_empty());
    }

    /// CA4. Goal: what strangers do fills no disk, and the log says how much it left out. Method: a hundred lines a second.
    #[test]
    fn the_log_has_a_budget() {
        let budget = LogBudget::default();
        let mut said = Vec::new();
        for n in 0..12_000_u64 {
            said.extend(budget.spend(Moment(n * 10)));
        }
        assert_eq!(said, [0, 0, 0, 0, 0, 5_995, 0, 0, 0, 0]);
    }
}
