//! The durable grant; what is behind the first record is taken as a second one.

use crate::Seed;
use block::gate::record::{Grant, Owner, RECORD_BYTES, Reservation};
use units::{Epoch, HostKey, Incarnation, Mode};

/// One grant has one byte form, and the newest of two is the one with the higher epoch.
pub fn gate_record(data: &[u8]) {
    if let Ok(grant) = Grant::decode(data) {
        grant.check().expect("a decoded grant keeps the rules");
        assert_eq!(grant.encode(), data[..RECORD_BYTES]);
        assert_eq!(Grant::decode(&grant.encode()), Ok(grant));
    }
    let records: Vec<&[u8]> = data.chunks(RECORD_BYTES).take(8).collect();
    let (newest, bad) = Grant::newest(records.iter().copied());
    let good: Vec<Grant> = records.iter().filter_map(|record| Grant::decode(record).ok()).collect();
    assert_eq!(good.len() + bad, records.len());
    assert_eq!(newest.is_some(), !good.is_empty());
    assert!(newest.is_none_or(|newest| good.iter().all(|grant| grant.epoch <= newest.epoch)));
}

pub fn seeds() -> Vec<Seed> {
    let owner = |key: u8, mode| Owner { host: HostKey([key; 32]), mode, incarnation: Incarnation(3) };
    let one = Grant { epoch: Epoch(7), change: 3, owners: vec![owner(1, Mode::Rw)], ..Grant::default() };
    let reservation = Some(Reservation { epoch: Epoch(9), host: HostKey([7; 32]), incarnation: Incarnation(1) });
    let reserved = Grant { reservation, ..one.clone() };
    let shared = Grant { shared: true, owners: (0..8).map(|key| owner(key, Mode::Rw)).collect(), ..one.clone() };
    vec![
        ("never_granted", Grant::default().encode().to_vec()),
        ("one_owner", one.encode().to_vec()),
        ("shared", shared.encode().to_vec()),
        ("two_records", [one.encode(), reserved.encode()].concat()),
    ]
}
