//! The disks at one moment, and every state that a power cut may make of them.

use crate::disk::{CutFate, Media, SimDisk};
use crate::rng::{Rng, splitmix};
use block::IoData;
use std::rc::Rc;

/// Up to so many volatile writes every subset is tried; above, each alone and a sample.
const ALL_SUBSETS_MAX: usize = 6;
/// How many states of a moment with more volatile writes.
const SAMPLE: u64 = 64;

/// The content of some disks, and what of it is volatile.
pub struct Snapshot {
    media: Vec<Media>,
    /// Volatile writes: disk and number within it.
    volatile: Vec<(usize, u64)>,
}

impl Snapshot {
    /// The disks as they are. What is in flight may be kept like what is in a cache.
    pub fn of(disks: &[Rc<SimDisk>]) -> Self {
        let mut media: Vec<Media> = disks.iter().map(|disk| disk.media().clone()).collect();
        for (disk, media) in disks.iter().zip(&mut media) {
            let mut caught: Vec<(usize, IoData)> = Vec::new();
            disk.each_in_flight(|_, at, data, applied| {
                if !applied {
                    caught.push((at, data.clone()));
                }
            });
            caught.iter().for_each(|(at, data)| media.write(*at, data, false));
        }
        let of = |(disk, media): (usize, &Media)| media.volatile().into_iter().map(move |write| (disk, write));
        let volatile = media.iter().enumerate().flat_map(of).collect();
        Self { media, volatile }
    }

    /// The numbers of its states: every subset whole, and every subset once more with what is kept torn.
    pub fn states(&self) -> std::ops::Range<u64> {
        let count = self.volatile.len();
        0..if count <= ALL_SUBSETS_MAX { 2 << count } else { SAMPLE }
    }

    /// The disks in one of the states.
    pub fn cut(&self, state: u64) -> Vec<Media> {
        let sampled = self.volatile.len() > ALL_SUBSETS_MAX;
        let bits = match (sampled, state) {
            (false, _) => state >> 1,
            (true, 0) => 0,
            (true, 1) => u64::MAX,
            (true, _) => splitmix(state),
        };
        let torn = state & 1 == 1 && (!sampled || state > 1);
        let mut media = self.media.clone();
        // What a torn write keeps differs from moment to moment, and is the same on all disks: the worst there is.
        let salt = media.iter().map(Media::mark).sum::<u64>();
        for (disk, media) in media.iter_mut().enumerate() {
            let fate = |write: u64| {
                let place = self.volatile.iter().position(|volatile| *volatile == (disk, write)).expect("listed above");
                match bits >> (place % 64) & 1 == 1 {
                    true if torn => CutFate::Torn,
                    true => CutFate::Kept,
                    false => CutFate::Lost,
                }
            };
            media.cut(&mut Rng::new(splitmix(state ^ salt)), fate);
        }
        media
    }
}
