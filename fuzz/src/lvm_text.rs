//! LVM2's text metadata.

use crate::Seed;
use block::volume::text::{parse, write};

/// What is parsed is written to what parses the same.
pub fn lvm_text(data: &[u8]) {
    if let Ok(tree) = parse(data) {
        assert_eq!(parse(&write(&tree)), Ok(tree));
    }
}

pub fn seeds() -> Vec<Seed> {
    let odd = b"# comment\na = 1 b=-2\nc = +3 d = -0.5\ne = \"x\\\"y\\\\z\\w\" f = [] g = [\"pv0\", 0]\nh { i { j = 1. } }\n\0tail";
    let escapes = br#"a = "ends in \\" b = "\\\"" c = "\\\\" "#;
    vec![("escapes", escapes.to_vec()), ("group", crate::group_open::text_of_base()), ("every_kind", odd.to_vec())]
}
