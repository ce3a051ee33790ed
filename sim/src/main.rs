//! `sim`: runs seeds, replays one, hunts planted bugs, enumerates crashes.

use anyhow::{Context, Result, bail, ensure};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use sim::{bugs, crash, soak};
use std::ops::Range;
use std::time::{Duration, Instant};

fn main() -> Result<()> {
    let matches = command().get_matches();
    match matches.subcommand() {
        Some(("run", args)) => run(args),
        Some(("replay", args)) => replay(args),
        Some(("bugs", args)) => hunt(args),
        Some(("crash", args)) => crashes(args),
        _ => unreachable!("clap demands a subcommand"),
    }
}

fn command() -> Command {
    let number = || value_parser!(u64);
    Command::new("sim")
        .about("A cluster in one thread on a seeded clock")
        .subcommand_required(true)
        .subcommand(
            Command::new("run")
                .about("Runs seeds and stops with an error if one breaks a promise")
                .arg(Arg::new("seeds").long("seeds").default_value("0..300").help("FIRST..END"))
                .arg(Arg::new("minutes").long("minutes").value_parser(number()).help("stop after so much real time")),
        )
        .subcommand(
            Command::new("replay")
                .about("Runs one seed and tells what happens")
                .arg(Arg::new("seed").long("seed").required(true).value_parser(number()))
                .arg(Arg::new("bug").long("bug").help("with this bug planted"))
                .arg(Arg::new("verbose").long("verbose").action(ArgAction::SetTrue)),
        )
        .subcommand(
            Command::new("bugs")
                .about("Plants each bug and looks for it")
                .arg(Arg::new("bug").num_args(0..).help("only these"))
                .arg(Arg::new("quick").long("quick").action(ArgAction::SetTrue).help("where it was found last, first")),
        )
        .subcommand(
            Command::new("crash")
                .about("Cuts the power everywhere in every small workload")
                .arg(Arg::new("ops").long("ops").default_value("2").value_parser(number()).help("1 to 3 operations")),
        )
}

fn run(args: &ArgMatches) -> Result<()> {
    let seeds = range(args.get_one::<String>("seeds").expect("has a default"))?;
    let limit = args.get_one::<u64>("minutes").map(|minutes| Duration::from_secs(60 * minutes));
    let (started, mut totals) = (Instant::now(), soak::Totals::default());
    for seed in seeds {
        if limit.is_some_and(|limit| started.elapsed() >= limit) {
            break;
        }
        totals.run(seed, seed % 10 == 0);
        if let Some((seed, violation)) = totals.red.last().filter(|(red, _)| *red == seed) {
            println!("seed {seed}: {violation}");
        }
    }
    let spent = started.elapsed().as_secs_f64();
    println!("{}{spent:.1} s of real time", totals.page());
    ensure!(totals.red.is_empty(), "{} seeds are red", totals.red.len());
    Ok(())
}

fn replay(args: &ArgMatches) -> Result<()> {
    let seed = *args.get_one::<u64>("seed").expect("required");
    let bug = args.get_one::<String>("bug").map(|name| named(name)).transpose()?;
    let _planted = bug.map(units::sabotage::plant);
    let report = soak::judge(seed, args.get_flag("verbose")).map_err(|said| anyhow::anyhow!("a panic: {said}"))?;
    println!("seed {seed}, hash {:016x}, {} ms simulated, {:#?}", report.hash, report.simulated_ms, report.knobs);
    for (what, count) in &report.deeds {
        println!("{count:>10}  {what}");
    }
    for violation in &report.violations {
        println!("{violation}");
    }
    ensure!(report.violations.is_empty(), "seed {seed} is red");
    Ok(())
}

fn named(name: &str) -> Result<units::sabotage::Bug> {
    let found = bugs::ALL.iter().find(|planted| format!("{:?}", planted.bug) == name);
    found.map(|planted| planted.bug).with_context(|| format!("there is no bug '{name}'; `sim bugs` lists them"))
}

fn hunt(args: &ArgMatches) -> Result<()> {
    let names: Vec<&String> = args.get_many("bug").unwrap_or_default().collect();
    for name in &names {
        named(name)?;
    }
    let wanted = |planted: &bugs::Planted| {
        let name = format!("{:?}", planted.bug);
        names.is_empty() || names.iter().any(|wanted| **wanted == name)
    };
    let hunts = bugs::ALL.into_iter().filter(wanted).map(|planted| {
        let hunt = bugs::hunt(planted, args.get_flag("quick"));
        eprintln!("{:?}: {:?} after {}", planted.bug, hunt.found.as_ref().map(|(seed, ..)| seed), hunt.seeds);
        hunt
    });
    let hunts: Vec<_> = hunts.collect();
    print!("{}", bugs::table(&hunts));
    let survivors = hunts.iter().filter(|hunt| hunt.found.is_none()).count();
    ensure!(survivors == 0, "{survivors} planted bugs survived");
    Ok(())
}

fn crashes(args: &ArgMatches) -> Result<()> {
    let ops = *args.get_one::<u64>("ops").expect("has a default");
    ensure!((1..=3).contains(&ops), "--ops is 1, 2 or 3");
    let started = Instant::now();
    let found = crash::run(&crash::workloads(usize::try_from(ops).expect("at most three")), &[]);
    println!("{}", found.page(started.elapsed().as_secs_f64()));
    let started = Instant::now();
    let volumes = crash::volumes();
    println!("volumes: {}", volumes.page(started.elapsed().as_secs_f64()));
    match found.red.iter().chain(&volumes.red).next() {
        Some(first) => bail!("crash states are red, the first: {first}"),
        None => Ok(()),
    }
}

fn range(text: &str) -> Result<Range<u64>> {
    let (first, end) = text.split_once("..").context("--seeds is FIRST..END, as in 0..300")?;
    Ok(first.parse().context("FIRST is a number")?..end.parse().context("END is a number")?)
}
