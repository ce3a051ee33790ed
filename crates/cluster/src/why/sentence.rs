//! Facts as sentences.

use super::{Fact, Happened, Present};

/// Facts told: the newest. What is older has been told before.
pub const FACTS_MAX: usize = 12;

/// The answer to `muskox why vm NAME`: how it is, then what led there, oldest first. `facts` in any order.
#[must_use]
pub fn why(present: &Present, facts: &[Fact], now_ms: u64) -> Vec<String> {
    let told = told(facts);
    let mut lines = vec![state(present)];
    lines.extend(told.iter().map(|fact| format!("{}: {}.", ago(fact.at_ms, now_ms), sentence(&fact.happened))));
    if told.is_empty() {
        lines.push("Nothing about it was recorded.".to_owned());
    }
    lines
}

/// The newest facts, oldest first.
#[must_use]
pub fn told(facts: &[Fact]) -> Vec<&Fact> {
    let mut facts: Vec<&Fact> = facts.iter().collect();
    facts.sort_by_key(|fact| fact.at_ms);
    facts.split_off(facts.len().saturating_sub(FACTS_MAX))
}

/// Why a VM that should run does not, as far as that was recorded since it ran last.
#[must_use]
pub fn down(facts: &[Fact]) -> Option<String> {
    for fact in told(facts).into_iter().rev() {
        match &fact.happened {
            Happened::NotStarted { .. } | Happened::Died { .. } | Happened::NothingDone { .. } => {
                return Some(sentence(&fact.happened));
            }
            Happened::Started { .. } | Happened::Moved { .. } | Happened::WentOn { .. } => return None,
            _ => {}
        }
    }
    None
}

fn state(present: &Present) -> String {
    let vm = &present.vm;
    let is = match (&present.owner, present.running) {
        (None, _) if present.job.is_some() => "is being handed over".to_owned(),
        (None, _) if present.wished => "is not running anywhere and should".to_owned(),
        (None, _) => "is stopped, as wished".to_owned(),
        (Some(host), None) => format!("belongs to {host}, which does not answer"),
        (Some(host), Some(true)) => format!("runs on {host}"),
        (Some(host), Some(false)) if present.wished => format!("belongs to {host} and does not run, though it should"),
        (Some(host), Some(false)) => format!("is stopped on {host}, as wished"),
    };
    match &present.job {
        Some((job, stage)) => format!("VM {vm} {is}; job {job} works on it ({stage})."),
        None => format!("VM {vm} {is}."),
    }
}

fn ago(at_ms: u64, now_ms: u64) -> String {
    match now_ms.checked_sub(at_ms) {
        Some(span) => format!("{} ago", units::Millis(span)),
        None => "by a clock that is ahead".to_owned(),
    }
}

