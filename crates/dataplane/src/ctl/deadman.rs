//! What a dead-man answers, as people read it.

use units::Millis;
use units::table::Table;
use wire::control::{CastReport, DeadmanReport, Doubt, PeerReport, StandingReport, VoteReport};

/// A dead-man at a glance.
pub fn status(report: &DeadmanReport) -> String {
    let standing = match report.standing {
        StandingReport::Running(left) => format!("running, for {left} without another grant"),
        StandingReport::Paused => "paused: no majority of witnesses grants the lease".to_owned(),
        StandingReport::Asking => "asking whose the volumes are, before guests go on".to_owned(),
        StandingReport::Unwatched => "unwatched: fewer than 3 witnesses, nothing is ever paused".to_owned(),
    };
    let votes = report.doubt.map_or_else(|| "counts silence and votes".to_owned(), doubt);
    let mut text = format!(
        "muskox deadman {}, up {}\n\nguests   {standing}\nwitness  {votes}\nlate     {} times not scheduled in time\n\n",
        report.version, report.up, report.late
    );
    for trouble in &report.troubles {
        text += &format!("TROUBLE: {trouble}\n");
    }
    if !report.troubles.is_empty() {
        text += "\n";
    }
    let mut table = Table::new(&["WITNESS", ">HEARD", ">GRANTED", "REFUSES FOR", "PORTAL", ">ANSWERED", "REASON"]);
    for peer in &report.peers {
        peer_rows(&mut table, peer, peer.witness == report.me);
    }
    text += &table.render();
    if !report.guests.is_empty() {
        let mut table = Table::new(&["GUEST", "PAUSED BY US", "WAITS FOR"]);
        for guest in &report.guests {
            let paused = if guest.paused_by_us { "yes" } else { "no" };
            table.row([guest.name.clone(), paused.to_owned(), guest.waits_for.clone().unwrap_or_default()]);
        }
        text = text + "\n" + &table.render();
    }
    text.trim_end().to_owned() + "\n"
}

/// What the witnesses voted.
pub fn votes(list: &[CastReport]) -> String {
    let mut table = Table::new(&["WITNESS", "VOTE", ">ASKED"]);
    for cast in list {
        let vote = match (&cast.vote, &cast.reason) {
            (Some(VoteReport::Dead(valid_for)), _) => format!("dead, binding for {valid_for}"),
            (Some(VoteReport::Alive(silent)), _) => format!("alive, heard {silent} ago"),
            (Some(VoteReport::Unsure(why)), _) => doubt(*why),
            (None, reason) => format!("no vote: {}", reason.as_deref().unwrap_or("no answer")),
        };
        table.row([cast.name.to_string(), vote, format!("{} ago", cast.asked_ago)]);
    }
    table.render()
}

fn peer_rows(table: &mut Table, peer: &PeerReport, me: bool) {
    let ago = |span: Option<Millis>| span.map_or_else(|| "never".to_owned(), |span| format!("{span} ago"));
    let refused = peer.refused.map(|left| left.to_string()).unwrap_or_default();
    let head = match me {
        true => [format!("{} (this)", peer.name), String::new(), ago(peer.granted), refused],
        false => [peer.name.to_string(), ago(peer.heard), ago(peer.granted), refused],
    };
    let mut heads = std::iter::once(head).chain(std::iter::repeat(Default::default()));
    let mut row = |portal: [String; 3]| {
        let [name, heard, granted, refused] = heads.next().expect("it repeats");
        let [address, answered, reason] = portal;
        table.row([name, heard, granted, refused, address, answered, reason]);
    };
    for portal in &peer.portals {
        row([portal.address.to_string(), ago(portal.heard), portal.reason.clone().unwrap_or_default()]);
    }
    if peer.portals.is_empty() {
        row(Default::default());
    }
}

fn doubt(why: Doubt) -> String {
    match why {
        Doubt::Alone => "votes nobody dead: it hears no majority of witnesses".to_owned(),
        Doubt::Grace(left) => format!("votes nobody dead for another {left}: it heard no majority until recently"),
        Doubt::TooFew => "votes nobody dead: fewer than 3 witnesses".to_owned(),
    }
}
