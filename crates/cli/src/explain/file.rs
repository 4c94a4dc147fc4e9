//! A log or an archive from anywhere.

use std::io::Read;
use std::path::Path;

use godwit_criu::explain::{Which, read};

use super::{Explanation, archive};
use crate::error::Error;
use crate::matrix;

/// Largest log that is read, in bytes: CRIU can fill a disk with one.
const LARGEST: u64 = 64 << 20;

/// Explains a file, a directory with logs, or standard input (`-`).
///
/// # Errors
/// When it cannot be read, or holds nothing to explain.
pub fn explain(path: &Path) -> Result<Explanation, Error> {
    let unreadable = |error: std::io::Error| Error::Unreadable(path.display().to_string(), error.to_string());
    if path == Path::new("-") {
        let mut text = Vec::new();
        std::io::stdin().take(LARGEST).read_to_end(&mut text).map_err(unreadable)?;
        return Ok(of_logs("standard input", &[("log".to_owned(), lossy(&text))], Vec::new()));
    }
    if !path.exists() {
        return Err(unreadable(std::io::ErrorKind::NotFound.into()));
    }
    if let Some(found) = archive::look(path).map_err(|why| Error::Unreadable(path.display().to_string(), why))? {
        return whole(path, found);
    }
    let mut text = Vec::new();
    std::fs::File::open(path).map_err(unreadable)?.take(LARGEST).read_to_end(&mut text).map_err(unreadable)?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(of_logs(&path.display().to_string(), &[(name, lossy(&text))], Vec::new()))
}

fn whole(path: &Path, found: archive::Found) -> Result<Explanation, Error> {
    if found.logs.is_empty() && found.facts.is_empty() {
        return Err(Error::Unreadable(path.display().to_string(), "it holds neither a log of CRIU nor a checkpoint".to_owned()));
    }
    Ok(of_logs(&path.display().to_string(), &found.logs, found.facts))
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Explains logs with their names; the first that tells of a failure counts.
fn of_logs(subject: &str, logs: &[(String, String)], facts: Vec<String>) -> Explanation {
    let readings = logs.iter().map(|(name, log)| (name, read(log, which(name, log)), failed(log)));
    let worst = readings.filter(|(_, reading, failed)| *failed || reading.known()).max_by_key(|(_, reading, failed)| (reading.known(), *failed));
    let Some((name, reading, _)) = worst else {
        return Explanation { subject: subject.to_owned(), known: true, facts, ..Explanation::default() };
    };
    let known = reading.known();
    let (cause, remedy) = if known { (reading.what, reading.remedy) } else { ("", "") };
    Explanation {
        subject: subject.to_owned(),
        reason: reading.reason.to_owned(),
        known,
        seen: reading.line.as_ref().map(|(number, line)| format!("{name}:{number}: {line}")).unwrap_or_default(),
        cause: cause.to_owned(),
        remedy: remedy.to_owned(),
        link: matrix::link(if known { reading.reason } else { "dumpfailed-and-restorefailed" }),
        facts,
        log: reading.log().lines().map(str::to_owned).collect(),
        collect: if known { Vec::new() } else { matrix::collect().into_iter().map(str::to_owned).collect() },
    }
}

/// Which log it is, by its name or by what it says.
fn which(name: &str, log: &str) -> Option<Which> {
    let says = |word: &str| name.contains(word) || log.contains(word);
    match (says("dump.log") || says("Dumping FAILED"), says("restore.log") || says("Restoring FAILED")) {
        (true, false) => Some(Which::Dump),
        (false, true) => Some(Which::Restore),
        _ => None,
    }
}

/// Whether the log tells of a failure at all.
fn failed(log: &str) -> bool {
    ["FAILED", "level=error", "Error ("].iter().any(|word| log.contains(word))
        && !log.contains("Dumping finished successfully")
        && !log.contains("Restore finished successfully")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const TTY: &str = "(00.01) chat\n(00.02)  1: Error (criu/tty.c:1): tty: Don't have tty to inherit session from, aborting\n(00.03) Error (criu/cr-restore.c:1): Restoring FAILED.\n";

    fn written(name: &str, content: &[u8]) -> Explanation {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        explain(&path).unwrap()
    }

    #[test]
    fn a_known_log() {
        let said = written("restore.log", TTY.as_bytes());
        assert_eq!((said.reason.as_str(), said.known, said.code()), ("Terminal", true, 0));
        assert!(said.seen.starts_with("restore.log:2: Error") && said.link.ends_with("#terminal") && !said.remedy.is_empty(), "{said:?}");
        assert!(said.text().join("\n").contains("what to do"));
    }

    #[test]
    fn an_unknown_log_says_what_to_collect() {
        let said = written("dump.log", b"(00.010) Error (criu/x.c:1): The moon is full\n(00.012) Error (criu/cr-dump.c:1): Dumping FAILED.\n");
        assert_eq!((said.reason.as_str(), said.known, said.code()), ("DumpFailed", false, 1));
        assert!(said.seen.contains("The moon is full") && !said.collect.is_empty() && said.log.len() == 2);
    }

    #[test]
    fn a_log_without_a_failure() {
        let said = written("dump.log", b"(00.010) Warn  (criu/x.c:1): hm\n(00.012) Dumping finished successfully\n");
        assert_eq!((said.reason.as_str(), said.code()), ("", 0));
    }

    #[test]
    fn an_archive_is_looked_into() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |name: &str, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            header.set_cksum();
            tar.append_data(&mut header, name, content).unwrap();
        };
        add("config.dump", br#"{"id":"abc","name":"k8s_main_web-0","rootfsImageName":"web:1","runtime":"crun"}"#);
        add("spec.dump", b"{}");
        add("checkpoint/inventory.img", b"x");
        add("checkpoint/pages-1.img", b"");
        add("restore.log", TTY.as_bytes());
        let plain = tar.into_inner().unwrap();
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, &plain).unwrap();
        for bytes in [plain, packed.finish().unwrap()] {
            let said = written("checkpoint.tar", &bytes);
            assert_eq!(said.reason, "Terminal");
            let facts = said.facts.join("\n");
            assert!(facts.contains("k8s_main_web-0") && facts.contains("web:1") && facts.contains("crun"), "{facts}");
            assert!(facts.contains("pages-1.img is empty"), "{facts}");
            assert!(facts.contains("status.dump"), "{facts}");
        }
    }

    #[test]
    fn what_is_not_there_is_said() {
        assert!(explain(Path::new("/nonexistent/x")).is_err());
    }
}
