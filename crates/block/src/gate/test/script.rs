//! A tiny language for gate scripts, so that the table reads like the rules: one event a line, `=>`, its commands.

use super::host;
use crate::gate::record::Grant;
use crate::gate::*;
use std::collections::BTreeMap;
use units::{Epoch, Incarnation, Mode, Moment};

/// A gate, what it admitted, and the hand that feeds it.
pub struct Stage {
    gate: Gate,
    now: Moment,
    doors: BTreeMap<u64, Door>,
    tickets: BTreeMap<u64, Vec<Ticket>>,
}

/// Runs `script` from the record that `was` describes (empty: none), stored again already if the start was complete.
/// Lines are `event => command; command`.
pub fn play(title: &str, was: &str, complete: bool, script: &str) {
    let records: Vec<Vec<u8>> = was.split(" | ").filter(|text| !text.is_empty()).map(record).collect();
    let gate = Gate::open("web1".parse().unwrap(), &records, complete, None, Moment(0));
    let mut stage = Stage { gate, now: Moment(0), doors: BTreeMap::new(), tickets: BTreeMap::new() };
    if stage.gate.state() == State::Serving {
        // Whatever a start finds is stored again with the first event; one script of rule 6 looks at that.
        stage.play("tick");
        stage.play("stored");
    }
    for (number, line) in script.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty()) {
        let (event, expect) = line.split_once("=>").unwrap_or_else(|| panic!("{title}: no '=>' in '{line}'"));
        let got = stage.play(event.trim());
        assert_eq!(got, expect.trim(), "{title}, line {number}: {event}");
    }
}

/// `rot`, or `e7 A:rw:1 +9B` as a record: epoch, owners with incarnations, reservation.
fn record(text: &str) -> Vec<u8> {
    if text == "rot" {
        return vec![0xff; 456];
    }
    let mut grant = Grant { change: 1, ..Grant::default() };
    for word in text.split_whitespace() {
        match word.split_at(1) {
            ("e", digits) => grant.epoch = Epoch(digits.parse().unwrap()),
            ("+", promise) => {
                let (host, epoch) = promised(promise);
                grant.reservation = Some(record::Reservation { epoch, host, incarnation: Incarnation(0) });
            }
            _ => {
                let mut parts = word.split(':');
                let host = host(parts.next().unwrap().chars().next().unwrap());
                let mode = mode(parts.next().unwrap());
                let incarnation = Incarnation(parts.next().map_or(0, |digits| digits.parse().unwrap()));
                grant.owners.push(record::Owner { host, mode, incarnation });
            }
        }
    }
    grant.encode().to_vec()
}

fn promised(text: &str) -> (units::HostKey, Epoch) {
    let (digits, letter) = text.split_at(text.len() - 1);
    (host(letter.chars().next().unwrap()), Epoch(digits.parse().unwrap()))
}

fn mode(text: &str) -> Mode {
    if text == "rw" { Mode::Rw } else { Mode::Ro }
}

fn number(text: &str) -> u64 {
    text.trim_start_matches(|c: char| c.is_ascii_lowercase()).parse().unwrap_or_else(|_| panic!("a number: {text}"))
}

