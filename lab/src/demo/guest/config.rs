//! What the guest's program is told: lines of `key=value`, in the image and, over it, in the seed.

use super::REFEREE_PORT;
use crate::machine::Role;
use crate::net::Network;
use std::net::SocketAddr;

/// Its place in the image.
pub const IMAGE_PATH: &str = "/etc/muskox-guest";
/// Its name in the seed: a file of the CIDATA disk, beside `meta-data`.
pub const SEED_FILE: &str = "muskox-guest";
/// Records a second when nothing else is said: more than twice of what the demo asks for, with fsync and all, and a
/// few per cent of an emulated CPU.
const RATE: u32 = 50;
const RATE_MAX: u32 = 1000;

/// What the guest's program is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where acknowledgements go.
    pub referee: SocketAddr,
    /// Records a second, at most.
    pub rate: u32,
    /// The serial number of the disk that is the canary. Without one it is the disk that has neither partitions nor the
    /// seed, if there is one.
    pub canary: Option<String>,
}

impl Config {
    /// What the lab's networks make of it.
    pub fn of_the_lab() -> Self {
        let address = Network::Guest.address(Role::Client.number());
        let address = address.parse().expect("the lab's addresses are addresses");
        Self { referee: SocketAddr::new(address, REFEREE_PORT), rate: RATE, canary: None }
    }

    /// Its file.
    pub fn text(&self) -> String {
        let canary = self.canary.as_ref().map(|serial| format!("canary={serial}\n"));
        format!("referee={}\nrate={}\n{}", self.referee, self.rate, canary.unwrap_or_default())
    }

    /// Changes what `text` speaks of. Empty lines and `#` remarks are skipped.
    ///
    /// # Errors
    /// What is wrong with it; nothing is changed then.
    pub fn overlay(&mut self, text: &str) -> Result<(), String> {
        let mut new = self.clone();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let wrong = |what: &str| format!("'{line:.60}': {what}");
            match line.split_once('=').ok_or_else(|| wrong("not key=value"))? {
                ("referee", value) => new.referee = value.parse().map_err(|_| wrong("not ADDRESS:PORT"))?,
                ("rate", value) => {
                    let rate = value.parse().ok().filter(|rate| (1..=RATE_MAX).contains(rate));
                    new.rate = rate.ok_or_else(|| wrong("not 1 to 1000 records a second"))?;
                }
                ("canary", value) => new.canary = Some(value.to_owned()).filter(|serial| !serial.is_empty()),
                _ => return Err(wrong("known are referee, rate and canary")),
            }
        }
        *self = new;
        Ok(())
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// Goal: the seed changes what it speaks of and nothing else, and a bad one changes nothing. Method: a table.
    #[test]
    fn a_seed_lies_over_the_image() {
        let lab = Config::of_the_lab();
        let mut read = Config { referee: "1.2.3.4:5".parse().unwrap(), rate: 1, canary: Some("x".into()) };
        assert_eq!(lab.text(), "referee=10.77.4.21:7071\nrate=50\n");
        read.overlay(&lab.text()).unwrap();
        assert_eq!(read, Config { canary: Some("x".into()), ..lab.clone() });
        read.overlay("# a remark\n\n canary=\nrate=7").unwrap();
        assert_eq!(read, Config { rate: 7, ..lab });
        for bad in ["rate=8\nx", "rate=8\nreferee=host", "rate=0", "rate=1001", "rate=+", "speed=1"] {
            let before = read.clone();
            assert!(read.overlay(bad).is_err(), "{bad}");
            assert_eq!(read, before, "{bad}");
        }
    }
}
