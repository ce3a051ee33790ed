//! The words of the command line, as people type them.

use super::*;
use clap::{CommandFactory, Parser};

#[derive(Parser)]
#[command(name = "muskox")]
struct Whole {
    #[command(subcommand)]
    noun: Noun,
}

fn parse(line: &str) -> Result<Noun, clap::Error> {
    Whole::try_parse_from(std::iter::once("muskox").chain(line.split(' '))).map(|whole| whole.noun)
}

#[test]
fn the_arguments_are_sound() {
    Whole::command().debug_assert();
}

/// Goal: the words that runbooks and the demo use are understood. Method: each, with its options.
#[test]
fn every_verb_is_understood() {
    for line in [
        "pool create fast /dev/sda /dev/sdb --node store1 --wipe",
        "pool list --json",
        "pool show fast --root /srv/rehearsal --timeout 5",
        "pool add fast /dev/sdc --wipe --wait",
        "pool create fast /dev/sda --single",
        "pool replace fast /dev/sda /dev/sdc --wipe --wait",
        "pool start fast",
        "pool start fast /dev/sda --degraded",
        "pool stop fast",
        "volume create web1-root 4G --pool fast --wait",
        "volume create web1-root 512MiB",
        "volume list",
        "volume show web1-root",
        "volume remove web1-root --yes",
        "image list",
        "image import data.img web1-data --raw",
        "image import debian.qcow2 web1-root --pool fast --size 20G --format qcow2 --no-wait",
        "vm create web1.toml",
        "vm create -",
        "vm start web1 --host host1 --overcommit --no-wait",
        "vm stop web1 --patience 30 --no-wait",
        "vm edit web1",
        "vm edit web1 -",
        "vm migrate web1",
        "vm migrate web1 host2 --deadline 60 --no-wait --json",
        "vm list",
        "vm show web1",
        "vm console web1",
        "vm adopt web1",
        "vm forget web1 --yes",
        "vm remove web1 --yes",
        "vm delete web1 --yes",
        "job list",
        "job show 12",
        "job cancel migrate-web1-3",
        "why vm web1",
        "doctor --json",
        "store changes --from 7 --json",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

/// Goal: what cannot be meant is refused before anybody is asked. Method: one mistake a line.
#[test]
fn mistakes_are_refused() {
    for line in [
        "pool create fast",
        "pool create ../etc /dev/sda",
        "pool create fast sda",
        "pool replace fast /dev/sda",
        "volume create web1-root",
        "volume create web1-root 0",
        "volume create web1-root 4X",
        "volume create web1/root 4G",
        "image import debian.vmdk web1-root --format vmdk",
        "image import a.img web1-root --raw --format qcow2",
        "vm start WEB1",
        "vm migrate web1 host2 --deadline 0",
        "vm stop web1 --patience -1",
        "job show ../vms/web1",
        "why volume web1",
        "doctor alpha",
        "store changes --from minus",
    ] {
        let error = parse(line).err().unwrap_or_else(|| panic!("{line} was understood"));
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}