impl Stage {
    fn play(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let letter = |at: usize| words[at].chars().next().unwrap();
        let event = match words[0] {
            "write" => return self.start(number(words[1]), Kind::Write),
            "read" => return self.start(number(words[1]), Kind::Read),
            "end" => {
                let ticket = self.tickets.get_mut(&number(words[1])).unwrap().remove(0);
                return if self.gate.ended(ticket) { self.step(Event::Drained) } else { String::new() };
            }
            "state" => {
                return self.gate.state().to_string().split(':').next().unwrap().to_owned();
            }
            "hear" => {
                self.gate.heard(self.doors[&number(words[1])], self.now);
                return String::new();
            }
            "pass" => {
                self.now.0 += number(words[1]);
                return String::new();
            }
            "attach" => {
                let (epoch, incarnation) = (Epoch(number(words[3])), Incarnation(number(words[4])));
                let attachment = Attachment { host: host(letter(2)), epoch, incarnation, mode: mode(words[5]) };
                Event::Attach(SessionId(number(words[1])), Request::Exact(attachment))
            }
            "stock" => {
                let request = Request::Stock { host: host(letter(2)), mode: mode(words[3]) };
                Event::Attach(SessionId(number(words[1])), request)
            }
            "detach" => Event::Detach(SessionId(number(words[1]))),
            "raise" | "raise-shared" => {
                let owners = words[3..].iter().map(|owner| (host(owner.chars().next().unwrap()), mode(&owner[2..])));
                let shared = words[0] == "raise-shared";
                let claim = Claim { epoch: Epoch(number(words[2])), shared, owners: owners.collect() };
                Event::Raise(AskId(number(words[1])), claim)
            }
            "reserve" => Event::Reserve(AskId(number(words[1])), Epoch(number(words[2])), host(letter(3))),
            "stored" => Event::Stored(Ok(())),
            "store-failed" => Event::Stored(Err(crate::DeviceError::DataLost { lost: 2 })),
            "laggards-failed" => Event::LaggardsFailed(Laggards::Failed),
            "unrecorded" => Event::LaggardsFailed(Laggards::Unrecorded),
            "last-member" => Event::LaggardsFailed(Laggards::LastMember),
            "floor" => Event::Floor(Epoch(number(words[1]))),
            "override" => Event::Override(words[1..].join(" ")),
            "found" => Event::Found { records: vec![record(&words[1..].join(" "))], complete: true },
            "found-nothing" => Event::Found { records: Vec::new(), complete: false },
            "tick" => Event::Tick,
            other => panic!("no such event: {other}"),
        };
        self.step(event)
    }

    fn start(&mut self, session: u64, kind: Kind) -> String {
        match self.gate.admit(self.doors[&session], kind, self.now) {
            Ok(ticket) => {
                self.tickets.entry(session).or_default().push(ticket);
                "passed".into()
            }
            Err(refused) => refused.to_string(),
        }
    }

    fn step(&mut self, event: Event) -> String {
        let commands = self.gate.step(self.now, event);
        for command in &commands {
            if let Command::Admitted(session, door, _) = command {
                self.doors.insert(session.0, *door);
            }
        }
        let shown = commands.iter().map(show).collect::<Vec<_>>().join("; ");
        ["A", "B", "C"]
            .iter()
            .fold(shown, |text, letter| text.replace(&host(letter.chars().next().unwrap()).to_string(), letter))
    }
}

fn show(command: &Command) -> String {
    match command {
        Command::Store(grant) => {
            let owner = |o: &record::Owner| format!(" {}:{}:{}", o.host, o.mode, o.incarnation.0);
            let owners: String = grant.owners.iter().map(owner).collect();
            let promise = grant.reservation.map(|r| format!(" +{}{}:{}", r.epoch.0, r.host, r.incarnation.0));
            format!("store e{}{owners}{}", grant.epoch.0, promise.unwrap_or_default())
        }
        Command::Admitted(session, _, attachment) => {
            format!("admitted {} e{} i{}", session.0, attachment.epoch.0, attachment.incarnation.0)
        }
        Command::Refused(session, why) => format!("refused {}: {why}", session.0),
        Command::Revoke(sessions) => {
            format!("revoke {}", sessions.iter().map(|s| s.0.to_string()).collect::<Vec<_>>().join(" "))
        }
        Command::FailLaggards(moment) => format!("fail-laggards {}", moment.0),
        Command::Ack(ask) => format!("ack {}", ask.0),
        Command::Decline(ask, why) => format!("decline {}: {why}", ask.0),
        Command::WakeAt(moment) => format!("wake {}", moment.0),
    }
}
