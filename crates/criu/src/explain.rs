//! What CRIU's log means: one known line among its errors gives reason and remedy; otherwise the last error is told as it is.

mod table;

use crate::Failure;

/// Which log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// `dump.log`.
    Dump,
    /// `restore.log`, or what `runc restore` said.
    Restore,
}

/// Errors that CRIU prints although nothing is wrong, or that only follow another one.
const NOISE: [&str; 12] = [
    "rlimit: RLIMIT_NOFILE",
    "Can't setup RLIMIT",
    "rlimit: Can't",
    "Dumping FAILED",
    "Restoring FAILED",
    "Pre-dumping FAILED",
    "killed by signal 9",
    "exited, status",
    "irmap: Can't dump",
    "Can't set rlimit",
    "Unable to set memory",
    "Failed to open parent directory",
];

/// The meaning of a log.
#[must_use]
pub fn explain(log: &str, which: Which) -> Failure {
    let lines = || log.lines().map(strip).filter(|line| !line.is_empty());
    let known = table::KNOWN
        .iter()
        .filter(|known| known.which.is_none_or(|only| only == which));
    // The table is in order of precision, so the first entry that fits any line is the best.
    for known in known {
        if let Some(line) = lines().find(|line| known.fits(line)) {
            return Failure::new(
                known.reason,
                format!("{}: CRIU says '{}'", known.what, short(line)),
                known.remedy,
            );
        }
    }
    let errors = || {
        lines().filter(|line| {
            line.contains("Error (")
                || line.contains("level=error")
                || line.starts_with("criu failed")
        })
    };
    let telling = errors()
        .rfind(|line| !NOISE.iter().any(|noise| line.contains(noise)))
        .or_else(|| errors().next_back());
    let reason = match which {
        Which::Dump => "DumpFailed",
        Which::Restore => "RestoreFailed",
    };
    match telling.or_else(|| lines().next_back()) {
        Some(line) => Failure::new(
            reason,
            format!("CRIU says '{}'", short(line)),
            "the whole log is with the agent of that node; report it if the message does not help",
        ),
        None => Failure::new(
            reason,
            "CRIU ended without a word",
            "look whether the node is out of memory or disk; the migration can be tried again",
        ),
    }
}

/// Without CRIU's time stamp.
fn strip(line: &str) -> &str {
    let line = line.trim();
    match line.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((stamp, rest))
            if stamp
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.') =>
        {
            rest.trim_start()
        }
        _ => line,
    }
}

/// Without the place in the source, at most 300 bytes.
fn short(line: &str) -> &str {
    let text = line
        .strip_prefix("Error (")
        .and_then(|rest| rest.split_once("): "))
        .map_or(line, |(_, text)| text);
    let end = (0..=text.len().min(300))
        .rev()
        .find(|end| text.is_char_boundary(*end))
        .unwrap_or(0);
    text[..end].trim_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_error_wins_over_what_follows_it() {
        let log = "(00.010) Error (criu/sk-inet.c:209): inet: Connected TCP socket, consider using --tcp-established option.\n\
                   (00.011) Error (criu/cr-dump.c:1635): Dump files (pid: 12) failed with -1\n(00.012) Error (criu/cr-dump.c:2111): Dumping FAILED.\n";
        let failure = explain(log, Which::Dump);
        assert_eq!(failure.reason, "EstablishedConnection");
        assert!(
            failure.message.contains("Connected TCP socket"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn an_unknown_error_is_told_as_it_is() {
        let log = "(00.010) Error (criu/x.c:1): The moon is full\n(00.012) Error (criu/cr-dump.c:2111): Dumping FAILED.\n";
        let failure = explain(log, Which::Dump);
        assert_eq!(
            (failure.reason.as_str(), failure.message.as_str()),
            ("DumpFailed", "CRIU says 'The moon is full'")
        );
    }

    #[test]
    fn no_log_is_no_panic() {
        assert_eq!(explain("", Which::Restore).reason, "RestoreFailed");
        assert_eq!(explain("ü\u{0}", Which::Restore).reason, "RestoreFailed");
    }
}
