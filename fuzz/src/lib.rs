//! Fuzz targets: plain functions that take any bytes and must not panic, hang or hold much memory.
//!
//! They run three ways: `cargo test` here replays `corpus/TARGET/*` on stable Rust, cut and changed a bounded number of
//! times; `cargo xtask fuzz` searches for new inputs; and a crash found anywhere becomes a file of the corpus. A target
//! whose format has checksums takes a bit that says "make them right", so that changes reach what lies behind them.

mod patch;
#[cfg(test)]
mod replay;
mod seal;
mod world;

/// A seed: its file's name and bytes.
pub type Seed = (&'static str, Vec<u8>);

/// One target.
pub struct Target {
    /// Its name, everywhere.
    pub name: &'static str,
    /// The function.
    pub run: fn(&[u8]),
    /// Inputs our own encoders make; written to the corpus with `UPDATE_CORPUS=1`.
    pub seeds: fn() -> Vec<Seed>,
}

/// Declares the targets: the module `TARGET` with its function of the same name, and its seeds.
macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        $(mod $name; pub use $name::$name;)*

        /// Every target.
        pub const TARGETS: &[Target] =
            &[$(Target { name: stringify!($name), run: $name, seeds: $name::seeds }),*];
    };
}

targets! {
    assemble,
    control_frame,
    gate_record,
    group_open,
    lvm_label,
    lvm_mda,
    lvm_text,
    md_bitmap,
    md_facts,
    md_superblock,
    nbd_client,
    nbd_export_name,
    nbd_in_tls,
    nbd_server,
    probe,
}
