//! The facts area: two slots with the table of records.
//!
//! First byte: bit 0 makes the checksums right. Two bytes: where slot B begins in what follows.

use crate::{Seed, seal};
use block::raid::facts::{Facts, RECORDS_MAX, SLOT_BYTES, epoch_of, merge};
use units::{ArrayId, VolumeId};

/// A slot that decodes is encoded to the same; of two slots the newer is found; merged epochs never go back.
pub fn md_facts(data: &[u8]) {
    let Some(([choice, low, high], rest)) = data.split_first_chunk::<3>() else { return };
    let border = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
    let mut slots = [rest[..border].to_vec(), rest[border..].to_vec()];
    if choice & 1 == 1 {
        slots.iter_mut().for_each(|slot| seal::facts(slot));
    }
    let decoded = slots.each_ref().map(|slot| Facts::decode(&slot[..slot.len().min(SLOT_BYTES)]));
    let good: Vec<Facts> = decoded.iter().flatten().cloned().collect();
    for facts in &good {
        assert_eq!(Facts::decode(&facts.encode()).as_ref(), Ok(facts));
        assert!(facts.records.len() <= RECORDS_MAX);
    }
    let mut area = slots[0].clone();
    area.resize(SLOT_BYTES, 0);
    area.extend_from_slice(&slots[1]);
    match Facts::newest(&area) {
        Ok(newest) => assert!(good.iter().all(|facts| facts.sequence <= newest.sequence), "an older slot was taken"),
        Err(error) => assert!(good.is_empty() || decoded.contains(&Err(error)), "sound facts were not found"),
    }
    let merged = merge(good.clone());
    for (volume, record) in good.iter().flat_map(|facts| &facts.records) {
        assert!(epoch_of(record) <= epoch_of(&merged[volume]), "an epoch went back");
    }
}

pub fn seeds() -> Vec<Seed> {
    let facts = |sequence, epochs: &[u64]| {
        let record = |epoch: &u64| [&epoch.to_le_bytes()[..], &[7; 20]].concat();
        let records = (1..).zip(epochs).map(|(volume, epoch)| (VolumeId([volume; 16]), record(epoch))).collect();
        Facts { sequence, array: ArrayId([5; 16]), role: 1, events_before: 4, events: 5, records }
    };
    let seed = |a: &Facts, b: &Facts| {
        let bytes = |facts: &Facts| facts.encode()[..128 + facts.records.len() * 52].to_vec();
        let border = u16::try_from(bytes(a).len()).expect("few records");
        [&[1][..], &border.to_le_bytes(), &bytes(a), &bytes(b)].concat()
    };
    vec![
        ("empty", seed(&facts(1, &[]), &facts(2, &[]))),
        ("newer_first", seed(&facts(7, &[3, 4]), &facts(6, &[3, 3]))),
        ("epochs_differ", seed(&facts(7, &[3]), &facts(8, &[2, u64::MAX]))),
    ]
}
