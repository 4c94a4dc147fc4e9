//! The pod that counts (`programs/pulse.py`), and what one of its ticks says.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::objects::{Pod, python};

/// The program.
pub const PROGRAM: &str = include_str!("programs/pulse.py");
/// Name of the container that runs it.
pub const CONTAINER: &str = "pulse";

/// One tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick {
    /// Drawn when the process started; only in its memory.
    pub identity: String,
    /// Counter, from 1.
    pub n: u64,
    /// Drawn for this tick.
    pub word: String,
    /// All words so far, folded into one.
    pub chain: String,
    /// When, nanoseconds since the epoch by CLOCK_REALTIME of the node.
    pub at_ns: u64,
    /// Time since the tick before, nanoseconds.
    pub gap_ns: u64,
}

impl Tick {
    /// Reads a tick from a line of output or from the head of a datagram.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(line: &str) -> Result<Self> {
        let mut words = line.split_whitespace();
        let mut next = || words.next().with_context(|| format!("not a tick: {line:?}"));
        let first = next()?;
        anyhow::ensure!(first == "pulse", "not a tick: {line:?}");
        Ok(Self {
            identity: next()?.to_owned(),
            n: next()?.parse()?,
            word: next()?.to_owned(),
            chain: next()?.to_owned(),
            at_ns: next()?.parse()?,
            gap_ns: next()?.parse()?,
        })
    }

    /// Whether this tick's chain goes on from `before`.
    #[must_use]
    pub fn follows(&self, before: &str) -> bool {
        let digest = Sha256::digest(format!("{before}{}", self.word).as_bytes());
        let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        hex == self.chain
    }
}

/// Reads the `N:GAP_NS,…` at the end of a datagram.
#[must_use]
pub fn parse_gaps(datagram: &str) -> Vec<(u64, u64)> {
    let Some(list) = datagram.split_whitespace().nth(7) else { return Vec::new() };
    list.split(',').filter_map(|pair| pair.split_once(':')).filter_map(|(n, gap)| Some((n.parse().ok()?, gap.parse().ok()?))).collect()
}

/// The container; it reports to `witness` every `period`. With `log` every tick is in its output too.
#[must_use]
pub fn container(witness: SocketAddr, period: Duration, log: bool) -> Value {
    let (address, port) = (witness.ip().to_string(), witness.port().to_string());
    let period = (period.as_secs_f64() * 1000.0).to_string();
    python(CONTAINER, PROGRAM, &[&address, &port, &period, if log { "1" } else { "0" }])
}

/// A pod of this one container.
#[must_use]
pub fn pod(name: &str, witness: SocketAddr) -> Pod {
    Pod::new(name, [container(witness, Duration::from_millis(20), true)])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn ticks_and_gaps_are_read() {
        // sha256("" + "deadbeef") begins with 2baf1f40105d9501.
        let text = "pulse 0011 1 deadbeef 2baf1f40105d9501 1700000000000000000 20000000 17:99000000,40:31000000";
        let tick = Tick::parse(text).unwrap();
        assert_eq!((tick.n, tick.gap_ns), (1, 20_000_000));
        assert!(tick.follows(""), "{tick:?}");
        assert!(!tick.follows("2baf1f40105d9501"));
        assert_eq!(parse_gaps(text), [(17, 99_000_000), (40, 31_000_000)]);
        assert!(Tick::parse("Traceback (most recent call last)").is_err());
        assert!(parse_gaps("pulse a 1 b c 2 3 ").is_empty());
    }
}