/// What happened, as a person says it; without time and without a full stop.
#[must_use]
pub fn sentence(happened: &Happened) -> String {
    match happened {
        Happened::Wished { by, running: true } => format!("{by} asked for it to run"),
        Happened::Wished { by, running: false } => format!("{by} asked for it to stop"),
        Happened::Started { host, epoch } => format!("it started on {host} with {epoch}"),
        Happened::VotedDead { host, votes, of, silent_ms } => {
            format!("{votes} of {of} witnesses voted {host} dead after {silent_ms} of silence")
        }
        Happened::Fenced { epoch, targets: 1, took_ms } => {
            format!("storage fenced off all earlier writers ({epoch}, {took_ms})")
        }
        Happened::Fenced { epoch, targets, took_ms } => {
            format!("all {targets} storage machines fenced off all earlier writers ({epoch}, {took_ms})")
        }
        Happened::Blocked { job, what } => format!("job {job} waits: {what}"),
        Happened::Moved { from, to, total_ms, blackout_ms: None } => {
            format!("it moved from {from} to {to} in {total_ms}")
        }
        Happened::Moved { from, to, total_ms, blackout_ms: Some(blackout) } => {
            format!("it moved from {from} to {to} in {total_ms} and stood still for {blackout}")
        }
        Happened::MoveUndone { host, why } => format!("a move was undone because {why}; it stayed on {host}"),
        Happened::NotStarted { why, .. } => format!("it could not be started: {why}"),
        Happened::Died { host, why } => format!("its QEMU on {host} ended: {why}"),
        Happened::BacksOff { times, wait_ms } => {
            format!("it had died {times} times soon after starting, so the next start waited {wait_ms}")
        }
        Happened::Paused { host } => {
            format!("{host} could not reach a majority of witnesses and paused it, so that it could not run twice")
        }
        Happened::WentOn { after_ms } => format!("it went on after {after_ms}: its epoch was still the newest"),
        Happened::Held { volume } => format!("volume {volume} could not be reached; the guest waited"),
        Happened::Released { volume, after_ms } => format!("volume {volume} was back after {after_ms}"),
        Happened::Adopted { by, host: Some(host), epoch } => {
            format!("the store had been behind; {by} had it take {host} as the owner, at {epoch}")
        }
        Happened::Adopted { by, host: None, epoch } => {
            format!("the store had been behind; {by} had it go on at {epoch}, with no owner")
        }
        Happened::TakenOver { by, host } => format!("{by} had {host} take over what ran of it there"),
        Happened::Forgotten { by, host } => format!("{by} had {host} end what ran of it there"),
        Happened::NothingDone { why } => format!("nothing was done because {why}"),
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use units::{Epoch, Millis};

    /// Goal: a failover is told so that a person understands it. Method: its facts, and the text as people read it.
    #[test]
    fn a_failover_is_told() {
        let fact = |at_ms, happened| Fact { at_ms, happened };
        let facts = [
            fact(96_500, Happened::Started { host: "host1".into(), epoch: Epoch(8) }),
            fact(95_000, Happened::VotedDead { host: "host2".into(), votes: 2, of: 3, silent_ms: Millis(3_000) }),
            fact(95_400, Happened::Fenced { epoch: Epoch(8), targets: 1, took_ms: Millis(130) }),
        ];
        let vm = "web1".parse().expect("a name");
        let present = Present { vm, wished: true, owner: Some("host1".into()), running: Some(true), job: None };
        assert_eq!(
            why(&present, &facts, 100_000),
            [
                "VM web1 runs on host1.",
                "5.0 s ago: 2 of 3 witnesses voted host2 dead after 3.0 s of silence.",
                "4.6 s ago: storage fenced off all earlier writers (epoch 8, 130 ms).",
                "3.5 s ago: it started on host1 with epoch 8.",
            ]
        );
        let lost = Present { owner: None, running: None, job: Some(("j1".into(), "retreat".into())), ..present };
        assert_eq!(why(&lost, &[], 0)[0], "VM web1 is being handed over; job j1 works on it (retreat).");
    }

    /// Goal: D1, D4: why a VM is down is what was recorded since it ran last. Method: a refusal before and after a start.
    #[test]
    fn why_it_is_down_is_the_newest_reason() {
        let fact = |at_ms, happened| Fact { at_ms, happened };
        let refused = Happened::NotStarted { host: "box".into(), why: "'box': no space left".into() };
        let started = Happened::Started { host: "box".into(), epoch: Epoch(3) };
        let backs_off = Happened::BacksOff { times: 1, wait_ms: Millis(1_000) };
        let facts = [fact(1, started.clone()), fact(2, refused.clone()), fact(3, backs_off)];
        assert_eq!(down(&facts).as_deref(), Some("it could not be started: 'box': no space left"));
        assert_eq!(down(&[fact(1, refused), fact(2, started)]), None);
        assert_eq!(down(&[]), None);
    }

    /// Goal: who had the store agree, and on what, is told. Method: with an owner and without.
    #[test]
    fn an_adoption_is_told() {
        let adopted = |host: Option<&str>| {
            let host = host.map(str::to_owned);
            sentence(&Happened::Adopted { by: "root".into(), host, epoch: Epoch(7) })
        };
        assert_eq!(
            adopted(Some("host2")),
            "the store had been behind; root had it take host2 as the owner, at epoch 7"
        );
        assert_eq!(adopted(None), "the store had been behind; root had it go on at epoch 7, with no owner");
    }

    /// Goal: facts survive the store and only the newest are told. Method: JSON both ways; more facts than are told.
    #[test]
    fn facts_are_kept_as_json_and_bounded_when_told() {
        let fact = Fact { at_ms: 5, happened: Happened::BacksOff { times: 3, wait_ms: Millis(15_000) } };
        let json = serde_json::to_string(&fact).expect("plain data");
        assert_eq!(json, r#"{"at_ms":5,"kind":"backs-off","times":3,"wait_ms":15000}"#);
        assert_eq!(serde_json::from_str::<Fact>(&json).expect("as written"), fact);
        let vm = "web1".parse().expect("a name");
        let present = Present { vm, wished: true, owner: None, running: None, job: None };
        assert_eq!(why(&present, &vec![fact; 40], 9).len(), 1 + FACTS_MAX);
    }
}
