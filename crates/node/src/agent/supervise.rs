//! Processes of this machine that the node keeps: started once, adopted by a successor, started again when they end.
//!
//! Invariant: stopping the node ends none of them.

use super::unit::Unit;
use host::runtime::now;
use host::vm::{Daemon, Process};
use std::time::Duration;
use units::Millis;

/// Seconds before each start anew of one that ends again and again; the last one repeats.
const BACK_OFF_S: [u64; 6] = [0, 1, 2, 5, 15, 30];
/// Who ran this long is healthy.
const HEALTHY: Millis = Millis(60_000);
/// How long a process may take to end by itself.
pub const END_PATIENCE: Millis = Millis(2_000);

/// Between two looks whether systemd is to keep a process from now on.
const UNIT_LOOK: Duration = Duration::from_secs(5);

/// Keeps a process for ever.
pub async fn keep(daemon: Daemon) {
    keep_by(daemon, None).await;
}

/// The same for one that may have a unit of its own: where that is installed, systemd starts it, also when no node runs. One that
/// a node started before is handed over.
pub async fn keep_by(daemon: Daemon, unit: Option<Unit>) {
    let (mut failures, name) = (0, name_of(&daemon));
    loop {
        let begun = now();
        match adopt_or_start(&daemon, unit.as_ref(), &name).await {
            Ok(process) => attend(&process, (&daemon, unit.as_ref()), &name).await,
            Err(error) => tracing::error!("{name}: {error}"),
        }
        failures = if now().since(begun) >= HEALTHY { 0 } else { failures };
        let pause_s = BACK_OFF_S[failures.min(BACK_OFF_S.len() - 1)];
        failures += 1;
        tokio::time::sleep(Duration::from_secs(pause_s)).await;
    }
}

async fn adopt_or_start(daemon: &Daemon, unit: Option<&Unit>, name: &str) -> Result<Process, String> {
    let unit = unit.filter(|unit| unit.is_installed());
    if let Some(process) = daemon.find().map_err(|error| error.to_string())? {
        if unit.is_none_or(|unit| unit.has(&process)) {
            tracing::info!("{name} runs already as process {}", process.identity().pid);
            return Ok(process);
        }
        tracing::info!("{name} is handed over to systemd");
        end(daemon).await?;
    }
    let process = match unit {
        Some(unit) => unit.start(daemon).await?,
        None => daemon.start().map_err(|error| error.to_string())?,
    };
    tracing::info!("{name} started as process {}", process.identity().pid);
    Ok(process)
}

/// Waits until a process has ended, or is to be handed over to its unit.
async fn attend(process: &Process, (daemon, unit): (&Daemon, Option<&Unit>), name: &str) {
    let handed_over = async {
        loop {
            tokio::time::sleep(UNIT_LOOK).await;
            if unit.is_some_and(|unit| unit.is_installed() && !unit.has(process)) {
                return;
            }
        }
    };
    tokio::select! {
        ended = process.ended() => match ended {
            Ok(how) => tracing::warn!("{name} {how}; see {}", daemon.log.display()),
            Err(error) => tracing::error!("{name} cannot be waited for: {error}"),
        },
        () = handed_over => {}
    }
}

/// Ends a process, if it runs.
///
/// # Errors
/// Why it does not end.
pub async fn end(daemon: &Daemon) -> Result<(), String> {
    let name = name_of(daemon);
    let Some(process) = daemon.find().map_err(|error| error.to_string())? else { return Ok(()) };
    process.end(END_PATIENCE).await.map_err(|error| format!("{name} cannot be ended: {error}"))?;
    Ok(())
}

fn name_of(daemon: &Daemon) -> String {
    daemon.log.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}
