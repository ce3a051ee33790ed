//! A cluster on one machine for real.
