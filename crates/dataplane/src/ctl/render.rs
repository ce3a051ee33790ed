//! Replies as people read them.

use crate::ctl::deadman;
use std::fmt::Write;
use units::table::Table;
use units::{ByteLen, HostKey, Mode};
use wire::control::{
    GrantReport, HeldState, InitiatorReport, MemberState, PoolReport, Refusal, Reply, ServeState, SessionReport,
    StatusReport, VolumeReport, WorkReport,
};

/// A reply as tables and sentences.
pub fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Done => "done\n".to_owned(),
        Reply::Status(status) => status_text(status),
        Reply::Pools(list) => pools(list),
        Reply::Pool(one) => pool(one),
        Reply::Volumes(list) => volumes(list),
        Reply::Volume(one) => volumes(std::slice::from_ref(one)),
        Reply::Grant(one) => grant(one),
        Reply::Initiator(status) => initiator(status),
        Reply::Renewal(_) | Reply::Vote(_) => format!("{reply:?}\n"),
        Reply::Votes(list) => deadman::votes(list),
        Reply::Deadman(status) => deadman::status(status),
    }
}

/// A refusal in two lines: what is wrong, what to do.
pub fn refusal(refusal: &Refusal) -> String {
    let mut text = format!("error: {}\n", refusal.text);
    if !refusal.hint.is_empty() {
        line(&mut text, format_args!(" hint: {}", refusal.hint));
    }
    text
}

fn status_text(status: &StatusReport) -> String {
    let mut text = format!("muskox target {}, up {}\n", status.version, status.up);
    for trouble in &status.troubles {
        line(&mut text, format_args!("TROUBLE: {trouble}"));
    }
    for (title, body, count) in [
        ("pools", pools(&status.pools), status.pools.len()),
        ("volumes", volumes(&status.volumes), status.volumes.len()),
        ("sessions", sessions(&status.sessions), status.sessions.len()),
    ] {
        match count {
            0 => line(&mut text, format_args!("\nno {title}")),
            _ => line(&mut text, format_args!("\n{}", body.trim_end())),
        }
    }
    text
}

fn initiator(status: &InitiatorReport) -> String {
    let mut text = format!("muskox initiator {}, up {}\n\n", status.version, status.up);
    let columns = ["VOLUME", "STATE", ">EPOCH", ">INCARNATION", ">SESSIONS", ">UNFLUSHED", "REASON"];
    let mut table = Table::new(&columns);
    for held in &status.volumes {
        let state = match (held.state, held.waiting) {
            (HeldState::Opening, _) => "opening".to_owned(),
            (HeldState::Waiting, Some(span)) => format!("waiting for {span}"),
            (HeldState::Waiting, None) => "waiting".to_owned(),
            (HeldState::Up, _) => "up".to_owned(),
            (HeldState::Fenced, _) => "fenced".to_owned(),
        };
        table.row([
            held.volume.to_string(),
            state,
            held.epoch.0.to_string(),
            held.incarnation.0.to_string(),
            held.sessions.to_string(),
            held.unflushed.to_string(),
            held.reason.clone().unwrap_or_default(),
        ]);
    }
    line(&mut text, format_args!("{}", table.render()));
    text.trim_end().to_owned() + "\n"
}

