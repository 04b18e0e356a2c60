//! What happens inside, for whoever looks for a fault: `--log` or CRYO_LOG.

use tracing_subscriber::EnvFilter;

use crate::exit::Failure;

/// Prints the events that `filter` lets through (`debug`, `cryonaut_engine=trace`) to standard error.
pub fn start(filter: &str) -> Result<(), Failure> {
    let parsed = EnvFilter::try_new(filter)
        .map_err(|error| Failure::usage(format!("--log {filter}: {error}; try --log debug")))?;
    tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    Ok(())
}
