//! What strangers and peers may send us, spoiled: it is refused or understood, and never ends a node. The decoders of
//! bytes have fuzz targets (`fuzz/`); these two are texts that libraries take apart and our checks judge.

use crate::peer::{Ask, Reply};
use crate::vms::spec::Spec;

/// How often each text is changed: a second or two, unoptimised.
const CHANGES: u64 = 4_000;
/// What stands at edges of numbers, texts and both syntaxes.
const PIECES: [&str; 12] = ["", "0", "-1", "99999999999999999999", "\"", "'", "[", "]]", "{", "\u{e9}", "\n", "1e400"];

/// Splitmix64. Source: Steele, Lea, Flood, OOPSLA 2014.
fn draw(state: &mut u64, below: usize) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    usize::try_from((mixed ^ (mixed >> 31)) % (below as u64).max(1)).expect("below a usize")
}

/// Up to three pieces of the text replaced, or moved from elsewhere in it.
fn changed(text: &str, number: u64) -> String {
    let mut state = number;
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..=draw(&mut state, 3) {
        let from = draw(&mut state, chars.len());
        let to = chars.len().min(from + draw(&mut state, 12));
        let piece: Vec<char> = if draw(&mut state, 3) == 0 {
            let other = draw(&mut state, chars.len());
            chars[other..chars.len().min(other + 40)].to_vec()
        } else {
            PIECES[draw(&mut state, PIECES.len())].chars().collect()
        };
        chars.splice(from..to, piece);
    }
    chars.into_iter().collect()
}

const DESCRIPTION: &str = "name = \"web1\"\nmemory = \"1 GiB\"\nvcpus = 2\norder = 3\nhosts = [\"host1\"]\n\
    shutdown_s = 5\ncpu = \"max\"\n[[disk]]\nvolume = \"web1\"\nserial = \"a\"\n[[nic]]\nbridge = \"lan\"\n\
    mac = \"52:54:00:12:34:56\"\n[seed]\nhostname = \"web1\"\nssh_keys = [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE1vc3RseUhhcm1sZXNzTW9zdGx5SGFybWxlc3NPISEh\"]\n\
    [[seed.file]]\nname = \"x\"\ntext = \"y\"\n";

/// Goal: no description ends the node; a mistake has a place in the text and a way out. Method: a good one, changed.
#[test]
fn spoiled_descriptions_are_refused_or_sound() {
    assert!(Spec::parse(DESCRIPTION).is_ok());
    let mut refused = 0;
    for number in 0..CHANGES {
        match Spec::parse(&changed(DESCRIPTION, number)) {
            Ok(spec) => assert!(spec.vcpus > 0 && !spec.disks.is_empty(), "change {number}: {spec:?}"),
            Err(problem) => {
                refused += 1;
                assert!(!problem.text.is_empty() && !problem.hint.is_empty(), "change {number}: {problem:?}");
            }
        }
    }
    assert!(refused > CHANGES / 4, "the changes reach something: {refused}");
}

const WORDS: [&str; 4] = [
    r#"{"ask":"target","request":{"do":"raise","volume":"web1","epoch":7,"owners":[],"shared":false}}"#,
    r#"{"ask":"release","volume":"web1","epoch":18446744073709551615}"#,
    r#"{"ask":"tell","vm":"web1","at":5,"guest":"running","epoch":3,"refused":null,"measured":{},
        "stopped_ago_ms":null,"resumed_ago_ms":4,"port":10820,"powered_off":false,"paused":false,"why":"é"}"#,
    r#"{"reply":"claimed","epoch":2,"portals":["192.0.2.1:10809","[2001:db8::1]:10809"],"size":4096,
        "target":"4f7c9e3a8d514c0e9f000123456789ab4f7c9e3a8d514c0e9f000123456789ab"}"#,
];

/// Goal: no word of a peer ends the node; what is understood is said again in the same words. Method: good ones, changed.
#[test]
fn spoiled_words_of_peers_are_refused_or_understood() {
    for text in WORDS {
        let is_good = serde_json::from_str::<Ask>(text).is_ok() || serde_json::from_str::<Reply>(text).is_ok();
        assert!(is_good, "{text}: {:?}", serde_json::from_str::<Ask>(text));
        for number in 0..CHANGES {
            let text = changed(text, number);
            if let Ok(ask) = serde_json::from_str::<Ask>(&text) {
                let said = serde_json::to_string(&ask).expect("messages are JSON");
                let again = serde_json::from_str::<Ask>(&said).expect("we understand ourselves");
                assert_eq!(serde_json::to_string(&again).expect("messages are JSON"), said, "change {number}");
            }
            drop(serde_json::from_str::<Reply>(&text));
        }
    }
}
