//! Programs that are started for the migration, each with the chain of processes above it: conmon → godwit-runtime → runc → criu.
//!
//! The kernel tells of every program through its proc connector, but only in the first network and pid namespace. Elsewhere `/proc` is looked at again and
//! again, and what lives for less than that is missed; the trace says so.

use std::collections::HashSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

use godwit_node::host::Host;
use godwit_trace::read::exec as wire;
use godwit_trace::{Level, Line, Source};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netlink::{CONNECTOR, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with};

use super::{Listener, kernel};
use crate::clock::now_us;

/// Most processes that are named of a chain.
const DEPTH: usize = 8;
/// Most bytes of a command line that are told.
const WORDS: usize = 200;
/// How often `/proc` is looked at where the kernel does not tell.
const LOOK: Duration = Duration::from_millis(20);

/// A process, as `/proc` shows it.
struct Process {
    pid: i32,
    parent: i32,
    name: String,
}

fn look(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold brackets and spaces (proc_pid_stat(5)).
    let (head, tail) = (stat.find('(')?, stat.rfind(')')?);
    let parent = stat.get(tail + 1..)?.split_whitespace().nth(1)?.parse().ok()?;
    Some(Process { pid, parent, name: stat.get(head + 1..tail)?.to_owned() })
}

fn command_line(pid: i32) -> String {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = raw.split(|byte| *byte == 0).filter(|word| !word.is_empty()).map(String::from_utf8_lossy).collect();
    words.join(" ").chars().take(WORDS).collect()
}

fn above(pid: i32) -> Vec<Process> {
    let mut chain = Vec::new();
    let mut next = pid;
    while let Some(process) = (next > 1 && chain.len() < DEPTH).then(|| look(next)).flatten() {
        next = process.parent;
        chain.push(process);
    }
    chain
}

/// `containerd-shim[812] → godwit-runtime[900] → runc[910]: runc restore …`; nothing for a process that has gone.
#[must_use]
pub fn chain(pid: i32) -> Option<String> {
    let chain = above(pid);
    let names: Vec<String> = chain.iter().rev().map(|process| format!("{}[{}]", process.name, process.pid)).collect();
    (!names.is_empty()).then(|| format!("{}: {}", names.join(" → "), command_line(pid)))
}

/// Tells of every program that is started for the migration, until nobody listens.
pub fn follow(_: &Host, listener: &Listener) {
    let mut seen = Seen::default();
    match connect() {
        Ok(socket) => connected(&socket, listener, &mut seen),
        Err(why) => {
            listener.explain_blocking(&format!("programs that live for less than {} ms may be missed: {why}", LOOK.as_millis()));
            sampled(listener, &mut seen);
        }
    }
}

/// What was told, and which processes are of the migration.
#[derive(Default)]
struct Seen {
    ours: HashSet<i32>,
}

impl Seen {
    fn program(&mut self, pid: i32, listener: &Listener) {
        let Some(process) = look(pid) else { return };
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let ours = self.ours.contains(&process.parent) || listener.concerns(&command_line(pid)) || cgroup.lines().any(|line| listener.concerns(line));
        if ours {
            self.ours.insert(pid);
            if let Some(text) = chain(pid) {
                listener.tell_blocking(Line::new(now_us(), Source::Exec, Level::Info, &text));
            }
        }
    }
}

fn connect() -> Result<OwnedFd, String> {
    if !kernel::pids_are_ours() {
        return Err("this node is not in the first pid namespace, so the kernel's proc connector tells it nothing".into());
    }
    let failed = |error: rustix::io::Errno| format!("the kernel's proc connector: {error}");
    let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, Some(CONNECTOR)).map_err(failed)?;
    bind(&socket, &SocketAddrNetlink::new(0, wire::GROUP)).map_err(failed)?;
    send(&socket, &wire::order(wire::Order::Listen), SendFlags::empty()).map_err(failed)?;
    Ok(socket)
}

fn connected(socket: &OwnedFd, listener: &Listener, seen: &mut Seen) {
    let mut buffer = [0u8; 4096];
    let pause = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
    while !listener.gone() {
        let _ = poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&pause));
        loop {
            match recv(socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => {
                    if let Some(pid) = buffer.get(..length).and_then(wire::started) {
                        seen.program(pid, listener);
                    }
                }
                Err(rustix::io::Errno::NOBUFS) => listener.explain_blocking("programs were started too fast to be told"),
                Err(_) => break,
            }
        }
    }
    let _ = send(socket, &wire::order(wire::Order::Ignore), SendFlags::empty());
}

fn sampled(listener: &Listener, seen: &mut Seen) {
    let pids = || -> HashSet<i32> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    };
    let mut known = pids();
    while !listener.gone() {
        std::thread::sleep(LOOK);
        let now = pids();
        now.difference(&known).for_each(|pid| seen.program(*pid, listener));
        seen.ours.retain(|pid| now.contains(pid));
        known = now;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_is_told_with_those_above_it() {
        let own = i32::try_from(std::process::id()).unwrap();
        let told = chain(own).unwrap();
        assert!(told.contains(&format!("[{own}]: ")) && told.contains('→'), "{told}");
        assert_eq!(chain(i32::MAX), None);
    }
}
