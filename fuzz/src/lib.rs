//! Fuzz targets: plain functions that take any bytes and must not panic, hang or hold much memory.
//!
//! They run three ways: `cargo test` here replays `corpus/TARGET/*` on stable Rust, `cargo +nightly fuzz run TARGET
//! --features libfuzzer` searches for new inputs, and a crash found anywhere becomes a file of the corpus.

/// Declares the targets: the module `TARGET` with its function of the same name.
macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        $(mod $name; pub use $name::$name;)*

        /// Every target by name.
        pub const TARGETS: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name)),*];
    };
}

targets! {
    nbd_client,
    nbd_server,
}

#[cfg(test)]
mod test {
    use super::TARGETS;
    use std::fs;
    use std::path::Path;

    /// Every file of every corpus runs through its target; a target without seeds, line or main is a mistake.
    #[test]
    fn the_corpus_is_survived() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("this crate has a manifest");
        for (name, target) in TARGETS {
            let main = format!("fuzz_targets/{name}.rs");
            assert!(manifest.contains(&main), "Cargo.toml lacks the line of {name} in `bin`");
            assert!(root.join(&main).exists(), "{main} is missing: copy a neighbour");
            let mut seeds = 0;
            for entry in fs::read_dir(root.join("corpus").join(name)).expect("the target has a corpus") {
                let path = entry.expect("the corpus is readable").path();
                println!("{}", path.display()); // shown when it fails
                target(&fs::read(&path).expect("a seed is readable"));
                seeds += 1;
            }
            assert!(seeds > 0, "corpus/{name} is empty");
        }
    }

    /// Seeds cut anywhere run too: the shortest way from a good input to a bad one.
    #[test]
    fn cut_seeds_are_survived() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (name, target) in TARGETS {
            for entry in fs::read_dir(root.join("corpus").join(name)).expect("the target has a corpus") {
                let seed = fs::read(entry.expect("the corpus is readable").path()).expect("a seed is readable");
                (0..seed.len().min(4096)).for_each(|cut| target(&seed[..cut]));
            }
        }
    }
}
