//! `muskox node list|remove|token`: the machines of the cluster.

use crate::client::Ask;
use crate::confirm;
use crate::print::{finish, refused};
use api::{Call, Done, Member, NodeList, NodeState, Token, TokenRequest};
use clap::Subcommand;
use std::process::ExitCode;
use units::table::{self, printable};
use units::{Millis, NodeName};

/// An hour: long enough to walk to the other machine.
const TOKEN_DEFAULT_S: u64 = 3_600;

/// With fewer votes nobody is ever declared dead.
const WITNESSES_MIN: usize = 3;

/// What can be asked of the machines of the cluster.
#[derive(Subcommand, Debug)]
pub enum NodeVerb {
    /// All machines of the cluster.
    List {
        /// Where to ask.
        #[command(flatten)]
        ask: Ask,
    },
    /// Take a machine out for good: its key is refused from then on; asks for its name.
    Remove {
        /// The machine's name.
        name: NodeName,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Where to ask.
        #[command(flatten)]
        ask: Ask,
    },
    /// Make a token with which one machine may join, once; it is shown only now.
    Token {
        /// How long it may be used, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = TOKEN_DEFAULT_S)]
        lifetime: u64,
        /// Where to ask.
        #[command(flatten)]
        ask: Ask,
    },
}

impl NodeVerb {
    /// Asks and prints the answer.
    #[must_use]
    pub fn run(&self) -> ExitCode {
        match self {
            Self::List { ask } => {
                finish(ask.json, ask.call::<NodeList>(Call::named("node_list"), "", None::<&()>), list)
            }
            Self::Remove { name, yes, ask } => {
                let lost = || {
                    let listed = ask.call::<NodeList>(Call::named("node_list"), "", None::<&()>);
                    listed.map_or_else(|_| String::new(), |listed| lost_with(&listed, name))
                };
                if let Err(problem) = confirm::by_name_knowing(*yes, "machine", name.as_str(), lost) {
                    return refused(ask.json, &problem);
                }
                let done = ask.call::<Done>(Call::named("node_remove"), name.as_str(), None::<&()>);
                finish(ask.json, done, |done| format!("{}\n", printable(&done.text)))
            }
            Self::Token { lifetime, ask } => {
                let request = TokenRequest { lifetime_s: *lifetime };
                let made = ask.call::<Token>(Call::named("token_create"), "", Some(&request));
                if made.is_ok() && !ask.json {
                    let lasts = Millis(lifetime.saturating_mul(1_000));
                    eprintln!("note: for one machine, once, within {lasts}; it is not shown again");
                }
                // Only the token on the standard output: `muskox node token | ssh beta muskox node join - …`.
                finish(ask.json, made, |made| format!("{}\n", printable(&made.token)))
            }
        }
    }
}

/// What goes with a machine, beside it: its vote.
fn lost_with(list: &NodeList, name: &NodeName) -> String {
    let left = list.nodes.iter().filter(|member| member.name != *name).count();
    let goes = left < list.nodes.len();
    match left {
        _ if !goes => String::new(),
        0..WITNESSES_MIN if left + 1 >= WITNESSES_MIN => {
            format!("; with the {left} machines left there is no automatic failover any more")
        }
        0..WITNESSES_MIN => String::new(),
        _ => format!("; {left} machines with a vote are left"),
    }
}

fn list(list: &NodeList) -> String {
    let rows: Vec<[String; 6]> = list.nodes.iter().map(row).collect();
    let mut text = table::render(["NAME", "ADDRESS", "ROLES", "STATE", "VERSION", "KEY"], &rows);
    let witnesses = list.nodes.len();
    if witnesses < WITNESSES_MIN {
        text.push_str(&format!(
            "note: {witnesses} of at least 3 machines: with fewer there is no automatic failover (two hosts and one storage box do)\n"
        ));
    }
    text
}

fn row(member: &Member) -> [String; 6] {
    let roles: Vec<&str> = member.roles.iter().map(|role| role.as_str()).collect();
    let state = match (member.state, member.heard_ms) {
        (NodeState::Silent, Some(ago)) => format!("silent for {}", Millis(ago)),
        (state, _) => state.to_string(),
    };
    let version = member.version.clone().unwrap_or_else(|| "-".into());
    [
        member.name.to_string(),
        member.address.to_string(),
        roles.join(","),
        state,
        version,
        member.key.to_string()[..16].to_owned(),
    ]
}

#[cfg(test)]
mod test {
    use super::*;
    use units::{CaFingerprint, HostKey};

    /// Goal: a list says who is there, for how long somebody is silent, and what is missing for failover. Method: one.
    #[test]
    fn a_list_is_a_table() {
        let member = Member {
            name: "beta".parse().unwrap(),
            address: "192.0.2.2:10811".parse().unwrap(),
            portals: Vec::new(),
            roles: vec![api::Role::Host],
            key: HostKey([0xab; 32]),
            joined_s: 1,
            state: NodeState::Silent,
            heard_ms: Some(12_000),
            certificate_until_s: None,
            version: None,
        };
        // D5: what goes with a machine is said before it goes.
        let lost = |count: u8, gone: &str| {
            let named = |n: u8| Member { name: format!("n{n}").parse().unwrap(), ..member.clone() };
            let nodes = (0..count).map(named).collect();
            lost_with(&NodeList { cluster: CaFingerprint([1; 32]), nodes }, &gone.parse().unwrap())
        };
        assert_eq!(lost(3, "n2"), "; with the 2 machines left there is no automatic failover any more");
        assert_eq!(lost(4, "n2"), "; 3 machines with a vote are left");
        assert_eq!((lost(2, "n1").as_str(), lost(3, "other").as_str()), ("", ""));
        let text = list(&NodeList { cluster: CaFingerprint([1; 32]), nodes: vec![member] });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[1].split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect::<Vec<_>>(),
            ["beta", "192.0.2.2:10811", "host", "silent for 12.0 s", "-", "abababababababab"]
        );
        assert!(lines[2].contains("no automatic failover"));
    }
}
