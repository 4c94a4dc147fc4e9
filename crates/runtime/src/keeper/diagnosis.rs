//! What runc, CRIU and its stand-in said of a restore that failed.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

/// How much of a log is looked at, in bytes from its end.
const TAIL: u64 = 4096;

/// The stand-in's log and the errors in runc's and CRIU's logs, one a line.
pub fn of(standin: &Path, runc: &Path, criu: &Path) -> String {
    let (standin, runc, criu) = (tail(standin), tail(runc), tail(criu));
    let own = standin.lines().map(str::to_owned);
    own.chain(runc_errors(&runc)).chain(criu_errors(&criu).into_iter().map(str::to_owned)).collect::<Vec<_>>().join("\n")
}

/// The errors in runc's log. (Its warnings quote CRIU's log, which is looked at itself.)
fn runc_errors(log: &str) -> Vec<String> {
    let error = |line: &str| -> Option<String> {
        let Ok(entry) = serde_json::from_str::<serde_json::Value>(line) else { return Some(line.to_owned()) };
        let text = |name: &str| entry.get(name).and_then(serde_json::Value::as_str);
        (text("level") == Some("error")).then(|| text("msg").unwrap_or_default().to_owned())
    };
    log.lines().filter_map(error).collect()
}

/// The errors in CRIU's log, its last lines if there is none. That CRIU may not raise its own limit of open files is none.
fn criu_errors(log: &str) -> Vec<&str> {
    let lines: Vec<&str> = log.lines().collect();
    let errors: Vec<&str> = lines.iter().filter(|line| line.contains("Error") && !line.contains("Can't setup RLIMIT_NOFILE for self")).copied().collect();
    if errors.is_empty() { lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().to_vec() } else { errors }
}

/// The end of a file, from the beginning of a line.
fn tail(path: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(if size > TAIL { text.split_once('\n').map(|(_, rest)| rest.to_owned()).unwrap_or_default() } else { text })
    };
    read().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn diagnosis_is_short() {
        let log = "{\"level\":\"warning\",\"msg\":\"--- Quoting\"}\n{\"level\":\"error\",\"msg\":\"criu failed\"}\ncannot execute the runtime: ENOENT\n";
        assert_eq!(runc_errors(log), ["criu failed", "cannot execute the runtime: ENOENT"]);
        let log = "(0.1) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: no\n(0.2) Restored\n(0.3) Error (x): No mapping\n";
        assert_eq!(criu_errors(log), ["(0.3) Error (x): No mapping"]);
        assert_eq!(criu_errors("a\nb"), ["a", "b"]);
    }

    #[test]
    fn tails_begin_with_a_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("log");
        std::fs::write(&file, "x".repeat(5000) + "\nlast\n").unwrap();
        assert_eq!(tail(&file), "last\n");
        assert_eq!(tail(&directory.path().join("none")), "");
    }
}
