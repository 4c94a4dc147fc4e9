//! Against this machine's kernel: who sends a signal, and who starts a program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

const UID: &str = "84abe4ca-71ee-420d-b7bd-259ba141862f";

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
    let (listener, mut lines) = listener(Interest::in_uids([UID]));
    let worker = std::thread::spawn(move || exec::follow(&godwit_node::host::Host::at("/"), &listener));
    std::thread::sleep(Duration::from_millis(500));
    // Its child names nothing of the migration, but is started by one that does.
    let mut task = Command::new("sh").args(["-c", "sleep 1; :", UID]).stdout(Stdio::null()).spawn().unwrap();
    let mut said = Vec::new();
    let first = wait_for(&mut lines, "exec", &mut said).map(|line| line.text).unwrap_or_default();
    let second = wait_for(&mut lines, "exec", &mut said).map(|line| line.text).unwrap_or_default();
    drop(lines);
    worker.join().unwrap();
    task.wait().unwrap();
    assert!(first.contains("→ sh[") && first.ends_with(UID), "{first} {said:?}");
    assert!(second.contains("→ sh[") && second.contains("→ sleep["), "{second} {said:?}");
    eprintln!("how: {}", if said.is_empty() { "the kernel told it".to_owned() } else { said.join("; ") });
}
