//! The demo: the main job on real input, its evidence, and the report that is computed from it.

pub mod evidence;
pub mod report;
pub mod rogue;
pub mod screen;
