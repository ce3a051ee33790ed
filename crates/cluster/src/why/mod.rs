//! Why a VM is as it is: recorded facts in, sentences out.
//!
//! Invariant: a sentence says only what a fact says; numbers are those that were measured. This code does *not* know
//! where facts are kept, nor HTTP.

mod fact;
mod sentence;

pub use fact::{Fact, Happened, Present};
pub use sentence::{FACTS_MAX, down, sentence, told, why};