fn pools(list: &[PoolReport]) -> String {
    let mut table = Table::new(&["POOL", "STATE", ">SIZE", ">FREE", ">MEMBERS", "RESYNC", "REASON"]);
    for pool in list {
        let in_sync = pool.members.iter().filter(|member| member.state == MemberState::InSync).count();
        table.row([
            pool.pool.to_string(),
            pool.state.word().to_owned(),
            bytes(pool.size, pool),
            bytes(pool.free, pool),
            format!("{in_sync}/{}", pool.members.len()),
            pool.resync.as_ref().map(work).unwrap_or_default(),
            pool.reason.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}

/// A pool that is not assembled does not tell how large it is.
fn bytes(of: ByteLen, pool: &PoolReport) -> String {
    if pool.size.0 == 0 { "-".to_owned() } else { of.to_string() }
}

fn pool(pool: &PoolReport) -> String {
    let mut text = String::new();
    line(&mut text, format_args!("pool    {}", pool.pool));
    if let Some(array) = pool.array {
        line(&mut text, format_args!("array   {array}"));
    }
    line(&mut text, format_args!("state   {}", pool.state.word()));
    if let Some(reason) = &pool.reason {
        line(&mut text, format_args!("reason  {reason}"));
    }
    if let Some(note) = &pool.note {
        line(&mut text, format_args!("note    {note}"));
    }
    if pool.size.0 > 0 {
        line(&mut text, format_args!("size    {}, {} free", pool.size, pool.free));
    }
    if let Some(resync) = &pool.resync {
        line(&mut text, format_args!("resync  {}", work(resync)));
    }
    let mut table = Table::new(&[">SLOT", "MEMBER", "STATE"]);
    for member in &pool.members {
        let slot = member.slot.map_or_else(|| "-".to_owned(), |slot| slot.to_string());
        table.row([slot, member.path.clone(), member_state(member.state).to_owned()]);
    }
    text + "\n" + &table.render()
}

fn volumes(list: &[VolumeReport]) -> String {
    let mut table = Table::new(&["VOLUME", "POOL", ">SIZE", "STATE", ">EPOCH", ">SESSIONS", "ZEROING", "REASON"]);
    for volume in list {
        table.row([
            volume.volume.clone(),
            volume.pool.to_string(),
            volume.size.to_string(),
            serve_state(volume.state).to_owned(),
            volume.epoch.0.to_string(),
            volume.sessions.to_string(),
            volume.zeroing.as_ref().map(work).unwrap_or_default(),
            volume.reason.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}

fn sessions(list: &[SessionReport]) -> String {
    let mut table = Table::new(&["SESSION", "HOST", "FROM", ">EPOCH", ">LIFE", "MODE", ">IN FLIGHT", ">ANSWERED"]);
    for session in list {
        table.row([
            session.volume.to_string(),
            short(session.host),
            session.peer.clone(),
            session.epoch.0.to_string(),
            session.incarnation.0.to_string(),
            mode(session.mode).to_owned(),
            session.in_flight.to_string(),
            session.answered.to_string(),
        ]);
    }
    table.render()
}

fn grant(grant: &GrantReport) -> String {
    let mut text = String::new();
    line(&mut text, format_args!("volume       {}", grant.volume));
    line(&mut text, format_args!("state        {}", serve_state(grant.state)));
    if let Some(reason) = &grant.reason {
        line(&mut text, format_args!("reason       {reason}"));
    }
    line(&mut text, format_args!("epoch        {}", grant.epoch.0));
    if grant.granted < grant.epoch {
        line(&mut text, format_args!("granted      epoch {}, nobody owns the newer one yet", grant.granted.0));
    }
    if let Some(word) = &grant.overridden {
        line(&mut text, format_args!("overridden   {word}"));
    }
    match &grant.reservation {
        Some(reserved) => {
            line(&mut text, format_args!("reservation  epoch {} for {}", reserved.epoch.0, reserved.host));
        }
        None => line(&mut text, format_args!("reservation  none")),
    }
    if grant.shared {
        line(&mut text, format_args!("shared       several hosts may write"));
    }
    if grant.owners.is_empty() {
        line(&mut text, format_args!("owners       nobody"));
        return text;
    }
    let mut table = Table::new(&["OWNER", "MODE"]);
    for owner in &grant.owners {
        table.row([owner.host.to_string(), mode(owner.mode).to_owned()]);
    }
    text + "\n" + &table.render()
}

fn work(work: &WorkReport) -> String {
    let percent = (u128::from(work.done.0) * 100).checked_div(u128::from(work.total.0)).unwrap_or(100);
    match work.left {
        Some(left) => format!("{percent} % of {}, {left} left", work.total),
        None => format!("{percent} % of {}", work.total),
    }
}

fn member_state(state: MemberState) -> &'static str {
    match state {
        MemberState::InSync => "in sync",
        MemberState::Recovering => "recovering",
        MemberState::Failed => "failed",
        MemberState::Missing => "missing",
        MemberState::Spare => "spare",
    }
}

fn serve_state(state: ServeState) -> &'static str {
    match state {
        ServeState::Serving => "serving",
        ServeState::Raising => "raising",
        ServeState::BlockedFloor => "blocked(floor)",
        ServeState::BlockedFence => "blocked(fence)",
        ServeState::BlockedStore => "blocked(store)",
        ServeState::Zeroing => "zeroing",
        ServeState::Offline => "offline",
    }
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Ro => "ro",
        Mode::Rw => "rw",
    }
}

/// Enough digits to tell hosts apart at a glance; `grant show` and `--json` have all of them.
fn short(host: HostKey) -> String {
    host.to_string().chars().take(12).collect()
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").expect("writing to a String cannot fail");
}

#[cfg(test)]
mod test {
    use super::*;
    use units::{Epoch, Millis};
    use wire::control::{Code, MemberReport, Owner, PoolState};

    #[test]
    fn a_pool_in_recovery_shows_how_long_it_takes() {
        let resync = WorkReport { done: ByteLen(1 << 29), total: ByteLen(1 << 30), left: Some(Millis(4_200)) };
        let report = PoolReport {
            pool: "tank".parse().unwrap(),
            array: None,
            state: PoolState::Recovering,
            reason: None,
            note: None,
            size: ByteLen(1 << 30),
            free: ByteLen(1 << 20),
            members: vec![MemberReport { path: "/dev/a".into(), slot: Some(0), state: MemberState::InSync }],
            resync: Some(resync),
        };
        let text = pool(&report);
        assert!(text.contains("resync  50 % of 1 GiB, 4.2 s left"), "{text}");
        assert!(text.ends_with("SLOT  MEMBER  STATE\n   0  /dev/a  in sync\n"), "{text}");
        assert!(pools(&[report]).contains("tank  recovering  1 GiB  1 MiB      1/1"), "{}", pools(&[]));
    }

    #[test]
    fn a_grant_names_its_owners_in_full() {
        let host = HostKey([0xcd; 32]);
        let report = GrantReport {
            volume: "web1".parse().unwrap(),
            epoch: Epoch(7),
            granted: Epoch(6),
            owners: vec![Owner { host, mode: Mode::Rw }],
            reservation: None,
            shared: false,
            state: ServeState::Serving,
            reason: None,
            overridden: None,
        };
        let text = grant(&report);
        assert!(text.contains(&format!("{host}  rw")) && text.contains("nobody owns"), "{text}");
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let text = refusal(&Refusal::new(Code::NotFound, "no pool is called 'x'", "muskox ctl pool list"));
        assert_eq!(text, "error: no pool is called 'x'\n hint: muskox ctl pool list\n");
    }
}
