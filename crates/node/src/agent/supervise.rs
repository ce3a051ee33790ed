//! Processes of this machine that the node keeps: started once, adopted by a successor, started again when they end.
//!
//! Invariant: stopping the node ends none of them.

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

/// Keeps a process for ever.
pub async fn keep(daemon: Daemon) {
    let (mut failures, name) = (0, name_of(&daemon));
    loop {
        let begun = now();
        match adopt_or_start(&daemon, &name) {
            Ok(process) => match process.ended().await {
                Ok(how) => tracing::warn!("{name} {how}; see {}", daemon.log.display()),
                Err(error) => tracing::error!("{name} cannot be waited for: {error}"),
            },
            Err(error) => tracing::error!("{name}: {error}"),
        }
        failures = if now().since(begun) >= HEALTHY { 0 } else { failures };
        let pause_s = BACK_OFF_S[failures.min(BACK_OFF_S.len() - 1)];
        failures += 1;
        tokio::time::sleep(Duration::from_secs(pause_s)).await;
    }
}

fn adopt_or_start(daemon: &Daemon, name: &str) -> Result<Process, host::vm::VmError> {
    if let Some(process) = daemon.find()? {
        tracing::info!("{name} runs already as process {}", process.identity().pid);
        return Ok(process);
    }
    let process = daemon.start()?;
    tracing::info!("{name} started as process {}", process.identity().pid);
    Ok(process)
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
