//! What a Redis server has promised to keep, and whether it did.
//!
//! Write number `n` is `SET key:(n·step mod keys) n:…` together with `RPUSH ledger n`. It counts as acknowledged when both were answered; when the connection
//! broke in between it is in doubt: it may be there or not. So every acknowledged write leaves two traces, and both are looked for: its number in the list
//! `ledger`, and its key with this or a later value.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, bail};

use crate::redis::Connection;
use crate::resp::Reply;

/// Prime, so that the writes go through all keys in an order that no dump has.
const STEP: u64 = 7919;
/// Keys and list entries asked for at once.
const BATCH: usize = 2000;
/// Name of the list of all writes.
pub const LIST: &str = "ledger";

/// Acknowledged writes of one client.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    keys: u64,
    /// Last acknowledged write of each key; 0 is the first loading.
    last: Vec<u64>,
    acknowledged: Vec<u64>,
    in_doubt: HashSet<u64>,
}

/// What the proof found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Proof {
    /// Writes that were acknowledged, the first loading not counted.
    pub acknowledged: usize,
    /// Writes that were sent and never answered.
    pub in_doubt: usize,
    /// Acknowledged writes of which a trace is missing.
    pub missing: usize,
    /// Keys whose value is damaged or was never written.
    pub damaged: usize,
}

impl Ledger {
    /// A ledger over so many keys.
    #[must_use]
    pub fn new(keys: u32) -> Self {
        Self { keys: u64::from(keys), last: vec![0; keys as usize], ..Self::default() }
    }

    /// The key that write `n` goes to.
    #[must_use]
    pub fn key_of(&self, n: u64) -> u64 {
        n.wrapping_mul(STEP) % self.keys.max(1)
    }

    /// Number of keys.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// Write `n` was answered.
    pub fn acknowledge(&mut self, n: u64) {
        let key = self.key_of(n);
        if let Some(last) = usize::try_from(key).ok().and_then(|key| self.last.get_mut(key)) {
            *last = n;
        }
        self.acknowledged.push(n);
    }

    /// Write `n` was sent, and nobody knows.
    pub fn doubt(&mut self, n: u64) {
        self.in_doubt.insert(n);
    }

    /// Whether a value read from `key` is one that may be there, and whether it is older than what was promised.
    #[must_use]
    pub fn judge(&self, key: u64, value: Option<&[u8]>) -> Judgement {
        let Some(n) = value.and_then(|value| parse(key, value)) else {
            return if value.is_some() { Judgement::Damaged } else { Judgement::Stale };
        };
        let last = usize::try_from(key).ok().and_then(|key| self.last.get(key)).copied().unwrap_or(0);
        if n == last || (n > last && self.in_doubt.contains(&n) && self.key_of(n) == key) {
            Judgement::Good
        } else if n < last {
            Judgement::Stale
        } else {
            Judgement::Damaged
        }
    }

    /// Asks the server for every trace.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn prove(&self, connection: &mut Connection) -> Result<Proof> {
        let listed = read_list(connection)?;
        let mut missing: HashSet<u64> = self.acknowledged.iter().copied().filter(|n| !listed.contains_key(n)).collect();
        let strange = listed.iter().filter(|(n, times)| **times != 1 || (!self.in_doubt.contains(n) && self.acknowledged.binary_search(n).is_err()));
        let mut damaged = strange.count();
        let keys: Vec<u64> = (0..self.keys).collect();
        for batch in keys.chunks(BATCH) {
            let names: Vec<String> = batch.iter().map(|key| name(*key)).collect();
            let mut words: Vec<&[u8]> = vec![b"MGET"];
            words.extend(names.iter().map(String::as_bytes));
            let Reply::Array(values) = connection.command(&words).context("MGET")? else { bail!("MGET was not answered by an array") };
            for (key, value) in batch.iter().zip(values) {
                let Reply::Bulk(value) = value else { bail!("MGET was answered by {value:?}") };
                match self.judge(*key, value.as_deref()) {
                    Judgement::Good => {}
                    Judgement::Damaged => damaged += 1,
                    Judgement::Stale => {
                        missing.extend(usize::try_from(*key).ok().and_then(|key| self.last.get(key)));
                    }
                }
            }
        }
        Ok(Proof { acknowledged: self.acknowledged.len(), in_doubt: self.in_doubt.len(), missing: missing.len(), damaged })
    }
}

/// What a value tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// As promised.
    Good,
    /// Older than promised, or gone.
    Stale,
    /// Never written.
    Damaged,
}

/// Name of a key.
#[must_use]
pub fn name(key: u64) -> String {
    format!("key:{key:06}")
}

/// Value of write `n` to `key`: 64 bytes follow that are different for every write.
#[must_use]
pub fn value(key: u64, n: u64) -> String {
    let mut text = format!("{n}:");
    let mut state = key.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ n;
    for _ in 0..4 {
        // SplitMix64's finisher.
        state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        state ^= state >> 31;
        text.push_str(&format!("{state:016x}"));
    }
    text
}

fn parse(key: u64, bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let n = text.split_once(':')?.0.parse().ok()?;
    (value(key, n) == text).then_some(n)
}

fn read_list(connection: &mut Connection) -> Result<HashMap<u64, usize>> {
    let mut found = HashMap::new();
    loop {
        let from = found.values().sum::<usize>();
        let (first, last) = (from.to_string(), (from + BATCH - 1).to_string());
        let reply = connection.command(&[b"LRANGE", LIST.as_bytes(), first.as_bytes(), last.as_bytes()]).context("LRANGE")?;
        let Reply::Array(entries) = reply else { bail!("LRANGE was not answered by an array") };
        if entries.is_empty() {
            return Ok(found);
        }
        for entry in entries {
            let Reply::Bulk(Some(bytes)) = entry else { bail!("the ledger holds {entry:?}") };
            let n: u64 = String::from_utf8_lossy(&bytes).parse().context("the ledger holds something that is no number")?;
            *found.entry(n).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn values_are_judged_by_what_was_promised() {
        let mut ledger = Ledger::new(100);
        let key = ledger.key_of(5);
        ledger.acknowledge(5);
        let later = 105; // the same key
        assert_eq!(ledger.key_of(later), key);
        let seen = |ledger: &Ledger, n: u64| ledger.judge(key, Some(value(key, n).as_bytes()));
        assert_eq!(seen(&ledger, 5), Judgement::Good);
        assert_eq!(seen(&ledger, 0), Judgement::Stale);
        assert_eq!(ledger.judge(key, None), Judgement::Stale);
        assert_eq!(seen(&ledger, later), Judgement::Damaged);
        ledger.doubt(later);
        assert_eq!(seen(&ledger, later), Judgement::Good);
        ledger.acknowledge(205);
        assert_eq!(seen(&ledger, later), Judgement::Stale);
        assert_eq!(ledger.judge(key, Some(b"205:0000")), Judgement::Damaged);
    }
}
