//! The program: picks the role.
fn main() {}
