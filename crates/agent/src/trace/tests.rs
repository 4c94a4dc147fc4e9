//! Against this machine's kernel: who sends a signal, and who starts a program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

const UID: &str = "84abe4ca-71ee-420d-b7bd-259ba141862f";
/// Tests run side by side, and see each other's processes.
const OTHER: &str = "0c3f6a52-1d0e-4b0b-9f37-2f0a6a4c9b11";

fn listener(interest: Interest) -> (Listener, mpsc::Receiver<Result<TraceLine, Status>>) {
    let (out, lines) = mpsc::channel(64);
    (Listener { interest: Arc::new(Mutex::new(interest)), since_us: 0, until_us: 0, verbose: false, out }, lines)
}

/// The first line of this source within ten seconds; what the trace says of itself is collected.
fn wait_for(lines: &mut mpsc::Receiver<Result<TraceLine, Status>>, source: &str, said: &mut Vec<String>) -> Option<TraceLine> {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        match lines.try_recv() {
            Ok(Ok(line)) if line.source == source => return Some(line),
            Ok(Ok(line)) => said.push(line.text),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    None
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

#[test]
fn a_signal_names_its_sender() {
    if !is_root() {
        return;
    }
    let mut task = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = i32::try_from(task.id()).unwrap();
    let mut interest = Interest::default();
    interest.add_pid(pid);
    let (listener, mut lines) = listener(interest);
    let worker = std::thread::spawn(move || signals::follow(&godwit_node::host::Host::at("/"), &listener));
    std::thread::sleep(Duration::from_millis(500));
    // From a process with a name of its own.
    Command::new("sh").args(["-c", &format!("kill -USR1 {pid}")]).status().unwrap();
    let mut said = Vec::new();
    let line = wait_for(&mut lines, "signal", &mut said);
    drop(lines);
    worker.join().unwrap();
    task.kill().unwrap();
    task.wait().unwrap();
    match line {
        Some(line) => {
            assert!(line.text.starts_with(&format!("SIGUSR1 to sleep[{pid}], sent by sh[")), "{}", line.text);
            assert!((crate::clock::now_us() - line.at_us).abs() < 5_000_000, "{} is not now", line.at_us);
        }
        None => {
            assert!(said.iter().any(|text| text.contains("cannot be told")), "neither the signal nor why not: {said:?}");
            eprintln!("skipped: {}", said.join("; "));
        }
    }
    let left = std::fs::read_dir("/sys/kernel/tracing/instances")
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("godwit-"));
    assert!(!left, "an instance of tracefs was left");
}

#[test]
fn a_program_is_told_with_those_above_it() {
    if !is_root() {
        return;
    }
    let (listener, mut lines) = listener(Interest::in_uids([OTHER]));
    let worker = std::thread::spawn(move || exec::follow(&godwit_node::host::Host::at("/"), &listener));
    std::thread::sleep(Duration::from_millis(500));
    // Its child names nothing of the migration, but is started by one that does.
    let mut task = Command::new("sh").args(["-c", "sleep 1; :", OTHER]).stdout(Stdio::null()).spawn().unwrap();
    let mut said = Vec::new();
    let first = wait_for(&mut lines, "exec", &mut said).map(|line| line.text).unwrap_or_default();
    let second = wait_for(&mut lines, "exec", &mut said).map(|line| line.text).unwrap_or_default();
    drop(lines);
    worker.join().unwrap();
    task.wait().unwrap();
    assert!(first.contains("→ sh[") && first.ends_with(OTHER), "{first} {said:?}");
    assert!(second.contains("→ sh[") && second.contains("→ sleep["), "{second} {said:?}");
    eprintln!("how: {}", if said.is_empty() { "the kernel told it".to_owned() } else { said.join("; ") });
}

/// Stands for a node with a journal: a journald of its own, and somebody who says something when told to.
const NODE: &str = "
set -e
mount -t tmpfs t /run
mount -t tmpfs t /var/log
mkdir -p /run/log/journal /run/systemd/journal
/usr/lib/systemd/systemd-journald >/dev/null 2>&1 &
journald=$!
trap 'kill $journald' EXIT
until [ -S /run/systemd/journal/dev-log ]; do sleep 0.05; done
say() { logger -u /run/systemd/journal/dev-log -t \"$1\" \"$2\"; }
say conmon 'conmon 84abe4ca-71ee-420d-b7bd-259ba141862f: before'
say sshd '84abe4ca-71ee-420d-b7bd-259ba141862f: not about pods'
say crun 'of another one'
echo ready
read -r word
say crun \"84abe4ca-71ee-420d-b7bd-259ba141862f: $word\"
read -r word
";

#[tokio::test(flavor = "multi_thread")]
async fn a_real_journal_is_read_and_followed() {
    let missing = ["/usr/lib/systemd/systemd-journald", "/usr/bin/journalctl", "/usr/bin/logger"].into_iter().find(|path| !std::path::Path::new(path).exists());
    if let (true, Some(missing)) = (is_root(), missing) {
        eprintln!("skipped: {missing} is not here");
    }
    if !nix::unistd::geteuid().is_root() || missing.is_some() {
        return;
    }
    let mut command = Command::new("unshare");
    let mut node = command.args(["-m", "--propagation", "private", "sh", "-c", NODE]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(node.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let host = godwit_node::host::Host::of_pid(i32::try_from(node.id()).unwrap());
    assert!(journal::there(&host));
    let (listener, mut lines) = listener(Interest::in_uids([UID]));
    // What was said is in the journal a moment later.
    let mut cursor = None;
    let mut first = None;
    for _ in 0..40 {
        cursor = journal::past(&host, &listener).await;
        first = lines.try_recv().ok();
        if first.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let first = first.unwrap().unwrap();
    assert_eq!((first.source.as_str(), first.text.as_str()), ("shim", format!("conmon {UID}: before").as_str()));
    assert!(lines.try_recv().is_err(), "more than that was told");
    let following = tokio::spawn(journal::follow(host, listener, cursor));
    let stdin = node.stdin.as_mut().unwrap();
    std::io::Write::write_all(stdin, b"after\n").unwrap();
    let second = tokio::time::timeout(Duration::from_secs(20), lines.recv()).await.unwrap().unwrap().unwrap();
    assert_eq!((second.source.as_str(), second.text.as_str()), ("oci", format!("{UID}: after").as_str()));
    drop(lines);
    tokio::time::timeout(Duration::from_secs(10), following).await.unwrap().unwrap();
    std::io::Write::write_all(stdin, b"end\n").unwrap();
    node.wait().unwrap();
}
