//! One line of history out of several logs, or the proof that there is none.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use anyhow::{Result, bail, ensure};

use super::logs::Told;
use crate::pulse::Tick;

/// A tick that came by datagram.
#[derive(Debug, Clone)]
pub struct Heard {
    /// What it said.
    pub tick: Tick,
    /// Who sent it.
    pub from: IpAddr,
}

/// A stretch of ticks in one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// The log.
    pub log: String,
    /// First and last tick.
    pub first: u64,
    /// Last tick.
    pub last: u64,
}

/// One process from its start to now, wherever it ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// Its identity.
    pub identity: String,
    /// Where it ran, in order.
    pub stretches: Vec<Stretch>,
    /// Longest time between two ticks, nanoseconds.
    pub longest_gap_ns: u64,
}

/// All processes, in the order of their start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// One for each start of the program.
    pub lives: Vec<Life>,
}

impl fmt::Display for History {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, life) in self.lives.iter().enumerate() {
            let stretches: Vec<String> = life.stretches.iter().map(|one| format!("{}–{} in {}", one.first, one.last, one.log)).collect();
            write!(out, "{}{}: {}", if index == 0 { "" } else { "; " }, life.identity, stretches.join(", "))?;
        }
        Ok(())
    }
}

/// Puts logs and datagrams together; processes of which nothing was told after `since_ns` are left out.
///
/// # Errors
/// When a tick was told twice, is missing, does not follow from the one before, was told before it, or when a datagram contradicts a log.
pub fn join(told: &[Told], heard: &[Heard], since_ns: u64) -> Result<History> {
    let mut lives: HashMap<&str, Vec<(&Tick, &str)>> = HashMap::new();
    for log in told {
        for tick in &log.ticks {
            lives.entry(&tick.identity).or_default().push((tick, &log.log));
        }
    }
    lives.retain(|_, ticks| ticks.iter().any(|(tick, _)| tick.at_ns >= since_ns));
    let mut found = Vec::new();
    for (identity, mut ticks) in lives {
        // Stable: ticks that one log tells twice stay side by side and are found.
        ticks.sort_by_key(|(tick, _)| tick.n);
        check_line(&ticks)?;
        check_heard(identity, &ticks, heard)?;
        let begin = ticks.first().map(|(tick, _)| tick.at_ns);
        found.push((begin, life(identity, &ticks)));
    }
    if let Some(stranger) = heard.iter().find(|heard| found.iter().all(|(_, life)| life.identity != heard.tick.identity)) {
        bail!("{} sent ticks of {}, which no log knows", stranger.from, stranger.tick.identity);
    }
    found.sort_by_key(|(begin, _)| *begin);
    ensure!(!found.is_empty(), "no log tells anything");
    Ok(History { lives: found.into_iter().map(|(_, life)| life).collect() })
}

fn check_line(ticks: &[(&Tick, &str)]) -> Result<()> {
    let (mut n, mut chain, mut at, mut before) = (0, "", 0, "the start");
    for (tick, log) in ticks {
        ensure!(tick.n != n, "TWO RUNNERS: tick {n} is in {before} and in {log}");
        ensure!(tick.n == n + 1, "LOST: after tick {n} in {before} comes tick {} in {log}", tick.n);
        ensure!(tick.follows(chain), "FORKED: tick {} in {log} does not follow from tick {n} in {before}", tick.n);
        ensure!(tick.at_ns >= at, "OUT OF ORDER: tick {} in {log} is {} ns older than tick {n} in {before}", tick.n, at - tick.at_ns);
        (n, chain, at, before) = (tick.n, &tick.chain, tick.at_ns, log);
    }
    Ok(())
}

fn check_heard(identity: &str, ticks: &[(&Tick, &str)], heard: &[Heard]) -> Result<()> {
    for heard in heard.iter().filter(|heard| heard.tick.identity == identity) {
        let index = usize::try_from(heard.tick.n.saturating_sub(1))?;
        // The newest datagrams may be ahead of the logs.
        if let Some((tick, log)) = ticks.get(index) {
            ensure!(tick.chain == heard.tick.chain, "TWO RUNNERS: {} sent another tick {} than is in {log}", heard.from, heard.tick.n);
        }
    }
    Ok(())
}

