//! A CRIU that outlived the agent which started it. It has its hands in the pod's processes, so nothing is thawed before it has ended.

use std::{fs, io, path::Path, time::Duration};

use godwit_node::host::Host;
use nix::libc::ESRCH;

/// Waits until no CRIU works on these images.
pub async fn await_criu(host: &Host, images: &Path) {
    let images = images.to_string_lossy().into_owned();
    let works = |process: &Path, words: &[&str]| is_criu(words) && (words.iter().any(|word| word.starts_with(&images)) || stands_in(process, &images));
    loop {
        match find(host, works) {
            Ok(None) => return,
            Ok(Some(pid)) => tracing::info!(pid, "waiting for a dump that was started before this agent"),
            // Nothing is thawed on a guess.
            Err(error) => tracing::warn!(%error, "it cannot be seen whether a dump that was started before this agent has ended"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// As a service CRIU gives itself a title in place of its command line, where it was built with libbsd (criu/cr-service.c, `dump_using_req`; setproctitle(3bsd)).
fn is_criu(words: &[&str]) -> bool {
    words.first().is_some_and(|program| program.ends_with("criu") || program.starts_with("criu: "))
}

/// Whether the current directory of a process (`/proc/PID`) is below this one, as is that of a CRIU with these images. If that cannot be seen, it may be.
fn stands_in(process: &Path, directory: &str) -> bool {
    match fs::read_link(process.join("cwd")) {
        // Of a process in another mount namespace something may come before it.
        Ok(current) => current.to_string_lossy().contains(directory),
        Err(error) => !is_gone(&error),
    }
}

/// A process of the node that is one of those that are meant, by its directory in `/proc` and its command line.
///
/// # Errors
/// When they cannot be listed.
pub(super) fn find(host: &Host, is_meant: impl Fn(&Path, &[&str]) -> bool + Copy) -> io::Result<Option<String>> {
    for entry in fs::read_dir(host.path("/proc"))? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let command = match fs::read(entry.path().join("cmdline")) {
            Ok(command) => command,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        };
        if is_meant(&entry.path(), &String::from_utf8_lossy(&command).split('\0').collect::<Vec<_>>()) {
            return Ok(Some(entry.file_name().to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

/// The process has ended meanwhile.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_criu_is_known_by_its_command_line_and_by_where_it_is() {
        for words in [&["criu", "swrk", "0"][..], &["/usr/sbin/criu", "dump"], &["criu: dump --rpc -t 42", ""]] {
            assert!(is_criu(words), "{words:?}");
        }
        for words in [&["sh", "-c", "criu"][..], &["criunot: "], &[]] {
            assert!(!is_criu(words), "{words:?}");
        }
        let (place, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut child = std::process::Command::new("sleep").arg("60").current_dir(place.path()).spawn().unwrap();
        let process = Path::new("/proc").join(child.id().to_string());
        let stands = |directory: &tempfile::TempDir| stands_in(&process, &directory.path().to_string_lossy());
        assert_eq!((stands(&place), stands(&other)), (true, false));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!stands(&place));
    }
}
