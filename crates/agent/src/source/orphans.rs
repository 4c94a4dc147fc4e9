//! A CRIU that outlived the agent which started it. It has its hands in the pod's processes, so nothing is thawed before it has ended.

use std::{fs, io, path::Path, time::Duration};

use godwit_node::host::Host;
use nix::libc::ESRCH;

/// Waits until no CRIU works on these images.
pub async fn await_criu(host: &Host, images: &Path) {
    let images = images.to_string_lossy().into_owned();
    let works =
        |words: &[&str]| words.split_first().is_some_and(|(program, rest)| program.ends_with("criu") && rest.iter().any(|word| word.starts_with(&images)));
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

/// A process of the node whose command line is one of those that are meant.
///
/// # Errors
/// When they cannot be listed.
pub(super) fn find(host: &Host, is_meant: impl Fn(&[&str]) -> bool + Copy) -> io::Result<Option<String>> {
    for entry in fs::read_dir(host.path("/proc"))? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let command = match fs::read(entry.path().join("cmdline")) {
            Ok(command) => command,
            // It has ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH) => continue,
            Err(error) => return Err(error),
        };
        if is_meant(&String::from_utf8_lossy(&command).split('\0').collect::<Vec<_>>()) {
            return Ok(Some(entry.file_name().to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}