fn life(identity: &str, ticks: &[(&Tick, &str)]) -> Life {
    let mut stretches: Vec<Stretch> = Vec::new();
    for (tick, log) in ticks {
        match stretches.last_mut() {
            Some(stretch) if stretch.log == **log => stretch.last = tick.n,
            _ => stretches.push(Stretch { log: (*log).to_owned(), first: tick.n, last: tick.n }),
        }
    }
    let longest_gap_ns = ticks.iter().map(|(tick, _)| tick.gap_ns).max().unwrap_or(0);
    Life { identity: identity.to_owned(), stretches, longest_gap_ns }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use sha2::{Digest, Sha256};

    /// Ticks `from..=to` of a process whose random words are `salt` and the number.
    fn ticks(identity: &str, salt: &str, from: u64, to: u64) -> Vec<Tick> {
        let (mut chain, mut ticks) = (String::new(), Vec::new());
        for n in 1..=to {
            let word = if n < from { format!("w{n}") } else { format!("{salt}{n}") };
            let digest = Sha256::digest(format!("{chain}{word}").as_bytes());
            chain = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            ticks.push(Tick { identity: identity.into(), n, word, chain: chain.clone(), at_ns: n * 100, gap_ns: 100 });
        }
        ticks.split_off(usize::try_from(from).unwrap() - 1)
    }

    fn told(log: &str, ticks: Vec<Tick>) -> Told {
        Told { log: log.into(), ticks }
    }

    fn refused(logs: &[Told], heard: &[Heard]) -> String {
        join(logs, heard, 0).unwrap_err().to_string()
    }

    #[test]
    fn a_move_is_one_life_in_two_stretches() {
        let history = join(&[told("b", ticks("x", "w", 5, 9)), told("a", ticks("x", "w", 1, 4))], &[], 0).unwrap();
        assert_eq!(history.to_string(), "x: 1–4 in a, 5–9 in b");
        assert_eq!(history.lives.len(), 1);
    }

    #[test]
    fn a_second_runner_is_found_even_without_network() {
        let logs = [told("a", ticks("x", "w", 1, 6)), told("b", ticks("x", "v", 5, 9))];
        assert!(refused(&logs, &[]).starts_with("TWO RUNNERS: tick 5"));
    }

    #[test]
    fn a_runner_without_log_is_found_by_its_datagrams() {
        let tick = ticks("x", "v", 5, 5).remove(0);
        let heard = [Heard { tick, from: [10, 0, 0, 1].into() }];
        let logs = [told("a", ticks("x", "w", 1, 6))];
        assert!(refused(&logs, &heard).starts_with("TWO RUNNERS: 10.0.0.1 sent another tick 5"));
    }

    #[test]
    fn lost_and_forked_histories_are_found() {
        let lost = [told("a", ticks("x", "w", 1, 4)), told("b", ticks("x", "w", 6, 9))];
        assert!(refused(&lost, &[]).starts_with("LOST: after tick 4"));
        let older = [told("a", ticks("x", "w", 1, 4)), told("b", ticks("x", "v", 4, 9).split_off(1))];
        assert!(refused(&older, &[]).starts_with("FORKED: tick 5"));
    }

    #[test]
    fn a_restart_is_a_second_life() {
        let mut fresh = ticks("y", "u", 1, 3);
        fresh.iter_mut().for_each(|tick| tick.at_ns += 10_000);
        let history = join(&[told("b", fresh), told("a", ticks("x", "w", 1, 4))], &[], 0).unwrap();
        assert_eq!(history.to_string(), "x: 1–4 in a; y: 1–3 in b");
        let later = join(&[told("b", ticks("x", "w", 1, 3)), told("a", ticks("z", "w", 1, 9))], &[], 500).unwrap();
        assert_eq!(later.to_string(), "z: 1–9 in a");
    }
}
