//! Bytes ↔ messages: sans-IO codecs and protocol sessions, one folder each. Knows neither sockets nor disks.

pub mod control;
