//! The corpus on stable Rust: every file as it is, cut, and changed by a small mutator that repeats itself exactly.

use crate::{TARGETS, Target};
use std::fs;
use std::path::{Path, PathBuf};

/// How often each seed is cut and how often changed: all of it takes seconds, unoptimised.
const CUTS_MAX: usize = 128;
const CHANGES: u64 = 256;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = root().join("corpus").join(target.name);
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|_| panic!("corpus/{} is missing: UPDATE_CORPUS=1", target.name));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("the corpus is readable").path()).collect();
    files.sort();
    files.into_iter().map(|path| (fs::read(&path).expect("a seed is readable"), path)).map(|(b, p)| (p, b)).collect()
}

/// Every file of every corpus runs through its target; a target without seeds, line or main is a mistake.
#[test]
fn the_corpus_is_survived() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("this crate has a manifest");
    for target in TARGETS {
        let main = format!("fuzz_targets/{}.rs", target.name);
        assert!(manifest.contains(&main), "Cargo.toml lacks the line of {} in `bin`", target.name);
        assert!(root().join(&main).exists(), "{main} is missing: copy a neighbour");
        let files = corpus(target);
        assert!(!files.is_empty(), "corpus/{} is empty", target.name);
        for (path, bytes) in files {
            println!("{}", path.display()); // shown when it fails
            (target.run)(&bytes);
        }
    }
}

/// Goal: the seeds are what our encoders write today, so a changed format is met here too. Method: make them anew;
/// `UPDATE_CORPUS=1` writes them.
#[test]
fn the_seeds_are_what_our_encoders_write() {
    let update = std::env::var_os("UPDATE_CORPUS").is_some();
    for target in TARGETS {
        let folder = root().join("corpus").join(target.name);
        for (name, bytes) in (target.seeds)() {
            let path = folder.join(name);
            if update {
                fs::create_dir_all(&folder).expect("the corpus is writable");
                fs::write(&path, bytes).expect("the corpus is writable");
            } else {
                let old = fs::read(&path).unwrap_or_default();
                assert!(old == bytes, "{} is not what our encoder writes: UPDATE_CORPUS=1", path.display());
            }
        }
    }
}

/// Seeds cut anywhere run too: the shortest way from a good input to a bad one.
#[test]
fn cut_seeds_are_survived() {
    for target in TARGETS {
        for (path, seed) in corpus(target) {
            println!("{}", path.display());
            let step = seed.len().div_ceil(CUTS_MAX).max(1);
            (0..seed.len()).step_by(step).for_each(|cut| (target.run)(&seed[..cut]));
        }
    }
}

/// Goal: the way to a crash that coverage would find is often a few changed bytes. Method: change each seed so often;
/// the number printed last says which change it was.
#[test]
fn changed_seeds_are_survived() {
    for target in TARGETS {
        for (path, seed) in corpus(target) {
            for number in 0..CHANGES {
                println!("{} change {number}", path.display());
                (target.run)(&changed(&seed, number));
            }
        }
    }
}

/// Splitmix64: a number that looks random and repeats. Source: Steele, Lea, Flood, OOPSLA 2014.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit as u64).max(1)).expect("below a usize")
    }
}

/// One to four changes: a bit, a byte at its edge, a run of one byte, a piece removed or doubled.
fn changed(seed: &[u8], number: u64) -> Vec<u8> {
    let mut draw = Draw(number);
    let mut bytes = seed.to_vec();
    for _ in 0..=draw.below(4) {
        let at = draw.below(bytes.len());
        let end = bytes.len().min(at + 1 + draw.below(8));
        let edge = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b';'][draw.below(8)];
        match draw.below(5) {
            0 => bytes[at..end].iter_mut().take(1).for_each(|byte| *byte ^= 1 << (number % 8)),
            1 => bytes[at..end].iter_mut().take(1).for_each(|byte| *byte = edge),
            2 => bytes[at..end].fill(edge),
            3 => drop(bytes.drain(at..end)),
            _ => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes
}
