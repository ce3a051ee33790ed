//! The name a client asks for.

use crate::Seed;
use wire::nbd::ExportName;

/// What is understood is said again in words that are understood the same.
pub fn nbd_export_name(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match text.parse::<ExportName>() {
        Ok(name) => assert_eq!(name.to_string().parse().as_ref(), Ok(&name)),
        Err(error) => assert!(error.to_string().len() <= 4096, "a refusal repeats what a peer sent without limit"),
    }
}

pub fn seeds() -> Vec<Seed> {
    vec![
        ("stock", b"web1".to_vec()),
        ("attached", b"web1;epoch=7;incarnation=18446744073709551615;mode=rw".to_vec()),
        ("any_order", b"v;mode=ro;incarnation=0;epoch=1".to_vec()),
        ("twice", b"v;mode=ro;mode=ro;incarnation=0;epoch=1".to_vec()),
    ]
}
