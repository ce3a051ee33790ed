//! stub
use super::{Report, timeline::Timeline};
use crate::demo::evidence::Evidence;
pub fn page(_: &Report, _: &Timeline, _: &Evidence) -> String {
    String::new()
}
