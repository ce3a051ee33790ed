//! Facts as sentences.

use super::{Fact, Happened, Present};

/// Facts told: the newest. What is older has been told before.
pub const FACTS_MAX: usize = 12;

/// The answer to `muskox why vm NAME`: how it is, then what led there, oldest first. `facts` in any order.
#[must_use]
pub fn why(present: &Present, facts: &[Fact], now_ms: u64) -> Vec<String> {
    let mut facts: Vec<&Fact> = facts.iter().collect();
    facts.sort_by_key(|fact| fact.at_ms);
    let told = &facts[facts.len().saturating_sub(FACTS_MAX)..];
    let mut lines = vec![state(present)];
    lines.extend(told.iter().map(|fact| format!("{}: {}.", ago(fact.at_ms, now_ms), sentence(&fact.happened))));
    if told.is_empty() {
        lines.push("Nothing about it was recorded.".to_owned());
    }
    lines
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

fn sentence(happened: &Happened) -> String {
    match happened {
        Happened::Wished { by, running: true } => format!("{by} asked for it to run"),
        Happened::Wished { by, running: false } => format!("{by} asked for it to stop"),
        Happened::Started { host, epoch } => format!("it started on {host} with {epoch}"),
        Happened::VotedDead { host, votes, of, silent_ms } => {
            format!("{votes} of {of} witnesses voted {host} dead after {silent_ms} of silence")
        }
        Happened::Fenced { epoch, targets: 1, took_ms } => {
            format!("its target refuses everything older than {epoch} (acknowledged in {took_ms})")
        }
        Happened::Fenced { epoch, targets, took_ms } => {
            format!("all {targets} targets refuse everything older than {epoch} (acknowledged in {took_ms})")
        }
        Happened::Blocked { job, what } => format!("job {job} waits: {what}"),
        Happened::Moved { from, to, total_ms, blackout_ms: None } => {
            format!("it moved from {from} to {to} in {total_ms}")
        }
        Happened::Moved { from, to, total_ms, blackout_ms: Some(blackout) } => {
            format!("it moved from {from} to {to} in {total_ms} and stood still for {blackout}")
        }
        Happened::MoveUndone { host, why } => format!("a move was undone because {why}; it stayed on {host}"),
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
                "4.6 s ago: its target refuses everything older than epoch 8 (acknowledged in 130 ms).",
                "3.5 s ago: it started on host1 with epoch 8.",
            ]
        );
        let lost = Present { owner: None, running: None, job: Some(("j1".into(), "retreat".into())), ..present };
        assert_eq!(why(&lost, &[], 0)[0], "VM web1 is being handed over; job j1 works on it (retreat).");
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
